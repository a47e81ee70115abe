"""int8 kernels on NumPy arrays: layouts as in `f32`, int32 sums, TensorFlow Lite Micro's bytes.

A tensor stands for (q - zero) * scale. Weights have no zero point and a scale of their own for
each output channel (dense: or one for all); bias is int32 in units of x scale * w scale. The
kernels take no scales but integers made of them, once, by `multiplier_of`, `sum_scaling` and
`softmax_scaling`. SPEC.md says the arithmetic in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _core

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "add",
    "average_pool2d",
    "conv2d",
    "dense",
    "depthwise_conv2d",
    "dequantise",
    "max_pool2d",
    "multiplier_of",
    "pad",
    "quantise",
    "requantise",
    "softmax",
    "softmax_scaling",
    "sum_scaling",
]

add = _core.q8_add
average_pool2d = _core.q8_average_pool2d
conv2d = _core.q8_conv2d
dense = _core.q8_dense
depthwise_conv2d = _core.q8_depthwise_conv2d
dequantise = _core.q8_dequantise
max_pool2d = _core.q8_max_pool2d
pad = _core.q8_pad
quantise = _core.q8_quantise
requantise = _core.q8_requantise
softmax = _core.q8_softmax


def _mantissas(scales: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    fractions, shifts = np.frexp(scales)
    whole = np.floor(fractions * 2.0**31 + 0.5)
    over = whole == 2.0**31
    whole, shifts = np.where(over, 2.0**30, whole), shifts + over
    tiny = shifts < -31
    return np.where(tiny, 0, whole).astype(np.int32), np.where(tiny, 0, shifts).astype(np.int32)


def multiplier_of(scale: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(multiplier, shift), int32 [n], for n scales in double (a number: n = 1).

    scale = multiplier / 2^31 * 2^shift with 2^30 <= multiplier < 2^31, rounded half away; a scale
    below 2^-32 becomes zero. Raises ValueError for a scale that is negative, not finite or 2^30 - 1
    or more.

    Convolution: x scale * w scale / y scale in double, each scale first rounded to float32. Dense
    with one scale: TensorFlow Lite multiplies x scale * w scale in float32.
    """
    scales = np.atleast_1d(np.asarray(scale, np.float64))
    if scales.ndim != 1 or scales.size == 0:
        raise ValueError(f"scale: expected a number or 1 axis, got shape {scales.shape}")
    for value in scales:
        if not 0 <= value < 2.0**30 - 1:
            raise ValueError(f"scale: expected 0 to below 2**30 - 1, got {value}")
    return _mantissas(scales)


def sum_scaling(a_scale: float, b_scale: float, y_scale: float) -> dict[str, int]:
    """The arguments a_multiplier, a_shift, b_..., y_... of `add` for three scales.

    Both inputs come to a common scale, twice the larger one, with 20 bits to spare. Raises
    ValueError for a y_scale so small that the sum would have to be raised.
    """
    common = 2 * max(np.float32(a_scale), np.float32(b_scale))
    found: dict[str, int] = {}
    for name, scale in (
        ("a", float(np.float32(a_scale)) / float(common)),
        ("b", float(np.float32(b_scale)) / float(common)),
        ("y", float(common) / ((1 << 20) * float(np.float32(y_scale)))),
    ):
        if not 0 < scale < 1:
            raise ValueError(
                "scale: expected positive ones with y_scale above max(a_scale, b_scale) / 2**19, "
                f"got {a_scale}, {b_scale} -> {y_scale}"
            )
        multiplier, shift = multiplier_of(scale)
        found |= {f"{name}_multiplier": int(multiplier[0]), f"{name}_shift": int(shift[0])}
    return found


def softmax_scaling(scale: float, beta: float = 1.0) -> dict[str, int]:
    """The arguments multiplier and shift of `softmax` for an input's scale: beta * scale * 2^26.

    Raises ValueError unless 2^-26 < beta * scale; from 32 on, only the largest input counts.
    """
    raised = min(float(np.float32(beta)) * float(np.float32(scale)) * 2.0**26, 2.0**31 - 1)
    if not raised > 1:
        raise ValueError(f"scale: expected beta * scale above 2**-26, got {beta} * {scale}")
    multiplier, shift = _mantissas(np.array([raised]))
    return {"multiplier": int(multiplier[0]), "shift": int(shift[0])}
