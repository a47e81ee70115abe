"""Accuracy and bytes of the watch network with exits and with local loss: docs/exits.md's tables.

Run as a program; a row takes 5 to 30 s. Arguments: seeds (1); --calibrate: with samples kept apart,
what calibrated exits answer.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from seamline.edge_host.local_zone import LocalZone
from seamline.runtime.config import make_job
from seamline.runtime.data import device_data

ALONE = {"device_steps": 10, "edge_rounds": 1}
EXIT = {"exits": [2]}
ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [  # mode, codec, model, train
    ("split-v2", "int8", {}, {}),
    ("split-v2", "int8", EXIT, {}),
    ("split-v2", "int8", {**EXIT, "exit_weights": [0.3, 1.0]}, {}),
    ("local-loss", "int8", EXIT, ALONE),
    ("local-loss", "int8", EXIT, {**ALONE, "arithmetic": "q8"}),
    ("local-loss", "int4", EXIT, {**ALONE, "upload_every": 5}),
]


CALIBRATED: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("local-loss", "int8", EXIT, ALONE),
    ("split-v2", "int8", {"seam": 1, "exits": [1, 2, 3], "exit_weights": [0.3, 0.3, 0.3, 1.0]}, {}),
    ("split-v2", "int8", {**EXIT, "exit_weights": [0.3, 1.0]}, {}),
]


def run(
    mode: str, codec: str, model: dict[str, Any], train: dict[str, Any], seed: int, apart: int = 0
) -> str:
    """One training; what it came to, as a line. apart: samples of each device to calibrate by."""
    values = {
        "name": "exits",
        "seed": seed,
        "mode": mode,
        "model": {"name": "watch", "seam": 2, **model},
        "data": {"source": "watch", "validation": apart},
        "codec": {"up": codec, "down": codec},
        "train": {"cloud_rounds": 88, "evaluate_every": 0, **train},
        "zones": [{"name": "A", "address": "tcp://127.0.0.1:0"}],
        "devices": [{"id": f"watch-{i}", "zone": "A", "data": {"person": i}} for i in range(1, 11)],
    }
    job = make_job(values, "exits", Path.cwd())
    began = time.monotonic()
    zone = LocalZone(job, "A", {d.id: device_data(job, d.id) for d in job.devices})
    zone.train()
    seconds = time.monotonic() - began
    total = sum(device["total"] for device in zone.scores.values())
    shares = {"end": sum(device["correct"] for device in zone.scores.values()) / total}
    for device in zone.scores.values():
        for name, found in device.get("exits", {}).items():
            shares[name] = shares.get(name, 0.0) + found["correct"] / total
    told = ", ".join(f"{name} {100 * share:.2f} %" for name, share in shares.items())
    if zone.trainer.calibration is not None:
        told += f"; {zone.trainer.calibration.tests}"
    up, down = (
        sum(getattr(traffic, way) for traffic in zone.fleet.traffic.values()) / 1e6
        for way in ("up", "down")
    )
    return (
        f"{mode} {codec} {model} {train}: {told}; {up:.1f} MB up, {down:.1f} down; {seconds:.0f} s"
    )


if __name__ == "__main__":
    calibrate = "--calibrate" in sys.argv
    seeds = [int(word) for word in sys.argv[1:] if word.isdigit()]
    for seed in range(seeds[0] if seeds else 1):
        for row in CALIBRATED if calibrate else ROWS:
            print(f"seed {seed}: {run(*row, seed, 100 if calibrate else 0)}", flush=True)
