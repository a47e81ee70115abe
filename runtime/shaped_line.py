"""One direction of a line that follows a trace over time: bytes and the time go in, (later) the
bytes come out. Nothing is lost, unless faults beside the trace say so.
"""

from __future__ import annotations

import math
import random

from .faults import GRAIN, SEGMENT, FaultLine, Faults
from .network_trace import Schedule, Trace

_AHEAD_US = 100_000  # what a line takes ahead of its rate; all else waits where it comes from
_AHEAD_LEAST = 2 * GRAIN
WAYS = {"b": "up", "a": "down"}  # end a is the device's


class ShapedLine(FaultLine):
    """The rates, delay and loss are those of the trace when a byte leaves; time 0 is the trace's.

    A byte is 8 bits on every line. What loses a segment of 1460 bytes repeats it by itself (TCP,
    or a modem), so loss is a stall of 200 ms or two delays, in which what follows waits too.
    """

    def __init__(self, trace: Trace, faults: Faults, seed: int = 0, to: str = "b") -> None:
        self.check(faults)
        self._schedule = Schedule(trace, WAYS[to])
        self._used = 0  # units of the schedule until all that was taken has left
        self._segments = _Segments(random.Random(f"{seed} {to} segments"))
        self._since: int | None = None  # when the line last began to have bytes under way
        self.busy_us = 0  # with bytes under way, until it last ran empty
        self.left = [0] * len(trace.steps)  # bytes that left in each step of the trace
        super().__init__(faults, seed, to)

    @staticmethod
    def check(faults: Faults) -> None:
        """ValueError: these faults say what the trace says."""
        if faults.rate or faults.delay_ms or faults.loss:
            raise ValueError(
                "a trace gives rate, delay and loss: leave out baud, bandwidth, delay_ms and loss"
            )

    def room(self, now_us: int) -> int:
        """As FaultLine's, but in whole grains: no reader comes for single bytes."""
        schedule = self._schedule
        waiting = max(0, self._used - schedule.capacity(now_us)) // schedule.UNITS_PER_BYTE
        ahead = max(_AHEAD_LEAST, schedule.rate(now_us) * _AHEAD_US // schedule.UNITS_PER_BYTE)
        return max(0, ahead - waiting) // GRAIN * GRAIN

    def push(self, data: bytes, now_us: int) -> None:
        super().push(data, now_us)
        if self._since is None and self._queue:
            self._since = now_us

    def arrivals(self, now_us: int) -> list[tuple[int, bytes]]:
        found = super().arrivals(now_us)
        if self._since is not None and not self._queue:
            self.busy_us += now_us - self._since
            self._since = None
        return found

    def busy_until(self, now_us: int) -> int:
        """Microseconds in which bytes were under way, until now."""
        return self.busy_us + (0 if self._since is None else now_us - self._since)

    def _pace(self, data: bytes, now_us: int) -> None:
        schedule = self._schedule
        for at in range(0, len(data), GRAIN):
            piece = data[at : at + GRAIN]
            self._used = max(self._used, schedule.capacity(now_us))
            self._used += len(piece) * schedule.UNITS_PER_BYTE
            left = schedule.moment(self._used)
            self.left[schedule.number(left - 1)] += len(piece)
            self._deliver(piece, float(left))

    def _on_the_way(self, size: int, left_us: float) -> tuple[float, int]:
        step = self._schedule.trace.steps[self._schedule.number(int(left_us))]
        return step.delay_ms, self._segments.lost(size, step.loss)


class _Segments:
    """How many segments are lost, by bytes and a share that may change from one to the next."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._luck = draw.expovariate(1.0)  # what may still be risked until the next loss

    def lost(self, size: int, share: float) -> int:
        found = 0
        self._luck += math.log1p(-share) * size / SEGMENT
        while self._luck <= 0.0:
            found += 1
            self._luck += self._draw.expovariate(1.0)
        return found
