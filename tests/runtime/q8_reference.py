"""An int8 front that learns by the NumPy definition, for tests of the one in C."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from seamline.kernels import reference_q8
from seamline.kernels import reference_q8_train as train
from seamline.runtime.quantised import QuantisedFront, QuantisedLayer, run_layers

WEIGH, SETTLE, WEIGHTS, BIAS, SETTLE_SECOND, JOIN, JOIN_SECOND = range(7)
PURPOSES = 8
Gradient = tuple[NDArray[np.int8], int]


class ReferenceFront:
    """What `kernels.front.Q8Front` does, layer by layer."""

    def __init__(self, front: QuantisedFront, momentum: str = "int8") -> None:
        self.front, self.momentum = front, momentum
        self.velocity: dict[int, tuple[Any, int]] = {}
        self.bias_velocity: dict[int, Any] = {}

    def forward(self, x: NDArray[np.int8]) -> NDArray[np.int8]:
        self.tensors = list(run_layers(self.front, x, reference_q8))
        return self.tensors[-1]

    def backward(self, dy: NDArray[np.int8], exponent: int, **step: Any) -> None:
        self.step = {"mode": "stochastic", "momentum": 0.0, "decay": 0.0, "seed": 0, **step}
        layers = list(self.front.layers)
        self.gradients: dict[int, Gradient] = {len(layers): (dy, exponent)}
        for i in reversed(range(len(layers))):
            y = self.tensors[i + 1]
            g, e = self.gradients.pop(i + 1)
            g = g.reshape(y.shape)
            layer = layers[i]
            if layer.spec.kind in ("conv2d", "depthwise", "dense", "add", "relu"):
                g = train.mask(g, y, layer.y_min, layer.y_max)
            layers[i] = self.layer(i, layer, g, e)
        self.front = dataclasses.replace(self.front, layers=layers)

    def how(self, layer: int, purpose: int) -> dict[str, Any]:
        stream = PURPOSES * layer + purpose
        return {"mode": self.step["mode"], "seed": self.step["seed"], "stream": stream}

    def give(self, i: int, tensor: int, g: Gradient, join: int = JOIN) -> None:
        if tensor == 0:
            return
        if tensor in self.gradients:
            g = train.join(*self.gradients[tensor], *g, **self.how(i, join))
        self.gradients[tensor] = g[0].reshape(self.tensors[tensor].shape), g[1]

    def layer(self, i: int, layer: QuantisedLayer, dy: Any, e: int) -> QuantisedLayer:
        spec, x = layer.spec, self.tensors[layer.spec.input]
        window = {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
        settle = self.how(i, SETTLE)
        if layer.weights is not None:
            return self.weighted(i, layer, dy, e, window)
        if spec.kind == "max_pool":
            sums = train.max_pool2d_sums(dy, x, spec.kernel, **window)
            self.give(i, spec.input, train.settle(sums, e, **settle))
        elif spec.kind == "average_pool":
            sums = train.average_pool2d_sums(dy, x.shape[1:3], spec.kernel, **window)
            self.give(i, spec.input, train.settle(sums, e - 15, **settle))
        elif spec.kind == "add":
            made = self.front.scale(i + 1)
            for k, tensor in enumerate(spec.inputs()):
                ratio = np.float32(self.front.scale(tensor) / made)
                how = self.how(i, SETTLE_SECOND if k else SETTLE)
                g = train.add_gradient(dy, e, ratio, **how)
                self.give(i, tensor, g, JOIN_SECOND if k else JOIN)
        else:
            self.give(i, spec.input, (dy, e))
        return layer

    def weighted(
        self, i: int, layer: QuantisedLayer, dy: Any, e: int, window: Any
    ) -> QuantisedLayer:
        spec, front, w = layer.spec, self.front, layer.weights
        x, zero = self.tensors[spec.input], front.zero(spec.input)
        x_scale, y_scale = front.scale(spec.input), front.scale(i + 1)
        scales = layer.weight_scales.astype(np.float64)
        depthwise = spec.kind == "depthwise"
        if spec.kind == "dense":
            x, dy, w = x.reshape(len(x), 1, 1, -1), dy.reshape(len(dy), 1, 1, -1), w[:, None, None]
            window = {}
        if spec.input > 0:
            real = np.ldexp(layer.multiplier.astype(np.float64), layer.shift - 31)
            ratios = np.rint(scales / scales.max() * 32768).astype(np.uint16)
            weighed = train.weigh(dy, ratios, **self.how(i, WEIGH))
            if depthwise:
                sums = train.depthwise_input_sums(weighed, w, x.shape[1:3], x.shape[3], **window)
            else:
                sums = train.conv2d_input_sums(weighed, w, x.shape[1:3], **window)
            k = int(np.argmax(real))
            g = train.input_gradient(
                sums, e, int(layer.multiplier[k]), int(layer.shift[k]), **self.how(i, SETTLE)
            )
            self.give(i, spec.input, g)
        sums_of = train.depthwise_weight_sums if depthwise else train.conv2d_weight_sums
        dw = sums_of(dy, x, w.shape[1:3], x_zero=zero, **window)
        first = (
            (lambda a: np.moveaxis(a, 3, 0).reshape(a.shape[3], -1))
            if depthwise
            else (lambda a: a.reshape(len(a), -1))
        )
        order = first(np.arange(w.size).reshape(w.shape))
        steps = (x_scale / (y_scale * scales)).astype(np.float32)
        rates = {"rate": self.step["rate"], "momentum": self.step["momentum"]}
        how = {"decay": self.step["decay"], "order": order, **rates, **self.how(i, WEIGHTS)}
        if self.momentum == "float":
            v, ev = self.velocity.get(i, (np.zeros(order.shape, np.float32), 0))
            new, v = train.update_float(first(w), v, first(dw), e, steps, **how)
        else:
            v, ev = self.velocity.get(i, (np.zeros(order.shape, np.int8), 0))
            new, v, ev = train.update(first(w), v, ev, first(dw), e, steps, **how)
        self.velocity[i] = v, ev
        laid = np.empty(w.size, np.int8)
        laid[order.ravel()] = new.ravel()
        bias = layer.bias
        if bias is not None:
            vb = self.bias_velocity.get(i, np.zeros(len(bias), np.int32))
            bias, self.bias_velocity[i] = train.update_bias(
                bias, vb, train.bias_sums(dy), e, steps, np.float32(1 / x_scale**2),
                most=2**31 - 1 - order.shape[1] * 128 * 255, **rates, **self.how(i, BIAS),
            )  # fmt: skip
        return dataclasses.replace(layer, weights=laid.reshape(layer.weights.shape), bias=bias)
