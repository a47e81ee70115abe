"""Parcels of a tenth of the values, of half floats and with a scale for each channel."""

from __future__ import annotations

import numpy as np
import pytest
from seamline.kernels import SeamError, parcel, reference_parcel


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("codec", parcel.SPARSE)
@pytest.mark.parametrize("rounding", parcel.ROUNDINGS)
def test_a_gradient_returns_on_the_places_of_the_activation(codec: str, rounding: str) -> None:
    for count in (1, 2, 9, 10, 11, 99, 1000, 4099):
        x, gradient = drawn(count, seed=count), drawn(count, seed=count + 1)
        sent = parcel.pack(x, codec, rounding, 5)
        got, _ = parcel.unpack(sent)
        back = parcel.pack_kept(gradient, b"ab" + sent, rounding, 6, 2)
        assert back == reference_parcel.pack_kept(gradient, sent, rounding, 6)
        assert len(back) == 20 + -(-count // 10) < len(sent)
        found, end = parcel.unpack_kept(b"x" + back, sent, 1)
        assert end == len(back) + 1
        assert found.tobytes() == reference_parcel.unpack(back, 0, sent)[0].tobytes()
        kept = reference_parcel.read_places(
            np.frombuffer(sent, np.uint8, reference_parcel.places_size(count), 20), count
        )
        assert kept is not None and len(kept) == -(-count // 10)
        others = np.setdiff1d(np.arange(count), kept)
        assert not got[others].any() and not found[others].any()
        step = np.ptp(np.append(gradient[kept], 0)) / 255
        assert np.abs(found[kept] - gradient[kept]).max() <= 2.01 * step


def test_the_largest_are_kept_and_of_equals_the_first() -> None:
    x = np.zeros(30, np.float32)
    x[[3, 7, 20, 28]] = [1, -1, 1, 0.5]
    got, _ = parcel.unpack(parcel.pack(x, "top10"))
    assert np.flatnonzero(got).tolist() == [3, 7, 20]
    x[28] = -1
    assert np.flatnonzero(parcel.unpack(parcel.pack(x, "top10"))[0]).tolist() == [3, 7, 20]


def test_one_in_ten_of_the_largest_gives_way_to_another_drawn_evenly() -> None:
    x = drawn(2000, seed=3)
    top = set(np.argsort(-np.abs(x))[:200].tolist())
    counts = np.zeros(2000)
    for seed in range(200):
        got, _ = parcel.unpack(parcel.pack(x, "randtop10", seed=seed))
        counts[np.flatnonzero(got)] += 1
    inside = np.array(sorted(top))
    outside = np.setdiff1d(np.arange(2000), inside)
    assert 0.88 < counts[inside].mean() / 200 < 0.92
    assert 0.008 < counts[outside].mean() / 200 < 0.013
    assert counts[outside].max() < 15


def test_places_cost_little() -> None:
    size = len(parcel.pack(drawn(10_000), "top10"))
    assert size < 20 + 1000 + 660  # an int8 for each and 5.3 bits for its place
    assert len(parcel.pack(drawn(10_000), "f32")) > 23 * size


def bits_of(data: bytes) -> tuple[bytearray, int]:
    """A parcel of 40 values (4 kept, 3 low bits each): 8 high bits, 12 low in 2 bytes."""
    whole = bytearray(data)
    assert len(whole) == 20 + 1 + 2 + 4
    return whole, 20


HOSTILE = {
    "a place too few": lambda data: data[20] & (data[20] - 1),
    "a place too many": lambda data: data[20] | (data[20] + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_wrong_number_of_places_is_refused(name: str) -> None:
    whole, at = bits_of(parcel.pack(drawn(40), "top10"))
    whole[at] = HOSTILE[name](whole)
    with pytest.raises(SeamError) as caught:
        parcel.unpack(bytes(whole))
    assert caught.value.status == -1


def test_any_places_are_a_packers_or_refused() -> None:
    whole, at = bits_of(parcel.pack(drawn(40), "top10"))
    rng = np.random.default_rng(1)
    taken = 0
    for _ in range(3000):
        whole[at : at + 3] = rng.bytes(3)
        places = reference_parcel.read_places(np.frombuffer(bytes(whole), np.uint8, 3, at), 40)
        try:
            got, _ = parcel.unpack(bytes(whole))
        except SeamError:
            assert places is None
            continue
        assert places is not None
        assert got.tobytes() == reference_parcel.unpack(bytes(whole))[0].tobytes()
        taken += 1
    assert taken > 5


def test_kept_values_need_the_parcel_they_belong_to() -> None:
    sent = parcel.pack(drawn(4, 10), "top10")
    back = parcel.pack_kept(drawn(4, 10), sent)
    with pytest.raises(SeamError) as caught:
        parcel.unpack(back)
    assert caught.value.status == -8
    with pytest.raises(SeamError) as caught:
        parcel.unpack_kept(back, parcel.pack(drawn(40), "top10"))
    assert caught.value.status == -9
    with pytest.raises(SeamError) as caught:
        parcel.unpack_kept(back, parcel.pack(drawn(4, 10), "int8"))
    assert caught.value.status == -8
    with pytest.raises(SeamError) as caught:
        parcel.pack_kept(drawn(4, 10), parcel.pack(drawn(4, 10), "int8"))
    assert caught.value.status == -8
    with pytest.raises(ValueError, match=r"expected shape \(4, 10\)"):
        parcel.pack_kept(drawn(40), sent)


def test_every_half_comes_back_and_what_is_beyond_is_the_largest() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = halves[np.isfinite(halves)].astype(np.float32)
    for rounding in parcel.ROUNDINGS:
        got, _ = parcel.unpack(parcel.pack(x, "f16", rounding, 1))
        assert got.tobytes() == x.tobytes()
    beyond = np.array([65504, 65519, 65520, 3e38, -1e9], np.float32)
    expected = [65504, 65504, 65504, 65504, -65504]
    for rounding in parcel.ROUNDINGS:
        assert parcel.unpack(parcel.pack(beyond, "f16", rounding))[0].tolist() == expected


def test_stochastic_halves_are_right_on_average() -> None:
    x = np.float32([1.0003, -3.3e-8, 1e-5, 1000.3])
    got = [parcel.unpack(parcel.pack(x, "f16", "stochastic", s))[0] for s in range(4000)]
    steps = np.float32([2.0**-10, 2.0**-24, 2.0**-24, 0.5])
    assert (np.abs(np.mean(got, axis=0) - x) < 0.04 * steps).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_channels_of_other_sizes_keep_their_own_step(bits: int) -> None:
    x = drawn(50, 6) * np.float32([1e-6, 1e-3, 1, 1e3, 1e6, 0])
    got, _ = parcel.unpack(parcel.pack(x, f"int{bits}-channel"))
    step = np.ptp(np.append(x, np.zeros((1, 6)), axis=0), axis=0) / (2**bits - 1)
    assert (np.abs(got - x).max(axis=0) <= 1.51 * step).all()
    assert (np.median(np.abs(got - x), axis=0) <= 0.51 * step).all()
    one = parcel.pack(x[:, 3:4].copy(), f"int{bits}-channel")
    assert one[1:] == parcel.pack(x[:, 3:4].copy(), f"int{bits}")[1:], "one channel is no channels"


def test_a_step_of_a_channel_that_no_packer_writes_is_refused() -> None:
    data = bytearray(parcel.pack(drawn(5, 3), "int4-channel"))
    at = 16 + 8
    for place, value, status in (
        (at + 3, 0xBE, -1),  # a scale below 0
        (at + 12, 8, -1),  # a zero point beyond 4 bits
        (12, 1, -1),  # a zero point for all
    ):
        damaged = bytearray(data)
        damaged[place] = value
        with pytest.raises(SeamError) as caught:
            parcel.unpack(bytes(damaged))
        assert caught.value.status == status
    damaged = bytearray(data)
    damaged[at : at + 4] = np.float32(np.nan).tobytes()
    with pytest.raises(SeamError) as caught:
        parcel.unpack(bytes(damaged))
    assert caught.value.status == -10
