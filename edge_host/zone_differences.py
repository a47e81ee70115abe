"""A zone's end of compressed models: what it has of the cloud's model, what it has not sent yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import SeamError
from ..runtime.config import CodecSection
from ..runtime.differences import Packed, Sender, Tensors, check_budget, moved, name_of
from ..runtime.errors import UserError
from ..runtime.message import ProtocolError

CODECS = "codecs"  # JSON in a zone's file


class ZoneDifferences:
    """model: the estimate that this zone and the cloud both have, {} before the first; name: of
    it, "" for none."""

    def __init__(self, settings: CodecSection) -> None:
        self.model: Tensors = {}
        self.name = ""
        self.sender = Sender(settings)

    def check(self, model: Tensors) -> None:
        """Raises NoAllocation if codec.cloud_bytes are too few for the model."""
        check_budget(self.sender.settings, model)

    # ---- from the cloud ----

    def take(self, meta: Mapping[str, Any], arrays: Tensors) -> bool:
        """A model as the cloud sent it, whole or as a difference. False: it begins from another one
        than this zone has, or ends at another, and must be sent whole. Raises ProtocolError for a
        whole one that is not what the cloud says."""
        from_, to = meta.get("from"), meta.get("to")
        if from_ is None:
            self.model, self.name = dict(arrays), name_of(arrays) if arrays else ""
            if to is not None and to != self.name:
                raise ProtocolError(f"expected the model {to}, got {self.name}")
            return True
        try:
            model = moved(self.model, arrays) if arrays else self.model
        except ValueError:
            model = {}
        if from_ != self.name or to != name_of(model):
            self.model, self.name = {}, ""
            return False
        self.model, self.name = model, str(to)
        return True

    # ---- to the cloud ----

    def pack(self, difference: Tensors, round_: int) -> Packed:
        """What the zone learned in cloud round `round_`, in parcels; the whole model, where the
        cloud had none, as it is. Raises UserError: numbers that no codec can carry."""
        try:
            if not self.model:
                return Packed.of(difference, dict.fromkeys(difference, "f32"))
            return self.sender.pack(difference, round_)
        except SeamError as error:
            raise UserError(
                f"what the zone learned in cloud round {round_} cannot be sent ({error}): training "
                "diverged; lower train.back_rate or train.front_rate",
                6,
            ) from error

    # ---- between two lives ----

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, for the zone's file."""
        kept: dict[str, NDArray[Any]] = {f"estimate/{n}": t for n, t in self.model.items()}
        kept |= {f"unsent/{n}": t for n, t in self.sender.unsent.items()}
        codecs = json.dumps(self.sender.codecs, sort_keys=True).encode()
        return kept | {CODECS: np.frombuffer(codecs, np.uint8)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `arrays`. Raises KeyError or ValueError where they do not fit."""
        self.model = _under("estimate/", arrays)
        self.name = name_of(self.model) if self.model else ""
        self.sender.unsent = _under("unsent/", arrays)
        self.sender.codecs = json.loads(arrays[CODECS].tobytes())


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    found = {n[len(prefix) :]: t for n, t in arrays.items() if n.startswith(prefix)}
    return {name: np.asarray(t, np.float32) for name, t in found.items()}
