"""Types of the compiled module; its own docstrings say the rest."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ARITHMETIC_VERSION: int
WIRE_VERSION: int

_F32 = NDArray[np.float32]
_Pair = Sequence[int]
_Padding = Sequence[_Pair]
_Into = Sequence[_F32 | None] | None

def conv2d(
    x: _F32,
    w: _F32,
    b: _F32 | None = None,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _F32: ...
def conv2d_backward(
    dy: _F32,
    x: _F32,
    w: _F32,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    into: _Into = None,
) -> tuple[_F32, _F32, _F32]: ...
def depthwise_conv2d(
    x: _F32,
    w: _F32,
    b: _F32 | None = None,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _F32: ...
def depthwise_conv2d_backward(
    dy: _F32,
    x: _F32,
    w: _F32,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    into: _Into = None,
) -> tuple[_F32, _F32, _F32]: ...
def dense(x: _F32, w: _F32, b: _F32 | None = None) -> _F32: ...
def dense_backward(
    dy: _F32, x: _F32, w: _F32, *, into: _Into = None
) -> tuple[_F32, _F32, _F32]: ...
def max_pool2d(
    x: _F32,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _F32: ...
def max_pool2d_backward(
    dy: _F32,
    x: _F32,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    into: _F32 | None = None,
) -> _F32: ...
def average_pool2d(
    x: _F32,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _F32: ...
def average_pool2d_backward(
    dy: _F32,
    input_shape: Sequence[int],
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    into: _F32 | None = None,
) -> _F32: ...
def relu(x: _F32, ceiling: float = ...) -> _F32: ...
def relu_backward(dy: _F32, y: _F32, ceiling: float = ..., *, into: _F32 | None = None) -> _F32: ...
def add(a: _F32, b: _F32) -> _F32: ...
def group_norm(
    x: _F32, gamma: _F32, beta: _F32, groups: int, epsilon: float = 1e-5
) -> tuple[_F32, _F32]: ...
def group_norm_backward(
    dy: _F32, x: _F32, saved: _F32, gamma: _F32, *, into: _Into = None
) -> tuple[_F32, _F32, _F32]: ...
def softmax_cross_entropy(
    logits: _F32, labels: NDArray[np.int32], scale: float | None = None
) -> tuple[_F32, _F32]: ...
def sgd(
    w: _F32, v: _F32, dw: _F32, rate: float, momentum: float = 0.0, decay: float = 0.0
) -> None: ...
def random_bits(seed: int, stream: int, first: int, count: int) -> NDArray[np.uint32]: ...
def parcel_pack(x: _F32, codec: int, rounding: int, seed: int) -> bytes: ...
def parcel_end(data: Any, offset: int = 0) -> int: ...
def parcel_pack_kept(x: _F32, at: Any, at_offset: int, rounding: int, seed: int) -> bytes: ...
def parcel_unpack_kept(data: Any, offset: int, at: Any, at_offset: int) -> tuple[_F32, int]: ...
def parcel_unpack(data: Any, offset: int = 0) -> tuple[_F32, int]: ...
def variant() -> str: ...
def choose_variant(name: str | None = None) -> None: ...
def variants() -> list[str]: ...
def peak_work(rounds: int) -> int: ...
def q8_peak_work(rounds: int) -> int: ...

_Q8 = NDArray[np.int8]
_I32 = NDArray[np.int32]

def q8_conv2d(
    x: _Q8,
    w: _Q8,
    bias: _I32 | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: _I32,
    shift: _I32,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    groups: int = 1,
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...
def q8_depthwise_conv2d(
    x: _Q8,
    w: _Q8,
    bias: _I32 | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: _I32,
    shift: _I32,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...
def q8_dense(
    x: _Q8,
    w: _Q8,
    bias: _I32 | None = None,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: _I32,
    shift: _I32,
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...
def q8_max_pool2d(
    x: _Q8,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...
def q8_average_pool2d(
    x: _Q8,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    *,
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...
def q8_pad(x: _Q8, padding: _Padding, zero: int) -> _Q8: ...
def q8_add(
    a: _Q8,
    b: _Q8,
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
) -> _Q8: ...
def q8_softmax(x: _Q8, *, multiplier: int, shift: int) -> _Q8: ...
def q8_quantise(x: _F32, scale: float, zero: int, rounding: str = "half_away") -> _Q8: ...
def q8_dequantise(q: _Q8, scale: float, zero: int) -> _F32: ...
def q8_requantise(
    x: _Q8,
    *,
    x_zero: int,
    y_zero: int,
    multiplier: _I32,
    shift: _I32,
    y_min: int = -128,
    y_max: int = 127,
) -> _Q8: ...

class Q8Chain:
    def __init__(self, shape: tuple[int, int, int, int]) -> None: ...
    def conv2d(
        self,
        source: int,
        w: _Q8,
        bias: _I32 | None = None,
        *,
        x_zero: int,
        y_zero: int,
        multiplier: _I32,
        shift: _I32,
        stride: _Pair = (1, 1),
        padding: _Padding = ((0, 0), (0, 0)),
        dilation: _Pair = (1, 1),
        y_min: int = -128,
        y_max: int = 127,
    ) -> int: ...
    def depthwise_conv2d(
        self,
        source: int,
        w: _Q8,
        bias: _I32 | None = None,
        *,
        x_zero: int,
        y_zero: int,
        multiplier: _I32,
        shift: _I32,
        stride: _Pair = (1, 1),
        padding: _Padding = ((0, 0), (0, 0)),
        dilation: _Pair = (1, 1),
        y_min: int = -128,
        y_max: int = 127,
    ) -> int: ...
    def dense(
        self,
        source: int,
        w: _Q8,
        bias: _I32 | None = None,
        *,
        x_zero: int,
        y_zero: int,
        multiplier: _I32,
        shift: _I32,
        y_min: int = -128,
        y_max: int = 127,
    ) -> int: ...
    def max_pool2d(
        self,
        source: int,
        kernel: _Pair,
        stride: _Pair,
        padding: _Padding = ((0, 0), (0, 0)),
        *,
        y_min: int = -128,
        y_max: int = 127,
    ) -> int: ...
    def average_pool2d(
        self,
        source: int,
        kernel: _Pair,
        stride: _Pair,
        padding: _Padding = ((0, 0), (0, 0)),
        *,
        y_min: int = -128,
        y_max: int = 127,
    ) -> int: ...
    def add(
        self,
        a: int,
        b: int,
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
    ) -> int: ...
    def flatten(self, source: int) -> int: ...
    def forward(self, x: _Q8) -> _Q8: ...

_Mode = Literal["stochastic", "nearest", "truncate"]

def q8_mask(dy: _Q8, y: _Q8, y_min: int = -128, y_max: int = 127) -> _Q8: ...
def q8_weigh(
    dy: _Q8,
    ratios: NDArray[np.uint16],
    *,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> _Q8: ...
def q8_settle(
    sums: _I32,
    exponent: int,
    *,
    multiplier: int = 0,
    shift: int = 0,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> tuple[_Q8, int]: ...
def q8_join(
    a: _Q8,
    a_exponent: int,
    b: _Q8,
    b_exponent: int,
    *,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> tuple[_Q8, int]: ...
def q8_add_gradient(
    dy: _Q8,
    exponent: int,
    ratio: float,
    *,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> tuple[_Q8, int]: ...
def q8_conv2d_input_sums(
    dy: _Q8,
    w: _Q8,
    size: _Pair,
    *,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    groups: int = 1,
) -> _I32: ...
def q8_conv2d_weight_sums(
    dy: _Q8,
    x: _Q8,
    kernel: _Pair,
    *,
    x_zero: int,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
    groups: int = 1,
) -> _I32: ...
def q8_depthwise_input_sums(
    dy: _Q8,
    w: _Q8,
    size: _Pair,
    channels: int,
    *,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _I32: ...
def q8_depthwise_weight_sums(
    dy: _Q8,
    x: _Q8,
    kernel: _Pair,
    *,
    x_zero: int,
    stride: _Pair = (1, 1),
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _I32: ...
def q8_bias_sums(dy: _Q8) -> _I32: ...
def q8_max_pool2d_sums(
    dy: _Q8,
    x: _Q8,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _I32: ...
def q8_average_pool2d_sums(
    dy: _Q8,
    size: _Pair,
    kernel: _Pair = (2, 2),
    stride: _Pair | None = None,
    padding: _Padding = ((0, 0), (0, 0)),
    dilation: _Pair = (1, 1),
) -> _I32: ...
def q8_update(
    w: _Q8,
    v: _Q8 | None,
    v_exponent: int,
    dw: _I32,
    exponent: int,
    steps: _F32,
    *,
    rate: float,
    momentum: float = 0.0,
    decay: float = 0.0,
    depthwise: bool = False,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> int: ...
def q8_update_float(
    w: _Q8,
    v: _F32,
    dw: _I32,
    exponent: int,
    steps: _F32,
    *,
    rate: float,
    momentum: float = 0.0,
    decay: float = 0.0,
    depthwise: bool = False,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> None: ...
def q8_update_bias(
    b: _I32,
    v: _I32 | None,
    db: _I32,
    exponent: int,
    steps: _F32,
    per_input: float,
    *,
    most: int,
    rate: float,
    momentum: float = 0.0,
    seed: int = 0,
    stream: int = 0,
    mode: _Mode = "stochastic",
) -> None: ...
