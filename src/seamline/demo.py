"""The demo, and whole local runs of any job: training, the controls beside it, results, report."""

from __future__ import annotations

import argparse
import copy
import json
import os
import shlex
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .emulate import Networks, describe, network_words
from .events import Event, json_emit
from .live import make_show, megabytes, percent
from .machine import describe_machine
from .progress import Progress
from .run import LocalRun, ending_on_signals
from .runtime.config import (
    LOCAL_MODES,
    CodecSection,
    DeviceSection,
    Job,
    make_job,
    write_toml,
)
from .runtime.data import Data, device_data
from .runtime.errors import UserError
from .runtime.files import write_whole

PEOPLE = 10
ZONES = "ABCDEFGHIJ"
MARK = ".seamline-demo"  # in a folder that the demo may empty
SLOW_ROUND = 400_000  # bytes for which a round of the demo waits on the slowest network
LOCAL_STEPS = 10  # device steps between averages, of the controls that train on the device alone
BASELINES = ("federated", "isolated", "centralised", "frozen_front")
TITLES = {
    "federated": "federated averaging, whole network on the device",
    "isolated": "each device alone, on everyone's windows",
    "isolated_own": "each device alone, on its own windows",
    "centralised": "all data in one place, uncompressed",
    "frozen_front": "front never trained",
    "majority": "always the most frequent class",
}
BOARD_ROUNDS = 10  # edge rounds of the fleet with a board
MISSING = 7  # exit code of what is not installed
NO_BOARD = "none"
NO_EXITS = "this version has no exits on the device"


# ---- the demo's job ----


def demo_job(args: argparse.Namespace, folder: Path) -> Job:
    """One cloud, zones with people in turn, the last devices on serial lines. Raises UserError."""
    zones = args.zones or min(2, args.devices)
    if args.devices > PEOPLE:
        raise UserError(f"--devices {args.devices}: the watch data has {PEOPLE} people")
    if zones > args.devices:
        raise UserError(
            f"--zones {zones}: a zone needs at least one device, there are {args.devices}"
        )
    serial = 2 if args.devices >= 4 else args.devices // 2
    devices: list[dict[str, Any]] = []
    for person in range(1, args.devices + 1):
        device = {
            "id": f"watch-{person}",
            "zone": ZONES[(person - 1) % zones],
            "data": {"person": person},
        }
        if person > args.devices - serial:
            ends = (f"serial:lines/watch-{person}.{end}:921600" for end in ("device", "host"))
            device |= dict(zip(("link", "host_link"), ends, strict=True))
        devices.append(device)
    values: dict[str, Any] = {
        "name": "demo",
        "seed": args.seed,
        "out": ".",
        "model": {"name": "watch", "seam": int(args.seam) if args.seam.isdecimal() else args.seam},
        "data": {"source": "watch"},
        "codec": {"up": args.codec, "down": args.codec},
        "cloud": {"address": "tcp://127.0.0.1:0"},
        "zones": [{"name": ZONES[i], "address": "tcp://127.0.0.1:0"} for i in range(zones)],
        "devices": devices,
        "train": {
            "arithmetic": args.arithmetic,
            "q8_rounding": args.rounding,
            **({"cloud_rounds": args.rounds} if args.rounds else {}),
        },
    }
    job = make_job(values, "demo", folder)
    for trace in networks_of(args).check(job).values():  # no round gives up on a slow device
        deadline_s = float(round(8 * SLOW_ROUND / trace.slowest))
        job.round.deadline_s = max(job.round.deadline_s, deadline_s)
        job.round.join_wait_s = max(job.round.join_wait_s, job.round.deadline_s / 4)
    return job


def baseline_job(job: Job, name: str) -> Job:
    """The job of a control: as many samples seen, the same system, a folder of its own."""
    control = copy.deepcopy(job)
    control.name = f"{job.name} {name}"
    control.out = f"{job.out}/{name}"
    train = control.train
    train.evaluate_every = 0
    if name == "frozen_front":
        train.freeze_front = True
    elif name == "centralised":
        train.edge_rounds *= len(job.devices)
        control.codec = CodecSection(up="f32", down="f32")
        train.arithmetic = "f32"
        control.zones = control.zones[:1]
        one = copy.deepcopy(control.devices[0])
        one.id, one.link, one.host_link, one.data = "everyone", "", "", {"person": "all"}
        control.devices = [one]
        control.zones[0].name = one.zone
    else:
        control.mode = "federated" if name == "federated" else "isolated"
        steps = train.edge_rounds * train.device_steps
        train.device_steps = min(LOCAL_STEPS, steps)
        train.edge_rounds = max(1, steps // train.device_steps)
        if name == "isolated":  # one zone: each model meets everyone's windows
            control.zones = control.zones[:1]
            for device in control.devices:
                device.zone = control.zones[0].name
    return control


def board_job(job: Job, board: str) -> Job:
    """The fleet goes on with one more device, an emulated board; its wearer is the next person."""
    more = copy.deepcopy(job)
    more.name = f"{job.name} board"
    more.out = f"{job.out}/board"
    more.model.start = f"{job.out}/model.npz"
    more.round.wait = "all"
    train = more.train
    train.cloud_rounds, train.edge_rounds, train.device_steps = 1, BOARD_ROUNDS, 1
    train.evaluate_every, train.rate_decay = 0, "none"
    train.front_rate, train.back_rate = train.front_rate / 10, train.back_rate / 10
    number = len(job.devices) + 1
    person = {"person": (number - 1) % PEOPLE + 1}
    zone = job.zones[(number - 1) % len(job.zones)].name
    more.devices.append(DeviceSection(id=f"watch-{number}", zone=zone, data=person, board=board))
    return more


# ---- runs ----


def networks_of(args: argparse.Namespace) -> Networks:
    """What the command line says of emulated networks."""
    return Networks(getattr(args, "network", ""), getattr(args, "network_cloud", ""))


def run_local(
    job: Job,
    args: argparse.Namespace,
    title: str,
    insecure: bool = False,
    networks: Networks | None = None,
) -> Progress:
    """Runs a job to its end on this machine, shows it, returns what is known. Raises UserError."""
    show = make_show(args.format, title)
    search = [os.getcwd(), str(Path(getattr(args, "job", "job.toml")).absolute().parent)]
    began = time.monotonic()
    progress = Progress(job, began)
    networks = networks_of(args) if networks is None else networks
    with ending_on_signals(), LocalRun(job, insecure, search, networks) as run, show:
        for tier, event in run.events():
            now = time.monotonic()
            if event:
                progress.feed(tier, event, now)
                if args.format == "json" and args.tier_events:
                    json_emit({"tier": tier, **event})
            else:
                progress.now = now
            show.update(progress)
    progress.now = time.monotonic()
    return progress


def run_whole(job: Job, args: argparse.Namespace) -> int:
    """`seamline run JOB`: events or a table, then the results and the report."""
    args.tier_events = True
    progress = run_local(job, args, f"{job.name}: {job.mode}", args.insecure)
    document = {**results(progress), **_about(args, job)}
    document["network"] = describe(progress, networks_of(args))
    report = write_report(job, progress, document, {})
    if args.format == "json":
        json_emit({"event": "done", **document, "files": _files(job, report)})
    else:
        _print_results(document, {})
        _print_files(job, report)
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """`seamline demo`. The JSON document is the only thing on stdout when it is asked for."""
    from .runtime.bundled import NOTES, get_watch

    args.tier_events = False
    if args.board != NO_BOARD:
        from .firmware_bridge.target import find_target

        find_target(args.board)
    folder = prepare_folder(Path(args.out).absolute())
    job = demo_job(args, folder)
    (folder / "job.toml").write_text(write_toml(job), encoding="utf-8")
    get_watch()
    if args.format != "json":
        print(NOTES["watch"])
    progress = run_local(job, args, _title(job, networks_of(args)))
    document = {**results(progress), **_about(args, job)}
    document["majority"] = majority_share(job)
    document["network"] = describe(progress, networks_of(args))
    runs = {}
    for name in BASELINES if args.baselines else ():
        control = baseline_job(job, name)
        near = Networks() if name == "centralised" else None  # there all is in one place
        runs[name] = run_local(control, args, f"control: {TITLES[name]}", networks=near)
        found = results(runs[name])
        document[name] = found["accuracy"]
        if name == "isolated":
            document["isolated_own"] = own_accuracy(runs[name])
    if args.board != NO_BOARD:
        document["board"] = _with_board(job, args)
    report = write_report(job, progress, document, runs)
    if args.format == "json":
        json_emit(document)
    else:
        _print_results(document, runs)
        _print_files(job, report)
    return 0


def _with_board(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """Some rounds of the fleet with a board; `missing`: why there is none."""
    from .firmware_bridge.device import DOES_NOT_FIT
    from .firmware_bridge.target import find_target

    more, target = board_job(job, args.board), find_target(args.board)
    board = more.devices[-1]
    about = {"board": args.board, "core": target.board.core, "device": board.id}
    title = f"{board.id} joins: {target.board.core} ({args.board}), emulated, over its UART"
    try:
        progress = run_local(more, args, title)
    except UserError as error:
        if error.exit_code not in (MISSING, DOES_NOT_FIT):
            raise
        return {**about, "missing": str(error)}
    found = results(progress)
    return {
        **about,
        "steps": BOARD_ROUNDS,
        "accuracy": found["per_device"][board.id],
        "fleet_accuracy": found["accuracy"],
        "wall_s": found["wall_s"],
        "model_hash": found["model_hash"],
    }


def _title(job: Job, networks: Networks) -> str:
    words = network_words(networks)
    return (
        f"seamline demo: {len(job.devices)} devices, {len(job.zones)} zones, {job.mode}, "
        f"{arithmetic_words(job)}, {job.codec.up} up, {job.codec.down} down, "
        f"seam {job.model.seam}, seed {job.seed}" + (f", {words}" if words else "")
    )


def arithmetic_words(job: Job) -> str:
    """What the fronts compute in."""
    train = job.train
    return f"q8 fronts ({train.q8_rounding})" if train.arithmetic == "q8" else "f32 fronts"


def prepare_folder(folder: Path) -> Path:
    """An empty folder: new, or left by an earlier demo. UserError if it holds anything else."""
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MARK).exists():
                raise UserError(
                    f"--out {folder} is not empty and not of an earlier demo: choose another"
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text("seamline demo: this folder is emptied by the next run\n")
    except OSError as error:
        raise UserError(f"cannot write to --out {folder}: {error.strerror}") from None
    return folder


# ---- results ----


def results(progress: Progress) -> dict[str, Any]:
    """The fields of one run. accuracy: final model, all held-out samples of all devices."""
    correct = sum(device.correct for device in progress.devices.values())
    total = sum(device.total for device in progress.devices.values())
    compute = [device.compute_s for device in progress.devices.values()]
    return {
        "accuracy": round(correct / total, 5) if total else None,
        "per_device": {
            id_: None if device.accuracy is None else round(device.accuracy, 5)
            for id_, device in progress.devices.items()
        },
        "wall_s": round(progress.seconds, 2),
        "bytes_up": progress.bytes_up,
        "bytes_down": progress.bytes_down,
        "cloud_rounds": progress.cloud_rounds,
        "device_vmhwm_mb": max((d.vmhwm_mb for d in progress.devices.values()), default=0.0)
        or None,
        "device_compute_s": round(max(compute, default=0.0), 3),
        "model_hash": progress.hash,
        "ledger": progress.ledger,
    }


def own_accuracy(progress: Progress) -> float | None:
    """Isolated devices: each model on its own wearer's held-out samples."""
    correct = sum(device.own_correct or 0 for device in progress.devices.values())
    total = sum(device.own_total or 0 for device in progress.devices.values())
    return round(correct / total, 5) if total else None


def majority_share(job: Job) -> float | None:
    """Accuracy of the answer that is most frequent among all training labels."""
    data: list[Data] = [device_data(job, device.id) for device in job.devices]
    counts = np.bincount(np.concatenate([one.y_train for one in data]))
    tests = np.concatenate([one.y_test for one in data])
    return round(float(np.mean(tests == counts.argmax())), 5) if len(tests) else None


def _about(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """What every document says beside its figures; controls that did not run are null."""
    return {
        "frozen_front": None,
        "device_exit": None,
        "device_exit_reason": NO_EXITS,
        "isolated": None,
        "federated": None,
        "centralised": None,
        "majority": None,
        "board": None,
        "network": None,
        "seed": job.seed,
        "mode": job.mode,
        "seam": job.model.seam,
        "arithmetic": job.train.arithmetic,
        "codec": {"up": job.codec.up, "down": job.codec.down},
        "devices": len(job.devices),
        "zones": len(job.zones),
        "machine": describe_machine(),
        "command": shlex.join(args.command_line),
    }


def write_report(
    job: Job, progress: Progress, document: dict[str, Any], runs: dict[str, Progress]
) -> Path | None:
    """Writes history.json and report.html into the job's folder.

    Returns the page's path, None if what draws it is not installed.
    """
    folder = Path(job.out)
    network: list[Event] = []
    if find_spec("torch") is not None:
        from .edge_host.network import describe_network

        network = describe_network(job)
    history = {
        "title": job.name,
        "result": document,
        "record": progress.record(),
        "controls": {name: run.record() for name, run in runs.items()},
        "network": network,
        "settings": json.loads(_settings(job)),
    }
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    if find_spec("jinja2") is None or find_spec("matplotlib") is None:
        return None
    from .report import render

    path = folder / "report.html"
    write_whole(path, render(history).encode())
    return path


def _settings(job: Job) -> bytes:
    import msgspec

    return msgspec.json.encode(job)


# ---- in words ----


def result_rows(document: dict[str, Any]) -> list[tuple[str, float]]:
    """The result and the controls that have a figure, in the order of the table."""
    mode = document["mode"]
    rows = [(mode if mode in LOCAL_MODES else f"split training ({mode})", document["accuracy"])]
    rows += [(TITLES[name], document.get(name)) for name in TITLES]
    return [(title, value) for title, value in rows if value is not None]


def _print_results(document: dict[str, Any], runs: dict[str, Progress]) -> None:
    print()
    for title, value in result_rows(document):
        print(f"{title:<50} {percent(value):>8}")
    if document["majority"] is not None and not runs:
        print(
            "`seamline demo --baselines` adds federated, isolated, centralised, frozen-front runs."
        )
    if document["board"] is not None:
        print(_board_line(document["board"]))
    if document["network"] is not None:
        print(network_line(document["network"]))
    memory = document["device_vmhwm_mb"]
    print(
        f"\n{document['wall_s']:.1f} s wall, {megabytes(document['bytes_up'])} up, "
        f"{megabytes(document['bytes_down'])} down, cloud rounds {document['cloud_rounds']}"
        + (f", a device took at most {memory:.1f} MB of memory" if memory else "")
    )


def network_line(network: dict[str, Any]) -> str:
    """What came through, of the device lines the slowest and the fastest."""
    lines = network["lines"].items()
    rows = []
    for way in ("up", "down"):
        rates = [line[way]["goodput_bits_per_s"] for _, line in lines]
        known = [rate / 1000 for rate in rates if rate]
        rows.append(f"{way} {min(known):.0f} to {max(known):.0f}" if known else f"{way} nothing")
    names = ", ".join(sorted({line["network"] for _, line in lines}))
    return f"emulated network ({names}): goodput of a line in kbit/s while busy: {', '.join(rows)}"


def _board_line(board: dict[str, Any]) -> str:
    if "missing" in board:
        return f"no emulated {board['core']} joined: {board['missing']}"
    return (
        f"then {board['device']} joined, a {board['core']} ({board['board']}) in the emulator: "
        f"{board['steps']} steps with the fleet in {board['wall_s']:.1f} s, "
        f"{percent(board['accuracy'])} of its held-out windows right"
    )


def _files(job: Job, report: Path | None) -> dict[str, str]:
    paths = {name: Path(job.out) / name for name in ("model.pt", "front.npz", "model.npz")}
    for zone in job.zones if job.train.arithmetic == "q8" else ():
        paths[f"{zone.name}/front-q8.npz"] = Path(job.out) / "zones" / zone.name / "front-q8.npz"
    found = {name: str(path) for name, path in paths.items() if path.exists()}
    return {**found, **({"report.html": str(report)} if report else {})}


def _print_files(job: Job, report: Path | None) -> None:
    for path in _files(job, report).values():
        print(path)
    if report is None:
        sys.stderr.write(
            "no report.html: it needs jinja2 and matplotlib: pip install 'seamline[edge]'\n"
        )
