"""EF21: sender and receiver keep the same estimate; only what it lacks is sent, compressed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..kernels import parcel

F32 = NDArray[np.float32]
Pack = Callable[[F32], bytes]


def packer(codec: str, rounding: str = "nearest", seed: int = 0) -> Pack:
    """A compressor made of parcels."""
    return lambda lacking: parcel.pack(lacking, codec, rounding, seed)


def send(estimate: F32, target: F32, pack: Pack) -> tuple[bytes, F32]:
    """The bytes that bring a receiver's `estimate` nearer to `target`, and the estimate that both
    then have (Richtarik, Sokolov, Fatkhullin: EF21, arXiv:2106.05203: v + C(x - v)).

    What is not sent stays in the difference and is sent later, so a compressor that only ever
    loses less than all of it (||C(d) - d|| < ||d||) converges, biased or not. Raises ValueError for
    shapes that differ, and what `pack` raises.
    """
    if estimate.shape != target.shape:
        raise ValueError(f"target: expected shape {estimate.shape}, got {target.shape}")
    data = pack(target - estimate)
    return data, receive(estimate, data)


def receive(estimate: F32, data: bytes) -> F32:
    """The receiver's new estimate, bit for bit the sender's. Raises SeamError for bytes that are
    no parcel, ValueError for another shape or bytes behind it; the estimate is not changed."""
    moved, end = parcel.unpack(data)
    if end != len(data) or moved.shape != estimate.shape:
        raise ValueError(
            f"expected one parcel of shape {estimate.shape}, got {moved.shape} and "
            f"{len(data) - end} bytes behind it"
        )
    return estimate + moved


def merge(estimate: F32, differences: dict[str, F32], shares: dict[str, float]) -> F32:
    """v + sum over children of share * Q(v_child - v), in float64 and the order of names, so that
    the bits do not depend on who came first. Raises ValueError if names differ or shares do not
    add up to 1."""
    if set(differences) != set(shares) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError("shares: expected one for each difference, adding up to 1")
    total = estimate.astype(np.float64)
    for name in sorted(differences):
        total += shares[name] * differences[name].astype(np.float64)
    return total.astype(np.float32)
