"""int8 training: every variant gives the bytes of the definition, which follows autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from seamline.kernels import q8_train as fast
from seamline.kernels import reference_q8_train as slow

MODES = ("stochastic", "nearest", "truncate")


def int8(chance: np.random.Generator, *shape: int) -> np.ndarray:
    return chance.integers(-127, 128, shape, dtype=np.int8)


def window(chance: np.random.Generator) -> dict:
    """A random window over an input of some size; every output has a tap somewhere."""
    while True:
        size = tuple(int(n) for n in chance.integers(1, 9, 2))
        kernel = tuple(int(n) for n in chance.integers(1, 5, 2))
        how = {
            "stride": tuple(int(n) for n in chance.integers(1, 4, 2)),
            "dilation": tuple(int(n) for n in chance.integers(1, 3, 2)),
            "padding": tuple(tuple(int(n) for n in chance.integers(0, 3, 2)) for _ in range(2)),
        }
        made = tuple(
            (size[i] + sum(how["padding"][i]) - (kernel[i] - 1) * how["dilation"][i] - 1)
            // how["stride"][i]
            + 1
            for i in range(2)
        )
        if min(made) >= 1:
            return {"size": size, "kernel": kernel, "made": made, "how": how}


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert np.array_equal(a, b), (a.shape, np.argwhere(a != b)[:3], a[a != b][:3], b[a != b][:3])


@pytest.mark.parametrize("seed", range(60))
def test_sums_of_a_convolution_are_exact(each_variant: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    at = window(chance)
    groups = int(chance.choice([1, 1, 1, 2, 3]))
    each_in, each_out = (int(n) for n in chance.integers(1, 40, 2))
    n = int(chance.integers(1, 4))
    x = int8(chance, n, *at["size"], each_in * groups)
    w = int8(chance, each_out * groups, *at["kernel"], each_in)
    dy = int8(chance, n, *at["made"], each_out * groups)
    zero = int(chance.integers(-128, 128))
    same(
        fast.conv2d_input_sums(dy, w, at["size"], groups=groups, **at["how"]),
        slow.conv2d_input_sums(dy, w, at["size"], groups=groups, **at["how"]),
    )
    how = {"x_zero": zero, "groups": groups, **at["how"]}
    same(
        fast.conv2d_weight_sums(dy, x, at["kernel"], **how),
        slow.conv2d_weight_sums(dy, x, at["kernel"], **how),
    )
    same(fast.bias_sums(dy), slow.bias_sums(dy))


@pytest.mark.parametrize("shape", [(1, 640, 128), (5, 33, 7), (16, 128, 128), (3, 1, 1)])
def test_sums_of_a_dense_layer_are_exact(each_variant: str, shape: tuple[int, int, int]) -> None:
    n, inputs, outputs = shape
    chance = np.random.default_rng(n)
    x, dy = int8(chance, n, 1, 1, inputs), int8(chance, n, 1, 1, outputs)
    w = int8(chance, outputs, 1, 1, inputs)
    same(fast.conv2d_input_sums(dy, w, (1, 1)), slow.conv2d_input_sums(dy, w, (1, 1)))
    same(
        fast.conv2d_weight_sums(dy, x, (1, 1), x_zero=-128),
        slow.conv2d_weight_sums(dy, x, (1, 1), x_zero=-128),
    )


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_a_depthwise_layer_are_exact(each_variant: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    at = window(chance)
    channels, multiplier = int(chance.integers(1, 40)), int(chance.choice([1, 1, 2, 3]))
    n = int(chance.integers(1, 4))
    x = int8(chance, n, *at["size"], channels)
    w = int8(chance, 1, *at["kernel"], channels * multiplier)
    dy = int8(chance, n, *at["made"], channels * multiplier)
    same(
        fast.depthwise_input_sums(dy, w, at["size"], channels, **at["how"]),
        slow.depthwise_input_sums(dy, w, at["size"], channels, **at["how"]),
    )
    how = {"x_zero": int(chance.integers(-128, 128)), **at["how"]}
    same(
        fast.depthwise_weight_sums(dy, x, at["kernel"], **how),
        slow.depthwise_weight_sums(dy, x, at["kernel"], **how),
    )


def every_window_has_a_tap(at: dict) -> bool:
    for i in range(2):
        for o in range(at["made"][i]):
            start = o * at["how"]["stride"][i] - at["how"]["padding"][i][0]
            taps = [start + k * at["how"]["dilation"][i] for k in range(at["kernel"][i])]
            if not any(0 <= t < at["size"][i] for t in taps):
                return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_pools_are_exact(each_variant: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    at = window(chance)
    while not every_window_has_a_tap(at):
        at = window(chance)
    n, channels = int(chance.integers(1, 4)), int(chance.integers(1, 20))
    x = chance.integers(-3, 3, (n, *at["size"], channels), dtype=np.int8)  # many equal ones
    dy = int8(chance, n, *at["made"], channels)
    same(
        fast.max_pool2d_sums(dy, x, at["kernel"], **at["how"]),
        slow.max_pool2d_sums(dy, x, at["kernel"], **at["how"]),
    )
    same(
        fast.average_pool2d_sums(dy, at["size"], at["kernel"], **at["how"]),
        slow.average_pool2d_sums(dy, at["size"], at["kernel"], **at["how"]),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_gradients_are_rounded_as_defined(each_variant: str, mode: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    how = {"seed": int(chance.integers(2**32)), "stream": seed, "mode": mode}
    n, c = (int(k) for k in chance.integers(1, 50, 2))
    dy, y = int8(chance, n, c), int8(chance, n, c)
    same(fast.mask(dy, y, -100, 90), slow.mask(dy, y, -100, 90))
    ratios = chance.integers(0, 32769, c).astype(np.uint16)
    same(fast.weigh(dy, ratios, **how), slow.weigh(dy, ratios, **how))
    full = np.full(c, 32768, np.uint16)
    same(fast.weigh(dy, full, **how), dy)
    reach = 2 ** int(chance.integers(1, 31))
    sums = chance.integers(-reach, reach, (n, c), dtype=np.int32)
    for multiplier, shift in ((0, 0), (int(chance.integers(2**30, 2**31)), -3)):
        g, exponent = fast.settle(sums, 5, multiplier=multiplier, shift=shift, **how)
        expected, raised = slow.settle(sums, 5 + shift, multiplier=multiplier, **how)
        same(g, expected)
        assert exponent == raised
    for apart in (0, 3, 16, 17, -2, -40):
        got, expected = fast.join(dy, 1, y, 1 + apart, **how), slow.join(dy, 1, y, 1 + apart, **how)
        same(got[0], expected[0])
        assert got[1] == expected[1]
    got, expected = fast.add_gradient(dy, 4, 0.37, **how), slow.add_gradient(dy, 4, 0.37, **how)
    same(got[0], expected[0])
    assert got[1] == expected[1]


@pytest.mark.parametrize("peak", [-255, 255])
def test_a_peak_half_way_between_two_bit_lengths_counts_as_its_magnitude(
    each_variant: str, peak: int
) -> None:
    sums, how = np.array([peak, 3], np.int32), {"multiplier": 1 << 30, "mode": "nearest"}
    g, exponent = fast.settle(sums, 0, **how)
    expected, raised = slow.settle(sums, 0, seed=0, stream=0, **how)
    same(g, expected)
    assert exponent == raised == 1


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weights_without_velocities_move_as_with_velocities_of_zero(
    each_variant: str, depthwise: bool, decay: float
) -> None:
    chance = np.random.default_rng(3)
    w, v = int8(chance, 37, 53), np.zeros((37, 53), np.int8)
    dw = chance.integers(-(2**20), 2**20, w.shape, dtype=np.int32)
    steps = np.exp(chance.normal(0, 3, 53 if depthwise else 37)).astype(np.float32)
    rates = {"rate": 0.3, "decay": decay}
    how = {"seed": 1, "stream": 2, "mode": "stochastic", "depthwise": depthwise}
    old, alone = w.copy(), w.copy()
    fast.update(w, v, 0, dw, -20, steps, **rates, **how)
    fast.update(alone, None, 0, dw, -20, steps, **rates, **how)
    same(alone, w)
    assert (alone != old).any()


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(16))
def test_updates_are_as_defined(each_variant: str, depthwise: bool, mode: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    o, terms = int(chance.integers(1, 90)), int(chance.integers(1, 70))
    steps = np.exp(chance.normal(0, 3, o)).astype(np.float32)
    w, v = int8(chance, o, terms), int8(chance, o, terms)
    b, vb = (chance.integers(-(2**20), 2**20, o, dtype=np.int32) for _ in range(2))
    if seed % 4 == 1:
        v[:] = 0
    order = (np.arange(terms)[None] * o + np.arange(o)[:, None]) if depthwise else None
    laid = [np.ascontiguousarray(a.T) if depthwise else a.copy() for a in (w, v)]
    new_b, new_v, exponent = b.copy(), vb.copy(), int(chance.integers(-20, 20))
    for step in range(3):
        reach = 2 ** int(chance.integers(0, 31))
        dw = chance.integers(-reach, reach, (o, terms), dtype=np.int32)
        db = chance.integers(-reach, reach, o, dtype=np.int32)
        if seed % 5 == 3:
            dw[:] = 0
        rates = {
            "rate": float(np.float32(10.0 ** chance.uniform(-6, 3))),
            "momentum": float(chance.choice([0.0, 0.5, 0.9, 0.99])),
        }
        how = {"seed": seed, "stream": 4 + step, "mode": mode}
        decay = float(chance.choice([0.0, 1e-4, 0.1]))
        e = int(chance.integers(-60, 30))
        w, v, expected = slow.update(
            w, v, exponent, dw, e, steps, decay=decay, order=order, **rates, **how
        )
        sums = np.ascontiguousarray(dw.T) if depthwise else dw
        exponent = fast.update(
            *laid, exponent, sums, e, steps, decay=decay, depthwise=depthwise, **rates, **how
        )
        assert exponent == expected
        for got, wanted in zip(laid, (w, v), strict=True):
            same(got.T if depthwise else got, wanted)
        b, vb = slow.update_bias(b, vb, db, e, steps, 0.3, most=2**29, **rates, **how)
        fast.update_bias(new_b, new_v, db, e, steps, 0.3, most=2**29, **rates, **how)
        same(new_b, b)
        same(new_v, vb)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_updates_with_velocities_in_float_are_as_defined(
    each_variant: str, depthwise: bool, mode: str, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    o, terms = int(chance.integers(1, 40)), int(chance.integers(1, 30))
    steps = np.exp(chance.normal(0, 3, o)).astype(np.float32)
    w, v = int8(chance, o, terms), chance.normal(0, 9, (o, terms)).astype(np.float32)
    order = (np.arange(terms)[None] * o + np.arange(o)[:, None]) if depthwise else None
    laid = [np.ascontiguousarray(a.T) if depthwise else a.copy() for a in (w, v)]
    for step, far in enumerate((0, 0, 300, -300, 0)):
        reach = 2 ** int(chance.integers(0, 31))
        dw = chance.integers(-reach, reach, (o, terms), dtype=np.int32)
        how = {
            "rate": float(np.float32(10.0 ** chance.uniform(-6, 3))),
            "momentum": float(chance.choice([0.0, 0.5, 0.9, 0.99])),
            "decay": float(chance.choice([0.0, 1e-4, 0.1])),
        }
        how |= {"seed": seed, "stream": 4 + step, "mode": mode}
        e = int(chance.integers(-60, 30)) + far
        w, v = slow.update_float(w, v, dw, e, steps, order=order, **how)
        sums = np.ascontiguousarray(dw.T) if depthwise else dw
        fast.update_float(*laid, sums, e, steps, depthwise=depthwise, **how)
        for got, wanted in zip(laid, (w, v), strict=True):
            same(got.T if depthwise else got, wanted)


def test_a_velocity_out_of_a_damaged_checkpoint_counts_as_zero(each_variant: str) -> None:
    w, dw, steps = np.zeros((1, 5), np.int8), np.zeros((1, 5), np.int32), np.ones(1, np.float32)
    v = np.array([[np.nan, np.inf, -np.inf, 2.0**31, 1.0]], np.float32)
    fast.update_float(w, v, dw, 0, steps, rate=4.0, momentum=0.5, mode="nearest")
    same(v, np.array([[0, 0, 0, 0, 0.5]], np.float32))
    same(w, np.array([[0, 0, 0, 0, -2]], np.int8))


def test_the_update_with_velocities_in_float_is_that_of_momentum() -> None:
    """Against v = m v + g + d w in float64; a weight is off by less than a step."""
    chance = np.random.default_rng(1)
    w, steps = int8(chance, 20, 30), np.exp(chance.normal(0, 1, 20)).astype(np.float32)
    v, velocity = np.zeros(w.shape, np.float32), np.zeros(w.shape)
    for step in range(5):
        dw = chance.integers(-(2**20), 2**20, w.shape, dtype=np.int32)
        before = w.astype(float)
        velocity = 0.9 * velocity + dw * 2.0**-18 * steps[:, None].astype(float) + 1e-3 * before
        how = {"rate": 0.1, "momentum": 0.9, "decay": 1e-3, "seed": step}
        fast.update_float(w, v, dw, -18, steps, **how)
        np.testing.assert_allclose(v, velocity, rtol=1e-5, atol=1e-5)
        assert (np.abs(w - np.clip(before - 0.1 * velocity, -127, 127)) < 1.001).all()


def test_stochastic_rounding_of_float_velocities_keeps_the_mean() -> None:
    w, v = np.zeros((64, 64), np.int8), np.zeros((64, 64), np.float32)
    dw, steps = np.full((64, 64), -(2**20), np.int32), np.ones(64, np.float32)
    fast.update_float(w, v, dw, -20, steps, rate=1 / 16)
    assert abs(float(w.mean()) - 1 / 16) < 5 * math.sqrt(1 / 16 * 15 / 16 / 4096)


def test_velocities_in_float_are_checked() -> None:
    w, dw, steps = np.zeros((2, 3), np.int8), np.zeros((2, 3), np.int32), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="v: expected shape"):
        fast.update_float(w, np.zeros((3, 2), np.float32), dw, 0, steps, rate=1.0)
    with pytest.raises((TypeError, ValueError), match="float32"):
        fast.update_float(w, np.zeros((2, 3)), dw, 0, steps, rate=1.0)


def test_without_a_velocity_the_step_is_that_of_momentum_zero(each_variant: str) -> None:
    chance = np.random.default_rng(0)
    w, dw = int8(chance, 9, 20), chance.integers(-(2**20), 2**20, (9, 20), dtype=np.int32)
    steps, alone, beside = np.ones(9, np.float32), w.copy(), w.copy()
    how = {"rate": 0.01, "seed": 3}
    new = fast.update(alone, None, 0, dw, -14, steps, momentum=0.9, **how)
    assert new == fast.update(beside, np.zeros_like(w), 0, dw, -14, steps, momentum=0.0, **how)
    same(alone, beside)
    assert (alone != w).any()


def test_stochastic_rounding_keeps_the_mean_and_truncation_loses_it() -> None:
    """A change of 1/16 step: stochastic rounding makes it on average, the others never do."""
    moved = {}
    for mode in MODES:
        w = np.zeros((64, 64), np.int8)
        dw, steps = np.full((64, 64), -(2**20), np.int32), np.ones(64, np.float32)
        fast.update(w, None, 0, dw, -20, steps, rate=1 / 16, mode=mode)
        moved[mode] = float(w.mean())
    assert moved["nearest"] == moved["truncate"] == 0
    spread = math.sqrt(1 / 16 * 15 / 16 / 4096)
    assert abs(moved["stochastic"] - 1 / 16) < 5 * spread
    sums = np.full(4096, 1000 * 128 + 37, np.int32)
    g, exponent = fast.settle(sums, 0, seed=1)
    assert abs(g.astype(float).mean() * 2.0**exponent - sums[0]) < 5 * 2.0**exponent / 64


def test_the_update_is_that_of_momentum_in_float() -> None:
    """Against v = m v + g + d w, w -= r v in float64."""
    chance = np.random.default_rng(1)
    w = int8(chance, 16, 100)
    v, floats, velocity, exponent = np.zeros_like(w), w.astype(float), np.zeros(w.shape), 0
    steps = np.exp(chance.normal(0, 1, 16)).astype(np.float32)
    for step in range(20):
        dw = chance.normal(0, 1e5, w.shape).astype(np.int32)
        g = dw * 2.0**-20 * steps[:, None]
        velocity = 0.9 * velocity + g + 1e-3 * floats
        floats = np.clip(floats - 0.1 * velocity, -127, 127)
        exponent = fast.update(
            w, v, exponent, dw, -20, steps, rate=0.1, momentum=0.9, decay=1e-3, seed=step
        )
        error = v * 2.0**exponent - velocity
        assert np.abs(velocity).max() <= 127 * 2.0**exponent <= 4.2 * np.abs(velocity).max()
        assert np.abs(error).max() < 2.0**exponent * 8  # the errors of old steps decay
    assert np.abs(w - floats).mean() < 4 and abs((w - floats).mean()) < 0.25


def test_gradients_of_a_layer_are_those_of_autograd() -> None:
    """One convolution with scales per channel: dx and dw beside torch's, as relative errors."""
    chance = np.random.default_rng(2)
    x = chance.integers(-128, 128, (4, 9, 9, 6), dtype=np.int8)
    w, scales = int8(chance, 10, 3, 3, 6), np.exp(chance.normal(-5, 0.5, 10)).astype(np.float32)
    x_scale, y_scale, x_zero = 0.02, 0.05, -7
    real_x = torch.tensor((x.astype(float) - x_zero) * x_scale).permute(0, 3, 1, 2)
    real_w = torch.tensor(w * scales[:, None, None, None].astype(float)).permute(0, 3, 1, 2)
    real_x.requires_grad_()
    real_w.requires_grad_()
    y = torch.nn.functional.conv2d(real_x, real_w, padding=1)
    dy = int8(chance, 4, 9, 9, 10)
    # dy counts 2^-10 of the gradient with respect to y's integer: y_scale times that of y.
    y.backward(torch.tensor(dy * 2.0**-10 / y_scale).permute(0, 3, 1, 2))
    multipliers = x_scale * scales.astype(float) / y_scale
    ratios = np.round(multipliers / multipliers.max() * 32768).astype(np.uint16)
    mantissa, shift = np.frexp(multipliers.max())
    pad = ((1, 1), (1, 1))
    sums = fast.conv2d_input_sums(fast.weigh(dy, ratios, seed=1), w, (9, 9), padding=pad)
    dx, exponent = fast.settle(sums, -10, multiplier=int(mantissa * 2**31), shift=int(shift))
    expected = real_x.grad.permute(0, 2, 3, 1).numpy() * x_scale
    relative = np.linalg.norm(dx * 2.0**exponent - expected) / np.linalg.norm(expected)
    assert relative < 0.03
    dw = fast.conv2d_weight_sums(dy, x, (3, 3), x_zero=x_zero, padding=pad)
    wanted = real_w.grad.permute(0, 2, 3, 1).numpy()
    steps = x_scale / (y_scale * scales)
    in_steps = dw * 2.0**-10 * steps[:, None, None, None] * scales[:, None, None, None]
    assert np.allclose(in_steps, wanted, rtol=1e-6)


FAR = np.full(1, 40000, np.uint16)
LARGE = np.zeros((1, 300, 300, 1), np.int8)
BAD = [
    (lambda: fast.mask(np.zeros(3, np.int8), np.zeros(4, np.int8)), ValueError, "expected shape"),
    (lambda: fast.mask(np.zeros(3), np.zeros(3, np.int8)), TypeError, "expected"),
    (lambda: fast.weigh(np.zeros((2, 3), np.int8), np.zeros(2, np.uint16)), ValueError, "shape"),
    (lambda: fast.weigh(np.zeros((2, 1), np.int8), FAR), ValueError, "32768"),
    (lambda: fast.settle(np.zeros(3, np.int32), 0, mode="up"), ValueError, "mode: expected one of"),
    (lambda: fast.settle(np.zeros(0, np.int32), 0), ValueError, "sums"),
    (lambda: fast.settle(np.zeros((4, 4), np.int32)[:, ::2], 0), ValueError, "C-contiguous"),
    (
        lambda: fast.conv2d_input_sums(
            np.zeros((1, 3, 3, 2), np.int8), np.zeros((2, 3, 3, 1), np.int8), (3, 3)
        ),
        ValueError,
        "dy: expected shape",
    ),
    (
        lambda: fast.conv2d_weight_sums(LARGE, LARGE, (1, 1), x_zero=0),
        ValueError,
        "at most 66311 products",
    ),
    (
        lambda: fast.average_pool2d_sums(
            np.zeros((1, 30, 30, 1), np.int8), (30, 30), (61, 61), (1, 1), ((30, 30), (30, 30))
        ),
        ValueError,
        "at most 515 windows",
    ),
    (
        lambda: fast.update(
            np.zeros((2, 3), np.int8), None, 0, np.zeros((2, 3), np.int32), 0,
            np.ones(3, np.float32), rate=0.1,
        ),
        ValueError,
        "steps: expected shape",
    ),
    (
        lambda: fast.update(
            np.zeros((2, 3), np.int8), None, 0, np.zeros((2, 3), np.int32), 0,
            np.array([1, np.nan], np.float32), rate=0.1,
        ),
        ValueError,
        "steps: expected finite",
    ),
    (
        lambda: fast.update(
            np.zeros((2, 3), np.int8), None, 0, np.zeros((2, 3), np.int32), 0,
            np.ones(2, np.float32), rate=0.1, momentum=1.0,
        ),
        ValueError,
        "momentum: expected",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_told_what_was_expected(case: int) -> None:
    call, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        call()


def test_weights_and_velocity_may_not_share_memory() -> None:
    both = np.zeros((2, 3), np.int8)
    with pytest.raises(ValueError, match="memory of its own"):
        fast.update(both, both, 0, np.ones((2, 3), np.int32), 0, np.ones(2, np.float32), rate=1.0)
