"""Data of your own: a function that yields samples, called on the device; read your sensor here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def windows(
    station: int, noise: float = 0.4, count: int = 300
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Windows x [64, 2] of a slow, a middling or a fast wave, in order of time; y says which.

    station: the device's own entry in the job file; each has waves of its own strength.
    """
    rng = np.random.default_rng(station)
    time = np.arange(64) / 64
    for _ in range(count):
        kind = int(rng.integers(3))
        angle = 2 * np.pi * ((2 + 3 * kind) * time + rng.random())
        wave = np.stack([np.sin(angle), np.cos(angle)], axis=1) * (0.5 + 0.25 * station)
        yield (wave + rng.normal(0, noise, wave.shape)).astype(np.float32), kind
