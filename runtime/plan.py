"""Plans: from layer specifications to the bytes a device loads; every array gets its place."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

from ..kernels import WIRE_VERSION
from ..kernels.front import check_plan, layer_scratch
from .arena import Buffer, bound, place, round16
from .errors import UserError
from .lifetimes import Lifetimes

Shape = tuple[int, int, int]  # h, w, c
Pair = tuple[int, int]

KINDS = {
    "conv2d": 1,
    "depthwise": 2,
    "dense": 3,
    "relu": 4,
    "max_pool": 5,
    "average_pool": 6,
    "add": 7,
    "group_norm": 8,
    "flatten": 9,
}
NAMES = {number: name for name, number in KINDS.items()}

AGAIN = 1  # flag of a layer
MAGIC = 0x4E504C53
NONE = 0xFFFFFFFF
BATCH_MAX = 4096
HEADER = struct.Struct("<IHBBHHHHHHIIIIIII")
TENSOR = struct.Struct("<HHHHIII")
LAYER = struct.Struct("<BBHHH10BHIIIfB11x")


class PlanError(UserError):
    """The layers cannot be made into a plan."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 5)


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a front. Tensor 0 is the plan's input, tensor i the output of layer i - 1.

    padding: ((top, bottom), (left, right)). groups: of group norm. ceiling: of relu (6 is ReLU6).
    """

    kind: str
    input: int
    output_shape: Shape
    second_input: int | None = None
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    groups: int = 1
    has_bias: bool = True
    ceiling: float = math.inf
    epsilon: float = 1e-5

    @property
    def window(self) -> tuple[int, ...]:
        return (*self.kernel, *self.stride, *self.dilation, *self.padding[0], *self.padding[1])

    def inputs(self) -> tuple[int, ...]:
        return (self.input,) if self.second_input is None else (self.input, self.second_input)

    def parameters(self, in_shape: Shape) -> int:
        """Floats of weights and bias, or gamma and beta."""
        taps = self.kernel[0] * self.kernel[1]
        channels = self.output_shape[2]
        bias = channels if self.has_bias else 0
        if self.kind == "conv2d":
            return taps * in_shape[2] * channels + bias
        if self.kind == "depthwise":
            return taps * channels + bias
        if self.kind == "dense":
            return math.prod(in_shape) * channels + bias
        return 2 * channels if self.kind == "group_norm" else 0

    def multiply_adds(self, in_shape: Shape) -> int:
        """Of a weighted layer's forward pass over one sample; taps in the padding count."""
        if self.kind not in ("conv2d", "depthwise", "dense"):
            return 0
        height, width, channels = self.output_shape
        bias = channels if self.has_bias else 0
        return height * width * (self.parameters(in_shape) - bias)


@dataclass(frozen=True)
class Plan:
    """What a plan says, for people and for checks before a job.

    learned_bytes: of what a front learns; blob_bytes: of all an int8 front is sent. seam: layers
    in front of an exit; 0: there is none.
    """

    kinds: list[str]
    shapes: list[Shape]  # of the tensors, 0 is the input
    batch: int
    parameters: int
    arena_bytes: int
    scratch_bytes: int
    learned_bytes: int
    blob_bytes: int
    seam: int = 0

    def sections(self) -> dict[str, int]:
        """Bytes of RAM by section of a front in f32; they add up to the arena."""
        array = round16(self.learned_bytes)
        return {
            "parameters": array,
            "momentum": array,
            "gradients": array,
            "scratch": self.scratch_bytes,
            "activations": self.arena_bytes - 3 * array - self.scratch_bytes,
        }


def _slid(size: int, layer: LayerSpec, axis: int) -> int:
    """Places a window takes along an axis of `size`: 0 is height, 1 is width."""
    reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1
    return (size + sum(layer.padding[axis]) - reach) // max(layer.stride[axis], 1) + 1


def _made_shape(layer: LayerSpec, made: Shape) -> Shape:
    """What the layer makes of its input of shape `made`, with the channels it is said to have."""
    if layer.kind == "dense":
        return (1, 1, layer.output_shape[2])
    if layer.kind == "flatten":
        return (1, 1, math.prod(made))
    if layer.kind in ("relu", "add", "group_norm"):
        return made
    channels = made[2] if layer.kind.endswith("_pool") else layer.output_shape[2]
    return (_slid(made[0], layer, 0), _slid(made[1], layer, 1), channels)


def _check_shapes(layer: LayerSpec, shapes: list[Shape], index: int) -> None:
    name, source = f"layer {index} ({layer.kind})", shapes[layer.input]
    made = _made_shape(layer, source)
    if layer.output_shape != made:
        raise PlanError(
            f"{name}: the shapes do not fit: of {source} it makes {made}, not {layer.output_shape}"
        )
    if layer.kind == "add":
        second = None if layer.second_input is None else shapes[layer.second_input]
        if second != source:
            raise PlanError(
                f"{name}: the shapes do not fit: it adds two tensors of one shape, not "
                f"{source} and {second}"
            )
    if layer.kind == "group_norm" and (layer.groups < 1 or source[2] % layer.groups):
        raise PlanError(f"{name}: {layer.groups} groups do not divide {source[2]} channels")
    if layer.kind == "depthwise" and made[2] % source[2]:
        raise PlanError(
            f"{name}: expected a multiple of {source[2]} channels, got {layer.output_shape[2]}"
        )


def _check_readers(layers: Sequence[LayerSpec]) -> None:
    """No gradient ever comes to what nothing reads."""
    read = {tensor for layer in layers for tensor in layer.inputs()}
    for i, layer in enumerate(layers[:-1]):
        if i + 1 not in read:
            raise PlanError(f"layer {i} ({layer.kind}): nothing reads what it makes; leave it out")


def _check_sizes(name: str, shape: Shape) -> None:
    if len(shape) != 3 or not all(1 <= size <= 65535 for size in shape):
        raise PlanError(f"{name}: expected (h, w, c), each 1 to 65535, got {shape}")


def _in_shape(layer: LayerSpec, shapes: list[Shape], index: int) -> Shape:
    if layer.kind not in KINDS:
        raise PlanError(f"layer {index}: expected one of {', '.join(KINDS)}, got {layer.kind!r}")
    if any(not 0 <= t <= index for t in layer.inputs()):
        raise PlanError(f"layer {index} ({layer.kind}) reads a tensor that is not made before it")
    if max(layer.window) > 255 or min(layer.window) < 0 or min(layer.window[:6]) < 1:
        raise PlanError(
            f"layer {index} ({layer.kind}): kernel, stride, dilation are 1 to 255, padding 0 to 255"
        )
    _check_sizes(f"layer {index} ({layer.kind})", layer.output_shape)
    _check_shapes(layer, shapes, index)
    return shapes[layer.input]


def _scratch(layer: LayerSpec, in_shape: Shape, batch: int) -> int:
    kind, made = KINDS[layer.kind], layer.output_shape
    return layer_scratch(kind, batch, in_shape, made, layer.window, layer.input)


@dataclass(frozen=True)
class Front:
    """Layers that fit together: what can be said before anything has a place."""

    layers: Sequence[LayerSpec]
    shapes: list[Shape]  # of the tensors, 0 is the input
    batch: int
    offsets: list[int]  # of each layer's parameters
    parameters: int
    scratch: list[int]  # bytes by layer
    seam: int = 0  # layers, and the tensor, in front of an exit; 0: there is none

    def base(self, *, training: bool = True) -> int:
        """Bytes in front of everything that is placed: parameters, momentum, gradients."""
        return (3 if training else 1) * round16(4 * self.parameters)

    def lives(self, *, again: Collection[int] = (), training: bool = True) -> Lifetimes:
        """When its arrays live. again: layers made a second time."""
        return Lifetimes(
            self.layers, self.shapes, self.batch, training=training, again=again, seam=self.seam
        )

    def busy(self, lives: Lifetimes) -> list[Buffer]:
        """The scratch of each step."""
        return lives.scratch(self.scratch.__getitem__)

    def bound(self, *, again: Collection[int] = (), training: bool = True) -> int:
        """Bytes below which no placement gets."""
        lives = self.lives(again=again, training=training)
        least = bound(lives.buffers(), self.base(training=training), self.busy(lives))
        return max(least, self.least(training=training))

    def least(self, *, training: bool = True) -> int:
        """Bytes of the arena that are wanted outside of a step."""
        return self.base(training=training)

    def end(self, lives: Lifetimes, arena: int) -> int:
        """Where an arena ends in which everything has its place; `arena`: where a step's arrays
        do.
        """
        return max(arena, self.least(training=lives.training))


@dataclass(frozen=True)
class Layout:
    """A front in its arena: what a plan is written from, and what it is judged by."""

    front: Front
    lives: Lifetimes
    arena_bytes: int
    scratch_at: int
    scratch_bytes: int
    bound: int  # no placement of these lives has a smaller arena


def _check_seam(layers: Sequence[LayerSpec], seam: int) -> None:
    if not 0 <= seam < max(len(layers), 1):
        raise PlanError(f"seam: expected 0 to {len(layers) - 1} layers before an exit, got {seam}")
    for i, layer in enumerate(layers[seam:] if seam else (), seam):
        if min(layer.inputs()) < seam:
            raise PlanError(
                f"layer {i} ({layer.kind}) of the exit reads tensor {min(layer.inputs())}: only "
                f"tensor {seam} crosses the seam"
            )


def size_up(layers: Sequence[LayerSpec], input_shape: Shape, batch: int, *, seam: int = 0) -> Front:
    """The layers, checked. seam: see `build_plan`. Raises PlanError if the shapes do not fit
    together or a limit is passed.
    """
    _check_seam(layers, seam)
    _check_sizes("the input", input_shape)
    if not 1 <= batch <= BATCH_MAX:
        raise PlanError(f"batch: 1 to {BATCH_MAX} samples are allowed, got {batch}")
    shapes = [input_shape]
    parameters = 0
    offsets, scratch = [], []
    for i, layer in enumerate(layers):
        in_shape = _in_shape(layer, shapes, i)
        shapes.append(layer.output_shape)
        offsets.append(parameters)
        parameters += layer.parameters(in_shape)
        scratch.append(_scratch(layer, in_shape, batch))
    _check_readers(layers)
    return Front(layers, shapes, batch, offsets, parameters, scratch, seam)


def lay_out(front: Front, *, again: Collection[int] = (), training: bool = True) -> Layout:
    """Every array of a front in its place. again: see `build_plan`. training: is room wanted for a
    backward pass, momentum and gradients?
    """
    if not set(again) <= set(range(len(front.layers) - 1)):
        raise PlanError(
            f"again: expected layers 0 to {len(front.layers) - 2} (the last one's output is at "
            f"hand), got {sorted(again)}"
        )
    if front.seam and front.seam - 1 in again:
        raise PlanError(f"again: layer {front.seam - 1} makes what crosses the seam: it is kept")
    at = front.base(training=training)
    lives = front.lives(again=again, training=training)
    buffers, busy = lives.buffers(), front.busy(lives)
    arena = place(buffers, at, busy)
    scratch = max((b.size for b in busy), default=0)
    least = max(bound(buffers, at, busy), front.least(training=training))
    return Layout(front, lives, front.end(lives, max(arena, at + scratch)), at, scratch, least)


def build_plan(
    layers: Sequence[LayerSpec],
    input_shape: Shape,
    batch: int,
    *,
    again: Collection[int] = (),
    seam: int = 0,
) -> bytes:
    """The plan of these layers for up to `batch` samples of `input_shape` (h, w, c).

    seam: how many of the layers are the front, the others being the exit behind it (BranchyNet,
    arXiv:1709.01686); 0: all. again: layers that are made a second time instead of kept for the
    backward pass (`recompute.choose` finds them). Raises PlanError if the shapes do not fit
    together or a limit is passed.
    """
    it = lay_out(size_up(layers, input_shape, batch, seam=seam), again=again)
    head = (MAGIC, WIRE_VERSION, 0, 0, len(layers), len(layers) + 1, batch, 0, len(layers), seam)
    sizes = (it.front.parameters, it.arena_bytes, it.scratch_at, it.scratch_bytes, 0, 0, 0)
    try:
        header = HEADER.pack(*head, *sizes)
        body = b"".join([*tensor_records(it.lives), *layer_records(it.lives, it.front.offsets)])
        plan = header[:44] + struct.pack("<I", crc32(header + body)) + body
        check_plan(plan)
    except (ValueError, struct.error) as error:
        raise PlanError(f"these layers make no plan a device accepts: {error}") from None
    return plan


def tensor_records(lives: Lifetimes) -> Iterable[bytes]:
    """The tensors of a plan as bytes."""
    for shape, value, gradient in zip(lives.shapes, lives.values, lives.gradients, strict=True):
        at = NONE if gradient is None else gradient.offset
        yield TENSOR.pack(*shape, 0, value.offset, at, math.prod(shape))


def layer_records(lives: Lifetimes, offsets: list[int]) -> Iterable[bytes]:
    """The layers of a plan as bytes. offsets: of each one's parameters."""
    for i, layer in enumerate(lives.layers):
        second = 0xFFFF if layer.second_input is None else layer.second_input
        count = layer.parameters(lives.shapes[layer.input])
        saved = lives.saved[i].offset if i in lives.saved else 0
        constant = layer.ceiling if layer.kind == "relu" else layer.epsilon
        has_bias = layer.has_bias and layer.kind in ("conv2d", "depthwise", "dense")
        yield LAYER.pack(
            KINDS[layer.kind], AGAIN * (i in lives.again), layer.input, second, i + 1,
            *layer.window, layer.groups, offsets[i], count, saved, constant, has_bias,
        )  # fmt: skip


def read_plan(data: bytes) -> Plan:
    """What the plan says. Raises SeamError if it is damaged."""
    check_plan(data)
    head = HEADER.unpack_from(data)
    layers, tensors, batch = head[4:7]
    shapes = [TENSOR.unpack_from(data, HEADER.size + TENSOR.size * t)[:3] for t in range(tensors)]
    start = HEADER.size + TENSOR.size * tensors
    rows = [LAYER.unpack_from(data, start + LAYER.size * i) for i in range(layers)]
    kinds = [NAMES[row[0]] for row in rows]
    parameters, in_q8 = sum(row[17] for row in rows), head[2] == 1
    learned = head[10] if in_q8 else 4 * parameters
    blob = head[14] if in_q8 else learned
    return Plan(kinds, shapes, batch, parameters, head[11], head[13], learned, blob, head[9])
