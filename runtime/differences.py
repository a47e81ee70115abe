"""What models differ by, compressed tensor by tensor: the codec of each, and what is unsent yet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import SeamError, parcel
from .allocation import least_bytes, least_error, measure_options
from .config import CodecSection
from .feedback import packer, send

F32 = NDArray[np.float32]
Tensors = dict[str, F32]

CHOOSE_ROUNDS = 4  # codec.cloud "auto": cloud rounds between two choices
USUAL = "int8"  # whose error, everywhere, is the budget
OFFERED = ("f32", "f16", "int8", "int4", "int2", "top10")  # to auto
TOO_FEW = 2  # of a tensor with fewer values every codec takes more than f32's bytes, or as many


@dataclass(frozen=True)
class Packed:
    """parcels: of flat tensors, by name; values: what a receiver reads out of them."""

    parcels: dict[str, bytes]
    values: Tensors

    @classmethod
    def of(cls, tensors: Mapping[str, F32], codecs: Mapping[str, str]) -> Packed:
        """Rounded to nearest. Raises SeamError for values that are not finite, or too large."""
        parcels, values = {}, {}
        for name, tensor in tensors.items():
            parcels[name] = pack_flat(tensor, codecs[name])
            values[name] = parcel.unpack(parcels[name])[0].reshape(np.shape(tensor))
        return cls(parcels, values)


def pack_flat(tensor: F32, codec: str = "f32") -> bytes:
    """The parcel of a tensor's values in one dimension; its shape travels apart."""
    flat = np.ascontiguousarray(tensor, dtype=np.float32).reshape(-1)
    return parcel.pack(flat, codec)


def choose(
    settings: CodecSection, lacking: Mapping[str, F32], round_: int, before: Mapping[str, str]
) -> dict[str, str]:
    """The codec of each tensor in cloud round `round_`; before: of the round before, {} at first.

    "auto" chooses anew every CHOOSE_ROUNDS, by what is to be sent then. Raises NoAllocation.
    """
    if settings.cloud != "auto":
        return {n: settings.cloud if t.size >= TOO_FEW else "f32" for n, t in lacking.items()}
    if before.keys() == lacking.keys() and round_ % CHOOSE_ROUNDS:
        return dict(before)
    options = measure_options({name: t.reshape(-1) for name, t in lacking.items()}, OFFERED)
    if settings.cloud_bytes:
        return least_error(options, settings.cloud_bytes).codecs
    return least_bytes(options, USUAL, settings.cloud_alpha).codecs


def check_budget(settings: CodecSection, model: Mapping[str, F32]) -> None:
    """Raises NoAllocation if no codecs keep codec.cloud_bytes for tensors of these shapes."""
    if settings.cloud == "auto" and settings.cloud_bytes:
        nothing = {name: np.zeros(np.size(t), np.float32) for name, t in model.items()}
        least_error(measure_options(nothing, OFFERED), settings.cloud_bytes)


def name_of(model: Mapping[str, F32]) -> str:
    """Tells one estimate from another: two ends with one name have the same bits."""
    digest = hashlib.sha256()
    for name in sorted(model):
        digest.update(f"{name}\0".encode())
        digest.update(np.ascontiguousarray(model[name], "<f4").tobytes())
    return digest.hexdigest()[:32]


class Sender:
    """One end's differences: EF21 (arXiv:2106.05203) on the running sum of what was to be sent.

    With x that sum and v the receiver's, v <- v + C(x - v). Of both only `unsent` = x - v is kept:
    what C lost goes along with the next difference. codecs: of the last round.
    """

    def __init__(self, settings: CodecSection) -> None:
        self.settings = settings
        self.unsent: Tensors = {}
        self.codecs: dict[str, str] = {}

    def pack(self, difference: Mapping[str, F32], round_: int) -> Packed:
        """The parcels of a difference and of what earlier ones lacked. Raises NoAllocation, and
        SeamError for values that are not finite."""
        whole = {
            name: np.asarray(d + self.unsent[name] if name in self.unsent else d, np.float32)
            for name, d in difference.items()
        }
        self.codecs = choose(self.settings, whole, round_, self.codecs)
        packed = Packed.of(whole, self.codecs)
        self.unsent = {name: whole[name] - packed.values[name] for name in whole}
        return packed

    def forget(self) -> None:
        self.unsent, self.codecs = {}, {}


def moved(estimate: Mapping[str, F32], values: Mapping[str, F32]) -> Tensors:
    """estimate + values. Raises ValueError if names or shapes differ."""
    if {n: np.shape(t) for n, t in estimate.items()} != {n: np.shape(t) for n, t in values.items()}:
        raise ValueError("the difference has other tensors than what it is added to")
    return {name: np.asarray(t + values[name], np.float32) for name, t in estimate.items()}


class Estimate:
    """What every receiver of a broadcast has, kept by its sender too: v <- v + C(w - v).

    model: v, {} before the first; name, before: of v and of the v before it ("": none); step: the
    parcels between the two, None where v was set whole.
    """

    def __init__(self, settings: CodecSection) -> None:
        self.settings = settings
        self.model: Tensors = {}
        self.name = self.before = ""
        self.step: dict[str, bytes] | None = None
        self.codecs: dict[str, str] = {}

    def set(self, model: Mapping[str, F32]) -> None:
        """As a whole; receivers must be sent it so."""
        self.model = {name: np.asarray(t, np.float32) for name, t in model.items()}
        self.before, self.step = self.name, None
        self.name = name_of(self.model)

    def move(self, model: Mapping[str, F32], round_: int) -> None:
        """Nearer to `model`; as a whole where there is nothing to begin from, or a difference that
        no codec can carry. Raises NoAllocation."""
        if self.model.keys() != model.keys():
            self.set(model)
            return
        wanted = {name: np.asarray(t, np.float32) for name, t in model.items()}
        try:
            with np.errstate(over="ignore"):
                sent = self._send(wanted, round_)
        except SeamError:  # infinite: two numbers near the end of float32
            self.set(model)
            return
        before = self.name
        self.set({n: v.reshape(wanted[n].shape) for n, (_, v) in sent.items()})
        self.before, self.step = before, {n: data for n, (data, _) in sent.items()}

    def _send(self, wanted: Tensors, round_: int) -> dict[str, tuple[bytes, F32]]:
        lacking = {n: wanted[n] - v for n, v in self.model.items()}
        self.codecs = choose(self.settings, lacking, round_, self.codecs)
        return {
            n: send(v.reshape(-1), wanted[n].reshape(-1), packer(self.codecs[n]))
            for n, v in self.model.items()
        }
