"""A quantised front: its integers, its file, its run layer by layer, and what compares two runs.

No torch: a device can read, run and trace what an edge host has quantised.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..kernels import ARITHMETIC_VERSION, q8, random_bits
from .calibration import F32, WEIGHTED, WHAT_TO_DO, weight_shape
from .files import write_whole
from .float_front import Arrays, FileError, array_of, describe_spec, described_bytes, read_described
from .plan import LayerSpec, PlanError, Shape, build_plan

Q = NDArray[np.int8]
Ints = NDArray[np.int32]

FORMAT = 1  # of the file
FUSES = (*WEIGHTED, "add")  # kinds that clamp to a ReLU themselves
SAME_SCALE = ("max_pool", "average_pool", "flatten", "relu")  # kinds that keep their input's
SUM = {f"{who}_{what}" for who in "aby" for what in ("multiplier", "shift")}
TRACE_STREAM = 0x54524143  # of the random inputs of a trace


# ---- what it is ----


@dataclass(frozen=True)
class QuantisedLayer:
    """One int8 layer. spec: tensors counted as the int8 front has them, a fused ReLU left out.

    weights: kernel layout, int8 in -127..127; bias: int32 [o] in units of input scale times
    weight scale; weight_scales: float32 [o]; multiplier, shift: int32 [o]. All None where the
    layer has no weights, bias also where it has none. sum: the integers of `q8.add`, else empty.
    ceiling: of the fused ReLU (inf: it has none), None without one; y_min, y_max: what it clamps
    to, else all of int8.
    """

    spec: LayerSpec
    ceiling: float | None = None
    y_min: int = -128
    y_max: int = 127
    weights: Q | None = None
    bias: Ints | None = None
    weight_scales: F32 | None = None
    multiplier: Ints | None = None
    shift: Ints | None = None
    sum: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class QuantisedFront:
    """layers in plan order; scales float32 and zeros int32 of its tensors (0 is the input);
    stands_for: for each tensor the number of the float front's tensor that it is a copy of."""

    input_shape: Shape
    layers: list[QuantisedLayer]
    scales: F32
    zeros: Ints
    stands_for: list[int]

    @property
    def shapes(self) -> list[Shape]:
        """(h, w, c) of the tensors."""
        return [self.input_shape, *(layer.spec.output_shape for layer in self.layers)]

    def scale(self, tensor: int) -> float:
        return float(self.scales[tensor])

    def zero(self, tensor: int) -> int:
        return int(self.zeros[tensor])

    def quantise(self, x: F32) -> Q:
        """Samples x, float32 [n, h, w, c], as the front takes them."""
        return q8.quantise(np.ascontiguousarray(x, np.float32), self.scale(0), self.zero(0))

    def dequantise(self, tensor: int, q: Q) -> F32:
        return q8.dequantise(q, self.scale(tensor), self.zero(tensor))

    def weight_bytes(self) -> int:
        """Bytes of all weights and biases."""
        arrays = [a for layer in self.layers for a in (layer.weights, layer.bias) if a is not None]
        return sum(array.nbytes for array in arrays)


def fuse(layers: Sequence[LayerSpec]) -> tuple[list[LayerSpec], list[int], list[float | None]]:
    """The int8 layers of a float front: (layers, stands_for, ceilings of the fused ReLUs).

    A ReLU goes into the layer that makes its input where nothing else reads that. Layer i of the
    result writes its tensor i + 1; None: no ReLU was fused. Raises PlanError for group norm.
    """
    readers = [tensor for layer in layers for tensor in layer.inputs()]
    fused: list[LayerSpec] = []
    stands_for, ceilings = [0], list[float | None]()
    now = {0: 0}  # number of a float tensor -> of the int8 one
    for i, layer in enumerate(layers):
        if layer.kind == "group_norm":
            raise PlanError(f"layer {i} (group_norm): {WHAT_TO_DO}")
        before = layer.input - 1
        alone = before >= 0 and readers.count(layer.input) == 1
        if layer.kind == "relu" and alone and layers[before].kind in FUSES:
            at = now[layer.input]
            stands_for[at], ceilings[at - 1] = i + 1, layer.ceiling
            now[i + 1] = at
            continue
        second = layer.second_input
        fused.append(
            dataclasses.replace(
                layer,
                input=now[layer.input],
                second_input=None if second is None else now[second],
            )
        )
        ceilings.append(None)
        stands_for.append(i + 1)
        now[i + 1] = len(fused)
    return fused, stands_for, ceilings


# ---- a run ----


def run_layers(front: QuantisedFront, x: Q, kernels: Any = q8) -> Iterator[Q]:
    """The input x, int8 [n, h, w, c], then what each layer makes of it, [n, h, w, c].

    kernels: `kernels.q8`, or its definition `kernels.reference_q8`. Raises ValueError for an x of
    another shape or type.
    """
    if x.shape[1:] != front.input_shape or x.dtype != np.int8 or not len(x):
        expected = f"int8 [n, {', '.join(map(str, front.input_shape))}]"
        raise ValueError(f"x: expected {expected}, got {x.dtype} {x.shape}")
    last = {t: i for i, layer in enumerate(front.layers) for t in layer.spec.inputs()}
    kept = {0: np.ascontiguousarray(x)}
    yield kept[0]
    for i, layer in enumerate(front.layers):
        kept[i + 1] = _run_layer(front, layer, kept, i + 1, kernels)
        yield kept[i + 1]
        for tensor in [t for t in kept if last.get(t, -1) <= i]:
            del kept[tensor]


def run(front: QuantisedFront, x: Q) -> Q:
    """What the last layer makes of x, int8 [n, h, w, c]."""
    *_, y = run_layers(front, x)
    return y


def _run_layer(
    front: QuantisedFront, layer: QuantisedLayer, kept: dict[int, Q], made: int, kernels: Any
) -> Q:
    spec, x = layer.spec, kept[layer.spec.input]
    clamp = {"y_min": layer.y_min, "y_max": layer.y_max}
    window = {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
    if layer.weights is not None:
        scaling: dict[str, Any] = {"multiplier": layer.multiplier, "shift": layer.shift, **clamp}
        scaling |= {"x_zero": front.zero(spec.input), "y_zero": front.zero(made)}
        w, bias = layer.weights, layer.bias
        if spec.kind == "conv2d":
            y = kernels.conv2d(x, w, bias, **window, groups=spec.groups, **scaling)
        elif spec.kind == "depthwise":
            y = kernels.depthwise_conv2d(x, w, bias, **window, **scaling)
        else:
            y = kernels.dense(x.reshape(len(x), -1), w, bias, **scaling)
    elif spec.kind == "add":
        second = spec.inputs()[1]
        zeros = {"a_zero": front.zero(spec.input), "b_zero": front.zero(second)}
        zeros["y_zero"] = front.zero(made)
        y = kernels.add(x, kept[second], **zeros, **layer.sum, **clamp)
    elif spec.kind == "max_pool":
        y = kernels.max_pool2d(x, spec.kernel, **window, **clamp)
    elif spec.kind == "average_pool":
        y = kernels.average_pool2d(x, spec.kernel, **window, **clamp)
    else:  # relu, flatten
        y = np.clip(x, layer.y_min, layer.y_max)
    return np.asarray(y).reshape(len(x), *spec.output_shape)


# ---- float against int8 ----


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from its float counterpart, over all samples, errors of earlier layers
    included.

    tensor: 0 is the input, i what layer i - 1 makes; name: of that layer; sqnr_db: 10 log10 of
    the square sum of the float values over that of the differences (inf: none); worst: the largest
    difference, at [sample, row, column, channel]; saturated: share of the float values that lie
    outside what int8 can say there, by more than half a step.
    """

    tensor: int
    name: str
    shape: Shape
    scale: float
    zero: int
    sqnr_db: float
    worst: float
    worst_at: tuple[int, ...]
    worst_float: float
    worst_q8: float
    saturated: float


def compare(front: QuantisedFront, floats: Iterable[F32], q8s: Iterable[Q]) -> list[Deviation]:
    """Each tensor of the int8 run beside the float run (`calibration.float_tensors`) of the same
    samples. Raises ValueError where they do not belong together."""
    wanted = {number: tensor for tensor, number in enumerate(front.stands_for)}
    pairs, found = iter(q8s), []
    for number, value in enumerate(floats):
        if number not in wanted:
            continue
        tensor, q = wanted[number], next(pairs)
        if q.shape != value.shape:
            raise ValueError(f"tensor {tensor}: expected {value.shape}, got {q.shape}")
        found.append(_deviation(front, tensor, value, q))
    if len(found) != len(wanted):
        raise ValueError(f"floats: expected the tensors {front.stands_for}, got too few")
    return found


def _deviation(front: QuantisedFront, tensor: int, value: F32, q: Q) -> Deviation:
    scale, zero = front.scale(tensor), front.zero(tensor)
    wide, back = value.astype(np.float64), (q.astype(np.float64) - zero) * scale
    difference = back - wide
    at = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(difference)), value.shape))
    outside = (wide < (-128.5 - zero) * scale) | (wide > (127.5 - zero) * scale)
    return Deviation(
        tensor=tensor,
        name=layer_name(front, tensor),
        shape=front.shapes[tensor],
        scale=scale,
        zero=zero,
        sqnr_db=decibels(float(np.sum(wide**2)), float(np.sum(difference**2))),
        worst=float(abs(difference[at])),
        worst_at=at,
        worst_float=float(wide[at]),
        worst_q8=float(back[at]),
        saturated=float(np.mean(outside)),
    )


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); inf without noise, -inf without a signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def layer_name(front: QuantisedFront, tensor: int) -> str:
    """The layer that makes a tensor, with its fused activation; "input" for tensor 0."""
    if tensor == 0:
        return "input"
    layer = front.layers[tensor - 1]
    if layer.ceiling is None:
        return layer.spec.kind
    return f"{layer.spec.kind}+relu" + ("" if math.isinf(layer.ceiling) else f"{layer.ceiling:g}")


# ---- the same run on two machines ----


def trace_input(front: QuantisedFront, samples: int, seed: int) -> Q:
    """Random bytes that every machine makes alike, int8 [samples, h, w, c]."""
    count = samples * math.prod(front.input_shape)
    bits = random_bits(seed, TRACE_STREAM, 0, count)
    return (bits >> 24).astype(np.uint8).view(np.int8).reshape(samples, *front.input_shape)


def trace(front: QuantisedFront, x: Q, kernels: Any = q8) -> list[str]:
    """A line per tensor of the run on x: number, layer, shape, CRC-32 of its bytes, in C order.

    The first line names what was run: lines of two machines are to be equal, from the first on.
    """
    head = (
        f"seamline-trace {FORMAT} arithmetic {ARITHMETIC_VERSION} front {digest(front):08x} "
        f"input {zlib.crc32(x.tobytes()):08x} samples {len(x)}"
    )
    lines = [head]
    for number, y in enumerate(run_layers(front, x, kernels)):
        shape = "x".join(str(side) for side in y.shape[1:])
        lines.append(f"{number} {layer_name(front, number)} {shape} {zlib.crc32(y.tobytes()):08x}")
    return lines


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What the first line says that differs between two traces, "" if none does.

    Raises FileError if the other is no trace, or one of another front or other samples.
    """
    theirs = [line for line in theirs if line.strip()]
    if not theirs or not theirs[0].startswith("seamline-trace "):
        raise FileError("it is no trace: `seamline quantize --trace FILE` writes one")
    if theirs[0] != ours[0] or len(theirs) != len(ours):
        raise FileError(
            f"it is the trace of something else: expected {ours[0]!r}, {len(ours) - 1} tensors; "
            f"found {theirs[0]!r}, {len(theirs) - 1} tensors"
        )
    for mine, other in zip(ours, theirs, strict=True):
        if mine != other:
            return f"expected {other!r}, got {mine!r}"
    return ""


def digest(front: QuantisedFront) -> int:
    """CRC-32 of all that a run depends on."""
    return zlib.crc32(front_bytes(front))


# ---- files ----


def front_bytes(front: QuantisedFront, **more: NDArray[Any]) -> bytes:
    """The front as an .npz without objects; `more` arrays go into it as they are."""
    arrays: dict[str, NDArray[Any]] = {"scales": front.scales, "zeros": front.zeros, **more}
    for i, layer in enumerate(front.layers):
        for name in _ARRAYS:
            if (array := getattr(layer, name)) is not None:
                arrays[f"{i}.{name}"] = array
    meta = {
        "format": FORMAT,
        "arithmetic": ARITHMETIC_VERSION,
        "input_shape": front.input_shape,
        "stands_for": front.stands_for,
        "layers": [_description(layer) for layer in front.layers],
    }
    return described_bytes(meta, arrays)


def _description(layer: QuantisedLayer) -> dict[str, Any]:
    """JSON has no infinity: a ReLU without a ceiling is "none"."""
    ceiling = layer.ceiling
    return {
        "spec": describe_spec(layer.spec),
        "ceiling": "none" if ceiling is not None and math.isinf(ceiling) else ceiling,
        "y": [layer.y_min, layer.y_max],
        "sum": layer.sum,
    }


class _Layer(msgspec.Struct, forbid_unknown_fields=True):
    """The types of a layer's description, so that nothing else gets in."""

    spec: LayerSpec
    ceiling: float | Literal["none"] | None
    y: tuple[int, int]
    sum: dict[str, int]


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    arithmetic: int
    input_shape: tuple[int, int, int]
    stands_for: list[int]
    layers: list[_Layer]


_ARRAYS = {
    "weights": np.int8,
    "bias": np.int32,
    "weight_scales": np.float32,
    "multiplier": np.int32,
    "shift": np.int32,
}


def write_front(path: Path, front: QuantisedFront, **more: NDArray[Any]) -> None:
    """Raises OSError."""
    write_whole(path, front_bytes(front, **more))


def read_front(path: str | Path) -> QuantisedFront:
    """The front that `write_front` wrote. Raises FileError (exit 3)."""
    hint = "`seamline quantize RUN` makes one of a run's folder or job file"
    return read_described(path, "quantised front", hint, _front_of)


def _front_of(words: bytes, arrays: Arrays) -> QuantisedFront:
    meta = msgspec.json.decode(words, type=_Meta)
    found = (meta.format, meta.arithmetic)
    if found != (FORMAT, ARITHMETIC_VERSION):
        raise ValueError(
            f"expected format {FORMAT}, arithmetic {ARITHMETIC_VERSION}, got {found[0]}, {found[1]}"
        )
    layers = [_layer_of(i, entry, arrays) for i, entry in enumerate(meta.layers)]
    tensors = (len(layers) + 1,)
    front = QuantisedFront(
        meta.input_shape,
        layers,
        array_of(arrays, "scales", np.float32, tensors),
        array_of(arrays, "zeros", np.int32, tensors),
        meta.stands_for,
    )
    check(front)
    run(front, np.zeros((1, *front.input_shape), np.int8))  # the kernels check the rest
    return front


def _layer_of(index: int, entry: _Layer, arrays: Arrays) -> QuantisedLayer:
    return QuantisedLayer(
        entry.spec,
        ceiling=math.inf if entry.ceiling == "none" else entry.ceiling,
        y_min=entry.y[0],
        y_max=entry.y[1],
        sum=entry.sum,
        **{name: arrays.get(f"{index}.{name}") for name in _ARRAYS},
    )


def check(front: QuantisedFront) -> None:
    """Do the arrays fit the layers? Raises ValueError (PlanError for the layers themselves)."""
    build_plan([layer.spec for layer in front.layers], front.input_shape, 1)
    if not (np.isfinite(front.scales).all() and (front.scales > 0).all()):
        raise ValueError("scales: expected finite ones above 0")
    numbers = front.stands_for
    if len(numbers) != len(front.scales) or numbers != sorted(set(numbers)) or numbers[0] != 0:
        raise ValueError(f"stands_for: expected {len(front.scales)} rising from 0, got {numbers}")
    if front.zeros.min() < -128 or front.zeros.max() > 127:
        raise ValueError("zeros: expected -128 to 127")
    shapes = front.shapes
    for i, layer in enumerate(front.layers):
        if not -128 <= layer.y_min <= layer.y_max <= 127:
            raise ValueError(f"layer {i}: y_min {layer.y_min}, y_max {layer.y_max}")
        wanted: dict[str, tuple[int, ...] | None] = dict.fromkeys(_ARRAYS)
        if layer.spec.kind in WEIGHTED:
            wanted = dict.fromkeys(_ARRAYS, (layer.spec.output_shape[2],))
            wanted["weights"] = weight_shape(layer.spec, shapes[layer.spec.input])
            if not layer.spec.has_bias:
                wanted["bias"] = None
        for name, shape in wanted.items():
            array = getattr(layer, name)
            if shape is None and array is None:
                continue
            got = None if array is None else (array.dtype, array.shape)
            if shape is None or got != (_ARRAYS[name], shape):
                raise ValueError(f"{i}.{name}: expected {shape}, got {got}")
        _check_scaling(f"layer {i}", layer)
        if set(layer.sum) != (SUM if layer.spec.kind == "add" else set()):
            raise ValueError(f"layer {i} ({layer.spec.kind}): wrong integers {list(layer.sum)}")


def _check_scaling(name: str, layer: QuantisedLayer) -> None:
    """multiplier: 0, or 31 bits; shift: -31 to 30."""
    if layer.multiplier is not None and layer.shift is not None:
        m, e = layer.multiplier, layer.shift
        if ((m != 0) & (m < 1 << 30)).any() or (e < -31).any() or (e > 30).any():
            raise ValueError(f"{name}: expected multipliers of 31 bits and shifts of -31 to 30")
