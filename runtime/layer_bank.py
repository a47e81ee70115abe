"""Some hundred layers of all kinds and sizes, timed on a device: what a predictor learns from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..kernels.bench import interleave
from .layer_time import works_of
from .networks import same
from .plan import LayerSpec, Pair, Shape
from .profile import Features, Times, Unit

BATCHES = (16, 16, 4)
SQUARE, FLAT = [(3, 3)] * 5 + [(5, 5), (3, 1)], [(1, 3), (1, 5), (10, 4)]
MOST_MACS, MOST_VALUES = 3_000_000, 80_000  # of a sample
INNER = 0.85  # share of layers that are not a network's first
RELU = 0.7  # share of layers with an activation
# How many of each kind for 1 that is asked for.
KINDS = {
    "pointwise": 1.0,
    "conv2d": 1.0,
    "narrow": 0.4,  # convolutions of few input channels, as a network begins with
    "depthwise": 0.8,
    "dense": 1.0,
    "average_pool": 0.3,
    "max_pool": 0.2,
    "add": 0.3,
    "group_norm": 0.3,
}
USUAL = 150  # of a kind
TURNS = 2


@dataclass(frozen=True)
class Sample:
    """A unit, timed alone. device: seconds, with a training batch of `batch`."""

    unit: Unit
    batch: int
    device: Times


@dataclass(frozen=True)
class Drawn:
    """A chain of layers to be timed as one. inner: it is not a network's first."""

    layers: list[LayerSpec]
    shape: Shape
    batch: int
    inner: bool


def make_bank(count: int, seed: int = 0) -> list[Drawn]:
    """About 6 x `count` layers in any order; the same ones for the same seed."""
    draw = random.Random(seed)
    wanted = [kind for kind, share in KINDS.items() for _ in range(math.ceil(share * count))]
    draw.shuffle(wanted)
    found = []
    for kind in wanted:
        layers, shape = next(drawn(kind, draw))
        found.append(Drawn(layers, shape, draw.choice(BATCHES), draw.random() < INNER))
    return found


def time_bank(
    bank: Sequence[Drawn], repeat: int, progress: Callable[[str], None] = lambda text: None
) -> list[Sample]:
    """Times all on this machine's kernels, one thread, twice around: the lesser counts, so that
    a busy minute spoils none. 20 s for 900 layers on a desktop's core."""
    least: list[list[float]] = [[math.inf] * 3 for _ in bank]
    for turn in range(TURNS):
        for index, it in enumerate(bank):
            progress(f"layer {index + 1} of {len(bank)}, {turn + 1} of {TURNS} times")
            works = works_of(it.layers, it.shape, it.batch, inner=it.inner)
            times = interleave(works, repeat)
            found = [times[name].us / 1e6 for name in ("infer", "forward", "backward")]
            least[index] = list(map(min, least[index], found))
    samples = []
    for it, seconds in zip(bank, least, strict=True):
        times_of = Times(*seconds)
        unit = unit_of(it.layers, it.shape, times_of, inner=it.inner)
        samples.append(Sample(unit, it.batch, times_of))
    return samples


def unit_of(layers: list[LayerSpec], shape: Shape, times: Times, *, inner: bool) -> Unit:
    """As a profile has it: the second of a network, or its first."""
    first, last = layers[0], layers[-1]
    return Unit(
        first.kind, first.kind, tuple([int(inner)] * len(first.inputs())),
        math.prod(last.output_shape), first.parameters(shape), first.multiply_adds(shape),
        times, times, Features(shape, last.output_shape, first.kernel, first.stride), len(layers),
    )  # fmt: skip


def drawn(kind: str, draw: random.Random) -> Iterator[tuple[list[LayerSpec], Shape]]:
    """Layers of a kind without end, no larger than microcontrollers run. Half of the channels are
    powers of two or one and a half of them, a third multiples of 8, as networks have them."""
    while True:
        shape = _map(draw, kind)
        layer = _layer(kind, shape, draw)
        values = max(math.prod(shape), math.prod(layer.output_shape))
        if layer.multiply_adds(shape) > MOST_MACS or values > MOST_VALUES:
            continue
        relu = not kind.endswith("_pool") and draw.random() < RELU
        yield [layer, *[LayerSpec("relu", 1, layer.output_shape)] * relu], shape


def _map(draw: random.Random, kind: str) -> Shape:
    if kind == "dense":
        side = draw.choice((1, 1, 1, 2, 3, 4))
        return side, side, _channels(draw, 4, 800)
    h = round(math.exp(draw.uniform(0, math.log(96))))
    w = draw.choice((h, h, h, 1, max(1, h // 5), 2 * h))
    if kind == "narrow":
        return draw.choice((h, 1)), draw.choice((h, h, 49, 100)), draw.choice((1, 2, 3, 3, 6))
    most = {"conv2d": 96, "add": 128, "group_norm": 128}.get(kind, 256)
    return h, w, _channels(draw, 3 if kind == "pointwise" else 4, most)


def _channels(draw: random.Random, low: int, high: int) -> int:
    while True:
        wish, luck = math.exp(draw.uniform(math.log(low), math.log(high + 1))), draw.random()
        if luck < 0.55:
            wish = 2 ** round(math.log2(wish)) * draw.choice((1, 1, 1, 1.5))
        elif luck < 0.85:
            wish = round(wish / 8) * 8
        if low <= round(wish) <= high:
            return round(wish)


def _layer(kind: str, shape: Shape, draw: random.Random) -> LayerSpec:
    h, w, channels = shape
    if kind == "dense":
        return LayerSpec("dense", 0, (1, 1, _channels(draw, 2, 800)))
    if kind == "add":
        return LayerSpec("add", 0, shape, second_input=0)
    if kind == "group_norm":
        return LayerSpec("group_norm", 0, shape, groups=math.gcd(channels, 4))
    if kind.endswith("_pool"):
        size = tuple(min(side, draw.choice((2, 3, side))) for side in (h, w))
        kernel: Pair = (size[0], size[1])
        stride = kernel if draw.random() < RELU else (1, 1)
        out = ((h - kernel[0]) // stride[0] + 1, (w - kernel[1]) // stride[1] + 1, channels)
        return LayerSpec(kind, 0, out, kernel=kernel, stride=stride)
    flat = [] if kind == "depthwise" else FLAT
    kernel = (1, 1) if kind == "pointwise" else draw.choice(SQUARE + flat)
    step = draw.choice((1, 1, 2))
    stride = (1 if kernel[0] == 1 < kernel[1] else step, step)
    pads = (same(h, kernel[0], stride[0]), same(w, kernel[1], stride[1]))
    made = channels if kind == "depthwise" else _channels(draw, 4, 256 if kernel == (1, 1) else 96)
    sides = [(shape[i] + sum(pads[i]) - kernel[i]) // stride[i] + 1 for i in range(2)]
    name = "depthwise" if kind == "depthwise" else "conv2d"
    return LayerSpec(
        name, 0, (sides[0], sides[1], made), kernel=kernel, stride=stride, padding=pads
    )
