"""Files for a device that calibrates without PyTorch: the float front it is given, the ranges it
answers. Both are .npz without objects; the second holds two numbers a tensor and no sample."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .calibration import F32, Ranges, layer_parameters, merge_ranges
from .errors import UserError
from .files import npz_bytes, read_npz, write_whole
from .plan import LayerSpec, PlanError, Shape, build_plan

FORMAT = 1
META = "meta"  # name of the JSON in the files
DAMAGED = 3  # exit code
Found = TypeVar("Found")
Arrays = Mapping[str, NDArray[Any]]


class FileError(UserError):
    """A file that is missing, damaged or of something else (exit code 3)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, DAMAGED)


# ---- any .npz with a description ----


def described_bytes(meta: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The same bytes for the same values."""
    words = json.dumps(meta, sort_keys=True).encode()
    return npz_bytes({**arrays, META: np.frombuffer(words, np.uint8)})


def read_described(
    path: str | Path, what: str, hint: str, make: Callable[[bytes, Arrays], Found]
) -> Found:
    """`make` of the description and the arrays in the file. what, hint: for the error.

    make may raise ValueError and whatever Python and msgspec raise for values of another type.
    Raises FileError (exit 3).
    """
    try:
        arrays = read_npz(path)
        if META not in arrays:
            raise FileError(f"{path} is no {what}: {hint}")
        return make(arrays[META].tobytes(), arrays)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except (MemoryError, RecursionError):
        raise FileError(f"{path} is damaged: it asks for more memory than there is") from None
    except PlanError as error:
        raise FileError(f"{path} is damaged: {error}") from None
    except _DAMAGE as error:
        raise FileError(f"{path} is no {what}: {error}") from None


_DAMAGE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    msgspec.MsgspecError,
)  # fmt: skip


def describe_spec(spec: LayerSpec) -> dict[str, Any]:
    """JSON has no infinity: a layer without a ceiling has none here, which is LayerSpec's default.
    `msgspec.convert` gives it back."""
    found = dataclasses.asdict(spec)
    if math.isinf(spec.ceiling):
        del found["ceiling"]
    return found


def array_of(arrays: Arrays, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """Raises ValueError for an array that is not there, or not of that type and shape."""
    found = arrays.get(name)
    if found is None or found.dtype != dtype or found.shape != shape:
        got = "nothing" if found is None else f"{found.dtype} {found.shape}"
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {got}")
    return found


# ---- the float front ----


@dataclass(frozen=True)
class FloatFront:
    """Plan layers, (h, w, c) of a sample, and the flat parameters in plan order."""

    layers: list[LayerSpec]
    input_shape: Shape
    parameters: F32

    def digest(self) -> int:
        """CRC-32 of all of it: ranges belong to the front that they were taken with."""
        return zlib.crc32(self.bytes())

    def bytes(self) -> bytes:
        layers = [describe_spec(layer) for layer in self.layers]
        meta = {"float_front": FORMAT, "input_shape": self.input_shape, "layers": layers}
        return described_bytes(meta, {"parameters": self.parameters})


class _Front(msgspec.Struct, forbid_unknown_fields=True):
    float_front: int
    input_shape: tuple[int, int, int]
    layers: list[LayerSpec]


def write_float_front(path: Path, front: FloatFront) -> None:
    """Raises OSError."""
    write_whole(path, front.bytes())


def read_float_front(path: str | Path) -> FloatFront:
    """Raises FileError (exit 3)."""
    hint = "`seamline quantize RUN --float FILE` makes one"
    return read_described(path, "float front", hint, _float_front_of)


def _float_front_of(meta: bytes, arrays: Arrays) -> FloatFront:
    found = msgspec.json.decode(meta, type=_Front)
    if found.float_front != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {found.float_front}")
    build_plan(found.layers, found.input_shape, 1)
    parameters = arrays["parameters"]
    if parameters.dtype != np.float32 or not np.isfinite(parameters).all():
        raise ValueError("parameters: expected finite float32")
    layer_parameters(found.layers, found.input_shape, parameters)
    return FloatFront(found.layers, found.input_shape, parameters)


# ---- ranges ----


@dataclass(frozen=True)
class Measured:
    """Ranges of one front on one device's samples, and how they were found."""

    ranges: Ranges
    front: int  # digest of the float front
    device: str
    method: str
    samples: int


class _Ranges(msgspec.Struct, forbid_unknown_fields=True):
    ranges: int  # format
    front: int
    device: str
    method: str
    samples: int


def write_ranges(path: Path, found: Measured) -> None:
    """Raises OSError."""
    meta = {
        "ranges": FORMAT,
        "front": found.front,
        "device": found.device,
        "method": found.method,
        "samples": found.samples,
    }
    arrays = {"lo": found.ranges.lo, "hi": found.ranges.hi}
    write_whole(path, described_bytes(meta, arrays))


def read_ranges(path: str | Path) -> Measured:
    """Raises FileError (exit 3)."""
    hint = "`seamline calibrate` makes one on a device"
    return read_described(path, "file of ranges", hint, _ranges_of)


def _ranges_of(meta: bytes, arrays: Arrays) -> Measured:
    found = msgspec.json.decode(meta, type=_Ranges)
    if found.ranges != FORMAT:
        raise ValueError(f"expected format {FORMAT}, got {found.ranges}")
    lo = arrays["lo"]
    hi = array_of(arrays, "hi", np.float32, lo.shape)
    lo = array_of(arrays, "lo", np.float32, (lo.size,))
    if not (np.isfinite(hi - lo).all() and (lo <= 0).all() and (hi >= 0).all()):
        raise ValueError("expected finite lo <= 0 <= hi")
    return Measured(Ranges(lo, hi), found.front, found.device, found.method, found.samples)


def joined_ranges(found: Sequence[Measured], front: FloatFront) -> Ranges:
    """Ranges that hold those of all devices. Raises FileError where one is of another front."""
    tensors = len(front.layers) + 1
    for one in found:
        if one.front != front.digest() or len(one.ranges.lo) != tensors:
            raise FileError(
                f"the ranges of {one.device} are of another front (or of the same before it was "
                "trained on): write it anew with --float and calibrate again"
            )
    return merge_ranges([one.ranges for one in found])
