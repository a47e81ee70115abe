"""Layers of the benchmark networks on a board: their bytes, and the instructions they take.

Usage: python -m seamline.firmware_bridge.layers [BOARD ...]
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import q8
from ..runtime.networks import WEIGHTED, Network, network
from ..runtime.plan import LayerSpec, Shape
from . import image

SOURCES = [image.HERE / "layers.c", *image.KERNEL_FILES]
NETS = ("kws", "ic", "vww", "ad")
KINDS = ("conv2d", "depthwise", "average_pool", "max_pool", "add", "softmax", "requantise")
SCALES = ("x_zero", "y_zero", "y_min", "y_max")
SUMS = [f"{name}_{what}" for name in "aby" for what in ("multiplier", "shift")]
SUMS += ["a_zero", "b_zero", "y_zero", "y_min", "y_max"]


@dataclass(frozen=True)
class Layer:
    """One int8 layer with numbers in it. record: what the image reads; want: the bytes it must
    give."""

    name: str
    macs: int
    record: bytes
    want: bytes


@dataclass(frozen=True)
class Count:
    """What a board made of a layer."""

    crc: int
    instructions: int


def _record(
    kind: str,
    window: Sequence[int],
    how: dict[str, Any],
    arrays: Sequence[NDArray[Any]],
    has_bias: bool,
) -> bytes:
    """The struct `record` of layers.c, and the arrays behind it."""
    scales = how["multiplier"].size if "multiplier" in how else 0
    head = [KINDS.index(kind), *window, how.get("groups", 1), *(how.get(n, 0) for n in SCALES)]
    head += [scales, int(has_bias), *(how.get(n, 0) for n in SUMS), 0]
    body = b"".join(a.tobytes() + bytes(-a.nbytes % 16) for a in arrays)
    size = 4 * (len(head) + 1) + len(body)
    return np.array([size, *head], np.int32).tobytes() + body


def _window(spec: LayerSpec, shape: Shape) -> list[int]:
    """The fields of seam_window."""
    if spec.kind in ("dense", "softmax"):
        shape = (1, 1, math.prod(shape))
    (top, bottom), (left, right) = spec.padding
    dims = [1, *shape, *spec.output_shape, *spec.kernel, *spec.stride, *spec.dilation]
    return [*dims, top, bottom, left, right]


def _layer(name: str, spec: LayerSpec, shape: Shape, relu: bool) -> Layer:
    """With seeded random numbers of the usual size. relu: clamped from the zero point up."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    x = random.integers(-128, 128, (1, *shape)).astype(np.int8)
    if spec.kind in WEIGHTED:
        return _weighted(name, spec, x, relu, random)
    how: dict[str, Any] = {}
    arrays: list[NDArray[Any]] = [x]
    if spec.kind == "average_pool":
        how = {"y_min": -128, "y_max": 127}
        want = q8.average_pool2d(x, spec.kernel, stride=spec.stride, padding=spec.padding)
    elif spec.kind == "add":
        arrays.append(random.integers(-128, 128, x.shape).astype(np.int8))
        how = {"a_zero": 3, "b_zero": -5, "y_zero": -128, "y_min": -128, "y_max": 127}
        how |= q8.sum_scaling(0.05, 0.04, 0.06)
        want = q8.add(x, arrays[1], **how)
    elif spec.kind == "softmax":
        scaling = q8.softmax_scaling(0.1)
        want = q8.softmax(x.reshape(1, -1), **scaling)
        how = {key: np.array([value], np.int32) for key, value in scaling.items()}
        arrays += how.values()
    else:
        raise ValueError(f"{name}: no int8 layer is called {spec.kind}")
    record = _record(spec.kind, _window(spec, shape), how, arrays, False)
    return Layer(name, 0, record, want.tobytes())


def _weighted(
    name: str, spec: LayerSpec, x: NDArray[np.int8], relu: bool, random: np.random.Generator
) -> Layer:
    channels, shape = spec.output_shape[2], (x.shape[1], x.shape[2], x.shape[3])
    size = spec.parameters(shape) - channels
    w = random.integers(-127, 128, size).astype(np.int8)
    bias = random.integers(-2000, 2000, channels).astype(np.int32)
    # A scale of each channel's own, such that the results fill the range.
    scales = 2.0 ** random.uniform(-1, 0, 1 if spec.kind == "dense" else channels)
    multiplier, shift = q8.multiplier_of(scales * 60 / (74 * 73 * math.sqrt(size // channels)))
    how: dict[str, Any] = {"multiplier": multiplier, "shift": shift}
    how |= {"x_zero": -128 if relu else 4, "y_zero": -128 if relu else -3}
    how |= {"y_min": -128, "y_max": 127}
    moves: dict[str, Any] = {"stride": spec.stride, "padding": spec.padding}
    if spec.kind == "dense":
        want = q8.dense(x.reshape(1, -1), w.reshape(channels, -1), bias, **how)
    elif spec.kind == "depthwise":
        want = q8.depthwise_conv2d(x, w.reshape(1, *spec.kernel, channels), bias, **moves, **how)
    else:
        want = q8.conv2d(x, w.reshape(channels, *spec.kernel, shape[2]), bias, **moves, **how)
    kind = "conv2d" if spec.kind == "dense" else spec.kind
    record = _record(kind, _window(spec, shape), how, [x, w, bias, multiplier, shift], True)
    macs = spec.output_shape[0] * spec.output_shape[1] * size
    return Layer(name, macs, record, want.tobytes())


def layers_of(net: Network) -> list[Layer]:
    """The layers of a network as cases of one layer, its softmax included (AD has none)."""
    found = []
    for unit in net.units:
        spec, relu = net.layers[unit.first], unit.end > unit.first + 1
        found.append(_layer(unit.name, spec, net.shapes[spec.input], relu))
    if net.name != "ad":
        shape = net.shapes[-1]
        found.append(_layer("softmax", LayerSpec("softmax", len(net.layers), shape), shape, False))
    return found


def run(board: image.Board, built: Path, layers: Sequence[Layer], folder: Path) -> list[Count]:
    """The board's answers. Raises RuntimeError where the image fails."""
    path = folder / "layers.bin"
    path.write_bytes(b"".join(layer.record for layer in layers))
    said = image.run(board, built, [str(path)], options=["-icount", "shift=6"])
    lines = [line.split() for line in said.splitlines()]
    return [Count(int(crc, 16), int(count)) for crc, count in lines]


def main(names: Sequence[str]) -> None:
    """Prints a table for each board."""
    lacking = image.missing()
    if lacking:
        sys.exit(f"error: {lacking}")
    for name in names or image.BOARDS:
        board = image.BOARDS[name]
        with TemporaryDirectory() as place:
            folder = Path(place)
            built = image.build(board, SOURCES, folder)
            print(f"{name}: {board.core}, {board.variant}, {image.sizes(built)}")
            for net in NETS:
                layers = layers_of(network(net))
                counts = run(board, built, layers, folder)
                _print(net, layers, counts)


def _print(net: str, layers: Sequence[Layer], counts: Sequence[Count]) -> None:
    for layer, count in zip(layers, counts, strict=True):
        each = f"{count.instructions / layer.macs:6.2f} a MAC" if layer.macs else ""
        same = "" if count.crc == zlib.crc32(layer.want) else "  OTHER BYTES than on this machine"
        print(f"  {net:4} {layer.name:10} {count.instructions:10,} {each}{same}")
    total = sum(count.instructions for count in counts)
    macs = sum(layer.macs for layer in layers)
    print(f"  {net:4} {'all':10} {total:10,} {total / macs:6.2f} a MAC")


if __name__ == "__main__":
    main(sys.argv[1:])
