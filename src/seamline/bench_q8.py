"""A network in int8 for benchmarks: ranges from one batch; our layers as one chain, or trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import f32, q8
from .kernels._core import Q8Chain
from .kernels.front import Q8Front
from .runtime.calibration import calibrate
from .runtime.networks import WEIGHTED, Piece
from .runtime.plan import LayerSpec, Shape
from .runtime.q8_parameters import blob_of
from .runtime.q8_plan import build_q8_plan
from .runtime.quantise import quantise

DY_EXPONENT = -12  # the errors that arrive, int8, count 2^-12 each
RATE, MOMENTUM = 1e-6, 0.9  # as in f32: a thousand steps must not change the values' size


class NotInQ8(Exception):
    """There is no such int8 layer; the text says which."""


@dataclass(frozen=True)
class Scale:
    """A tensor stands for (q - zero) * scale; scale is a float32."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Q8Layer:
    """A layer and the activation behind it, if any. spec, output (a tensor): of the piece.

    w: conv [o, h, w, i], depthwise [1, h, w, o], dense [o, i]; w_scale: float32, one an output
    channel, dense one.
    """

    spec: LayerSpec
    activation: LayerSpec | None
    output: int
    y_min: int
    y_max: int
    w: NDArray[np.int8] | None = None
    w_scale: NDArray[np.float32] | None = None
    bias: NDArray[np.int32] | None = None


class Q8Piece:
    """A piece in int8. Raises NotInQ8."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.values = _values(piece)
        fused = fused_activations(piece.layers)
        self.scales: dict[int, Scale] = {0: _scale_of(self.values[0])}
        self.layers: list[Q8Layer] = []
        weights = piece.weights()
        for index, spec in enumerate(piece.layers):
            if index in fused.values():
                continue
            if spec.kind in {"relu", "group_norm"}:
                raise NotInQ8(f"no {spec.kind} of its own in int8")
            output = fused.get(index, index) + 1
            keeps = spec.kind in ("max_pool", "average_pool", "flatten")
            self.scales[output] = (
                self.scales[spec.input] if keeps else _scale_of(self.values[output])
            )
            activation = piece.layers[fused[index]] if index in fused else None
            self.layers.append(self._layer(spec, activation, output, *weights[index]))

    def _layer(
        self,
        spec: LayerSpec,
        activation: LayerSpec | None,
        output: int,
        w: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> Q8Layer:
        x, y = self.scales[spec.input], self.scales[output]
        low, high = -128, 127
        if activation is not None:
            low = y.zero
            if math.isfinite(activation.ceiling):
                top = np.floor(np.float32(activation.ceiling) / np.float32(y.scale) + 0.5)
                high = min(127, y.zero + int(top))
        if spec.kind not in WEIGHTED:
            return Q8Layer(spec, activation, output, low, high)
        axis = -1 if spec.kind == "depthwise" else 0
        rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
        if spec.kind == "dense":
            rows = rows.reshape(1, -1)
        scale = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
        each = scale if spec.kind == "depthwise" else scale.reshape(-1, *[1] * (w.ndim - 1))
        whole = np.clip(np.rint(w / each), -127, 127).astype(np.int8)
        if spec.kind == "depthwise":
            whole = whole[None]
        elif spec.kind == "dense":
            whole = whole.reshape(len(whole), -1)
        add = np.zeros(spec.output_shape[2]) if bias is None else bias
        found = np.rint(add / (np.float64(x.scale) * scale)).astype(np.int32)
        return Q8Layer(spec, activation, output, low, high, whole, scale, found)

    @cached_property
    def x(self) -> NDArray[np.int8]:
        """The piece's input."""
        s = self.scales[0]
        return q8.quantise(self.piece.x, s.scale, s.zero)

    def multiplier(self, layer: Q8Layer) -> dict[str, NDArray[np.int32]]:
        """As TensorFlow Lite makes it: dense multiplies the first two scales in float32."""
        x = np.float32(self.scales[layer.spec.input].scale)
        y = np.float64(self.scales[layer.output].scale)
        assert layer.w_scale is not None
        if layer.spec.kind == "dense":
            product = (x * layer.w_scale).astype(np.float64)
        else:
            product = np.float64(x) * layer.w_scale.astype(np.float64)
        multiplier, shift = q8.multiplier_of(product / y)
        return {"multiplier": multiplier, "shift": shift}

    @property
    def shapes(self) -> list[Shape]:
        """Of the tensors."""
        return self.piece.shapes


def fused_activations(layers: Sequence[LayerSpec]) -> dict[int, int]:
    """Layer -> the activation behind it that nothing else goes around."""
    found = {}
    for index, layer in enumerate(layers):
        before = layer.input - 1
        readers = [other for other in layers if layer.input in other.inputs()]
        may = before >= 0 and layers[before].kind not in ("relu", "group_norm", "flatten")
        if layer.kind == "relu" and may and len(readers) == 1:
            found[before] = index
    return found


def _values(piece: Piece) -> list[NDArray[np.float32]]:
    """Of every tensor, in float32."""
    found = [piece.x]
    for layer, (w, b) in zip(piece.layers, piece.weights(), strict=True):
        x = found[layer.input]
        how: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
        if layer.kind == "conv2d":
            y = f32.conv2d(x, w, b, dilation=layer.dilation, **how)
        elif layer.kind == "depthwise":
            y = f32.depthwise_conv2d(x, w[None], b, dilation=layer.dilation, **how)
        elif layer.kind == "dense":
            y = f32.dense(x.reshape(len(x), -1), w.reshape(len(w), -1), b)
        elif layer.kind == "max_pool":
            y = f32.max_pool2d(x, layer.kernel, **how)
        elif layer.kind == "average_pool":
            y = f32.average_pool2d(x, layer.kernel, **how)
        elif layer.kind == "relu":
            y = f32.relu(x, layer.ceiling)
        elif layer.kind == "add":
            assert layer.second_input is not None
            y = f32.add(x, found[layer.second_input])
        elif layer.kind == "flatten":
            y = x
        else:
            raise NotInQ8(f"no {layer.kind} in int8")
        found.append(y.reshape(len(x), *layer.output_shape))
    return found


def _scale_of(values: NDArray[np.float32]) -> Scale:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float32((high - low) / 255 or 1.0))
    return Scale(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def chain_of(q: Q8Piece) -> Q8Chain:
    """Our layers, weights packed."""
    h, w, c = q.piece.input_shape
    chain = Q8Chain((q.piece.batch, h, w, c))
    places = {0: 0}
    for layer in q.layers:
        places[layer.output] = _add_to_chain(chain, q, layer, places)
    return chain


def _add_to_chain(chain: Q8Chain, q: Q8Piece, layer: Q8Layer, places: dict[int, int]) -> int:
    spec, source = layer.spec, places[layer.spec.input]
    if layer.w is not None:
        return _add_product(chain, q, layer, layer.w, source)
    if spec.second_input is not None:
        return _add_sum(chain, q, layer, source, places[spec.second_input])
    if spec.kind == "flatten":
        return chain.flatten(source)
    pool = chain.max_pool2d if spec.kind == "max_pool" else chain.average_pool2d
    clamp = {"y_min": layer.y_min, "y_max": layer.y_max}
    return pool(source, spec.kernel, spec.stride, spec.padding, **clamp)


def _add_product(
    chain: Q8Chain, q: Q8Piece, layer: Q8Layer, w: NDArray[np.int8], source: int
) -> int:
    spec = layer.spec
    how: dict[str, Any] = {
        "x_zero": q.scales[spec.input].zero,
        "y_zero": q.scales[layer.output].zero,
        "y_min": layer.y_min,
        "y_max": layer.y_max,
        **q.multiplier(layer),
    }
    if spec.kind == "dense":
        return chain.dense(source, w, layer.bias, **how)
    how |= {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
    add = chain.conv2d if spec.kind == "conv2d" else chain.depthwise_conv2d
    return add(source, w, layer.bias, **how)


def _add_sum(chain: Q8Chain, q: Q8Piece, layer: Q8Layer, source: int, second: int) -> int:
    a, b = (q.scales[i] for i in layer.spec.inputs())
    y = q.scales[layer.output]
    how = q8.sum_scaling(a.scale, b.scale, y.scale)
    how |= {"a_zero": a.zero, "b_zero": b.zero, "y_zero": y.zero}
    return chain.add(source, second, **how, y_min=layer.y_min, y_max=layer.y_max)


class Q8Training:
    """A q8 front that learns the piece, and what one step of it takes. Raises PlanError for a
    layer that int8 fronts do not have."""

    def __init__(self, piece: Piece) -> None:
        layers, shape = piece.layers, piece.input_shape
        ranges = calibrate(layers, shape, piece.parameters, piece.x)
        made = quantise(layers, shape, piece.parameters, ranges)
        specs = [layer.spec for layer in made.layers]
        self.front = Q8Front(build_q8_plan(specs, shape, piece.batch))
        self.front.set(blob_of(made))
        self.x = made.quantise(piece.x)
        rng = np.random.default_rng(0)
        size = (piece.batch, *self.front.output_shape)
        self.dy = rng.integers(-127, 128, size, dtype=np.int8)

    def forward(self) -> NDArray[np.int8]:
        return self.front.forward(self.x)

    def backward(self) -> None:
        """With the update, which int8 does layer by layer on the way."""
        self.front.backward(self.dy, DY_EXPONENT, rate=RATE, momentum=MOMENTUM)

    def step(self) -> None:
        self.forward()
        self.backward()
