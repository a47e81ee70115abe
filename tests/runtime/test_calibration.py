"""Calibration: ranges of known distributions, and of every tensor of a front."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamline.kernels.front import Front
from seamline.runtime.calibration import (
    METHODS,
    affine,
    calibrate,
    float_tensors,
    layer_parameters,
    merge_ranges,
    observe_minmax,
    observe_mse,
    observe_percentile,
    observer,
)
from seamline.runtime.errors import UserError
from seamline.runtime.networks import NETWORKS, make_piece, network
from seamline.runtime.plan import LayerSpec, PlanError, build_plan

RNG = np.random.default_rng(5)


def floats(values) -> np.ndarray:
    return np.asarray(values, np.float32)


def square_error(x, lo, hi) -> float:
    """What rounding x to int8 over lo..hi costs in the mean, the plain way."""
    scale, zero = affine(lo, hi)
    q = np.clip(np.rint(x.astype(np.float64) / scale) + zero, -128, 127)
    return float(np.mean(((q - zero) * scale - x) ** 2))


# ---- scale and zero point ----


@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32))
def test_zero_is_an_int8_value_and_both_ends_are_within_a_step(lo, hi):
    scale, zero = affine(lo, hi)
    assert -128 <= zero <= 127 and scale > 0 and scale == np.float32(scale)
    assert (-128 - zero) * scale <= lo + scale
    assert (127 - zero) * scale >= hi - scale


def test_a_range_from_zero_on_has_its_zero_point_at_the_smallest_int8():
    for hi in (1e-3, 1.0, 6.0, 255.0):
        assert affine(0.0, hi) == (float(np.float32(hi / 255)), -128)
    assert affine(-2.0, 0.0)[1] == 127


def test_a_tensor_that_is_always_zero_gets_scale_one():
    assert affine(0.0, 0.0) == (1.0, -128)


@pytest.mark.parametrize("ends", [(1.0, 2.0), (-2.0, -1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_range_without_zero_or_without_end_is_refused(ends):
    with pytest.raises(ValueError, match="expected finite lo <= 0 <= hi"):
        affine(*ends)


# ---- the three observers ----


def test_minmax_takes_every_value_and_zero():
    assert observe_minmax(floats([3, 5, 4])) == (0.0, 5.0)
    assert observe_minmax(floats([-3, -5])) == (-5.0, 0.0)
    assert observe_minmax(floats([-3, 7])) == (-3.0, 7.0)


def test_percentile_leaves_out_as_many_values_as_it_says_at_each_end():
    x = floats(RNG.permutation(np.arange(-1000, 1001)))
    assert observe_percentile(x, 99.0) == (-980.0, 980.0)
    assert observe_percentile(x, 100.0) == observe_minmax(x)
    assert observe_percentile(floats(np.arange(100)), 99.0)[0] == 0.0  # zero belongs to it


DISTRIBUTIONS = {
    "normal": RNG.normal(size=40_000),
    "behind a ReLU": np.maximum(RNG.normal(size=40_000), 0),
    "even": RNG.uniform(-1, 3, 40_000),
    "one far outlier": np.concatenate([RNG.normal(size=40_000), [500.0]]),
    "heavy tails": RNG.laplace(size=40_000),
    "below zero": -RNG.exponential(size=40_000),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_no_clip_of_a_fine_grid_is_better_than_that_of_mse(name):
    x = floats(DISTRIBUTIONS[name])
    lo, hi = observe_minmax(x)
    found = square_error(x, *observe_mse(x))
    shares = np.linspace(0.02, 1, 99)
    assert found <= 1.01 * min(square_error(x, lo * s, hi * s) for s in shares)
    assert found <= square_error(x, lo, hi)
    assert found <= square_error(x, *observe_percentile(x))


def test_mse_keeps_an_even_distribution_whole_and_cuts_a_lonely_outlier():
    lo, hi = observe_mse(floats(DISTRIBUTIONS["even"]))
    assert lo < -0.98 and hi > 2.95
    x = floats(np.concatenate([RNG.normal(size=1_000_000), [30.0]]))
    assert observe_mse(x)[1] < 15 < observe_minmax(x)[1]


def test_mse_of_zeros_and_of_a_single_value_is_their_range():
    assert observe_mse(floats([0, 0])) == (0.0, 0.0)
    assert observe_mse(floats([2.0]))[1] == 2.0


@pytest.mark.parametrize(
    ("method", "percentile", "words"),
    [("median", 99, "minmax, percentile, mse"), ("percentile", 50, "above 50")],
)
def test_an_observer_that_there_is_not_is_refused(method, percentile, words):
    with pytest.raises(UserError, match=words):
        observer(method, percentile)


# ---- a whole front ----


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_run_is_that_of_the_device(name):
    net = network(name)
    piece = make_piece(net.layers, net.input_shape, 2)
    front = Front(build_plan(net.layers, net.input_shape, 2))
    front.params[:] = piece.parameters
    *_, y = float_tensors(net.layers, net.input_shape, piece.parameters, piece.x)
    assert np.array_equal(y, front.forward(piece.x))


def test_ranges_hold_every_tensor_of_every_layer():
    net = network("ic")
    piece = make_piece(net.layers, net.input_shape, 3)
    ranges = calibrate(net.layers, net.input_shape, piece.parameters, piece.x)
    tensors = list(float_tensors(net.layers, net.input_shape, piece.parameters, piece.x))
    assert len(tensors) == len(ranges.lo) == len(net.layers) + 1
    for lo, hi, tensor in zip(ranges.lo, ranges.hi, tensors, strict=True):
        assert (lo, hi) == observe_minmax(tensor)


def test_ranges_of_two_devices_together_are_those_of_all_samples():
    net = network("watch")
    piece = make_piece(net.layers, net.input_shape, 8)
    chain = (net.layers, net.input_shape, piece.parameters)
    both = merge_ranges([calibrate(*chain, piece.x[:3]), calibrate(*chain, piece.x[3:])])
    whole = calibrate(*chain, piece.x)
    assert np.array_equal(both.lo, whole.lo) and np.array_equal(both.hi, whole.hi)
    with pytest.raises(ValueError, match="expected one front's"):
        merge_ranges([])


def test_a_grouped_convolution_computes_each_group_alone():
    layers = [LayerSpec("conv2d", 0, (4, 4, 6), kernel=(3, 3), padding=((1, 1), (1, 1)), groups=2)]
    x, parameters = floats(RNG.normal(size=(2, 4, 4, 4))), floats(RNG.normal(size=6 * 18 + 6))
    *_, y = float_tensors(layers, (4, 4, 4), parameters, x)
    w, b = layer_parameters(layers, (4, 4, 4), parameters)[0]
    halves = []
    for g in range(2):
        half = LayerSpec("conv2d", 0, (4, 4, 3), kernel=(3, 3), padding=((1, 1), (1, 1)))
        flat = np.concatenate([w[3 * g : 3 * g + 3].ravel(), b[3 * g : 3 * g + 3]])
        own = np.ascontiguousarray(x[..., 2 * g : 2 * g + 2])
        halves.append(list(float_tensors([half], (4, 4, 2), flat, own))[-1])
    assert np.array_equal(y, np.concatenate(halves, axis=3))


CHAIN = [LayerSpec("dense", 0, (1, 1, 2)), LayerSpec("relu", 1, (1, 1, 2))]
WRONG = {
    # name: (parameters, samples, words)
    "too few parameters": (floats([1, 2, 3]), floats(np.ones((1, 1, 1, 3))), r"expected \(8,\)"),
    "too many parameters": (floats(np.ones(9)), floats(np.ones((1, 1, 1, 3))), r"got \(9,\)"),
    "another shape": (
        floats(np.ones(8)),
        floats(np.ones((1, 1, 1, 4))),
        r"expected \[n, 1, 1, 3\]",
    ),
    "no samples": (floats(np.ones(8)), floats(np.ones((0, 1, 1, 3))), r"got \(0, 1, 1, 3\)"),
    "a sample that is not finite": (
        floats(np.ones(8)),
        floats(np.full((1, 1, 1, 3), np.inf)),
        "the input gives a value that is not finite",
    ),
    "weights that are not finite": (
        floats([np.nan, *[1] * 7]),
        floats(np.ones((1, 1, 1, 3))),
        r"layer 0 \(dense\) gives a value that is not finite",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused_with_what_was_expected(case):
    parameters, x, words = case
    with pytest.raises(ValueError, match=words):
        calibrate(CHAIN, (1, 1, 3), parameters, x)


def test_group_norm_says_what_to_do_instead():
    layers = [LayerSpec("group_norm", 0, (1, 1, 4), groups=2)]
    with pytest.raises(PlanError, match="fold_batch_norm"):
        calibrate(layers, (1, 1, 4), floats(np.ones(8)), floats(np.ones((1, 1, 1, 4))))


def test_every_method_has_its_observer():
    for method in METHODS:
        lo, hi = observer(method)(floats([-1, 0, 2]))
        assert -1.01 <= lo <= 0 <= hi <= 2.01
