"""What the C kernels do for a unit, counted the way they walk it: what a predictor's laws weigh."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .profile import Features, ProfileError, Unit

Which = Literal["forward", "backward"]
Spans = list[tuple[int, int]]  # (how many places, taps that each has inside the map)
ALL = "all"  # a path for kinds that were never measured
TILE = 8  # pixels that a micro-kernel takes at once
SMALL_KERNEL = 3  # largest side of the depthwise kernels that have micro-kernels of their own
L1, L2 = 2**13, 2**16  # floats: weights beyond them are read from farther away


def path(unit: Unit, which: Which) -> str:
    """The way through the C kernels that a unit takes; units of one path obey one law."""
    f = _features(unit)
    if unit.kind == "depthwise" and max(f.kernel) > SMALL_KERNEL:
        return "depthwise-large"
    if unit.kind == "conv2d" and which == "backward" and _narrow(f):
        return "conv2d-narrow"
    if unit.kind == "conv2d" and f.kernel == (1, 1):
        return "pointwise"
    return unit.kind


def work(unit: Unit, batch: int, which: Which, lanes: int) -> NDArray[np.float64]:
    """Amounts of work, none negative, as many for all units of one path and pass: the common ones,
    then steps of full and of smaller tiles by blocks of 1, 2 and 3 vectors of `lanes` floats, what
    is packed, calls."""
    counts = {"conv2d": _product, "dense": _product, "depthwise": _depthwise}
    counted = counts.get(unit.kind, _plain)(unit, batch, which, lanes)
    relu = batch * unit.values * (unit.layers > 1)
    return np.array([*common_work(unit, batch), relu, *counted], np.float64)


def common_work(unit: Unit, batch: int) -> NDArray[np.float64]:
    """The same few amounts for units of any path: a call, weights, MACs, what is gathered, values
    in and out."""
    f = _features(unit)
    taken = math.prod(f.input) * len(unit.inputs)
    each = [unit.macs, unit.macs / f.output[2], taken, unit.values]
    return np.array([1.0, unit.parameters, *(batch * amount for amount in each)])


def place(unit: Unit, batch: int) -> NDArray[np.float64]:
    """Where a unit lies among others: logarithms of its sizes."""
    f = _features(unit)
    pixels_in, pixels_out = math.prod(f.input[:2]), math.prod(f.output[:2])
    sizes = [batch, pixels_in, f.input[2], pixels_out, f.output[2], math.prod(f.kernel)]
    return np.log(np.array([*sizes, f.output[1]], np.float64))


def _features(unit: Unit) -> Features:
    if unit.features is None:
        raise ProfileError(f"unit {unit.name}: the profile does not say its features: measure anew")
    return unit.features


def _inner(unit: Unit) -> bool:
    """Does somebody want the gradient of its input?"""
    return 0 not in unit.inputs


# ---- convolutions and dense layers (conv.c) ----


def _narrow(f: Features) -> bool:
    """As `is_narrow` there."""
    return f.input[2] < 8 and f.kernel[1] > 1 and f.output[1] // 4 >= f.kernel[1]


def _blocks(channels: int, lanes: int) -> list[int]:
    """Blocks of one, two and three vectors, as `block_vectors` makes them."""
    found, left = [0, 0, 0], -(-channels // lanes)
    while left:
        vectors = 2 if left == 4 else min(left, 3)
        found[vectors - 1] += 1
        left -= vectors
    return found


def _product(unit: Unit, batch: int, which: Which, lanes: int) -> list[float]:
    f = _features(unit)
    if unit.kind == "dense":  # a 1x1 convolution of one pixel
        f = Features((1, 1, math.prod(f.input)), (1, 1, f.output[2]))
    (h, w, c_in), (out_h, out_w, c_out) = f.input, f.output
    terms = math.prod(f.kernel) * c_in
    weights = float(unit.parameters)
    head = [weights * (weights > L1), weights * (weights > L2)]
    if which == "forward":
        rows = _spans(h, out_h, f.kernel[0], f.stride[0])
        cols = _spans(w, out_w, f.kernel[1], f.stride[1])
        blocks = sum(_blocks(c_out, lanes))
        padded = -(-c_out // lanes) * lanes
        packed = [padded * terms, padded * (terms % lanes)]  # rests of terms one by one
        return [*head, *packed, blocks, *_contract(batch, rows, cols, c_out, c_in, lanes)]
    found = [0.0] * 8
    if _inner(unit):
        rows = _spans_back(h, out_h, f.kernel[0], f.stride[0])
        cols = _spans_back(w, out_w, f.kernel[1], f.stride[1])
        odd = c_in % lanes > 0  # then the weights are packed first
        found = _contract(batch, rows, cols, c_in, c_out, lanes)
        found.append(odd * lanes * c_out * math.prod(f.kernel))
    return [*head, *found, *_outer(f, batch, lanes)]


def _contract(
    batch: int, rows: Spans, cols: Spans, channels: int, inner: int, lanes: int
) -> list[float]:
    """Steps of full tiles in half a vector and in blocks of 1, 2, 3 vectors; of half tiles and of
    single pixels, in vectors; calls of tiles."""
    blocks = _blocks(channels, lanes)
    vectors = sum(count * (i + 1) for i, count in enumerate(blocks))
    steps, few, calls = [0.0] * 3, [0.0, 0.0], 0.0
    for high, taps_h in rows:
        for wide, taps_w in cols:
            terms = taps_h * taps_w * inner
            full, rest = divmod(batch * high * wide, TILE)
            if rest > TILE // 2:
                full, rest = full + 1, 0
            calls += (full + (rest > 0)) * sum(blocks) * (terms > 0)
            for i, count in enumerate(blocks):
                steps[i] += count * full * terms
            few[rest == 1] += vectors * (rest > 0) * terms
    half = channels <= lanes // 2
    return [steps[0] * half, steps[0] * (not half), *steps[1:], *few, calls]


def _outer(f: Features, batch: int, lanes: int) -> list[float]:
    """Gradients of weights: steps in half a vector and in blocks of 1, 2, 3 vectors; calls; pixels
    of a vector's odd rest; weights that lie across; calls by rows."""
    c_in, c_out, taps = f.input[2], f.output[2], math.prod(f.kernel)
    swap = -(-c_out // lanes) * c_in < -(-c_in // lanes) * c_out
    vector, scalars = (c_out, c_in) if swap else (c_in, c_out)
    if _narrow(f):
        vector, scalars, taps = c_out, c_in * f.kernel[1], f.kernel[0]
    blocks, times = _blocks(vector, lanes), -(-scalars // TILE)
    pixels = batch * math.prod(f.output[:2]) * taps
    steps = [float(count * times * pixels) for count in blocks]
    half = vector <= lanes // 2
    calls = sum(blocks) * times * taps
    rest = pixels * times * (vector % lanes > 0)
    across = scalars * vector * taps * swap
    by_rows = calls * batch * f.output[0]
    return [steps[0] * half, steps[0] * (not half), *steps[1:], calls, rest, across, by_rows]


# ---- depthwise (depthwise.c) and what has no weights ----


def _depthwise(unit: Unit, batch: int, which: Which, lanes: int) -> list[float]:
    f = _features(unit)
    vectors = -(-f.output[2] // lanes)
    ahead = [_spans(f.input[i], f.output[i], f.kernel[i], f.stride[i]) for i in range(2)]
    pixels = batch * math.prod(f.output[:2])
    lines = batch * f.output[0]
    forward = [batch * vectors * _taps(ahead), pixels * vectors, lines * len(ahead[1])]
    if which == "forward":
        return [*forward, forward[2] * vectors]
    back = [_spans_back(f.input[i], f.output[i], f.kernel[i], f.stride[i]) for i in range(2)]
    wide = f.kernel[1]
    gradients = [forward[0], pixels * vectors * wide, lines * wide, lines * wide * vectors]
    wanted = [batch * vectors * _taps(back), batch * vectors * math.prod(f.input[:2])]
    wanted.append(batch * f.input[0] * len(back[1]))
    return [*gradients, *(amount * _inner(unit) for amount in wanted)]


def _plain(unit: Unit, batch: int, which: Which, lanes: int) -> list[float]:
    f = _features(unit)
    pixels = batch * math.prod(f.output[:2])
    taps, channels = pixels * math.prod(f.kernel), f.output[2]
    each = [channels, 1, -(-channels // lanes), channels % lanes]
    return [pixels, *(taps * amount for amount in each)]


# ---- places along one axis, by the taps they have inside ----


def _spans(n_in: int, n_out: int, kernel: int, stride: int) -> Spans:
    """Of outputs, padded as SAME where the sizes say so."""
    pad = max((n_out - 1) * stride + kernel - n_in, 0) // 2
    kinds: Counter[tuple[int, bool]] = Counter()
    for out in range(n_out):
        first = out * stride - pad
        kinds[max(min(first + kernel, n_in) - max(first, 0), 0), first < 0] += 1
    return [(count, taps) for (taps, _), count in kinds.items()]


def _spans_back(n_in: int, n_out: int, kernel: int, stride: int) -> Spans:
    """Of inputs: taps are the outputs that read one; apart by their phase in the stride."""
    pad = max((n_out - 1) * stride + kernel - n_in, 0) // 2
    kinds: Counter[tuple[int, int, bool]] = Counter()
    for at in range(pad, n_in + pad):
        outs = range(max(0, -(-(at - kernel + 1) // stride)), min(n_out, at // stride + 1))
        kinds[len(outs), at % stride, at - pad < kernel] += 1
    return [(count, taps) for (taps, *_), count in kinds.items()]


def _taps(spans: list[Spans]) -> int:
    """Of a whole map."""
    return math.prod(sum(count * taps for count, taps in axis) for axis in spans)
