"""What a front takes on a device: RAM by section, flash, multiply-adds, bytes on the wire."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from ..kernels import parcel
from ..kernels.front import q8_layer_scratch
from .arena import Buffer, round16
from .lifetimes import Lifetimes
from .plan import HEADER, LAYER, TENSOR, Front, LayerSpec, Layout, Shape, lay_out, size_up
from .quantised import fuse
from .recompute import choose, extra_multiply_adds

Dtype = Literal["f32", "q8"]
Momentum = Literal["int8", "f32", "none"]

DTYPES: tuple[Dtype, ...] = ("f32", "q8")
CODECS = {"f32": ("f32", "int8", "int4"), "q8": ("int8",)}
MESSAGE = 24  # bytes in front of a body
ACT_HEAD, GRAD_HEAD, WEIGHTS_HEAD = 4, 8, 8  # of a body, in front of labels and parcel
LABEL = 2


@dataclass(frozen=True)
class Candidate:
    """A front behind one seam. weighted: what to write as `seam`; name: of its last module."""

    weighted: int
    name: str
    layers: Sequence[LayerSpec]
    input_shape: Shape
    whole: bool = False  # is nothing left for the edge host?

    @property
    def shape(self) -> Shape:
        """Of one sample's activation."""
        return self.layers[-1].output_shape


@dataclass(frozen=True)
class Choice:
    """How a front is trained. momentum: of a q8 front. codec: of the activations of an f32 one,
    for the room a session keeps for its answers.
    """

    batch: int = 1
    dtype: Dtype = "f32"
    recompute: bool = False
    momentum: Momentum = "int8"
    codec: str = "int8"


@dataclass(frozen=True)
class Need:
    """Bytes and multiply-adds. training, inference: RAM by section; bounds: no placement of the
    same arrays gets below them. weights_up, weights_down: messages with all that is learned, one
    each way in a round. again: layers made twice in training.
    """

    training: dict[str, int]
    training_bound: int
    inference: dict[str, int]
    inference_bound: int
    flash: dict[str, int]
    weights_up: int
    weights_down: int
    forward_macs: int
    step_macs: int
    again: tuple[int, ...]

    @property
    def training_ram(self) -> int:
        return sum(self.training.values())

    @property
    def inference_ram(self) -> int:
        return sum(self.inference.values())

    @property
    def flash_bytes(self) -> int:
        return sum(self.flash.values())


def need(candidate: Candidate, choice: Choice) -> Need:
    """What the front takes so. Raises PlanError for a front there is no plan of."""
    layers = tuple(candidate.layers)
    if choice.dtype == "f32":
        return _f32(layers, candidate.input_shape, replace(choice, momentum="none"))
    return _q8(layers, candidate.input_shape, choice)


# ---- f32 ----


@cache
def _f32(layers: tuple[LayerSpec, ...], shape: Shape, choice: Choice) -> Need:
    front = size_up(layers, shape, choice.batch)
    array = round16(4 * front.parameters)
    sections = dict.fromkeys(("parameters", "momentum", "gradients"), array)
    weights = _weights_message("f32", front.parameters)
    flash = {"weights": 4 * front.parameters, "plan": _table_bytes(front)}
    return _need(
        front, sections, flash, (choice.codec, weights, weights), recompute=choice.recompute
    )


def _need(
    front: Front,
    kept: dict[str, int],
    flash: dict[str, int],
    messages: tuple[str, int, int],
    *,
    recompute: bool,
) -> Need:
    """kept: sections in front of what is placed. messages: the codec that makes the longest
    activation, bytes of the weights up and down.
    """
    codec, up, down = messages
    session = _session_bytes(front, codec, up)
    again = choose(front) if recompute else frozenset[int]()
    trained, alone = lay_out(front, again=again), lay_out(front, training=False)
    return Need(
        training={**kept, **_placed(trained), "packed weights": 0, "session": session},
        training_bound=trained.bound + session,
        inference={**_placed(alone), "packed weights": 0},
        inference_bound=alone.bound - alone.scratch_at,
        flash=flash,
        weights_up=up,
        weights_down=down,
        forward_macs=_forward_macs(front),
        step_macs=_step_macs(front) + extra_multiply_adds(front, again),
        again=tuple(sorted(again)),
    )


def _placed(laid: Layout) -> dict[str, int]:
    behind = laid.scratch_at + laid.scratch_bytes
    return {"activations": laid.arena_bytes - behind, "scratch": laid.scratch_bytes}


def _table_bytes(front: Front) -> int:
    return HEADER.size + TENSOR.size * len(front.shapes) + LAYER.size * len(front.layers)


def _forward_macs(front: Front) -> int:
    return extra_multiply_adds(front, range(len(front.layers)))


def _step_macs(front: Front) -> int:
    """Forward, gradients of weights and, but for what reads the front's input, of inputs."""
    inner = [i for i, layer in enumerate(front.layers) if layer.input > 0]
    return 2 * _forward_macs(front) + extra_multiply_adds(front, inner)


# ---- the link, and what a session keeps for it ----


@cache
def _parcel(codec: str, shape: tuple[int, ...]) -> int:
    """Bytes of a parcel of this shape."""
    return len(parcel.pack(np.zeros(shape, np.float32), codec)) if math.prod(shape) else 0


def _weights_message(codec: str, count: int) -> int:
    return MESSAGE + WEIGHTS_HEAD + _parcel(codec, (count,))


def _session_bytes(front: Front, codec: str, weights: int) -> int:
    """What a session asks for beside the arena: the plan, labels, and the longest answer."""
    shape = (front.batch, *front.shapes[-1])
    act = MESSAGE + ACT_HEAD + LABEL * front.batch + _parcel(codec, shape)
    table, labels = _table_bytes(front), 4 * front.batch
    return round16(table) + round16(labels) + round16(max(act, weights) + 16)


@dataclass(frozen=True)
class Wire:
    """Bytes of one training step's messages, headers included."""

    up: int
    down: int


def wire(candidate: Candidate, batch: int, codec: str) -> Wire:
    """The activation with its labels up, the gradient down."""
    size = _parcel(codec, (batch, *candidate.shape))
    return Wire(MESSAGE + ACT_HEAD + LABEL * batch + size, MESSAGE + GRAD_HEAD + size)


# ---- q8: the arrays of SPEC.md's int8 front, with a ReLU in the layer in front of it ----

PER_CHANNEL = 14  # multiplier, exponent, step, ratio
PER_LAYER = 8  # what its bias counts in, what it clamps to
PER_TENSOR = 8  # scale, zero point
PER_SUM = 24  # three multipliers with their exponents
_CLAMPS = frozenset({"conv2d", "depthwise", "dense", "add", "relu"})
_WEIGHTED = ("conv2d", "depthwise", "dense")


@dataclass(frozen=True)
class _Q8Front(Front):
    """Fused layers with arrays of int8; `parameters` counts weights and biases."""

    momentum: Momentum

    @property
    def biases(self) -> int:
        return sum(layer.output_shape[2] for layer in self._weighted() if layer.has_bias)

    @property
    def learned(self) -> int:
        """Bytes of int8 weights and int32 biases."""
        return (self.parameters - self.biases + 3) // 4 * 4 + 4 * self.biases

    @property
    def fixed(self) -> int:
        """Bytes of scales and multipliers."""
        channels = sum(layer.output_shape[2] for layer in self._weighted())
        sums = sum(layer.kind == "add" for layer in self.layers)
        layers, tensors = len(list(self._weighted())), len(self.shapes)
        return PER_CHANNEL * channels + PER_LAYER * layers + PER_TENSOR * tensors + PER_SUM * sums

    @property
    def velocity(self) -> int:
        """Bytes of momentum; a bias' is an int32."""
        kinds = {"none": 0, "int8": self.learned, "f32": 4 * self.parameters}
        return kinds[self.momentum]

    def base(self, *, training: bool = True) -> int:
        kept = round16(self.learned + self.fixed)
        return kept + round16(self.velocity) if training else kept

    def lives(self, *, again: Collection[int] = (), training: bool = True) -> Lifetimes:
        return Lifetimes(
            self.layers,
            self.shapes,
            self.batch,
            element=1,
            training=training,
            again=again,
            passes_gradient=("relu", "flatten"),
            needs_output=_CLAMPS,
            masks=_CLAMPS,
        )

    def busy(self, lives: Lifetimes) -> list[Buffer]:
        return lives.scratch(self._forward_scratch, self._backward_scratch)

    def _weighted(self) -> Iterator[LayerSpec]:
        return (layer for layer in self.layers if layer.kind in _WEIGHTED)

    def _forward_scratch(self, index: int) -> int:
        layer = self.layers[index]
        shape = self.shapes[layer.input]
        if layer.kind == "conv2d":
            return q8_layer_scratch(shape, layer.output_shape, layer.window)
        if layer.kind == "dense":
            inputs, window = (1, 1, math.prod(shape)), (1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
            return q8_layer_scratch(inputs, layer.output_shape, window)
        return 0

    def _backward_scratch(self, index: int) -> int:
        """Sums of a row of inputs beside the weighed gradient, or of one channel's weights."""
        layer = self.layers[index]
        _, width, depth = shape = self.shapes[layer.input]
        row = 4 * width * depth if layer.input > 0 else 0
        if layer.kind not in _WEIGHTED:
            return 0 if layer.kind in ("relu", "flatten") else row
        channels = layer.output_shape[2]
        terms = (layer.parameters(shape) - channels * layer.has_bias) // channels
        weighed = self.batch * math.prod(layer.output_shape) if layer.input > 0 else 0
        return max(weighed + row, 4 * terms + 4 * channels)


@cache
def _q8(layers: tuple[LayerSpec, ...], shape: Shape, choice: Choice) -> Need:
    plain = size_up(fuse(layers)[0], shape, choice.batch)
    front = _Q8Front(**vars(plain), momentum=choice.momentum)
    sections = {
        "parameters": round16(front.learned + front.fixed),
        "momentum": round16(front.velocity),
        "gradients": 0,
    }
    blob = front.learned + front.fixed
    up, down = _weights_message("int8", front.learned), _weights_message("int8", blob)
    flash = {"weights": blob, "plan": _table_bytes(front)}
    return _need(front, sections, flash, ("int8", up, down), recompute=choice.recompute)
