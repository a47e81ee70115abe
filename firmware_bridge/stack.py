"""The most stack an image can need, from what the compiler says of each function and its calls."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "-fcallgraph-info=su"  # of the compiler: writes an OBJECT.ci beside each object
INDIRECT = "__indirect_call"
PROGRAM = "image_reset"
INTERRUPTS = ("image_pend", "image_tick", "image_interrupt")  # each may interrupt those before it
UNKNOWN = 64  # bytes, of the compiler's own functions (divisions): fewer in fact

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_OWN = re.compile(r"(\d+) bytes \(([a-z,]+)\)")


class Unbounded(Exception):
    """Nobody can say how much: a function calls itself, or takes as much as it is told."""


@dataclass
class _Calls:
    """own: bytes of a function's frame; of: whom it calls."""

    own: dict[str, int] = field(default_factory=dict)
    of: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def read(self, path: Path) -> None:
        for line in path.read_text(encoding="utf-8").splitlines():
            if node := _NODE.match(line):
                if found := _OWN.search(node[2]):
                    if found[2] == "dynamic":
                        raise Unbounded(node[1])
                    self.own[node[1]] = max(self.own.get(node[1], 0), int(found[1]))
            elif edge := _EDGE.match(line):
                self.of[edge[1]].add(edge[2])

    def wrap(self, name: str) -> None:
        """As the linker does with --wrap: who calls `name` calls ours, which calls it."""
        for called in self.of.values():
            if name in called:
                called.remove(name)
                called.add(f"__wrap_{name}")
            if f"__real_{name}" in called:
                called.remove(f"__real_{name}")
                called.add(name)


def most_stack(graphs: Iterable[Path], symbols: set[str], wrapped: str, frame: int) -> int:
    """Bytes that an image can need at most, interrupts on top of each other included; 0: there is
    no bound (a function of a user's calls itself, say).

    graphs: the .ci files of all its objects. symbols: what the linker kept. wrapped: a function
    that --wrap names. frame: bytes the processor pushes for an interrupt. A call through a pointer
    may go to any function whose address is taken; one of those may make one more such call.
    """
    try:
        return _most(graphs, symbols, wrapped, frame)
    except Unbounded:
        return 0


def _most(graphs: Iterable[Path], symbols: set[str], wrapped: str, frame: int) -> int:
    calls = _Calls()
    for path in graphs:
        calls.read(path)
    calls.wrap(wrapped)
    kept = {name for name in calls.own if name.rpartition(":")[2] in symbols}
    direct = {target for source in kept for target in calls.of[source]}
    taken = kept - direct - {PROGRAM, *INTERRUPTS}
    leaf = _deepest(calls, taken, 0)
    behind = _deepest(calls, taken, leaf)
    depth = _Depth(calls, behind)
    return depth.of(PROGRAM) + sum(frame + depth.of(name) for name in INTERRUPTS if name in kept)


def _deepest(calls: _Calls, taken: set[str], behind: int) -> int:
    depth = _Depth(calls, behind)
    return max((depth.of(name) for name in taken), default=0)


class _Depth:
    """How deep the stack is below a function. behind: below a call through a pointer. Raises
    Unbounded."""

    def __init__(self, calls: _Calls, behind: int) -> None:
        self._calls, self._behind = calls, behind
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        if name == INDIRECT:
            return self._behind
        if name not in self._known:
            self._known[name] = -1
            own = self._calls.own.get(name, UNKNOWN)
            below = [self.of(called) for called in sorted(self._calls.of[name])]
            self._known[name] = own + max(below, default=0)
        if self._known[name] < 0:
            raise Unbounded(name)
        return self._known[name]
