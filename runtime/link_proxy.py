"""The cable for `seamline link-proxy`: joins pairs of byte ends (pseudo-terminals, serial ports,
sockets) by lines that may be paced and bad, or follow a trace. An end that listens takes many
connections: each gets a cable of its own.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import select
import signal
import socket
import threading
import time
import tty
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from .faults import FaultLine, Faults
from .link import LinkError, need_files
from .network_trace import Trace
from .shaped_line import WAYS, ShapedLine

_BUFFER = (
    65536  # bytes under way in one direction; a real line has less, and drops what is too much
)
_CHUNK = 4096
_CONNECT_S = 60.0
_BACKLOG = 1024
_TICK_MS = 2  # how late the bytes of a paced line may be
_STOP_POLL_MS = 100  # how often `stop` is looked at when it is not a signal
_TRAFFIC_US = 500_000  # how often it is told what lines with a trace carried


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
    stream: bool = False  # a socket: what it does not take now waits at the other end, none is lost
    gone: bool = False  # it takes no more
    finish: Callable[[], object] | None = None  # tells a stream that no more comes


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


def host_and_port(address: str, least: int = 1) -> tuple[str, int]:
    """Of SCHEME://HOST:PORT, the port from `least`. Raises LinkError (exit code 2)."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or not least <= int(port) < 65536:
        raise LinkError(f"{address!r}: expected {scheme}://HOST:PORT", 2)
    return host.strip("[]"), int(port)


def _socket_plug(address: str, *, wait: bool = True) -> _Plug:
    """A connection to socket://HOST:PORT or unix:PATH. Without `wait` it may still be on its way:
    if nobody is there, it hangs up.
    """
    try:
        if address.startswith("unix:"):
            peer = socket.socket(socket.AF_UNIX)
            where: Any = address.removeprefix("unix:")
        else:
            found = socket.getaddrinfo(*host_and_port(address), type=socket.SOCK_STREAM)
            family, kind, number, _, where = found[0]
            peer = socket.socket(family, kind, number)
        peer.settimeout(_CONNECT_S if wait else 0.0)
        try:
            peer.connect(where)
        except BlockingIOError:
            pass
        except OSError:
            peer.close()
            raise
    except OSError as error:
        raise LinkError(
            f"cannot open {address}: {error.strerror or error}; is the other program there?"
        ) from error
    return _stream_plug(address, peer)


def _stream_plug(address: str, peer: socket.socket) -> _Plug:
    if peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setblocking(False)

    def finish() -> None:
        with contextlib.suppress(OSError):  # it has gone meanwhile
            peer.shutdown(socket.SHUT_WR)

    return _Plug(address, peer.fileno(), close=peer.close, stream=True, finish=finish)


def _serial_plug(address: str) -> _Plug:
    from .serial_link import open_port

    port = open_port(address)
    return _Plug(address, port.fd, close=port.close)


@dataclass
class _End:
    """Where one side of cables comes from: a door whose callers wait in `plugs`, an address that is
    dialled anew for each caller of the other side, or the one plug of a terminal or port, which
    lies in `plugs` while no cable has it.
    """

    address: str
    door: socket.socket | None = None
    dials: bool = False
    plugs: deque[_Plug] = field(default_factory=deque)

    @property
    def ready(self) -> bool:
        return self.dials or bool(self.plugs)

    def take(self) -> _Plug:
        return _socket_plug(self.address, wait=False) if self.dials else self.plugs.popleft()

    def accept(self) -> None:
        """All callers. Raises LinkError: no more files may be open."""
        assert self.door is not None
        try:
            while True:
                self.plugs.append(_stream_plug(self.address, self.door.accept()[0]))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise LinkError(
                    f"{self.address} cannot take another connection: {error.strerror}; raise the "
                    "limit of open files (`ulimit -n`)"
                ) from error

    def close(self) -> None:
        if self.door is not None:
            self.door.close()
        while self.plugs:
            _unplug(self.plugs.popleft())


def _open_end(address: str) -> _End:
    """Raises LinkError: it cannot be opened. A door of port 0 is given a free one."""
    if address.startswith("listen:"):
        where = host_and_port(address, least=0)
        try:
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            door = socket.create_server(where, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise LinkError(
                f"cannot listen on {address}: {error.strerror or error}; choose a free port of an "
                "address of this machine"
            ) from error
        door.setblocking(False)
        port = door.getsockname()[1]
        return _End(f"{address.rpartition(':')[0]}:{port}", door)
    if address.startswith(("socket:", "unix:")):
        if address.startswith("socket:"):
            host_and_port(address)
        return _End(address, dials=True)
    plug = _serial_plug(address) if address.startswith("serial:") else _plug(address)
    return _End(address, plugs=deque([plug]))


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
    ended: bool = False  # the source says no more
    closed: bool = False  # and the target has had it all

    def room(self, now_us: int) -> int:
        """Bytes to take from the source now. A target that is a stream keeps them waiting there."""
        if self.ended or self._full:
            return 0
        return _CHUNK if self.line.faults.fifo else min(self.line.room(now_us), _CHUNK)

    @property
    def _full(self) -> bool:
        return self.target.stream and len(self.target.waiting) >= _BUFFER

    def take(self, now_us: int) -> None:
        """What the source has to say, as far as the line has room."""
        room = self.room(now_us)
        if room == 0:
            return
        try:
            data = os.read(self.source.master, room)
        except BlockingIOError:
            return
        except OSError:  # reset, or nobody was there
            data, self.source.gone = b"", True
        self.ended = not data
        self.line.push(data, now_us)
        self.give(now_us)

    def give(self, now_us: int) -> None:
        """What has arrived by now goes to the target; what it has no room for is lost, but for a
        stream, which gets it later.
        """
        if self._full:
            return _deliver(self.target)
        data = self.line.pop(now_us)
        room = len(data) if self.target.stream else _BUFFER - len(self.target.waiting)
        self.target.waiting += data[:room]
        self.target.dropped += max(0, len(data) - room)
        return _deliver(self.target)

    def due(self) -> int | None:
        """When there is something to give."""
        return None if self._full else self.line.due()

    def close(self) -> None:
        """Once the source has ended and the target has all it said: says so there."""
        if self.ended and not self.closed and self.line.due() is None and not self.target.waiting:
            self.closed = True
            if self.target.finish is not None:
                self.target.finish()


def _deliver(plug: _Plug) -> None:
    try:
        while plug.waiting and not plug.gone:
            del plug.waiting[: os.write(plug.master, plug.waiting[:_CHUNK])]
    except BlockingIOError:
        return
    except OSError:
        plug.gone = True


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


@dataclass
class Carried:
    """What one direction of a line with a trace has carried, over all its connections."""

    left: list[int]  # bytes in each step of the trace
    bytes: int = 0  # that have arrived
    busy_s: float = 0.0  # with bytes under way: rate, delay and stalls are all in it
    stalls: int = 0

    def add(self, line: ShapedLine, now_us: int) -> None:
        self.left = [a + b for a, b in zip(self.left, line.left, strict=True)]
        self.bytes += line.counters.bytes_out
        self.busy_s = round(self.busy_s + line.busy_until(now_us) / 1e6, 6)
        self.stalls += line.counters.stalls


@dataclass
class _Cable:
    """A plug of each side and the two ways between them. pair: number of the two ends."""

    pair: int
    plugs: tuple[_Plug, _Plug]
    ways: tuple[_Way, _Way]

    @property
    def over(self) -> bool:
        """A stream may end one way only; a terminal or port never ends by itself. What an end said
        before it was gone still comes.
        """
        if any(way.source.gone and (way.closed or way.target.gone) for way in self.ways):
            return True
        closed = [way.closed for way in self.ways]
        return all(closed) if all(plug.stream for plug in self.plugs) else any(closed)


class _Switchboard:
    """All cables, and the ends that new ones come from."""

    def __init__(
        self,
        pairs: list[tuple[_End, _End]],
        faults: Faults,
        seed: int,
        cuts: Sequence[float],
        traces: Sequence[Trace | None],
    ) -> None:
        self.pairs, self._traces = pairs, traces
        self.over = False  # a cable that nobody can call again has ended
        self.now_us = self._tell_at = 0  # since `run` began: the time of the traces
        self.connections = [0] * len(pairs)
        self._faults, self._seed = faults, seed
        self._cuts = deque(round(1e6 * cut) for cut in sorted(cuts))
        self._cables: dict[int, _Cable] = {}  # by its first plug's descriptor
        self._ways: dict[int, _Way] = {}  # by their source's
        self._masks: dict[int, int] = {}
        self._doors = {
            end.door.fileno(): (number, end)
            for number, pair in enumerate(pairs)
            for end in pair
            if end.door is not None
        }
        self._counts: list[Counter[str]] = [Counter() for _ in range(2 * len(pairs))]
        self._carried = [
            {way: Carried([0] * len(trace.steps)) for way in WAYS.values()} if trace else None
            for trace in traces
        ]  # by connections that have ended
        self._poller = select.poll()
        for fd in self._doors:
            self._poller.register(fd, select.POLLIN)

    # ---- cables come and go ----

    def begin(self) -> None:
        """The cables that wait for no caller. Raises LinkError: a socket cannot be opened."""
        for number, (a, b) in enumerate(self.pairs):
            if a.door is not None or b.door is not None:
                continue
            plugs: list[_Plug] = []
            try:
                for end in (a, b):
                    plugs.append(_socket_plug(end.address) if end.dials else end.take())
            except LinkError:
                for end, plug in zip((a, b), plugs, strict=False):
                    self._give_back(end, plug)
                raise
            self._join(number, (plugs[0], plugs[1]))

    def _call(self, pair: int) -> None:
        """Cables for all callers that have an end to be joined to; others wait."""
        a, b = self.pairs[pair]
        while a.ready and b.ready:
            if not any(end.plugs for end in (a, b) if end.door is not None):
                return
            first, second = (a, b) if not a.dials else (b, a)
            plug = first.take()
            try:
                other = second.take()
            except LinkError:  # a target that is not there hangs up
                self._give_back(first, plug)
                continue
            self._join(pair, (plug, other) if first is a else (other, plug))

    def _join(self, pair: int, plugs: tuple[_Plug, _Plug]) -> None:
        seed = self._seed + pair + len(self.pairs) * self.connections[pair]
        self.connections[pair] += 1
        a, b = plugs
        ways = (
            _Way(a, b, self._line(pair, seed, "b")),
            _Way(b, a, self._line(pair, seed, "a")),
        )
        self._cables[a.master] = _Cable(pair, plugs, ways)
        for way in ways:
            self._ways[way.source.master] = way
            self._poller.register(way.source.master, 0)
            self._masks[way.source.master] = 0

    def _line(self, pair: int, seed: int, to: str) -> FaultLine:
        trace = self._traces[pair]
        if trace is None:
            return FaultLine(self._faults, seed, to)
        return ShapedLine(trace, self._faults, seed, to)

    def _part(self, cable: _Cable) -> None:
        """Ends a cable; a terminal or port of it is free again, sockets hang up."""
        del self._cables[cable.plugs[0].master]
        for number, (end, plug, way) in enumerate(
            zip(self.pairs[cable.pair], cable.plugs, cable.ways, strict=True)
        ):
            self._forget(plug.master)
            del self._ways[plug.master]
            self._count(2 * cable.pair + number, way)
            self._give_back(end, plug)
        self._call(cable.pair)

    def _give_back(self, end: _End, plug: _Plug) -> None:
        if plug.stream:
            _unplug(plug)
        else:
            end.plugs.append(plug)

    def _forget(self, fd: int) -> None:
        if self._masks.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def _can_be_called(self, cable: _Cable) -> bool:
        return any(end.door is not None for end in self.pairs[cable.pair])

    # ---- bytes ----

    def run(
        self,
        wake: int,
        seen: list[int],
        stop: Stop | None,
        tell: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        """tell: what lines with a trace carried, now and then."""
        start = time.monotonic_ns()
        self._poller.register(wake, select.POLLIN)
        while not seen and not (stop is not None and stop.is_set()) and not self.over:
            self.now_us = (time.monotonic_ns() - start) // 1000
            if tell is not None and self.now_us >= self._tell_at:
                self._tell_at = self.now_us + _TRAFFIC_US
                tell({"event": "traffic", **self.traffic()})
            wait = self._prepare(self.now_us)
            if stop is not None:
                wait = min(_STOP_POLL_MS, wait) if wait is not None else _STOP_POLL_MS
            found = self._poller.poll(wait)
            self._carry(found, (time.monotonic_ns() - start) // 1000)

    def _prepare(self, now_us: int) -> float | None:
        """Ask for what can be used now; the milliseconds until something happens by itself."""
        dues = [self._cuts[0]] if self._cuts else []
        if any(self._traces):
            dues.append(max(now_us, self._tell_at))
        for fd, way in self._ways.items():
            room = way.room(now_us)
            if room and not way.ended and fd not in self._masks:  # it rang while there was none
                self._poller.register(fd, 0)
                self._masks[fd] = 0
            mask = (select.POLLIN if room else 0) | (select.POLLOUT if way.source.waiting else 0)
            if self._masks.get(fd, mask) != mask:
                self._poller.modify(fd, mask)
                self._masks[fd] = mask
            due = way.due()
            if due is not None:
                dues.append(due)
            if not room and not way.ended:
                dues.append(now_us + 1000 * _TICK_MS)
        return max(0.0, (min(dues) - now_us) / 1000) + 1 if dues else None

    def _carry(self, found: list[tuple[int, int]], now_us: int) -> None:
        called = [self._doors[fd] for fd, _ in found if fd in self._doors]
        for fd, event in found:
            way = self._ways.get(fd)
            if way is None:
                continue
            if event & select.POLLOUT:
                _deliver(way.source)
            if event & ~select.POLLOUT:
                room = way.room(now_us)
                way.take(now_us)
                if event & (select.POLLHUP | select.POLLERR) and (way.ended or not room):
                    self._forget(fd)  # both its ways are closed: it would ring without end
        for way in self._ways.values():
            way.give(now_us)
            way.close()
        for cable in [c for c in self._cables.values() if c.over]:
            self.over |= not self._can_be_called(cable)
            self._part(cable)
        if self._cuts and now_us >= self._cuts[0]:
            self._cuts.popleft()
            for cable in [c for c in self._cables.values() if self._can_be_called(c)]:
                self._part(cable)
        for pair, end in called:
            end.accept()
            self._call(pair)

    # ---- figures ----

    def _count(self, number: int, way: _Way) -> None:
        self._counts[number].update({**way.line.counters.as_dict(), "not_read": way.target.dropped})
        way.target.dropped = 0
        carried = self._carried[number // 2]
        if carried is not None and isinstance(way.line, ShapedLine):
            carried[WAYS["ba"[number % 2]]].add(way.line, self.now_us)

    def traffic(self) -> dict[str, Any]:
        """What lines with a trace have carried so far: of each pair, None for one without."""
        found = copy.deepcopy(self._carried)
        for cable in self._cables.values():
            for way, to in zip(cable.ways, "ba", strict=True):
                carried = found[cable.pair]
                if carried is not None and isinstance(way.line, ShapedLine):
                    carried[WAYS[to]].add(way.line, self.now_us)
        lines = [{to: asdict(one) for to, one in pair.items()} if pair else None for pair in found]
        return {"seconds": round(self.now_us / 1e6, 3), "lines": lines}

    def counters(self) -> list[dict[str, int | str]]:
        """Of each pair and direction, over all its connections; ends all cables."""
        self.over = True
        for pair in self.pairs:
            for end in pair:
                if end.door is not None:
                    end.close()  # nobody is joined any more
        for cable in list(self._cables.values()):
            self._part(cable)
        names = [[a.address, b.address] for a, b in self.pairs]
        lines = [f"{x} -> {y}" for a, b in names for x, y in ((a, b), (b, a))]
        empty = {**FaultLine(Faults()).counters.as_dict(), "not_read": 0}
        return [
            {"line": line, "connections": self.connections[i // 2], **empty, **self._counts[i]}
            for i, line in enumerate(lines)
        ]


def run_link_proxy(
    pairs: list[tuple[str, str]],
    emit: Callable[[dict[str, Any]], None] | None = None,
    stop: Stop | None = None,
    *,
    faults: Faults | None = None,
    seed: int = 0,
    cuts: Sequence[float] = (),
    traces: Sequence[Trace | None] = (),
) -> int:
    """Make each pair of paths the two ends of a cable, and carry bytes until SIGTERM, SIGINT or
    `stop`.

    The paths are links to pseudo-terminals in raw mode, removed at the end. emit is told `{"event":
    "listening", "lines": [..]}` when all of them are there. Bytes for a terminal nobody reads wait
    (64 KiB), then are dropped, as on a real line; a socket holds up the sender.

    An end may also be socket://HOST:PORT, unix:PATH or serial:PATH:BAUD (a port that is there); the
    cable ends when one of these hangs up. listen://HOST:PORT (0: a free port, told by the event)
    takes any number of callers: each gets a connection of its own to the other end; where that is a
    terminal or port, one after the other. faults: of every line, both ways, drawn by the seed and
    the number of the connection. cuts: seconds after the start at which all callers are hung up on.
    traces: what each pair follows from the start on (none given: no pair does); the first end of
    a pair is the device's, and emit is told `{"event": "traffic", ..}` twice a second.
    Returns 0. Raises LinkError: a path that is taken or in no folder, a socket that cannot be
    opened.
    """
    need_files(0, "link-proxy")
    with contextlib.ExitStack() as stack:
        wake, seen = stack.enter_context(_signals())
        ends: list[tuple[_End, _End]] = []
        for pair in pairs:
            opened = []
            for path in pair:
                opened.append(_open_end(path))
                stack.callback(opened[-1].close)
            ends.append((opened[0], opened[1]))
        traces = traces or [None] * len(pairs)
        board = _Switchboard(ends, faults or Faults(), seed, cuts, traces)
        stack.callback(board.counters)  # the cables give back what `ends` close
        board.begin()
        if emit is not None:
            emit({"event": "listening", "lines": [[a.address, b.address] for a, b in ends]})
        shaped = any(traces)
        board.run(wake, seen, stop, emit if shaped else None)
        lines = board.counters()
        if emit is not None:
            dropped = sum(int(line["not_read"]) for line in lines)
            carried = {"traffic": board.traffic()} if shaped else {}
            emit({"event": "done", "dropped": dropped, "counters": lines, **carried})
    return 0
