"""Fair timing: contenders in turn, and what this machine can do at most (the roofline)."""

from __future__ import annotations

import gc
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from ._core import peak_work, q8_peak_work

Work = Callable[[], object]
SAMPLE_S = 200e-6  # a sample is at least this long, so that the clock's own time does not count
MOST_CALLS = 1000  # in a sample
# Bytes read plus bytes written by a copy; smaller ones take Python longer to call than to do.
COPIES = (2**18, 2**20, 2**22, 2**26)


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the least and the median of the samples. noise: by how much of
    itself the least differs between thirds of the samples."""

    us: float
    us_median: float
    noise: float


@dataclass(frozen=True)
class Prepared:
    """Work that each time needs something done before it, which is not timed."""

    prepare: Work
    work: Work


def interleave(contenders: Mapping[str, Work | Prepared], repeat: int) -> dict[str, Timing]:
    """Times all contenders in turn, `repeat` samples each, so that a busy moment meets them all."""
    calls = {name: _calls(work) for name, work in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeat):
            for name, work in contenders.items():
                samples[name].append(_sample(work, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: _timing(found) for name, found in samples.items()}


def _timing(samples: list[float]) -> Timing:
    least = min(samples)
    thirds = [samples[i::3] for i in range(min(3, len(samples)))]
    noise = max(min(third) for third in thirds) / least - 1
    return Timing(least * 1e6, median(samples) * 1e6, noise)


def _sample(work: Work | Prepared, calls: int) -> float:
    """Seconds of a call."""
    if isinstance(work, Prepared):
        total = 0.0
        for _ in range(calls):
            work.prepare()
            start = time.perf_counter()
            work.work()
            total += time.perf_counter() - start
        return total / calls
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def _calls(work: Work | Prepared) -> int:
    """Calls in a sample. Warms up as well."""
    longest = min(_sample(work, 1), _sample(work, 1))
    return max(1, min(MOST_CALLS, round(SAMPLE_S / max(longest, 1e-9))))


# ---- what the machine can do ----


@dataclass(frozen=True)
class Roofline:
    """Measured on one core. macs, macs_q8: float32 and int8 multiply-adds a second of the variant
    in use, in registers. copies: bytes read plus bytes written a second by a copy, for growing
    arrays."""

    macs: float
    copies: tuple[tuple[int, float], ...]  # (bytes read and written, bytes a second)
    macs_q8: float

    def bandwidth(self, size: int) -> float:
        """Bytes a second of the largest copy of at most `size` bytes, the faster neighbour."""
        sizes = [entry[0] for entry in self.copies]
        return self.copies[max(bisect_right(sizes, size) - 1, 0)][1]

    def least_us(self, macs: float, size: int, dtype: str = "f32") -> float:
        """Microseconds below which this much work cannot be done: whichever binds. size: bytes in
        float32."""
        if dtype == "q8":
            return max(macs / self.macs_q8, size / 4 / self.bandwidth(size // 4)) * 1e6
        return max(macs / self.macs, size / self.bandwidth(size)) * 1e6


def measure_roofline(repeat: int = 15) -> Roofline:
    """Takes well under a second. Raises ValueError for repeat < 1."""
    if repeat < 1:
        raise ValueError(f"repeat: expected at least 1, got {repeat}")
    rounds = 2000
    work: dict[str, Work] = {"macs": lambda: peak_work(rounds)}
    work["macs q8"] = lambda: q8_peak_work(rounds)
    work |= {f"copy {size}": _copier(size) for size in COPIES}
    times = interleave(work, repeat)
    copies = tuple((size, size / times[f"copy {size}"].us * 1e6) for size in COPIES)
    macs = peak_work(rounds) / times["macs"].us * 1e6
    return Roofline(macs, copies, q8_peak_work(rounds) / times["macs q8"].us * 1e6)


def _copier(size: int) -> Work:
    """Copies one half of `size` bytes to the other."""
    target, source = np.ones((2, size // 2), np.uint8)  # written: untouched pages are all the same
    return lambda: np.copyto(target, source)
