"""What `seamline bench plan` emulates: a link of one bandwidth, a device that is slower."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from .runtime.faults import Faults
from .runtime.network_trace import Step, Trace, make_trace
from .runtime.profile import Profile, Times
from .runtime.shaped_line import ShapedLine

STEP_US = 1000


def flat(rate: int, delay_ms: float) -> Trace:
    """The same bits a second for ever."""
    return make_trace("flat", [Step(0, rate, rate, delay_ms)])


def send(
    line: ShapedLine,
    size: int,
    now_us: int,
    until: Callable[[int], None] = lambda due: None,
    pieces: list[tuple[int, int]] | None = None,
) -> int:
    """Puts so many bytes into the line from now on; the moment the last has arrived. until: told
    each moment before something is due, to wait for it or not. pieces: gets (moment, bytes)."""
    left, arrived = size, now_us
    while left or line.due() is not None:
        room = min(left, line.room(now_us))
        if room:
            line.push(bytes(room), now_us)
            left -= room
        due = line.due()
        if due is None and left:  # full of what was sent at a later moment
            due = now_us + STEP_US
        if due is not None and due > now_us:
            until(due)
            now_us = due
        for at, data in line.arrivals(now_us):
            arrived = at
            if pieces is not None:
                pieces.append((at, len(data)))
    return arrived


class Crossing:
    """Both ways of such a link."""

    def __init__(self, rate: int, delay_ms: float) -> None:
        self._trace = flat(rate, delay_ms)

    def _line(self, *, down: bool) -> ShapedLine:
        return ShapedLine(self._trace, Faults(), to="a" if down else "b")

    def seconds(self, size: int, *, down: bool = False) -> float:
        """Until so many bytes have crossed an idle line, by its own clock."""
        if not size:
            return 0.0
        return send(self._line(down=down), size, 0) / 1e6

    def wait(self, size: int, *, down: bool = False) -> None:
        """The same by this machine's clock."""
        if not size:
            return
        start = time.perf_counter()

        def until(due: int) -> None:
            time.sleep(max(0.0, start + due / 1e6 - time.perf_counter()))

        send(self._line(down=down), size, 0, until)


def slower(profile: Profile, slow: float) -> Profile:
    """The same profile with a device that takes so many times longer."""
    units = []
    for unit in profile.units:
        it = unit.device
        if it is not None:
            it = Times(slow * it.infer, slow * it.forward, slow * it.backward)
        units.append(msgspec.structs.replace(unit, device=it))
    codecs = [codec.on_device(slow) for codec in profile.codecs]
    return msgspec.structs.replace(profile, units=tuple(units), codecs=tuple(codecs))
