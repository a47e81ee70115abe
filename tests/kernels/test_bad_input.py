"""What does not fit is refused with expected and got, and nothing is written."""

import os
import subprocess
import sys

import numpy as np
import pytest
from seamline.kernels import SeamError, choose_variant, f32, parcel, random_bits, variants


def ones(*shape):
    return np.ones(shape, np.float32)


X, W, DY = ones(2, 5, 5, 3), ones(4, 3, 3, 3), ones(2, 3, 3, 4)
DEPTH = ones(1, 3, 3, 6)
LABELS = np.zeros(2, np.int32)

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
    "parcel codec": (lambda: parcel.pack(X, "int3"), ValueError, "f32, int8, int4, got 'int3'"),
    "parcel codec number": (lambda: parcel.pack(X, 9), ValueError, "codec: expected one of [0, 1"),
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
    for array in (X, W, DY, S):
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
