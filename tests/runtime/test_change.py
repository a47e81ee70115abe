"""The change-point detector on seeded steps: how late it is, how often it is wrong."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import pytest
from seamline.runtime.change import SETTLE, Change, Watch


def samples(seed: int, level: float, noise: float, count: int) -> list[float]:
    random = np.random.default_rng(seed)
    return [float(x) for x in level * np.exp(random.normal(0, noise, count))]


@pytest.mark.parametrize(("noise", "allowed"), [(0.02, 0), (0.1, 0), (0.3, 2)])
def test_a_steady_link_rings_no_alarm(noise: float, allowed: int) -> None:
    alarms = 0
    for seed in range(40):
        watch = Watch()
        alarms += sum(watch.add(x) is not None for x in samples(seed, 1e6, noise, 1000))
    assert alarms <= allowed  # of 40,000 samples


@pytest.mark.parametrize(
    ("noise", "factor", "usual", "latest"),
    [
        (0.02, 0.8, 3, 5),
        (0.1, 0.5, 3, 5),
        (0.1, 2.0, 3, 5),
        (0.1, 0.8, 8, 25),
        (0.3, 0.5, 9, 25),
        (0.3, 0.1, 3, 5),
        (0.3, 10.0, 3, 5),
    ],
)
def test_a_step_is_seen_within_so_many_samples(
    noise: float, factor: float, usual: int, latest: int
) -> None:
    delays, errors = [], []
    for seed in range(100):
        watch = Watch()
        for x in samples(seed, 1e6, noise, 60):
            assert watch.add(x) is None
        for number, x in enumerate(samples(1000 + seed, factor * 1e6, noise, 200), 1):
            change = watch.add(x)
            if change is not None:
                delays.append(number)
                assert (change.after < change.before) == (factor < 1)
                assert watch.estimate is not None
                errors.append(abs(math.log(watch.estimate / (factor * 1e6))))
                break
    assert len(delays) == 100
    assert median(delays) <= usual
    assert max(delays) <= latest
    assert median(errors) <= max(noise, 0.02)


def test_one_odd_sample_is_no_change() -> None:
    watch = Watch()
    for x in samples(1, 1e6, 0.1, 50):
        watch.add(x)
    assert watch.add(1e3) is None
    assert all(watch.add(x) is None for x in samples(2, 1e6, 0.1, 50))


def test_after_a_change_the_next_one_is_seen_too() -> None:
    watch, seen = Watch(), []
    for seed, level in enumerate((1e6, 1e5, 1e6, 5e6)):
        for x in samples(seed, level, 0.1, 40):
            change = watch.add(x)
            seen += [change] if isinstance(change, Change) else []
    assert [round(math.log10(change.after / change.before), 1) for change in seen] == [
        pytest.approx(-1, abs=0.1),
        pytest.approx(1, abs=0.1),
        pytest.approx(0.7, abs=0.1),
    ]


def test_nothing_is_seen_before_the_level_is_known() -> None:
    watch = Watch()
    assert watch.estimate is None
    for number in range(SETTLE):
        assert watch.add(10.0**number) is None


def test_the_estimate_follows_what_is_no_step() -> None:
    watch = Watch()
    for step in range(200):
        watch.add(1e6 * 1.002**step)
    assert watch.estimate == pytest.approx(1e6 * 1.002**199, rel=0.05)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_rate_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Watch().add(value)
