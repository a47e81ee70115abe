"""The networks that are benchmarked, as layers of a plan: MLPerf Tiny's four and the watch net."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .plan import LayerSpec, Pair, Shape

WEIGHTED = ("conv2d", "depthwise", "dense")


@dataclass(frozen=True)
class Unit:
    """Layers [first, end) that are timed as one: a layer and the activation behind it."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Network:
    """Layers in plan form. units: what is timed alone; front: layers of the usual front."""

    name: str
    input_shape: Shape
    layers: list[LayerSpec]
    units: list[Unit]
    front: int

    @property
    def shapes(self) -> list[Shape]:
        """Of the tensors: the input, then each layer's output."""
        return [self.input_shape, *(layer.output_shape for layer in self.layers)]

    def part(self, first: int, end: int) -> tuple[list[LayerSpec], Shape]:
        """Layers [first, end) as a chain of their own, and its input's shape. What they read from
        before `first` becomes that input: a residual sum alone adds it to itself."""
        moved = []
        for layer in self.layers[first:end]:
            second = layer.second_input
            if second is not None:
                second = max(second - first, 0)
            moved.append(replace(layer, input=max(layer.input - first, 0), second_input=second))
        return moved, self.shapes[self.layers[first].input]


def units_of(layers: Sequence[LayerSpec], wanted: Collection[int] = ()) -> list[Unit]:
    """Each layer with the activation that follows it, named by its kind. An activation stays alone
    where something else reads its input, too. wanted: tensors that others read as well."""
    reads = Counter(tensor for layer in layers for tensor in layer.inputs())
    reads.update(wanted)
    units: list[Unit] = []
    for index, layer in enumerate(layers):
        if layer.kind == "relu" and units and layer.input == index and reads[index] == 1:
            units[-1] = Unit(units[-1].name, units[-1].first, index + 1)
        else:
            units.append(Unit(f"{index + 1}-{layer.kind}", index, index + 1))
    return units


# ---- building networks ----


class _Builder:
    """A chain that grows at its end; `at` is the shape there."""

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape, self.at = input_shape, input_shape
        self.layers: list[LayerSpec] = []
        self.units: list[Unit] = []

    @property
    def end(self) -> int:
        """Number of the last tensor."""
        return len(self.layers)

    def _unit(self, name: str, *layers: LayerSpec, relu: bool = False) -> None:
        first = self.end
        self.layers += layers
        self.at = layers[-1].output_shape
        if relu:
            self.layers.append(LayerSpec("relu", self.end, self.at))
        self.units.append(Unit(name, first, self.end))

    def conv(
        self,
        name: str,
        channels: int,
        kernel: Pair,
        stride: Pair = (1, 1),
        *,
        depthwise: bool = False,
        relu: bool = True,
        source: int | None = None,
        padding: tuple[Pair, Pair] | None = None,
    ) -> None:
        """Padded to SAME as TensorFlow does, unless told. source: a tensor other than the last."""
        shape = self.at if source is None else self._shape(source)
        pads = padding or (
            same(shape[0], kernel[0], stride[0]),
            same(shape[1], kernel[1], stride[1]),
        )
        out = [(shape[i] + sum(pads[i]) - kernel[i]) // stride[i] + 1 for i in range(2)]
        layer = LayerSpec(
            "depthwise" if depthwise else "conv2d",
            self.end if source is None else source,
            (out[0], out[1], channels),
            kernel=kernel,
            stride=stride,
            padding=pads,
        )
        self._unit(name, layer, relu=relu)

    def _shape(self, tensor: int) -> Shape:
        return self.layers[tensor - 1].output_shape if tensor else self.input_shape

    def dense(self, name: str, channels: int, *, relu: bool = False) -> None:
        self._unit(name, LayerSpec("dense", self.end, (1, 1, channels)), relu=relu)

    def average(self, name: str, kernel: Pair, stride: Pair) -> None:
        out = [(self.at[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
        shape = (out[0], out[1], self.at[2])
        self._unit(name, LayerSpec("average_pool", self.end, shape, kernel=kernel, stride=stride))

    def add(self, name: str, other: int) -> None:
        self._unit(name, LayerSpec("add", self.end, self.at, second_input=other), relu=True)

    def block(self, number: int, channels: int, stride: int = 1) -> None:
        """MobileNet's: depthwise 3x3, then pointwise."""
        self.conv(f"dw{number}", self.at[2], (3, 3), (stride, stride), depthwise=True)
        self.conv(f"pw{number}", channels, (1, 1))

    def stage(self, number: int, channels: int, stride: int = 1) -> None:
        """ResNet's: two 3x3 convolutions beside a shortcut."""
        start = self.end
        self.conv(f"conv{number}a", channels, (3, 3), (stride, stride))
        self.conv(f"conv{number}b", channels, (3, 3), relu=False)
        other = start
        if stride > 1:
            main = self.end
            name = f"shortcut{number}"
            self.conv(name, channels, (1, 1), (stride, stride), relu=False, source=start)
            other = main
        self.add(f"add{number}", other)

    def network(self, name: str, front: str) -> Network:
        """front: the last unit of the usual front."""
        end = next(unit.end for unit in self.units if unit.name == front)
        return Network(name, self.input_shape, self.layers, self.units, end)


def same(length: int, kernel: int, stride: int) -> Pair:
    """TensorFlow's SAME padding: what is missing, the odd one at the end."""
    missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return missing // 2, missing - missing // 2


def _kws() -> Network:
    """DS-CNN for speech commands: 2,656,768 multiply-adds."""
    net = _Builder((49, 10, 1))
    net.conv("conv", 64, (10, 4), (2, 2))
    for number in range(1, 5):
        net.block(number, 64)
    net.average("pool", (25, 5), (25, 5))
    net.dense("dense", 12)
    return net.network("kws", "pw2")


def _ic() -> Network:
    """ResNet-8 for images: 12,501,632 multiply-adds."""
    net = _Builder((32, 32, 3))
    net.conv("conv", 16, (3, 3))
    net.stage(1, 16)
    net.stage(2, 32, 2)
    net.stage(3, 64, 2)
    net.average("pool", (8, 8), (8, 8))
    net.dense("dense", 10)
    return net.network("ic", "add1")


def _vww() -> Network:
    """MobileNetV1 of width 0.25: 7,489,664 multiply-adds."""
    net = _Builder((96, 96, 3))
    net.conv("conv", 8, (3, 3), (2, 2))
    widths = [16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    for number, channels in enumerate(widths, 1):
        net.block(number, channels, 2 if number in (2, 4, 6, 12) else 1)
    net.average("pool", (3, 3), (3, 3))
    net.dense("dense", 2)
    return net.network("vww", "pw2")


def _ad() -> Network:
    """Autoencoder for machine sounds: 264,192 multiply-adds."""
    net = _Builder((1, 1, 640))
    for number, channels in enumerate([128] * 4 + [8] + [128] * 4, 1):
        net.dense(f"dense{number}", channels, relu=True)
    net.dense("dense10", 640)
    return net.network("ad", "dense2")


def _watch() -> Network:
    """The demo's: windows of a wrist sensor, 100 moments of 6 values."""
    net = _Builder((1, 100, 6))
    for number, channels in enumerate((16, 24, 32), 1):
        net.conv(f"conv{number}", channels, (1, 5), (1, 2), padding=((0, 0), (2, 2)))
    net.average("pool", (1, 4), (1, 3))
    net.dense("dense1", 32, relu=True)
    net.dense("dense2", 7)
    return net.network("watch", "conv2")


NETWORKS = {"kws": _kws, "ic": _ic, "vww": _vww, "ad": _ad, "watch": _watch}


def network(name: str) -> Network:
    """The network of that name: a key of NETWORKS."""
    return NETWORKS[name]()


# ---- what is measured ----

PASSES = ("forward", "backward", "step")


@dataclass(frozen=True)
class Piece:
    """A chain of layers with numbers in it, the same for every contender.

    inner: there are layers before it, so its input's gradient is wanted too.
    parameters: flat, plan order and layout; x: [batch, h, w, c]; dy: like the output.
    """

    layers: list[LayerSpec]
    input_shape: Shape
    batch: int
    inner: bool
    parameters: NDArray[np.float32]
    x: NDArray[np.float32]
    dy: NDArray[np.float32]

    @property
    def shapes(self) -> list[Shape]:
        """Of the tensors: the input, then each layer's output."""
        return [self.input_shape, *(layer.output_shape for layer in self.layers)]

    def weights(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
        """Of each layer: the weights (conv [o, h, w, i], depthwise [h, w, o], dense [o, h, w, i],
        group norm [c]) and the bias, None where there is none; empty weights where there are none.
        """
        found: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []
        at = 0
        for layer in self.layers:
            in_shape, channels = self.shapes[layer.input], layer.output_shape[2]
            count = layer.parameters(in_shape)
            flat = self.parameters[at : at + count]
            at += count
            bias = flat[count - channels :] if count and layer.has_bias else None
            flat = flat if bias is None else flat[: count - channels]
            shape: tuple[int, ...] = (len(flat),)
            if layer.kind == "conv2d":
                shape = (channels, *layer.kernel, in_shape[2])
            elif layer.kind == "depthwise":
                shape = (*layer.kernel, channels)
            elif layer.kind == "dense":
                shape = (channels, *in_shape)
            found.append((flat.reshape(shape), bias))
        return found


def make_piece(
    layers: list[LayerSpec], input_shape: Shape, batch: int, *, inner: bool = False
) -> Piece:
    """Seeded weights that keep the size of the values, small random inputs and gradients."""
    random = np.random.default_rng(1)
    shapes = [input_shape, *(layer.output_shape for layer in layers)]
    parameters = []
    for layer in layers:
        count, channels = layer.parameters(shapes[layer.input]), layer.output_shape[2]
        if layer.kind == "group_norm":
            parameters.append(np.repeat([1.0, 0.0], channels))
        elif count:
            bias = channels if layer.has_bias else 0
            terms = (count - bias) // channels
            parameters.append(random.normal(0, math.sqrt(2 / terms), count - bias))
            parameters.append(random.normal(0, 0.01, bias))
    return Piece(
        layers,
        input_shape,
        batch,
        inner,
        np.concatenate([np.zeros(0), *parameters]).astype(np.float32),
        random.normal(0, 1, (batch, *input_shape)).astype(np.float32),
        random.normal(0, 0.01, (batch, *shapes[-1])).astype(np.float32),
    )


@dataclass(frozen=True)
class Cost:
    """The least work of something: multiply-adds, and bytes that must be read or written."""

    macs: int
    size: int


def costs(piece: Piece, pass_: str) -> list[Cost]:
    """What each part of a pass costs at least. Padding taps count; an activation costs nothing, it
    can be done where its input is made."""
    found = []
    for layer in piece.layers:
        shape = piece.shapes[layer.input]
        weights = layer.parameters(shape)
        taken = piece.batch * sum(math.prod(piece.shapes[tensor]) for tensor in layer.inputs())
        given = piece.batch * math.prod(layer.output_shape)
        macs = 0
        if layer.kind in WEIGHTED:
            bias = layer.output_shape[2] if layer.has_bias else 0
            pixels = layer.output_shape[0] * layer.output_shape[1]
            macs = piece.batch * pixels * (weights - bias)
        if layer.kind in ("relu", "flatten"):
            continue
        if pass_ != "backward":
            found.append(Cost(macs, 4 * (taken + weights + given)))
        if pass_ != "forward":
            inner = piece.inner or layer.input > 0  # somebody wants its input's gradient
            size = taken * (2 if inner else 1) + 2 * weights + given
            found.append(Cost(macs * (2 if inner else 1), 4 * size))
    if pass_ == "step":  # reads weights, momentum and gradient, writes the first two
        found.append(Cost(0, 5 * 4 * len(piece.parameters)))
    return found
