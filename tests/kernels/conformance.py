"""Random cases of every kernel in the file that conformance.c reads, and what they must give.

A case knows its CRC from the kernels of this machine; whatever runs the C program must print the
same. As a program it writes a file and prints the lines a machine must give, without the variant:
python tests/kernels/conformance.py FILE [HOW_MANY_OF_EACH] [SEED]
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from seamline.kernels import f32, parcel, q8, q8_train, random_bits

Array = NDArray[Any]
CORE = Path(__file__).parents[2] / "kernels" / "core"
PROGRAM = Path(__file__).with_name("conformance.c")


@dataclass(frozen=True)
class Case:
    """One call of a kernel. arrays: None is an empty one; want: CRC-32 of all results."""

    name: str
    numbers: tuple[int, ...]
    arrays: tuple[Array | None, ...]
    want: int

    def encode(self) -> bytes:
        """Its bytes in the file."""
        parts = [struct.pack("<32sI", self.name.encode(), len(self.numbers))]
        parts.append(np.array(self.numbers, np.int64).astype("<u4").tobytes())
        parts.append(struct.pack("<I", len(self.arrays)))
        for array in self.arrays:
            data = b"" if array is None else array.astype(array.dtype.newbyteorder("<")).tobytes()
            parts.append(struct.pack("<I", len(data)) + data + bytes(-len(data) % 4))
        return b"".join(parts)


def encode(cases: Sequence[Case]) -> bytes:
    """The whole file."""
    return struct.pack("<8sI", b"SEAMCASE", len(cases)) + b"".join(c.encode() for c in cases)


def answers(text: str) -> dict[str, dict[int, str]]:
    """What the program printed: for each variant, the CRC of each case or what went wrong."""
    found: dict[str, dict[int, str]] = {}
    for line in text.splitlines():
        index, _, variant, said = line.split(" ", 3)
        found.setdefault(variant, {})[int(index)] = said
    return found


def wrong_answers(text: str, cases: Sequence[Case]) -> list[str]:
    """A line for each case that a variant did not give, or gave with other bytes."""
    wrong = []
    for variant, said in answers(text).items():
        for index, case in enumerate(cases):
            want, got = f"{case.want:08x}", said.get(index, "nothing")
            if got != want:
                what = f"case {index} {case.name} {case.numbers}, {variant}"
                wrong.append(f"{what}: expected {want}, got {got}")
    return wrong


def sources() -> list[Path]:
    """The C files that the program is made of: all of the core."""
    return [PROGRAM, *sorted(CORE.glob("*.c")), *sorted(CORE.glob("arch/*.c"))]


def _case(
    name: str, numbers: Iterable[Any], arrays: Iterable[Array | None], results: Iterable[Array]
) -> Case:
    crc = 0
    for result in results:
        crc = zlib.crc32(result.tobytes(), crc)
    whole = (_bits(n) if isinstance(n, float) else int(n) for n in numbers)
    return Case(name, tuple(whole), tuple(arrays), crc)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


@dataclass(frozen=True)
class Window:
    """A random window: shape of x, arguments as the kernels of Python take them."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    moves: dict[str, Any]

    def numbers(self, out_channels: int) -> list[int]:
        """The fields of seam_window."""
        moves, out = self.moves, []
        for axis in range(2):
            reach = (self.kernel[axis] - 1) * moves["dilation"][axis] + 1
            room = self.shape[1 + axis] + sum(moves["padding"][axis]) - reach
            out.append(room // moves["stride"][axis] + 1)
        steps = [*self.kernel, *moves["stride"], *moves["dilation"]]
        return [*self.shape, *out, out_channels, *steps, *moves["padding"][0], *moves["padding"][1]]


class Maker:
    """Draws cases. Arrays are small, so that they fit into a microcontroller."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def draw(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def normal(self, *shape: int) -> NDArray[np.float32]:
        """Some are zero and some tiny: sums must not lose signs or denormals."""
        x = self.rng.standard_normal(shape).astype(np.float32)
        x[self.rng.random(shape) < 0.05] = 0
        x[self.rng.random(shape) < 0.02] *= np.float32(1e-38)
        return x

    def int8(self, *shape: int) -> NDArray[np.int8]:
        x = self.rng.integers(-128, 128, shape).astype(np.int8)
        x[self.rng.random(shape) < 0.1] = self.rng.choice([-128, 127])
        return x

    def window(self, most_channels: int) -> Window:
        """Now and then like a network: many channels, stride 1, 3x3 or 1x1."""
        while True:
            usual, n, c = self.chance(0.3), self.draw(1, 3), self.draw(1, most_channels)
            h, w = (1 if self.chance(0.2) else self.draw(1, 8)), self.draw(1, 13)
            kernel = (1 if h == 1 else self.draw(1, 4), self.draw(1, 5))
            stride, dilation = [tuple(self.draw(1, 3) for _ in range(2)) for _ in range(2)]
            pads = [self.draw(0, 3) for _ in range(4)]
            if usual:
                kernel = (3, 3) if h > 1 and self.chance(0.5) else (1, 1)
                stride, dilation, pads = (1, 1), (1, 1), [kernel[0] // 2] * 4
            moves = {"stride": stride, "dilation": dilation}
            moves["padding"] = ((pads[0], pads[1]), (pads[2], pads[3]))
            found = Window((n, h, w, c), kernel, moves)
            if min(found.numbers(1)[4:6]) > 0:
                return found

    def into(self, *shapes: tuple[int, ...]) -> list[NDArray[np.float32]]:
        return [self.normal(*shape) for shape in shapes]


def _added(
    kernel: Callable[..., Any], start: Sequence[Array | None], *args: Any, **kwargs: Any
) -> list[Array]:
    """Results of a backward kernel that adds to copies of `start`; None: not wanted."""
    into = tuple(None if a is None else a.copy() for a in start)
    kernel(*args, **kwargs, into=into)
    return [a for a in into if a is not None]


# ---- f32 ----


def convolution(make: Maker) -> Iterator[Case]:
    """Forward and backward of conv2d."""
    window, out = make.window(24), make.draw(1, 40)
    x, w, b = make.normal(*window.shape), make.normal(out, *window.kernel, window.shape[3]), None
    if make.chance(0.8):
        b = make.normal(out)
    numbers = window.numbers(out)
    y = f32.conv2d(x, w, b, **window.moves)
    yield _case("f32_conv2d", numbers, [x, w, b], [y])
    yield from _convolution_backward("f32_conv2d", f32.conv2d_backward, make, window, x, w, y)


def depthwise(make: Maker) -> Iterator[Case]:
    """Forward and backward of the depthwise convolution, with multipliers too."""
    window = make.window(24)
    out = window.shape[3] * int(make.rng.choice([1, 1, 1, 2, 8]))
    x, w, b = make.normal(*window.shape), make.normal(1, *window.kernel, out), None
    if make.chance(0.8):
        b = make.normal(out)
    y = f32.depthwise_conv2d(x, w, b, **window.moves)
    yield _case("f32_depthwise", window.numbers(out), [x, w, b], [y])
    kernel = f32.depthwise_conv2d_backward
    yield from _convolution_backward("f32_depthwise", kernel, make, window, x, w, y)


def _convolution_backward(
    name: str, kernel: Callable[..., Any], make: Maker, window: Window, x: Array, w: Array, y: Array
) -> Iterator[Case]:
    dy = make.normal(*y.shape)
    start: list[Array | None] = [*make.into(x.shape, w.shape, y.shape[3:])]
    if make.chance(0.2):
        start[0] = None
    if make.chance(0.1):
        start[2] = None
    results = _added(kernel, start, dy, x, w, **window.moves)
    yield _case(f"{name}_backward", window.numbers(y.shape[3]), [*start, dy, x, w], results)


def dense(make: Maker) -> Iterator[Case]:
    """Forward and backward of dense."""
    n, wide, out = make.draw(1, 12), make.draw(1, 80), make.draw(1, 60)
    x, w = make.normal(n, wide), make.normal(out, wide)
    b = make.normal(out) if make.chance(0.8) else None
    yield _case("f32_dense", (n, wide, out), [x, w, b], [f32.dense(x, w, b)])
    start, dy = make.into((n, wide), (out, wide), (out,)), make.normal(n, out)
    results = _added(f32.dense_backward, start, dy, x, w)
    yield _case("f32_dense_backward", (n, wide, out), [*start, dy, x, w], results)


def pools(make: Maker) -> Iterator[Case]:
    """Both pools, forward and backward."""
    window = make.window(20)
    x, args = make.normal(*window.shape), {"kernel": window.kernel, **window.moves}
    numbers = window.numbers(window.shape[3])
    y = f32.max_pool2d(x, **args)
    yield _case("f32_max_pool2d", numbers, [x], [y])
    start, dy = make.normal(*x.shape), make.normal(*y.shape)
    dx = f32.max_pool2d_backward(dy, x, **args, into=start.copy())
    yield _case("f32_max_pool2d_backward", numbers, [start, dy, x], [dx])
    yield _case("f32_average_pool2d", numbers, [x], [f32.average_pool2d(x, **args)])
    dx = f32.average_pool2d_backward(dy, x.shape, **args, into=start.copy())
    yield _case("f32_average_pool2d_backward", numbers, [start, dy], [dx])


def elements(make: Maker) -> Iterator[Case]:
    """relu, add and the optimiser."""
    size, ceiling = make.draw(1, 300), float("inf") if make.chance(0.5) else 1.5
    a, b, c = (make.normal(size) for _ in range(3))
    y = f32.relu(a, ceiling)
    yield _case("f32_relu", [ceiling], [a], [y])
    dx = f32.relu_backward(b, y, ceiling, into=c.copy())
    yield _case("f32_relu_backward", [ceiling], [c, b, y], [dx])
    yield _case("f32_add", [], [a, b], [f32.add(a, b)])
    yield _case("f32_accumulate", [], [a, b], [a + b])
    how = [float(np.float32(v)) for v in make.rng.random(3)]
    w, v = a.copy(), b.copy()
    f32.sgd(w, v, c, *how)
    yield _case("f32_sgd", how, [a, b, c], [w, v])


def norm(make: Maker) -> Iterator[Case]:
    """Group normalisation, forward and backward."""
    n, pixels, groups = make.draw(1, 3), make.draw(1, 30), make.draw(1, 5)
    channels = groups * make.draw(1, 8)
    x = make.normal(n, pixels, channels) * 4 + 1
    gamma, beta = make.normal(channels), make.normal(channels)
    y, saved = f32.group_norm(x, gamma, beta, groups, 1e-5)
    sizes = [n, pixels, channels, groups]
    yield _case("f32_group_norm", [*sizes, 1e-5], [x, gamma, beta], [y, saved])
    start, dy = make.into(x.shape, gamma.shape, beta.shape), make.normal(*x.shape)
    results = _added(f32.group_norm_backward, start, dy, x, saved, gamma)
    yield _case("f32_group_norm_backward", sizes, [*start, dy, x, saved, gamma], results)


def loss(make: Maker) -> Iterator[Case]:
    """Softmax with cross-entropy, from flat to steep logits."""
    n, classes = make.draw(1, 20), make.draw(1, 30)
    logits = make.normal(n, classes) * np.float32(2.0 ** make.draw(-6, 8))
    labels = make.rng.integers(0, classes, n).astype(np.int32)
    results = f32.softmax_cross_entropy(logits, labels, 0.25)
    yield _case("f32_softmax_cross_entropy", [n, classes, 0.25], [logits, labels], results)


# ---- q8 ----


def _scaling(make: Maker, terms: int, channels: int) -> dict[str, Any]:
    count = 1 if make.chance(0.3) else channels
    multiplier, shift = q8.multiplier_of(2.0 ** make.rng.uniform(-9, 0, count) / np.sqrt(terms))
    if make.chance(0.1):  # every figure that is allowed
        multiplier = make.rng.integers(0, 2**31, count).astype(np.int32)
        shift = make.rng.integers(-31, 31, count).astype(np.int32)
    low, high = sorted(make.draw(-128, 127) for _ in range(2)) if make.chance(0.3) else (-128, 127)
    zeros = {"x_zero": make.draw(-128, 127), "y_zero": make.draw(-128, 127)}
    return {"multiplier": multiplier, "shift": shift, **zeros, "y_min": low, "y_max": high}


def _scaling_numbers(how: dict[str, Any]) -> list[int]:
    return [how["multiplier"].size, *(how[n] for n in ("x_zero", "y_zero", "y_min", "y_max"))]


def _biases(make: Maker, channels: int) -> NDArray[np.int32] | None:
    if make.chance(0.2):
        return None
    return make.rng.integers(-20000, 20000, channels).astype(np.int32)


def q8_convolution(make: Maker) -> Iterator[Case]:
    """conv2d, also grouped, and of many channels."""
    window, groups = make.window(20), int(make.rng.choice([1, 1, 1, 2, 3]))
    n, h, wide, each = window.shape
    whole = Window((n, h, wide, each * groups), window.kernel, window.moves)
    out = groups * (make.draw(1, 70) if make.chance(0.3) else make.draw(1, 20))
    x, w = make.int8(*whole.shape), make.int8(out, *window.kernel, each)
    bias, how = _biases(make, out), _scaling(make, w[0].size, out)
    y = q8.conv2d(x, w, bias, groups=groups, **window.moves, **how)
    numbers = [groups, *whole.numbers(out), *_scaling_numbers(how)]
    yield _case("q8_conv2d", numbers, [x, w, bias, how["multiplier"], how["shift"]], [y])


def q8_dense(make: Maker) -> Iterator[Case]:
    """A dense layer: a 1x1 window of 1x1 images."""
    n = 1 if make.chance(0.3) else make.draw(2, 12)
    wide, out = make.draw(1, 200), make.draw(1, 60)
    x, w, bias = make.int8(n, wide), make.int8(out, wide), _biases(make, out)
    how = _scaling(make, wide, out)
    moves = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
    window = Window((n, 1, 1, wide), (1, 1), moves)
    numbers = [1, *window.numbers(out), *_scaling_numbers(how)]
    arrays = [x, w, bias, how["multiplier"], how["shift"]]
    yield _case("q8_conv2d", numbers, arrays, [q8.dense(x, w, bias, **how)])


def q8_depthwise(make: Maker) -> Iterator[Case]:
    """Depthwise, with multipliers too."""
    window = make.window(70)
    out = window.shape[3] * int(make.rng.choice([1, 1, 1, 1, 2, 8]))
    x, w, bias = make.int8(*window.shape), make.int8(1, *window.kernel, out), _biases(make, out)
    how = _scaling(make, w[0, ..., 0].size, out)
    y = q8.depthwise_conv2d(x, w, bias, **window.moves, **how)
    numbers = [*window.numbers(out), *_scaling_numbers(how)]
    yield _case("q8_depthwise", numbers, [x, w, bias, how["multiplier"], how["shift"]], [y])


def q8_pools(make: Maker) -> Iterator[Case]:
    """Both pools, and the border of padding."""
    window = make.window(90)
    x, zero = make.int8(*window.shape), make.draw(-128, 127)
    moves = {"stride": (1, 1), "dilation": (1, 1), "padding": window.moves["padding"]}
    border = Window(window.shape, (1, 1), moves)
    y = q8.pad(x, moves["padding"], zero)
    yield _case("q8_pad", [*border.numbers(x.shape[3]), zero], [x], [y])
    args = {"kernel": window.kernel, **window.moves}
    args["y_min"], args["y_max"] = sorted(make.draw(-128, 127) for _ in range(2))
    numbers = [*window.numbers(x.shape[3]), args["y_min"], args["y_max"]]
    try:
        y = q8.max_pool2d(x, **args)
    except ValueError:  # a window without a tap inside
        return
    yield _case("q8_max_pool2d", numbers, [x], [y])
    yield _case("q8_average_pool2d", numbers, [x], [q8.average_pool2d(x, **args)])


def q8_elements(make: Maker) -> Iterator[Case]:
    """add, requantise, quantise, dequantise, softmax."""
    size = make.draw(1, 300)
    a, b = make.int8(size), make.int8(size)
    how = q8.sum_scaling(*(float(v) for v in 2.0 ** make.rng.uniform(-8, 2, 3)))
    how |= {f"{n}_zero": make.draw(-128, 127) for n in "aby"}
    how |= dict(zip(("y_min", "y_max"), sorted(make.draw(-128, 127) for _ in "aa"), strict=True))
    order = [f"{n}_{what}" for n in "aby" for what in ("multiplier", "shift")]
    order += ["a_zero", "b_zero", "y_zero", "y_min", "y_max"]
    yield _case("q8_add", [how[n] for n in order], [a, b], [q8.add(a, b, **how)])
    how = _scaling(make, 1, 1)
    arrays = [how["multiplier"], how["shift"], a]
    yield _case("q8_requantise", _scaling_numbers(how), arrays, [q8.requantise(a, **how)])
    scale, zero = float(np.float32(2.0 ** make.rng.uniform(-10, 3))), make.draw(-128, 127)
    x = make.normal(size) * np.float32(60 * scale)
    x[::7] = (np.arange(-3, -3 + len(x[::7])) + np.float32(0.5)) * np.float32(scale)
    for half, rounding in enumerate(("half_away", "half_even")):
        q = q8.quantise(x, scale, zero, rounding)
        yield _case("q8_quantise", [scale, zero, half], [x], [q])
    yield _case("q8_dequantise", [scale, zero], [a], [q8.dequantise(a, scale, zero)])
    rows, classes = make.draw(1, 4), make.draw(1, 40)
    x = make.int8(rows, classes)
    scaling = q8.softmax_scaling(float(2.0 ** make.rng.uniform(-20, 5)))
    numbers = [rows, classes, scaling["multiplier"], scaling["shift"]]
    yield _case("q8_softmax", numbers, [x], [q8.softmax(x, **scaling)])


# ---- q8 training ----


def _noise(make: Maker) -> tuple[list[int], dict[str, Any]]:
    """The three numbers of a noise, and the same as arguments."""
    seed, stream, mode = make.draw(0, 2**31 - 1), make.draw(0, 99), make.draw(0, 2)
    names = ("nearest", "stochastic", "truncate")
    return [seed, stream, mode], {"seed": seed, "stream": stream, "mode": names[mode]}


def _gradient(make: Maker, *shape: int) -> NDArray[np.int8]:
    return make.rng.integers(-127, 128, shape).astype(np.int8)


def q8_sums(make: Maker) -> Iterator[Case]:
    """Sums of inputs, weights and biases: convolution, also grouped, and depthwise."""
    window, groups, zero = make.window(24), int(make.rng.choice([1, 1, 2])), make.draw(-128, 127)
    n, h, wide, each = window.shape
    whole = Window((n, h, wide, each * groups), window.kernel, window.moves)
    out, how = groups * make.draw(1, 24), {"groups": groups, **window.moves}
    numbers = whole.numbers(out)
    dy, x = _gradient(make, n, *numbers[4:6], out), make.int8(*whole.shape)
    w = _gradient(make, out, *window.kernel, each)
    sums = q8_train.conv2d_input_sums(dy, w, (h, wide), **how)
    yield _case("q8_conv2d_inputs", [groups, *numbers], [dy, w], [sums])
    sums = q8_train.conv2d_weight_sums(dy, x, window.kernel, x_zero=zero, **how)
    yield _case("q8_conv2d_weights", [groups, zero, *numbers], [dy, x], [sums])
    yield _case("q8_bias_sums", [out], [dy], [q8_train.bias_sums(dy)])
    out = each * int(make.rng.choice([1, 1, 2]))
    numbers = window.numbers(out)
    dy, x = _gradient(make, n, *numbers[4:6], out), make.int8(*window.shape)
    w = _gradient(make, 1, *window.kernel, out)
    sums = q8_train.depthwise_input_sums(dy, w, (h, wide), each, **window.moves)
    yield _case("q8_depthwise_inputs", numbers, [dy, w], [sums])
    sums = q8_train.depthwise_weight_sums(dy, x, window.kernel, x_zero=zero, **window.moves)
    yield _case("q8_depthwise_weights", [zero, *numbers], [dy, x], [sums])


def q8_gradients(make: Maker) -> Iterator[Case]:
    """What is done to a gradient element by element."""
    n, c = make.draw(1, 40), make.draw(1, 40)
    dy, y = _gradient(make, n, c), make.int8(n, c)
    yield _case("q8_mask", [-100, 90], [dy, y], [q8_train.mask(dy, y, -100, 90)])
    ratios = make.rng.integers(0, 32769, c).astype(np.uint16)
    noise, how = _noise(make)
    out = q8_train.weigh(dy, ratios, **how)
    yield _case("q8_weigh", [c, *noise], [dy, ratios], [out])
    reach = 2 ** make.draw(1, 30)
    sums = make.rng.integers(-reach, reach, (n, c), dtype=np.int32)
    for multiplier in (0, make.draw(2**30, 2**31 - 1)):
        noise, how = _noise(make)
        g, bits = q8_train.settle(sums, 0, multiplier=multiplier, **how)
        results = [g, np.array([bits], np.int32)]
        yield _case("q8_settle", [multiplier, *noise], [sums], results)


def q8_updates(make: Maker) -> Iterator[Case]:
    """One step of the optimiser, with velocities and without, by channels and by taps."""
    depthwise, channels, terms = make.draw(0, 1), make.draw(1, 40), make.draw(1, 40)
    shape = (terms, channels) if depthwise else (channels, terms)
    w, v = _gradient(make, *shape), None if make.chance(0.2) else _gradient(make, *shape)
    reach = 2 ** make.draw(4, 24)
    dw = make.rng.integers(-reach, reach, shape, dtype=np.int32)
    steps = np.exp(make.rng.normal(0, 1, channels)).astype(np.float32)
    at, e = -make.draw(4, 12), -make.draw(10, 24)
    rates = [float(np.float32(r)) for r in (0.1 * make.rng.random(), 0.9, 1e-3)]
    noise, how = _noise(make)
    how |= dict(zip(("rate", "momentum", "decay"), rates, strict=True))
    new_w, new_v = w.copy(), None if v is None else v.copy()
    new = q8_train.update(new_w, new_v, at, dw, e, steps, depthwise=bool(depthwise), **how)
    results = [new_w, *([] if new_v is None else [new_v]), np.array([new], np.int32)]
    numbers = [depthwise, channels, at, e, *rates, *noise]
    yield _case("q8_update", numbers, [w, v, dw, steps], results)
    floats = make.rng.normal(0, 9, shape).astype(np.float32)
    new_w, new_v = w.copy(), floats.copy()
    q8_train.update_float(new_w, new_v, dw, e, steps, depthwise=bool(depthwise), **how)
    numbers = [depthwise, channels, e, *rates, *noise]
    yield _case("q8_update_float", numbers, [w, floats, dw, steps], [new_w, new_v])


# ---- Parcels and random bits ----


def parcels(make: Maker) -> Iterator[Case]:
    """Every codec and rounding."""
    shape = [make.draw(1, 8) for _ in range(make.draw(1, 4))]
    x = make.normal(*shape) * np.float32(2.0 ** make.draw(-8, 8))
    for codec, number in parcel.CODECS.items():
        rounding, seed = make.draw(0, 1), make.draw(0, 2**31 - 1)
        data = parcel.pack(x, codec, rounding, seed)
        results = [np.frombuffer(data, np.uint8), parcel.unpack(data)[0]]
        yield _case("parcel", [number, rounding, seed, *shape], [x], results)
    numbers = [make.draw(0, 2**31 - 1) for _ in range(3)]
    yield _case("random", [*numbers, 50], [], [random_bits(*numbers, 50)])


FAMILIES: tuple[Callable[[Maker], Iterator[Case]], ...] = (
    convolution,
    depthwise,
    dense,
    pools,
    elements,
    norm,
    loss,
    q8_convolution,
    q8_dense,
    q8_depthwise,
    q8_pools,
    q8_elements,
    q8_sums,
    q8_gradients,
    q8_updates,
    parcels,
)


def cases(each: int, seed: int = 1) -> list[Case]:
    """`each` draws of every family."""
    make = Maker(seed)
    return [case for _ in range(each) for family in FAMILIES for case in family(make)]


def main(path: str, each: str = "20", seed: str = "1") -> None:
    """Write a file and print the answers."""
    made = cases(int(each), int(seed))
    Path(path).write_bytes(encode(made))
    for index, case in enumerate(made):
        print(index, case.name, f"{case.want:08x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
