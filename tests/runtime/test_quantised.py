"""A quantised front: fused ReLUs, the run, its file, traces that two machines can compare."""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels import choose_variant, q8, reference_q8, variant, variants
from seamline.runtime.calibration import calibrate, float_tensors
from seamline.runtime.files import npz_bytes
from seamline.runtime.float_front import FileError
from seamline.runtime.networks import NETWORKS, make_piece, network
from seamline.runtime.plan import LayerSpec, PlanError
from seamline.runtime.quantise import quantise
from seamline.runtime.quantised import (
    QuantisedFront,
    compare,
    decibels,
    first_difference,
    front_bytes,
    fuse,
    layer_name,
    read_front,
    run,
    run_layers,
    trace,
    trace_input,
    write_front,
)


def made(name: str, samples: int = 4):
    """(piece, its int8 front) of a benchmarked network."""
    net = network(name)
    piece = make_piece(net.layers, net.input_shape, samples)
    ranges = calibrate(net.layers, net.input_shape, piece.parameters, piece.x)
    return piece, quantise(net.layers, net.input_shape, piece.parameters, ranges)


@pytest.fixture(scope="module")
def watch() -> QuantisedFront:
    return made("watch")[1]


# ---- fused ReLUs ----


def test_a_relu_goes_into_the_layer_before_it_and_tensors_are_counted_anew():
    net = network("ic")
    specs, stands_for, ceilings = fuse(net.layers)
    assert [spec.kind for spec in specs[:5]] == ["conv2d", "conv2d", "conv2d", "add", "conv2d"]
    assert stands_for[:6] == [0, 2, 4, 5, 7, 9]
    assert ceilings[:5] == [math.inf, math.inf, None, math.inf, math.inf]
    assert (specs[3].input, specs[3].second_input) == (3, 1)
    for number, spec in zip(stands_for[1:], specs, strict=True):
        assert spec.output_shape == net.layers[number - 1].output_shape


SHAPE = (1, 1, 4)
APART = {
    "the sum is read before and behind the ReLU": [
        LayerSpec("dense", 0, SHAPE),
        LayerSpec("relu", 1, SHAPE),
        LayerSpec("add", 1, SHAPE, second_input=2),
    ],
    "the ReLU reads the input": [LayerSpec("relu", 0, SHAPE), LayerSpec("dense", 1, SHAPE)],
    "the ReLU is behind a pool": [
        LayerSpec("max_pool", 0, SHAPE),
        LayerSpec("relu", 1, SHAPE),
    ],
}


@pytest.mark.parametrize("layers", APART.values(), ids=APART.keys())
def test_a_relu_that_cannot_be_fused_stays_a_layer_and_computes_the_same(layers):
    specs, _, ceilings = fuse(layers)
    assert [spec.kind for spec in specs] == [layer.kind for layer in layers]
    assert set(ceilings) == {None}
    rng = np.random.default_rng(0)
    count = 20 if any(layer.kind == "dense" for layer in layers) else 0
    parameters = rng.normal(size=count).astype(np.float32)
    x = rng.normal(size=(64, *SHAPE)).astype(np.float32)
    front = quantise(layers, SHAPE, parameters, calibrate(layers, SHAPE, parameters, x))
    floats = float_tensors(layers, SHAPE, parameters, x)
    assert all(d.sqnr_db > 30 for d in compare(front, floats, run_layers(front, front.quantise(x))))


def test_relu6_is_clamped_at_six_in_a_layer_and_alone():
    fused = [LayerSpec("dense", 0, SHAPE), LayerSpec("relu", 1, SHAPE, ceiling=6.0)]
    alone = [
        LayerSpec("dense", 0, SHAPE),
        LayerSpec("max_pool", 1, SHAPE),
        LayerSpec("relu", 2, SHAPE, ceiling=6.0),
    ]
    rng = np.random.default_rng(0)
    parameters = rng.normal(0, 5, size=20).astype(np.float32)
    x = rng.normal(size=(64, *SHAPE)).astype(np.float32)
    for layers, name in ((fused, "dense+relu6"), (alone, "relu")):
        front = quantise(layers, SHAPE, parameters, calibrate(layers, SHAPE, parameters, x))
        last = len(front.layers)
        y = front.dequantise(last, run(front, front.quantise(x)))
        assert layer_name(front, last) == name
        assert y.min() == 0 and abs(y.max() - 6) <= front.scale(last) / 2
    assert front.layers[-1].y_min == front.zero(last) > -128


def test_group_norm_is_refused_with_what_to_do():
    with pytest.raises(PlanError, match=r"layer 1 \(group_norm\).*fold_batch_norm"):
        fuse([LayerSpec("dense", 0, SHAPE), LayerSpec("group_norm", 1, SHAPE, groups=2)])


# ---- the run ----


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_and_the_definition_make_the_same_bytes_of_whole_networks(name):
    _, front = made(name, 2)
    x = trace_input(front, 1, 7)
    wanted = trace(front, x, reference_q8)
    before = variant()
    try:
        for one in variants():
            choose_variant(one)
            assert trace(front, x, q8) == wanted
    finally:
        choose_variant(before)


@pytest.mark.parametrize(
    "x", [np.zeros((1, 1, 100, 5), np.int8), np.zeros((1, 1, 100, 6), np.uint8)], ids=["5", "u8"]
)
def test_an_input_of_another_shape_or_type_is_refused(watch, x):
    with pytest.raises(ValueError, match=r"expected int8 \[n, 1, 100, 6\]"):
        run(watch, x)


# ---- float against int8 ----

BOUNDS = {"kws": 33, "ic": 33, "vww": 34, "ad": 26, "watch": 30}  # dB at the output


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_stays_near_float_through_whole_networks(name):
    piece, front = made(name)
    floats = float_tensors(piece.layers, piece.input_shape, piece.parameters, piece.x)
    found = compare(front, floats, run_layers(front, front.quantise(piece.x)))
    assert [d.tensor for d in found] == list(range(len(front.layers) + 1))
    assert found[0].sqnr_db > 35 and found[-1].sqnr_db > BOUNDS[name]
    assert min(d.sqnr_db for d in found) > 22
    assert max(d.saturated for d in found) == 0  # min-max ranges of these very samples


def test_the_comparison_says_where_the_worst_element_is_and_what_is_cut_off(watch):
    net = network("watch")
    piece = make_piece(net.layers, net.input_shape, 4)
    floats = list(float_tensors(net.layers, net.input_shape, piece.parameters, piece.x))
    q = [np.array(y) for y in run_layers(watch, watch.quantise(piece.x))]
    wrong = [y.copy() for y in q]
    wrong[1][2, 0, 17, 3] ^= 0x40  # 64 steps away
    found = compare(watch, floats, wrong)
    assert found[1].worst_at == (2, 0, 17, 3)
    assert abs(found[1].worst - 64 * watch.scale(1)) <= watch.scale(1)
    assert found[1].worst_float == floats[2][2, 0, 17, 3]
    assert found[1].worst == pytest.approx(abs(found[1].worst_q8 - found[1].worst_float))
    assert found[1].sqnr_db < compare(watch, floats, q)[1].sqnr_db
    louder = [floats[0] * 2, *floats[1:]]
    assert 0 < compare(watch, louder, q)[0].saturated < 0.2


def test_a_comparison_of_other_samples_or_too_few_tensors_is_refused(watch):
    net = network("watch")
    piece = make_piece(net.layers, net.input_shape, 4)
    floats = list(float_tensors(net.layers, net.input_shape, piece.parameters, piece.x))
    q = list(run_layers(watch, watch.quantise(piece.x[:3])))
    with pytest.raises(ValueError, match=r"tensor 0: expected \(4, 1, 100, 6\), got \(3,"):
        compare(watch, floats, q)
    with pytest.raises(ValueError, match="too few"):
        compare(watch, floats[:3], run_layers(watch, watch.quantise(piece.x)))


def test_decibels_are_of_squares_and_know_no_noise_and_no_signal():
    assert decibels(100, 1) == 20
    assert decibels(1, 0) == math.inf and decibels(0, 1) == -math.inf


# ---- traces ----


def test_the_first_line_that_differs_names_the_layer(watch):
    x = trace_input(watch, 2, 1)
    ours = trace(watch, x)
    assert first_difference(ours, [*ours, ""]) == ""
    other = watch.layers[2]
    wrong = dataclasses.replace(other, multiplier=other.multiplier // 2)
    layers = [*watch.layers[:2], wrong, *watch.layers[3:]]
    theirs = trace(dataclasses.replace(watch, layers=layers), x)
    theirs[0] = ours[0]  # as if it came from the same file, through other kernels
    found = first_difference(ours, theirs)
    assert found.startswith("expected '3 conv2d+relu 1x13x32 ")


def test_a_trace_is_of_one_front_and_one_input(watch):
    ours = trace(watch, trace_input(watch, 2, 1))
    with pytest.raises(FileError, match="trace of something else"):
        first_difference(ours, trace(watch, trace_input(watch, 2, 2)))
    with pytest.raises(FileError, match="7 tensors; found"):
        first_difference(ours, ours[:-1])
    for text in ([], ["", ""], ["some other file"]):
        with pytest.raises(FileError, match="it is no trace"):
            first_difference(ours, text)


def test_the_inputs_of_a_trace_are_the_same_bytes_everywhere(watch):
    assert trace_input(watch, 1, 0).ravel()[:4].tolist() == [84, -16, -57, 73]
    assert len(np.unique(trace_input(watch, 4, 3))) == 256


# ---- the file ----


@pytest.mark.parametrize("name", NETWORKS)
def test_a_front_comes_back_from_its_file_as_it_was(name, tmp_path):
    _, front = made(name, 1)
    write_front(tmp_path / "q8.npz", front)
    again = read_front(tmp_path / "q8.npz")
    assert front_bytes(again) == front_bytes(front)
    assert [layer.spec for layer in again.layers] == [layer.spec for layer in front.layers]
    x = trace_input(front, 1, 0)
    assert trace(again, x) == trace(front, x)


def _changed(front: QuantisedFront, **arrays) -> bytes:
    """The file with some arrays replaced (None: left out)."""
    import io

    with np.load(io.BytesIO(front_bytes(front))) as file:
        found = {name: file[name] for name in file.files}
    found |= arrays
    return npz_bytes({name: array for name, array in found.items() if array is not None})


def _meta(front: QuantisedFront, change) -> np.ndarray:
    import io

    with np.load(io.BytesIO(front_bytes(front))) as file:
        meta = json.loads(file["meta"].tobytes())
    change(meta)
    return np.frombuffer(json.dumps(meta).encode(), np.uint8)


DAMAGE = {
    # name: (what is changed, words)
    "no scales": ({"scales": None}, r"scales: expected float32 \(7,\), got nothing"),
    "scales of another type": ({"scales": np.ones(7)}, "got float64"),
    "a scale below zero": ({"scales": -np.ones(7, np.float32)}, "finite ones above 0"),
    "a zero point out of int8": ({"zeros": np.full(7, 300, np.int32)}, "expected -128 to 127"),
    "weights of another shape": (
        {"0.weights": np.zeros((16, 1, 5, 5), np.int8)},
        r"0.weights: expected \(16, 1, 5, 6\)",
    ),
    "weights in float": (
        {"0.weights": np.zeros((16, 1, 5, 6), np.float32)},
        r"0.weights: expected \(16, 1, 5, 6\)",
    ),
    "no shift": ({"4.shift": None}, r"4.shift: expected \(32,\), got None"),
    "weights of a pool": (
        {"3.weights": np.zeros((1, 1), np.int8)},
        "3.weights: expected None",
    ),
    "no meta": ({"meta": None}, "`seamline quantize RUN` makes one"),
    "a bias that no sum can hold": (
        {"0.bias": np.full(16, 2**31 - 1, np.int32)},
        "is no quantised front",
    ),
    "a mantissa out of range": ({"0.multiplier": np.full(16, 5, np.int32)}, "multiplier"),
    "no JSON": ({"meta": np.frombuffer(b"{", np.uint8)}, "is no quantised front"),
}
META_DAMAGE = {
    "a later format": (lambda m: m.update(format=2), "expected format 1"),
    "no layers": (lambda m: m.pop("layers"), "layers"),
    "an unknown layer": (lambda m: m["layers"][0]["spec"].update(kind="gru"), "damaged: layer 0"),
    "shapes that do not fit": (
        lambda m: m["layers"][1]["spec"].update(output_shape=[1, 9, 24]),
        "the shapes do not fit",
    ),
    "a strange word": (lambda m: m["layers"][0].update(colour=1), "colour"),
    "a clamp upside down": (lambda m: m["layers"][0].update(y=[5, -5]), "y_min 5, y_max -5"),
    "integers of a sum": (lambda m: m["layers"][0].update(sum={"a": 1}), "wrong integers"),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_one_clear_error(watch, tmp_path, case):
    arrays, words = case
    path = tmp_path / "q8.npz"
    path.write_bytes(_changed(watch, **arrays))
    with pytest.raises(FileError, match=words):
        read_front(path)


@pytest.mark.parametrize("case", META_DAMAGE.values(), ids=META_DAMAGE.keys())
def test_a_damaged_description_is_one_clear_error(watch, tmp_path, case):
    change, words = case
    path = tmp_path / "q8.npz"
    path.write_bytes(_changed(watch, meta=_meta(watch, change)))
    with pytest.raises(FileError, match=words):
        read_front(path)


@given(st.data())
@settings(max_examples=60)
def test_a_file_with_wrong_bytes_is_refused_or_runs(watch, tmp_path_factory, data):
    """No traceback, whatever the bytes are; a checksum of the archive may not see them."""
    whole = bytearray(front_bytes(watch))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "q8.npz"
    path.write_bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))])
    with suppress(FileError):
        trace(read_front(path), trace_input(watch, 1, 0))


@given(st.data())
@settings(max_examples=60)
def test_a_description_with_wrong_values_is_refused_or_runs(watch, tmp_path_factory, data):
    """The same where the archive is sound: each value of the JSON replaced by something else."""

    def change(meta):
        entry = data.draw(st.sampled_from([meta, *meta["layers"]]))
        entry = entry if data.draw(st.booleans()) else entry.get("spec", entry)
        key = data.draw(st.sampled_from(sorted(entry)))
        entry[key] = data.draw(
            st.none() | st.integers(-2, 300) | st.text(max_size=3) | st.floats()
            | st.lists(st.integers(-1, 9), max_size=4)
        )  # fmt: skip

    path = tmp_path_factory.mktemp("damaged") / "q8.npz"
    path.write_bytes(_changed(watch, meta=_meta(watch, change)))
    with suppress(FileError):
        front = read_front(path)
        trace(front, trace_input(front, 1, 0))


def test_a_file_of_something_else_is_one_clear_error(tmp_path):
    for name, data in (("text", b"hello"), ("zip", b"PK\x03\x04rest"), ("empty", b"")):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(FileError, match="is no quantised front"):
            read_front(path)
    with pytest.raises(FileError, match="there is no file"):
        read_front(tmp_path / "none")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(FileError, match="is no quantised front"):
        read_front(tmp_path / "bare.npy")
