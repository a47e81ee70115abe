"""What a link carries now, and since when: a running estimate, and a CUSUM that sees it change."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SETTLE = 8  # samples before a change can be seen
MEMORY = 64  # samples that the level and its spread are made of, at most
WEIGHT = 0.2  # of a new sample in the estimate
SLACK = 0.75  # spreads: half of the smallest change that is to be seen
ALARM = 9.0  # spreads, summed
FLOOR = 0.05  # the least spread: a change below a few percent is none
LIMIT = 4.0  # spreads that one sample may count, so that a single odd one is no change


@dataclass(frozen=True)
class Change:
    """The level was `before` and is `after` since `samples` samples ago (this one counts)."""

    before: float
    after: float
    samples: int


@dataclass
class Watch:
    """Follows a positive figure (bits a second, seconds of a round trip) sample by sample.

    The estimate is an exponentially weighted mean of logarithms. Beside it two sums (Page,
    Continuous inspection schemes, Biometrika 1954, https://doi.org/10.1093/biomet/41.1-2.100) add
    up how far samples lie above or below the level; one that passes ALARM is a change, and level,
    spread and estimate begin anew with the samples since that sum was last zero. Pure: no clock.
    """

    count: int = 0
    _level: float = 0.0  # of logarithms
    _variance: float = 0.0
    _estimate: float = 0.0
    _sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _since: list[list[float]] = field(default_factory=lambda: [[], []])

    @property
    def estimate(self) -> float | None:
        """What is to be expected now; None before the first sample."""
        return math.exp(self._estimate) if self.count else None

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm: about the share by which samples differ. Of few
        samples more, as few are often closer together than all.
        """
        return max(math.sqrt(self._variance) * (1 + 4 / max(self.count, 1)), FLOOR)

    def add(self, value: float) -> Change | None:
        """A sample, above 0 and finite. Returns the change, if this one completes it.

        Raises ValueError for other values; a dead link is the caller's to tell.
        """
        if not 0 < value < math.inf:
            raise ValueError(f"value: expected a finite number above 0, got {value}")
        x = math.log(value)
        if self.count >= SETTLE:
            changed = self._look(x)
            if changed is not None:
                return changed
        self._follow(x)
        return None

    def _look(self, x: float) -> Change | None:
        off = max(-LIMIT, min(LIMIT, (x - self._level) / self.spread))
        for side, sign in enumerate((1, -1)):
            self._sums[side] = max(0.0, self._sums[side] + sign * off - SLACK)
            if self._sums[side] == 0:
                self._since[side].clear()
                continue
            self._since[side] = [*self._since[side], x][-MEMORY:]
            if self._sums[side] > ALARM:
                return self._begin(self._since[side])
        return None

    def _begin(self, samples: list[float]) -> Change:
        """Anew, with these samples."""
        before = self._level
        self.count, self._variance = 0, self._variance / 2  # half known: the link's kind stays
        self._sums, self._since = [0.0, 0.0], [[], []]
        for x in samples:
            self._follow(x)
        self._estimate = self._level
        return Change(math.exp(before), math.exp(self._level), len(samples))

    def _follow(self, x: float) -> None:
        """A sample into level, spread and estimate."""
        self.count += 1
        share = 1 / min(self.count, MEMORY)
        off = x - self._level
        self._level += share * off
        if self.count > 1:
            self._variance += share * (off * off * (1 - share) - self._variance)
        weight = max(WEIGHT, 1 / self.count)
        self._estimate += weight * (x - self._estimate)
