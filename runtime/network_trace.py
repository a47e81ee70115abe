"""What a network does over time: a table of rates, read from a CSV file or made by name, and one
direction of it as a pure function of time, exact to the bit.
"""

from __future__ import annotations

import csv
import io
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError

NEEDED = ("seconds", "up_bits_per_s", "down_bits_per_s")
COLUMNS = (*NEEDED, "delay_ms", "loss")
MOST_BITS = 10**10  # a second
MOST_SECONDS = 10**8  # some three years
MOST_DELAY_MS = 60_000
MOST_LINES = 1_000_000
NONE = "none"  # no trace: the line as it is


class TraceError(UserError):
    """A trace that cannot be used (exit code 2)."""


@dataclass(frozen=True)
class Step:
    """From `start_us` on; rates in bits a second, delay of one way, loss as a share of segments."""

    start_us: int
    up: int
    down: int
    delay_ms: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Trace:
    """Steps from 0 on, the next lap begins at length_us. name: as it was asked for."""

    name: str
    steps: tuple[Step, ...]
    length_us: int

    @property
    def slowest(self) -> int:
        """Bits a second, least of both ways."""
        return min(min(step.up, step.down) for step in self.steps)

    @property
    def longest_delay_ms(self) -> float:
        return max(step.delay_ms for step in self.steps)


def make_trace(name: str, steps: list[Step]) -> Trace:
    """A step lasts until the next; the last as long as the one before it."""
    starts = [step.start_us for step in steps]
    last = starts[-1] - starts[-2] if len(starts) > 1 else 1_000_000
    return Trace(name, tuple(steps), starts[-1] + last)


class Schedule:
    """One direction of a trace that goes round and round.

    All is whole numbers, so nothing drifts: a bit has 10**6 units, and a rate of R bits a second
    gives R units each microsecond.
    """

    UNITS_PER_BYTE = 8_000_000

    def __init__(self, trace: Trace, way: str) -> None:
        """way: "up" (from the device) or "down"."""
        self.trace = trace
        self._starts = [step.start_us for step in trace.steps]
        self._rates = [step.up if way == "up" else step.down for step in trace.steps]
        ends = [*self._starts[1:], trace.length_us]
        self._sums = [0]  # units from the start of a lap to the start of each step, and to its end
        for start, end, rate in zip(self._starts, ends, self._rates, strict=True):
            self._sums.append(self._sums[-1] + rate * (end - start))

    def capacity(self, us: int) -> int:
        """Units that can have been sent from 0 until `us`."""
        laps, rest = divmod(us, self.trace.length_us)
        i = bisect_right(self._starts, rest) - 1
        return laps * self._sums[-1] + self._sums[i] + self._rates[i] * (rest - self._starts[i])

    def moment(self, units: int) -> int:
        """The first microsecond at which `capacity` has reached `units`."""
        laps, rest = divmod(units, self._sums[-1])
        i = bisect_right(self._sums, rest) - 1
        more = -((self._sums[i] - rest) // self._rates[i])  # rounded up
        return laps * self.trace.length_us + self._starts[i] + more

    def number(self, us: int) -> int:
        """Which step of the trace holds at `us`."""
        return bisect_right(self._starts, us % self.trace.length_us) - 1

    def rate(self, us: int) -> int:
        """Bits a second at `us`."""
        return self._rates[self.number(us)]


# ---- files ----


def read_traces(names: list[str], lines: int, seed: int = 0) -> list[Trace | None]:
    """One for each of `lines` lines; names: none, one for all, or one each. Raises TraceError."""
    if len(names) not in (0, 1, lines):
        raise TraceError(
            f"--trace is there {len(names)} times: give it once for all lines, or once for each "
            f"of the {lines}"
        )
    each = names if len(names) == lines else (names or [NONE]) * lines
    return [
        None if name == NONE else read_trace(name, seed + number)
        for number, name in enumerate(each)
    ]


def read_trace(text: str, seed: int = 0) -> Trace:
    """The trace of that name, or in the CSV file `text`. Raises TraceError, one line.

    seed: of names that are drawn.
    A file begins with the names of its columns (COLUMNS, in any order; delay_ms and loss may be
    left out) and says in each line what holds from `seconds` on. Empty lines and those that begin
    with # are passed over.
    """
    if text in NAMES:
        return named_trace(text, seed)
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(NAMES)
        raise TraceError(
            f"there is no network {text!r}: name one of {names}, or a CSV file"
        ) from None
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: byte {error.start} is not UTF-8; a trace is a CSV text"
        ) from None
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from None
    return parse_trace(content, text)


def parse_trace(content: str, name: str) -> Trace:
    """`read_trace` of a file's content; `name` stands in its messages."""
    lines = _lines(content, name)
    first = next(lines, None)
    if first is None:
        raise TraceError(f"{name} is empty: its first line must be {','.join(COLUMNS)}")
    columns = _columns(f"{name}, line {first[0]}", first[1])
    steps: list[Step] = []
    for number, cells in lines:
        where = f"{name}, line {number}"
        if len(steps) == MOST_LINES:
            raise TraceError(f"{where}: a trace has at most {MOST_LINES} lines")
        steps.append(_step(where, columns, cells, steps[-1].start_us if steps else None))
    if not steps:
        raise TraceError(f"{name} has no line below {','.join(columns)}: give at least one")
    return make_trace(name, steps)


def _lines(content: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of the lines that say something."""
    reader = csv.reader(io.StringIO(content))
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not cells[0].startswith("#"):
                yield reader.line_num, cells
    except csv.Error as error:
        raise TraceError(f"{name}, line {reader.line_num}: no CSV: {error}") from None


def _columns(where: str, cells: list[str]) -> list[str]:
    for cell in cells:
        if cell not in COLUMNS:
            raise TraceError(f"{where}: unknown column {cell!r}; there are {', '.join(COLUMNS)}")
        if cells.count(cell) > 1:
            raise TraceError(f"{where}: column {cell} is there twice; keep one of them")
    for column in NEEDED:
        if column not in cells:
            raise TraceError(f"{where}: column {column} is missing; add it")
    return cells


def _step(where: str, columns: list[str], cells: list[str], before_us: int | None) -> Step:
    if len(cells) != len(columns):
        raise TraceError(f"{where}: expected {len(columns)} values, found {len(cells)}")
    found = {column: _number(where, column, cells[i]) for i, column in enumerate(columns)}
    start_us = round(1e6 * found["seconds"])
    if before_us is None and start_us != 0:
        raise TraceError(f"{where}: the first line must be at 0 seconds, found {cells[0]!r}")
    if before_us is not None and start_us <= before_us:
        raise TraceError(
            f"{where}: {found['seconds']:g} seconds is not after {before_us / 1e6:g} of the line "
            "before; times must rise"
        )
    rates = []
    for column in NEEDED[1:]:
        if round(found[column]) < 1:
            raise TraceError(
                f"{where}: {column} {found[column]:g} carries nothing; give 1 or more, or leave "
                "the device out to see it alone"
            )
        rates.append(round(found[column]))
    return Step(start_us, rates[0], rates[1], found.get("delay_ms", 0.0), found.get("loss", 0.0))


_MOST: dict[str, float] = {
    "seconds": MOST_SECONDS,
    "up_bits_per_s": MOST_BITS,
    "down_bits_per_s": MOST_BITS,
    "delay_ms": MOST_DELAY_MS,
    "loss": 0.9,
}


def _number(where: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"{where}: {column} {cell!r} is not a number")
    if value < 0:
        raise TraceError(f"{where}: {column} {cell} is negative; give 0 or more")
    if value > _MOST[column]:
        raise TraceError(f"{where}: {column} {cell} is too much; at most {_MOST[column]:g}")
    return value


# ---- names ----


def named_trace(name: str, seed: int = 0) -> Trace:
    """One of NAMES. seed: of those that are drawn (3g, lora-ish)."""
    return make_trace(name, NAMES[name](random.Random(f"{name} {seed}")))


def _good(_: random.Random) -> list[Step]:
    """A common 802.11n station with one antenna: 65 Mbit/s on the air, of which about half is
    left for data; a few milliseconds. No device of ours is held up by it.
    """
    return [Step(0, 30_000_000, 30_000_000, 3.0)]


def _step_trace(_: random.Random) -> list[Step]:
    """Ours, to see what follows a change: ten seconds at 1 Mbit/s, ten at a tenth of it."""
    return [Step(0, 1_000_000, 1_000_000, 20.0), Step(10_000_000, 100_000, 100_000, 20.0)]


def _3g(draw: random.Random) -> list[Step]:
    """Two minutes, a step a second, between the two profiles by which web pages are tested:
    WebPageTest's 3GSlow (400 kbit/s both ways, 400 ms there and back) and 3G (1600 down, 768 up,
    300 ms). The way between them (a walk on their logarithm) and 0.2 % of loss are ours.
    """
    steps, share = [], 0.5
    for second in range(120):
        share = min(1.0, max(0.0, share + draw.uniform(-0.2, 0.2)))
        up = round(400_000 * (768 / 400) ** share)
        down = round(400_000 * (1600 / 400) ** share)
        steps.append(Step(1_000_000 * second, up, down, round(200 - 50 * share, 1), 0.002))
    return steps


def _lora(draw: random.Random) -> list[Step]:
    """Two minutes in spells of 5 to 20 s at LoRaWAN's two fastest European data rates: DR7 (FSK,
    50 kbit/s) and DR6 (SF7 at 250 kHz, 11 kbit/s). Only -ish: LoRaWAN's 1 % of air time and
    its payloads of 222 bytes would need hours for what takes minutes here, and down is as fast as
    up. 50 ms (a short packet's time on the air) and 1 % of loss are ours.
    """
    steps, at, fast = [], 0, True
    while at < 120:
        rate = 50_000 if fast else 11_000
        steps.append(Step(1_000_000 * at, rate, rate, 50.0, 0.01))
        at, fast = at + draw.randint(5, 20), not fast
    return steps


NAMES: dict[str, Callable[[random.Random], list[Step]]] = {
    "good": _good,
    "3g": _3g,
    "lora-ish": _lora,
    "step": _step_trace,
}
