"""A bad line as a pure function: bytes and the time go in, (later) harmed bytes come out, the same
ones for the same seed.

Where a fault strikes is drawn per byte of the stream, never per call, so it does not depend on how
the bytes were handed over. Only what a clock decides (pacing, overruns, silence, delay) depends on
the times given.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field, fields

LINE_BITS = 10  # a byte on a UART: start, 8 bits, stop
DRIVER_BYTES = 4096  # what a paced line takes ahead of its rate, like a serial driver
_RUN = 2048  # bytes; a frame that is to be cut or repeated is followed no further
SEGMENT = 1460  # bytes of a TCP segment: what `loss` stalls
_STALL_MS = 200.0  # the least time-out of a TCP sender
GRAIN = 256  # bytes of a paced line that arrive at one moment


@dataclass(frozen=True)
class Silence:
    """From one moment to another (seconds) nothing comes through to one end, or to both."""

    start: float
    stop: float = math.inf
    to: str = ""  # "a", "b" or both


@dataclass(frozen=True)
class Faults:
    """What a line does to the bytes. All zero: nothing.

    ber is per bit; burst, drop, insert, duplicate and truncate are per byte; loss is per segment of
    1460 bytes. Rates of 1 byte in 10,000 are already a bad line.
    """

    baud: int = 0  # pacing: 10 bits a byte; 0: as fast as it goes
    bandwidth: int = 0  # pacing in bytes a second, for TCP
    fifo: int = 0  # bytes; what a paced line cannot take is lost; 0: the sender waits
    ber: float = 0.0
    burst: float = 0.0  # here begin burst_bytes of noise
    burst_bytes: int = 16
    drop: float = 0.0
    insert: float = 0.0
    duplicate: float = 0.0  # the frame in progress comes twice
    truncate: float = 0.0  # the rest of the frame in progress is lost
    garbage: int = 0  # bytes of noise before the first byte
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0  # TCP repeats what is lost: a stall, and all that follows waits too
    silence: tuple[Silence, ...] = ()

    def __post_init__(self) -> None:
        for name in ("ber", "burst", "drop", "insert", "duplicate", "truncate", "loss"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} {getattr(self, name)}: expected a share from 0 to below 1"
                )
        for name in ("baud", "bandwidth", "fifo", "garbage", "delay_ms", "jitter_ms"):
            if not 0 <= getattr(self, name) <= 10**9:
                raise ValueError(f"{name} {getattr(self, name)}: expected 0 to 1e9")
        if not 1 <= self.burst_bytes <= 65536:
            raise ValueError(f"burst_bytes {self.burst_bytes}: expected 1 to 65536")
        if self.baud and self.bandwidth:
            raise ValueError("baud and bandwidth both pace the line: give one of them")
        if self.fifo and not self.rate:
            raise ValueError("a fifo overruns only on a paced line: give baud or bandwidth too")
        for quiet in self.silence:
            if not 0 <= quiet.start < quiet.stop or quiet.to not in ("", "a", "b"):
                raise ValueError(f"silence {quiet}: expected start before stop, to a, b or both")

    @property
    def rate(self) -> float:
        """Bytes a second; 0: not paced."""
        return self.baud / LINE_BITS if self.baud else float(self.bandwidth)


@dataclass
class FaultCounters:
    """Bytes in and out of one direction, and what was done to them."""

    bytes_in: int = 0
    bytes_out: int = 0
    bits_flipped: int = 0
    bursts: int = 0
    dropped: int = 0
    inserted: int = 0
    duplicated: int = 0
    truncated: int = 0
    overrun: int = 0
    silenced: int = 0
    stalls: int = 0

    def as_dict(self) -> dict[str, int]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


class _Strikes:
    """The places of a stream where one kind of fault strikes, each with the same probability."""

    def __init__(self, rate: float, seed: str) -> None:
        self.random = random.Random(seed)
        self._rate = rate
        self._next: float = math.inf
        self._at = 0
        if rate > 0.0:
            self._next = self._gap()

    def _gap(self) -> int:
        return int(math.log(1.0 - self.random.random()) / math.log1p(-self._rate))

    def within(self, size: int) -> list[int]:
        """Those in the next `size` places, counted from 0."""
        stop, found = self._at + size, []
        while self._next < stop:
            found.append(int(self._next) - self._at)
            self._next += 1 + self._gap()
        self._at = stop
        return found


@dataclass
class _Frame:
    """What the stream-wide faults know of the frame in progress."""

    bytes_so_far: bytearray = field(default_factory=bytearray)
    repeat: bool = False
    cut: int = 0  # bytes that may still be lost of it


class FaultLine:
    """One direction of a bad line. to: the end it leads to, "a" or "b". Times are microseconds from
    the line's start and never go back.
    """

    def __init__(self, faults: Faults, seed: int = 0, to: str = "b") -> None:
        self.counters = FaultCounters()
        self._seed = f"{seed} {to}"
        self._drawn = 0
        self._noise = random.Random(f"{seed} {to} noise")
        self._jitter = random.Random(f"{seed} {to} jitter")
        self._to = to
        self._frame = _Frame()
        self._burst_left = 0
        self._started = False
        self._free_us = 0.0  # when the line has sent all it took
        self._last_us = 0.0  # nothing overtakes what is before it
        self._queue: deque[tuple[float, bytes]] = deque()
        self._draws: dict[str, _Strikes]
        self._quiet: list[Silence]
        self.change(faults)

    # -- the owner's calls --

    def change(self, faults: Faults) -> None:
        """Other faults from now on; what is under way still comes."""
        self.faults = faults
        self._drawn += 1
        rates = {name: getattr(faults, name) for name in _BYTES}
        rates |= {"flip": faults.ber, "loss": faults.loss / SEGMENT}
        self._draws = {
            name: _Strikes(rate, f"{self._seed} {name} {self._drawn}")
            for name, rate in rates.items()
        }
        self._quiet = [quiet for quiet in faults.silence if quiet.to in ("", self._to)]

    def room(self, now_us: int) -> int:
        """Bytes that `push` takes now without loss."""
        if not self.faults.rate:
            return max(0, 65536 - sum(len(data) for _, data in self._queue))
        return max(0, (self.faults.fifo or DRIVER_BYTES) - self._waiting(now_us))

    def push(self, data: bytes, now_us: int) -> None:
        """Bytes into the line."""
        self.counters.bytes_in += len(data)
        data = self._accept(data, now_us)
        if not self._started and data:
            self._started = True
            if self.faults.garbage:
                self.counters.inserted += self.faults.garbage
                self._pace(self._noise.randbytes(self.faults.garbage), now_us)
        self._pace(data, now_us)

    def pop(self, now_us: int) -> bytes:
        """All bytes that have arrived by now."""
        return b"".join(data for _, data in self.arrivals(now_us))

    def arrivals(self, now_us: int) -> list[tuple[int, bytes]]:
        """The same with the time of each piece."""
        found = []
        while self._queue and self._queue[0][0] <= now_us:
            at, data = self._queue.popleft()
            self.counters.bytes_out += len(data)
            found.append((math.ceil(at), data))
        return found

    def due(self) -> int | None:
        """When the next bytes arrive; None: nothing is under way."""
        return math.ceil(self._queue[0][0]) if self._queue else None

    def free_at(self) -> int:
        """When a paced line has sent all it took."""
        return math.ceil(self._free_us)

    # -- time --

    def _waiting(self, now_us: int) -> int:
        return math.ceil(max(0.0, self._free_us - now_us) * self.faults.rate / 1e6)

    def _accept(self, data: bytes, now_us: int) -> bytes:
        if not self.faults.fifo:
            return data
        room = max(0, self.faults.fifo - self._waiting(now_us))
        self.counters.overrun += max(0, len(data) - room)
        return data[:room]

    def _pace(self, data: bytes, now_us: int) -> None:
        rate = self.faults.rate
        if not rate:
            if data:
                self._deliver(data, float(now_us))
            return
        for at in range(0, len(data), GRAIN):
            piece = data[at : at + GRAIN]
            self._free_us = max(self._free_us, float(now_us)) + len(piece) * 1e6 / rate
            self._deliver(piece, self._free_us)

    def _deliver(self, data: bytes, left_us: float) -> None:
        faults = self.faults
        if any(quiet.start * 1e6 <= left_us < quiet.stop * 1e6 for quiet in self._quiet):
            self.counters.silenced += len(data)
            return
        delay_ms, stalls = self._on_the_way(len(data), left_us)
        harmed = self._harm(data)
        at = left_us + 1000.0 * delay_ms
        if faults.jitter_ms:
            at += 1000.0 * faults.jitter_ms * self._jitter.random()
        if stalls:
            self.counters.stalls += stalls
            at += 1000.0 * stalls * max(_STALL_MS, 2.0 * delay_ms)
        self._last_us = at = max(at, self._last_us)
        if harmed:
            self._queue.append((at, harmed))

    def _on_the_way(self, size: int, left_us: float) -> tuple[float, int]:
        """(delay in milliseconds, segments that TCP has to repeat) of `size` bytes."""
        return self.faults.delay_ms, len(self._draws["loss"].within(size))

    # -- harm --

    def _harm(self, data: bytes) -> bytes:
        hits = {
            name: draw.within(len(data)) for name, draw in self._draws.items() if name in _BYTES
        }
        flips = self._draws["flip"].within(8 * len(data))
        if flips:
            data = self._flip(data, flips)
        follows = self.faults.duplicate > 0.0 or self.faults.truncate > 0.0
        if not (follows or self._burst_left or any(hits.values())):
            return data
        return self._byte_by_byte(data, {name: set(places) for name, places in hits.items()})

    def _flip(self, data: bytes, flips: list[int]) -> bytes:
        hurt = bytearray(data)
        for bit in flips:
            hurt[bit // 8] ^= 1 << bit % 8
        self.counters.bits_flipped += len(flips)
        return bytes(hurt)

    def _byte_by_byte(self, data: bytes, hits: dict[str, set[int]]) -> bytes:
        out, frame = bytearray(), self._frame
        for at, byte in enumerate(data):
            if at in hits["burst"]:
                self.counters.bursts += 1
                self._burst_left = self.faults.burst_bytes
            if at in hits["insert"]:
                self.counters.inserted += 1
                out.append(self._noise.randrange(256))
            if at in hits["duplicate"]:
                frame.repeat = True
            if at in hits["truncate"] and not frame.cut:
                frame.cut = _RUN
            kept = self._noise.randrange(256) if self._burst_left else byte
            self._burst_left -= self._burst_left > 0
            if frame.cut and byte != 0:
                frame.cut -= 1
                self.counters.truncated += 1
                continue
            frame.cut = 0
            if at in hits["drop"]:
                self.counters.dropped += 1
                continue
            out.append(kept)
            self._follow(out, kept)
        return bytes(out)

    def _follow(self, out: bytearray, byte: int) -> None:
        """The frame in progress, for when it is to come twice."""
        frame = self._frame
        frame.bytes_so_far.append(byte)
        if byte != 0 and len(frame.bytes_so_far) < _RUN:
            return
        if frame.repeat:
            self.counters.duplicated += len(frame.bytes_so_far)
            out += frame.bytes_so_far
        frame.bytes_so_far.clear()
        frame.repeat = False


_BYTES = ("burst", "drop", "insert", "duplicate", "truncate")
