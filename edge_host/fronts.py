"""What a zone's fronts are on the wire: float parameters as they are, or (q8_fronts) int8
ones with their scales.

The trainer keeps every front as one flat float vector. Fronts turn it into what a device is
sent, and what a device answers back into such a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..kernels import parcel
from ..runtime import message as wire
from ..runtime.config import Job

Array = NDArray[np.float32]
VectorOf = Callable[[str], Array]  # the vector of an owner's front as it is now

ZONE = "zone"  # owner of the front that all devices of a zone share


class Fronts(Protocol):
    """What the trainer asks of either arithmetic. owner: ZONE, or the device whose own it is."""

    def joined(self, owner: str, inputs: tuple[float, float] | None) -> None:
        """A device has come; the least and largest value of its samples, if it said so."""

    def owners(self) -> list[str]:
        """Of fronts that are not the same to train and to infer."""

    def weights(self, owner: str, vector: Array, to_train: bool, round_: int) -> bytes:
        """The parcel that brings `vector` to a device; round_: edge rounds of the job so far."""

    def learned(self, owner: str, body: wire.Body) -> tuple[float, Array]:
        """Mean loss and vector of a device's WEIGHTS. Raises ValueError for anything unusable."""

    def gradient(self, gradient: Array, act: wire.Body, seed: int) -> bytes:
        """The parcel of a gradient [n, h, w, c] of the activation in an ACT's body."""

    def wants_report(self, last: bool) -> bool:
        """Must devices answer an edge round with WEIGHTS, even if they keep their front? last: it
        is the last of a cloud round.
        """

    def round_done(self, vector_of: VectorOf) -> list[str]:
        """After an edge round. Returns owners whose devices must be sent their front anew."""

    def begin(self, vector_of: VectorOf) -> list[str]:
        """Before a cloud round; the same."""

    def end(self) -> None:
        """After a cloud round."""

    def finished(self, vector_of: VectorOf, plan: bytes) -> dict[str, bytes]:
        """Files of the finished fronts, by name, that a device needs to infer beside front.npz."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What must be kept between cloud rounds, by name."""

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `arrays`. Raises KeyError or ValueError where they do not fit."""


class F32Fronts:
    """Parameters travel as they are; nothing has to be remembered."""

    def __init__(self, job: Job, parameters: int) -> None:
        self.job, self.parameters = job, parameters

    def joined(self, owner: str, inputs: tuple[float, float] | None) -> None:
        pass

    def owners(self) -> list[str]:
        return []

    def weights(self, owner: str, vector: Array, to_train: bool, round_: int) -> bytes:
        return parcel.pack(vector, "f32")

    def learned(self, owner: str, body: wire.Body) -> tuple[float, Array]:
        _, loss, vector = wire.read_weights(body)
        vector = vector.reshape(-1)
        if vector.shape != (self.parameters,):
            raise ValueError(f"{vector.size} parameters, the front has {self.parameters}")
        if not np.isfinite(vector).all():
            raise ValueError("parameters that are not finite")
        return loss, vector

    def gradient(self, gradient: Array, act: wire.Body, seed: int) -> bytes:
        codec = self.job.codec
        if codec.down in parcel.SPARSE and codec.up in parcel.SPARSE:
            return parcel.pack(gradient * wire.act_kept(act), "top10", codec.rounding, seed)
        return parcel.pack(gradient, codec.down, codec.rounding, seed)

    def wants_report(self, last: bool) -> bool:
        return False

    def round_done(self, vector_of: VectorOf) -> list[str]:
        return []

    def begin(self, vector_of: VectorOf) -> list[str]:
        return []

    def end(self) -> None:
        pass

    def finished(self, vector_of: VectorOf, plan: bytes) -> dict[str, bytes]:
        return {}

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        pass
