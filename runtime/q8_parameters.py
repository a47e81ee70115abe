"""The parameters of an int8 front as bytes: what a device learns, and the integers around it.

Learned part: for each layer with weights, in order, int8 weights (padded to 4 bytes with zeros) and
int32 biases. Fixed part: for each tensor f32 scale, i32 zero point; then for each layer i8 y min,
i8 y max, u16 zero; with weights f32 1 / input scale^2, then i32 multipliers, i32 shifts, f32 steps
and u16 ratios (padded to 4 bytes) of its channels; a sum: six i32 (multiplier and shift of a, b, y)
and two f32, the scale of a and of b over that of y. SPEC.md has it in words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .calibration import WEIGHTED, weight_shape
from .plan import LayerSpec, Shape
from .quantised import Ints, Q, QuantisedFront, QuantisedLayer

F32 = NDArray[np.float32]
Ratios = NDArray[np.uint16]
Learned = list[tuple[Q, Ints | None]]  # weights and bias of each layer that has weights, in order

FULL = 32768  # a ratio of 1
SUM_INTEGERS = ("a_multiplier", "a_shift", "b_multiplier", "b_shift", "y_multiplier", "y_shift")


@dataclass(frozen=True)
class Backward:
    """What training needs of a layer beside its forward integers.

    steps: f32 [o], input scale / (output scale * weight scale); per_input: 1 / input scale^2;
    ratios: u16 [o], multiplier of a channel over the largest one, times 32768; share: (scale of a,
    scale of b) over that of y, of a sum.
    """

    steps: F32
    per_input: float
    ratios: Ratios
    share: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Q8Parameters:
    """A front and what trains it; backward: by layer, None where there is nothing to know."""

    front: QuantisedFront
    backward: list[Backward | None]


# ---- on the edge host ----


def blob_of(front: QuantisedFront) -> bytes:
    """All parameters of a front made by `quantise`."""
    parts = [learned_bytes(front)]
    parts += [struct.pack("<fi", front.scale(t), front.zero(t)) for t in range(len(front.scales))]
    for made, layer in enumerate(front.layers, 1):
        parts.append(struct.pack("<bbH", layer.y_min, layer.y_max, 0))
        back = backward_of(front, layer, made)
        if layer.multiplier is not None and layer.shift is not None and back is not None:
            parts += [struct.pack("<f", back.per_input), layer.multiplier.astype("<i4").tobytes()]
            parts += [layer.shift.astype("<i4").tobytes(), back.steps.astype("<f4").tobytes()]
            parts.append(_padded(back.ratios.astype("<u2").tobytes()))
        elif layer.sum and back is not None:
            parts.append(struct.pack("<6i", *(layer.sum[name] for name in SUM_INTEGERS)))
            parts.append(struct.pack("<2f", *back.share))
    return b"".join(parts)


def backward_of(front: QuantisedFront, layer: QuantisedLayer, made: int) -> Backward | None:
    """Of the layer that makes tensor `made`, from its scales."""
    y_scale = np.float64(front.scale(made))
    if layer.sum:
        a, b = (front.scale(tensor) for tensor in layer.spec.inputs())
        nothing = np.zeros(0, np.float32), 0.0, np.zeros(0, np.uint16)
        return Backward(*nothing, (float(a / y_scale), float(b / y_scale)))
    if layer.weight_scales is None:
        return None
    x_scale, scales = np.float64(front.scale(layer.spec.input)), layer.weight_scales
    wide = scales.astype(np.float64)
    ratios = np.rint(wide / wide.max() * FULL).astype(np.uint16)
    steps = (x_scale / (y_scale * wide)).astype(np.float32)
    return Backward(steps, float(np.float32(1 / x_scale**2)), ratios)


def learned_bytes(front: QuantisedFront) -> bytes:
    """The learned part."""
    parts = []
    for layer in front.layers:
        if layer.weights is not None:
            parts.append(_padded(layer.weights.tobytes()))
            parts.append(b"" if layer.bias is None else layer.bias.astype("<i4").tobytes())
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# ---- reading ----


class _Reader:
    """Takes arrays one after the other. Raises ValueError where the bytes end too soon."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, kind: str, count: int) -> NDArray[np.generic]:
        size = np.dtype(kind).itemsize * count
        if self.at + size > len(self.data):
            raise ValueError(f"parameters: expected more than {len(self.data)} bytes")
        found = np.frombuffer(self.data, kind, count, self.at)
        self.at += size + -size % 4
        return found

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"parameters: expected {self.at} bytes, got {len(self.data)}")


def read_learned(front: QuantisedFront, data: bytes) -> Learned:
    """The learned part that belongs to `front`. Raises ValueError for other bytes."""
    reader = _Reader(data)
    found = _take_learned(reader, [layer.spec for layer in front.layers], front.shapes)
    reader.end()
    return found


def _take_learned(reader: _Reader, specs: Sequence[LayerSpec], shapes: list[Shape]) -> Learned:
    found: Learned = []
    for spec in specs:
        if spec.kind not in WEIGHTED:
            continue
        shape = weight_shape(spec, shapes[spec.input])
        weights = reader.take("i1", int(np.prod(shape))).reshape(shape).astype(np.int8)
        if (weights == -128).any():
            raise ValueError("parameters: expected weights of -127 to 127, got -128")
        bias = None
        if spec.has_bias:
            bias = reader.take("<i4", spec.output_shape[2]).astype(np.int32)
        found.append((weights, bias))
    return found


def read_blob(specs: Sequence[LayerSpec], input_shape: Shape, data: bytes) -> Q8Parameters:
    """What `blob_of` wrote, on a device that knows the int8 layers from its plan.

    Raises ValueError for bytes that do not fit them or hold impossible numbers.
    """
    reader = _Reader(data)
    shapes = [input_shape, *(spec.output_shape for spec in specs)]
    learned = iter(_take_learned(reader, specs, shapes))
    scales, zeros = np.zeros(len(shapes), np.float32), np.zeros(len(shapes), np.int32)
    for t in range(len(shapes)):
        scales[t], zeros[t] = reader.take("<f4", 1)[0], reader.take("<i4", 1)[0]
    if not ((scales >= np.finfo(np.float32).tiny) & np.isfinite(scales)).all():
        raise ValueError("parameters: expected normal scales")
    if not ((zeros >= -128) & (zeros <= 127)).all():
        raise ValueError("parameters: expected zero points of int8")
    layers, backward = [], []
    for spec in specs:
        y_min, y_max = (int(y) for y in reader.take("i1", 2))
        if y_min > y_max:
            raise ValueError(f"parameters: y from {y_min} to {y_max}")
        layer = QuantisedLayer(spec, None, y_min, y_max)
        back = None
        if spec.kind in WEIGHTED:
            weights, bias = next(learned)
            layer, back = _take_channels(reader, layer, weights, bias)
        elif spec.kind == "add":
            integers = [int(i) for i in reader.take("<i4", 6)]
            layer = QuantisedLayer(
                spec, None, y_min, y_max, sum=dict(zip(SUM_INTEGERS, integers, strict=True))
            )
            a, b = (float(share) for share in reader.take("<f4", 2))
            back = Backward(np.zeros(0, np.float32), 0.0, np.zeros(0, np.uint16), (a, b))
        layers.append(layer)
        backward.append(back)
    reader.end()
    stands_for = list(range(len(shapes)))
    return Q8Parameters(QuantisedFront(input_shape, layers, scales, zeros, stands_for), backward)


def _take_channels(
    reader: _Reader, layer: QuantisedLayer, weights: Q, bias: Ints | None
) -> tuple[QuantisedLayer, Backward]:
    channels = layer.spec.output_shape[2]
    per_input = float(reader.take("<f4", 1)[0])
    multiplier = reader.take("<i4", channels).astype(np.int32)
    shift = reader.take("<i4", channels).astype(np.int32)
    steps = reader.take("<f4", channels).astype(np.float32)
    ratios = reader.take("<u2", channels).astype(np.uint16)
    if not (np.isfinite(steps).all() and (steps >= 0).all() and ratios.max() <= FULL):
        raise ValueError("parameters: expected finite steps from 0 and ratios up to 32768")
    if not (multiplier >= 0).all() or not ((shift >= -31) & (shift <= 30)).all():
        raise ValueError("parameters: expected multipliers from 0 and shifts of -31 to 30")
    made = QuantisedLayer(
        layer.spec, None, layer.y_min, layer.y_max, weights, bias, None, multiplier, shift
    )
    return made, Backward(steps, per_input, ratios)
