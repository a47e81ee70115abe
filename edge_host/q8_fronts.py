"""Fronts that train in int8, on the wire: blobs of parameters, int8 gradients, ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..kernels import parcel, random_bits
from ..runtime import message as wire
from ..runtime.config import Job
from ..runtime.q8_parameters import blob_of, read_learned
from ..runtime.quantised import front_bytes
from .fronts import ZONE, VectorOf
from .q8_front import Q8Front, quantise_gradient
from .split import Split

Array = NDArray[np.float32]

ROUND_STREAM = 0x51384657  # "Q8FW": seeds of the rounding of what is sent, with the owner's CRC-32


class Q8Fronts:
    """A Q8Front for each owner; what was sent last to train is what answers are read against."""

    def __init__(self, job: Job, cut: Split) -> None:
        """Raises PlanError (exit 5) for a layer that int8 fronts do not have."""
        self.job, self.cut = job, cut
        self.fronts: dict[str, Q8Front] = {}
        self._sent: dict[str, tuple[bytes, bytes]] = {}  # owner -> vector, parcel; until a fit
        Q8Front(cut.front, cut.input_shape)

    def front(self, owner: str) -> Q8Front:
        if owner not in self.fronts:
            self.fronts[owner] = Q8Front(self.cut.front, self.cut.input_shape)
        return self.fronts[owner]

    def joined(self, owner: str, inputs: tuple[float, float] | None) -> None:
        front = self.front(owner)
        if inputs is not None:
            front.note_input(*inputs)

    def adopt(self, owner: str, other: Q8Fronts) -> None:
        """The owner's front begins with the ranges that a front cut elsewhere has found."""
        self.front(owner).adopt(other.front(owner))

    def owners(self) -> list[str]:
        return list(self.fronts)

    def weights(self, owner: str, vector: Array, to_train: bool, round_: int) -> bytes:
        front = self.front(owner)
        if not to_train:
            return wire.bytes_parcel(blob_of(front.nearest(vector)))
        before, sent = self._sent.get(owner, (b"", b""))
        if before != vector.tobytes():
            stream = (ROUND_STREAM + crc32(owner.encode())) & 0xFFFFFFFF
            seed = int(random_bits(self.job.seed, stream, round_, 1)[0])
            sent = wire.bytes_parcel(blob_of(front.send(vector, seed)))
            self._sent[owner] = vector.tobytes(), sent
        return sent

    def learned(self, owner: str, body: wire.Body) -> tuple[float, Array]:
        front = self.front(owner)
        loss, learned, extremes = wire.read_q8_weights(body)
        vector = front.learned(read_learned(front.sent, learned))
        front.note(extremes)
        return loss, vector

    def gradient(self, gradient: Array, act: wire.Body, seed: int) -> bytes:
        scale = wire.read_act_scale(act)
        g, exponent = quantise_gradient(gradient, scale, self.job.codec.rounding, seed)
        return parcel.pack_int8(g, 2.0**exponent, 0)

    def wants_report(self, last: bool) -> bool:
        return last or not all(front.settled for front in self.fronts.values())

    def round_done(self, vector_of: VectorOf) -> list[str]:
        return self._fit([o for o, front in self.fronts.items() if front.settle()], vector_of)

    def begin(self, vector_of: VectorOf) -> list[str]:
        return self._fit(self.owners(), vector_of)

    def _fit(self, owners: list[str], vector_of: VectorOf) -> list[str]:
        for owner in owners:
            self.fronts[owner].fit(vector_of(owner))
            self._sent.pop(owner, None)
        return owners

    def end(self) -> None:
        for front in self.fronts.values():
            front.next_ranges()

    def finished(self, vector_of: VectorOf, plan: bytes) -> dict[str, bytes]:
        files = {}
        for owner, front in self.fronts.items():
            nearest = front.nearest(vector_of(owner))
            blob = np.frombuffer(blob_of(nearest), np.uint8)
            own = "" if owner == ZONE else f"-{owner}"
            files[f"front-q8{own}.npz"] = front_bytes(
                nearest, plan=np.frombuffer(plan, np.uint8), blob=blob
            )
        return files

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            f"q8/{owner}/{name}": array
            for owner, front in self.fronts.items()
            for name, array in front.arrays().items()
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.fronts, self._sent = {}, {}
        for name in arrays:
            if name.startswith("q8/") and name.endswith("/ranges"):
                owner = name[len("q8/") : -len("/ranges")]
                kept = {k: arrays[f"q8/{owner}/{k}"] for k in ("ranges", "rounds")}
                self.front(owner).restore(kept)
