"""Every variant's codec gives the bytes of the definition, at ends of parts and at ties too."""

from __future__ import annotations

import numpy as np
import pytest
from seamline.kernels import SeamError, parcel, q8, reference_parcel, reference_q8

# Around whole vectors and whole parts (64 values) of any variant.
COUNTS = [*range(1, 20), *range(60, 70), *range(124, 132), 255, 256, 257, 1000, 4099]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("codec", parcel.CODECS)
def test_parcels_of_any_size_equal_the_definition(each_variant, codec, rounding, rng):
    for count in COUNTS:
        x = (rng.standard_normal(count) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
        if count % 3 == 0:
            x = np.abs(x)
        if count % 5 == 0:
            x[rng.integers(0, count, 3)] = -0.0
        data = parcel.pack(x, codec, rounding, count)
        assert data == reference_parcel.pack(x, codec, rounding, count)
        got, end = parcel.unpack(b"skip" + data, 4)
        assert end == len(data) + 4
        assert got.tobytes() == reference_parcel.unpack(data)[0].tobytes()


@pytest.mark.parametrize("codec", parcel.CODECS)
def test_values_between_two_steps_equal_the_definition(each_variant, codec):
    steps = np.arange(-200, 200, dtype=np.float32) / 2
    x = np.concatenate([steps, np.nextafter(steps, np.float32(1e9)), steps + np.float32(0.25)])
    for scale in (1.0, 0.0173, 1e-30):
        y = x * np.float32(scale)
        assert parcel.pack(y, codec) == reference_parcel.pack(y, codec)


@pytest.mark.parametrize("place", [0, 17, 63, 64, 99])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_anywhere(each_variant, bad, place):
    x = np.ones(100, np.float32)
    x[place] = bad
    for codec in parcel.CODECS:
        with pytest.raises(SeamError):
            parcel.pack(x, codec)
    forged = bytearray(parcel.pack(np.ones(100, np.float32), "f32"))
    forged[-400:] = x.tobytes()
    with pytest.raises(SeamError):
        parcel.unpack(bytes(forged))


@pytest.mark.parametrize("rounding", ["half_away", "half_even"])
def test_quotients_near_a_half_equal_the_definition(each_variant, rounding, rng):
    """There a product by 1 / scale rounds to the other side."""
    for scale in [np.float32(s) for s in (1.0, 0.1, 0.0173, 3.7e-20, 1.2e-38, 8e30, 3e38)]:
        quotients = rng.integers(-300, 300, 40) + 0.5
        near = np.clip(quotients * np.float64(scale), -3e38, 3e38).astype(np.float32)
        for _ in range(3):
            near = np.concatenate([near, np.nextafter(near, np.float32(0))])
        rest = np.clip(rng.standard_normal(200) * 70 * np.float64(scale), -3e38, 3e38)
        rest = rest.astype(np.float32)
        for x in (near, rest, np.concatenate([rest[:70], near, rest])):
            zero = int(rng.integers(-128, 128))
            got = q8.quantise(x, scale, zero, rounding)
            assert got.tobytes() == reference_q8.quantise(x, scale, zero, rounding).tobytes()


@pytest.mark.parametrize("place", [0, 31, 63, 64, 99])
def test_a_quotient_of_nothing_is_an_error(each_variant, place):
    x = np.zeros(100, np.float32)
    x[place] = np.nan
    with pytest.raises(SeamError):
        q8.quantise(x, 1.0, 0)
    x[place] = np.inf
    assert q8.quantise(x, 1.0, 3).tolist() == [127 if i == place else 3 for i in range(100)]
