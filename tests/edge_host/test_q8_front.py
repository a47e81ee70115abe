"""The edge host's side of an int8 front: master weights, what comes back, ranges, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from seamline.edge_host.models import load_model
from seamline.edge_host.q8_front import (
    EXPONENT_MIN,
    GROWTH,
    HEAD_ROOM,
    SETTLE_ROUNDS,
    SHRINK,
    START_GROWTH,
    Q8Front,
    gradient_exponent,
    quantise_gradient,
)
from seamline.edge_host.split import END, Split, float_state, split
from seamline.runtime.plan import LayerSpec, PlanError
from seamline.runtime.quantise import learned

NONE = (127, -128)  # least above largest: nothing was seen


def watch(seam: int | str = 2) -> Split:
    model = load_model("watch", {"channels": 2, "length": 32, "classes": 3}, 0)
    return split(model, seam, (2, 1, 32))


@pytest.fixture
def front() -> tuple[Q8Front, Any]:
    """(front, master) of two convolutions, inputs in -2..2."""
    cut = watch()
    made = Q8Front(cut.front, cut.input_shape)
    made.note_input(-2.0, 2.0)
    return made, cut.front_vector(float_state(cut.model))


def test_a_device_that_changes_nothing_leaves_the_master_to_the_bit(front: Any) -> None:
    q8, master = front
    sent = q8.send(master, 1)
    assert q8.learned(learned(sent)).tobytes() == master.tobytes()


def test_what_devices_change_is_added_to_the_master_in_real_values(front: Any) -> None:
    q8, master = front
    sent = q8.send(master, 1)
    parts = [(w.copy(), None if b is None else b.copy()) for w, b in learned(sent)]
    parts[0][0][3, 0, 2, 1] += 5
    parts[1][1][7] -= 1000
    scales, second = sent.layers[0].weight_scales, sent.layers[1].weight_scales
    difference = q8.learned(parts) - master
    weights = difference[: 16 * 10].reshape(16, 1, 5, 2)
    assert weights[3, 0, 2, 1] == pytest.approx(5 * scales[3], rel=1e-5)
    assert difference[-24 + 7] == pytest.approx(-1000 * sent.scale(1) * second[7], rel=1e-4)
    assert np.count_nonzero(difference) == 2


def test_changes_below_a_step_are_not_lost_over_rounds(front: Any) -> None:
    """Three of ten devices move a weight by a step, 40 times: 12 steps. Averages kept as int8 would
    stay where they were."""
    q8, master = front
    vector = master
    for round_ in range(40):
        parts = learned(q8.send(vector, round_))
        moved = [(parts[0][0] + np.int8(1), parts[0][1]), parts[1]]
        vector = np.float32(0.7) * q8.learned(parts) + np.float32(0.3) * q8.learned(moved)
    scales = q8.sent.layers[0].weight_scales
    steps = (vector - master)[: 16 * 10].reshape(16, 10) / scales[:, None]
    np.testing.assert_allclose(steps, 12, rtol=1e-4)


def test_what_is_sent_is_the_master_in_the_mean_and_the_nearest_to_infer_with(front: Any) -> None:
    q8, master = front
    q8.fit(master)
    scales = q8.nearest(master).layers[0].weight_scales
    exact = master[: 16 * 10].reshape(16, 1, 5, 2) / scales.reshape(-1, 1, 1, 1)
    many = np.mean([q8.send(master, seed).layers[0].weights for seed in range(400)], axis=0)
    assert np.abs(many - exact).max() < 0.12
    assert np.abs(q8.nearest(master).layers[0].weights - exact).max() <= 0.5 + 1e-6
    assert np.abs(exact).max(axis=(1, 2, 3)).max() < 99  # room to grow


def test_the_same_seed_sends_the_same_bytes_and_another_one_others(front: Any) -> None:
    q8, master = front
    first, again, other = (q8.send(master, seed).layers[1].weights for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_parameters_of_another_front_are_refused(front: Any) -> None:
    q8, master = front
    with pytest.raises(ValueError, match="none were sent"):
        q8.learned([])
    sent = q8.send(master, 0)
    with pytest.raises(ValueError, match="expected 2 layers"):
        q8.learned(learned(sent)[:1])
    with pytest.raises(ValueError, match=r"extremes: expected \(3, 2\), got \(2, 2\)"):
        q8.note(np.zeros((2, 2), np.int8))


# ---- ranges ----


def see(q8: Q8Front, master: Any, *pairs: tuple[int, int]) -> None:
    q8.send(master, 0)
    q8.note(np.array(pairs, np.int8))


def test_ranges_begin_as_a_guess_from_the_weights_and_the_samples(front: Any) -> None:
    q8, master = front
    q8.fit(master)
    assert tuple(q8.ranges[0]) == (-2, 2)
    assert all(q8.ranges[1:, 0] == 0) and all(0.5 < hi < 50 for hi in q8.ranges[1:, 1])


def test_a_range_that_is_too_small_doubles_and_one_that_is_too_wide_shrinks(front: Any) -> None:
    q8, master = front
    q8.fit(master)
    before = q8.ranges[:, 1].copy()
    see(q8, master, NONE, (-128, 127), (-128, -128 + 51))  # 51 of 255 steps are used
    assert q8.settle() and not q8.settled
    assert q8.ranges[1, 1] == pytest.approx(START_GROWTH * before[1], rel=1e-3)
    assert q8.ranges[2, 1] == pytest.approx(HEAD_ROOM * before[2] / 5, rel=1e-3)
    assert q8.ranges[0, 1] == before[0]


def test_ranges_settle_once_all_tensors_use_them_and_touch_no_end(front: Any) -> None:
    q8, master = front
    q8.fit(master)
    assert not q8.settle()  # nothing was seen
    see(q8, master, NONE, (-128, 100), (-128, 110))
    assert q8.settle() and q8.settled
    see(q8, master, NONE, (-128, 127), (-128, 110))
    assert not q8.settle()  # from now on they wait for the end of the cloud round


def test_ranges_that_never_rest_count_as_settled_after_some_rounds(front: Any) -> None:
    q8, master = front
    for _ in range(SETTLE_ROUNDS):
        assert not q8.settled
        q8.fit(master)
        see(q8, master, NONE, (-128, 127), (-128, 127))
        q8.settle()
    assert q8.settled


def test_settled_ranges_grow_by_a_quarter_and_shrink_by_a_tenth(front: Any) -> None:
    q8, master = front
    q8.rounds = SETTLE_ROUNDS
    q8.fit(master)
    before = q8.ranges[:, 1].copy()
    see(q8, master, NONE, (-128, 127), (-128, -128))
    see(q8, master, NONE, NONE, (-128, -127))  # of a device that saw less
    q8.next_ranges()
    assert q8.ranges[1, 1] == pytest.approx(GROWTH * before[1], rel=1e-3)
    assert q8.ranges[2, 1] == pytest.approx(SHRINK * before[2], rel=1e-3)


def test_a_fused_relu6_never_gets_a_range_beyond_its_ceiling() -> None:
    layers = [LayerSpec("conv2d", 0, (4, 4, 2)), LayerSpec("relu", 1, (4, 4, 2), ceiling=6.0)]
    q8, master = Q8Front(layers, (4, 4, 1)), np.full(4, 9, np.float32)
    q8.note_input(0.0, 5.0)
    q8.fit(master)
    see(q8, master, NONE, (-128, 127))
    assert q8.settle() and q8.settled  # clamped is not too small
    assert tuple(q8.ranges[1]) == (0, 6)


def test_ranges_survive_a_restart(front: Any) -> None:
    q8, master = front
    q8.fit(master)
    see(q8, master, NONE, (-128, 127), (-128, 20))
    q8.settle()
    cut = watch()
    again = Q8Front(cut.front, cut.input_shape)
    again.restore(q8.arrays())
    for one in (q8, again):
        one.fit(master)
    assert again.send(master, 3).scales.tobytes() == q8.send(master, 3).scales.tobytes()
    with pytest.raises(ValueError, match="ranges of 1 tensors"):
        again.restore({"ranges": np.zeros((1, 2)), "rounds": np.array(0)})


def test_a_whole_network_with_pools_has_ranges_only_where_a_scale_begins() -> None:
    cut = watch(END)
    q8 = Q8Front(cut.front, cut.input_shape)
    q8.fit(cut.front_vector(float_state(cut.model)))
    kinds = [spec.kind for spec in q8.specs]
    own = [t for t, kind in enumerate(kinds, 1) if kind in ("conv2d", "dense")]
    assert [t for t in range(1, len(q8.ranges)) if q8.ranges[t].any()] == own


def test_group_norm_is_refused_with_what_to_do() -> None:
    layers = [LayerSpec("group_norm", 0, (4, 4, 2))]
    with pytest.raises(PlanError, match="fold_batch_norm"):
        Q8Front(layers, (4, 4, 2))


# ---- gradients ----


@pytest.mark.parametrize(
    ("peak", "exponent"),
    [
        (127.0, 0),
        (127.5, 1),
        (126.9, 0),
        (63.5, -1),
        (63.51, 0),
        (127 * 2.0**20, 20),
        (0.0, EXPONENT_MIN),
        (1e-45, EXPONENT_MIN),
    ],
)
def test_the_exponent_of_a_gradient_is_the_smallest_that_holds_it(
    peak: float, exponent: int
) -> None:
    assert gradient_exponent(peak) == exponent
    assert peak <= 127 * math.ldexp(1, exponent)


def test_a_gradient_is_that_of_the_quantised_value_and_right_in_the_mean() -> None:
    gradient = np.random.default_rng(0).normal(0, 1e-3, (4, 5)).astype(np.float32)
    g, exponent = quantise_gradient(gradient, 0.04, "nearest", 0)
    assert g.dtype == np.int8 and 64 <= np.abs(g.astype(int)).max() <= 127
    step = 2.0**exponent / 0.04
    assert np.abs(g * step - gradient).max() <= 0.5 * step * 1.001
    drawn = [quantise_gradient(gradient, 0.04, "stochastic", seed)[0] for seed in range(500)]
    assert np.abs(np.mean(drawn, axis=0) * step - gradient).max() < 0.1 * step
    assert drawn[0].tobytes() == quantise_gradient(gradient, 0.04, "stochastic", 0)[0].tobytes()
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_a_gradient_of_nothing_is_nothing() -> None:
    g, exponent = quantise_gradient(np.zeros((2, 3), np.float32), 0.1, "stochastic", 7)
    assert not g.any() and exponent == EXPONENT_MIN
