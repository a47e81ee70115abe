"""The definition of the int8 layers in NumPy: slow, plain, and equal to the C core byte for byte.

Names and arguments are those of `q8`, which checks them. The rounding is that of TensorFlow Lite
Micro's reference kernels ("double rounding"). int32 sums wrap; those that `q8` lets through do not.
"""

from __future__ import annotations

from math import floor, frexp
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .reference import NO_PADDING, Padding, Pair, _axes

Q = NDArray[np.int8]
Ints = NDArray[np.int32]
Wide = NDArray[np.int64]

SUM_SHIFT = 20  # bits the terms of a residual sum are raised by


# ---- Rounding ----


def _wrap(values: Any) -> Wide:
    return np.asarray(np.asarray(values).astype(np.int32).astype(np.int64))


def _multiply(a: Any, b: Any) -> Wide:
    """round(a b / 2^31), ties up."""
    return np.asarray((np.asarray(a, np.int64) * b + (1 << 30)) >> 31)


def _shift_right(a: Any, bits: Any) -> Wide:
    """round(a / 2^bits), ties away from zero."""
    a, bits = np.asarray(a, np.int64), np.asarray(bits, np.int64)
    half = np.where(bits > 0, (1 << bits) >> 1, 0)
    return np.asarray(np.where(a < 0, -((-a + half) >> bits), (a + half) >> bits))


def rescale(a: Any, multiplier: Any, shift: Any) -> Wide:
    """round(round(a 2^left multiplier / 2^31) / 2^right); a positive shift is left."""
    shift = np.asarray(shift, np.int64)
    raised = _wrap(np.asarray(a, np.int64) << np.maximum(shift, 0))
    return _shift_right(_multiply(raised, multiplier), np.maximum(-shift, 0))


def _finish(sums: Any, multiplier: Any, shift: Any, y_zero: int, y_min: int, y_max: int) -> Q:
    y = _wrap(rescale(_wrap(sums), multiplier, shift) + y_zero)
    return np.asarray(np.clip(y, y_min, y_max).astype(np.int8))


def multiplier_of(scale: ArrayLike) -> tuple[Ints, Ints]:
    """scale = multiplier / 2^31 * 2^shift: mantissa of 31 bits rounded half away, exponent."""
    pairs = []
    for value in np.atleast_1d(np.asarray(scale, np.float64)).ravel():
        mantissa, exponent = frexp(float(value))
        whole = floor(mantissa * 2.0**31 + 0.5)
        if whole == 1 << 31:
            whole, exponent = 1 << 30, exponent + 1
        pairs.append((0, 0) if exponent < -31 else (whole, exponent))
    found = np.array(pairs, np.int32)
    return found[:, 0].copy(), found[:, 1].copy()


# ---- Convolutions and dense ----


def conv2d(
    x: Q,
    w: Q,
    bias: Ints | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: Ints,
    shift: Ints,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    groups: int = 1,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """Taps in the padding hold x_zero: they add nothing."""
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    sums = np.zeros((len(x), h.out, v.out, len(w)), np.int64)
    if bias is not None:
        sums += bias
    wide, each_in, each_out = x.astype(np.int64) - x_zero, w.shape[3], len(w) // groups
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            for g in range(groups):
                ins = slice(g * each_in, (g + 1) * each_in)
                outs = slice(g * each_out, (g + 1) * each_out)
                tap = w[outs, i, j].astype(np.int64)
                sums[:, oh, ow, outs] += wide[:, ih, iw, ins] @ tap.T
    return _finish(sums, multiplier, shift, y_zero, y_min, y_max)


def depthwise_conv2d(
    x: Q,
    w: Q,
    bias: Ints | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: Ints,
    shift: Ints,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """Output channel i m + j reads input channel i."""
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    wide = np.repeat(x.astype(np.int64) - x_zero, w.shape[3] // x.shape[3], axis=3)
    sums = np.zeros((len(x), h.out, v.out, w.shape[3]), np.int64)
    if bias is not None:
        sums += bias
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            sums[:, oh, ow] += wide[:, ih, iw] * w[0, i, j]
    return _finish(sums, multiplier, shift, y_zero, y_min, y_max)


def dense(
    x: Q,
    w: Q,
    bias: Ints | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: Ints,
    shift: Ints,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """One scale, or one per output."""
    sums = (x.astype(np.int64) - x_zero) @ w.T.astype(np.int64)
    if bias is not None:
        sums = sums + bias
    return _finish(sums, multiplier, shift, y_zero, y_min, y_max)


# ---- Pools, padding ----


def max_pool2d(
    x: Q,
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """Largest of the taps inside."""
    h, v = _axes(x.shape, kernel, stride or kernel, padding, dilation)
    y = np.zeros((len(x), h.out, v.out, x.shape[3]), np.int8)
    for row, col in np.ndindex(h.out, v.out):
        y[:, row, col] = x[:, h.taps(row)[1], v.taps(col)[1]].max(axis=(1, 2))
    return np.asarray(np.clip(y, y_min, y_max))


def average_pool2d(
    x: Q,
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """Sum of the taps inside over their number, ties away from zero."""
    h, v = _axes(x.shape, kernel, stride or kernel, padding, dilation)
    y = np.zeros((len(x), h.out, v.out, x.shape[3]), np.int64)
    for row, col in np.ndindex(h.out, v.out):
        taps = x[:, h.taps(row)[1], v.taps(col)[1]]
        count = taps.shape[1] * taps.shape[2]
        sums = taps.astype(np.int64).sum(axis=(1, 2))
        y[:, row, col] = np.sign(sums) * ((np.abs(sums) + count // 2) // count)
    return np.asarray(np.clip(y, y_min, y_max).astype(np.int8))


def pad(x: Q, padding: Padding, zero: int) -> Q:
    """A border of the zero point."""
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=zero)


# ---- Element by element ----


def add(
    a: Q,
    b: Q,
    *,
    a_zero: int,
    a_multiplier: int,
    a_shift: int,
    b_zero: int,
    b_multiplier: int,
    b_shift: int,
    y_zero: int,
    y_multiplier: int,
    y_shift: int,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """Both raised by SUM_SHIFT bits, rescaled, summed; the sum rescaled."""
    left = rescale((a.astype(np.int64) - a_zero) << SUM_SHIFT, a_multiplier, a_shift)
    right = rescale((b.astype(np.int64) - b_zero) << SUM_SHIFT, b_multiplier, b_shift)
    return _finish(left + right, y_multiplier, y_shift, y_zero, y_min, y_max)


def requantise(
    x: Q,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: int,
    shift: int,
    y_min: int = -128,
    y_max: int = 127,
) -> Q:
    """From one scale and zero point to another."""
    return _finish(x.astype(np.int64) - x_zero, multiplier, shift, y_zero, y_min, y_max)


def quantise(
    x: NDArray[np.float32],
    scale: float,
    zero: int,
    rounding: Literal["half_away", "half_even"] = "half_away",
) -> Q:
    """clamp(round(x / scale) + zero); the quotient is one float32 division."""
    with np.errstate(over="ignore"):
        t = np.clip(x / np.float32(scale), -512, 512).astype(np.float64)
    away = np.copysign(np.floor(np.abs(t) + 0.5), t)
    whole = away if rounding == "half_away" else np.rint(t)
    return np.asarray(np.clip(whole + zero, -128, 127).astype(np.int8))


def dequantise(q: Q, scale: float, zero: int) -> NDArray[np.float32]:
    """(q - zero) scale, one float32 product."""
    return np.asarray((q.astype(np.float32) - np.float32(zero)) * np.float32(scale))


# ---- Softmax ----


def _saturate(values: Any) -> Wide:
    return np.asarray(np.clip(values, -(1 << 31), (1 << 31) - 1))


def _fraction(value: float) -> int:
    return floor(value * 2.0**31 + 0.5)


def _exp_negative(x: Wide) -> Wide:
    """e^x of numbers <= 0 in units of 2^-26; the result in units of 2^-31.

    x is a multiple of 1/4 and a rest in [-1/4, 0): a Taylor polynomial around -1/8 for the rest,
    and one factor for each bit of the multiple.
    """
    quarter = 1 << 24
    part = (x & (quarter - 1)) - quarter
    d = (part << 5) + (1 << 28)
    d2 = _multiply(d, d)
    d3, d4 = _multiply(d2, d), _multiply(d2, d2)
    third, start = _fraction(1 / 3), _fraction(float(np.exp(-0.125)))
    tail = _shift_right(_multiply(_shift_right(d4, 2) + d3, third) + d2, 1)
    result = start + _multiply(start, d + tail)
    rest = part - x
    for bit in range(7):
        factor = _fraction(float(np.exp(-(2.0 ** (bit - 2)))))
        result = np.where(rest & (quarter << bit), _multiply(result, factor), result)
    return np.asarray(np.where(x == 0, (1 << 31) - 1, result))


def _reciprocal(x: Wide) -> Wide:
    """1 / (1 + x), 0 <= x < 1, in units of 2^-31: Newton's steps from 48/17 - 32/17 d."""
    half = (x + (1 << 31)) // 2
    y = 1515870810 + _multiply(half, -1010580540)
    for _ in range(3):
        y = y + _saturate(_multiply(y, (1 << 29) - _multiply(half, y)) << 2)
    return _saturate(y << 1)


def softmax(x: Q, *, multiplier: int, shift: int) -> Q:
    """Along the last axis; scale 1/256, zero point -128 out."""
    wide = x.astype(np.int64)
    below = wide - wide.max(axis=-1, keepdims=True)
    near = below >= -((31 << 26) >> shift)
    powers = _exp_negative(rescale(np.where(near, below, 0), multiplier, shift))
    sums = np.where(near, _shift_right(powers, 12), 0).sum(axis=-1, keepdims=True)
    zeros = 31 - np.floor(np.log2(sums)).astype(np.int64)  # float64 holds these sums
    scale = _reciprocal((sums << zeros) - (1 << 31))
    y = _shift_right(_multiply(scale, powers), 35 - zeros) - 128
    return np.asarray(np.where(near, np.clip(y, -128, 127), -128).astype(np.int8))
