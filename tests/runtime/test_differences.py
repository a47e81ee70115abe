"""Compressed models: both ends have the same bits, what a codec loses comes later, and a choice of
codecs is never larger than one codec of the same error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamline.kernels import parcel
from seamline.runtime.allocation import NoAllocation
from seamline.runtime.config import CodecSection
from seamline.runtime.differences import (
    CHOOSE_ROUNDS,
    Estimate,
    Packed,
    Sender,
    check_budget,
    moved,
    name_of,
)

SHAPES = {"conv.weight": (8, 3, 5), "conv.bias": (8,), "norm.scale": (1,), "dense.weight": (40, 30)}


def model(seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Tensors of very different sizes, as those of layers are."""
    rng = np.random.default_rng(seed)
    scales = dict(zip(SHAPES, (1.0, 0.01, 0.3, 0.1), strict=True))
    return {
        name: (spread * scales[name] * rng.normal(size=shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def unpacked(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return parcel.unpack(data)[0].reshape(shape)


def far(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum((one[n].astype(float) - other[n]) ** 2) for n in one)))


@pytest.mark.parametrize("codec", ["int8", "int4", "auto"])
def test_a_broadcast_reaches_a_model_that_stands_still(codec: str) -> None:
    estimate = Estimate(CodecSection(cloud=codec))
    receiver: dict[str, np.ndarray] = {}
    for round_, target in enumerate([model(0), *[model(1)] * 12]):
        estimate.move(target, round_)
        if estimate.step is None:
            receiver = estimate.model
        else:
            receiver = moved(receiver, {n: unpacked(estimate.step[n], SHAPES[n]) for n in SHAPES})
        assert name_of(receiver) == estimate.name
    assert far(receiver, model(1)) < 1e-5 * far(model(1), model(0))


@given(seed=st.integers(0, 50), codec=st.sampled_from(["int8", "int4", "auto"]))
def test_what_was_sent_and_what_was_not_are_all_there_was(seed: int, codec: str) -> None:
    sender = Sender(CodecSection(cloud=codec))
    wanted = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    sent = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for round_ in range(6):
        difference = model(seed + round_)
        packed = sender.pack(difference, round_)
        for name in SHAPES:
            wanted[name] += difference[name]
            sent[name] += packed.values[name]
    left = {name: wanted[name] - sent[name] for name in SHAPES}
    for name, unsent in sender.unsent.items():
        np.testing.assert_allclose(unsent, left[name], atol=1e-5)
    lost = Packed.of(difference, sender.codecs)
    assert (
        far(sender.unsent, dict.fromkeys(SHAPES, np.float32(0)))
        < 3 * far(lost.values, difference) + 1e-6
    ), "what is lost does not pile up"


def test_a_choice_is_never_larger_than_one_codec_of_the_same_error() -> None:
    for seed in range(20):
        difference = model(seed)
        uniform = Packed.of(difference, dict.fromkeys(difference, "int8"))
        chosen = Sender(CodecSection(cloud="auto")).pack(difference, 0)
        assert size(chosen) <= size(uniform)
        assert far(chosen.values, difference) <= far(uniform.values, difference) * (1 + 1e-6)
        twice = Sender(CodecSection(cloud="auto", cloud_alpha=2.0)).pack(difference, 0)
        assert size(twice) <= size(chosen)
        assert far(twice.values, difference) <= 2 * far(uniform.values, difference) * (1 + 1e-6)


def size(packed: Packed) -> int:
    return sum(map(len, packed.parcels.values()))


def test_a_budget_of_bytes_is_kept_and_one_that_cannot_be_is_refused_with_the_least() -> None:
    whole = size(Sender(CodecSection(cloud="int8")).pack(model(3), 0))
    least = size(Sender(CodecSection(cloud="auto", cloud_alpha=1e9)).pack(model(3), 0))
    errors = []
    for budget in range(least, whole + 200, 150):
        packed = Sender(CodecSection(cloud="auto", cloud_bytes=budget)).pack(model(3), 0)
        assert size(packed) <= budget
        errors.append(far(packed.values, model(3)))
    assert errors == sorted(errors, reverse=True)
    check_budget(CodecSection(cloud="auto", cloud_bytes=least), model(3))
    with pytest.raises(NoAllocation, match=f"fewest possible are {least:,}"):
        check_budget(CodecSection(cloud="auto", cloud_bytes=least - 1), model(3))


def test_codecs_are_chosen_anew_every_few_rounds_and_kept_between() -> None:
    sender = Sender(CodecSection(cloud="auto", cloud_alpha=4.0))
    sender.pack(model(0), 0)
    first = sender.codecs
    other = {**model(1), "dense.weight": model(1)["dense.weight"] * 1000}
    for round_ in range(1, CHOOSE_ROUNDS):
        sender.pack(other, round_)
        assert sender.codecs == first
    sender.pack(other, CHOOSE_ROUNDS)
    assert sender.codecs != first


def test_an_estimate_is_set_whole_where_no_difference_can_carry_it() -> None:
    estimate = Estimate(CodecSection(cloud="int8"))
    low, high = ({"w": np.array([x, 0], np.float32)} for x in (-3e38, 3e38))
    estimate.move(low, 0)
    estimate.move(high, 1)
    assert estimate.step is None and estimate.model["w"][0] == np.float32(3e38)


def test_a_difference_of_other_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="other tensors"):
        moved({"w": np.zeros(3, np.float32)}, {"w": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="other tensors"):
        moved({"w": np.zeros(3, np.float32)}, {"v": np.zeros(3, np.float32)})
