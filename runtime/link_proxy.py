"""The cable for `seamline link-proxy`: joins pairs of byte ends (pseudo-terminals, serial ports,
sockets) by lines that may be paced and bad.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .faults import FaultLine, Faults
from .link import LinkError

_BUFFER = (
    65536  # bytes under way in one direction; a real line has less, and drops what is too much
)
_CHUNK = 4096
_ACCEPT_S = 60.0
_TICK_MS = 2  # how late the bytes of a paced line may be
_STOP_POLL_MS = 100  # how often `stop` is looked at when it is not a signal


class Stop(Protocol):
    """For example a threading.Event."""

    def is_set(self) -> bool: ...


@dataclass
class _Plug:
    """One end of a cable: a pseudo-terminal under a stable name, or a socket (then there is no
    slave, and master is the connection).

    The slave stays open here, so that a program closing it hangs nobody up.
    """

    path: str
    master: int
    slave: int = -1
    waiting: bytearray = field(
        default_factory=bytearray
    )  # bytes on their way to the program at this end
    dropped: int = 0
    close: Callable[[], object] | None = None  # of a port or socket


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


def _socket_plug(address: str) -> _Plug:
    """listen://HOST:PORT waits for one connection, socket://HOST:PORT and unix:PATH make one."""
    scheme, _, rest = address.partition(":")
    host, _, port = rest.removeprefix("//").rpartition(":")
    try:
        if scheme == "unix":
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(rest)
        elif not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise LinkError(f"{address!r}: expected {scheme}://HOST:PORT", 2)
        elif scheme == "listen":
            with socket.create_server((host.strip("[]"), int(port))) as door:
                door.settimeout(_ACCEPT_S)
                peer, _ = door.accept()
        else:
            peer = socket.create_connection((host.strip("[]"), int(port)), timeout=_ACCEPT_S)
    except OSError as error:
        raise LinkError(
            f"cannot open {address}: {error.strerror or error}; is the other program there?"
        ) from error
    if scheme != "unix":
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setblocking(False)
    return _Plug(address, peer.fileno(), close=peer.close)


def _serial_plug(address: str) -> _Plug:
    from .serial_link import open_port

    port = open_port(address)
    return _Plug(address, port.fd, close=port.close)


def _open_end(address: str) -> _Plug:
    if address.startswith(("listen:", "socket:", "unix:")):
        return _socket_plug(address)
    if address.startswith("serial:"):
        return _serial_plug(address)
    return _plug(address)


def _unplug(plug: _Plug) -> None:
    if plug.close is not None:
        plug.close()
        return
    with contextlib.suppress(OSError):  # somebody may have removed or replaced it
        if os.readlink(plug.path) == os.ttyname(plug.slave):
            os.unlink(plug.path)
    os.close(plug.master)
    os.close(plug.slave)


@dataclass
class _Way:
    """One direction: from the source through a line to the target."""

    source: _Plug
    target: _Plug
    line: FaultLine

    def take(self, now_us: int) -> bool:
        """What the source has to say, as far as the line has room. False: it has hung up."""
        room = min(self.line.room(now_us), _CHUNK) if not self.line.faults.fifo else _CHUNK
        if room == 0:
            return True
        try:
            data = os.read(self.source.master, room)
        except BlockingIOError:
            return True
        self.line.push(data, now_us)
        self.give(now_us)
        return bool(data)

    def give(self, now_us: int) -> None:
        """What has arrived by now goes to the target; what it has no room for is lost."""
        data = self.line.pop(now_us)
        room = _BUFFER - len(self.target.waiting)
        self.target.waiting += data[:room]
        self.target.dropped += max(0, len(data) - room)
        _deliver(self.target)

    def counters(self) -> dict[str, int | str]:
        found: dict[str, int | str] = {"line": f"{self.source.path} -> {self.target.path}"}
        found.update(self.line.counters.as_dict())
        found["not_read"] = self.target.dropped
        return found


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


def _masks(poller: select.poll, ways: dict[int, _Way], now_us: int) -> float | None:
    """Ask for what can be used now; the milliseconds until a line has something by itself."""
    dues = []
    for fd, way in ways.items():
        room = way.line.faults.fifo or way.line.room(now_us)
        mask = (select.POLLIN if room else 0) | (select.POLLOUT if way.source.waiting else 0)
        poller.modify(fd, mask)
        due = way.line.due()
        if due is not None:
            dues.append(due)
        if not room:
            dues.append(now_us + 1000 * _TICK_MS)
    return max(0.0, (min(dues) - now_us) / 1000) + 1 if dues else None


def _loop(ways: dict[int, _Way], wake: int, seen: list[int], stop: Stop | None) -> None:
    start = time.monotonic_ns()
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    for fd in ways:
        poller.register(fd, select.POLLIN)
    while not seen and not (stop is not None and stop.is_set()):
        wait = _masks(poller, ways, (time.monotonic_ns() - start) // 1000)
        if stop is not None:
            wait = min(_STOP_POLL_MS, wait) if wait is not None else _STOP_POLL_MS
        found = poller.poll(wait)
        now_us = (time.monotonic_ns() - start) // 1000
        for fd, event in found:
            if fd == wake:
                continue
            if event & select.POLLOUT:
                _deliver(ways[fd].source)
            if event & (select.POLLIN | select.POLLHUP) and not ways[fd].take(now_us):
                return  # a socket was closed: the cable is cut
        for way in ways.values():
            way.give(now_us)


def run_link_proxy(
    pairs: list[tuple[str, str]],
    emit: Callable[[dict[str, Any]], None] | None = None,
    stop: Stop | None = None,
    *,
    faults: Faults | None = None,
    seed: int = 0,
) -> int:
    """Make each pair of paths the two ends of a cable, and carry bytes until SIGTERM, SIGINT or
    `stop`.

    The paths are links to pseudo-terminals in raw mode, removed at the end. emit is told `{"event":
    "listening", "lines": [..]}` when all of them are there. Bytes for an end nobody reads wait (64
    KiB), then are dropped, as on a real line. An end may also be listen://HOST:PORT,
    socket://HOST:PORT, unix:PATH or serial:PATH:BAUD (a port that is there); the cable ends when
    one of these hangs up. faults: of every line, both ways, drawn by the seed. Returns 0.
    Raises LinkError: a path that is taken or in no folder, a socket that cannot be opened.
    """
    made: list[tuple[_Plug, _Plug]] = []
    with contextlib.ExitStack() as stack:
        wake, seen = stack.enter_context(_signals())
        for pair in pairs:
            ends = []
            for path in pair:
                plug = _open_end(path)
                stack.callback(_unplug, plug)
                ends.append(plug)
            made.append((ends[0], ends[1]))
        if emit is not None:
            emit({"event": "listening", "lines": [list(pair) for pair in pairs]})
        ways = {}
        for number, (a, b) in enumerate(made):
            for source, target, to in ((a, b, "b"), (b, a, "a")):
                line = FaultLine(faults or Faults(), seed + number, to)
                ways[source.master] = _Way(source, target, line)
        _loop(ways, wake, seen, stop)
        if emit is not None:
            dropped = sum(plug.dropped for pair in made for plug in pair)
            lines = [way.counters() for way in ways.values()]
            emit({"event": "done", "dropped": dropped, "counters": lines})
    return 0
