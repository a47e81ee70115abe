"""Packets as SPEC.md defines them: what an end takes, drops and answers, without its timers and
without its choice of when to send. The peer of kernels/core/packet.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from zlib import crc32

OPEN = struct.Struct("<BBHQQHBBI")
DATA = struct.Struct("<BBHIHI")
ACK = struct.Struct("<BBHIHIIHI")
VERSION, UNIT, PAYLOAD, SPAN, SILENCE_MS = 1, 64, 1024, 32768, 2750
LAST, ACK_NOW = 1, 2
JOINED, MESSAGE, SENT, SILENT, RESTARTED = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Open:
    first: int
    own: int
    peer: int
    mtu: int
    window: int
    longest: int

    def bytes(self) -> bytes:
        head = (VERSION << 4 | 1, 0, self.first, self.own, self.peer)
        return OPEN.pack(*head, self.mtu, self.window, 0, self.longest)


@dataclass(frozen=True)
class Data:
    flags: int
    number: int
    connection: int
    message: int
    offset: int
    payload: bytes

    def bytes(self) -> bytes:
        head = (VERSION << 4 | 2, self.flags, self.number, self.connection, self.message)
        return DATA.pack(*head, self.offset) + self.payload


@dataclass(frozen=True)
class Ack:
    flags: int
    number: int
    connection: int
    message: int
    offset: int
    limit: int
    newest: int
    bitmap: int

    def bytes(self) -> bytes:
        head = (VERSION << 4 | 3, self.flags, self.number, self.connection, self.message)
        return ACK.pack(*head, self.offset, self.limit, self.newest, self.bitmap)


Packet = Open | Data | Ack


def parse(packet: bytes) -> Packet | None:
    """None: no packet of this version that fits the table."""
    kind, size = packet[0] & 15 if packet and packet[0] >> 4 == VERSION else 0, len(packet)
    if kind == 1 and size == OPEN.size:
        _, flags, first, own, peer, mtu, window, zero, longest = OPEN.unpack(packet)
        fits = own >> 16 and mtu >= UNIT and mtu % UNIT == 0 and flags == zero == 0
        return Open(first, own, peer, mtu, window, longest) if fits else None
    if kind == 2 and DATA.size <= size <= DATA.size + PAYLOAD:
        data = Data(*DATA.unpack_from(packet)[1:], packet[DATA.size :])
        return data if data.flags <= LAST + ACK_NOW else None
    if kind == 3 and size == ACK.size:
        ack = Ack(*ACK.unpack(packet)[1:])
        return ack if ack.flags in (0, ACK_NOW) else None
    return None


def tag(a: int, b: int) -> int:
    """The connection's number, of the epochs of both ends."""
    return crc32(struct.pack("<QQ", min(a, b), max(a, b)))


def ahead(a: int, b: int) -> int:
    """How far a number of 16 bits is in front of another."""
    return (a - b + 32768) % 65536 - 32768


@dataclass
class Incoming:
    """The message that is coming in, and which packets came."""

    space: int
    newest: int
    message: int = 0
    data: bytearray = field(default_factory=bytearray)
    units: set[int] = field(default_factory=set)
    size: int | None = None
    whole: bytes | None = None
    seen: set[int] = field(default_factory=set)  # numbers at most 32 behind the newest

    @property
    def first_gap(self) -> int:
        unit = 0
        while unit in self.units:
            unit += 1
        return unit * UNIT if self.size is None else min(unit * UNIT, self.size)

    @property
    def bitmap(self) -> int:
        return sum(1 << i for i in range(32) if (self.newest - 1 - i) % 65536 in self.seen)

    def note(self, number: int) -> bool:
        """Has it not come before? Of numbers more than 32 behind nothing is known."""
        distance = ahead(number, self.newest)
        if distance < -32:
            return True
        if distance <= 0 and number in self.seen | {self.newest}:
            return False
        self.seen |= {number, self.newest}
        self.newest = number if distance > 0 else self.newest
        self.seen = {n for n in self.seen if -32 <= ahead(n, self.newest) <= 0}
        return True

    def fits(self, offset: int, size: int, last: bool) -> bool:
        stop = offset + size
        if self.whole is not None or offset % UNIT or stop > self.space:
            return False
        if not last and (size == 0 or size % UNIT):
            return False
        if stop - self.first_gap > SPAN:
            return False
        if self.size is not None:
            return stop == self.size if last else stop <= self.size
        return stop >= len(self.data) if last else True

    def store(self, offset: int, payload: bytes, last: bool) -> None:
        stop = offset + len(payload)
        self.data.extend(bytes(max(0, stop - len(self.data))))
        self.data[offset:stop] = payload
        self.units |= {at // UNIT for at in range(offset, stop, UNIT)}
        self.size = stop if last else self.size
        if self.size is not None and self.first_gap >= self.size:
            self.whole = bytes(self.data[: self.size])
            self.message = (self.message + 1) % 65536
            self.data, self.units, self.size = bytearray(), set(), None


@dataclass
class End:
    """One end. `take` a packet, then look at `counters`, `events`, and what must be said."""

    epoch: int
    space: int
    mtu: int
    first: int
    window: int
    peer: int = 0
    connection: int = 0
    peer_mtu: int = 0
    longest: int = 0
    heard_ms: int = 0
    answer: int | None = None  # an OPEN that is due, with the peer's epoch
    ack_due: bool = False
    pieces: int = 0  # since the last ACK
    events: list[int] = field(default_factory=list)
    # sending
    sending: bytes | None = None
    message: int = 0
    said: int = 0
    acked: int = 0
    limit: int = 0
    number: int = 0
    newest_ack: int = 0

    def __post_init__(self) -> None:
        names = ("packets_received", "other_version", "malformed", "strays", "duplicates")
        self.counters = dict.fromkeys(names, 0)
        self.incoming = Incoming(self.space, 0)

    @property
    def offered(self) -> int:
        if not self.peer:
            return self.epoch
        return self.epoch & ~0xFFFF | (self.epoch + 1) & 0xFFFF

    def lose(self, reason: int) -> None:
        self.epoch, self.peer, self.answer, self.ack_due = self.offered, 0, None, False
        if JOINED in self.events:
            self.events.remove(JOINED)  # nobody was told of it
        else:
            self.events.append(reason)
        self._reset(1)

    def _reset(self, peer_first: int) -> None:
        newest = (peer_first - 1) % 65536
        # A whole message outlives its connection.
        self.incoming = Incoming(self.space, newest, whole=self.incoming.whole)
        self.newest_ack, self.pieces = newest, 0
        self.sending, self.message, self.said, self.acked, self.limit = None, 0, 0, 0, 0
        self.number = self.first

    def silence(self, now_ms: int) -> None:
        if self.peer and now_ms - self.heard_ms >= SILENCE_MS:
            self.lose(SILENT)

    def send(self, message: bytes) -> bool:
        if not self.peer or self.sending is not None:
            return False
        self.sending, self.said, self.acked = message, 0, 0
        return True

    def release(self) -> None:
        """The owner takes the message that is whole."""
        if self.incoming.whole is not None:
            self.incoming.whole, self.ack_due = None, True

    def take(self, raw: bytes, now_ms: int) -> None:
        if raw and raw[0] >> 4 != VERSION:
            self.counters["other_version"] += 1
            return
        packet = parse(raw)
        if packet is None or isinstance(packet, Open):
            self._open(packet, now_ms)
        elif not self.peer or packet.connection != self.connection:
            self.counters["strays"] += 1
        else:
            self.heard_ms = now_ms
            self._data(packet) if isinstance(packet, Data) else self._ack(packet)

    def _open(self, packet: Open | None, now_ms: int) -> None:
        if packet is None:
            self.counters["malformed"] += 1
        elif packet.own >> 16 == self.epoch >> 16:
            self.counters["strays"] += 1
        elif packet.own == self.peer:
            self.answer = packet.own if packet.peer == 0 else self.answer
        elif packet.peer == self.offered:
            self._join(packet, now_ms)
        elif packet.peer == 0:
            self.answer = packet.own
        else:
            self.counters["strays"] += 1

    def _join(self, packet: Open, now_ms: int) -> None:
        ours = self.offered
        if self.peer:
            self.lose(RESTARTED)
        self.epoch, self.peer, self.answer = ours, packet.own, packet.own
        self.connection, self.heard_ms = tag(ours, packet.own), now_ms
        self._reset(packet.first)
        self.events.append(JOINED)
        self.peer_mtu = min(packet.mtu, self.mtu)
        self.longest = self.limit = packet.longest

    def _data(self, packet: Data) -> None:
        come, last = self.incoming, bool(packet.flags & LAST)
        distance = ahead(packet.message, come.message)
        gap = ahead(packet.number, come.newest) > 1
        if distance > 0 or (
            distance == 0 and not come.fits(packet.offset, len(packet.payload), last)
        ):
            self.counters["malformed"] += come.whole is None  # without room it is no fault
            self.ack_due = True
        elif not come.note(packet.number) or distance < 0:
            self.counters["duplicates"] += 1
            self.ack_due = True
        else:
            come.store(packet.offset, packet.payload, last)
            self.pieces += 1
            asked = bool(packet.flags & ACK_NOW)
            self.ack_due |= gap or asked or self.pieces >= 2 or come.whole is not None

    def _ack(self, packet: Ack) -> None:
        if not self.incoming.note(packet.number) or ahead(packet.number, self.newest_ack) <= 0:
            self.counters["duplicates"] += 1
            return
        self.newest_ack = packet.number
        self.ack_due |= bool(packet.flags & ACK_NOW)
        distance = (packet.message - self.message) % 65536
        if distance == 1 and self.sending is not None and self.said == len(self.sending):
            self.sending, self.message = None, packet.message
            self.said = self.acked = 0
            self.events.append(SENT)
        elif distance == 0 and packet.offset <= self.said:
            self.acked = max(self.acked, packet.offset)
        else:
            self.counters["malformed"] += 1
            return
        self.limit = min(packet.limit, self.longest)

    def say(self, raw: bytes) -> None:
        """A packet that the end under test sends: is it one that may be said now?"""
        packet = parse(raw)
        assert packet is not None, raw.hex()
        if isinstance(packet, Open):
            self._say_open(packet)
            return
        assert self.peer and packet.connection == self.connection
        assert packet.number == self.number
        self.number = (self.number + 1) % 65536
        if isinstance(packet, Ack):
            come = self.incoming
            told = (packet.message, packet.offset, packet.newest, packet.bitmap, packet.limit)
            room = 0 if come.whole is not None else self.space
            assert told == (come.message, come.first_gap, come.newest, come.bitmap, room)
            self.ack_due, self.pieces = False, 0
        else:
            self._say_data(packet)

    def _say_open(self, packet: Open) -> None:
        answers = packet.peer != 0 and packet.peer == self.peer
        assert packet.own == (self.epoch if answers else self.offered)
        assert packet.peer in (0, self.peer, self.answer)
        assert self.answer is None or packet.peer != 0
        told = (packet.first, packet.mtu, packet.window, packet.longest)
        assert told == (self.first, self.mtu, self.window, self.space)
        self.answer = None

    def _say_data(self, packet: Data) -> None:
        assert self.sending is not None and packet.message == self.message
        stop, size = packet.offset + len(packet.payload), len(self.sending)
        assert packet.payload == self.sending[packet.offset : stop] and packet.offset % UNIT == 0
        assert bool(packet.flags & LAST) == (stop == size)
        assert stop == size or (packet.payload and stop % UNIT == 0)
        assert len(packet.payload) <= self.peer_mtu
        assert stop <= self.limit and stop <= self.acked + SPAN
        assert packet.offset <= self.said
        self.said = max(self.said, stop)
