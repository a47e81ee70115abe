"""Types of the compiled module; its own docstrings say the rest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

_F = NDArray[np.float32]
_Shape = tuple[int, int, int]

HEADER: int
NOTHING: int
SEND: int
TRAIN: int
TEST: int
END: int
FAIL: int

def choose_variant(name: str) -> None: ...
def encode_message(
    kind: int, session: int, round: int, step: int, flags: int, body: Buffer
) -> bytes: ...
def decode_message(data: Buffer) -> tuple[int, int, int, int, int, memoryview]: ...
def layer_scratch(
    kind: int,
    batch: int,
    in_shape: _Shape,
    out_shape: _Shape,
    window: tuple[int, ...],
    source: int,
) -> int: ...
def q8_layer_scratch(
    kind: int,
    batch: int,
    in_shape: _Shape,
    out_shape: _Shape,
    window: tuple[int, ...],
    input: int,
    parameters: int,
    has_bias: bool,
    joining: bool,
    inference: bool,
) -> tuple[int, int, int]: ...
def trace(record: Buffer, arena_size: int) -> NDArray[np.uint32]: ...
def exit_answers(logits: _F, temperature: float, most_entropy: float) -> NDArray[np.int32]: ...
def check_plan(data: Buffer) -> tuple[int, int, int, int]: ...

class Front:
    arena: NDArray[np.uint8]
    params: _F
    momentum: _F
    gradients: _F
    input_shape: _Shape
    output_shape: _Shape
    seam_shape: _Shape
    def __init__(self, plan: bytes) -> None: ...
    @property
    def arena_size(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def forward(self, x: _F) -> _F: ...
    def crossing(self) -> _F: ...
    def backward(self, dy: _F | None = None) -> None: ...
    def loss(self, labels: NDArray[Any]) -> tuple[float, int]: ...
    def update(self, rate: float, momentum: float = 0.0, decay: float = 0.0) -> None: ...

class Q8Front:
    arena: NDArray[np.uint8]
    learned: NDArray[np.int8]
    velocity: NDArray[np.int8] | None
    velocity_exponents: NDArray[np.int32]
    extremes: NDArray[np.int8]
    input_shape: _Shape
    output_shape: _Shape
    seam_shape: _Shape
    def __init__(self, plan: bytes) -> None: ...
    @property
    def arena_size(self) -> int: ...
    @property
    def batch(self) -> int: ...
    def set(self, blob: Buffer) -> None: ...
    def forward(self, x: _F | NDArray[np.int8], note: bool = False) -> NDArray[np.int8]: ...
    def crossing(self) -> NDArray[np.int8]: ...
    def backward(
        self,
        dy: NDArray[np.int8],
        exponent: int,
        *,
        rate: float,
        momentum: float = 0.0,
        decay: float = 0.0,
        seed: int = 0,
        mode: str = "stochastic",
    ) -> None: ...
    def train(
        self,
        labels: NDArray[Any],
        *,
        rate: float,
        momentum: float = 0.0,
        decay: float = 0.0,
        seed: int = 0,
        mode: str = "stochastic",
    ) -> tuple[float, int]: ...

class Session:
    params: _F | None
    momentum: _F | None
    learned: NDArray[np.int8] | None
    velocity: NDArray[np.int8] | None
    exponents: NDArray[np.int32] | None
    inputs: _F
    labels: NDArray[np.int32]
    plan: bytes | None
    def __init__(
        self,
        device_id: str,
        boot_id: bytes,
        training_samples: int,
        test_samples: int,
        memory_limit: int = 0,
        *,
        samples: tuple[float, float] = (0.0, 0.0),
    ) -> None: ...
    def kept(self) -> dict[str, NDArray[Any]]: ...
    def restore_front(self, kept: Mapping[str, NDArray[Any]]) -> None: ...
    def restore_momentum(self, kept: Mapping[str, NDArray[Any]]) -> None: ...
    def hello(self) -> bytes: ...
    def saved(self, round: int, plan: bytes | None) -> None: ...
    @property
    def memory_bytes(self) -> int: ...
    def answer(self) -> bytes: ...
    def receive(self, data: Buffer) -> int: ...
    def batch(self) -> int: ...
    def refuse(self, status: int) -> int: ...
    @property
    def need_first(self) -> int: ...
    @property
    def need_count(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def trained_round(self) -> int: ...
    @property
    def failure(self) -> tuple[int, str]: ...
