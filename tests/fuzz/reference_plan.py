"""Plans as SPEC.md defines them: the peer of kernels/core/plan.c. It says why it refuses one.

An f32 plan is judged whole. Of an int8 one, what it shares with f32: bytes, tables, shapes and
indices; sums, state and places of its own are left to C. Scratch bytes are the kernels' own and
come from them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

from seamline.kernels.front import layer_scratch

HEADER = struct.Struct("<IHBBHHHHHHIIIIIII")
TENSOR = struct.Struct("<HHHHIII")
LAYER = struct.Struct("<BBHHH10BHIIIfB11s")
MAGIC, VERSION, F32, Q8 = 0x4E504C53, 1, 0, 1
NONE = 0xFFFFFFFF
LAYERS_MAX, BATCH_MAX, VALUES_MAX, ARRAY_MAX = 256, 4096, 4 << 20, 1 << 28
CONV, DEPTHWISE, DENSE, RELU, MAX_POOL, AVERAGE_POOL, ADD, GROUP_NORM, FLATTEN = range(1, 10)
WINDOWS = (CONV, DEPTHWISE, MAX_POOL, AVERAGE_POOL)
SAME_SHAPE = (RELU, ADD, GROUP_NORM)
IN_PLACE = (RELU, ADD, FLATTEN)

Place = tuple[int, int]  # [start, end)


class Refused(Exception):
    """Not a plan, and why."""


def need(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


@dataclass(frozen=True)
class Tensor:
    h: int
    w: int
    c: int
    zero: int
    value: int
    gradient: int
    values: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.h, self.w, self.c


@dataclass(frozen=True)
class Layer:
    kind: int
    flags: int
    input: int
    second: int
    output: int
    window: tuple[int, ...]  # kernel, stride, dilation (h, w each), pad top, bottom, left, right
    groups: int
    at: int
    count: int
    saved: int
    constant: float
    has_bias: int
    zeros: bytes

    def inputs(self) -> tuple[int, ...]:
        return (self.input, self.second) if self.kind == ADD else (self.input,)


@dataclass(frozen=True)
class Plan:
    dtype: int
    flags: int
    batch: int
    seam: int  # layers in front of an exit; 0: there is none
    parameters: int
    arena: int
    scratch_at: int
    scratch: int
    blob: int
    answer: int
    tensors: list[Tensor]
    layers: list[Layer]

    @property
    def only_infers(self) -> bool:
        return self.dtype == Q8 and self.flags & 1 == 1


def parse(data: bytes) -> Plan:
    """Every byte in a field. Raises Refused where the bytes are not a header and its tables."""
    need(len(data) >= HEADER.size, "short")
    head = HEADER.unpack_from(data)
    magic, version, dtype, flags, layers, tensors, batch, given, made, seam = head[:10]
    need((magic, version) == (MAGIC, VERSION) and dtype in (F32, Q8), "another format")
    need(1 <= layers <= LAYERS_MAX and tensors == layers + 1, "counts")
    need(len(data) == HEADER.size + tensors * TENSOR.size + layers * LAYER.size, "length")
    need(crc32(data[:44] + bytes(4) + data[48:]) == head[16], "crc")
    need((given, made) == (0, layers) and seam < layers, "input, output, exit")
    rows = HEADER.size + tensors * TENSOR.size
    all_tensors = [Tensor(*one) for one in TENSOR.iter_unpack(data[HEADER.size : rows])]
    all_layers = [_layer(one) for one in LAYER.iter_unpack(data[rows:])]
    return Plan(dtype, flags, batch, seam, *head[10:16], all_tensors, all_layers)


def _layer(row: tuple) -> Layer:
    return Layer(*row[:5], row[5:15], *row[15:])


def check(data: bytes) -> Plan:
    """The plan. Raises Refused."""
    plan = parse(data)
    need(1 <= plan.batch <= BATCH_MAX and plan.parameters <= VALUES_MAX, "limits")
    _check_header(plan)
    for index, tensor in enumerate(plan.tensors):
        _check_tensor(plan, tensor, index)
    for index, layer in enumerate(plan.layers):
        _check_layer(plan, layer, index)
    read = {tensor for layer in plan.layers for tensor in layer.inputs()}
    need(read >= set(range(len(plan.layers))), "a tensor without a reader")
    if plan.seam:
        _check_exit(plan)
    return plan


def _check_exit(plan: Plan) -> None:
    """It reads only what crosses the seam, and its parameters lie behind the front's."""
    front, behind = plan.layers[: plan.seam], plan.layers[plan.seam :]
    need(front[-1].flags == 0, "what crosses the seam is made again")
    need(all(min(layer.inputs()) >= plan.seam for layer in behind), "an exit reads the front")
    end = max((layer.at + layer.count for layer in front if layer.count), default=0)
    need(all(layer.at >= end for layer in behind if layer.count), "parameters of an exit")


def _check_header(plan: Plan) -> None:
    if plan.dtype == F32:
        need((plan.flags, plan.blob, plan.answer) == (0, 0, 0), "fields of q8")
        need(_in_arena(plan, plan.scratch_at, plan.scratch), "scratch")
    else:
        need(plan.flags < 8 and plan.flags & 6 != 6, "flags")
        need(plan.answer == 0 or not plan.only_infers, "an answer of one that only infers")


def _round16(size: int) -> int:
    return (size + 15) // 16 * 16


def _in_arena(plan: Plan, offset: int, size: int) -> bool:
    least = 3 * _round16(4 * plan.parameters) if plan.dtype == F32 else 0
    return offset % 16 == 0 and offset >= least and offset + size <= plan.arena


def _size(plan: Plan, tensor: Tensor) -> int:
    return plan.batch * tensor.values * (4 if plan.dtype == F32 else 1)


def _check_tensor(plan: Plan, tensor: Tensor, index: int) -> None:
    need(min(tensor.shape) > 0, "an empty tensor")
    values = tensor.h * tensor.w * tensor.c
    need(values == tensor.values and values * plan.batch <= VALUES_MAX, "values")
    need(tensor.zero == 0, "reserved")
    need(_in_arena(plan, tensor.value, _size(plan, tensor)), "place of values")
    none = index == 0 or plan.only_infers
    need((tensor.gradient == NONE) == none, "a gradient too many or too few")
    need(none or _in_arena(plan, tensor.gradient, _size(plan, tensor)), "place of a gradient")


def _check_layer(plan: Plan, layer: Layer, index: int) -> None:
    last = index == len(plan.layers) - 1
    need(layer.output == index + 1 and layer.input <= index, "order")
    need(layer.flags <= (0 if last else 1) and layer.zeros == bytes(11), "flags, reserved")
    need(layer.has_bias <= 1, "has bias")
    need(CONV <= layer.kind <= FLATTEN, "kind")
    need(layer.second <= index if layer.kind == ADD else layer.second == 0xFFFF, "second input")
    need(layer.count == _parameters(plan, layer), "parameters")
    need(layer.at + layer.count <= plan.parameters or plan.dtype == Q8, "place of parameters")
    if plan.dtype == Q8:
        need(layer.kind != GROUP_NORM, "group norm in int8")
        return
    if layer.kind == GROUP_NORM:
        need(_in_arena(plan, layer.saved, 8 * plan.batch * layer.groups), "place of statistics")
    _check_places(plan, layer)


def _parameters(plan: Plan, layer: Layer) -> int:
    """How many the layer has, when its shapes fit together."""
    source, made = plan.tensors[layer.input], plan.tensors[layer.output]
    taps = layer.window[0] * layer.window[1]
    bias = layer.has_bias * made.c
    if layer.kind in WINDOWS:
        _check_window(plan, layer)
    if layer.kind in SAME_SHAPE:
        need(source.shape == made.shape, "shapes")
    if layer.kind in (MAX_POOL, AVERAGE_POOL):
        need(source.c == made.c, "channels")
    if layer.kind == ADD:
        need(plan.tensors[layer.second].shape == made.shape, "shapes of a sum")
    if layer.kind in (DENSE, FLATTEN):
        need((made.h, made.w) == (1, 1), "flat")
    if layer.kind == FLATTEN:
        need(source.values == made.values, "values")
    if layer.kind == DEPTHWISE:
        need(made.c % source.c == 0, "channels")
    if layer.kind == RELU:
        need(layer.constant > 0, "ceiling")
    if layer.kind == GROUP_NORM:
        need(layer.groups > 0 and source.c % layer.groups == 0 and layer.constant >= 0, "groups")
    return {
        CONV: taps * source.c * made.c + bias,
        DEPTHWISE: taps * made.c + bias,
        DENSE: source.values * made.c + bias,
        GROUP_NORM: 2 * source.c,
    }.get(layer.kind, 0)


def _check_window(plan: Plan, layer: Layer) -> None:
    source, made = plan.tensors[layer.input], plan.tensors[layer.output]
    kernel, stride, dilation, pads = (layer.window[i : i + 2] for i in (0, 2, 4, 6))
    pads = (layer.window[6] + layer.window[7], layer.window[8] + layer.window[9])
    need(min(layer.window[:6]) > 0, "a step of nothing")
    for axis in (0, 1):
        room = source.shape[axis] + pads[axis] - ((kernel[axis] - 1) * dilation[axis] + 1)
        need(room >= 0 and made.shape[axis] == room // stride[axis] + 1, "window")
    need(kernel[0] * kernel[1] * source.c * made.c <= ARRAY_MAX, "weights")


def _check_places(plan: Plan, layer: Layer) -> None:
    """No two arrays that a layer uses at once overlap. What works in place may have all its values
    in one place, and all its gradients in one.
    """
    source, made = plan.tensors[layer.input], plan.tensors[layer.output]
    inputs = [plan.tensors[i] for i in layer.inputs()]
    both = [*inputs, made]
    scratch = layer_scratch(
        layer.kind, plan.batch, source.shape, made.shape, layer.window, layer.input
    )
    need(scratch <= plan.scratch, "scratch too small")
    own = [(plan.scratch_at, plan.scratch_at + scratch)]
    if layer.kind == GROUP_NORM:
        own.append((layer.saved, layer.saved + 8 * plan.batch * layer.groups))
    values = [(t.value, t.value + _size(plan, t)) for t in both]
    gradients = [(t.gradient, t.gradient + _size(plan, t)) for t in both if t.gradient != NONE]
    needed = []  # values that the way back reads
    if layer.kind not in (*IN_PLACE, AVERAGE_POOL):
        needed = values[:1]
    elif layer.kind == RELU:
        needed = values[-1:]
    once = set if layer.kind in IN_PLACE else list
    need(_apart([*once(values), *own]), "overlap forward")
    need(_apart([*once(gradients), *needed, *own]), "overlap backward")


def _apart(places: Iterable[Place]) -> bool:
    ordered = sorted(place for place in places if place[0] < place[1])
    return all(a[1] <= b[0] for a, b in pairwise(ordered))
