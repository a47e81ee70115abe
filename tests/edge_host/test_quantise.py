"""From float to int8: weight scales, folded batch norm, whole fronts."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.edge_host import fold_batch_norm, load_model, split
from seamline.edge_host.models import with_input_shape
from seamline.edge_host.split import END, float_state
from seamline.kernels import q8, reference_q8
from seamline.runtime.calibration import (
    METHODS,
    Ranges,
    calibrate,
    float_tensors,
    layer_parameters,
    merge_ranges,
    observer,
    weight_shape,
)
from seamline.runtime.networks import make_piece, network
from seamline.runtime.plan import LayerSpec, PlanError
from seamline.runtime.quantise import (
    TERMS,
    learned,
    quantise,
    real_parameters,
)
from seamline.runtime.quantised import check, compare, run, run_layers
from torch import nn

torch.set_num_threads(1)


def piece_of(name: str, samples: int = 4):
    net = network(name)
    return make_piece(net.layers, net.input_shape, samples)


def front_of(piece, method: str = "minmax", **options):
    chain = (piece.layers, piece.input_shape, piece.parameters)
    return quantise(*chain, calibrate(*chain, piece.x, observer(method)), **options)


def fidelity(front, piece, x=None) -> float:
    """dB at the output."""
    x = piece.x if x is None else x
    floats = float_tensors(piece.layers, piece.input_shape, piece.parameters, x)
    return compare(front, floats, run_layers(front, front.quantise(x)))[-1].sqnr_db


# ---- weights ----


@pytest.mark.parametrize("name", ["kws", "ic", "watch"])
def test_each_channel_uses_the_whole_of_int8_and_no_weight_is_off_by_more_than_half_a_step(name):
    piece = piece_of(name)
    front = front_of(piece)
    parts = [p for p in layer_parameters(piece.layers, piece.input_shape, piece.parameters) if p]
    weighted = [layer for layer in front.layers if layer.weights is not None]
    for layer, (w, bias) in zip(weighted, parts, strict=True):
        axis = 3 if layer.spec.kind == "depthwise" else 0
        channels = np.moveaxis(layer.weights, axis, 0).reshape(len(layer.weight_scales), -1)
        assert (np.abs(channels.astype(int)).max(axis=1) == 127).all()
        scales = layer.weight_scales.astype(np.float64)
        real = np.moveaxis(layer.weights * 1.0, axis, -1) * scales
        wanted = np.moveaxis(w, axis, -1)
        assert (np.abs(real - wanted) <= 0.5001 * scales).all()
        units = front.scale(layer.spec.input) * scales
        assert (np.abs(layer.bias * units - bias) <= 0.5001 * units).all()


def test_one_scale_a_layer_is_the_largest_of_its_channels():
    piece = piece_of("watch")
    apart, together = front_of(piece), front_of(piece, per_tensor=True)
    for a, b in zip(apart.layers, together.layers, strict=True):
        if a.weights is not None:
            assert set(b.weight_scales.tolist()) == {float(a.weight_scales.max())}


def test_multipliers_are_input_scale_times_weight_scale_over_output_scale_in_double():
    front = front_of(piece_of("kws"))
    for tensor, layer in enumerate(front.layers, 1):
        if layer.weights is not None:
            real = front.scale(layer.spec.input) * layer.weight_scales.astype(np.float64)
            m, e = q8.multiplier_of(real / front.scale(tensor))
            assert np.array_equal(m, layer.multiplier) and np.array_equal(e, layer.shift)


def test_pools_and_flatten_keep_the_scale_of_their_input_and_sums_get_their_own():
    front = front_of(piece_of("ic"))
    for tensor, layer in enumerate(front.layers, 1):
        if layer.spec.kind == "average_pool":
            assert front.scale(tensor) == front.scale(layer.spec.input)
            assert front.zero(tensor) == front.zero(layer.spec.input)
        if layer.spec.kind == "add":
            a, b = (front.scale(t) for t in layer.spec.inputs())
            assert layer.sum == q8.sum_scaling(a, b, front.scale(tensor))


def test_behind_a_relu_the_zero_point_is_the_smallest_int8():
    front = front_of(piece_of("kws"), "mse")
    for tensor, layer in enumerate(front.layers, 1):
        if layer.ceiling is not None:
            assert front.zero(tensor) == -128 == layer.y_min


DENSE = [LayerSpec("dense", 0, (1, 1, 3))]


def dense_front(w, bias, x, **options):
    parameters = np.concatenate([np.ravel(w), bias]).astype(np.float32)
    x = np.asarray(x, np.float32).reshape(len(x), 1, 1, -1)
    shape = x.shape[1:]
    ranges = calibrate(DENSE, shape, parameters, x)
    return quantise(DENSE, shape, parameters, ranges, **options), x


def test_a_channel_without_weights_gets_the_mean_scale_and_still_gives_its_bias():
    front, x = dense_front([[1, -2], [0, 0], [4, 2]], [0.5, 0.25, 0], [[1, -1], [0.5, 1]])
    layer = front.layers[0]
    assert layer.weight_scales[1] == pytest.approx((2 + 4) / 2 / 127)
    y = front.dequantise(1, run(front, front.quantise(x)))
    assert np.abs(y[:, 0, 0, 1] - 0.25).max() <= front.scale(1)


def test_a_front_that_makes_nothing_but_zeros_stays_one():
    front, x = dense_front(np.zeros((3, 2)), np.zeros(3), [[1, -1], [0.5, 1]])
    assert not front.dequantise(1, run(front, front.quantise(x))).any()


def test_a_bias_beyond_all_weights_fits_in_int32_and_wraps_no_sum():
    front, x = dense_front([[1e-12, 1e-12], [1, 1], [0, 0]], [1e6, 0, -1e6], [[1, -1], [0.5, 1]])
    y = front.dequantise(1, run(front, front.quantise(x)))[:, 0, 0]
    assert np.abs(y - [1e6, 0, -1e6]).max() <= front.scale(1)


def test_a_tiny_range_of_the_output_makes_no_sum_wrap():
    """The calibration saw almost nothing; what comes later must saturate, not turn around."""
    parameters = np.array([3, 2, 1, 2, 1, -3, 0, 0, 0], np.float32)
    tiny = Ranges(np.array([-1, -1e-9], np.float32), np.array([1, 1e-9], np.float32))
    front = quantise(DENSE, (1, 1, 2), parameters, tiny)
    x = np.array([[[[1.0, 1.0]]], [[[-1.0, -1.0]]]], np.float32)
    y = run(front, front.quantise(x))[:, 0, 0]
    assert y.tolist() == [[127, 127, -128], [-128, -128, 127]]


# ---- whole fronts ----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seam", [1, 2, 3, END])
def test_the_watch_net_in_int8_stays_near_torch(method, seam):
    model = load_model("watch", {}, 3).eval()
    cut = split(model, seam, (6, 1, 100))
    x = np.random.default_rng(1).normal(size=(32, 1, 100, 6)).astype(np.float32)
    vector = cut.front_vector(float_state(cut.model))
    ranges = calibrate(cut.front, cut.input_shape, vector, x, observer(method))
    front = quantise(cut.front, cut.input_shape, vector, ranges)
    with torch.no_grad():
        logits = cut.back(cut.to_nchw(front.dequantise(len(front.layers), run(
            front, front.quantise(x)))))  # fmt: skip
        wanted = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    noise = float(((logits - wanted) ** 2).sum())
    assert 10 * np.log10(float((wanted**2).sum()) / noise) > 28


class Normed(nn.Module):
    """Batch norm behind a convolution, a depthwise one and a dense layer, with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.pool, self.flat = nn.MaxPool2d(2), nn.Flatten()
        self.dense, self.norm3 = nn.Linear(128, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.nn.functional.relu6(y + self.norm2(self.deep(y)))
        return self.norm3(self.dense(self.flat(self.pool(y))))


def normed() -> nn.Module:
    torch.manual_seed(0)
    model = Normed()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.2, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 3)
    return with_input_shape(model.eval(), (3, 8, 8))


def test_folded_batch_norm_computes_what_torch_does_and_its_weights_are_scaled_exactly():
    model = normed()
    cut = split(fold_batch_norm(model), END, (3, 8, 8))
    x = np.random.default_rng(2).normal(size=(16, 8, 8, 3)).astype(np.float32)
    vector = cut.front_vector(float_state(cut.model))
    *_, y = float_tensors(cut.front, cut.input_shape, vector, x)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.allclose(y[:, 0, 0], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    front = quantise(cut.front, cut.input_shape, vector, calibrate(cut.front, cut.input_shape,
                     vector, x))  # fmt: skip
    factor = model.norm.weight / torch.sqrt(model.norm.running_var + model.norm.eps)
    folded = (model.conv.weight * factor[:, None, None, None]).detach().numpy()
    layer = front.layers[0]
    assert [spec.spec.kind for spec in front.layers] == [
        "conv2d", "depthwise", "add", "max_pool", "dense",
    ]  # fmt: skip
    real = layer.weights * layer.weight_scales[:, None, None, None].astype(np.float64)
    step = layer.weight_scales[:, None, None, None]
    assert (np.abs(real.transpose(0, 3, 1, 2) - folded) <= 0.501 * step).all()
    q = front.dequantise(len(front.layers), run(front, front.quantise(x)))[:, 0, 0]
    assert 10 * np.log10((wanted**2).sum() / ((q - wanted) ** 2).sum()) > 28


def test_a_grouped_convolution_is_quantised_like_any_other():
    layers = [
        LayerSpec("conv2d", 0, (4, 4, 8), kernel=(3, 3), padding=((1, 1), (1, 1)), groups=2),
        LayerSpec("relu", 1, (4, 4, 8)),
    ]
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=8 * 27 + 8).astype(np.float32)
    x = rng.normal(size=(8, 4, 4, 6)).astype(np.float32)
    front = quantise(layers, (4, 4, 6), parameters, calibrate(layers, (4, 4, 6), parameters, x))
    assert front.layers[0].weights.shape == (8, 3, 3, 3)
    floats = float_tensors(layers, (4, 4, 6), parameters, x)
    assert compare(front, floats, run_layers(front, front.quantise(x)))[-1].sqnr_db > 30


@st.composite
def networks(draw):
    """(layers, input shape): up to eight layers of any kind, with groups, windows and sums."""
    layers: list[LayerSpec] = []
    shapes = [(draw(st.integers(3, 8)), draw(st.integers(3, 8)), draw(st.sampled_from([2, 4, 6])))]
    for _ in range(draw(st.integers(1, 8))):
        at, shape = len(layers), shapes[-1]
        twins = [t for t in range(at) if shapes[t] == shape]
        kinds = ["conv2d", "depthwise", "max_pool", "average_pool", "relu", "relu6", "flatten"]
        kind = draw(st.sampled_from([*kinds, "dense"] + ["add"] * 3 * bool(twins)))
        window, out = {}, shape
        if kind in ("conv2d", "depthwise") or kind.endswith("_pool"):
            window, side = {}, []
            for axis in range(2):
                reach = draw(st.integers(1, min(3, shape[axis])))
                pads = (draw(st.integers(0, reach - 1)), draw(st.integers(0, reach - 1)))
                step = draw(st.integers(1, 2))
                side.append((reach, step, pads, (shape[axis] + sum(pads) - reach) // step + 1))
            window = {
                "kernel": (side[0][0], side[1][0]),
                "stride": (side[0][1], side[1][1]),
                "padding": (side[0][2], side[1][2]),
            }
            channels = shape[2]
            if kind == "conv2d":
                window["groups"] = draw(st.sampled_from([1, 2])) if channels % 2 == 0 else 1
                channels = draw(st.sampled_from([2, 4]))
            if kind == "depthwise":
                channels *= draw(st.integers(1, 2))
            out = (side[0][3], side[1][3], channels)
        elif kind == "dense":
            out = (1, 1, draw(st.sampled_from([2, 4])))
        elif kind == "flatten":
            out = (1, 1, math.prod(shape))
        elif kind == "add":
            window = {"second_input": draw(st.sampled_from(twins))}
        elif kind == "relu6":
            kind, window = "relu", {"ceiling": 6.0}
        bias = {"has_bias": draw(st.booleans())} if kind in ("conv2d", "depthwise", "dense") else {}
        layers.append(LayerSpec(kind, at, out, **window, **bias))
        shapes.append(out)
    return layers, shapes[0]


def in_real_numbers(front, tensor, kept):
    """What the layer before `tensor` makes of the int8 tensors before it, in steps of its own."""
    layer = front.layers[tensor - 1]
    inputs = [front.dequantise(t, kept[t]) for t in layer.spec.inputs()]
    if layer.spec.kind == "add":
        real = inputs[0].astype(np.float64) + inputs[1]
    else:
        alone = dataclasses.replace(layer.spec, input=0)
        shape = front.shapes[layer.spec.input]
        one = dataclasses.replace(
            front,
            input_shape=shape,
            layers=[dataclasses.replace(layer, spec=alone)],
            scales=front.scales[[layer.spec.input, tensor]],
            zeros=front.zeros[[layer.spec.input, tensor]],
        )
        *_, real = float_tensors([alone], shape, real_parameters(one), inputs[0])
    steps = real / front.scale(tensor) + front.zero(tensor)
    return np.clip(steps, layer.y_min, layer.y_max)


@given(networks(), st.integers(0, 1000), st.booleans(), st.sampled_from([127, 98]))
@settings(max_examples=120)
def test_any_network_computes_in_int8_what_its_integers_stand_for(net, seed, per_tensor, peak):
    """Each layer is within a step of its real value, and the definition gives the same bytes."""
    layers, shape = net
    rng = np.random.default_rng(seed)
    shapes = [shape, *(layer.output_shape for layer in layers)]
    count = sum(
        math.prod(weight_shape(one, shapes[one.input])) + one.has_bias * one.output_shape[2]
        for one in layers
        if one.kind in ("conv2d", "depthwise", "dense")
    )
    parameters = (rng.normal(size=count) * rng.choice([0, 0.1, 1, 20], count)).astype(np.float32)
    x = rng.normal(0, 3, size=(3, *shape)).astype(np.float32)
    ranges = calibrate(layers, shape, parameters, x)
    front = quantise(layers, shape, parameters, ranges, per_tensor=per_tensor, weight_peak=peak)
    check(front)
    kept = list(run_layers(front, front.quantise(x)))
    for tensor in range(1, len(kept)):
        difference = np.abs(in_real_numbers(front, tensor, kept) - kept[tensor])
        assert difference.max() <= 1.01
    definition = run_layers(front, front.quantise(x), reference_q8)
    assert all(np.array_equal(a, b) for a, b in zip(kept, definition, strict=True))


def test_clipping_helps_where_a_few_samples_are_far_out():
    piece = piece_of("watch", 64)
    x = piece.x.copy()
    x[0, 0, 0, 0] = 300.0
    chain = (piece.layers, piece.input_shape, piece.parameters)
    found = {}
    for method in METHODS:
        front = quantise(*chain, calibrate(*chain, x, observer(method, 99.9)))
        found[method] = fidelity(front, piece, piece.x[1:])
    assert found["percentile"] > found["minmax"] + 6


# ---- what cannot be ----

WIDE = [LayerSpec("dense", 0, (1, 1, 1))]
WRONG = {
    # name: (layers, input shape, parameters, tensors with a range, error, words)
    "group norm": (
        [LayerSpec("group_norm", 0, (1, 1, 4), groups=2)],
        (1, 1, 4), 8, 2, PlanError, "leave it in the back",
    ),
    "too many terms": (WIDE, (1, 2, 33000), 66001, 2, PlanError, f"at most {TERMS} terms"),
    "parameters of another front": (DENSE, (1, 1, 2), 8, 2, ValueError, r"expected \(9,\)"),
    "ranges of another front": (DENSE, (1, 1, 2), 9, 3, ValueError, r"ranges: expected \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_quantised_is_refused(case):
    layers, shape, count, tensors, error, words = case
    ranges = Ranges(-np.ones(tensors, np.float32), np.ones(tensors, np.float32))
    with pytest.raises(error, match=words):
        quantise(layers, shape, np.ones(count, np.float32), ranges)


def test_values_that_are_not_finite_and_a_peak_out_of_int8_are_refused():
    ranges = Ranges(-np.ones(2, np.float32), np.ones(2, np.float32))
    with pytest.raises(ValueError, match="finite"):
        quantise(DENSE, (1, 1, 2), np.full(9, np.nan, np.float32), ranges)
    with pytest.raises(ValueError, match="weight_peak: expected 1 to 127, got 128"):
        quantise(DENSE, (1, 1, 2), np.ones(9, np.float32), ranges, weight_peak=128)


# ---- what was learned ----


def test_what_was_learned_stands_for_real_values_of_this_front_only():
    piece = piece_of("watch")
    front = front_of(piece)
    parts = learned(front)
    assert np.array_equal(real_parameters(front, parts), real_parameters(front))
    assert (
        np.abs(real_parameters(front) - piece.parameters).max()
        < np.abs(piece.parameters).max() / 127
    )
    with pytest.raises(ValueError, match="expected 5 layers, got 4"):
        real_parameters(front, parts[:4])
    with pytest.raises(ValueError, match=r"learned weights: expected \('int8', \(16, 1, 5, 6\)\)"):
        real_parameters(front, [(parts[0][0].astype(np.int16), parts[0][1]), *parts[1:]])
    with pytest.raises(ValueError, match=r"learned bias: .*got None"):
        real_parameters(front, [(parts[0][0], None), *parts[1:]])


def test_ranges_of_several_devices_are_joined():
    piece = piece_of("watch")
    chain = (piece.layers, piece.input_shape, piece.parameters)
    louder = calibrate(*chain, 2 * piece.x)
    assert np.array_equal(merge_ranges([louder, calibrate(*chain, piece.x)]).hi, louder.hi)
