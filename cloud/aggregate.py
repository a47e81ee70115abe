"""Weighted averaging of what the zones learned: float64, sorted order, so the same bits on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Model = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Update:
    """What one zone learned in a round: its difference to the model, from so many training samples."""

    samples: int
    difference: Model


def aggregate(model: Model, updates: Mapping[str, Update]) -> Model:
    """w + sum over zones of (n_z / n) * difference_z, layer by layer over the zones that hold the layer (FedAvg,
    McMahan et al., arXiv:1602.05629). A tensor the model lacks starts from zero."""
    names = sorted({*model, *(name for u in updates.values() for name in u.difference)})
    return {name: _average(model.get(name), name, updates) for name in names}


def _average(
    old: NDArray[np.float32] | None, name: str, updates: Mapping[str, Update]
) -> NDArray[np.float32]:
    holders = [zone for zone in sorted(updates) if name in updates[zone].difference]
    total = sum(updates[zone].samples for zone in holders)
    if not holders:
        assert old is not None
        return old
    shape = updates[holders[0]].difference[name].shape
    new = np.zeros(shape, np.float64) if old is None else old.astype(np.float64)
    for zone in holders:
        update = updates[zone]
        new += (update.samples / total) * update.difference[name].astype(np.float64)
    return new.astype(np.float32)
