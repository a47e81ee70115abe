"""Two ends on a bad line in virtual time: a thousand seconds of line take moments.

An end is whatever has PacketEnd's methods (feed, events, send, output, wait, joined, busy,
counters), so that each kind of end meets the same faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ..kernels._link import FULL, JOINED, MESSAGE, RESTARTED, SENT, SILENT, STUCK, PacketEnd
from .faults import FaultLine, Faults
from .handshake import DEVICE, HOST, Handshake
from .keys import new_secret, public_of, raw_key
from .sealed_end import SealedEnd

LOST = (SILENT, RESTARTED, STUCK, FULL)
CLEAN = Faults()
Event = tuple[int, bytes | None]


class End(Protocol):
    """One end of a byte line."""

    def feed(self, data: bytes, now_ms: int) -> None: ...
    def events(self) -> list[Event]: ...
    def send(self, message: bytes) -> bool: ...
    def output(self, now_ms: int, limit: int = 4096) -> bytes: ...
    def wait(self, now_ms: int) -> int: ...
    @property
    def joined(self) -> bool: ...
    @property
    def busy(self) -> bool: ...
    @property
    def counters(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class Kind:
    """A kind of end. make(side, boot_id, now_ms, figures of the packets) starts one.

    number_bits: packet numbers wrap there.
    """

    name: str
    make: Callable[..., End]
    number_bits: int = 16


def _clear(side: int, boot_id: int, now_ms: int, **config: int) -> End:
    return PacketEnd(boot_id, now_ms, **config)


NAMES = ("host-A", "watch-1")  # of end 0 and end 1
SECRETS = [new_secret() for _ in NAMES]


def _sealed(
    side: int, boot_id: int, now_ms: int, first_number: int = 0, **config: int
) -> SealedEnd:
    peer = raw_key(public_of(SECRETS[1 - side]))
    handshake = Handshake(
        HOST if side == 0 else DEVICE, NAMES[side], raw_key(SECRETS[side]),
        known={NAMES[1 - side]: peer}.get, first_number=first_number,
    )  # fmt: skip
    return SealedEnd(boot_id, now_ms, handshake, **config)


CLEAR = Kind("clear", _clear)
SEALED = Kind("sealed", _sealed, number_bits=48)


class World:
    """Two ends, a line each way, one clock (microseconds). faults: towards end 0 and towards 1."""

    def __init__(
        self,
        kind: Kind = CLEAR,
        faults: tuple[Faults, Faults] = (CLEAN, CLEAN),
        seed: int = 0,
        **config: int,
    ) -> None:
        self.kind, self.config = kind, config
        self.now_us = 0
        self.lines = [FaultLine(f, seed, to) for f, to in zip(faults, "ab", strict=True)]
        self.ends: list[End | None] = [None, None]
        self.events: list[list[Event]] = [[], []]
        self.boots = 0
        self.told = [False, False]  # a loss, noted by the owner
        self.frozen = [False, False]  # a stopped process: the line is there, nobody reads
        self.owner: Callable[[], None] = lambda: None  # looks at events and sends, at each moment
        self.wire = [0, 0]  # bytes that went towards each end
        for side in (0, 1):
            self.boot(side)

    @property
    def now_ms(self) -> int:
        return self.now_us // 1000

    def boot(self, side: int) -> End:
        """The end (re)starts: it knows nothing of what was."""
        self.boots += 1
        end = self.kind.make(side, (self.boots << 1 | side) << 16, self.now_ms, **self.config)
        self.ends[side] = end
        self.events[side].clear()
        return end

    def faults(self, **harm: object) -> None:
        """Both directions, from now on."""
        for side in (0, 1):
            self.harm(side, **harm)

    def harm(self, side: int, **harm: object) -> None:
        """The direction towards `side`, from now on; what is under way still comes."""
        line = self.lines[side]
        line.change(replace(line.faults, **harm))  # type: ignore[arg-type]

    def end(self, side: int) -> End:
        end = self.ends[side]
        assert end is not None
        return end

    def send(self, side: int, message: bytes) -> bool:
        end = self.ends[side]
        return end is not None and not self.frozen[side] and end.send(message)

    def messages(self, side: int) -> list[bytes]:
        return [data for kind, data in self.events[side] if kind == MESSAGE and data is not None]

    def lost(self, side: int) -> bool:
        return any(kind in LOST for kind, _ in self.events[side])

    def joins(self, side: int) -> int:
        return sum(kind == JOINED for kind, _ in self.events[side])

    def turn(self, most_us: int = 1_000_000) -> None:
        """All that is due now is done; then time goes to the next thing that can happen."""
        for side in (0, 1):
            self._deliver(side)
        self.owner()
        while self._flush(0) | self._flush(1):
            self.owner()
        self.now_us = max(self.now_us + 1, min(self._next(), self.now_us + most_us))

    def _next(self) -> int:
        times: list[int] = []
        for side, end in enumerate(self.ends):
            due = self.lines[side].due()
            if due is not None and not self.frozen[side]:
                times.append(due)
            if end is None or self.frozen[side]:
                continue
            free = self.lines[1 - side].free_at()
            wake = (self.now_ms + max(1, end.wait(self.now_ms))) * 1000
            times.append(free if free > self.now_us and end.wait(self.now_ms) == 0 else wake)
        return min(times, default=self.now_us + 1_000_000)

    def _deliver(self, side: int) -> None:
        end = self.ends[side]
        if self.frozen[side]:
            return
        data = self.lines[side].pop(self.now_us)
        if end is not None and data:
            end.feed(data, self.now_ms)
            self.events[side] += end.events()

    def _flush(self, side: int) -> bool:
        end, line = self.ends[side], self.lines[1 - side]
        if end is None or self.frozen[side] or line.free_at() > self.now_us:
            return False
        data = end.output(self.now_ms, 1)
        self.events[side] += end.events()
        if data:
            self.wire[1 - side] += len(data)
            line.push(data, self.now_us)
        return bool(data)

    def until(self, done: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Runs until done(); fails after limit_s. The seconds it took."""
        start = self.now_us
        while not done():
            assert self.now_us - start < limit_s * 1e6, f"a hang: {self.story()}"
            self.turn()
        return (self.now_us - start) / 1e6

    def run(self, seconds: float) -> None:
        stop = self.now_us + math.ceil(seconds * 1e6)
        while self.now_us < stop:
            self.turn(stop - self.now_us)

    def join(self) -> World:
        self.until(lambda: all(end is not None and end.joined for end in self.ends))
        return self

    def story(self) -> str:
        """What happened, without the messages' bytes."""
        kinds = [[kind for kind, _ in events][-20:] for events in self.events]
        return f"{kinds} {[end and end.counters for end in self.ends]}"


def utilisation(world: World, size: int, count: int, rate: float) -> float:
    """Share of the line's bytes that were payload, side 0 sending `count` messages of `size` in a
    row.
    """
    message = (bytes(range(1, 256)) * (size // 255 + 1))[:size]
    start, sent = world.now_us, 0

    def owner() -> None:
        nonlocal sent
        assert not world.lost(0), world.story()
        sent += sum(kind == SENT for kind, _ in world.events[0])
        world.events[0].clear()
        world.events[1].clear()
        world.send(0, message)

    world.owner = owner
    while sent < count:
        world.turn()
    return count * size / (rate * (world.now_us - start) / 1e6)
