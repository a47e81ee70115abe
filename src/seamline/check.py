"""`seamline check`: what would stop a job, before anything starts."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runtime.config import (
    CLOUD,
    LOCAL_MODES,
    SERIAL,
    DeviceSection,
    Job,
    find_device,
    find_zone,
    host_name,
    is_network,
)
from .runtime.errors import UserError

if TYPE_CHECKING:
    from .edge_host.split import Split
    from .runtime.data import Data

Shape = tuple[int, ...]
PROGRAM_MB = 32  # a device program without data and plan: Python, NumPy, ZeroMQ


@dataclass(frozen=True)
class Roles:
    """Which tiers this machine is to be: what has to be there for each. whole: all, by `seamline
    run`, which makes missing keys and serial lines itself."""

    cloud: bool
    zones: list[str]
    devices: list[DeviceSection]
    whole: bool = False

    def names(self) -> list[str]:
        return [
            *([CLOUD] if self.cloud else []),
            *(host_name(zone) for zone in self.zones),
            *(device.id for device in self.devices),
        ]


def _roles(job: Job, only: str | None) -> Roles:
    """Raises JobError if the job has no tier of that name."""
    if only is None:
        return Roles(True, [zone.name for zone in job.zones], job.devices, True)
    if only == CLOUD:
        return Roles(True, [], [])
    if only.startswith(host_name("")):
        return Roles(False, [find_zone(job, only.removeprefix(host_name(""))).name], [])
    return Roles(False, [], [find_device(job, only)])


class Report:
    """Prints a line per check as it is made; keeps the exit code of the first that failed."""

    def __init__(self, form: str) -> None:
        self.form, self.exit_code = form, 0

    def say(self, name: str, text: str, exit_code: int = 0, **values: Any) -> None:
        self.exit_code = self.exit_code or exit_code
        ok = exit_code == 0
        if self.form == "json":
            event = {"event": "check", "name": name, "ok": ok, "text": text, **values}
            line = json.dumps(event)
        else:
            line = f"{'ok' if ok else 'fail':<6}{name:<16}{text}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def failed(self, name: str, error: UserError) -> None:
        self.say(name, " ".join(str(error).splitlines()), error.exit_code)


def run_check(job: Job, *, only: str | None, insecure: bool, format_: str) -> int:
    """Checks what the tier `only` (cloud, host-A, watch-3) needs on this machine; None: all tiers.

    Prints a line per check; returns 0 or the exit code of the first that failed. Raises JobError
    if the job has no such tier.
    """
    roles = _roles(job, only)
    report = Report(format_)
    zones, devices = _count(len(job.zones), "zone"), _count(len(job.devices), "device")
    report.say("job", f"{job.name}: {job.mode}, {zones}, {devices}")
    if not insecure:
        _check_keys(job, roles, report)
    _check_addresses(job, roles, report)
    if roles.whole:
        _check_boards(job, report)
    data = _check_data(job, roles, report)
    if roles.zones:
        _check_model(job, data, report)
    return report.exit_code


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ---- keys ----


def _check_keys(job: Job, roles: Roles, report: Report) -> None:
    from .runtime.keys import load_keys

    folder = Path(job.keys.folder)
    wired = {device.id for device in job.devices if device.host_link}
    found = []
    for name in roles.names():
        if name in wired:
            continue  # the line itself says who is at its end
        if roles.whole and not (folder / f"{name}.secret").exists():
            continue
        try:
            peers = load_keys(folder, name).peers
            missing = [peer for peer in _peers(job, name, wired) if peer not in peers]
            if missing and not roles.whole:
                raise UserError(
                    f"{folder} lacks {', '.join(f'{peer}.public' for peer in missing)}: {name} "
                    "lets nobody in without it; copy it there, run `seamline keys new`, or pair",
                    3,
                )
        except UserError as error:
            report.failed("keys", error)
            return
        found.append(name)
    new = [name for name in roles.names() if name not in found and name not in wired]
    if found:
        report.say("keys", f"{folder}: {', '.join(found)}")
    if new:
        report.say("keys", f"not there yet: {', '.join(new)}; `seamline run` makes them")


def _peers(job: Job, name: str, wired: set[str]) -> list[str]:
    """Whom the tier `name` must know by key."""
    hosts = {host_name(zone.name): zone.name for zone in job.zones}
    if name == CLOUD:
        return list(hosts)
    if name in hosts:
        own = [d.id for d in job.devices if d.zone == hosts[name] and d.id not in wired]
        return [CLOUD, *own]
    return [host_name(find_device(job, name).zone)]


# ---- addresses ----


def _check_addresses(job: Job, roles: Roles, report: Report) -> None:
    for key, address in _own_addresses(job, roles):
        try:
            try_address(address)
        except UserError as error:
            report.failed("address", UserError(f"{key}: {error}", error.exit_code))
        else:
            report.say("address", f"{key} {address}")


def _own_addresses(job: Job, roles: Roles) -> Iterator[tuple[str, str]]:
    """(key, address) of all that the tiers here open on this machine."""
    if roles.cloud:
        yield "cloud.address", job.cloud.address
    for i, zone in enumerate(job.zones):
        if zone.name in roles.zones:
            yield f"zones[{i}].address", zone.address
    for i, device in enumerate(job.devices):
        if roles.whole:
            continue  # `seamline run` joins the ends that are not here by pseudo-terminals
        if device.zone in roles.zones and device.host_link:
            yield f"devices[{i}].host_link", device.host_link
        if device in roles.devices and SERIAL.fullmatch(device.link):
            yield f"devices[{i}].link", device.link


def try_address(address: str) -> None:
    """Looks whether an address can be opened here; raises UserError (exit 4) if not."""
    serial = SERIAL.fullmatch(address)
    if serial:
        _try_port(serial[1])
    elif is_network(address):
        _try_bind(address)


def _try_port(target: str) -> None:
    from .runtime.serial_link import port_path

    path = port_path(target)
    if not os.path.exists(path):
        raise UserError(f"there is no serial port {path}", 4)
    if not os.access(path, os.R_OK | os.W_OK):
        raise UserError(f"{path} may not be opened by this user", 4)


def _try_bind(address: str) -> None:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    place = (None if host == "*" else host.strip("[]"), "0" if port == "*" else port)
    try:
        found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, *_, where = found[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
            trial.bind(where)
    except OSError as error:
        raise UserError(f"{address} cannot be opened here: {error.strerror or error}", 4) from None


# ---- boards ----


def _check_boards(job: Job, report: Report) -> None:
    """Those that `seamline run` emulates."""
    boards = [device for device in job.devices if device.board]
    if not boards:
        return
    from .firmware_bridge import image
    from .firmware_bridge.target import find_target

    lacking = image.missing()
    if lacking:
        report.say("boards", lacking, 7)
    for device in boards:
        try:
            chip = find_target(device.board).chip
        except UserError as error:
            report.failed("boards", error)
        else:
            report.say("boards", f"{device.id} is emulated: {chip.title}")


# ---- data ----


def _check_data(job: Job, roles: Roles, report: Report) -> dict[str, tuple[Shape, int, int]]:
    """Loads each device's data, one after the other; (shape of a sample, classes, bytes) by id."""
    from .runtime.data import device_data

    found: dict[str, tuple[Shape, int, int]] = {}
    for device in roles.devices:
        try:
            data = device_data(job, device.id)
        except UserError as error:
            report.failed("data", UserError(f"{device.id}: {error}", error.exit_code))
            continue
        shape = data.x_train.shape[1:]
        found[device.id] = (shape, data.classes, _bytes(data))
        report.say(
            "data",
            f"{device.id}: {len(data.x_train)} train, {len(data.x_test)} test samples of "
            f"{_times(shape)}, {data.classes} classes",
            device=device.id,
            train=len(data.x_train),
            test=len(data.x_test),
        )
    return found


def _bytes(data: Data) -> int:
    return sum(a.nbytes for a in (data.x_train, data.y_train, data.x_test, data.y_test))


def _times(shape: Shape) -> str:
    return "x".join(str(side) for side in shape)


# ---- model ----


def _check_model(job: Job, data: dict[str, tuple[Shape, int, int]], report: Report) -> None:
    if find_spec("torch") is None:
        report.say("model", "an edge host needs PyTorch: pip install 'seamline[edge]'", 7)
        return
    try:
        from .edge_host.exits import job_network
        from .edge_host.host import cut_model, make_plan
        from .edge_host.models import input_shape
        from .edge_host.replan import cuts_of
        from .edge_host.split import list_seams

        model = job_network(job)
        if job.mode not in LOCAL_MODES:
            for seam in list_seams(model, input_shape(model)):
                text = (
                    f"{seam.weighted}: behind {seam.name}, {seam.parameters} parameters, "
                    f"{_times(seam.shape)} values a sample cross"
                )
                report.say("legal seam", text, seam=seam.weighted, values=seam.values)
        cut = cut_model(job)
        plan = make_plan(job, cut)
        for other in cuts_of(job, cut).values():
            make_plan(job, other)
    except UserError as error:
        report.failed("model", error)
        return
    report.say("model", f"{job.model.name} is cut behind {cut.seam}")
    _check_fit(cut, data, report)
    _estimate(job, cut, plan, max((size for *_, size in data.values()), default=0), report)


def _check_fit(cut: Split, data: dict[str, tuple[Shape, int, int]], report: Report) -> None:
    """Do the samples go into the model, and their labels out of it?"""
    for device, (shape, classes, _) in data.items():
        if shape != cut.input_shape:
            text = f"the model takes samples of {_times(cut.input_shape)}"
            wrong = f"{device}: {text}, its data has {_times(shape)} (height x width x channels)"
            report.say("data and model", wrong, 3)
        elif classes > cut.classes:
            wrong = f"{device}: the model tells {cut.classes} classes apart, its data has {classes}"
            report.say("data and model", wrong, 3)


def _estimate(job: Job, cut: Split, plan: bytes, data_bytes: int, report: Report) -> None:
    """RAM of a device and bytes on its link, from the plan and from real parcels."""
    import numpy as np

    from .kernels.parcel import pack
    from .runtime.plan import read_plan

    found = read_plan(plan)
    memory = PROGRAM_MB + (found.arena_bytes + data_bytes) / 2**20
    report.say(
        "memory",
        f"a device: about {memory:.0f} MB, of it {found.arena_bytes / 1024:.0f} KiB for the front "
        f"({found.parameters} parameters, batch {found.batch}) and {data_bytes / 2**20:.1f} MiB "
        "of data",
        arena_bytes=found.arena_bytes,
        data_bytes=data_bytes,
    )
    weights = found.blob_bytes
    text = f"{weights} bytes of parameters each way"
    if found.learned_bytes != weights:
        text = f"{weights} bytes of parameters down, {found.learned_bytes} up"
    if job.mode in LOCAL_MODES:
        report.say("link", f"an edge round: {text}", round_bytes=weights)
        return
    batch = np.zeros((job.train.batch, *cut.shape), np.float32)
    up, down = (len(pack(batch, codec)) for codec in (job.codec.up, job.codec.down))
    up += 2 * job.train.batch  # labels, u16
    down = 0 if job.train.freeze_front else down
    report.say(
        "link",
        f"a step: {up} bytes up, {down} bytes down; an edge round: {job.train.device_steps} x this "
        f"and {text}",
        up_bytes=up,
        down_bytes=down,
        round_bytes=weights,
    )
