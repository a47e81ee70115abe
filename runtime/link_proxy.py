"""The cable for `seamline link-proxy`: joins pairs of pseudo-terminals that stand in for serial
lines.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .link import LinkError

_BUFFER = (
    65536  # bytes under way in one direction; a real line has less, and drops what is too much
)
_CHUNK = 4096
_STOP_POLL_MS = 100  # how often `stop` is looked at when it is not a signal


class Stop(Protocol):
    """For example a threading.Event."""

    def is_set(self) -> bool: ...


@dataclass
class _Plug:
    """One end of a cable: a pseudo-terminal under a stable name.

    The slave stays open here, so that a program closing it hangs nobody up.
    """

    path: str
    master: int
    slave: int
    waiting: bytearray = field(
        default_factory=bytearray
    )  # bytes on their way to the program at this end
    dropped: int = 0


def _plug(path: str) -> _Plug:
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        os.set_blocking(master, False)
        if os.path.islink(path):  # left behind by a cable that was killed
            os.unlink(path)
        os.symlink(os.ttyname(slave), path)
    except OSError as error:
        os.close(master)
        os.close(slave)
        raise LinkError(
            f"cannot make the line {path}: {error.strerror}; "
            "choose a path that is free, in a folder that exists"
        ) from error
    return _Plug(path, master, slave)


def _unplug(plug: _Plug) -> None:
    with contextlib.suppress(OSError):  # somebody may have removed or replaced it
        if os.readlink(plug.path) == os.ttyname(plug.slave):
            os.unlink(plug.path)
    os.close(plug.master)
    os.close(plug.slave)


def _carry(source: _Plug, target: _Plug) -> None:
    """Bytes from one end to the other. The place for faults and pacing: all bytes of a direction
    pass here.
    """
    try:
        data = os.read(source.master, _CHUNK)
    except BlockingIOError:
        return
    room = _BUFFER - len(target.waiting)
    target.waiting += data[:room]
    target.dropped += max(0, len(data) - room)
    _deliver(target)


def _deliver(plug: _Plug) -> None:
    with contextlib.suppress(BlockingIOError):
        while plug.waiting:
            del plug.waiting[: os.write(plug.master, plug.waiting[:_CHUNK])]


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that wakes the loop at SIGTERM and SIGINT, and the list that holds them."""
    seen: list[int] = []
    read, write = os.pipe()
    os.set_blocking(write, False)
    if threading.current_thread() is not threading.main_thread():
        yield read, seen
    else:
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(kind, lambda number, _: seen.append(number)) for kind in kinds]
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield read, seen
        finally:
            signal.set_wakeup_fd(wakeup)
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)
    os.close(read)
    os.close(write)


def _loop(pairs: list[tuple[_Plug, _Plug]], wake: int, seen: list[int], stop: Stop | None) -> None:
    other = {a.master: (a, b) for pair in pairs for a, b in (pair, pair[::-1])}
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    for fd in other:
        poller.register(fd, select.POLLIN)
    full: set[int] = set()  # ends whose program does not read for the moment
    while not seen and not (stop is not None and stop.is_set()):
        for fd, event in poller.poll(None if stop is None else _STOP_POLL_MS):
            if fd == wake:
                continue
            here, there = other[fd]
            if event & select.POLLOUT:
                _deliver(here)
            if event & select.POLLIN:
                _carry(here, there)
            for plug in (here, there):
                if bool(plug.waiting) != (plug.master in full):
                    full ^= {plug.master}
                    mask = select.POLLIN | (select.POLLOUT if plug.waiting else 0)
                    poller.modify(plug.master, mask)


def run_link_proxy(
    pairs: list[tuple[str, str]],
    emit: Callable[[dict[str, Any]], None] | None = None,
    stop: Stop | None = None,
) -> int:
    """Make each pair of paths the two ends of a cable, and carry bytes until SIGTERM, SIGINT or
    `stop`.

    The paths are links to pseudo-terminals in raw mode, removed at the end. emit is told `{"event":
    "listening", "lines": [..]}` when all of them are there. Bytes for an end nobody reads wait (64
    KiB), then are dropped, as on a real line. Returns 0. Raises LinkError: a path that is taken or
    in no folder.
    """
    made: list[tuple[_Plug, _Plug]] = []
    with contextlib.ExitStack() as stack:
        wake, seen = stack.enter_context(_signals())
        for pair in pairs:
            ends = []
            for path in pair:
                plug = _plug(path)
                stack.callback(_unplug, plug)
                ends.append(plug)
            made.append((ends[0], ends[1]))
        if emit is not None:
            emit({"event": "listening", "lines": [list(pair) for pair in pairs]})
        _loop(made, wake, seen, stop)
        if emit is not None:
            dropped = sum(plug.dropped for pair in made for plug in pair)
            emit({"event": "done", "dropped": dropped})
    return 0
