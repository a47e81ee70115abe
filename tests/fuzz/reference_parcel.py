"""What a parcel may say, from SPEC.md: the peer of kernels/core/parcel.c for hostile bytes. Values
are those of seamline.kernels.reference.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from seamline.kernels import reference_parcel as definition

HEAD = struct.Struct("<BBBBIfi")
VALUES_MAX = 4 << 20

Array = NDArray[Any]


def _steps_fit(scale: float, zero: int, bits: int) -> bool:
    """Only what a packer can write: a normal scale that does not overflow, a zero in the range."""
    levels = 2**bits
    with np.errstate(all="ignore"):
        top = float(np.float32(scale) * np.float32(levels))
    return scale >= 2.0**-126 and math.isfinite(top) and -levels // 2 <= zero < levels // 2


def _payload(data: bytes, offset: int) -> tuple[int, tuple[int, ...], slice] | None:
    """Codec, shape and place of the payload, if all of it is there and its header may be one."""
    if len(data) - offset < HEAD.size:
        return None
    codec, rounding, ndim, reserved, _, scale, zero = HEAD.unpack_from(data, offset)
    known = codec <= definition.KEPT and rounding <= 1 and reserved == 0 and 1 <= ndim <= 4
    start = offset + HEAD.size + 4 * ndim
    if not known or len(data) < start:
        return None
    shape = struct.unpack_from(f"<{ndim}I", data, offset + HEAD.size)
    if not 1 <= math.prod(shape) <= VALUES_MAX:
        return None
    plain = codec not in definition.BITS or (codec in definition.CHANNELS and shape[-1] > 1)
    if not (
        (scale, zero) == (1.0, 0) if plain else _steps_fit(scale, zero, definition.BITS[codec])
    ):
        return None
    end = start + definition.payload_size(codec, shape)
    return (codec, shape, slice(start, end)) if end <= len(data) else None


def _fits(codec: int, shape: tuple[int, ...], payload: bytes) -> bool:
    """Steps of channels, places, and zeros behind the last value."""
    raw, count = np.frombuffer(payload, np.uint8), math.prod(shape)
    if codec in definition.SPARSE:
        return definition.read_places(raw[: definition.places_size(count)], count) is not None
    bits = definition.BITS.get(codec, 8)
    if codec in definition.CHANNELS and shape[-1] > 1:
        scales, zeros = raw[: 4 * shape[-1]].view("<f4"), raw[4 * shape[-1] :].view(np.int8)
        steps = zip(scales, zeros, strict=False)
        if not all(_steps_fit(float(scale), int(zero), bits) for scale, zero in steps):
            return False
    used = count * bits % 8
    return used == 0 or not payload[-1] >> used


def unpack(data: bytes, offset: int = 0) -> tuple[Array, int] | None:
    """The array and where the parcel ends; None: refused, as is one of codec "kept" alone."""
    found = _payload(data, offset)
    if found is None or found[0] == definition.KEPT:
        return None
    if not _fits(found[0], found[1], data[found[2]]):
        return None
    with np.errstate(invalid="ignore"):
        values, end = definition.unpack(data, offset)
    return (values, end) if np.isfinite(values).all() else None
