"""Parcels: a tensor as bytes, exact (f32) or in fewer bits. SPEC.md has the layout."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ._core import (
    parcel_end,
    parcel_pack,
    parcel_pack_kept,
    parcel_unpack,
    parcel_unpack_kept,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODECS = {
    "f32": 0,
    "int8": 1,
    "int4": 2,
    "f16": 3,
    "int2": 4,
    "int8-channel": 5,
    "int4-channel": 6,
    "int2-channel": 7,
    "top10": 8,
    "randtop10": 9,
}
SPARSE = ("top10", "randtop10")  # a tenth of the values; the rest comes back as 0
KEPT = 10  # values on the places of one of those
ROUNDINGS = {"nearest": 0, "stochastic": 1}


def _number(what: str, given: str | int, table: dict[str, int]) -> int:
    if isinstance(given, str):
        if given not in table:
            raise ValueError(f"{what}: expected one of {', '.join(table)}, got {given!r}")
        return table[given]
    if given not in table.values():
        raise ValueError(f"{what}: expected one of {sorted(table.values())}, got {given!r}")
    return given


def pack(
    x: NDArray[np.float32], codec: str | int, rounding: str | int = "nearest", seed: int = 0
) -> bytes:
    """The bytes of `x` (1 to 4 dimensions, not empty, all finite).

    codec: one of CODECS; "-channel": a scale for each place of the last axis; "top10": the largest
    tenth in int8, "randtop10": one in ten of those gives way to another (Zheng et al., 2023).
    rounding: "nearest" or "stochastic"; the same seed gives the same bytes
    anywhere.
    Raises SeamError for NaN, infinity or too many values; TypeError or ValueError for other arrays.
    """
    return parcel_pack(
        x, _number("codec", codec, CODECS), _number("rounding", rounding, ROUNDINGS), seed
    )


def pack_int8(q: NDArray[np.int8], scale: float = 1.0, zero: int = 0) -> bytes:
    """The parcel of int8 values `q` (1 to 4 dimensions, not empty) that are int8 already.

    They stand for (q - zero) * scale. Raises ValueError for other arrays or a scale that is not a
    normal float32.
    """
    if q.dtype.str != "|i1" or not 1 <= q.ndim <= 4 or q.size == 0:
        raise ValueError(f"q: expected int8 of 1 to 4 dimensions, got {q.dtype} {q.shape}")
    if not 2.0**-126 <= scale < 2.0**128:
        raise ValueError(f"scale: expected a normal float32 above 0, got {scale}")
    head = struct.pack("<BBBBIfi", CODECS["int8"], 0, q.ndim, 0, 0, scale, zero)
    return head + struct.pack(f"<{q.ndim}I", *q.shape) + q.tobytes()


def pack_kept(
    x: NDArray[np.float32],
    at: bytes | bytearray | memoryview,
    rounding: str | int = "nearest",
    seed: int = 0,
    at_offset: int = 0,
) -> bytes:
    """The bytes of a gradient `x` on the places that a "top10" or "randtop10" parcel, at byte
    `at_offset` of `at`, has kept; places are not said again. Raises as `pack`, and ValueError for
    another shape, SeamError for another codec."""
    return parcel_pack_kept(x, at, at_offset, _number("rounding", rounding, ROUNDINGS), seed)


def unpack_kept(
    data: bytes | bytearray | memoryview,
    at: bytes | bytearray | memoryview,
    offset: int = 0,
    at_offset: int = 0,
) -> tuple[NDArray[np.float32], int]:
    """The inverse of `pack_kept`: 0 where nothing was kept. Raises as `unpack`."""
    return parcel_unpack_kept(data, offset, at, at_offset)


def end(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """The offset after the parcel at byte `offset` of `data`. Raises what `unpack` raises, but for
    values that only reading them shows."""
    return parcel_end(data, offset)


def unpack(
    data: bytes | bytearray | memoryview, offset: int = 0
) -> tuple[NDArray[np.float32], int]:
    """The array that starts at byte `offset` of `data`, and the offset after it.

    Never reads past the end. Raises SeamError for bytes that are not a whole, valid parcel.
    """
    return parcel_unpack(data, offset)
