"""From a float front to an int8 one: scales and integers, and back to the values they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import q8
from .calibration import F32, WEIGHTED, Ranges, affine, layer_parameters
from .plan import LayerSpec, PlanError, Shape
from .q8_parameters import Learned
from .quantised import SAME_SCALE, QuantisedFront, QuantisedLayer, fuse

Wide = NDArray[np.float64]
Span = tuple[float, float]

WEIGHT_PEAK = 127  # int8 of a channel's largest weight
INT32_MAX = 2**31 - 1
TERM_MAX = 128 * 255  # of a sum: |weight| times |x - zero point|
TERMS = (INT32_MAX - (1 << 24)) // TERM_MAX  # most of one sum, with room for a bias
RAISED = 1 << 30  # no sum may pass this when it is raised before its rescaling


@dataclass(frozen=True)
class _Real:
    """A layer's weights and bias in real values; weights in kernel layout."""

    weights: Wide
    bias: Wide | None


# The scales of a layer's channels, from its largest weights [o].
_Fit = Callable[[Wide], Wide]


def quantise(
    layers: Sequence[LayerSpec],
    input_shape: Shape,
    parameters: F32,
    ranges: Ranges,
    *,
    per_tensor: bool = False,
    weight_peak: int = WEIGHT_PEAK,
) -> QuantisedFront:
    """The int8 front of a float one: plan layers, flat parameters, batch norm folded before.

    ranges: of its tensors, from `calibrate`. per_tensor: one weight scale a layer instead of one
    a channel. weight_peak: int8 value of the largest weight of a channel; a front that goes on
    being trained leaves room above it. Raises PlanError (exit 5) for a layer that
    int8 fronts do not have, ValueError for parameters or ranges of another front.
    """
    if not 1 <= weight_peak <= 127:
        raise ValueError(f"weight_peak: expected 1 to 127, got {weight_peak}")
    specs, stands_for, ceilings = fuse(layers)
    expected = (len(layers) + 1,)
    if ranges.lo.shape != expected or ranges.hi.shape != expected:
        raise ValueError(f"ranges: expected {expected}, got {ranges.lo.shape}")
    spans = _spans(ranges, stands_for, ceilings)
    parts = layer_parameters(layers, input_shape, parameters)
    real = [_Real(*_widened(*part)) for part in parts if part is not None]

    def fit(largest: Wide) -> Wide:
        return (np.full_like(largest, largest.max()) if per_tensor else largest) / weight_peak

    front = _Assembly(input_shape, specs, ceilings, spans)
    front.build(real, fit)
    return front.front(stands_for)


def _widened(w: F32, bias: F32 | None) -> tuple[Wide, Wide | None]:
    if not np.isfinite(w).all() or (bias is not None and not np.isfinite(bias).all()):
        raise ValueError("parameters: expected finite values")
    return w.astype(np.float64), None if bias is None else bias.astype(np.float64)


def _spans(ranges: Ranges, stands_for: list[int], ceilings: list[float | None]) -> list[Span]:
    """Ranges of the int8 front's tensors; a fused ReLU lets nothing below 0 or above itself."""
    spans = [(float(ranges.lo[t]), float(ranges.hi[t])) for t in stands_for]
    for tensor, ceiling in enumerate(ceilings, 1):
        if ceiling is not None:
            spans[tensor] = 0.0, min(max(spans[tensor][1], 0.0), ceiling)
    return spans


# ---- a front from real values ----


class _Assembly:
    """An int8 front that grows layer by layer, from the ranges of its tensors and real weights."""

    def __init__(
        self,
        input_shape: Shape,
        specs: list[LayerSpec],
        ceilings: list[float | None],
        spans: list[Span],
    ) -> None:
        self.specs, self.ceilings, self.spans = specs, ceilings, spans
        self.shapes = [input_shape, *(spec.output_shape for spec in specs)]
        self.layers: list[QuantisedLayer] = []
        scale, zero = affine(*spans[0])
        self.scales, self.zeros = [scale], [zero]

    def front(self, stands_for: list[int]) -> QuantisedFront:
        scales, zeros = np.array(self.scales, np.float32), np.array(self.zeros, np.int32)
        return QuantisedFront(self.shapes[0], self.layers, scales, zeros, list(stands_for))

    def build(self, real: list[_Real], fit: _Fit) -> None:
        weighted = iter(real)
        for spec, ceiling in zip(self.specs, self.ceilings, strict=True):
            if spec.kind in WEIGHTED:
                self._weighted(spec, ceiling, next(weighted), fit)
            elif spec.kind == "add":
                self._sum(spec, ceiling)
            elif spec.kind in SAME_SCALE:
                self._same(spec)
            else:
                raise PlanError(f"layer {len(self.layers)} ({spec.kind}): int8 fronts have none")

    def _weighted(self, spec: LayerSpec, ceiling: float | None, real: _Real, fit: _Fit) -> None:
        x_scale = self.scales[spec.input]
        axis = 3 if spec.kind == "depthwise" else 0
        channels = np.moveaxis(real.weights, axis, 0).reshape(spec.output_shape[2], -1)
        terms = channels.shape[1]
        if terms > TERMS:
            raise PlanError(
                f"layer {len(self.layers)} ({spec.kind}): sums of at most {TERMS} terms fit in "
                f"int32, got {terms}"
            )
        room = INT32_MAX - TERM_MAX * terms
        scales = _usable(fit(np.abs(channels).max(axis=1)), real.bias, x_scale, room)
        shape = [1] * real.weights.ndim
        shape[axis] = -1
        steps = np.rint(real.weights / scales.reshape(shape))
        weights = np.clip(steps, -127, 127).astype(np.int8)
        bias = None
        if real.bias is not None:
            whole = np.rint(real.bias / (x_scale * scales))
            bias = np.clip(whole, -room, room).astype(np.int32)
        raised = RAISED / (TERM_MAX * terms + (0 if bias is None else int(np.abs(bias).max())))
        self._output(x_scale * float(scales.max()) / max(1.0, raised))
        y_scale = self.scales[-1]
        multiplier, shift = q8.multiplier_of(x_scale * scales / y_scale)
        y_min, y_max = self._clamp(ceiling)
        self.layers.append(
            QuantisedLayer(
                spec, ceiling, y_min, y_max, weights, bias, scales.astype(np.float32), multiplier,
                shift,
            )
        )  # fmt: skip

    def _sum(self, spec: LayerSpec, ceiling: float | None) -> None:
        a, b = (self.scales[tensor] for tensor in spec.inputs())
        self._output(max(a, b) / 2.0**18)
        integers = q8.sum_scaling(a, b, self.scales[-1])
        y_min, y_max = self._clamp(ceiling)
        self.layers.append(QuantisedLayer(spec, ceiling, y_min, y_max, sum=integers))

    def _same(self, spec: LayerSpec) -> None:
        self.scales.append(self.scales[spec.input])
        self.zeros.append(self.zeros[spec.input])
        relu = spec.kind == "relu"
        y_min, y_max = self._clamp(spec.ceiling if relu else None)
        self.layers.append(QuantisedLayer(spec, None, y_min, y_max))

    def _output(self, least: float) -> None:
        """The next tensor's scale and zero point; a scale below `least` would let sums wrap."""
        lo, hi = self.spans[len(self.layers) + 1]
        scale, zero = affine(lo, hi)
        if scale <= least:
            scale = float(np.nextafter(np.float32(least), np.float32(np.inf)))
            zero = -128 if lo == 0 else 127 if hi == 0 else 0
        self.scales.append(scale)
        self.zeros.append(zero)

    def _clamp(self, ceiling: float | None) -> tuple[int, int]:
        """y_min, y_max of the newest tensor under a ReLU with that ceiling; None: no ReLU."""
        if ceiling is None:
            return -128, 127
        scale, zero = self.scales[-1], self.zeros[-1]
        top = math.inf if math.isinf(ceiling) else round(ceiling / scale) + zero
        return zero, int(min(127, top))


def _usable(scales: Wide, bias: Wide | None, x_scale: float, room: int) -> Wide:
    """The scales as float32 values that divide: a channel without weights gets the mean of the
    others, and no bias leaves its `room` in int32. Equal scales stay equal."""
    one = bool((scales == scales[0]).all())
    scales = scales.astype(np.float32).astype(np.float64)
    some = scales >= np.finfo(np.float32).tiny
    scales = np.where(some, scales, scales[some].mean() if some.any() else 1 / 127)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (x_scale * room))
    if one:
        scales = np.full_like(scales, scales.max())
    return scales.astype(np.float32).astype(np.float64)


# ---- what was learned ----


def learned(front: QuantisedFront) -> Learned:
    """What training changes of a front: weights and bias of each layer that has weights."""
    return [(layer.weights, layer.bias) for layer in front.layers if layer.weights is not None]


def real_parameters(front: QuantisedFront, parts: Learned | None = None) -> F32:
    """The flat float parameters that the int8 ones (the front's own, or what a device learned
    from there) stand for, in plan order."""
    values: list[Wide] = []
    for real in _real_values(front, learned(front) if parts is None else parts):
        values += [part.ravel() for part in (real.weights, real.bias) if part is not None]
    return np.concatenate([np.zeros(0), *values]).astype(np.float32)


def _real_values(front: QuantisedFront, parts: Learned) -> list[_Real]:
    """Raises ValueError where the parts are not this front's."""
    found = []
    weighted = [layer for layer in front.layers if layer.weights is not None]
    if len(parts) != len(weighted):
        raise ValueError(f"learned: expected {len(weighted)} layers, got {len(parts)}")
    for layer, (weights, bias) in zip(weighted, parts, strict=True):
        assert layer.weights is not None and layer.weight_scales is not None
        _check_part("weights", weights, layer.weights)
        _check_part("bias", bias, layer.bias)
        scales = layer.weight_scales.astype(np.float64)
        by_channel = scales if layer.spec.kind == "depthwise" else _first_axis(scales, weights.ndim)
        wide = None if bias is None else bias * (front.scale(layer.spec.input) * scales)
        found.append(_Real(weights * by_channel, wide))
    return found


def _check_part(name: str, got: NDArray[Any] | None, own: NDArray[Any] | None) -> None:
    found, expected = (None if a is None else (str(a.dtype), a.shape) for a in (got, own))
    if found != expected:
        raise ValueError(f"learned {name}: expected {expected}, got {found}")


def _first_axis(scales: Wide, ndim: int) -> Wide:
    return scales.reshape(-1, *[1] * (ndim - 1))
