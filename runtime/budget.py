"""What a front takes on a device: RAM by section, flash, multiply-adds, bytes on the wire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from ..kernels import parcel
from .arena import round16
from .plan import HEADER, LAYER, TENSOR, Front, LayerSpec, Layout, Shape, lay_out, size_up
from .q8_plan import Momentum, Q8Sizes, size_up_q8, sums_of
from .quantised import fuse
from .recompute import choose, extra_multiply_adds

Dtype = Literal["f32", "q8"]

DTYPES: tuple[Dtype, ...] = ("f32", "q8")
CODECS = {"f32": ("f32", "int8", "int4"), "q8": ("int8",)}
MESSAGE = 24  # bytes in front of a body
ACT_HEAD, GRAD_HEAD, WEIGHTS_HEAD = 4, 8, 8  # of a body, in front of labels and parcel
LABEL = 2
EXTREMES = 2  # of a tensor, in the weights of a q8 front


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
    """How a front is trained. recompute: as `train.recompute` in a job. momentum: of a q8 front.
    codec: of the activations of an f32 one, for the room a session keeps for its answers.
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
    sections = {"parameters": array, "momentum": array, "gradients": array, "state": 0}
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
    """What a session asks for beside the arena: the plan, labels, and in f32 the longest answer (an
    int8 front has room for it).
    """
    parts = [_table_bytes(front), 4 * front.batch]
    if not isinstance(front, Q8Sizes):
        shape = (front.batch, *front.shapes[-1])
        act = MESSAGE + ACT_HEAD + LABEL * front.batch + _parcel(codec, shape)
        parts.append(max(act, weights) + 16)
    return sum(map(round16, parts))


@dataclass(frozen=True)
class Wire:
    """Bytes of one training step's messages, headers included."""

    up: int
    down: int


def wire(candidate: Candidate, batch: int, codec: str) -> Wire:
    """The activation with its labels up, the gradient down."""
    size = _parcel(codec, (batch, *candidate.shape))
    return Wire(MESSAGE + ACT_HEAD + LABEL * batch + size, MESSAGE + GRAD_HEAD + size)


# ---- q8: as `build_q8_plan` lays it out, with a ReLU in the layer in front of it ----


@cache
def _q8(layers: tuple[LayerSpec, ...], shape: Shape, choice: Choice) -> Need:
    sums = sums_of(recompute=choice.recompute)
    specs = fuse(layers)[0]
    front = size_up_q8(specs, shape, choice.batch, momentum=choice.momentum, sums=sums)
    sections = {
        "parameters": round16(front.blob),
        "momentum": round16(front.velocity),
        "gradients": 0,
        "state": round16(front.state(training=True)),
    }
    up, down = _weights_message("int8", front.learned), _weights_message("int8", front.blob)
    up += EXTREMES * len(front.shapes)
    flash = {"weights": front.blob, "plan": _table_bytes(front)}
    return _need(front, sections, flash, ("int8", up, down), recompute=choice.recompute)
