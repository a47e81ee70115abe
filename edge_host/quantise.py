"""From a float front to an int8 one: scales, integers, and the refit of both between rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels import q8, random_bits
from ..runtime.calibration import F32, WEIGHTED, Ranges, affine, layer_parameters
from ..runtime.plan import LayerSpec, PlanError, Shape
from ..runtime.quantised import SAME_SCALE, Ints, Q, QuantisedFront, QuantisedLayer, fuse

Wide = NDArray[np.float64]
Rounding = Literal["nearest", "stochastic"]
Learned = list[tuple[Q, Ints | None]]  # weights and bias of each layer that has weights, in order
Span = tuple[float, float]

WEIGHT_PEAK = 127  # int8 of a channel's largest weight
TRAINED_PEAK = 112  # the same where the weights go on growing
KEPT = (72, 124)  # a channel whose largest weight is in here keeps its scale in a refit
INT32_MAX = 2**31 - 1
TERM_MAX = 128 * 255  # of a sum: |weight| times |x - zero point|
TERMS = (INT32_MAX - (1 << 24)) // TERM_MAX  # most of one sum, with room for a bias
RAISED = 1 << 30  # no sum may pass this when it is raised before its rescaling
REFIT = 0x52454649  # stream of a refit's rounding; 2 * layer is added, and 1 for its bias


@dataclass(frozen=True)
class _Real:
    """A layer's weights and bias in real values; weights in kernel layout."""

    weights: Wide
    bias: Wide | None


# What turns real weights into int8 steps: (layer, part, values in steps) -> whole values.
_Round = Callable[[int, int, Wide], Wide]
# The scales of a layer's channels: (weighted layer's number, its largest weights [o]) -> [o].
_Fit = Callable[[int, Wide], Wide]


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
    being trained leaves room above it (TRAINED_PEAK). Raises PlanError (exit 5) for a layer that
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

    def fit(number: int, largest: Wide) -> Wide:
        return np.full_like(largest, largest.max()) if per_tensor else largest

    front = _Assembly(input_shape, specs, ceilings, spans)
    front.build(real, lambda i, largest: fit(i, largest) / weight_peak, _nearest)
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


def _nearest(layer: int, part: int, steps: Wide) -> Wide:
    return np.rint(steps)


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

    def build(self, real: list[_Real], fit: _Fit, round_: _Round) -> None:
        weighted = iter(enumerate(real))
        for spec, ceiling in zip(self.specs, self.ceilings, strict=True):
            if spec.kind in WEIGHTED:
                number, values = next(weighted)
                self._weighted(spec, ceiling, number, values, fit, round_)
            elif spec.kind == "add":
                self._sum(spec, ceiling)
            elif spec.kind in SAME_SCALE:
                self._same(spec)
            else:
                raise PlanError(f"layer {len(self.layers)} ({spec.kind}): int8 fronts have none")

    def _weighted(
        self,
        spec: LayerSpec,
        ceiling: float | None,
        number: int,
        real: _Real,
        fit: _Fit,
        round_: _Round,
    ) -> None:
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
        scales = _usable(fit(number, np.abs(channels).max(axis=1)), real.bias, x_scale, room)
        shape = [1] * real.weights.ndim
        shape[axis] = -1
        steps = round_(number, 0, real.weights / scales.reshape(shape))
        weights = np.clip(steps, -127, 127).astype(np.int8)
        bias = None
        if real.bias is not None:
            whole = round_(number, 1, real.bias / (x_scale * scales))
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


# ---- between rounds ----


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


def refit(
    front: QuantisedFront,
    parts: Sequence[Learned],
    *,
    shares: Sequence[float] | None = None,
    ranges: Ranges | None = None,
    rounding: Rounding = "stochastic",
    seed: int = 0,
    peak: int = TRAINED_PEAK,
    kept: tuple[int, int] = KEPT,
) -> QuantisedFront:
    """The front of the next round, from what one or several devices learned from `front`.

    parts: of each device, all under the scales of `front`; averaged in real values with `shares`
    (None: equal ones). A channel whose largest weight lies in `kept`, counted in its old steps,
    keeps its scale, so that a device alone keeps its very integers; another gets the scale that
    puts it at `peak`, with room to grow. ranges: of the float front's tensors where they were
    calibrated anew, else the scales of the tensors stay. Stochastic rounding (drawn from
    `random(seed, REFIT + 2 * layer, index)`, bias one higher; layers with weights counted) keeps
    the mean of the weights, nearest rounding loses changes below half a step.

    Raises ValueError for parts, shares or ranges that do not fit the front.
    """
    weights = _shares(shares, len(parts))
    devices = [_real_values(front, part) for part in parts]
    real = [_mean([device[i] for device in devices], weights) for i in range(len(devices[0]))]
    old = [layer.weight_scales for layer in front.layers if layer.weight_scales is not None]

    def fit(number: int, largest: Wide) -> Wide:
        before = old[number].astype(np.float64)
        one = np.all(before == before[0])
        steps = (np.full_like(largest, largest.max()) if one else largest) / before
        stays = (kept[0] <= steps) & (steps <= kept[1])
        return np.where(stays, before, steps * before / peak)

    def stochastic(number: int, part: int, steps: Wide) -> Wide:
        bits = random_bits(seed, (REFIT + 2 * number + part) % 2**32, 0, steps.size)
        return np.floor(steps + bits.reshape(steps.shape) * 2.0**-32)

    assembly = _Assembly(
        front.input_shape,
        [layer.spec for layer in front.layers],
        [layer.ceiling for layer in front.layers],
        _old_spans(front) if ranges is None else _new_spans(ranges, front),
    )
    assembly.build(real, fit, stochastic if rounding == "stochastic" else _nearest)
    return assembly.front(front.stands_for)


def _shares(shares: Sequence[float] | None, count: int) -> Wide:
    found = np.ones(count) if shares is None else np.asarray(shares, np.float64)
    if count == 0 or found.shape != (count,) or not (found >= 0).all() or not found.sum() > 0:
        raise ValueError(f"shares: expected {max(count, 1)} from 0, not all 0, got {shares}")
    return np.asarray(found / found.sum())


def _mean(parts: list[_Real], shares: Wide) -> _Real:
    if len(parts) == 1:
        return parts[0]
    biases = [part.bias for part in parts if part.bias is not None]
    weights = sum(s * part.weights for s, part in zip(shares, parts, strict=True))
    bias = sum(s * b for s, b in zip(shares, biases, strict=True)) if biases else None
    return _Real(np.asarray(weights), None if bias is None else np.asarray(bias))


def _old_spans(front: QuantisedFront) -> list[Span]:
    """What int8 can say in each tensor: `affine` of it gives scale and zero point back."""
    pairs = zip(front.scales.astype(np.float64), front.zeros.astype(np.float64), strict=True)
    return [(float((-128 - zero) * scale), float((127 - zero) * scale)) for scale, zero in pairs]


def _new_spans(ranges: Ranges, front: QuantisedFront) -> list[Span]:
    least = max(front.stands_for) + 1
    if ranges.lo.shape != ranges.hi.shape or len(ranges.lo) < least:
        raise ValueError(f"ranges: expected at least ({least},), got {ranges.lo.shape}")
    return _spans(ranges, front.stands_for, [layer.ceiling for layer in front.layers])
