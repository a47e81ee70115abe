"""What a parcel may say, from SPEC.md: the peer of kernels/core/parcel.c for hostile bytes. Values
are those of seamline.kernels.reference.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from seamline.kernels import reference

HEAD = struct.Struct("<BBBBIfi")
VALUES_MAX = 4 << 20
F32, INT8, INT4 = 0, 1, 2

Array = NDArray[Any]


def _steps_fit(codec: int, scale: float, zero: int) -> bool:
    """Only what a packer can write: a normal scale that does not overflow, a zero in the range."""
    if codec == F32:
        return (scale, zero) == (1.0, 0)
    levels = 256 if codec == INT8 else 16
    with np.errstate(all="ignore"):
        top = float(np.float32(scale) * np.float32(levels))
    return scale >= 2.0**-126 and math.isfinite(top) and -levels // 2 <= zero < levels // 2


def _size(data: bytes, offset: int) -> int | None:
    """Bytes of the parcel's values, if its header may be one; they may be missing."""
    if len(data) - offset < HEAD.size:
        return None
    codec, rounding, ndim, reserved, _, scale, zero = HEAD.unpack_from(data, offset)
    known = codec <= INT4 and rounding <= 1 and reserved == 0 and 1 <= ndim <= 4
    if not known or len(data) < offset + HEAD.size + 4 * ndim:
        return None
    count = math.prod(struct.unpack_from(f"<{ndim}I", data, offset + HEAD.size))
    if not 1 <= count <= VALUES_MAX or not _steps_fit(codec, scale, zero):
        return None
    return {F32: 4 * count, INT8: count, INT4: (count + 1) // 2}[codec]


def unpack(data: bytes, offset: int = 0) -> tuple[Array, int] | None:
    """The array and where the parcel ends; None: refused."""
    size = _size(data, offset)
    if size is None or len(data) < offset + HEAD.size + 4 * data[offset + 2] + size:
        return None
    values, end = reference.unpack(data, offset)
    if data[offset] == INT4 and values.size % 2 and data[end - 1] >> 4:
        return None
    return (values, end) if np.isfinite(values).all() else None
