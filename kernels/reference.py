"""The definition of the arithmetic in NumPy: slow, plain, and equal to the C core byte for byte.

Names and arguments are those of `f32`, `parcel` and the package. Every sum takes its terms in the
order of the loops here; what is vectorised are independent results. Arguments are taken as they
come: `f32` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Gradients = tuple[Array | None, Array, Array | None]

F = np.float32
NO_PADDING: Padding = ((0, 0), (0, 0))


def fma(a: Any, b: Any, c: Any) -> Array:
    """a * b + c of float32 with one rounding.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond, 2008:
    the last bit stands for everything cut off), so that the rounding to float32 sees on which side
    of a tie the true sum lies.
    """
    with np.errstate(all="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        addend = np.asarray(c, np.float64)
        total = np.asarray(product + addend)
        part = total - product
        error = (product - (total - part)) + (addend - part)  # exact: Knuth's two-sum
        bits = total.view(np.int64)
        inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
        away = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.asarray(bits + np.where(inexact, away, 0)).view(np.float64)
        return np.asarray(odd.astype(np.float32))


# ---- Windows ----


@dataclass(frozen=True)
class Axis:
    """One direction of a window: sizes, and which output reads which input through which tap."""

    size: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    pad_end: int

    @property
    def out(self) -> int:
        reach = (self.kernel - 1) * self.dilation + 1
        return (self.size + self.pad + self.pad_end - reach) // self.stride + 1

    def outputs(self, tap: int) -> tuple[slice, slice]:
        """The outputs that read inside the input through `tap`, and what they read."""
        shift = tap * self.dilation - self.pad
        inside = [o for o in range(self.out) if 0 <= o * self.stride + shift < self.size]
        if not inside:
            return slice(0, 0), slice(0, 0)
        first, last = inside[0], inside[-1]
        start = first * self.stride + shift
        return slice(first, last + 1), slice(start, last * self.stride + shift + 1, self.stride)

    def taps(self, output: int) -> tuple[slice, slice]:
        """The taps through which `output` reads inside the input, and what they read."""
        start = output * self.stride - self.pad
        inside = [k for k in range(self.kernel) if 0 <= start + k * self.dilation < self.size]
        if not inside:
            return slice(0, 0), slice(0, 0)
        first, last = inside[0], inside[-1]
        begin, end = start + first * self.dilation, start + last * self.dilation
        return slice(first, last + 1), slice(begin, end + 1, self.dilation)


def _axes(
    shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Padding, dilation: Pair
) -> tuple[Axis, Axis]:
    height, width = (
        Axis(shape[1 + d], kernel[d], stride[d], dilation[d], *padding[d]) for d in range(2)
    )
    return height, width


def _zeros(into: Gradients | None, x: Array, w: Array, channels: int) -> Gradients:
    if into is not None:
        return into
    return np.zeros_like(x), np.zeros_like(w), np.zeros(channels, F)


def _add_pixels(db: Array, dy: Array) -> None:
    for pixel in dy.reshape(-1, dy.shape[-1]):
        db += pixel


# ---- Convolutions and dense ----


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Order of the terms: kernel row, kernel column, input channel."""
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    y = np.zeros((len(x), h.out, v.out, len(w)), F)
    if b is not None:
        y += b
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            for c in range(x.shape[3]):
                y[:, oh, ow] = fma(x[:, ih, iw, c, None], w[:, i, j, c], y[:, oh, ow])
    return y


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    into: Gradients | None = None,
) -> Gradients:
    """Order for dx: kernel row, kernel column, output channel; for dw, db: sample, row, column."""
    dx, dw, db = _zeros(into, x, w, len(w))
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    if dx is not None:
        for i in range(h.kernel):
            oh, ih = h.outputs(i)
            for j in range(v.kernel):
                ow, iw = v.outputs(j)
                for o in range(len(w)):
                    dx[:, ih, iw] = fma(dy[:, oh, ow, o, None], w[o, i, j], dx[:, ih, iw])
    for n, row, col in np.ndindex(dy.shape[:3]):
        kh, ih = h.taps(row)
        kw, iw = v.taps(col)
        dw[:, kh, kw] = fma(dy[n, row, col, :, None, None, None], x[n, ih, iw], dw[:, kh, kw])
    if db is not None:
        _add_pixels(db, dy)
    return dx, dw, db


def depthwise_conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Order of the terms: kernel row, kernel column."""
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    wide = np.repeat(x, w.shape[3] // x.shape[3], axis=3)
    y = np.zeros((len(x), h.out, v.out, w.shape[3]), F)
    if b is not None:
        y += b
    for i in range(h.kernel):
        oh, ih = h.outputs(i)
        for j in range(v.kernel):
            ow, iw = v.outputs(j)
            y[:, oh, ow] = fma(wide[:, ih, iw], w[0, i, j], y[:, oh, ow])
    return y


def depthwise_conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Pair = (1, 1),
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    into: Gradients | None = None,
) -> Gradients:
    """Order for dx: kernel row, kernel column, output channel; for dw, db: sample, row, column."""
    dx, dw, db = _zeros(into, x, w, w.shape[3])
    h, v = _axes(x.shape, w.shape[1:3], stride, padding, dilation)
    many = w.shape[3] // x.shape[3]
    if dx is not None:
        for i in range(h.kernel):
            oh, ih = h.outputs(i)
            for j in range(v.kernel):
                ow, iw = v.outputs(j)
                for o in range(many):
                    term = dy[:, oh, ow, o::many], w[0, i, j, o::many]
                    dx[:, ih, iw] = fma(*term, dx[:, ih, iw])
    wide = np.repeat(x, many, axis=3)
    for n, row, col in np.ndindex(dy.shape[:3]):
        kh, ih = h.taps(row)
        kw, iw = v.taps(col)
        dw[0, kh, kw] = fma(wide[n, ih, iw], dy[n, row, col], dw[0, kh, kw])
    if db is not None:
        _add_pixels(db, dy)
    return dx, dw, db


def dense(x: Array, w: Array, b: Array | None = None) -> Array:
    """Order of the terms: input."""
    return conv2d(x[:, None, None], w[:, None, None], b)[:, 0, 0]


def dense_backward(dy: Array, x: Array, w: Array, *, into: Gradients | None = None) -> Gradients:
    """Order for dx: output; for dw and db: sample."""
    dx, dw, db = _zeros(into, x, w, len(w))
    view = None if dx is None else dx[:, None, None]
    images = dy[:, None, None], x[:, None, None], w[:, None, None]
    conv2d_backward(*images, into=(view, dw[:, None, None], db))
    return dx, dw, db


# ---- Pools ----


def max_pool2d(
    x: Array,
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """0 where no tap is inside; NaN wins."""
    h, v = _axes(x.shape, kernel, stride or kernel, padding, dilation)
    y = np.zeros((len(x), h.out, v.out, x.shape[3]), F)
    for row, col in np.ndindex(h.out, v.out):
        best = _first_largest(x, h, v, row, col)[0]
        if best is not None:
            y[:, row, col] = best
    return y


def _first_largest(
    x: Array, h: Axis, v: Axis, row: int, col: int
) -> tuple[Array | None, NDArray[np.intp], NDArray[np.intp]]:
    """Values [n, c] of the largest taps of one output, and their input rows and columns."""
    best: Array | None = None
    at = np.zeros((2, len(x), x.shape[3]), np.intp)
    _, ih = h.taps(row)
    _, iw = v.taps(col)
    for i in range(ih.start, ih.stop, ih.step or 1):
        for j in range(iw.start, iw.stop, iw.step or 1):
            tap = x[:, i, j]
            wins = np.ones(tap.shape, bool) if best is None else (tap > best) | np.isnan(tap)
            best = tap.copy() if best is None else np.where(wins, tap, best)
            at[0][wins], at[1][wins] = i, j
    return best, at[0], at[1]


def max_pool2d_backward(
    dy: Array,
    x: Array,
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    into: Array | None = None,
) -> Array:
    """Order: output row, output column."""
    dx = np.zeros_like(x) if into is None else into
    h, v = _axes(x.shape, kernel, stride or kernel, padding, dilation)
    sample, channel = np.indices((len(x), x.shape[3]))
    for row, col in np.ndindex(h.out, v.out):
        best, i, j = _first_largest(x, h, v, row, col)
        if best is not None:
            dx[sample, i, j, channel] += dy[:, row, col]
    return dx


def average_pool2d(
    x: Array,
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
) -> Array:
    """Order of the terms: kernel row, kernel column; then a division. 0 where no tap is inside."""
    h, v = _axes(x.shape, kernel, stride or kernel, padding, dilation)
    y = np.zeros((len(x), h.out, v.out, x.shape[3]), F)
    for row, col in np.ndindex(h.out, v.out):
        _, ih = h.taps(row)
        _, iw = v.taps(col)
        taps = x[:, ih, iw].reshape(len(x), -1, x.shape[3])
        for k in range(taps.shape[1]):
            y[:, row, col] += taps[:, k]
        if taps.shape[1] > 0:
            y[:, row, col] /= F(taps.shape[1])
    return y


def average_pool2d_backward(
    dy: Array,
    input_shape: tuple[int, int, int, int],
    kernel: Pair = (2, 2),
    stride: Pair | None = None,
    padding: Padding = NO_PADDING,
    dilation: Pair = (1, 1),
    *,
    into: Array | None = None,
) -> Array:
    """Order: output row, output column; each adds dy divided by its number of taps."""
    dx = np.zeros(input_shape, F) if into is None else into
    h, v = _axes(dx.shape, kernel, stride or kernel, padding, dilation)
    for row, col in np.ndindex(h.out, v.out):
        i, ih = h.taps(row)
        j, iw = v.taps(col)
        count = (i.stop - i.start) * (j.stop - j.start)
        if count > 0:
            dx[:, ih, iw] += (dy[:, row, col] / F(count))[:, None, None]
    return dx


# ---- Element by element ----


def relu(x: Array, ceiling: float = float("inf")) -> Array:
    """NaN stays NaN; -0 becomes 0."""
    y = np.where(x <= 0, F(0), x)
    return np.where(y >= F(ceiling), F(ceiling), y)


def relu_backward(
    dy: Array, y: Array, ceiling: float = float("inf"), *, into: Array | None = None
) -> Array:
    """In place (into is dy): a mask."""
    dx = np.zeros_like(dy) if into is None else into
    passes = (y > 0) & (y < F(ceiling))
    dx[...] = np.where(passes, dy if dx is dy else dx + dy, F(0) if dx is dy else dx)
    return dx


def add(a: Array, b: Array) -> Array:
    """One rounded sum each."""
    return a + b


# ---- Normalisation, loss, update ----


def _sum_groups(values: Array, groups: int) -> Array:
    """values: [n, channels] -> [n, groups], channel after channel."""
    parts = values.reshape(len(values), groups, -1)
    total = np.zeros((len(values), groups), F)
    for c in range(parts.shape[2]):
        total += parts[:, :, c]
    return total


def _sum_pixels(values: Array) -> Array:
    """values: [n, pixels, channels] -> [n, channels], pixel after pixel."""
    total = np.zeros((len(values), values.shape[2]), F)
    for p in range(values.shape[1]):
        total += values[:, p]
    return total


def _spread(values: Array, channels: int) -> Array:
    """values: [n, groups] -> [n, 1, channels]."""
    return np.repeat(values, channels // values.shape[1], axis=1)[:, None]


def group_norm(
    x: Array, gamma: Array, beta: Array, groups: int, epsilon: float = 1e-5
) -> tuple[Array, Array]:
    """A channel sums over its pixels, then a group over its channels; plain products and sums."""
    channels = x.shape[-1]
    pixels = x.reshape(len(x), -1, channels)
    count = F(pixels.shape[1]) * F(channels // groups)
    mean = _sum_groups(_sum_pixels(pixels), groups) / count
    centred = pixels - _spread(mean, channels)
    variance = _sum_groups(_sum_pixels(centred * centred), groups) / count
    scale = F(1) / np.sqrt(variance + F(epsilon))
    y = centred * _spread(scale, channels) * gamma + beta
    return y.reshape(x.shape), np.stack([mean, scale], axis=2)


def group_norm_backward(
    dy: Array,
    x: Array,
    saved: Array,
    gamma: Array,
    *,
    into: tuple[Array | None, Array, Array] | None = None,
) -> tuple[Array | None, Array, Array]:
    """dgamma and dbeta take one sum over pixels per sample, samples in order."""
    if into is None:
        into = np.zeros_like(x), np.zeros_like(gamma), np.zeros_like(gamma)
    dx, dgamma, dbeta = into
    channels, groups = x.shape[-1], saved.shape[1]
    dys, pixels = (a.reshape(len(x), -1, channels) for a in (dy, x))
    scale = _spread(saved[:, :, 1], channels)
    normal = (pixels - _spread(saved[:, :, 0], channels)) * scale
    plain, scaled = _sum_pixels(dys), _sum_pixels(dys * normal)
    for n in range(len(x)):
        dbeta += plain[n]
        dgamma += scaled[n]
    if dx is not None:
        count = F(pixels.shape[1]) * F(channels // groups)
        mean_plain = _spread(_sum_groups(plain * gamma, groups) / count, channels)
        mean_scaled = _spread(_sum_groups(scaled * gamma, groups) / count, channels)
        dx += (scale * (dys * gamma - mean_plain - normal * mean_scaled)).reshape(x.shape)
    return dx, dgamma, dbeta


def exp(x: Array) -> Array:
    """e^x for x <= 0; 0 below -87; NaN stays NaN."""
    with np.errstate(all="ignore"):
        small = np.where(x >= F(-87), x, F(0))
        n = np.trunc(fma(small, F(1.44269504), F(-0.5)))
        r = fma(n, F(2.12194440e-4), fma(n, F(-0.693359375), small))
        p = np.full_like(r, F(1.98412698e-4))
        for term in (1.38888889e-3, 8.33333333e-3, 4.16666667e-2, 1.66666667e-1, 0.5, 1.0, 1.0):
            p = fma(p, r, F(term))
        y = p * ((n.astype(np.int32) + 127) << 23).view(F)
        return np.where(x < F(-87), F(0), np.where(np.isnan(x), x, y))


def log(x: Array) -> Array:
    """ln x for x >= 1; NaN for NaN and infinity."""
    with np.errstate(all="ignore"):
        bits = x.view(np.uint32) - np.uint32(0x3F350000)
        n = (bits >> 23).astype(F)
        m = ((bits & np.uint32(0x007FFFFF)) + np.uint32(0x3F350000)).view(F)
        s = (m - F(1)) / (m + F(1))
        z = s * s
        p = np.full_like(z, F(1.11111111e-1))
        for term in (1.42857143e-1, 2.0e-1, 3.33333333e-1, 1.0):
            p = fma(p, z, F(term))
        p = p * s
        y = fma(n, F(0.693359375), fma(n, F(-2.12194440e-4), p + p))
        return np.where(np.isfinite(x), y, x - x)


def softmax_cross_entropy(
    logits: Array, labels: NDArray[np.int32], scale: float | None = None
) -> tuple[Array, Array]:
    """The classes are summed in order."""
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = exp(shifted)
    total = np.zeros(len(logits), F)
    for c in range(logits.shape[1]):
        total += powers[:, c]
    loss = log(total) - shifted[rows, labels]
    gradient = powers / total[:, None]
    gradient[rows, labels] -= F(1)
    return loss, gradient * F(1.0 / len(logits) if scale is None else scale)


def sgd(
    w: Array, v: Array, dw: Array, rate: float, momentum: float = 0.0, decay: float = 0.0
) -> None:
    """In place."""
    v[...] = fma(F(momentum), v, fma(F(decay), w, dw))
    w[...] = fma(-F(rate), v, w)


# ---- Random bits (parcels: reference_parcel) ----


def _mix(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
    a, b = np.uint32(16), np.uint32(15)
    h = (h ^ (h >> a)) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> b)) * np.uint32(0x846CA68B)
    return h ^ (h >> a)


def random_bits(seed: int, stream: int, first: int, count: int) -> NDArray[np.uint32]:
    """mix(mix(mix(seed + step) ^ stream) + index * step), all modulo 2^32."""
    step = 0x9E3779B9
    key = _mix(_mix(np.array([(seed + step) & 0xFFFFFFFF], np.uint32)) ^ np.uint32(stream))
    index = (first + np.arange(count)).astype(np.uint32)
    return _mix(key + index * np.uint32(step))
