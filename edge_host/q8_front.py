"""The edge host's side of a front that trains in int8: float master weights, the ranges of its
tensors, and what of both is sent to devices.

The master never sits on a grid of int8 steps: devices get it rounded at random, and the mean of
what they changed (in steps, times the scale) is added to the master, so no rounding accumulates.
Weight scales and activation scales are fitted anew between cloud rounds. The host sees no sample:
ranges come from the least and the largest int8 value that each tensor took on the devices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..kernels import random_bits
from ..runtime.calibration import WEIGHTED, Ranges, layer_parameters
from ..runtime.plan import LayerSpec, Shape
from ..runtime.q8_parameters import Learned
from ..runtime.quantise import INT32_MAX, TERM_MAX, learned, quantise
from ..runtime.quantised import QuantisedFront, QuantisedLayer, fuse

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Q = NDArray[np.int8]
Extremes = Q  # [tensors, 2]: least and largest value; least above largest: nothing was seen
Noise = Callable[[int, int], F64]  # (layer, count) -> what is added before the floor
Rounding = Literal["nearest", "stochastic"]

PEAK = 98  # int8 of a channel's largest weight after a fit: head room to grow by 1.3
HEAD_ROOM = 1.1  # of a range above the values seen
START_GROWTH = 2.0  # of a range that was too small, until the ranges have settled
GROWTH = 1.25  # of one that is too small later
SHRINK = 0.9  # a settled range keeps at least this share in a cloud round
SPARSE = 0.5  # a range of which less is used has not settled
SETTLE_ROUNDS = 10  # edge rounds after which ranges count as settled in any case
SPREAD = 2.0  # guess: largest output over (norm of a channel's weights times largest input)
EXPONENT_MIN = -126  # of a gradient's scale: a normal float
GRADIENT_MAX = 127
GRADIENT_STREAM = 0x47524144  # "GRAD": of the rounding of a float gradient


class Q8Front:
    """One int8 front: the zone's, or a device's own where fronts are personal."""

    def __init__(self, layers: Sequence[LayerSpec], input_shape: Shape) -> None:
        """layers: of the float front. Raises PlanError (exit 5) for a layer int8 fronts lack."""
        self.layers, self.input_shape = list(layers), input_shape
        self.specs, self.stands_for, self.ceilings = fuse(layers)
        tensors = len(self.specs) + 1
        self.ranges = np.zeros((tensors, 2))  # (lo, hi) of each tensor; 0, 0: nothing is known
        self.rounds = 0  # edge rounds that have moved the ranges, until these have settled
        self._fitting = [  # tensors with a scale of their own; pools have their input's
            t for t, s in enumerate(self.specs, 1) if s.kind in WEIGHTED or s.kind == "add"
        ]
        self._forget()
        self._fitted: QuantisedFront | None = None
        self._sent: QuantisedFront | None = None
        self._base: F32 = np.zeros(0, np.float32)  # the master that `_sent` was rounded from

    # ---- ranges ----

    def adopt(self, other: Q8Front) -> None:
        """Ranges of the tensors that a front of the same network, cut elsewhere, has, too."""
        same = 0
        pairs = zip(self.specs, other.specs, strict=False)
        for mine, theirs in pairs:
            if mine != theirs:
                break
            same += 1
        self.ranges[: same + 1] = other.ranges[: same + 1]

    @property
    def settled(self) -> bool:
        """Are the ranges found? From then on they move between cloud rounds only."""
        return self.rounds >= SETTLE_ROUNDS

    def note_input(self, lo: float, hi: float) -> None:
        """The samples of one device lie in lo..hi."""
        self.ranges[0] = min(self.ranges[0, 0], lo), max(self.ranges[0, 1], hi)

    def note(self, extremes: Extremes) -> None:
        """What the tensors of one device took under the parameters sent last. ValueError: another
        front's.
        """
        if extremes.shape != self.ranges.shape:
            raise ValueError(f"extremes: expected {self.ranges.shape}, got {extremes.shape}")
        if self._sent is None:
            return
        growth = GROWTH if self.settled else START_GROWTH
        for t in self._fitting:
            least, most = int(extremes[t, 0]), int(extremes[t, 1])
            if least > most:
                continue
            low, high = least == -128, most == 127
            zero, scale = self._sent.zero(t), self._sent.scale(t)
            lo = (least - zero) * scale * (growth if low else HEAD_ROOM)
            hi = (most - zero) * scale * (growth if high else HEAD_ROOM)
            lo, hi = self._clipped(t, lo, hi)
            self._touched |= (low and lo < self.ranges[t, 0]) or (high and hi > self.ranges[t, 1])
            self._seen[t] = min(self._seen[t, 0], lo), max(self._seen[t, 1], hi)

    def _clipped(self, tensor: int, lo: float, hi: float) -> tuple[float, float]:
        """What a fused ReLU leaves of a range."""
        ceiling = self.ceilings[tensor - 1]
        if ceiling is None:
            return min(lo, 0.0), max(hi, 0.0)
        return 0.0, min(max(hi, 0.0), ceiling)

    def settle(self) -> bool:
        """After an edge round, while the ranges are to be found: were they moved? Then fit."""
        if self.settled or not self._saw():
            return False
        width = self.ranges[:, 1] - self.ranges[:, 0]
        used = self._seen[:, 1] - self._seen[:, 0]
        sparse = any(used[t] < SPARSE * HEAD_ROOM * width[t] for t in self._fitting)
        self.rounds = self.rounds + 1 if self._touched or sparse else SETTLE_ROUNDS
        self._move(0.0)
        return True

    def next_ranges(self) -> None:
        """After a cloud round: ranges from all that was seen in it."""
        self._move(SHRINK if self.settled else 0.0)

    def _move(self, kept: float) -> None:
        for t in self._fitting:
            if self._seen[t, 0] <= self._seen[t, 1]:
                old_lo, old_hi = self.ranges[t] * kept
                self.ranges[t] = min(self._seen[t, 0], old_lo), max(self._seen[t, 1], old_hi)
        self._forget()

    def _saw(self) -> bool:
        return any(self._seen[t, 0] <= self._seen[t, 1] for t in self._fitting)

    def _forget(self) -> None:
        self._seen = np.tile([math.inf, -math.inf], (len(self.ranges), 1))
        self._touched = False

    def _guess(self, master: F32) -> None:
        """Ranges of which nothing is known yet, from the weights in front of them."""
        parts = iter(self._parts(master))
        reach = [float(np.abs(self.ranges[0]).max()) or 1.0]
        if not self.ranges[0].any():
            self.ranges[0] = -1.0, 1.0
        for t, spec in enumerate(self.specs, 1):
            far = reach[spec.input]
            if spec.kind in WEIGHTED:
                weights, bias = next(parts)
                norms = np.sqrt(np.sum(_by_channel(spec, weights).astype(np.float64) ** 2, axis=1))
                far = SPREAD * float(norms.max()) * far
                far += 0.0 if bias is None else float(np.abs(bias).max())
            elif spec.kind == "add":
                far += reach[spec.inputs()[1]]
            if t in self._fitting:
                if not self.ranges[t].any():
                    self.ranges[t] = self._clipped(t, -far, far)
                far = float(np.abs(self.ranges[t]).max())
            reach.append(far)

    def _parts(self, master: F32) -> list[tuple[F32, F32 | None]]:
        """Weights and bias of each layer that has weights."""
        parts = layer_parameters(self.layers, self.input_shape, master)
        return [part for part in parts if part is not None]

    # ---- what is sent, and what comes back ----

    @property
    def sent(self) -> QuantisedFront:
        """What was sent last to train. Raises ValueError if nothing was."""
        if self._sent is None:
            raise ValueError("parameters came, but none were sent to train")
        return self._sent

    def fit(self, master: F32) -> None:
        """Scales and integers anew, from the master weights and the ranges as they are now."""
        self._guess(master)
        spans = np.zeros((len(self.layers) + 1, 2), np.float32)
        spans[self.stands_for] = self.ranges
        ranges = Ranges(spans[:, 0].copy(), spans[:, 1].copy())
        self._fitted = quantise(self.layers, self.input_shape, master, ranges, weight_peak=PEAK)

    def nearest(self, master: F32) -> QuantisedFront:
        """The int8 front nearest to the master, under the scales of the last fit: to infer with."""
        return self._rounded(master, lambda layer, count: np.full(count, 0.5))

    def send(self, master: F32, seed: int) -> QuantisedFront:
        """The master rounded at random, for devices to train. seed: of this round."""
        self._base = master
        self._sent = self._rounded(master, lambda layer, count: _uniform(seed, layer, count))
        return self._sent

    def learned(self, parts: Learned) -> F32:
        """The master with what a device changed of the weights sent last: float32, plan order.

        Raises ValueError for parts of another front.
        """
        sent, steps = learned(self.sent), []
        if [_kind(part) for part in parts] != [_kind(part) for part in sent]:
            raise ValueError(f"learned: expected {len(sent)} layers of this front, got others")
        weighted = [layer for layer in self.sent.layers if layer.weights is not None]
        for layer, new, old in zip(weighted, parts, sent, strict=True):
            scales = _scales(layer)
            difference = new[0].astype(np.float64) - old[0]
            steps.append((difference * _spread(layer, scales)).ravel())
            if new[1] is not None and old[1] is not None:
                unit = self.sent.scale(layer.spec.input) * scales
                steps.append((new[1].astype(np.float64) - old[1]) * unit)
        moved = self._base + np.concatenate([np.zeros(0), *steps])
        return np.asarray(moved, np.float32)

    def _rounded(self, master: F32, noise: Noise) -> QuantisedFront:
        if self._fitted is None:
            self.fit(master)
        fitted = self._fitted
        assert fitted is not None
        parts = iter(self._parts(master))
        layers: list[QuantisedLayer] = []
        for number, layer in enumerate(fitted.layers):
            if layer.weights is not None:
                weights, bias = next(parts)
                unit = fitted.scale(layer.spec.input)
                drawn = noise(number, weights.size)
                layers.append(_round_layer(layer, weights, bias, unit, drawn))
            else:
                layers.append(layer)
        return dataclasses.replace(fitted, layers=layers)

    # ---- across restarts ----

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that must be kept between cloud rounds."""
        return {"ranges": self.ranges.copy(), "rounds": np.array(self.rounds)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `arrays`. Raises KeyError or ValueError where they do not fit."""
        if arrays["ranges"].shape != self.ranges.shape:
            raise ValueError(f"ranges of {len(arrays['ranges'])} tensors")
        self.ranges = arrays["ranges"].astype(np.float64)
        self.rounds = int(arrays["rounds"])


def _uniform(seed: int, stream: int, count: int) -> F64:
    """Numbers from 0 to below 1, `random(seed, stream, index) / 2^32`."""
    return random_bits(seed, stream, 0, count).astype(np.float64) / 2.0**32


def _round_layer(
    layer: QuantisedLayer, weights: F32, bias: F32 | None, unit: float, noise: F64
) -> QuantisedLayer:
    """The layer with these weights rounded. unit: scale of its input; noise: as many as weights."""
    scales = _scales(layer)
    steps = weights / _spread(layer, scales) + noise.reshape(weights.shape)
    whole = np.clip(np.floor(steps), -127, 127).astype(np.int8)
    if bias is None:
        return dataclasses.replace(layer, weights=whole)
    room = INT32_MAX - TERM_MAX * (weights.size // len(scales))
    near = np.clip(np.rint(bias / (unit * scales)), -room, room).astype(np.int32)
    return dataclasses.replace(layer, weights=whole, bias=near)


def _scales(layer: QuantisedLayer) -> F64:
    assert layer.weight_scales is not None
    return layer.weight_scales.astype(np.float64)


def _spread(layer: QuantisedLayer, scales: F64) -> F64:
    """A value a channel, beside the layer's weights."""
    assert layer.weights is not None
    if layer.spec.kind == "depthwise":
        return scales
    return scales.reshape(-1, *[1] * (layer.weights.ndim - 1))


def _by_channel(spec: LayerSpec, weights: F32) -> F32:
    """Weights as [out channels, taps]."""
    moved = np.moveaxis(weights, 3, 0) if spec.kind == "depthwise" else weights
    return moved.reshape(spec.output_shape[2], -1)


def _kind(part: tuple[Q, NDArray[np.int32] | None]) -> tuple[Any, ...]:
    return tuple(None if a is None else (a.dtype.str, a.shape) for a in part)


# ---- gradients ----


def quantise_gradient(gradient: F32, scale: float, mode: Rounding, seed: int) -> tuple[Q, int]:
    """A float gradient dL/dy as (g, e): dL/dy_q = g 2^e, g in -127..127.

    scale: of the int8 tensor, as y = (y_q - zero) scale. e is the smallest exponent that holds the
    largest value. Stochastic rounding draws from `random(seed, GRADIENT_STREAM, index)`.
    """
    wide = gradient.astype(np.float64) * scale
    exponent = gradient_exponent(float(np.abs(wide).max(initial=0.0)))
    steps = np.ldexp(wide, -exponent)
    if mode == "stochastic":
        steps += _uniform(seed, GRADIENT_STREAM, steps.size).reshape(steps.shape)
    else:
        steps += 0.5
    whole = np.floor(steps)
    return np.clip(whole, -GRADIENT_MAX, GRADIENT_MAX).astype(np.int8), exponent


def gradient_exponent(peak: float) -> int:
    """The smallest e with peak <= 127 * 2^e, from EXPONENT_MIN."""
    if peak <= 0:
        return EXPONENT_MIN
    _, exponent = math.frexp(peak / GRADIENT_MAX)
    exponent -= peak == math.ldexp(GRADIENT_MAX, exponent - 1)
    return max(exponent, EXPONENT_MIN)
