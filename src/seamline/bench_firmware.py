"""`seamline firmware bench`: instructions, RAM, flash and stack of networks and of training steps
on emulated Cortex-M boards, beside CMSIS-NN's published totals."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .firmware_bridge import bench_forward, bench_step, image, objects
from .machine import describe_machine
from .runtime.errors import UserError
from .runtime.networks import NETWORKS, Network, network
from .table import print_table

Row = dict[str, Any]
PASSES, DTYPES = ("forward", "step"), ("f32", "q8")
PEER = "CMSIS-NN"
# Instructions of whole networks, softmax included: GCC 12.2 -Ofast, QEMU 7.2, its own strongest
# settings (plain C on M3, DSP on M4, Helium on M55).
PUBLISHED = {
    "an385": {"kws": 10_540_000, "ic": 41_750_000, "vww": 32_080_000, "ad": 950_000},
    "an386": {"kws": 7_840_000, "ic": 29_850_000, "vww": 24_710_000, "ad": 580_000},
    "an547": {"kws": 1_780_000, "ic": 4_810_000, "vww": 6_420_000, "ad": 150_000},
}
F32_BOARDS = ("an386", "an500")  # M4F, M7
HEAD = ["board", "net", "layer", "pass", "dtype", "instructions", "a MAC", "CMSIS-NN"]
HEAD += ["RAM", "flash", "stack"]


def run_bench_firmware(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a board gave other bytes than this machine."""
    boards, nets = args.board or list(image.BOARDS), args.net or list(NETWORKS)
    for option, given, known in (("board", boards, image.BOARDS), ("net", nets, NETWORKS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UserError(f"--{option} {unknown[0]}: there are {', '.join(known)}")
    image.need()
    rows: list[Row] = []
    try:
        for name in boards:
            for part in _parts(name, nets, args):
                rows += part
                _progress(f"{name} {part[0]['net']} {part[0]['pass']} {part[0]['dtype']}")
    except RuntimeError as error:
        raise UserError(str(error), 1) from None
    finally:
        _progress("")
    command = " ".join(args.command_line)
    if args.format == "json":
        document = {"machine": describe_machine(), "command": command, "rows": rows}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        print_table(HEAD, [_cells(row) for row in rows], words=5)
    wrong = [f"{row['board']} {row['net']} {row['pass']}" for row in rows if not row["same"]]
    if wrong:
        sys.stderr.write(f"other bytes than on this machine: {', '.join(wrong)}\n")
    return 1 if wrong else 0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _parts(board: str, nets: list[str], args: argparse.Namespace) -> Iterator[list[Row]]:
    """Rows of one network, pass and arithmetic after the other; each image is built once."""
    passes, dtypes = args.passes or PASSES, args.dtypes or DTYPES
    networks = [network(name) for name in nets]
    if "forward" in passes and "q8" in dtypes:
        for net in networks:
            with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
                yield _forward(board, net, Path(draft))
    for dtype in DTYPES:
        if "step" not in passes or dtype not in dtypes:
            continue
        if dtype == "f32" and board not in F32_BOARDS:
            continue
        with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
            built = bench_step.build(image.BOARDS[board], dtype, Path(draft))
            for net in networks:
                case = bench_step.case_of(net, dtype, args.recompute)
                yield _step(board, net, case, built, Path(draft))


def _row(
    board: str, net: Network, layer: str, what: tuple[str, str], instructions: int, macs: int
) -> Row:
    """what: pass and dtype. Memory is that of the whole: a layer has none of its own."""
    return {
        "board": board,
        "net": net.name,
        "layer": layer,
        "pass": what[0],
        "dtype": what[1],
        "instructions": instructions,
        "ram_bytes": None,
        "flash_bytes": None,
        "stack_bytes": None,
        "macs": macs,
        "per_mac": round(instructions / macs, 3) if macs else None,
        "peer": None,
        "peer_instructions": None,
        "same": True,
    }


def _forward(board: str, net: Network, folder: Path) -> list[Row]:
    case = bench_forward.case_of(net)
    found = bench_forward.run(image.BOARDS[board], case, folder)
    what = ("forward", "q8")
    whole = _row(board, net, "all", what, found.instructions, sum(case.macs))
    whole |= {"ram_bytes": found.ram, "flash_bytes": found.flash, "stack_bytes": found.stack}
    published = PUBLISHED.get(board, {}).get(net.name)
    if published is not None:
        whole |= {"peer": PEER, "peer_instructions": published}
    whole["same"] = found.same
    each = zip(case.units, found.layers, case.macs, strict=True)
    rows = [_row(board, net, name, what, count, macs) for name, count, macs in each]
    if net.name not in bench_forward.WITHOUT_SOFTMAX:
        rows.append(_row(board, net, "softmax", what, found.softmax, 0))
    return [*rows, whole]


def _step(
    board: str, net: Network, case: bench_step.Case, built: objects.Linked, folder: Path
) -> list[Row]:
    found = bench_step.run(image.BOARDS[board], built, case, folder)
    what = ("step", case.dtype)
    outside = objects.scaffold(image.BOARDS[board], bench_step.OWN)
    whole = _row(board, net, "front", what, found.instructions, case.macs)
    whole["ram_bytes"] = found.arena + built.total("bss", outside) + built.total("data", outside)
    code = built.total("text", outside) + built.total("data", outside)
    whole["flash_bytes"] = code + case.plan_bytes
    whole["stack_bytes"] = found.stack
    whole["same"] = found.learned == case.learned
    each = zip(case.units, found.units, case.unit_macs, strict=True)
    rows = [_row(board, net, unit.name, what, count, macs) for unit, count, macs in each]
    if case.dtype == "f32":  # int8 fronts learn on their way back
        rows.append(_row(board, net, "update", what, found.update, 0))
    return [*rows, whole]


def _cells(row: Row) -> list[str]:
    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    figures = [row["instructions"], row["peer_instructions"]]
    figures += [row[f"{what}_bytes"] for what in ("ram", "flash", "stack")]
    first, *rest = [number(value) for value in figures]
    per_mac = "-" if row["per_mac"] is None else f"{row['per_mac']:.2f}"
    words = [row[name] for name in ("board", "net", "layer", "pass", "dtype")]
    return [*words, first, per_mac, *rest]
