"""The definition of parcels in NumPy (SPEC.md), equal to the C core byte for byte.

What comes in is taken as it comes: `parcel` checks it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference import F, fma, random_bits

Array = NDArray[np.float32]
I64 = NDArray[np.int64]

ROUND, DROP, OTHERS = 0x50415243, 0x52544F50, 0x4F544852  # streams of random numbers
NUMBERS = {"f32": 0, "int8": 1, "int4": 2, "f16": 3, "int2": 4, "int8-channel": 5}
NUMBERS |= {"int4-channel": 6, "int2-channel": 7, "top10": 8, "randtop10": 9, "kept": 10}
BITS = {1: 8, 2: 4, 4: 2, 5: 8, 6: 4, 7: 2, 8: 8, 9: 8, 10: 8}
CHANNELS, SPARSE, KEPT = (5, 6, 7), (8, 9), 10
HALF_MAX = 65504.0


# ---- numbers ----


def _affine(x: Array, bits: int) -> tuple[np.float32, int]:
    low, high = min(F(0), x.min(initial=0)), max(F(0), x.max(initial=0))
    first = -(2 ** (bits - 1))
    with np.errstate(all="ignore"):
        scale = F(F(high - low) / F(2**bits - 1))
        if not np.isfinite(scale * F(2**bits)):
            raise ValueError("a value is NaN or infinite")
        if scale < F(2.0**-126):
            scale = F(1)
        zero = first - int(np.floor(F(low / scale) + F(0.5)))
    return scale, min(max(zero, first), -first - 1)


def _shifts(stochastic: bool, seed: int, index: I64) -> Any:
    """What is added before the floor, for the values of these numbers."""
    if not stochastic:
        return F(0.5)
    drawn = random_bits(seed, ROUND, 0, int(index.max(initial=0)) + 1)[index]
    return (drawn >> 8).astype(F) * F(2.0**-24)


def _quantise(x: Array, scale: Any, zero: Any, bits: int, shifts: Any) -> NDArray[np.int8]:
    t = fma(x, F(1) / scale, np.asarray(zero, F)) + shifts
    return np.asarray(np.clip(np.floor(t), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), np.int8)


def _to_bytes(q: NDArray[np.int8], bits: int) -> bytes:
    """Low bits first."""
    each = 8 // bits
    whole = np.append(q, np.zeros(-q.size % each, np.int8)).view(np.uint8) & (2**bits - 1)
    parts = whole.reshape(-1, each) << (np.arange(each) * bits).astype(np.uint8)
    return bytes(np.bitwise_or.reduce(parts, axis=1).astype(np.uint8))


def _from_bytes(raw: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.int32]:
    each, half = 8 // bits, 2 ** (bits - 1)
    parts = raw[:, None] >> (np.arange(each) * bits).astype(np.uint8) & (2**bits - 1)
    q: NDArray[np.int32] = (parts.ravel()[:count].astype(np.int32) ^ half) - half
    return q


# ---- half floats ----


def _to_half(x: Array, stochastic: bool, seed: int) -> bytes:
    x = np.clip(x, F(-HALF_MAX), F(HALF_MAX))
    if not stochastic:
        return x.astype("<f2").tobytes()
    bits = x.view(np.uint32).astype(np.uint64)
    size, exponent = bits & 0x7FFFFFFF, bits >> 23 & 255
    small = exponent < 113  # counts 2^-24
    drop = np.where(small, 126 - exponent.astype(np.int64), 13)
    mantissa = np.where(drop > 31, 0, size & 0x7FFFFF | 0x800000)
    whole = np.where(small, mantissa, size - (112 << 23)).astype(np.uint64)
    drop = np.minimum(drop, 31).astype(np.uint64)
    drawn = random_bits(seed, ROUND, 0, x.size).astype(np.uint64)
    rounded = np.where(size >= 0x477FE000, 0x7BFF, whole + (drawn >> (32 - drop)) >> drop)
    return (bits >> 16 & 0x8000 | rounded).astype("<u2").tobytes()


# ---- sparse ----


def kept_of(count: int) -> int:
    return -(-count // 10)


def _largest(keys: NDArray[np.uint32], rank: int) -> I64:
    """Places of the `rank` largest; of equals the first."""
    order = np.lexsort((np.arange(keys.size), -keys.astype(np.int64)))
    return np.sort(order[:rank])


def choose(x: Array, codec: int, seed: int) -> I64:
    """The places that are kept, ascending."""
    count, kept = x.size, kept_of(x.size)
    top = _largest(x.view(np.uint32) & np.uint32(0x7FFFFFFF), kept)
    if codec == NUMBERS["top10"]:
        return top
    gone = top[random_bits(seed, DROP, 0, count)[top] >> 8 < 1677722][: count - kept]
    rest = np.setdiff1d(np.arange(count), top)
    others = rest[_largest(random_bits(seed, OTHERS, 0, count)[rest], gone.size)]
    return np.sort(np.concatenate([np.setdiff1d(top, gone), others]))


def _low_bits(count: int) -> int:
    return (count // kept_of(count)).bit_length() - 1


def _places_to_bytes(places: I64, count: int) -> bytes:
    """Elias and Fano: the high bits as ones at (place >> bits) + number, then the low bits."""
    bits = _low_bits(count)
    high = np.zeros(((count - 1) >> bits) + places.size, np.uint8)
    high[(places >> bits) + np.arange(places.size)] = 1
    low = (places[:, None] >> np.arange(bits) & 1).astype(np.uint8)
    packed = [np.packbits(part.ravel(), bitorder="little") for part in (high, low)]
    return b"".join(map(bytes, packed))


def places_size(count: int) -> int:
    """Bytes of the places."""
    bits, kept = _low_bits(count), kept_of(count)
    return (((count - 1) >> bits) + kept + 7) // 8 + (kept * bits + 7) // 8


def read_places(raw: NDArray[np.uint8], count: int) -> I64 | None:
    """None: what no packer writes."""
    bits, kept = _low_bits(count), kept_of(count)
    end = ((count - 1) >> bits) + kept
    high, low = np.split(raw, [(end + 7) // 8])
    ones = np.flatnonzero(np.unpackbits(high, bitorder="little"))
    lows = np.unpackbits(low, bitorder="little")
    if ones.size != kept or ones[-1] >= end or lows[kept * bits :].any():
        return None
    parts = lows[: kept * bits].reshape(kept, bits).astype(np.int64) << np.arange(bits)
    places: I64 = (ones - np.arange(kept) << bits) + parts.sum(axis=1)
    fits = places[-1] < count and (np.diff(places) > 0).all()
    return places if fits else None


# ---- parcels ----


def _head(codec: int, x: Array, stochastic: bool, seed: int, scale: Any, zero: int) -> bytes:
    head = struct.pack("<BBBBIfi", codec, stochastic, x.ndim, 0, seed, scale, zero)
    return head + struct.pack(f"<{x.ndim}I", *x.shape)


def pack(x: Array, codec: str, rounding: str = "nearest", seed: int = 0) -> bytes:
    """SPEC.md, "Parcels". Raises ValueError for values that cannot be packed."""
    if not np.isfinite(x).all():
        raise ValueError("a value is NaN or infinite")
    number, stochastic = NUMBERS[codec], rounding == "stochastic"
    flat, bits = x.ravel(), BITS.get(NUMBERS[codec], 0)
    index = np.arange(x.size)
    if codec in ("f32", "f16"):
        exact = codec == "f32"
        values = x.astype("<f4").tobytes() if exact else _to_half(flat, stochastic, seed)
        return _head(number, x, stochastic, seed, 1, 0) + values
    if number in CHANNELS and x.shape[-1] > 1:
        rows = flat.reshape(-1, x.shape[-1])
        scales, zeros = zip(*(_affine(column, bits) for column in rows.T), strict=True)
        shifts = _shifts(stochastic, seed, index)
        shifts = shifts.reshape(rows.shape) if stochastic else shifts
        q = _quantise(rows, np.array(scales, F), zeros, bits, shifts).ravel()
        steps = np.array(scales, "<f4").tobytes() + np.array(zeros, np.int8).tobytes()
        return _head(number, x, stochastic, seed, 1, 0) + steps + _to_bytes(q, bits)
    if number in SPARSE:
        places = choose(flat, number, seed)
        scale, zero = _affine(flat[places], bits)
        q = _quantise(
            flat[places], scale, zero, bits, _shifts(stochastic, seed, index[: len(places)])
        )
        head = _head(number, x, stochastic, seed, scale, zero)
        return head + _places_to_bytes(places, x.size) + bytes(q)
    scale, zero = _affine(flat, bits)
    q = _quantise(flat, scale, zero, bits, _shifts(stochastic, seed, index))
    return _head(number, x, stochastic, seed, scale, zero) + _to_bytes(q, bits)


def pack_kept(x: Array, at: bytes, rounding: str = "nearest", seed: int = 0) -> bytes:
    """On the places of the sparse parcel `at`."""
    if not np.isfinite(x).all():
        raise ValueError("a value is NaN or infinite")
    places = _places_at(at, 0, x.size)
    values, stochastic = x.ravel()[places], rounding == "stochastic"
    scale, zero = _affine(values, 8)
    q = _quantise(values, scale, zero, 8, _shifts(stochastic, seed, np.arange(values.size)))
    return _head(KEPT, x, stochastic, seed, scale, zero) + bytes(q)


def _places_at(data: bytes, offset: int, count: int) -> I64:
    start = offset + 16 + 4 * data[offset + 2]
    places = read_places(np.frombuffer(data, np.uint8, places_size(count), start), count)
    assert places is not None, "a valid parcel"
    return places


def payload_size(codec: int, shape: tuple[int, ...]) -> int:
    """Bytes behind the shape."""
    count = int(np.prod(shape))
    if codec in (NUMBERS["f32"], NUMBERS["f16"]):
        return count * (4 if codec == NUMBERS["f32"] else 2)
    if codec in SPARSE:
        return places_size(count) + kept_of(count)
    if codec == KEPT:
        return kept_of(count)
    steps = 5 * shape[-1] if codec in CHANNELS and shape[-1] > 1 else 0
    return steps + -(-count * BITS[codec] // 8)


def unpack(data: bytes, offset: int = 0, at: bytes = b"") -> tuple[Array, int]:
    """The way back, for a valid parcel; at: whose places one of codec "kept" has."""
    codec, _, ndim, _, _, scale, zero = struct.unpack_from("<BBBBIfi", data, offset)
    shape = struct.unpack_from(f"<{ndim}I", data, offset + 16)
    count, start = int(np.prod(shape)), offset + 16 + 4 * ndim
    end = start + payload_size(codec, shape)
    raw = np.frombuffer(data, np.uint8, end - start, start)
    if codec in (NUMBERS["f32"], NUMBERS["f16"]):
        kind = "<f4" if codec == NUMBERS["f32"] else "<f2"
        return raw.view(kind).astype(F).reshape(shape), end
    if codec in SPARSE or codec == KEPT:
        places = _places_at(at or data, 0 if at else offset, count)
        x = np.zeros(count, F)
        q = raw[raw.size - places.size :].view(np.int8).astype(np.int32)
        x[places] = (q - zero).astype(F) * F(scale)
        return x.reshape(shape), end
    steps = 5 * shape[-1] if codec in CHANNELS and shape[-1] > 1 else 0
    q = _from_bytes(raw[steps:], count, BITS[codec])
    if not steps:
        return ((q - zero).astype(F) * F(scale)).reshape(shape), end
    scales = raw[: 4 * shape[-1]].view("<f4").astype(F)
    zeros = raw[4 * shape[-1] : steps].view(np.int8).astype(np.int32)
    rows = (q.reshape(-1, shape[-1]) - zeros).astype(F) * scales
    return rows.reshape(shape), end
