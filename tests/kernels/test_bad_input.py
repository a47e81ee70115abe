"""What does not fit is refused with expected and got, and nothing is written."""

import os
import subprocess
import sys

import numpy as np
import pytest
from seamline.kernels import SeamError, choose_variant, f32, parcel, q8, random_bits, variants


def ones(*shape):
    return np.ones(shape, np.float32)


X, W, DY = ones(2, 5, 5, 3), ones(4, 3, 3, 3), ones(2, 3, 3, 4)
DEPTH = ones(1, 3, 3, 6)
LABELS = np.zeros(2, np.int32)


def bytes_of(*shape):
    return np.ones(shape, np.int8)


def integers(*values):
    return np.array(values, np.int32)


QX, QW, QD = bytes_of(2, 5, 5, 3), bytes_of(4, 3, 3, 3), bytes_of(1, 3, 3, 6)
HOW = {"x_zero": 0, "y_zero": 0, "multiplier": integers(1 << 30), "shift": integers(0)}
SUM = {f"{n}_{part}": 0 for n in "aby" for part in ("zero", "multiplier", "shift")}


def conv(x=QX, w=QW, bias=None, **more):
    return q8.conv2d(x, w, bias, **HOW | more)


BAD = {
    "float64": (lambda: f32.conv2d(X.astype(float), W), TypeError, "x: expected dtype float32"),
    "big endian": (lambda: f32.conv2d(X.astype(">f4"), W), TypeError, "x: expected dtype float32"),
    "a list": (lambda: f32.relu([1.0]), TypeError, "x: expected a float32 array, got list"),
    "None": (lambda: f32.dense(ones(2, 3), None), TypeError, "w: expected a float32 array"),
    "three axes": (lambda: f32.conv2d(X[0], W), ValueError, "x: expected 4 axes, got shape (5, 5"),
    "strided": (lambda: f32.conv2d(X[:, ::2], W), ValueError, "expected a C-contiguous array"),
    "transposed": (lambda: f32.conv2d(X.T, W), ValueError, "expected a C-contiguous array"),
    "empty": (lambda: f32.relu(ones(0, 3)), ValueError, "non-empty array, got shape (0, 3)"),
    "no batch": (lambda: f32.conv2d(X[:0], W), ValueError, "x: expected a non-empty array"),
    "unaligned": (
        lambda: f32.relu(np.frombuffer(bytes(17), np.uint8)[1:].view(np.float32)),
        ValueError,
        "aligned",
    ),
    "channels": (lambda: f32.conv2d(X, ones(4, 3, 3, 2)), ValueError, "w: expected 3 input"),
    "bias": (lambda: f32.conv2d(X, W, ones(3)), ValueError, "b: expected shape (4,), got (3,)"),
    "kernel too large": (lambda: f32.conv2d(X, ones(4, 6, 3, 3)), ValueError, "6x3 with"),
    "dilated too large": (lambda: f32.conv2d(X, W, dilation=(3, 1)), ValueError, "dilation (3, 1)"),
    "stride 0": (lambda: f32.conv2d(X, W, stride=(0, 1)), ValueError, "stride: expected 1 to"),
    "stride as number": (lambda: f32.conv2d(X, W, stride=2), ValueError, "(height, width), got 2"),
    "stride as float": (lambda: f32.conv2d(X, W, stride=(1.0, 1)), TypeError, "stride: expected"),
    "negative padding": (
        lambda: f32.conv2d(X, W, padding=((-1, 0), (0, 0))),
        ValueError,
        "padding: expected 0 to 65535, got -1",
    ),
    "flat padding": (lambda: f32.conv2d(X, W, padding=(1, 1)), ValueError, "got 1"),
    "huge padding": (
        lambda: f32.conv2d(X, W, padding=((65535, 65535), (65535, 65535))),
        ValueError,
        "kernel 3x3, 4 channels out",
    ),
    "dy": (lambda: f32.conv2d_backward(X, X, W), ValueError, "dy: expected shape (2, 3, 3, 4)"),
    "into of two": (lambda: f32.conv2d_backward(DY, X, W, into=(None, W)), ValueError, "(dx, dw"),
    "into without dw": (
        lambda: f32.conv2d_backward(DY, X, W, into=(None, None, None)),
        TypeError,
        "dw: expected a float32 array",
    ),
    "into an input": (
        lambda: f32.conv2d_backward(DY, X, W, into=(None, W, None)),
        ValueError,
        "dw: expected memory of its own, got some shared with w",
    ),
    "into one array twice": (
        lambda: f32.dense_backward(ones(2, 2), ones(2, 2), ones(2, 2), into=(S[:2], S[1:], None)),
        ValueError,
        "dx: expected memory of its own, got some shared with dw",
    ),
    "into read-only": (
        lambda: f32.conv2d_backward(DY, X, W, into=(None, frozen(W), None)),
        ValueError,
        "dw: expected a writable",
    ),
    "depthwise rows": (lambda: f32.depthwise_conv2d(X, W), ValueError, "w: expected (1, kernel"),
    "depthwise multiple": (
        lambda: f32.depthwise_conv2d(X, ones(1, 3, 3, 4)),
        ValueError,
        "w: expected a multiple of the 3 channels",
    ),
    "dense width": (lambda: f32.dense(ones(2, 3), ones(4, 2)), ValueError, "w: expected (out, 3)"),
    "pool kernel": (lambda: f32.max_pool2d(X, (0, 1)), ValueError, "kernel: expected 1 to 65535"),
    "pool shape": (
        lambda: f32.average_pool2d_backward(DY, (2, 5, 5)),
        ValueError,
        "input_shape: expected (n, h, w, c)",
    ),
    "ceiling": (lambda: f32.relu(X, 0), ValueError, "ceiling: expected a number above 0"),
    "relu overlap": (
        lambda: f32.relu_backward(S[1:], ones(2, 2), into=S[:2]),
        ValueError,
        "dx: expected memory of its own",
    ),
    "add": (lambda: f32.add(X, W), ValueError, "b: expected shape (2, 5, 5, 3), got (4, 3, 3, 3)"),
    "groups": (lambda: f32.group_norm(X, ones(3), ones(3), 2), ValueError, "divisor of 3 channels"),
    "label too large": (
        lambda: f32.softmax_cross_entropy(ones(2, 3), LABELS + 3),
        ValueError,
        "labels: expected 0 to 2, got 3 at 0",
    ),
    "label negative": (
        lambda: f32.softmax_cross_entropy(ones(2, 3), LABELS - 1),
        ValueError,
        "labels: expected 0 to 2, got -1",
    ),
    "labels int64": (
        lambda: f32.softmax_cross_entropy(ones(2, 3), LABELS.astype(np.int64)),
        TypeError,
        "labels: expected dtype int32, got int64",
    ),
    "sgd overlap": (lambda: f32.sgd(S[:2], S[1:], ones(2, 2), 0.1), ValueError, "w: expected mem"),
    "parcel codec": (lambda: parcel.pack(X, "int3"), ValueError, "randtop10, got 'int3'"),
    "parcel codec number": (lambda: parcel.pack(X, 10), ValueError, "codec: expected one of [0, 1"),
    "parcel rounding": (lambda: parcel.pack(X, "int8", "up"), ValueError, "rounding: expected"),
    "parcel seed": (lambda: parcel.pack(X, "int8", seed=-1), ValueError, "seed: expected 0 to"),
    "parcel axes": (
        lambda: parcel.pack(ones(1, 1, 1, 1, 1), "int8"),
        ValueError,
        "x: expected 1 to 4 axes",
    ),
    "parcel of text": (lambda: parcel.unpack("abc"), TypeError, "data: expected bytes, got str"),
    "parcel offset": (lambda: parcel.unpack(b"abc", 4), ValueError, "offset: expected 0 to 3"),
    "random seed": (lambda: random_bits(2**32, 0, 0, 1), ValueError, "seed: expected 0 to 2**32"),
    "random count": (lambda: random_bits(0, 0, 0, 0), ValueError, "count: expected 1 to"),
    "q8 float x": (lambda: conv(X), TypeError, "x: expected dtype int8, got float32"),
    "q8 unsigned x": (lambda: conv(QX.view(np.uint8)), TypeError, "x: expected dtype int8, got ui"),
    "q8 strided": (lambda: conv(QX[:, ::2]), ValueError, "x: expected a C-contiguous array"),
    "q8 empty": (lambda: conv(QX[:0]), ValueError, "x: expected a non-empty array"),
    "q8 axes": (lambda: conv(QX[0]), ValueError, "x: expected 4 axes, got shape (5, 5, 3)"),
    "q8 channels": (lambda: conv(w=bytes_of(4, 3, 3, 2)), ValueError, "w: expected 3 input"),
    "q8 groups": (lambda: conv(groups=2), ValueError, "groups: expected a divisor of 3 channels"),
    "q8 group width": (lambda: conv(w=bytes_of(3, 3, 3, 3), groups=3), ValueError, "w: expected 1"),
    "q8 kernel": (lambda: conv(w=bytes_of(4, 6, 3, 3)), ValueError, "6x3 with"),
    "q8 bias dtype": (
        lambda: conv(bias=LABELS.astype(np.int64)),
        TypeError,
        "bias: expected dtype",
    ),
    "q8 bias shape": (lambda: conv(bias=LABELS), ValueError, "bias: expected shape (4,), got (2,)"),
    "q8 bias size": (
        lambda: conv(bias=integers(2**31 - 1, 0, 0, 0)),
        ValueError,
        "bias: expected at most 2146602367 beside 27 products, got 2147483647",
    ),
    "q8 lowest bias": (
        lambda: conv(bias=integers(-(2**31), 0, 0, 0)),
        ValueError,
        "beside 27 products, got 2147483648",
    ),
    "q8 terms": (
        lambda: conv(bytes_of(1, 257, 257, 1), bytes_of(1, 257, 257, 1)),
        ValueError,
        "w: expected at most 65793 products in a sum, got 66049",
    ),
    "q8 zero point": (
        lambda: conv(x_zero=128),
        ValueError,
        "x_zero: expected -128 to 127, got 128",
    ),
    "q8 float zero point": (lambda: conv(y_zero=0.0), TypeError, "y_zero: expected an integer"),
    "q8 multipliers": (
        lambda: conv(multiplier=integers(1, 1)),
        ValueError,
        "multiplier: expected shape (1,) or (4,), got (2,)",
    ),
    "q8 shifts": (lambda: conv(shift=integers(1, 1)), ValueError, "shift: expected shape (1,)"),
    "q8 multiplier dtype": (
        lambda: conv(multiplier=np.ones(4)),
        TypeError,
        "multiplier: expected dtype int32, got float64",
    ),
    "q8 multiplier as number": (lambda: conv(multiplier=5), TypeError, "int32 array, got int"),
    "q8 negative multiplier": (
        lambda: conv(multiplier=integers(1, 1, -1, 1), shift=integers(0, 0, 0, 0)),
        ValueError,
        "multiplier: expected 0 to 2**31 - 1, got -1 at 2",
    ),
    "q8 shift": (lambda: conv(shift=integers(31)), ValueError, "shift at 0: expected -31 to 30"),
    "q8 clamp": (lambda: conv(y_min=1, y_max=0), ValueError, "y_min: expected at most y_max 0"),
    "q8 clamp range": (lambda: conv(y_max=128), ValueError, "y_max: expected -128 to 127, got 128"),
    "q8 depthwise": (
        lambda: q8.depthwise_conv2d(QX, QW, **HOW),
        ValueError,
        "w: expected (1, kern",
    ),
    "q8 depthwise multiple": (
        lambda: q8.depthwise_conv2d(bytes_of(1, 5, 5, 4), QD, **HOW),
        ValueError,
        "w: expected a multiple of the 4 channels",
    ),
    "q8 dense": (
        lambda: q8.dense(bytes_of(2, 3), bytes_of(4, 2), **HOW),
        ValueError,
        "w: expected (out, 3) as in x, got shape (4, 2)",
    ),
    "q8 pool of padding": (
        lambda: q8.max_pool2d(QX, padding=((2, 0), (0, 0))),
        ValueError,
        "padding: expected one that leaves every window a tap inside",
    ),
    "q8 pool between taps": (
        lambda: q8.average_pool2d(QX[:1, :1], (2, 1), (1, 1), ((1, 1), (0, 0)), (2, 1)),
        ValueError,
        "padding: expected one that leaves every window a tap inside",
    ),
    "q8 pad": (lambda: q8.pad(QX, (1, 1), 0), ValueError, "padding: expected"),
    "q8 pad zero": (lambda: q8.pad(QX, ((1, 1), (1, 1)), 200), ValueError, "zero: expected -128"),
    "q8 add": (lambda: q8.add(QX, QW, **SUM), ValueError, "b: expected shape (2, 5, 5, 3), got"),
    "q8 add shift": (
        lambda: q8.add(QX, QX, **SUM | {"b_shift": 1}),
        ValueError,
        "b_shift: expected -31 to 0, got 1",
    ),
    "q8 sum scales": (lambda: q8.sum_scaling(1.0, 1.0, 1e-6), ValueError, "y_scale above max"),
    "q8 softmax classes": (
        lambda: q8.softmax(bytes_of(1, 4096), multiplier=1, shift=0),
        ValueError,
        "x: expected at most 4095 classes",
    ),
    "q8 softmax of a number": (
        lambda: q8.softmax(np.array(1, np.int8), multiplier=1, shift=0),
        ValueError,
        "x: expected 1 axis or more",
    ),
    "q8 softmax shift": (
        lambda: q8.softmax(QX, multiplier=1, shift=-1),
        ValueError,
        "shift: expected 0 to 31, got -1",
    ),
    "q8 softmax scale": (lambda: q8.softmax_scaling(1e-9), ValueError, "above 2**-26"),
    "q8 quantise int": (lambda: q8.quantise(QX, 1.0, 0), TypeError, "x: expected dtype float32"),
    "q8 scale": (lambda: q8.quantise(X, 0.0, 0), ValueError, "scale: expected a normal float32"),
    "q8 scale nan": (lambda: q8.quantise(X, np.nan, 0), ValueError, "scale: expected a normal"),
    "q8 rounding": (
        lambda: q8.quantise(X, 1.0, 0, "up"),
        ValueError,
        "rounding: expected one of half_away, half_even, got 'up'",
    ),
    "q8 dequantise": (lambda: q8.dequantise(X, 1.0, 0), TypeError, "q: expected dtype int8"),
    "q8 requantise": (
        lambda: q8.requantise(QX, **HOW | {"multiplier": integers(1, 1)}),
        ValueError,
        "multiplier: expected shape (1,), got (2,)",
    ),
    "q8 multiplier of a negative": (lambda: q8.multiplier_of(-1.0), ValueError, "0 to below 2**30"),
    "q8 multiplier of nan": (lambda: q8.multiplier_of(np.nan), ValueError, "scale: expected 0 to"),
    "q8 multiplier too large": (lambda: q8.multiplier_of(2.0**30), ValueError, "got 1073741824"),
    "variant": (lambda: choose_variant("abacus"), ValueError, "got 'abacus'"),
}
S = ones(3, 2)


def frozen(x):
    y = x.copy()
    y.flags.writeable = False
    return y


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_expected_and_got(name):
    call, kind, text = BAD[name]
    with pytest.raises(kind) as caught:
        call()
    assert text in str(caught.value)
    for array in (X, W, DY, S, QX, QW, QD):
        assert (array == 1).all()


def test_too_many_values_for_a_parcel_are_refused():
    with pytest.raises(SeamError, match="over its limit") as caught:
        parcel.pack(np.zeros((1 << 22) + 1, np.float32), "int4")
    assert caught.value.status == -7


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", parcel.CODECS)
@pytest.mark.parametrize("place", [0, 15, 16, 36])
def test_a_parcel_refuses_a_value_that_is_not_finite(codec, value, place):
    x = ones(37)
    x[place] = value
    with pytest.raises(SeamError, match="NaN or infinite") as caught:
        parcel.pack(x, codec)
    assert caught.value.status == -10


def test_a_parcel_refuses_a_range_that_overflows():
    with pytest.raises(SeamError, match="NaN or infinite"):
        parcel.pack(np.array([-3e38, 3e38], np.float32), "int8")


def run(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", variants())
def test_the_environment_forces_a_variant(name):
    done = run("import seamline.kernels as k; print(k.variant())", SEAMLINE_KERNELS=name)
    assert done.stdout.strip() == name


def test_a_chosen_variant_holds_in_every_compiled_module():
    done = run(
        "import numpy as np, seamline.kernels as k\n"
        "from seamline.kernels import _front\n"
        "chosen = []\n"
        "_front_choose = _front.choose_variant\n"
        "_front.choose_variant = lambda name: chosen.append(name) or _front_choose(name)\n"
        "k.choose_variant('generic')\n"
        "print(k.variant(), chosen)"
    )
    assert done.stdout.strip() == "generic ['generic']", done.stderr


def test_an_unknown_variant_in_the_environment_is_an_error_that_names_the_known():
    done = run("import seamline.kernels", SEAMLINE_KERNELS="abacus")
    assert done.returncode != 0
    assert "expected one of generic" in done.stderr


def test_importing_the_kernels_loads_neither_the_definition_nor_torch():
    done = run(
        "import sys, seamline.kernels.f32, seamline.kernels.parcel\n"
        "print([m for m in sys.modules if m in ('torch', 'seamline.kernels.reference')])"
    )
    assert done.stdout.strip() == "[]"


def test_an_import_without_the_compiled_module_says_what_to_run():
    done = run(
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'seamline.kernels._core':\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "import seamline.kernels"
    )
    assert done.returncode != 0
    assert "python -m pip install -e ." in done.stderr
