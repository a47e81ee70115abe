"""`seamline firmware trace`: one training step of a device on a board, compared with this machine
layer by layer."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .firmware_bridge import image
from .firmware_bridge.target import TARGETS, find_target
from .firmware_bridge.trace import Step, Sum, trace_board, trace_here
from .kernels import random_bits
from .machine import describe_machine
from .runtime.config import LOCAL_MODES, Job, find_device
from .runtime.data import device_data
from .runtime.device import BatchOrder
from .runtime.errors import UserError
from .runtime.message import Kind
from .runtime.plan import read_plan
from .table import print_table

if TYPE_CHECKING:
    from .edge_host.split import Split

DIFFERS = 1
ROUND_FACTOR = 2654435761  # SPEC.md: seed of a step's roundings
MASK = 0xFFFFFFFF


def run_trace(args: argparse.Namespace, job: Job) -> int:
    """Traces and prints; 1 if the board made other bytes than this machine. Raises UserError."""
    from .edge_host.host import cut_model

    image.need()
    target = find_target(args.board)
    if target.name not in TARGETS:
        raise UserError(f"--board {args.board}: there are {', '.join(TARGETS)}")
    find_device(job, args.id)
    step = make_step(job, cut_model(job), args.id, args.samples, whole=args.pass_ == "step")
    here = trace_here(step)
    try:
        with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
            there = trace_board(step, target, Path(draft))
    except RuntimeError as error:
        raise UserError(str(error), DIFFERS) from None
    rows = compare(here, there, read_plan(step.plan).kinds)
    _print(args, rows, step)
    first = next((row for row in rows if not row["same"]), None)
    if first is not None:
        sys.stderr.write(
            f"first difference: {_name(first)}, {first['pass']}: {first['here']} on this machine, "
            f"{first['board']} on {args.board}\n"
        )
    return DIFFERS if first is not None else 0


# ---- what is traced ----


def make_step(
    job: Job, cut: Split, device_id: str, samples: int | None, *, whole: bool = True
) -> Step:
    """The first training step of the job's first round, on the device's own samples, from the
    parameters that its edge host sends it. samples: at most so many; whole: with the way back.
    """
    from .edge_host.first_step import gradient_of, start_of
    from .edge_host.host import make_plan
    from .edge_host.trainer import device_seed

    data, train = device_data(job, device_id), job.train
    seed = device_seed(job.seed, device_id)
    chosen = BatchOrder(len(data.x_train), seed).indices(0, train.batch)[:samples]
    x, labels = data.x_train[chosen], data.y_train[chosen].astype(np.int32)
    plan, start = make_plan(job, cut), start_of(job, cut, device_id, data.x_train)
    if not whole:
        return Step(plan, start.parameters, x)
    local = job.mode in LOCAL_MODES
    kind = Kind.STEP if local else Kind.GRAD
    rounding = random_bits(seed, (ROUND_FACTOR + kind) & MASK, 0, 1)[0]
    how: dict[str, Any] = {
        "rate": train.front_rate,
        "momentum": 0.0 if start.q8 and train.q8_momentum == "none" else train.momentum,
        "decay": train.weight_decay,
        "seed": int(rounding),
        "mode": train.q8_rounding,
    }
    if local:
        return Step(plan, start.parameters, x, labels, **how)
    gradient, exponent = gradient_of(cut, plan, start, x, labels)
    return Step(plan, start.parameters, x, None, gradient, exponent, **how)


# ---- what was found ----


def compare(here: list[Sum], there: list[Sum], kinds: list[str]) -> list[dict[str, Any]]:
    """A row a checksum, in the order of the work. Raises UserError if the board told of other
    things.
    """
    if [(s.layer, s.pass_) for s in here] != [(s.layer, s.pass_) for s in there]:
        raise UserError(
            f"expected {len(here)} checksums of the board, got {len(there)} or others: build again",
            DIFFERS,
        )
    return [
        {
            "layer": ours.layer,
            "name": "" if ours.layer is None else kinds[ours.layer],
            "pass": ours.pass_,
            "here": f"{ours.crc:08x}",
            "board": f"{theirs.crc:08x}",
            "same": ours.crc == theirs.crc,
        }
        for ours, theirs in zip(here, there, strict=True)
    ]


def _name(row: dict[str, Any]) -> str:
    return "all" if row["layer"] is None else f"layer {row['layer']} {row['name']}"


def _print(args: argparse.Namespace, rows: list[dict[str, Any]], step: Step) -> None:
    if args.format == "json":
        document = {
            "machine": describe_machine(),
            "command": " ".join(args.command_line),
            "board": args.board,
            "device": args.id,
            "samples": len(step.x),
            "same": all(row["same"] for row in rows),
            "rows": rows,
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    head = ["layer", "pass", "this machine", args.board, "same"]
    cells = [
        [_name(row), row["pass"], row["here"], row["board"], "yes" if row["same"] else "NO"]
        for row in rows
    ]
    print_table(head, cells, words=5)
