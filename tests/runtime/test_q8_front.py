"""The int8 front in C learns byte for byte what the NumPy definition learns."""

from __future__ import annotations

import numpy as np
import pytest
from q8_reference import ReferenceFront
from seamline.kernels import SeamError, choose_variant, variant, variants
from seamline.kernels.front import Q8Front
from seamline.runtime.calibration import calibrate
from seamline.runtime.plan import LayerSpec, PlanError
from seamline.runtime.q8_parameters import blob_of, learned_bytes, read_learned
from seamline.runtime.q8_plan import build_q8_plan
from seamline.runtime.quantise import quantise
from seamline.runtime.quantised import QuantisedFront

SAME = ((1, 1), (1, 1))
CONV = [
    LayerSpec("conv2d", 0, (5, 4, 6), kernel=(3, 3), stride=(2, 2), padding=SAME),
    LayerSpec("relu", 1, (5, 4, 6)),
    LayerSpec("conv2d", 2, (5, 4, 9), kernel=(3, 3), padding=SAME, has_bias=False),
    LayerSpec("relu", 3, (5, 4, 9), ceiling=6.0),
    LayerSpec("max_pool", 4, (2, 2, 9), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("flatten", 5, (1, 1, 36)),
    LayerSpec("dense", 6, (1, 1, 5)),
]
SEPARABLE = [
    LayerSpec("conv2d", 0, (9, 8, 8), kernel=(2, 3), padding=((0, 0), (1, 1))),
    LayerSpec("relu", 1, (9, 8, 8)),
    LayerSpec("depthwise", 2, (9, 8, 8), kernel=(3, 3), padding=SAME),
    LayerSpec("relu", 3, (9, 8, 8)),
    LayerSpec("conv2d", 4, (9, 8, 7)),
    LayerSpec("relu", 5, (9, 8, 7)),
    LayerSpec("average_pool", 6, (3, 2, 7), kernel=(3, 3), stride=(3, 3)),
]
RESIDUAL = [
    LayerSpec("conv2d", 0, (10, 8, 6), kernel=(3, 3), padding=SAME),
    LayerSpec("relu", 1, (10, 8, 6)),
    LayerSpec("conv2d", 2, (10, 8, 6), kernel=(3, 3), padding=SAME),
    LayerSpec("add", 3, (10, 8, 6), second_input=2),
    LayerSpec("relu", 4, (10, 8, 6)),
    LayerSpec("conv2d", 5, (10, 8, 6), kernel=(1, 1)),
    LayerSpec("add", 5, (10, 8, 6), second_input=6),
    LayerSpec("add", 7, (10, 8, 6), second_input=7),
]
NETS = {"conv": CONV, "separable": SEPARABLE, "residual": RESIDUAL}
INPUT = (10, 8, 3)


def quantised(layers: list[LayerSpec], seed: int = 0) -> QuantisedFront:
    chance = np.random.default_rng(seed)
    shapes = [INPUT, *(layer.output_shape for layer in layers)]
    parameters = np.concatenate(
        [
            chance.normal(0, 0.3, layer.parameters(shapes[layer.input])).astype(np.float32)
            for layer in layers
        ]
    )
    x = chance.normal(0, 1, (16, *INPUT)).astype(np.float32)
    return quantise(layers, INPUT, parameters, calibrate(layers, INPUT, parameters, x))


@pytest.fixture(params=variants())
def each_variant(request: pytest.FixtureRequest):
    before = variant()
    choose_variant(request.param)
    yield request.param
    choose_variant(before)


def bytes_of(reference) -> bytes:
    return learned_bytes(reference.front)


@pytest.mark.parametrize("momentum", ["int8", "float"])
@pytest.mark.parametrize("mode", ["stochastic", "truncate"])
@pytest.mark.parametrize("sums", ["whole", "pieces"])
@pytest.mark.parametrize("net", NETS)
def test_steps_of_training_are_those_of_the_definition(
    each_variant: str, net: str, sums: str, mode: str, momentum: str
) -> None:
    front, batch = quantised(NETS[net]), 3
    plan = build_q8_plan(
        [layer.spec for layer in front.layers], INPUT, batch, sums=sums, momentum=momentum
    )
    mine = Q8Front(plan)
    mine.arena[:] = 0x5A  # a plan's memory need not be clean
    mine = Q8Front(plan)
    mine.set(blob_of(front))
    reference = ReferenceFront(front, momentum)
    chance = np.random.default_rng(1)
    before = bytes(mine.learned)
    for step in range(4):
        n = batch if step != 2 else 1
        x = chance.normal(0, 1, (n, *INPUT)).astype(np.float32)
        y = mine.forward(x, note=True)
        assert np.array_equal(y, reference.forward(front.quantise(x)))
        dy = chance.integers(-127, 128, y.shape, dtype=np.int8)
        how = {"rate": 0.05, "momentum": 0.9, "decay": 1e-3, "seed": step, "mode": mode}
        mine.backward(dy, -12 + step, **how)
        reference.backward(dy, -12 + step, **how)
        assert bytes(mine.learned) == bytes_of(reference), f"step {step}"
    assert bytes(mine.learned) != before
    assert (mine.extremes[:, 0] <= mine.extremes[:, 1]).all()


def test_layers_made_again_and_pieces_change_no_byte() -> None:
    front = quantised(SEPARABLE)
    specs = [layer.spec for layer in front.layers]
    learned, sizes = set(), []
    for how in ({}, {"again": (1, 2)}, {"sums": "pieces"}, {"again": (0, 1, 2), "sums": "pieces"}):
        mine = Q8Front(build_q8_plan(specs, INPUT, 4, **how))
        mine.set(blob_of(front))
        chance = np.random.default_rng(2)
        for step in range(3):
            y = mine.forward(chance.normal(0, 1, (4, *INPUT)).astype(np.float32))
            dy = chance.integers(-127, 128, y.shape, dtype=np.int8)
            mine.backward(dy, -10, rate=0.1, momentum=0.5, seed=step)
        learned.add(bytes(mine.learned))
        sizes.append(mine.arena_size)
    assert len(learned) == 1
    assert sizes[1] <= sizes[0] and sizes[2] < sizes[0] and sizes[3] <= sizes[2]


def test_without_momentum_there_is_no_velocity() -> None:
    front = quantised(CONV)
    specs = [layer.spec for layer in front.layers]
    fronts = [Q8Front(build_q8_plan(specs, INPUT, 2, momentum=m)) for m in ("int8", "none")]
    x = np.random.default_rng(3).normal(0, 1, (2, *INPUT)).astype(np.float32)
    for mine in fronts:
        mine.set(blob_of(front))
        y = mine.forward(x)
        mine.backward(np.full(y.shape, 50, np.int8), -8, rate=0.1)
    assert bytes(fronts[0].learned) == bytes(fronts[1].learned)
    assert fronts[1].velocity is None and fronts[1].arena_size < fronts[0].arena_size


def test_a_whole_network_learns_by_itself() -> None:
    front = quantised(CONV)
    mine = Q8Front(build_q8_plan([layer.spec for layer in front.layers], INPUT, 8))
    mine.set(blob_of(front))
    chance = np.random.default_rng(4)
    x = chance.normal(0, 1, (8, *INPUT)).astype(np.float32)
    labels = np.arange(8) % 5
    losses = []
    for step in range(60):
        mine.forward(x)
        loss, right = mine.train(labels, rate=0.05, momentum=0.9, seed=step)
        losses.append(loss)
    assert losses[-1] < 0.3 * losses[0] and right == 8
    with pytest.raises(SeamError, match="usable data"):
        mine.forward(x)
        mine.train(labels + 3, rate=0.1)


def test_a_plan_for_inference_is_smaller_and_only_infers() -> None:
    front = quantised(RESIDUAL)
    specs = [layer.spec for layer in front.layers]
    trained = Q8Front(build_q8_plan(specs, INPUT, 1))
    mine = Q8Front(build_q8_plan(specs, INPUT, 1, training=False))
    assert mine.arena_size < trained.arena_size
    x = np.random.default_rng(5).normal(0, 1, (1, *INPUT)).astype(np.float32)
    for one in (trained, mine):
        with pytest.raises(ValueError, match="call set first"):
            one.forward(x)
        one.set(blob_of(front))
    y = mine.forward(x)
    assert np.array_equal(y, trained.forward(x))
    with pytest.raises(ValueError, match="for inference only"):
        mine.backward(y, 0, rate=0.1)


def test_what_is_learned_comes_back_as_it_was() -> None:
    front = quantised(RESIDUAL)
    learned = [(a.weights, a.bias) for a in front.layers if a.weights is not None]
    data = learned_bytes(front)
    for (w, b), (again, bias) in zip(learned, read_learned(front, data), strict=True):
        assert np.array_equal(w, again) and np.array_equal(b, bias)
    for wrong in (data[:-1], data + b"0000", b""):
        with pytest.raises(ValueError, match="parameters: expected"):
            read_learned(front, wrong)


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        ("learned", b"\x80", "out of range"),  # a weight of -128
        ("scale", b"\x00\x00\xc0\x7f", "NaN"),
        ("scale", b"\x00\x00\x00\x00", "NaN"),
        ("zero", b"\x00\x01\x00\x00", "out of range"),
        ("clamp", b"\x05\x04", "out of range"),
        ("multiplier", b"\xff\xff\xff\xff", "out of range"),
    ],
)
def test_numbers_out_of_range_are_refused(at: str, value: bytes, text: str) -> None:
    front = quantised(CONV)
    mine = Q8Front(build_q8_plan([layer.spec for layer in front.layers], INPUT, 1))
    blob = bytearray(blob_of(front))
    learned = len(mine.learned)
    tensors = learned + 8 * (len(front.layers) + 1)
    place = {"learned": 0, "scale": learned, "zero": learned + 4, "clamp": tensors}
    place["multiplier"] = tensors + 8
    mine.set(bytes(blob))
    blob[place[at] : place[at] + len(value)] = value
    with pytest.raises(SeamError, match=text):
        mine.set(bytes(blob))
    with pytest.raises(ValueError, match="call set first"):
        mine.forward(np.zeros((1, *INPUT), np.int8))
    with pytest.raises(SeamError, match="shapes"):
        mine.set(bytes(blob)[:-4])


def test_layers_an_int8_front_lacks_are_named() -> None:
    norm = [LayerSpec("group_norm", 0, INPUT, groups=1)]
    with pytest.raises(PlanError, match=r"layer 0 \(group_norm\)"):
        build_q8_plan(norm, INPUT, 1)
    wide = [LayerSpec("conv2d", 0, (300, 300, 1))]
    with pytest.raises(PlanError, match="choose a smaller batch"):
        build_q8_plan(wide, (300, 300, 1), 1)
