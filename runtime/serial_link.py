"""Links over a byte line (UART, USB, pseudo-terminal, socket): a thread per line moves bytes
through the C packets.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import serial

from ..kernels._link import FULL, JOINED, MESSAGE, RESTARTED, SENT, SILENT, STUCK, PacketEnd
from . import link as links
from .handshake import Handshake
from .link import JOIN_TIMEOUT, LinkError, LinkLost, Peer, check_size
from .sealed_end import SealedEnd
from .usb_port import USB, Listed, Place, numbers

_READ = 65536
_AHEAD = 4096  # bytes handed to the driver at a time: what lies there cannot be taken back
_REOPEN_S = (0.05, 1.0)  # between two tries to open a port that is gone, doubling
_FIRST_OPEN_S = 2.0  # a cable that is started beside us may need a moment
_STUCK_S = 0.4  # a line that takes no byte for so long: give up what was to be written
_LINGER_S = 1.5
_SEALED = "the other end seals what it says: start both ends with keys, or both with --insecure"
_LOSSES = {
    SILENT: "nothing was heard from {} for 2.75 s",
    RESTARTED: "the other end started again",
    STUCK: "{} carries no message any more, though the other end answers",
    FULL: "the other end of {} has taken no message for 120 s, though it answers",
}


@dataclass(frozen=True)
class LineEvent:
    """lost: the peer is gone, else it has joined."""

    lost: bool
    reason: str = ""


class Bell:
    """A file descriptor that becomes readable when another thread rings."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe rings already
            os.write(self._write, b"!")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def parse_address(address: str) -> tuple[str, int]:
    """`serial:PATH:BAUD` (BAUD 115200 when left out), `serial:usb=SERIALNUMBER:BAUD` or
    `socket://HOST:PORT` -> (path, usb=SERIALNUMBER or address, baud; 0 for a socket).

    Raises LinkError when it is neither.
    """
    target = address.removeprefix("serial:")
    if target.startswith("socket://"):
        host, _, port = target.removeprefix("socket://").rpartition(":")
        if host and port.isdigit() and 0 < int(port) < 65536:
            return target, 0
        raise LinkError(f"{address!r}: expected socket://HOST:PORT", 2)
    path, colon, baud = target.rpartition(":")
    if not colon:
        path, baud = target, "115200"
    if path in ("", USB) or not baud.isdigit() or not 300 <= int(baud) <= 20_000_000:
        raise LinkError(
            f"{address!r}: expected serial:PATH:BAUD or serial:usb=SERIALNUMBER:BAUD, for example "
            "serial:/dev/ttyACM0:921600",
            2,
        )
    return path, int(baud)


class _Port:
    """An open line: a file descriptor and how to close it."""

    def __init__(self, target: str, baud: int) -> None:
        self._closer: Callable[[], object]
        if baud == 0:
            host, _, number = target.removeprefix("socket://").rpartition(":")
            peer = socket.create_connection((host.strip("[]"), int(number)), timeout=2.0)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.fd, self._closer = peer.fileno(), peer.close
        else:
            port = serial.Serial(target, baud, timeout=0, write_timeout=0, exclusive=True)
            with contextlib.suppress(ValueError, OSError):  # only some drivers have it
                port.set_low_latency_mode(True)
            self.fd, self._closer = port.fileno(), port.close
        os.set_blocking(self.fd, False)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the device behind it may be gone
            self._closer()


def _ports() -> str:
    names = sorted(port.device for port in _table())
    return ", ".join(names[:12]) if names else "none"


def _open_error(target: str, baud: int, error: OSError) -> LinkError:
    if baud == 0:
        return LinkError(
            f"cannot connect to {target}: {error.strerror or error}; start the other end first"
        )
    if error.errno == errno.ENOENT or not Path(target).exists():
        return LinkError(f"there is no serial port {target} (ports on this machine: {_ports()})")
    if _is_taken(error):
        return LinkError(
            f"the serial port {target} is in use by another program: close that one first"
        )
    if error.errno == errno.EACCES:
        return LinkError(
            f"no permission for {target}: add yourself to its group "
            f"(`ls -l {target}`; often dialout)"
        )
    return LinkError(f"cannot open the serial port {target}: {error}")


def _number_error(target: str, paths: list[str]) -> LinkError:
    number = target.removeprefix(USB)
    if not paths:
        return LinkError(
            f"no serial port has the USB serial number {number!r} (there is {numbers(_table)}): "
            "plug it in, or look at the number"
        )
    return LinkError(
        f"{len(paths)} serial ports have the USB serial number {number!r} ({', '.join(paths)}): "
        "name the one by its path, serial:PATH:BAUD"
    )


def _is_taken(error: OSError) -> bool:
    """Has another program the port?"""
    return error.errno in (errno.EWOULDBLOCK, errno.EBUSY) or "exclusively lock" in str(error)


def _table() -> list[Listed]:
    """The ports of this machine; none where the system cannot say."""
    from serial.tools import list_ports  # most devices never ask

    try:
        return list(list_ports.comports())
    except (OSError, TypeError, ValueError):  # a device went away while pyserial looked at it
        return []


def open_at(place: Place, baud: int) -> _Port:
    """The port where it is now. Raises OSError; ENODEV: it is nowhere, or there are several."""
    paths = place.paths()
    if len(paths) != 1:
        raise OSError(errno.ENODEV, f"{len(paths)} ports fit")
    port = _Port(paths[0], baud)
    if baud:
        place.opened(paths[0])
    return port


def serial_place(target: str) -> Place:
    """Where a port is that is given by path or as usb=SERIALNUMBER."""
    return Place(target, _table)


def port_path(target: str) -> str:
    """The path of a port that is given by path or as usb=SERIALNUMBER. Raises LinkError: there is
    none with that number, or more than one.
    """
    paths = serial_place(target).paths()
    if len(paths) != 1:
        raise _number_error(target, paths)
    return paths[0]


def open_port(address: str, place: Place | None = None) -> _Port:
    """The line as a file descriptor (`fd`), once it is there. place: of this address, to be found
    again by it. Raises LinkError.
    """
    target, baud = parse_address(address)
    place = place or serial_place(target)
    until = time.monotonic() + _FIRST_OPEN_S
    while True:
        try:
            return open_at(place, baud)
        except OSError as error:  # serial.SerialException is one
            paths = place.paths()
            there = baud != 0 and any(map(os.path.exists, paths))
            if there or time.monotonic() >= until:
                if len(paths) != 1:
                    raise _number_error(target, paths) from None
                raise _open_error(paths[0], baud, error) from error
        select.select([], [], [], _REOPEN_S[0])


def _sealed_bodies(counters: dict[str, int]) -> int:
    """Whole bodies that are no packets, before anybody was there: handshakes, at an end in clear
    text.
    """
    return counters["malformed"] if counters["joins"] == 0 else 0


class SerialLine:
    """One end of a line, either end: the protocol is the same from both sides.

    handshake: with it the line is sealed; None: clear text. A thread reads, acknowledges and pings
    whatever the program does. Events are kept until `events` takes them; `ring` is called (in that
    thread) when there are new ones. A port that hangs up is opened again and again; one of USB
    wherever its serial number shows up, and never another device that took its path.
    """

    def __init__(self, address: str, ring: Callable[[], None], handshake: Handshake | None) -> None:
        self._target, self._baud = parse_address(address)
        self._place = serial_place(self._target)
        self._ring = ring
        self._inbox: queue.SimpleQueue[bytes | LineEvent] = queue.SimpleQueue()
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._life = 0  # losses the thread has seen; a message of an earlier life is not sent
        self._told = 0  # losses the owner has been told of
        self._closing: float | None = None
        self._moved = time.monotonic()  # when the line last took bytes, or had none to take
        self._busy = 0  # times the port was another program's when we wanted it again
        self._wake = Bell()
        boot_id = int.from_bytes(os.urandom(8), "little") | 1 << 63
        self._end: PacketEnd | SealedEnd
        if handshake is None:
            self._end = PacketEnd(boot_id, self._now(), bytes_per_second=self._baud // 10)
        else:
            self._end = SealedEnd(
                boot_id, self._now(), handshake, bytes_per_second=self._baud // 10
            )
        self._port: _Port | None = None
        try:
            self._port = open_port(address, self._place)
        except BaseException:
            self._wake.close()
            raise
        self._thread = threading.Thread(target=self._run, name="seamline-line", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> bool:
        """Hand over a message; kept until the peer is there. False: the peer is lost, and the owner
        does not know it.
        """
        if self._told != self._life:
            return False
        self._outbox.append((self._told, data))
        self._wake.ring()
        return True

    def events(self) -> list[bytes | LineEvent]:
        """What has happened since the last call, without waiting."""
        found: list[bytes | LineEvent] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._tell(self._inbox.get_nowait()))
        return found

    def next_event(self, timeout: float) -> bytes | LineEvent | None:
        """The next event, or None after `timeout` seconds."""
        try:
            return self._tell(self._inbox.get(timeout=max(0.0, timeout)))
        except queue.Empty:
            return None

    def counters(self) -> dict[str, int]:
        """What packets and frames have been through (retransmits, damaged frames, rtt_ms, ..)."""
        return self._end.counters

    def joined(self) -> bool:
        return self._end.joined

    def refused(self) -> dict[str, int]:
        """Why the other end was not accepted, and how often."""
        end = self._end
        if isinstance(end, SealedEnd):
            found = end.refused
        else:
            counters = end.counters
            found = {"other_version": counters["other_version"]}
            found["sealed"] = _sealed_bodies(counters)
        found["busy"] = self._busy
        return {reason: count for reason, count in found.items() if count}

    def called(self) -> str:
        """The name that the one refused last has claimed; empty in clear text."""
        return self._end.called if isinstance(self._end, SealedEnd) else ""

    def peer(self, name: str, counters: dict[str, int], lost: str = "") -> Peer:
        """How the line does. counters: of whole messages, the owner's. lost: the last reason."""
        found = {**self.counters(), **counters}
        state = links.LOST if found["joins"] else links.WAITING
        state = links.JOINED if self._end.joined else state
        state = links.UNPLUGGED if self._port is None else state
        return Peer(name, "serial", state, lost, found, self.refused(), self.called())

    @property
    def trouble(self) -> str:
        """Why there is no peer, as far as it can be told."""
        if isinstance(self._end, SealedEnd):
            return self._end.trouble
        return _SEALED if _sealed_bodies(self._end.counters) else ""

    def drop(self) -> None:
        """The peer has to prove its key anew."""
        if isinstance(self._end, SealedEnd):
            self._end.drop()

    def stop(self) -> None:
        """Begin to close, without waiting."""
        if self._closing is None:
            self._closing = time.monotonic() + _LINGER_S
            self._wake.ring()

    def close(self) -> None:
        """Sends what was handed over, for a second and a half at most."""
        self.stop()
        self._thread.join()
        self._wake.close()

    def _tell(self, event: bytes | LineEvent) -> bytes | LineEvent:
        if isinstance(event, LineEvent) and event.lost:
            self._told += 1
        return event

    @staticmethod
    def _now() -> int:
        return time.monotonic_ns() // 1_000_000

    # -- the thread --

    def _run(self) -> None:
        pending = b""
        try:
            while not self._finished(pending):
                if self._port is None:
                    pending = b""
                    self._reopen()
                    continue
                if pending and time.monotonic() - self._moved > _STUCK_S:
                    pending = b"\0"  # a line that takes nothing must not hide that the peer is gone
                if len(pending) < 2:
                    pending += self._end.output(self._now(), _AHEAD)
                    self._handle_events()
                if not pending:  # the events may have begun a message
                    pending = self._end.output(self._now(), _AHEAD)
                try:
                    pending = self._turn(self._port.fd, pending)
                except OSError:  # unplugged or hung up: not an end
                    self._port.close()
                    self._port = None
        finally:
            if self._port is not None:
                self._port.close()

    def _finished(self, pending: bytes) -> bool:
        if self._closing is None:
            return False
        idle = not pending and not self._end.busy and not self._outbox
        return idle or not self._end.joined or time.monotonic() >= self._closing

    def _turn(self, fd: int, pending: bytes) -> bytes:
        """Wait for bytes, room or a timer; move what can be moved. Returns what is still to be
        written.
        """
        wait = _STUCK_S / 4 if pending else self._end.wait(self._now()) / 1000.0
        if self._closing is not None:
            wait = min(wait, max(0.0, self._closing - time.monotonic()))
        writers = [fd] if pending else []
        wake = self._wake.fileno()
        readable, writable, _ = select.select([fd, wake], writers, [], wait)
        if wake in readable:
            self._wake.hush()
        if fd in readable:
            data = os.read(fd, _READ)
            if not data:
                raise OSError(errno.EIO, "the line hung up")
            self._end.feed(data, self._now())
        if writable or not pending:
            self._moved = time.monotonic()
        if writable:
            with contextlib.suppress(BlockingIOError):
                pending = pending[os.write(fd, pending) :]
        return pending

    def _reopen(self) -> None:
        """Try to open the port until it is there; time goes on, and the peer may be lost."""
        wait = _REOPEN_S[0]
        while self._port is None and self._closing is None:
            try:
                self._port = open_at(self._place, self._baud)
            except OSError as error:
                self._busy += _is_taken(error)
                select.select([self._wake], [], [], wait)
                self._wake.hush()
                wait = min(2 * wait, _REOPEN_S[1])
            self._end.output(self._now(), _AHEAD)  # nowhere to go; what it was will be sent again
            self._handle_events()
        if self._port is None:
            self._closing = 0.0

    def _handle_events(self) -> None:
        found = self._end.events()
        for kind, data in found:
            if kind == MESSAGE and data is not None:
                self._inbox.put(data)
            elif kind == JOINED:
                self._inbox.put(LineEvent(False))
            elif kind in _LOSSES:
                self._life += 1
                self._inbox.put(LineEvent(True, _LOSSES[kind].format(self._target)))
        while self._outbox and self._outbox[0][0] != self._life:
            self._outbox.popleft()
        if self._outbox and self._end.joined and not self._end.busy:
            self._start(self._outbox.popleft()[1])
        if any(kind != SENT for kind, _ in found):
            self._ring()

    def _start(self, message: bytes) -> None:
        try:
            self._end.send(message)
        except ValueError as error:  # the peer has less memory than the message needs
            self._inbox.put(LineEvent(True, str(error)))
            self._life += 1
            self._ring()


class SerialLink:
    """A device's end of a line."""

    def __init__(self, address: str, handshake: Handshake | None, host: str = "") -> None:
        self._address, self._host, self._lost = address, host or "edge host", ""
        self._line = SerialLine(address, lambda: None, handshake)
        self._sent = dict.fromkeys(
            ("bytes_sent", "bytes_received", "messages_sent", "messages_received", "losses"), 0
        )
        self._joined = False
        self._waiting: bytes | None = None  # the last message handed over before the host was there
        self._waiting_since = time.monotonic()

    @property
    def counters(self) -> dict[str, int]:
        return {**self._line.counters(), **self._sent}

    def peers(self) -> list[Peer]:
        return [self._line.peer(self._host, self._sent, self._lost)]

    def send(self, data: bytes) -> None:
        check_size(data)
        if not self._joined and data == self._waiting:
            return  # it waits for the host already: once is enough
        self._waiting = data if not self._joined else None
        if not self._line.send(data):
            return  # the loss is in the inbox: receive tells
        self._sent["messages_sent"] += 1
        self._sent["bytes_sent"] += len(data)

    def receive(self, timeout: float) -> bytes | None:
        deadline = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            turn = deadline if self._joined else min(deadline, self._waiting_since + JOIN_TIMEOUT)
            event = self._line.next_event(turn - now)
            if isinstance(event, bytes):
                self._joined = True
                self._sent["messages_received"] += 1
                self._sent["bytes_received"] += len(event)
                return event
            if event is not None:
                self._joined = not event.lost
                if event.lost:
                    self._lose(event.reason)
                continue
            now = time.monotonic()
            if not self._joined and now - self._waiting_since >= JOIN_TIMEOUT:
                self._waiting_since = now
                raise LinkLost(self._silence())
            if now >= deadline:
                return None

    def close(self) -> None:
        self._line.close()

    def _lose(self, reason: str) -> None:
        self._lost = reason
        self._sent["losses"] += 1
        self._waiting = None
        self._waiting_since = time.monotonic()
        raise LinkLost(reason)

    def _silence(self) -> str:
        counters = self._line.counters()
        text = f"no answer on {self._address} in {JOIN_TIMEOUT:.0f} s: "
        if self._line.trouble:
            return text + self._line.trouble
        if counters["other_version"]:
            return (
                text
                + "the other end speaks another version of the line; upgrade the older of the two"
            )
        if counters["frames_damaged"]:
            return (
                text
                + "bytes arrive but no whole frame; check that both ends use the same baud rate"
            )
        return text + "nobody is there; check the cable, the port and that the host runs"
