"""`seamline relay`: carries the bytes of a serial device to its edge host over a network. It has no
keys and reads nothing: frames are sealed, or not, from end to end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .link import LinkError
from .link_proxy import Stop, host_and_port
from .serial_link import open_at, open_port, parse_address, serial_place

BUFFER = 16384  # bytes on their way to one side; what a stream brings beyond it waits there
STALE_S = 2.0  # a side that takes nothing for so long: what waits for it has been sent again
WAIT_S = (0.1, 5.0)  # between two tries to reach a side that is not there, doubling
SILENT_S = 10  # a network that acknowledges nothing for so long is gone
_CONNECT_S = 5.0
_POLL_S = 0.1  # how often `stop` is looked at
_READ = 4096
LISTEN = "listen:"

Emit = Callable[[dict[str, Any]], None]


class _Side:
    """One end: a serial port or a peer that is reached again and again, or a door whose newest
    caller is the peer (the one before may be gone without our knowing).

    Raises LinkError: an address that cannot be, a port or a door that is not to be had.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.fd = -1  # of the peer; -1: it is not there
        self.waiting = bytearray()  # for the peer
        self.counts = dict.fromkeys(("opened", "tries", "received", "sent", "dropped"), 0)
        self.trouble = ""  # why the last try failed
        self._heard = False  # since it was opened
        self._moved = self._due = time.monotonic()
        self._wait = WAIT_S[0]
        self._close: Callable[[], object] | None = None

    def open(self) -> None:
        """What can be said to be wrong at the start."""

    def reach(self, now: float) -> None:
        """Tries to have a peer, where one is missing and the time has come."""
        if self.fd >= 0 or now < self._due:
            return
        self.counts["tries"] += 1
        try:
            self._take(*self._reach())
        except OSError as error:  # serial.SerialException is one
            self.trouble = error.strerror or str(error)
            self._later(now)

    def _reach(self) -> tuple[int, Callable[[], object]]:
        """A descriptor that does not block, and what closes it. Raises OSError."""
        raise OSError(f"{self.address} cannot be reached")

    def _take(self, fd: int, close: Callable[[], object]) -> None:
        self.fd, self._close = fd, close
        self.waiting.clear()  # of another time
        self._heard, self._moved = False, time.monotonic()
        self.counts["opened"] += 1

    def _later(self, now: float) -> None:
        self._due = now + self._wait
        self._wait = min(2 * self._wait, WAIT_S[1])

    def lose(self) -> None:
        """The peer is gone. One that never said a word is tried again later and later."""
        self.counts["dropped"] += len(self.waiting)
        self.waiting.clear()
        self.close()
        if self._heard:
            self._wait = WAIT_S[0]
        self._later(time.monotonic())

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0 and self._close is not None:
            with contextlib.suppress(OSError):  # the device behind it may be gone
                self._close()

    def shut(self) -> None:
        """For good."""
        self.close()

    # ---- bytes ----

    def read(self) -> bytes:
        """What there is. Raises OSError: the peer is gone."""
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionError("hung up")
        self._heard = True
        self.counts["received"] += len(data)
        return data

    def put(self, data: bytes) -> None:
        """Bytes for the peer; lost where there is none: the ends send them again."""
        if self.fd < 0:
            self.counts["dropped"] += len(data)
        else:
            if not self.waiting:
                self._moved = time.monotonic()
            self.waiting += data

    def write(self) -> None:
        """As much as it takes. Raises OSError: the peer is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                sent = os.write(self.fd, self.waiting[:_READ])
                del self.waiting[:sent]
                self.counts["sent"] += sent
                self._moved = time.monotonic()

    def forget_stale(self, now: float) -> None:
        if self.waiting and now - self._moved > STALE_S:
            self.counts["dropped"] += len(self.waiting)
            self.waiting.clear()


class _Port(_Side):
    """A serial port."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._target, self._baud = parse_address(address)
        self._place = serial_place(self._target)

    def open(self) -> None:
        port = open_port(self.address, self._place)
        self._take(port.fd, port.close)

    def _reach(self) -> tuple[int, Callable[[], object]]:
        port = open_at(self._place, self._baud)
        return port.fd, port.close


def _tuned(peer: socket.socket) -> socket.socket:
    """Small frames at once; a network that is gone is noticed."""
    peer.setblocking(False)
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    for name, value in (
        ("TCP_KEEPIDLE", SILENT_S // 2),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", SILENT_S // 2),
        ("TCP_USER_TIMEOUT", 1000 * SILENT_S),
    ):
        if hasattr(socket, name):  # only some systems have them
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    for option in options:
        peer.setsockopt(*option)
    return peer


class _Call(_Side):
    """socket://HOST:PORT, called until it answers."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._where = host_and_port(address)

    def _reach(self) -> tuple[int, Callable[[], object]]:
        peer = _tuned(socket.create_connection(self._where, timeout=_CONNECT_S))
        return peer.fileno(), peer.close


class _Door(_Side):
    """listen://HOST:PORT; a port 0 becomes a free one."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        where = host_and_port(address, least=0)
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            self._door = socket.create_server(where, family=family)
        except OSError as error:
            raise LinkError(
                f"cannot listen on {address}: {error.strerror or error}; choose a free port of an "
                "address of this machine"
            ) from error
        self._door.setblocking(False)
        self.address = f"{address.rpartition(':')[0]}:{self._door.getsockname()[1]}"

    def fileno(self) -> int:
        return self._door.fileno()

    def reach(self, now: float) -> None:
        """Callers come by themselves."""

    def answer(self) -> None:
        """Takes the newest caller."""
        while True:
            try:
                peer = _tuned(self._door.accept()[0])
            except BlockingIOError:
                return
            except OSError as error:  # it hung up already, or no more files may be open
                self.trouble = error.strerror or str(error)
                return
            self.counts["tries"] += 1
            if self.fd >= 0:
                self.lose()
            self._take(peer.fileno(), peer.close)

    def shut(self) -> None:
        super().shut()
        self._door.close()


def _side(address: str) -> _Side:
    if "://" in address and not address.startswith((LISTEN, "socket:", "serial:")):
        raise LinkError(
            f"{address!r}: expected serial:PATH:BAUD, socket:// or {LISTEN}//HOST:PORT", 2
        )
    if address.startswith(LISTEN):
        return _Door(address)
    return _Call(address) if address.startswith("socket:") else _Port(address)


@dataclass
class _Relay:
    """Both sides, and what has been told of them."""

    sides: tuple[_Side, _Side]
    emit: Emit

    def run(self, stop: Stop | None) -> None:
        there = [False, False]
        while stop is None or not stop.is_set():
            now = time.monotonic()
            for number, side in enumerate(self.sides):
                side.reach(now)
                side.forget_stale(now)
                if there[number] != (side.fd >= 0):
                    there[number] = side.fd >= 0
                    self._tell(side, there[number])
            self._turn()

    def _tell(self, side: _Side, there: bool) -> None:
        state = "is there" if there else "is gone; trying again"
        if not there and isinstance(side, _Door):
            state = "is gone; waiting for the next caller"
        self.emit({"event": "note", "side": side.address, "up": there,
                   "text": f"{side.address} {state}"})  # fmt: skip

    def _turn(self) -> None:
        a, b = self.sides
        doors = [side for side in self.sides if isinstance(side, _Door)]
        # A side is read only while the other has room: TCP then holds up who sends.
        pairs = [(a, b), (b, a)]
        readers = [x.fd for x, y in pairs if x.fd >= 0 and len(y.waiting) < BUFFER]
        writers = [x.fd for x in self.sides if x.fd >= 0 and x.waiting]
        ready, free, _ = select.select(
            [*readers, *(door.fileno() for door in doors)], writers, [], _POLL_S
        )
        for x, y in pairs:
            try:
                if x.fd in ready:
                    y.put(x.read())
                if x.fd in free:
                    x.write()
            except OSError as error:
                x.trouble = error.strerror or str(error)
                x.lose()
        for door in doors:
            if door.fileno() in ready:
                door.answer()

    def counters(self) -> list[dict[str, Any]]:
        return [{"side": side.address, **side.counts} for side in self.sides]


def run_relay(line: str, to: str, *, emit: Emit, stop: Stop | None = None) -> int:
    """Joins two sides until `stop` or Ctrl-C; a side that hangs up is reached again for ever.

    line, to: serial:PATH:BAUD, serial:usb=SERIALNUMBER:BAUD, socket://HOST:PORT (called) or
    listen://HOST:PORT (waits for a caller; 0: a free port). emit is told `{"event": "listening",
    "lines": [[..]]}` at the start, a note with `side` and `up` whenever a side comes or goes, and
    `{"event": "done", "counters": [..]}` at the end. Bytes for a side that is not there are dropped
    and counted: the ends of the line send them again. Returns 0. Raises LinkError: an address that
    cannot be (exit code 2), a port or a door that is not to be had at the start.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for address in (line, to):
            sides.append(_side(address))
            stack.callback(sides[-1].shut)
        for side in sides:
            side.open()
        relay = _Relay((sides[0], sides[1]), emit)
        emit({"event": "listening", "lines": [[side.address for side in sides]]})
        with contextlib.suppress(KeyboardInterrupt):
            relay.run(stop)
        emit({"event": "done", "counters": relay.counters()})
    return 0
