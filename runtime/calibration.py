"""Calibration: the range that each tensor of a float front takes on a device's own samples.

The samples stay where they are; only ranges (two numbers a tensor) leave the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import f32
from .errors import UserError
from .plan import LayerSpec, PlanError, Shape

F32 = NDArray[np.float32]
Observer = Callable[[F32], tuple[float, float]]  # values of one tensor -> (lo, hi)

WEIGHTED = ("conv2d", "depthwise", "dense")
METHODS = ("minmax", "percentile", "mse")
STEPS = 255  # between the smallest and the largest int8
PERCENTILE = 99.99
WHAT_TO_DO = (
    "int8 fronts have none; leave it in the back (a seam before it), or train with batch norm and "
    "fold it: seamline.edge_host.fold_batch_norm(model)"
)
_SHARES = 65  # ends that are tried of a range, from almost nothing to all of it
_ROUNDS = 3  # each around the best of the one before


@dataclass(frozen=True)
class Ranges:
    """lo <= 0 <= hi, float32 [tensors]: of the input, then of what each float layer makes."""

    lo: F32
    hi: F32


# ---- one tensor ----


def affine(lo: float, hi: float) -> tuple[float, int]:
    """(scale, zero point) of an int8 tensor that holds lo..hi and, exactly, zero.

    The scale is a float32. A range of nothing gets scale 1. Raises ValueError unless
    lo <= 0 <= hi, both finite in float32.
    """
    if not lo <= 0 <= hi or not np.isfinite(np.float32(hi) - np.float32(lo)):
        raise ValueError(f"range: expected finite lo <= 0 <= hi, got {lo} to {hi}")
    scale = float(np.float32((hi - lo) / STEPS))
    if scale < np.finfo(np.float32).tiny:
        return 1.0, -128 if hi >= -lo else 127
    return scale, int(np.clip(-128 - math.floor(lo / scale + 0.5), -128, 127))


def observe_minmax(x: F32) -> tuple[float, float]:
    """All values, and zero."""
    return min(0.0, float(x.min())), max(0.0, float(x.max()))


def observe_percentile(x: F32, percentile: float = PERCENTILE) -> tuple[float, float]:
    """All but the (100 - percentile) % smallest and as many of the largest; and zero."""
    lo, hi = np.percentile(x, [100 - percentile, percentile])
    return min(0.0, float(lo)), max(0.0, float(hi))


def observe_mse(x: F32) -> tuple[float, float]:
    """The range whose int8 values are nearest in the mean square, counting what it cuts off.

    First the upper end is searched, then the lower one, each on a grid that is refined twice.
    """
    error = _SquareError(x)
    lo, hi = observe_minmax(x)
    for _ in range(2 if lo < 0 < hi else 1):
        hi = _best_end(hi, partial(error.of, lo))
        lo = _best_end(lo, partial(error.below, hi))
    return lo, hi


class _SquareError:
    """Exact square error of rounding values to int8, by running sums over the sorted values."""

    def __init__(self, x: F32) -> None:
        self.sorted = np.sort(x, axis=None).astype(np.float64)
        start = np.zeros(1)
        self.sums = np.concatenate([start, np.cumsum(self.sorted)])
        self.squares = np.concatenate([start, np.cumsum(self.sorted**2)])

    def of(self, lo: float, hi: float) -> float:
        """Sum over all values, those outside lo..hi included."""
        scale, zero = affine(lo, hi)
        levels = (np.arange(-128, 128) - zero) * scale
        cuts = np.searchsorted(self.sorted, (levels[1:] + levels[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(self.sorted)]])
        count, total, squares = (np.diff(a[ends]) for a in (self._numbers, self.sums, self.squares))
        return float(np.sum(squares - 2 * levels * total + levels**2 * count))

    def below(self, hi: float, lo: float) -> float:
        return self.of(lo, hi)

    @property
    def _numbers(self) -> NDArray[np.int64]:
        return np.arange(len(self.sorted) + 1)


def _best_end(end: float, error: Callable[[float], float]) -> float:
    """The share of `end` with the least error. The largest counts where several are equal."""
    if end == 0:
        return end
    low, high, best = 1.0 / _SHARES, 1.0, 1.0
    for _ in range(_ROUNDS):
        shares = np.linspace(high, low, _SHARES)
        found = [error(end * float(share)) for share in shares]
        best = float(shares[int(np.argmin(found))])
        step = (high - low) / (_SHARES - 1)
        low, high = max(best - step, 1e-6), min(best + step, 1.0)
    return end * best


def observer(method: str, percentile: float = PERCENTILE) -> Observer:
    """The observer of that name: one of METHODS. Raises UserError."""
    if method == "minmax":
        return observe_minmax
    if method == "mse":
        return observe_mse
    if method != "percentile":
        raise UserError(f"calibration: expected one of {', '.join(METHODS)}, got {method!r}")
    if not 50 < percentile <= 100:
        raise UserError(f"percentile: expected above 50, up to 100, got {percentile}")
    return lambda x: observe_percentile(x, percentile)


# ---- a front in float ----


def weight_shape(layer: LayerSpec, in_shape: Shape) -> tuple[int, ...]:
    """Axes of a layer's weights in kernel layout: [o, h, w, i], depthwise [1, h, w, o], dense
    [o, i]."""
    channels = layer.output_shape[2]
    if layer.kind == "conv2d":
        return (channels, *layer.kernel, in_shape[2] // layer.groups)
    if layer.kind == "depthwise":
        return (1, *layer.kernel, channels)
    return (channels, math.prod(in_shape))


def layer_parameters(
    layers: Sequence[LayerSpec], input_shape: Shape, parameters: F32
) -> list[tuple[F32, F32 | None] | None]:
    """(weights, bias) of each layer out of the flat vector of a front; None: it has none.

    Raises ValueError for a vector of another length, PlanError for group norm.
    """
    shapes = [input_shape, *(layer.output_shape for layer in layers)]
    found: list[tuple[F32, F32 | None] | None] = []
    at = 0
    for i, layer in enumerate(layers):
        if layer.kind == "group_norm":
            raise PlanError(f"layer {i} (group_norm): {WHAT_TO_DO}")
        if layer.kind not in WEIGHTED:
            found.append(None)
            continue
        shape = weight_shape(layer, shapes[layer.input])
        end = at + math.prod(shape)
        last = end + (layer.output_shape[2] if layer.has_bias else 0)
        bias = parameters[end:last] if layer.has_bias else None
        if last <= len(parameters):
            found.append((parameters[at:end].reshape(shape), bias))
        at = last
    if parameters.shape != (at,):
        raise ValueError(f"parameters: expected ({at},), got {parameters.shape}")
    return found


def float_tensors(
    layers: Sequence[LayerSpec], input_shape: Shape, parameters: F32, x: F32
) -> Iterator[F32]:
    """The input x [n, h, w, c], then what each layer makes of it, [n, h, w, c]; a tensor that no
    later layer reads is not kept.

    Raises ValueError for an x or parameters of another shape, PlanError for group norm.
    """
    if x.shape[1:] != input_shape or not len(x):
        raise ValueError(f"x: expected [n, {', '.join(map(str, input_shape))}], got {x.shape}")
    weights = layer_parameters(layers, input_shape, parameters)
    last = {tensor: i for i, layer in enumerate(layers) for tensor in layer.inputs()}
    kept = {0: np.ascontiguousarray(x, np.float32)}
    yield kept[0]
    for i, layer in enumerate(layers):
        kept[i + 1] = _float_layer(layer, weights[i], kept)
        yield kept[i + 1]
        for tensor in [t for t in kept if last.get(t, -1) <= i]:
            del kept[tensor]


def _float_layer(
    layer: LayerSpec, parameters: tuple[F32, F32 | None] | None, kept: dict[int, F32]
) -> F32:
    x = kept[layer.input]
    window: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
    }
    if parameters is not None:
        y = _weighted(layer, x, *parameters, window)
    elif layer.kind == "max_pool":
        y = f32.max_pool2d(x, layer.kernel, **window)
    elif layer.kind == "average_pool":
        y = f32.average_pool2d(x, layer.kernel, **window)
    elif layer.kind == "add":
        y = f32.add(x, kept[layer.inputs()[1]])
    elif layer.kind == "relu":
        y = f32.relu(x, layer.ceiling)
    else:
        y = x  # a flatten
    return y.reshape(len(x), *layer.output_shape)


def _weighted(layer: LayerSpec, x: F32, w: F32, bias: F32 | None, window: Any) -> F32:
    if layer.kind == "depthwise":
        return f32.depthwise_conv2d(x, w, bias, **window)
    if layer.kind == "dense":
        return f32.dense(x.reshape(len(x), -1), w, bias)
    if layer.groups == 1:
        return f32.conv2d(x, w, bias, **window)
    ins, outs = np.split(x, layer.groups, axis=3), np.split(w, layer.groups)
    shares = [None] * layer.groups if bias is None else np.split(bias, layer.groups)
    parts = [
        f32.conv2d(np.ascontiguousarray(a), np.ascontiguousarray(b), c, **window)
        for a, b, c in zip(ins, outs, shares, strict=True)
    ]
    return np.concatenate(parts, axis=3)


def calibrate(
    layers: Sequence[LayerSpec],
    input_shape: Shape,
    parameters: F32,
    x: F32,
    observe: Observer = observe_minmax,
) -> Ranges:
    """Ranges of all tensors of a float front over the samples x, float32 [n, h, w, c].

    All samples go through layer after layer, so the largest pair of tensors must fit in memory.
    Raises ValueError where x or parameters do not fit the front or a value is not finite.
    """
    found = []
    for number, tensor in enumerate(float_tensors(layers, input_shape, parameters, x)):
        if not np.isfinite(tensor).all():
            what = "the input" if number == 0 else f"layer {number - 1} ({layers[number - 1].kind})"
            raise ValueError(f"{what} gives a value that is not finite in float32")
        found.append(observe(tensor))
    lo, hi = np.array(found, np.float32).T
    return Ranges(lo.copy(), hi.copy())


def merge_ranges(parts: Sequence[Ranges]) -> Ranges:
    """What holds the ranges of several devices. Raises ValueError for none, or other fronts."""
    if len({len(part.lo) for part in parts}) != 1:
        raise ValueError(f"ranges: expected one front's, got {[len(part.lo) for part in parts]}")
    return Ranges(
        np.min([part.lo for part in parts], axis=0), np.max([part.hi for part in parts], axis=0)
    )
