"""A front traced on this machine and on an emulated board: checksums of all that it makes, layer by
layer."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..kernels.front import trace
from ..runtime.arena import round16
from ..runtime.errors import UserError
from ..runtime.plan import read_plan
from . import image, objects
from .device import DOES_NOT_FIT
from .target import Target

HEAD = struct.Struct("<5i2iIi3f16x")
# As seam_trace_kind counts them; four are of no single layer.
PASSES: tuple[str, ...] = ("input", "forward", "loss", "gradient", "backward")
PASSES += ("weight gradient", "learned", "momentum")
NO_LAYER = ("input", "loss", "gradient", "momentum")
MODES = ("nearest", "stochastic", "truncate")
SOURCES = [
    image.HERE / "trace_image.c",
    *image.KERNEL_FILES,
    *(image.CORE / f"{stem}.c" for stem in ("plan", "front", "trace")),
    *sorted(image.CORE.glob("front_q8*.c")),
]
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Step:
    """A step to trace. parameters: as the plan's front takes them, f32 or an int8 front's blob; x:
    float32 [n, h, w, c]; labels: int32 [n], the loss is on the device; gradient: of the output,
    float32 or int8 (which counts 2^exponent), the loss is not. With neither, the forward pass
    alone.
    """

    plan: bytes
    parameters: bytes
    x: NDArray[np.float32]
    labels: NDArray[np.int32] | None = None
    gradient: NDArray[np.float32] | NDArray[np.int8] | None = None
    exponent: int = 0
    rate: float = 0.0
    momentum: float = 0.0
    decay: float = 0.0
    seed: int = 0
    mode: str = "stochastic"

    def record(self) -> bytes:
        """As seam_trace.h has it."""
        labels = b"" if self.labels is None else self.labels.astype("<i4").tobytes()
        gradient = b"" if self.gradient is None else self.gradient.tobytes()
        x = self.x.astype("<f4").tobytes()
        arrays = [self.plan, self.parameters, x, labels, gradient]
        numbers = len(self.x), self.exponent, self.seed, MODES.index(self.mode)
        head = HEAD.pack(*map(len, arrays), *numbers, self.rate, self.momentum, self.decay)
        return b"".join(part + bytes(-len(part) % 16) for part in (head, *arrays))


@dataclass(frozen=True)
class Sum:
    """CRC-32 of what a pass has made of a layer. layer: None where it is of no single one."""

    layer: int | None
    pass_: str
    crc: int


def _sums(rows: Sequence[Sequence[int]]) -> list[Sum]:
    found = []
    for kind, layer, crc in rows:
        name = PASSES[kind]
        found.append(Sum(None if name in NO_LAYER else int(layer), name, int(crc)))
    return found


def trace_here(step: Step) -> list[Sum]:
    """What this machine's kernels make, in the order they make it. Raises SeamError."""
    rows = trace(step.record(), read_plan(step.plan).arena_bytes)
    return _sums([[int(value) for value in row] for row in rows])


def trace_board(step: Step, target: Target, folder: Path) -> list[Sum]:
    """What an image for the board makes, in the emulator. folder: for its files.

    Raises UserError (exit 5) where the board has too little memory, RuntimeError where the image
    does not build or fails.
    """
    record = step.record()
    (folder / "record.bin").write_bytes(record)
    room = round16(len(record)) + round16(read_plan(step.plan).arena_bytes)
    flags = [f"-DTRACE_BYTES={room}u", target.optimise]
    board = target.board
    try:
        made = objects.compile_files(board, [*SOURCES, *objects.base_files(board)], folder, flags)
        linked = objects.link(
            board, made, folder, [f"-Wl,--defsym=image_stack_bytes={target.stack}"]
        )
    except RuntimeError as error:
        if "overflowed" not in str(error) and "left for the stack" not in str(error):
            raise
        raise UserError(
            f"{target.name} has too little RAM for {room:,} bytes of samples, parameters and arena:"
            " take fewer samples (--samples), a job with a smaller batch, or another board",
            DOES_NOT_FIT,
        ) from None
    said = image.run(board, linked.image, [str(folder / "record.bin")], timeout_s=TIMEOUT_S)
    lines = [line.split() for line in said.splitlines()]  # the emulator has its say among them
    return _sums([list(map(int, words)) for mark, *words in filter(None, lines) if mark == "sum"])
