"""Bytes and accuracy of a job whose models travel between zones and cloud in each codec, or
(--cut) whose activations and gradients do between devices and edge hosts.

    python tests/fleet/cloud_codecs.py --seeds 3 --rounds 88
    python tests/fleet/cloud_codecs.py --seeds 3 --rounds 88 --cut

Two zones of the watch data's ten people and the cloud, by the product's own trainer, uplink and
rounds, in this process: only links and files are left out. Bytes are those of whole messages.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from seamline.cloud.rounds import Rounds, Send, State
from seamline.edge_host.local_zone import LocalZone
from seamline.edge_host.uplink import Finish, Train, Uplink
from seamline.edge_host.zone_differences import ZoneDifferences
from seamline.kernels import parcel
from seamline.runtime import message as wire
from seamline.runtime.config import Job, make_job
from seamline.runtime.data import device_data
from seamline.runtime.ledger import Ledger, add
from seamline.runtime.message import Message

ZONES = "AB"
ROWS: dict[str, dict[str, Any]] = {
    "f32": {"cloud": "f32"},
    "int8": {"cloud": "int8"},
    "int4": {"cloud": "int4"},
    "int2": {"cloud": "int2"},
    "top10": {"cloud": "top10"},
    "auto, error of int8": {"cloud": "auto"},
    "auto, 8 times that": {"cloud": "auto", "cloud_alpha": 8.0},
    "auto, 6,000 bytes": {"cloud": "auto", "cloud_bytes": 6000},
}

CUT = {codec: {"up": codec, "down": codec} for codec in parcel.CODECS}


def job_of(codec: dict[str, Any], seed: int, rounds: int) -> Job:
    devices = [
        {"id": f"watch-{i}", "zone": ZONES[i % 2], "data": {"person": i}} for i in range(1, 11)
    ]
    values = {
        "seed": seed,
        "codec": codec,
        "train": {"cloud_rounds": rounds, "evaluate_every": 0},
        "zones": [{"name": zone, "address": "tcp://127.0.0.1:0"} for zone in ZONES],
        "devices": devices,
    }
    return make_job(values, "codecs", Path.cwd())


class Zone:
    """A zone with its devices, and what it says to the cloud."""

    def __init__(self, job: Job, name: str) -> None:
        data = {d.id: device_data(job, d.id) for d in job.devices if d.zone == name}
        self.name, self.local = name, LocalZone(job, name, data)
        ends = None if job.codec.cloud == "f32" else ZoneDifferences(job.codec)
        self.uplink = Uplink(name, job.name, 0.0, differences=ends)
        self.right = self.total = 0

    def hear(self, data: bytes) -> None:
        order = self.uplink.receive(data)
        trainer = self.local.trainer
        if isinstance(order, Train):
            trainer.train(order.round, order.state)
            start = trainer.state() if order.state is not None else {}
            result = self.local._work()
            difference = {k: v - start.get(k, 0) for k, v in result.state.items()}
            self.uplink.update(order.round, result.samples, {}, difference)
            self.uplink.send_update(0.0)
        elif isinstance(order, Finish):
            trainer.evaluate(order.rounds, order.state)
            for found in self.local._work().metrics["evaluated"].values():
                self.right += found["correct"]
                self.total += found["total"]


def run(job: Job, *, cut: bool) -> tuple[float, dict[str, dict[str, int]]]:
    """Accuracy, and the ledger of both zones: of their devices, or to the cloud."""
    cloud, zones = Rounds(job, State(), 0.0), {name: Zone(job, name) for name in ZONES}
    waiting: list[tuple[str, bytes]] = []
    for zone in zones.values():
        zone.uplink.tick(0.0)
    ledger = Ledger()
    while any(zone.uplink.outbox for zone in zones.values()) or waiting:
        for zone in zones.values():
            said, zone.uplink.outbox = zone.uplink.outbox, []
            for data in said:
                message = Message.decode(data)
                ledger.count("up", message, len(data))
                meta, arrays = wire.read_zone(message.body)
                for effect in cloud.receive(zone.name, message.kind, meta, arrays, 0.0):
                    if isinstance(effect, Send):
                        body = wire.zone_body(effect.meta, effect.arrays, effect.parcels)
                        out = Message(effect.kind, round=effect.round, body=body)
                        waiting.append((effect.zone, out.encode()))
                        ledger.count("down", out, len(waiting[-1][1]))
        for name, data in waiting:
            zones[name].hear(data)
        waiting = []
    right, total = (sum(getattr(z, what) for z in zones.values()) for what in ("right", "total"))
    if cut:
        tables = [zone.local.fleet.ledger.total for zone in zones.values()]
        return right / total, functools.reduce(add, tables)
    return right / total, ledger.total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--only", nargs="*", metavar="ROW")
    arguments = parser.parse_args()
    rows = CUT if arguments.cut else ROWS
    print(f"{'codec':<22}{'accuracy, %':>24}{'mean':>8}{'kB up':>9}{'kB down':>9}{'s a run':>9}")
    for name in arguments.only or rows:
        began, shares, ledger = time.monotonic(), [], {}
        for seed in range(arguments.seeds):
            share, ledger = run(job_of(rows[name], seed, arguments.rounds), cut=arguments.cut)
            shares.append(100 * share)
        up, down = (sum(ledger[way].values()) / 1000 for way in ("up", "down"))
        seconds = (time.monotonic() - began) / arguments.seeds
        each = " ".join(f"{share:.2f}" for share in shares)
        figures = f"{np.mean(shares):>8.2f}{up:>9.1f}{down:>9.1f}{seconds:>9.1f}"
        print(f"{name:<22}{each:>24}{figures}", flush=True)
        sys.stderr.write(f"{name}: {json.dumps(ledger)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
