"""Training of int8 layers on NumPy arrays: exact int32 sums, int8 gradients, updates in place.

A gradient is int8 with one exponent for the tensor: g * 2^exponent is the gradient of the loss with
respect to the quantised value, so scales appear only as integers made once, and in `steps`. What is
rounded is rounded by random bits that depend on (seed, stream, index) alone: the same bytes on
every machine. mode: stochastic (the default), nearest or truncate. SPEC.md says the arithmetic in
words, `reference_q8_train` is its definition.

Backward of a layer, for the int8 gradient dy of its output y:
    dy = mask(dy, y, y_min, y_max)
    dw, db = conv2d_weight_sums(dy, x, kernel, x_zero=..), bias_sums(dy)
    sums = conv2d_input_sums(weigh(dy, ratios), w, size)
    dx, dx_exponent = settle(sums, exponent, multiplier=.., shift=..)  # of the largest multiplier
    v_exponent = update(w, v, v_exponent, dw, exponent, steps, rate=..)
"""

from __future__ import annotations

from . import _core

__all__ = [
    "add_gradient",
    "average_pool2d_sums",
    "bias_sums",
    "conv2d_input_sums",
    "conv2d_weight_sums",
    "depthwise_input_sums",
    "depthwise_weight_sums",
    "join",
    "mask",
    "max_pool2d_sums",
    "settle",
    "update",
    "update_bias",
    "update_float",
    "weigh",
]

add_gradient = _core.q8_add_gradient
average_pool2d_sums = _core.q8_average_pool2d_sums
bias_sums = _core.q8_bias_sums
conv2d_input_sums = _core.q8_conv2d_input_sums
conv2d_weight_sums = _core.q8_conv2d_weight_sums
depthwise_input_sums = _core.q8_depthwise_input_sums
depthwise_weight_sums = _core.q8_depthwise_weight_sums
join = _core.q8_join
mask = _core.q8_mask
max_pool2d_sums = _core.q8_max_pool2d_sums
settle = _core.q8_settle
update = _core.q8_update
update_bias = _core.q8_update_bias
update_float = _core.q8_update_float
weigh = _core.q8_weigh
