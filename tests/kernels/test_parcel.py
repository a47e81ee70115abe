"""Parcels come back within half a step; hostile bytes are an error, never a read past the end."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels import SeamError, parcel


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_nearest_rounding_errs_by_half_a_step_at_most(codec, rng):
    for _ in range(50):
        x = (rng.standard_normal((3, 17)) * 10.0 ** rng.integers(-5, 5)).astype(np.float32)
        step = (max(x.max(), 0) - min(x.min(), 0)) / (255 if codec == "int8" else 15)
        got, _ = parcel.unpack(parcel.pack(x, codec))
        assert np.abs(got - x).max() <= step * 0.5001 + step  # the ends give way to the zero point
        assert np.quantile(np.abs(got - x), 0.8) <= step * 0.5001


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_stochastic_rounding_is_right_on_average(codec):
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    drawn = [parcel.unpack(parcel.pack(x, codec, "stochastic", s))[0] for s in range(2000)]
    step = 2 / (255 if codec == "int8" else 15)
    inner = slice(4, -4)  # the ends are clamped
    assert np.abs(np.mean(drawn, axis=0) - x)[inner].max() < 0.05 * step


def test_zero_comes_back_as_zero(rng):
    x = rng.standard_normal(100).astype(np.float32)
    x[::3] = 0
    for codec in parcel.CODECS:
        assert (parcel.unpack(parcel.pack(x, codec))[0][::3] == 0).all()


def test_f32_comes_back_as_the_same_bytes(rng):
    x = rng.integers(0, 2**32, 1000, dtype=np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    assert parcel.unpack(parcel.pack(x, "f32"))[0].tobytes() == x.tobytes()


def test_the_bytes_of_a_parcel_never_change():
    x = np.array([[-1.0, 0.25, 0.5], [0.75, 1.0, 2.0]], np.float32)
    assert parcel.pack(x, "int8", "stochastic", 7).hex() == GOLDEN["int8"]
    assert parcel.pack(x.ravel()[:5], "int4").hex() == GOLDEN["int4"]
    for codec in ("f16", "int2", "int4-channel", "randtop10"):
        assert parcel.pack(np.tile(x, (2, 2)), codec, "stochastic", 7)[24:].hex() == GOLDEN[codec]


GOLDEN = {
    "int8": "0101020007000000c1c0403cd5ffffff020000000300000080eaff152a7f",
    "int4": "02000100000000008988083effffffff05000000185306",
    "f16": "00bc0034003800bc00340038003a003c0040003a003c0040"
    "00bc0034003800bc00340038003a003c0040003a003c0040",
    "int2": "be034db23341",
    "int4-channel": "efeeee3d8988883d8988083eefeeee3d8988883d8988083e01f8f801f8f8"
    "c99ccc777777c89ccc777777",
    "randtop10": "1618017f7f7f",
}


def header(*, codec=1, rounding=0, zero=0, scale=1.0, point=0, shape=(2, 3)):
    return struct.pack("<BBBBIfi", codec, rounding, len(shape), zero, 0, scale, point) + (
        struct.pack(f"<{len(shape)}I", *shape)
    )


HOSTILE = {
    "nothing": (b"", -3),
    "half a header": (header()[:15], -3),
    "no shape": (header()[:20], -3),
    "no payload": (header(), -3),
    "one byte short": (header() + bytes(5), -3),
    "unknown codec": (header(codec=11) + bytes(99), -8),
    "unknown rounding": (header(rounding=2) + bytes(99), -1),
    "byte that must be zero": (header(zero=1) + bytes(99), -1),
    "no axes": (header(shape=()) + bytes(99), -7),
    "five axes": (header(shape=(1, 1, 1, 1, 1)) + bytes(99), -7),
    "empty": (header(shape=(0, 3)) + bytes(99), -7),
    "too many values": (header(shape=(1 << 22, 2)) + bytes(99), -7),
    "a product that wraps to 0": (header(shape=(1 << 16, 1 << 16, 1 << 16, 1 << 16)), -7),
    "a product that wraps to 4": (header(shape=(1 << 31, 2, 1, 4)) + bytes(99), -7),
    "scale 0": (header(scale=0) + bytes(6), -1),
    "scale below 0": (header(scale=-1) + bytes(6), -1),
    "scale subnormal": (header(scale=1e-40) + bytes(6), -1),
    "scale NaN": (header(scale=float("nan")) + bytes(6), -10),
    "scale infinite": (header(scale=float("inf")) + bytes(6), -10),
    "scale that overflows": (header(scale=3e38) + bytes(6), -10),
    "zero point too large": (header(point=128) + bytes(6), -1),
    "zero point too small": (header(point=-129) + bytes(6), -1),
    "zero point of int4": (header(codec=2, point=8) + bytes(3), -1),
    "scale of f32": (header(codec=0, scale=2) + bytes(24), -1),
    "zero point of f32": (header(codec=0, point=1) + bytes(24), -1),
    "NaN in f32": (header(codec=0) + bytes(20) + b"\0\0\xc0\x7f", -10),
    "infinity in f16": (header(codec=3, shape=(2,)) + b"\0\0\0\x7c", -10),
    "last two bits": (header(codec=4, shape=(3,)) + b"\x40", -1),
    "kept alone": (header(codec=10, shape=(3,)) + b"\0", -8),
    "last nibble": (header(codec=2, shape=(3,)) + b"\0\x10", -1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name):
    data, status = HOSTILE[name]
    with pytest.raises(SeamError) as caught:
        parcel.unpack(data)
    assert caught.value.status == status


WHOLE = parcel.pack(np.arange(15, dtype=np.float32).reshape(3, 5), "int4", "stochastic", 3)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_gives_an_array_or_an_error(data):
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))] + data.draw(st.binary(max_size=9))
    try:
        x, end = parcel.unpack(bytes(damaged))
    except SeamError:
        return
    assert end <= len(damaged)
    assert np.isfinite(x).all()


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_any_bytes_give_an_array_or_an_error(data):
    try:
        x, end = parcel.unpack(data)
    except SeamError:
        return
    assert end <= len(data)
    assert np.isfinite(x).all()
