"""The compiled int8 layers equal the NumPy definition byte for byte, in every variant."""

import numpy as np
import pytest
from seamline.kernels import SeamError, choose_variant, q8, reference_q8, variants


def same(name, *args, **kwargs):
    """Call a kernel of that name in every variant, and the definition; returns its result."""
    want = getattr(reference_q8, name)(*args, **kwargs)
    what = f"{name} {[getattr(a, 'shape', a) for a in args]} {kwargs}"
    for variant in variants():
        choose_variant(variant)
        got = getattr(q8, name)(*args, **kwargs)
        assert got.dtype == want.dtype, what
        assert got.shape == want.shape, what
        at = np.argwhere(got != want)[:3]
        assert got.tobytes() == want.tobytes(), f"{variant} {what}: differs at {at}"
    choose_variant()
    return want


@pytest.fixture
def values(rng):
    def make(*shape):
        x = rng.integers(-128, 128, shape).astype(np.int8)
        x[rng.random(shape) < 0.1] = rng.choice([-128, 127])
        return x

    return make


@pytest.fixture
def scaling(rng):
    """x_zero, y_zero, multipliers, shifts and a clamp for sums of some terms over some channels."""

    def make(terms, channels, one=None):
        count = 1 if (rng.random() < 0.3 if one is None else one) else channels
        scales = 2.0 ** rng.uniform(-9, 0, count) / np.sqrt(terms)
        multiplier, shift = q8.multiplier_of(scales)
        if rng.random() < 0.1:  # every figure that is allowed
            multiplier = rng.integers(0, 2**31, count).astype(np.int32)
            shift = rng.integers(-31, 31, count).astype(np.int32)
        x_zero, y_zero = (int(v) for v in rng.integers(-128, 128, 2))
        clamp = sorted(int(v) for v in rng.integers(-128, 128, 2))
        chosen = {"x_zero": x_zero, "y_zero": y_zero, "multiplier": multiplier, "shift": shift}
        return chosen | ({"y_min": clamp[0], "y_max": clamp[1]} if rng.random() < 0.3 else {})

    return make


@pytest.fixture
def biases(rng):
    def make(channels):
        if rng.random() < 0.2:
            return None
        return rng.integers(-20000, 20000, channels).astype(np.int32)

    return make


@pytest.mark.parametrize("part", range(3))
def test_convolution_equals_the_definition(part, rng, window, values, scaling, biases):
    for _ in range(80):
        shape, args = window(most_channels=12)
        groups = int(rng.choice([1, 1, 1, 2, 3, 4]))
        each, kernel = int(rng.integers(1, 20)), args.pop("kernel")
        x = values(*shape[:3], shape[3] * groups)
        w = values(each * groups, *kernel, shape[3])
        how = scaling(w[0].size, len(w))
        same("conv2d", x, w, biases(len(w)), groups=groups, **args, **how)


def test_a_dense_layer_of_one_sample_equals_the_definition(rng, values, scaling, biases):
    for wide in (1, 3, 4, 7, 8, 15, 16, 17, 31, 32, 64, 129, 640):
        for out in (1, 3, 4, 5, 8, 13, 33):
            x, w = values(1, wide), values(out, wide)
            same("dense", x, w, biases(out), **scaling(wide, out))


@pytest.mark.parametrize("channels", [1, 7, 8, 15, 16, 17, 33, 64])
def test_pointwise_convolution_equals_the_definition(channels, rng, values, scaling, biases):
    for inputs in (1, 2, 15, 16, 17, 64, 129):
        x, w = values(1, 3, 5, inputs), values(channels, 1, 1, inputs)
        same("conv2d", x, w, biases(channels), **scaling(inputs, channels))


def test_depthwise_convolution_equals_the_definition(rng, window, values, scaling, biases):
    for _ in range(200):
        shape, args = window(most_channels=40)
        kernel, out = args.pop("kernel"), shape[3] * int(rng.choice([1, 1, 1, 2, 8]))
        x, w = values(*shape), values(1, *kernel, out)
        how = scaling(kernel[0] * kernel[1], out)
        same("depthwise_conv2d", x, w, biases(out), **args, **how)


def test_dense_equals_the_definition(rng, values, scaling, biases):
    for _ in range(150):
        n, wide, out = (int(rng.integers(1, most)) for most in (20, 200, 60))
        x, w = values(n, wide), values(out, wide)
        same("dense", x, w, biases(out), **scaling(wide, out))


def test_a_sum_of_as_many_products_as_are_allowed_equals_the_definition(values, scaling):
    kernel = (257, 256)  # 65,792 products; one more than 65,793 is refused
    x, w = np.full((1, *kernel, 1), -128, np.int8), np.full((3, *kernel, 1), -128, np.int8)
    w[1], w[2] = 127, values(*kernel, 1)
    how = scaling(kernel[0] * kernel[1], 3) | {"x_zero": 127}
    same("conv2d", x, w, np.array([30000, -30000, 1], np.int32), **how)


def test_pools_and_padding_equal_the_definition(rng, window, values):
    tried = 0
    for _ in range(500):
        shape, args = window(most_channels=90)
        x = values(*shape)
        clamp = sorted(int(v) for v in rng.integers(-128, 128, 2))
        how = {"y_min": clamp[0], "y_max": clamp[1]} if rng.random() < 0.3 else {}
        same("pad", x, args["padding"], int(rng.integers(-128, 128)))
        try:
            q8.max_pool2d(x, **args)
        except ValueError as error:
            assert "every window a tap inside" in str(error)
            continue
        tried += 1
        same("max_pool2d", x, **args, **how)
        same("average_pool2d", x, **args, **how)
    assert tried > 100


def test_sums_equal_the_definition(rng, values):
    for size in (*range(1, 20), 300, 1001):
        a, b = values(size), values(size)
        scales = 2.0 ** rng.uniform(-8, 2, 3)
        zeros = {
            f"{n}_zero": int(v) for n, v in zip("aby", rng.integers(-128, 128, 3), strict=True)
        }
        same("add", a, b, **q8.sum_scaling(*scales), **zeros)
        any_scale = {f"{n}_multiplier": int(rng.integers(0, 2**31)) for n in "aby"}
        any_scale |= {f"{n}_shift": int(rng.integers(-31, 1)) for n in "aby"}
        same("add", a, b, **any_scale, **zeros, y_min=-100, y_max=99)


def test_requantising_equals_the_definition(rng, values, scaling):
    for size in (*range(1, 20), 300, 1001):
        same("requantise", values(size), **scaling(1, 1))


@pytest.mark.parametrize("rounding", ["half_away", "half_even"])
def test_quantising_equals_the_definition(rounding, rng, values):
    halves = np.arange(-700, 700, dtype=np.float32) / 2
    huge = np.array([np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0], np.float32)
    for scale in (1.0, 0.5, 0.25, 0.0173, 1e30, 1.2e-38):
        zero = int(rng.integers(-128, 128))
        noise = rng.standard_normal(500).astype(np.float32) * np.float32(min(scale * 60, 1e38))
        for x in (halves * np.float32(min(scale, 1e30)), huge, noise):
            same("quantise", x, scale, zero, rounding)
        same("dequantise", values(3, 5), scale, zero)


def test_halves_go_where_the_name_says():
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert q8.quantise(x, 1.0, 0).tolist() == [-3, -2, -1, 1, 2, 3]
    assert q8.quantise(x, 1.0, 0, "half_even").tolist() == [-2, -2, 0, 0, 2, 2]


def test_softmax_equals_the_definition(rng, values):
    for scale in 2.0 ** rng.uniform(-25, 7, 60):
        classes = int(rng.integers(1, 40))
        same("softmax", values(3, classes), **q8.softmax_scaling(scale))
    for scale in (1e-3, 0.1, 1.0):
        level = np.zeros((1, 4095), np.int8)  # the largest sum there is
        same("softmax", level, **q8.softmax_scaling(scale))
        same("softmax", values(2, 4095), **q8.softmax_scaling(scale))


def test_softmax_comes_within_a_step_of_the_real_one(rng):
    x = rng.integers(-128, 128, (50, 10)).astype(np.int8)
    for scale in (0.01, 0.05, 0.2):
        real = np.exp(x * scale - (x * scale).max(axis=1, keepdims=True))
        real = np.clip(np.rint(real / real.sum(axis=1, keepdims=True) * 256) - 128, -128, 127)
        assert np.abs(q8.softmax(x, **q8.softmax_scaling(scale)) - real).max() <= 1


def test_a_multiplier_is_its_scale_to_31_bits(rng):
    scales = np.concatenate([2.0 ** rng.uniform(-31, 29, 500), [0, 0.5, 1.0, 1 - 2.0**-40, 2**-32]])
    multiplier, shift = q8.multiplier_of(scales)
    found = multiplier.astype(float) * 2.0 ** (shift - 31.0)
    assert np.all(np.abs(found - scales) <= scales * 2.0**-31)
    assert np.all((multiplier >= 2**30) | (scales == 0))
    for got, want in zip((multiplier, shift), reference_q8.multiplier_of(scales), strict=True):
        assert got.tobytes() == want.tobytes()
    assert q8.multiplier_of(2.0**-34)[0].tolist() == [0]


def test_the_definition_rounds_as_its_words_say():
    a = np.array([5, -5, 6, -6, 7, -7], np.int64) << 30
    exact = reference_q8._multiply(a, 1)  # 2.5, -2.5, 3, -3, 3.5, -3.5: ties up
    assert exact.tolist() == [3, -2, 3, -3, 4, -3]
    away = reference_q8._shift_right([5, -5, 6, -6, 7, -7], 1)
    assert away.tolist() == [3, -3, 3, -3, 4, -4]


def test_quantising_nan_is_an_error():
    with pytest.raises(SeamError, match="NaN or infinite"):
        q8.quantise(np.array([0, np.nan], np.float32), 1.0, 0)
