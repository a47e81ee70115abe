"""Training steps of fronts on emulated boards: their instructions, memory, and that they learn what
this machine learns."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..kernels.front import Front, Q8Front
from ..runtime.calibration import calibrate
from ..runtime.networks import Network, Unit, costs, make_piece
from ..runtime.plan import build_plan, size_up
from ..runtime.q8_parameters import blob_of
from ..runtime.q8_plan import build_q8_plan, size_up_q8, sums_of
from ..runtime.quantise import quantise
from ..runtime.recompute import NOTHING, choose
from . import image, objects

HEAD = struct.Struct("<4I2i2f")
RATE, MOMENTUM, EXPONENT = 1e-3, 0.9, -12  # dy in int8 counts 2^-12 each
OWN = [image.HERE / "bench.c", image.HERE / "bench_step.c"]
SOURCES = [
    *OWN,
    *image.KERNEL_FILES,
    *(image.CORE / f"{stem}.c" for stem in ("plan", "front")),
    *sorted(image.CORE.glob("front_q8*.c")),
]
WRAPPED = {"f32": "seam_plan_layer", "q8": "seam_q8_front_step"}


@dataclass(frozen=True)
class Case:
    """A front with numbers in it. units: layers as the plan has them; learned: CRC-32 of what it
    has learned after one step; macs: of a step."""

    net: str
    dtype: str
    record: bytes
    units: list[Unit]
    learned: int
    macs: int
    unit_macs: list[int]
    plan_bytes: int


@dataclass(frozen=True)
class Step:
    """Instructions of the passes and, forward and backward in one, of each unit; bytes. passes:
    of each unit forward, then backward."""

    forward: int
    backward: int
    update: int
    units: list[int]
    arena: int
    stack: int
    learned: int
    passes: list[tuple[int, int]]

    @property
    def instructions(self) -> int:
        return self.forward + self.backward + self.update


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def case_of(net: Network, dtype: str, recompute: bool = False) -> Case:
    """The usual front of a network, batch 1, seeded numbers. recompute: in least memory, with more
    work; it learns the same.
    """
    layers, shape = net.part(0, net.front)
    piece = make_piece(layers, shape, 1)
    units = [unit for unit in net.units if unit.end <= net.front]
    x, dy = piece.x, piece.dy
    if dtype == "f32":
        again = choose(size_up(layers, shape, 1)) if recompute else NOTHING
        plan = build_plan(layers, shape, 1, again=again)
        front = Front(plan)
        front.params[:] = piece.parameters
        front.forward(x)
        front.backward(dy)
        front.update(RATE, MOMENTUM)
        arrays = [plan, piece.parameters.tobytes(), x.tobytes(), dy.tobytes()]
        learned = front.params.tobytes()
    else:
        ranges = calibrate(layers, shape, piece.parameters, x)
        made = quantise(layers, shape, piece.parameters, ranges)
        specs = [layer.spec for layer in made.layers]
        sums = sums_of(recompute=recompute)
        again = choose(size_up_q8(specs, shape, 1, sums=sums)) if recompute else NOTHING
        plan = build_q8_plan(specs, shape, 1, sums=sums, again=again)
        whole = Q8Front(plan)
        whole.set(blob_of(made))
        x8 = made.quantise(x)
        dy8 = np.random.default_rng(0).integers(-127, 128, dy.shape, dtype=np.int8)
        arrays = [plan, blob_of(made), x8.tobytes(), dy8.tobytes()]
        whole.forward(x8)
        whole.backward(dy8, EXPONENT, rate=RATE, momentum=MOMENTUM)
        learned = whole.learned.tobytes()
        units = [Unit(unit.name, i, i + 1) for i, unit in enumerate(units)]
        if len(units) != len(made.layers):
            raise ValueError(f"{net.name}: expected a layer a unit, got {len(made.layers)}")
    head = HEAD.pack(*map(len, arrays), 1, EXPONENT, RATE, MOMENTUM)
    record = b"".join(_padded(part) for part in (head, *arrays))
    unit_macs = [_step_macs(net, unit) for unit in net.units if unit.end <= net.front]
    return Case(
        net.name, dtype, record, units, zlib.crc32(learned), sum(unit_macs), unit_macs, len(plan)
    )


def _step_macs(net: Network, unit: Unit) -> int:
    """Forward, the gradient of the weights and, but for the first layer, of the input."""
    layers, shape = net.part(unit.first, unit.end)
    piece = make_piece(layers, shape, 1, inner=unit.first > 0)
    return sum(cost.macs for cost in costs(piece, "step"))


def build(board: image.Board, dtype: str, out: Path) -> objects.Linked:
    """The image of an arithmetic. Raises RuntimeError with what the compiler said."""
    flags = [f"-DBENCH_{dtype.upper()}"]
    made = objects.compile_files(board, [*SOURCES, *objects.base_files(board)], out, flags)
    return objects.link(board, made, out, [f"-Wl,--wrap={WRAPPED[dtype]}"])


def run(board: image.Board, built: objects.Linked, case: Case, folder: Path) -> Step:
    """One step on the board. Raises RuntimeError where the image fails."""
    path = folder / "front.bin"
    path.write_bytes(case.record)
    said = image.run(board, built.image, [str(path)], options=["-icount", "shift=6"])
    return _step_of(case.units, [line.split() for line in said.splitlines()])


def _step_of(units: Sequence[Unit], lines: list[list[str]]) -> Step:
    single = {name: int(value) for name, value in lines if not name.startswith("layer")}
    layers = [int(value) for name, value in lines if name.startswith("layer")]
    return Step(
        single["forward"],
        single["backward"],
        single["update"],
        [sum(layers[2 * unit.first : 2 * unit.end]) for unit in units],
        single["arena"],
        single["stack"],
        single["learned"],
        [
            (
                sum(layers[2 * unit.first : 2 * unit.end : 2]),
                sum(layers[2 * unit.first + 1 : 2 * unit.end : 2]),
            )
            for unit in units
        ],
    )
