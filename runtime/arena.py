"""Where arrays go in an arena: each has a size and a life, and no two that live at once overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

ALIGNMENT = 16
EXACT_MAX = 30  # buffers that are tried in every order
NODES = 6000  # steps of that search

Offsets = list[int]


def round16(size: int) -> int:
    """The next multiple of the alignment of every array in an arena."""
    return (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


@dataclass(eq=False)
class Buffer:
    """An array in the arena: bytes, and the spans of moments in which it must keep its values."""

    size: int
    spans: list[tuple[int, int]]  # first and last moment
    offset: int = 0

    def lives(self, moment: int) -> bool:
        """Does it hold something then?"""
        return any(first <= moment <= last for first, last in self.spans)

    def meets(self, other: Buffer) -> bool:
        """Do both live at some moment?"""
        return any(a <= d and c <= b for a, b in self.spans for c, d in other.spans)

    @property
    def start(self) -> int:
        return min(first for first, _ in self.spans)

    @property
    def end(self) -> int:
        return max(last for _, last in self.spans)


def bound(buffers: Sequence[Buffer], base: int, scratch: Sequence[Buffer] = ()) -> int:
    """No arena that starts at `base` can end lower: what lives at the worst moment, side by side.

    scratch: buffers that lie at `base` itself, of lives that do not meet.
    """
    changes: dict[int, int] = {}  # of the bytes that are alive, by moment
    for buffer in (*buffers, *scratch):
        for first, last in _union(buffer.spans):
            changes[first] = changes.get(first, 0) + buffer.size
            changes[last + 1] = changes.get(last + 1, 0) - buffer.size
    return base + max(accumulate(changes[t] for t in sorted(changes)), default=0)


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same moments in spans that lie apart."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _starts(buffers: Iterable[Buffer]) -> list[int]:
    """The moments at which something begins to live: no moment between them is worse."""
    return sorted({first for b in buffers for first, _ in b.spans})


def place(buffers: Sequence[Buffer], base: int, scratch: Sequence[Buffer] = ()) -> int:
    """Gives each buffer an offset from `base` on; returns the arena's end. Deterministic.

    Best fit in several orders (the gap in front of the first array counts as one, as in
    arXiv:2001.03288); if that leaves the bound unreached and there are few buffers, a search with
    a limited number of steps. scratch: see `bound`; what meets it lies behind it.
    """
    for part in scratch:
        part.offset = base
    floors = [max((s.size for s in scratch if s.meets(b)), default=0) for b in buffers]
    problem = _Problem(buffers, floors)
    least = bound(buffers, base, scratch) - base
    best: Offsets = []
    height = -1
    for order in _ORDERS:
        ranked = sorted(range(len(buffers)), key=lambda i: order(buffers[i]))
        for tight in (False, True):
            offsets = problem.fit(ranked, tight=tight)
            if height < 0 or problem.height(offsets) < height:
                best, height = offsets, problem.height(offsets)
    if height > least and len(buffers) <= EXACT_MAX:
        best = _Search(problem, best, height, least).run()
    for buffer, offset in zip(buffers, best, strict=True):
        buffer.offset = base + offset
    used = [*buffers, *scratch]
    return max((b.offset + b.size for b in used), default=base)


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.size, b.start),
    lambda b: (-b.size, -b.end),
    lambda b: (-b.size * (b.end - b.start + 1), b.start),
    lambda b: (b.start - b.end, -b.size, b.start),
    lambda b: (b.start, -b.size, b.end),
    lambda b: (-b.end, -b.size, b.start),
)


class _Problem:
    """Sizes, who meets whom, and the lowest place each may take."""

    def __init__(self, buffers: Sequence[Buffer], floors: Sequence[int]) -> None:
        self.sizes = [b.size for b in buffers]
        self.floors = floors
        self.meets = [
            [k for k, other in enumerate(buffers) if other is not b and b.meets(other)]
            for b in buffers
        ]
        self.alive = [[i for i, b in enumerate(buffers) if b.lives(t)] for t in _starts(buffers)]

    def height(self, offsets: Offsets) -> int:
        return max((o + s for o, s in zip(offsets, self.sizes, strict=True)), default=0)

    def fit(self, order: Iterable[int], *, tight: bool) -> Offsets:
        """Each into a gap of those it meets: the first it fits, or the tightest."""
        offsets = [-1] * len(self.sizes)
        for i in order:
            taken = [
                (offsets[k], offsets[k] + self.sizes[k]) for k in self.meets[i] if offsets[k] >= 0
            ]
            offsets[i] = _gap(sorted(taken), self.floors[i], self.sizes[i], tight=tight)
        return offsets


def _gap(taken: Sequence[tuple[int, int]], floor: int, size: int, *, tight: bool) -> int:
    """Where `size` bytes go from `floor` on between the ranges taken, in order of their starts."""
    tops = list(accumulate((end for _, end in taken), max, initial=floor))
    gaps = [
        (start - top, top)
        for top, (start, _) in zip(tops, taken, strict=False)
        if start - top >= size
    ]
    if not gaps:
        return tops[-1]
    return min(gaps)[1] if tight else gaps[0][1]


class _Search:
    """Branch and bound: buffers in ascending order of offset, each as low as those before it allow.

    Every packing can be pushed down into such an order, so with steps enough the best is found.
    """

    def __init__(self, problem: _Problem, best: Offsets, height: int, least: int) -> None:
        self.p, self.best, self.height, self.least = problem, best, height, least
        self.nodes = NODES
        self.offsets = [-1] * len(problem.sizes)
        self.low = list(problem.floors)  # where each could lie now

    def run(self) -> Offsets:
        """The best offsets found, those given if there are none better."""
        self._step(0, len(self.offsets))
        return self.best

    def _step(self, level: int, left: int) -> None:
        """Places one more buffer, at `level` or above."""
        if left == 0:
            self.best, self.height = list(self.offsets), self.p.height(self.offsets)
            return
        self.nodes -= 1
        if self.nodes < 0 or self.height == self.least or self._hopeless(level):
            return
        for i in self._candidates(level):
            undo = [(k, self.low[k]) for k in self.p.meets[i]]
            at = self.offsets[i] = max(self.low[i], level)
            for k in self.p.meets[i]:
                self.low[k] = max(self.low[k], at + self.p.sizes[i])
            self._step(at, left - 1)
            self.offsets[i] = -1
            for k, low in undo:
                self.low[k] = low

    def _hopeless(self, level: int) -> bool:
        """Can what is left at some moment no longer lie below the best height?"""
        for alive in self.p.alive:
            left = [i for i in alive if self.offsets[i] < 0]
            if left:
                lowest = max(level, min(self.low[i] for i in left))
                if lowest + sum(self.p.sizes[i] for i in left) >= self.height:
                    return True
        return False

    def _candidates(self, level: int) -> list[int]:
        """What may come next, lowest and largest first; not what would leave room below itself
        for another: that one comes first.
        """
        left = [i for i, offset in enumerate(self.offsets) if offset < 0]
        at = {i: max(self.low[i], level) for i in left}
        roof = min(at[i] + self.p.sizes[i] for i in left)
        return sorted((i for i in left if at[i] < roof), key=lambda i: (at[i], -self.p.sizes[i], i))
