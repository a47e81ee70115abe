"""`seamline bench accuracy`: what training in int8 costs, beside f32, other roundings, and a front
that is never trained.

A row is whole training runs by the product's own trainer and sessions, in this process: only links
and files are left out. The seed draws the weights, the order of the samples and every rounding.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .edge_host.local_zone import LocalZone
from .events import json_emit
from .machine import describe_machine
from .runtime.bundled import is_here
from .runtime.config import Job, make_job
from .runtime.data import device_data
from .runtime.errors import UserError

Row = dict[str, Any]

ZONE = "A"
DEVICES = 10
NETS: dict[str, tuple[str, int, int]] = {  # data set -> model, seam, cloud rounds
    "watch": ("watch", 2, 88),
    "digits": ("digits", 3, 40),
}
VARIANTS: dict[str, dict[str, Any]] = {  # name of a row -> what of [train] makes it
    "f32": {},
    "q8 stochastic": {"arithmetic": "q8"},
    "q8 nearest": {"arithmetic": "q8", "q8_rounding": "nearest"},
    "q8 truncate": {"arithmetic": "q8", "q8_rounding": "truncate"},
    "frozen front": {"freeze_front": True},
}
MISSING = {
    "watch": "the watch data is not here: `seamline data get watch`",
    "digits": "the digits come with scikit-learn: pip install scikit-learn",
}


def bench_job(
    data: str, variant: str, seed: int, rounds: int | None, front_rate: float | None = None
) -> Job:
    """Ten devices of one zone, each with samples of its own."""
    model, seam, cloud_rounds = NETS[data]
    own = {"watch": lambda i: {"person": i}, "digits": lambda i: {"part": i, "parts": DEVICES}}
    train = {"cloud_rounds": rounds or cloud_rounds, "evaluate_every": 0, **VARIANTS[variant]}
    train |= {} if front_rate is None else {"front_rate": front_rate}
    values = {
        "name": f"{data} {variant}",
        "seed": seed,
        "model": {"name": model, "seam": seam},
        "data": {"source": data},
        "train": train,
        "zones": [{"name": ZONE, "address": "tcp://127.0.0.1:0"}],
        "devices": [
            {"id": f"{data}-{i}", "zone": ZONE, "data": own[data](i)} for i in range(1, DEVICES + 1)
        ],
    }
    return make_job(values, f"bench accuracy {data}", Path.cwd())


# ---- the rows ----


def run_bench_accuracy(args: argparse.Namespace) -> int:
    """Prints a row per data set and variant. Raises UserError where no data set is here."""
    notes = [MISSING[data] for data in args.data if not is_here(data)]
    here = [data for data in args.data if is_here(data)]
    if not here:
        raise UserError("; ".join(notes), 3)
    rows = [_row(data, variant, args) for data in here for variant in VARIANTS]
    for row in rows:
        base = next(r for r in rows if r["data"] == row["data"] and r["variant"] == "f32")
        row["points"] = round(100 * (row["mean"] - base["mean"]), 2)
    command = shlex.join(args.command_line)
    if args.format == "json":
        machine = describe_machine()
        json_emit({"command": command, "machine": machine, "rows": rows, "notes": notes})
    else:
        _print(command, rows, notes)
    return 0


def _row(data: str, variant: str, args: argparse.Namespace) -> Row:
    began = time.monotonic()
    found, seeds = [], args.seeds
    for seed in range(seeds):
        job = bench_job(data, variant, seed, args.rounds, args.front_rate)
        samples = {device.id: device_data(job, device.id) for device in job.devices}
        found.append(round(LocalZone(job, ZONE, samples).train(), 5))
        sys.stderr.write(f"{data}, {variant}, seed {seed}: {100 * found[-1]:.2f} %\n")
    train = job.train
    return {
        "data": data,
        "variant": variant,
        "seeds": seeds,
        "cloud_rounds": train.cloud_rounds,
        "front_rate": train.front_rate,
        "accuracies": found,
        "mean": round(float(np.mean(found)), 5),
        "min": min(found),
        "max": max(found),
        "seconds": round((time.monotonic() - began) / seeds, 1),
    }


def _print(command: str, rows: list[Row], notes: list[str]) -> None:
    print(command)
    print("accuracy on held-out samples in %, over the seeds; points: mean beside f32's")
    head = f"{'data':<8}{'front':<15}{'seeds':>6}{'mean':>8}{'min':>8}{'max':>8}{'points':>8}"
    print(f"{head}{'s a run':>9}")
    for row in rows:
        shares = "".join(f"{100 * row[key]:8.2f}" for key in ("mean", "min", "max"))
        print(
            f"{row['data']:<8}{row['variant']:<15}{row['seeds']:>6}{shares}"
            f"{row['points']:>+8.2f}{row['seconds']:>9.1f}"
        )
    for note in notes:
        print(note)
