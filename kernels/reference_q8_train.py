"""The definition of int8 training in NumPy: gradients, their rounding, and the update of weights.

A gradient is int8 with one exponent for the tensor: g 2^exponent is the gradient of the loss with
respect to the quantised value. All sums are exact; only the places named here round. Coefficients
come as float32 and are taken apart by their bits, never computed with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference import NO_PADDING, Padding, Pair, _axes, fma, random_bits
from .reference_q8 import Ints, Q, Wide, _multiply

Ratios = NDArray[np.uint16]
FULL = 32768  # a ratio of 1
MOST = 127  # of a gradient, a weight, a velocity
FRACTION = 16  # bits behind the point in an update
BIAS_FRACTION = 8  # bits behind the point in the velocity of a bias
BIAS_MOST = 1 << 30
FLOAT_MOST, FLOAT_LEAST = 2.0**30, 2.0**-60  # magnitudes of a velocity in float32
FLOAT_POWER = 252  # of two, at most: two float32 hold it as a product


# ---- numbers ----


def split(value: float) -> tuple[int, int]:
    """(mantissa, exponent) with value = mantissa 2^(exponent - 31); a normal float32 >= 0 gives a
    mantissa of 31 bits, 0 and subnormal ones (0, 0)."""
    bits = int(np.float32(value).view(np.uint32))
    exponent = (bits >> 23) & 255
    return ((bits & 0x7FFFFF | 1 << 23) << 7, exponent - 126) if exponent else (0, 0)


def shift_half_up(values: Any, bits: int) -> Wide:
    """round(values / 2^bits), ties up; negative bits shift left, more than 31 give 0."""
    wide = np.asarray(values, np.int64)
    if bits <= 0:
        return np.asarray(wide << min(-bits, 31))
    return np.asarray((wide + (1 << bits - 1)) >> bits if bits <= 31 else wide * 0)


def noise(mode: str, seed: int, stream: int, count: int) -> Wide:
    """32 bits for each index. nearest: half of the range; truncate: needs none."""
    if mode == "stochastic":
        return random_bits(seed, stream, 0, count).astype(np.int64)
    return np.full(count, 1 << 31, np.int64)


def round_off(values: Any, bits: int, mode: str, random: Wide) -> Wide:
    """values / 2^bits to a whole number; `random`: as many bits, below 2^bits."""
    wide = np.asarray(values, np.int64)
    if mode == "truncate":
        return np.asarray(np.where(wide < 0, -(-wide >> bits), wide >> bits))
    return np.asarray((wide + random) >> bits)


# ---- the gradient of a tensor ----


def mask(dy: Q, y: Q, y_min: int, y_max: int) -> Q:
    """No gradient where the clamp held y."""
    return np.asarray(np.where((y > y_min) & (y < y_max), dy, 0).astype(np.int8))


def weigh(dy: Q, ratios: Ratios, *, mode: str, seed: int, stream: int) -> Q:
    """dy times the share of the largest multiplier that each channel (the last axis) has."""
    if (ratios == FULL).all():
        return dy
    random = noise(mode, seed, stream, dy.size).reshape(dy.shape) >> 17
    return round_off(dy.astype(np.int64) * ratios, 15, mode, random).astype(np.int8)


def settle(
    sums: Any, exponent: int, *, mode: str, seed: int, stream: int, multiplier: int = 0
) -> tuple[Q, int]:
    """(g, exponent): as many of the sums' bits as int8 holds, by the magnitude of the largest.
    multiplier: the sums are multiplied by it first, and that magnitude is as well; 0: not."""
    wide = np.asarray(sums, np.int64)
    most = np.abs(wide).max(initial=0)
    if multiplier:
        wide, most = _multiply(wide, multiplier), _multiply(most, multiplier)
    bits = max(0, int(most).bit_length() - 7)
    random = noise(mode, seed, stream, wide.size).reshape(wide.shape) >> (32 - bits)
    rounded = round_off(wide, bits, mode, random) if bits else wide
    return np.clip(rounded, -MOST, MOST).astype(np.int8), exponent + bits


def join(a: Q, a_exponent: int, b: Q, b_exponent: int, **how: Any) -> tuple[Q, int]:
    """The sum of two gradients of one tensor. More than 16 bits apart the smaller one is lost."""
    if a_exponent < b_exponent:
        a, a_exponent, b, b_exponent = b, b_exponent, a, a_exponent
    apart = a_exponent - b_exponent
    up = apart if apart <= 16 else 0
    sums = (a.astype(np.int64) << up) + (b.astype(np.int64) if apart <= 16 else 0)
    return settle(sums, a_exponent - up, **how)


# ---- sums of the layers ----


def conv2d_input_sums(
    dy: Q,
    w: Q,
    size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Wide:
    """[n, *size, c]: for each input the sum of w dy over the outputs that read it."""
    each_in, each_out = w.shape[3], len(w) // groups
    shape = (len(dy), *size, each_in * groups)
    h, v = _axes(shape, w.shape[1:3], stride, padding, dilation)
    sums = np.zeros(shape, np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            for g in range(groups):
                ins = slice(g * each_in, (g + 1) * each_in)
                outs = slice(g * each_out, (g + 1) * each_out)
                tap = w[outs, i, j].astype(np.int64)
                sums[:, ih, iw, ins] += dy[:, oh, ow, outs].astype(np.int64) @ tap
    return sums


def conv2d_weight_sums(
    dy: Q,
    x: Q,
    kernel: Pair,
    *,
    x_zero: int,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Wide:
    """[o, *kernel, c / groups]: each weight's sum of dy (x - x_zero); padding adds nothing."""
    each_in, each_out = x.shape[3] // groups, dy.shape[3] // groups
    h, v = _axes(x.shape, kernel, stride, padding, dilation)
    wide = x.astype(np.int64) - x_zero
    sums = np.zeros((dy.shape[3], *kernel, each_in), np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            for g in range(groups):
                ins = slice(g * each_in, (g + 1) * each_in)
                outs = slice(g * each_out, (g + 1) * each_out)
                a = dy[:, oh, ow, outs].astype(np.int64).reshape(-1, each_out)
                sums[outs, i, j] += a.T @ wide[:, ih, iw, ins].reshape(-1, each_in)
    return sums


def depthwise_input_sums(
    dy: Q,
    w: Q,
    size: Pair,
    channels: int,
    *,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Wide:
    """[n, *size, channels]; w: [1, kernel h, kernel w, channels multiplier]."""
    shape = (len(dy), *size, channels)
    h, v = _axes(shape, w.shape[1:3], stride, padding, dilation)
    sums = np.zeros((*shape, w.shape[3] // channels), np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            part = dy[:, oh, ow].astype(np.int64) * w[0, i, j]
            sums[:, ih, iw] += part.reshape(*part.shape[:3], *sums.shape[3:])
    return np.asarray(sums.sum(axis=4))


def depthwise_weight_sums(
    dy: Q,
    x: Q,
    kernel: Pair,
    *,
    x_zero: int,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Wide:
    """[1, *kernel, o]."""
    h, v = _axes(x.shape, kernel, stride, padding, dilation)
    wide = np.repeat(x.astype(np.int64) - x_zero, dy.shape[3] // x.shape[3], axis=3)
    sums = np.zeros((1, *kernel, dy.shape[3]), np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            sums[0, i, j] = (dy[:, oh, ow].astype(np.int64) * wide[:, ih, iw]).sum(axis=(0, 1, 2))
    return sums


def bias_sums(dy: Q) -> Wide:
    """[o]: the sum of dy over samples and pixels."""
    return np.asarray(dy.astype(np.int64).reshape(-1, dy.shape[-1]).sum(axis=0))


def input_gradient(
    sums: Wide, exponent: int, multiplier: int, shift: int, **how: Any
) -> tuple[Q, int]:
    """(dx, exponent) of a layer from its input sums; multiplier, shift: the largest of the layer's
    forward multipliers."""
    return settle(sums, exponent + shift, multiplier=multiplier, **how)


def max_pool2d_sums(
    dy: Q,
    x: Q,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Wide:
    """The first of equal maxima, by rows, takes the gradient."""
    h, v = _axes(x.shape, kernel, stride, padding, dilation)
    sums = np.zeros(x.shape, np.int64)
    best, place = np.full(dy.shape, -129), np.zeros(dy.shape, np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            seen = x[:, ih, iw].astype(np.int64)
            better = seen > best[:, oh, ow]
            best[:, oh, ow] = np.where(better, seen, best[:, oh, ow])
            place[:, oh, ow] = np.where(better, i * v.kernel + j, place[:, oh, ow])
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            here = place[:, oh, ow] == i * v.kernel + j
            sums[:, ih, iw] += np.where(here, dy[:, oh, ow], 0)
    return sums


def average_pool2d_sums(
    dy: Q,
    size: Pair,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Wide:
    """[n, *size, c] in units of 2^-15 of dy's: each of n taps inside takes round(2^15 / n)."""
    shape = (len(dy), *size, dy.shape[3])
    h, v = _axes(shape, kernel, stride, padding, dilation)
    taps = np.zeros(dy.shape[1:3], np.int64)
    for i in range(h.kernel):
        for j in range(v.kernel):
            taps[h.outputs(i)[0], v.outputs(j)[0]] += 1
    shares = dy.astype(np.int64) * ((FULL + taps // 2) // np.maximum(taps, 1))[:, :, None]
    sums = np.zeros(shape, np.int64)
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            sums[:, ih, iw] += shares[:, oh, ow]
    return sums


def add_gradient(dy: Q, exponent: int, ratio: float, **how: Any) -> tuple[Q, int]:
    """(g, exponent) of one input of a residual sum; ratio: its scale over that of y."""
    mantissa, power = split(ratio)
    return settle(dy.astype(np.int64) * (mantissa >> 16), exponent + power - 15, **how)


# ---- the update ----


def _normal(mantissa: int, exponent: int) -> tuple[int, int]:
    """mantissa 2^(exponent - 31) with a mantissa of 31 bits, rounded up."""
    over = mantissa.bit_length() - 31
    if mantissa == 0:
        return 0, 0
    if over > 0:
        mantissa = (mantissa + (1 << over) - 1) >> over
        over += mantissa >> 31
        return (mantissa >> (mantissa >> 31)), exponent + over
    return mantissa << -over, exponent + over


def _product_up(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return _normal((a[0] * b[0] + (1 << 31) - 1) >> 31, a[1] + b[1])


def _sum_up(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    if a[0] == 0 or b[0] == 0:
        return a if b[0] == 0 else b
    if a[1] < b[1]:
        a, b = b, a
    apart = min(a[1] - b[1], 31)
    return _normal(a[0] + ((b[0] + (1 << apart) - 1) >> apart), a[1])


def velocity_exponent(
    dw: Any,
    exponent: int,
    steps: NDArray[np.float32],
    v: Q,
    v_exponent: int,
    w: Q,
    momentum: float,
    decay: float,
) -> int | None:
    """The least exponent with which 127 holds every velocity after this step, from bounds; None:
    nothing moves. dw, w, v: channels first, [o, terms]; steps: [o]."""
    total = (0, 0)
    for sums, step in zip(np.abs(np.asarray(dw, np.int64)), steps, strict=True):
        bound = _product_up(_normal(int(sums.max(initial=0)), 31), split(step))
        if bound[0] and (total[0] == 0 or (bound[1], bound[0]) > (total[1], total[0])):
            total = bound
    if total[0]:
        total = (total[0], total[1] + exponent)
    fastest, largest = int(np.abs(v.astype(int)).max()), int(np.abs(w.astype(int)).max())
    kept = _product_up(_normal(fastest, 31), split(momentum))
    total = _sum_up(total, (kept[0], kept[1] + v_exponent) if kept[0] else kept)
    total = _sum_up(total, _product_up(_normal(largest, 31), split(decay)))
    if total[0] == 0:
        return None
    return total[1] - 7 + (total[0] > MOST << 24)


def update(
    w: Q,
    v: Q,
    v_exponent: int,
    dw: Any,
    exponent: int,
    steps: NDArray[np.float32],
    *,
    rate: float,
    momentum: float,
    decay: float,
    mode: str,
    seed: int,
    stream: int,
    order: NDArray[np.int64] | None = None,
) -> tuple[Q, Q, int]:
    """(w, v, exponent of v) after v = momentum v + dw 2^exponent steps + decay w, w -= rate v, all
    in steps of a weight.

    w, v: int8 [o, terms]; dw: int32 sums of that shape; steps: float32 [o], a sum's gradient in
    steps of its weight; order: [o, terms], the place of each weight in memory (default: C order).
    """
    wide, most = np.asarray(dw, np.int64), int(np.abs(np.asarray(dw, np.int64)).max(initial=0))
    new = velocity_exponent(wide, exponent, steps, v, v_exponent, w, momentum, decay)
    if new is None:
        return w, v, v_exponent
    up = 31 - most.bit_length()
    velocity = np.zeros(w.shape, np.int64)
    for o, step in enumerate(steps):
        mantissa, power = split(step)
        raised = _multiply(wide[o] << up, mantissa)
        velocity[o] = shift_half_up(raised, up - (power + exponent + FRACTION - new))
    mantissa, power = split(momentum)
    keep = int(shift_half_up(mantissa, 31 - FRACTION - power))
    velocity += shift_half_up(v.astype(np.int64) * keep, new - v_exponent)
    mantissa, power = split(decay)
    pull = _multiply(w.astype(np.int64) << 23, mantissa)
    velocity += shift_half_up(pull, 23 - (power + FRACTION - new))
    random = noise(mode, seed, stream, w.size)
    random = random.reshape(w.shape) if order is None else random[order]
    mantissa, power = split(rate)
    moved = shift_half_up(_multiply(velocity << 7, mantissa), max(7 - (power + new), 0))
    change = round_off(moved, FRACTION, mode, random >> 16)
    low = random & 0xFFFF if mode == "stochastic" else random >> 16
    kept_v = round_off(velocity, FRACTION, mode, low)
    return (
        np.clip(w - change, -MOST, MOST).astype(np.int8),
        np.clip(kept_v, -MOST, MOST).astype(np.int8),
        new,
    )


def _scales(exponent: int, steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """steps 2^exponent as float32, by two products; the largest number instead of infinity."""
    bounded = max(-FLOAT_POWER, min(FLOAT_POWER, exponent))
    half = int(bounded / 2)
    powers = np.ldexp(np.float32(1), [half, bounded - half]).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        scales = (steps * powers[0]) * powers[1]
    return np.asarray(np.minimum(scales, np.finfo(np.float32).max), np.float32)


def update_float(
    w: Q,
    v: NDArray[np.float32],
    dw: Any,
    exponent: int,
    steps: NDArray[np.float32],
    *,
    rate: float,
    momentum: float,
    decay: float,
    mode: str,
    seed: int,
    stream: int,
    order: NDArray[np.int64] | None = None,
) -> tuple[Q, NDArray[np.float32]]:
    """(w, v) as `update` gives them, with velocities in float32 and every operation named here
    rounded to float32 by itself. Shapes as there; v: [o, terms], within 2^30.
    """
    f32, clip, most = np.float32, np.clip, np.float32(FLOAT_MOST)
    with np.errstate(over="ignore", under="ignore"):
        sums = np.asarray(dw, np.int32).astype(f32) * _scales(exponent, steps)[:, None]
    pushed = fma(f32(decay), w.astype(f32), clip(sums, -most, most))
    moved = clip(fma(f32(momentum), v, pushed), -most, most)
    velocity = np.where(np.abs(moved) < f32(FLOAT_LEAST), f32(0), moved)
    change = clip(f32(rate) * velocity, f32(-256), f32(256))
    random = noise(mode, seed, stream, w.size)
    random = random.reshape(w.shape) if order is None else random[order]
    if mode == "truncate":
        whole = np.trunc(change)
    else:
        whole = np.floor(change + (random >> 8).astype(f32) * f32(2.0**-24))
    return clip(w - whole.astype(np.int64), -MOST, MOST).astype(np.int8), velocity


def _shift_wide(value: int, bits: int) -> int:
    """round(value / 2^bits), ties up, within what a bias moves at; not one bit down is too far."""
    if bits > 62:
        return 0
    shifted = (value + (1 << bits - 1)) >> bits if bits > 0 else value * BIAS_MOST
    return max(-BIAS_MOST, min(BIAS_MOST, shifted))


def update_bias(
    b: Ints,
    v: Ints,
    db: Any,
    exponent: int,
    steps: NDArray[np.float32],
    per_input: float,
    *,
    most: int,
    rate: float,
    momentum: float,
    mode: str,
    seed: int,
    stream: int,
) -> tuple[Ints, Ints]:
    """(b, v) after a step; b in its own units, v in 2^-8 of them. per_input: 1 / x scale^2; most:
    what a bias may reach."""
    random = noise(mode, seed, stream, len(b))
    other, keep = split(per_input), split(momentum)
    factor = int(shift_half_up(keep[0], 31 - FRACTION - keep[1]))
    speed, new_b, new_v = split(rate), b.copy(), v.copy()
    for o, step in enumerate(steps):
        mantissa, power = split(step)
        both = (mantissa * other[0]) >> 31
        pushed = _shift_wide(int(db[o]) * both, 31 - (power + other[1] + exponent + BIAS_FRACTION))
        kept = (int(v[o]) * factor + (1 << FRACTION - 1)) >> FRACTION
        new_v[o] = max(-BIAS_MOST, min(BIAS_MOST, kept + pushed))
        bits = max(31 - speed[1] + BIAS_FRACTION, 1)
        if bits > 62:
            continue
        part = int(random[o]) << bits - 32 if bits >= 32 else int(random[o]) >> 32 - bits
        change = int(round_off(int(new_v[o]) * speed[0], bits, mode, np.asarray(part)))
        new_b[o] = max(-most, min(most, int(b[o]) - change))
    return new_b, new_v
