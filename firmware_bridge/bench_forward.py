"""Whole networks in int8 on emulated boards, as `seamline firmware export` gives them:
instructions, memory, and that they make this machine's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..kernels import q8
from ..runtime.calibration import calibrate
from ..runtime.networks import Network, costs, make_piece
from ..runtime.quantise import quantise
from . import image, objects
from .export import Exported, export_front

WITHOUT_SOFTMAX = ("ad",)
HOOK = "-DFRONT_LAYER(index)=do { extern void bench_layer(int); bench_layer(index); } while (0)"


@dataclass(frozen=True)
class Case:
    """A network with numbers in it. units: names of its layers; macs: of each."""

    net: str
    made: Exported
    units: list[str]
    macs: list[int]
    flags: list[str]


@dataclass(frozen=True)
class Pass:
    """Instructions of all, of each layer and of the softmax; bytes."""

    instructions: int
    layers: list[int]
    softmax: int
    ram: int
    flash: int
    stack: int
    same: bool


def case_of(net: Network) -> Case:
    """With seeded numbers; a layer's activation is part of it."""
    piece = make_piece(net.layers, net.input_shape, 1)
    ranges = calibrate(net.layers, net.input_shape, piece.parameters, piece.x)
    front = quantise(net.layers, net.input_shape, piece.parameters, ranges)
    macs = []
    for unit in net.units:
        layers, shape = net.part(unit.first, unit.end)
        macs.append(sum(cost.macs for cost in costs(make_piece(layers, shape, 1), "forward")))
    units = [unit.name for unit in net.units]
    if len(units) != len(front.layers):
        raise ValueError(f"{net.name}: expected a layer a unit, got {len(front.layers)}")
    flags = [HOOK, f"-DBENCH_LAYERS={len(units)}"]
    if net.name not in WITHOUT_SOFTMAX:
        how = q8.softmax_scaling(front.scale(len(front.layers)))
        flags.append(f"-DBENCH_CLASSES={net.shapes[-1][2]}")
        flags += [f"-DBENCH_{name.upper()}={value}" for name, value in how.items()]
    return Case(net.name, export_front(front, "front", "bench"), units, macs, flags)


def run(board: image.Board, case: Case, folder: Path) -> Pass:
    """One pass on the board. Raises RuntimeError where the image does not build or fails."""
    files = {**case.made.source, "front_sample.h": case.made.sample}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    own = [image.HERE / "bench.c", image.HERE / "bench_forward.c", image.CORE / "q8_softmax.c"]
    sources = [folder / name for name in case.made.source if name.endswith(".c")]
    flags = [f"-I{folder}", *case.flags]
    whole = [*own, *sources, *objects.base_files(board)]
    built = objects.link(board, objects.compile_files(board, whole, folder / "o", flags), folder)
    said = image.run(board, built.image, options=["-icount", "shift=6"])
    lines = [line.split() for line in said.splitlines()]
    found = {name: int(value) for name, value in lines if name != "layer"}
    scaffold = objects.scaffold(board, own[:2])
    return Pass(
        found["forward"],
        [int(value) for name, value in lines if name == "layer"],
        found["softmax"],
        built.total("bss", scaffold) + built.total("data", scaffold),
        built.total("text", scaffold) + built.total("data", scaffold),
        found["stack"],
        bool(found["same"]),
    )
