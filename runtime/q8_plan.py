"""Plans of fronts that compute in int8: sizes of their arrays, and the bytes a device loads."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from ..kernels import WIRE_VERSION
from ..kernels.front import check_plan, q8_layer_scratch
from .arena import Buffer, round16
from .lifetimes import Lifetimes
from .plan import (
    HEADER,
    KINDS,
    MAGIC,
    Front,
    LayerSpec,
    PlanError,
    Shape,
    lay_out,
    layer_records,
    size_up,
    tensor_records,
)

Momentum = Literal["int8", "float", "none"]
Sums = Literal["whole", "pieces"]

Q8 = 1  # dtype of a plan
INFERENCE, NO_MOMENTUM, FLOAT_MOMENTUM = 1, 2, 4  # flags of one
MOMENTUM_FLAGS: dict[Momentum, int] = {"int8": 0, "float": FLOAT_MOMENTUM, "none": NO_MOMENTUM}
WEIGHTED = ("conv2d", "depthwise", "dense")
CLAMPS = frozenset({*WEIGHTED, "add", "relu"})
THROUGH = ("relu", "flatten")  # gradients go through
WEIGHT_TERMS_MAX = 66311  # products in the sum of one weight's gradient (seam.h)
INPUT_TERMS_MAX = 133144  # of one input's
ANSWER, PARCEL = 24 + 16, 16  # bytes beside an answer's body, and in front of a parcel's shape
CLAMP, SUM_NUMBERS, TENSOR_NUMBERS = 4, 32, 8  # bytes of a layer, of an add, of a tensor


def sums_of(*, recompute: bool) -> Sums:
    """How a job wants them: made twice where it asks for less memory and more work."""
    return "pieces" if recompute else "whole"


@dataclass(frozen=True)
class Q8Sizes(Front):
    """Layers with their ReLUs fused and arrays of int8. sums: of a gradient, whole in the scratch
    memory, or in pieces that are made twice. `parameters` counts weights and biases."""

    momentum: Momentum = "int8"
    sums: Sums = "whole"

    def learned_bytes(self, layer: LayerSpec) -> int:
        """int8 weights, padded to whole words, and int32 biases."""
        if layer.kind not in WEIGHTED:
            return 0
        biases = self._biases(layer)
        return -(-(self._count(layer) - biases) // 4) * 4 + 4 * biases

    @property
    def learned(self) -> int:
        return sum(map(self.learned_bytes, self.layers))

    @property
    def blob(self) -> int:
        """Bytes of all parameters: what is learned, scales, integers made of them."""
        fixed = TENSOR_NUMBERS * len(self.shapes) + CLAMP * len(self.layers)
        for layer in self.layers:
            channels = layer.output_shape[2]
            if layer.kind == "add":
                fixed += SUM_NUMBERS
            elif layer.kind in WEIGHTED:
                fixed += 4 + 12 * channels + -(-channels // 2) * 4
        return self.learned + fixed

    @property
    def velocity(self) -> int:
        """Bytes of momentum; a bias' is an int32."""
        sizes = {"int8": self.learned, "float": 4 * self.parameters, "none": 0}
        return sizes[self.momentum]

    def state(self, *, training: bool) -> int:
        """Exponents, places, extremes; a row of logits where the output may be such."""
        height, width, classes = self.shapes[-1]
        rows = 8 * classes if height == width == 1 and training else 0
        return round16(8 * len(self.layers) + 6 * len(self.shapes)) + rows

    def base(self, *, training: bool = True) -> int:
        velocity = round16(self.velocity) if training else 0
        return round16(self.blob) + velocity + round16(self.state(training=training))

    def lives(self, *, again: Collection[int] = (), training: bool = True) -> Lifetimes:
        return Lifetimes(
            self.layers,
            self.shapes,
            self.batch,
            element=1,
            training=training,
            again=again,
            passes_gradient=THROUGH,
            needs_output=CLAMPS,
            masks=CLAMPS,
            answer_bytes=self.answer if training else 0,
            seam=self.seam,
        )

    @property
    def answer(self) -> int:
        """Bytes a session keeps for an answer with an activation; an exit's answers go with it."""
        numbers = 4 if self.seam else 2
        values = self.batch * math.prod(self.shapes[self.seam or -1])
        return ANSWER + 4 + numbers * self.batch + PARCEL + 16 + values

    def least(self, *, training: bool = True) -> int:
        """The answer with all that is learned lies where a step's arrays are."""
        learned = PARCEL + 4 + self.learned if self.learned else 0
        weights = ANSWER + 8 + learned + 2 * len(self.shapes)
        return self.base(training=training) + (round16(weights) if training else 0)

    def end(self, lives: Lifetimes, arena: int) -> int:
        """Samples come in f32, behind the input or, where there is room, in front of it."""
        arena = max(arena, self.least(training=lives.training))
        first, samples = lives.values[0], round16(4 * self.batch * math.prod(self.shapes[0]))
        behind = first.offset + first.size
        if not lives.training or self.base() + samples <= first.offset:
            return arena
        return max(arena, behind + samples)

    def busy(self, lives: Lifetimes) -> list[Buffer]:
        needs = self.needs(training=lives.training)
        most = self.scratch_bytes(training=lives.training)
        return lives.scratch(lambda i: min(most, sum(needs[i][:2])))

    def needs(self, *, training: bool) -> list[tuple[int, int, int]]:
        """For each layer the scratch in front of its sums, that of its sums, of the least piece."""
        return [self._needs(layer, training) for layer in self.layers]

    def scratch_bytes(self, *, training: bool = True) -> int:
        part = 1 if self.sums == "whole" else 2
        needs = self.needs(training=training)
        return round16(max((need[0] + need[part] for need in needs), default=0))

    def _needs(self, layer: LayerSpec, training: bool) -> tuple[int, int, int]:
        reads = [tensor for other in self.layers for tensor in other.inputs()]
        joining = any(reads.count(tensor) > 1 for tensor in layer.inputs())
        found: tuple[int, int, int] = q8_layer_scratch(
            KINDS[layer.kind], self.batch, self.shapes[layer.input], layer.output_shape,
            layer.window, layer.input, self._count(layer), self._biases(layer) > 0, joining,
            not training,
        )  # fmt: skip
        return found

    def _count(self, layer: LayerSpec) -> int:
        return layer.parameters(self.shapes[layer.input])

    def _biases(self, layer: LayerSpec) -> int:
        return layer.output_shape[2] if layer.kind in WEIGHTED and layer.has_bias else 0

    def learned_offsets(self) -> Iterator[int]:
        """Of each layer's weights in what is learned, bytes."""
        at = 0
        for layer in self.layers:
            yield at
            at += self.learned_bytes(layer)


def size_up_q8(
    layers: Sequence[LayerSpec],
    input_shape: Shape,
    batch: int,
    *,
    momentum: Momentum = "int8",
    sums: Sums = "whole",
    seam: int = 0,
) -> Q8Sizes:
    """The layers of an int8 front (`quantised.fuse` gives them), checked. Raises PlanError."""
    for i, layer in enumerate(layers):
        if layer.kind == "group_norm":
            raise PlanError(f"layer {i} (group_norm): an int8 front has none")
        if layer.kind == "conv2d" and layer.groups != 1:
            raise PlanError(f"layer {i} (conv2d): a plan has no groups, got {layer.groups}")
    plain = size_up(layers, input_shape, batch, seam=seam)
    sizes = Q8Sizes(**vars(plain), momentum=momentum, sums=sums)
    for i, layer in enumerate(layers):
        if layer.kind in WEIGHTED:
            _check_sums(f"layer {i} ({layer.kind}) cannot train in int8", layer, sizes)
    return sizes


def _check_sums(name: str, layer: LayerSpec, sizes: Q8Sizes) -> None:
    """The sums of a layer's gradients must fit in int32."""
    height, width, channels = layer.output_shape
    outputs = sizes.batch * height * width
    readers = channels if layer.kind == "dense" else channels * layer.kernel[0] * layer.kernel[1]
    if layer.kind == "depthwise":
        readers //= sizes.shapes[layer.input][2]
    if outputs > WEIGHT_TERMS_MAX:
        raise PlanError(
            f"{name}: batch x height x width of its output may be {WEIGHT_TERMS_MAX}, it is "
            f"{outputs}; choose a smaller batch"
        )
    if layer.input > 0 and readers > INPUT_TERMS_MAX:
        raise PlanError(f"{name}: an input may be read {INPUT_TERMS_MAX} times, it is {readers}")


def build_q8_plan(
    layers: Sequence[LayerSpec],
    input_shape: Shape,
    batch: int,
    *,
    training: bool = True,
    momentum: Momentum = "int8",
    sums: Sums = "whole",
    again: Collection[int] = (),
    seam: int = 0,
) -> bytes:
    """The plan of int8 layers for up to `batch` samples of `input_shape` (h, w, c).

    training: may it learn, or only infer? sums: "pieces" takes least memory and makes the sums of
    gradients twice, with the same results. again, seam: as in `build_plan`. Raises PlanError if the
    shapes do not fit together, a limit is passed, or a sum might leave int32.
    """
    front = size_up_q8(layers, input_shape, batch, momentum=momentum, sums=sums, seam=seam)
    it = lay_out(front, again=again, training=training)
    flags = INFERENCE * (not training) + MOMENTUM_FLAGS[momentum]
    count = len(layers)
    head = (MAGIC, WIRE_VERSION, Q8, flags, count, count + 1, batch, 0, count, seam)
    answer = it.lives.answer.offset if it.lives.answer else 0
    sizes = (front.learned, it.arena_bytes, it.scratch_at, it.scratch_bytes, front.blob, answer, 0)
    try:
        header = HEADER.pack(*head, *sizes)
        records = [*tensor_records(it.lives), *layer_records(it.lives, [*front.learned_offsets()])]
        body = b"".join(records)
        plan = header[:44] + struct.pack("<I", crc32(header + body)) + body
        check_plan(plan)
    except (ValueError, struct.error) as error:
        raise PlanError(f"these layers make no plan a device accepts: {error}") from None
    return plan
