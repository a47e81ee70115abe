"""`seamline check JOB`: looks for what would stop a job before it starts, one line for each."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from .runtime.config import CLOUD, SERIAL, Job, host_name, is_open_port, tier_names
from .runtime.data import Data, device_data
from .runtime.errors import UserError


@dataclass(frozen=True)
class Finding:
    """status: ok, fail, or skip (it cannot be looked at here)."""

    status: str
    what: str
    text: str
    exit_code: int = 0


def run_check(job: Job, *, only: str | None, insecure: bool, format_: str) -> int:
    """Prints the findings; returns 0, or the exit code of the first that failed.

    only: name of the tier that this machine will run, None for all (UserError for an unknown one).
    """
    names = tier_names(job)
    if only is not None and only not in names:
        raise UserError(f"--only {only}: the job has {', '.join(names)}")
    tiers = [only] if only else names
    findings = []
    for finding in _all(job, tiers, insecure):
        findings.append(finding)
        if format_ != "json":
            print(f"{finding.status:<5} {finding.what:<16} {finding.text}", flush=True)
    failed = [finding.exit_code for finding in findings if finding.status == "fail"]
    if format_ == "json":
        document = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(document) + "\n")
    elif failed:
        print(f"{len(failed)} of {len(findings)} checks failed")
    return failed[0] if failed else 0


def _all(job: Job, tiers: list[str], insecure: bool) -> Iterator[Finding]:
    devices = {device.id for device in job.devices}
    yield Finding(
        "ok", "job file", f"{len(job.zones)} zones, {len(job.devices)} devices, {job.mode}"
    )
    if insecure:
        yield Finding("skip", "keys", "--insecure: clear text, anyone can join")
    else:
        yield from _keys(job, tiers)
    yield from _addresses(job, tiers)
    yield from _folder(job)
    samples: dict[str, Data] = {}
    for name in tiers:
        if name in devices:
            yield _data(job, name, samples)
    yield from _model(job, samples)


# ---- keys, addresses, folder ----


def _keys(job: Job, tiers: list[str]) -> Iterator[Finding]:
    folder = Path(job.keys.folder)
    if not any(folder.glob("*.secret")):
        text = f"none in {folder}: run `seamline keys new JOB` (`seamline run` makes them itself)"
        yield Finding("fail", "keys", text, 3)
        return
    zones = {device.id: host_name(device.zone) for device in job.devices}
    for name in tiers:
        if name == CLOUD:
            peers = [host_name(zone.name) for zone in job.zones]
        elif name in zones:
            peers = [zones[name]]
        else:
            peers = [CLOUD, *(device for device, host in zones.items() if host == name)]
        yield _key(folder, name, peers)


def _key(folder: Path, name: str, peers: list[str]) -> Finding:
    from .runtime.keys import load_keys

    try:
        known = load_keys(folder, name).peers
    except UserError as error:
        return Finding("fail", f"key {name}", str(error), error.exit_code)
    missing = [f"{peer}.public" for peer in peers if peer not in known]
    if missing:
        return Finding("fail", f"key {name}", f"{folder} lacks {', '.join(missing)}", 3)
    return Finding("ok", f"key {name}", f"own pair; its peers: {', '.join(peers)}")


def _addresses(job: Job, tiers: list[str]) -> Iterator[Finding]:
    if CLOUD in tiers:
        yield _bindable("cloud.address", job.cloud.address)
    for zone in job.zones:
        if host_name(zone.name) in tiers:
            yield _bindable(f"zone {zone.name}", zone.address)
    for device in job.devices:
        for owner, address in (
            (device.id, device.link),
            (host_name(device.zone), device.host_link),
        ):
            found = SERIAL.fullmatch(address)
            if found and owner in tiers:
                here = Path(found[1]).exists()
                text = "is here" if here else "is not here (`seamline run` uses a pseudo-terminal)"
                yield Finding(
                    "ok" if here else "skip", f"port of {device.id}", f"{found[1]} {text}"
                )


def _bindable(what: str, address: str) -> Finding:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if is_open_port(address):
        return Finding(
            "skip", what, f"{address}: `seamline run` chooses a port; across machines name one"
        )
    try:
        place = (host.strip("[]").replace("*", "0.0.0.0"), int(port))
        family, kind, _, _, where = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(where)
            tried.listen()
    except socket.gaierror as error:
        return Finding("fail", what, f"{address}: {error.strerror}", 4)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return Finding("skip", what, f"{address} belongs to another machine")
        return Finding("fail", what, f"{address}: {error.strerror}", 4)
    return Finding("ok", what, f"{address} is free")


def _folder(job: Job) -> Iterator[Finding]:
    """Can results be written, without leaving anything behind?"""
    folder = Path(job.out)
    while not folder.exists():
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        yield Finding("ok", "out", job.out)
    else:
        yield Finding("fail", "out", f"{job.out}: cannot write to {folder}", 2)


# ---- data and model ----


def _data(job: Job, device: str, samples: dict[str, Data]) -> Finding:
    """Loads the device's data and adds it to `samples`."""
    try:
        data = samples[device] = device_data(job, device)
    except UserError as error:
        return Finding("fail", f"data {device}", str(error), error.exit_code)
    shape = data.x_train.shape[1:]
    size = data.x_train.nbytes + data.x_test.nbytes
    text = (
        f"{len(data.x_train)} training and {len(data.x_test)} test samples of "
        f"{'x'.join(map(str, shape))}, {data.classes} classes, {size / 1e6:.1f} MB"
    )
    return Finding("ok", f"data {device}", text)


def _model(job: Job, samples: dict[str, Data]) -> Iterator[Finding]:
    """Legal seams, the cut, whether the data fits it, memory and traffic."""
    if find_spec("torch") is None:
        text = "PyTorch is not installed here: pip install 'seamline[edge]'"
        yield Finding("skip", "model", text)
        return
    from .edge_host.host import cut_model, make_plan
    from .edge_host.models import input_shape, load_model
    from .edge_host.split import list_seams
    from .runtime.plan import read_plan

    try:
        model = load_model(job.model.name, job.model.args, job.seed)
        for seam in list_seams(model, input_shape(model)):
            shape = "x".join(map(str, seam.shape))
            text = f"behind {seam.name}: {shape} cross, {seam.parameters} parameters on the device"
            yield Finding("ok", f"seam {seam.weighted}", text)
        cut = cut_model(job)
        plan = read_plan(make_plan(job, cut))
    except UserError as error:
        yield Finding("fail", "model", str(error), error.exit_code)
        return
    yield Finding("ok", "model", f"{job.model.name} cut behind {cut.seam}, {cut.classes} classes")
    for device, data in samples.items():
        text = _misfit(data, cut.input_shape, cut.classes)
        if text:
            yield Finding("fail", f"data {device}", text, 5)
    text = f"{plan.arena_bytes / 1000:.1f} kB on a device to train its front, beside its data"
    yield Finding("ok", "memory", text)
    if job.mode not in ("federated", "isolated"):
        yield Finding("ok", "traffic", _traffic(job, cut.shape))


def _misfit(data: Data, shape: tuple[int, ...], classes: int) -> str:
    """Why the model cannot learn from the data, or ""."""
    found = data.x_train.shape[1:]
    if found != shape:
        return f"a sample is {found}, the model takes {shape} (height, width, channels)"
    if data.classes > classes:
        return f"there are labels up to {data.classes - 1}, the model has {classes} classes"
    return ""


def _traffic(job: Job, shape: tuple[int, ...]) -> str:
    """Exact: the messages of a step without weights, packed from zeros."""
    import numpy as np

    from .kernels import parcel

    x = np.zeros((job.train.batch, *shape), np.float32)
    header = 24
    up = header + 4 + 2 * job.train.batch + len(parcel.pack(x, job.codec.up))
    down = header + 8
    if not job.train.freeze_front:
        down += len(parcel.pack(x, job.codec.down))
    return f"{up} bytes up and {down} bytes down a device step, before the link's own"
