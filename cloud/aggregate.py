"""The new model from the old one and the zones' differences: w <- w + sum n_z / n * d_z. The same
bits in any order of arrival."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Model = dict[str, Array]  # names and layouts of torch's state dict


@dataclass(frozen=True)
class Update:
    """What a zone learned in a round: samples it trained on, differences to the model the round
    began with (to zero where that model has no such tensor), and its metrics, JSON-able."""

    samples: int
    arrays: Model
    metrics: dict[str, Any] = field(default_factory=dict)


def aggregate(model: Mapping[str, Array], updates: Mapping[str, Update]) -> Model:
    """The model after a round; updates by zone.

    Each tensor is averaged over the zones that hold it, weighted by samples (equally, if none of
    them has any); a tensor that nobody holds stays. Sums are float64 in sorted zone order and
    rounded once to the tensor's type. A tensor that is not floating point (a counter) is the first
    zone's. (Federated averaging: McMahan et al., 2017.)
    """
    names = sorted(set(model).union(*(update.arrays for update in updates.values())))
    return {name: _tensor(name, model.get(name), updates) for name in names}


def _tensor(name: str, old: Array | None, updates: Mapping[str, Update]) -> Array:
    holders = [zone for zone in sorted(updates) if name in updates[zone].arrays]
    if not holders:
        assert old is not None
        return old
    first = updates[holders[0]].arrays[name]
    if old is None:
        old = np.zeros_like(first)
    if not np.issubdtype(old.dtype, np.floating):
        return np.asarray(old + first, old.dtype)
    total = sum(updates[zone].samples for zone in holders)
    mean = old.astype(np.float64)
    for zone in holders:
        share = updates[zone].samples / total if total else 1 / len(holders)
        mean = mean + share * updates[zone].arrays[name].astype(np.float64)
    return np.asarray(mean, old.dtype)


def model_hash(model: Mapping[str, Array]) -> str:
    """SHA-256, in hex, of names, types, shapes and values: two models with one hash are the same
    bits."""
    digest = hashlib.sha256()
    for name in sorted(model):
        array = np.ascontiguousarray(model[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{little.dtype.str}\0{array.shape}\0".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()
