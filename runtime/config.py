"""The job file: what one training job is, checked when it is read."""

from __future__ import annotations

import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from .data import absolute, check_source, local_source
from .errors import UserError
from .link import SILENCE_S
from .usb_port import USB

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

Mode = Literal["split-v1", "split-v2", "split-v3", "federated", "isolated", "local-loss"]
Codec = Literal[
    "f32",
    "int8",
    "int4",
    "f16",
    "int2",
    "int8-channel",
    "int4-channel",
    "int2-channel",
    "top10",
    "randtop10",
]


class ModelSection(msgspec.Struct, forbid_unknown_fields=True):
    """name: a bundled model or `package.module:function` returning an nn.Module. seam: number of
    weighted layers (conv, dense) on the device, or the dotted name of the last module there.
    start: model.npz of an earlier run, to begin from; empty: as initialised. exits: seams behind
    which a small head answers early. exit_weights: of their losses in that order, then of the
    network's end; none: all 1. exit_entropy: mode local-loss: where the device's exit is as sure as
    that, in nats, it answers held-out samples itself; 0: nowhere. exit_loss: share of right answers
    that calibrated exits may cost beside the network's end."""

    name: str = "watch"
    seam: int | str = 2
    args: dict[str, Any] = {}
    start: str = ""
    exits: list[int | str] = []
    exit_weights: list[float] = []
    exit_entropy: float = 0.0
    exit_loss: float = 0.005


class DataSection(msgspec.Struct, forbid_unknown_fields=True):
    """source: bundled name, path of an .npz (x_train, y_train, x_test, y_test), or
    `package.module:function`. validation: training samples that each device keeps apart, neither
    trained on nor tested with: exits are calibrated by them."""

    source: str = "watch"
    args: dict[str, Any] = {}
    validation: int = 0


class TrainSection(msgspec.Struct, forbid_unknown_fields=True):
    """arithmetic: of the fronts; q8: int8 weights, activations and gradients on the devices.
    q8_rounding: of what a q8 front computes from gradients. q8_momentum: how its momentum is kept
    (none: as if `momentum` were 0 on the devices)."""

    batch: int = 16
    device_steps: int = 1  # k1: device steps in an edge round
    edge_rounds: int = 10  # k2: edge rounds in a cloud round
    cloud_rounds: int = 88
    front_rate: float = 0.05
    back_rate: float = 0.003
    rate_decay: Literal["linear", "none"] = "linear"
    back_optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    freeze_front: bool = False
    recompute: bool = False  # on the devices: less RAM, more work, the same bits
    arithmetic: Literal["f32", "q8"] = "f32"
    q8_rounding: Literal["stochastic", "nearest", "truncate"] = "stochastic"
    q8_momentum: Literal["int8", "float", "none"] = "int8"
    evaluate_every: int = (
        4  # cloud rounds between two evaluations (the last round is always evaluated)
    )
    upload_every: int = 1  # mode local-loss: an activation goes up for so many batches


class RoundSection(msgspec.Struct, forbid_unknown_fields=True):
    """wait: for whom a round waits. quorum: as the other three say; who is lost or late is left out
    of it. all: for every device and zone, as long as it takes: one that comes back does again what
    it lost, and the model is the same, bit for bit, as if it had never been away."""

    deadline_s: float = 30.0  # an edge round, and how long the cloud waits for late zones
    quorum: float = 0.5  # share of the zone's devices (cloud: of the zones) a round needs
    join_wait_s: float = (
        20.0  # at the start: how long to wait for all before going on with a quorum
    )
    wait: Literal["quorum", "all"] = "quorum"


class CodecSection(msgspec.Struct, forbid_unknown_fields=True):
    """up, down, rounding: at the cut. cloud: of the models between zones and cloud; auto: chosen
    for each tensor, least bytes at cloud_alpha times the error of int8, or, with cloud_bytes above
    0, least error in so many bytes a model."""

    up: Codec = "int8"
    down: Codec = "int8"
    rounding: Literal["nearest", "stochastic"] = "stochastic"
    cloud: Literal["f32", "f16", "int8", "int4", "int2", "top10", "auto"] = "f32"
    cloud_alpha: float = 1.0
    cloud_bytes: int = 0


class CloudSection(msgspec.Struct, forbid_unknown_fields=True):
    address: str = "tcp://127.0.0.1:5700"


class LinkSection(msgspec.Struct, forbid_unknown_fields=True):
    """silence_s: a peer on the network that was not heard for so long is lost. On a slow network it
    must be longer than the longest message takes, there and back."""

    silence_s: float = SILENCE_S

    def wait_s(self, usual: float) -> float:
        """How long to wait before something is said again: its answer may only be slow."""
        return usual + max(0.0, self.silence_s - SILENCE_S)


class MoveSection(msgspec.Struct, forbid_unknown_fields=True):
    """From edge round `round` of the job on (the first is 1) the seam of a device (`*`: of all) is
    `seam`, as in [model]."""

    round: int
    seam: int | str
    device: str = "*"


class PlanSection(msgspec.Struct, forbid_unknown_fields=True):
    """replan: who moves seams while training goes on. off: nobody. schedule: moves."""

    replan: Literal["off", "schedule"] = "off"
    moves: list[MoveSection] = []


class ZoneSection(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    address: str


class DeviceSection(msgspec.Struct, forbid_unknown_fields=True):
    """link: the device's end (`tcp://..` or `serial:PATH:BAUD`; default: its zone's address).
    host_link: the edge host's end of a serial line (`serial:PATH:BAUD`); empty for the network.
    data: arguments for the data source. board: a Cortex-M that `seamline run` emulates in place of
    the device's program (`seamline firmware build --board`); it then needs no links.
    network: a trace (CSV file, good, 3g, lora-ish, step, none) that `seamline run` lets the line
    follow, instead of that of `--network`."""

    id: str
    zone: str
    link: str = ""
    host_link: str = ""
    data: dict[str, Any] = {}
    board: str = ""
    network: str = ""


class KeysSection(msgspec.Struct, forbid_unknown_fields=True):
    folder: str = "keys"


class Job(msgspec.Struct, forbid_unknown_fields=True):
    zones: list[ZoneSection]
    devices: list[DeviceSection]
    name: str = "job"
    seed: int = 0
    mode: Mode = "split-v2"
    out: str = "runs/job"
    model: ModelSection = msgspec.field(default_factory=ModelSection)
    data: DataSection = msgspec.field(default_factory=DataSection)
    train: TrainSection = msgspec.field(default_factory=TrainSection)
    round: RoundSection = msgspec.field(default_factory=RoundSection)
    codec: CodecSection = msgspec.field(default_factory=CodecSection)
    link: LinkSection = msgspec.field(default_factory=LinkSection)
    cloud: CloudSection = msgspec.field(default_factory=CloudSection)
    keys: KeysSection = msgspec.field(default_factory=KeysSection)
    plan: PlanSection = msgspec.field(default_factory=PlanSection)


class JobError(UserError):
    """A job file that is missing, unreadable or wrong (exit code 2)."""


LOCAL_MODES = ("federated", "isolated")  # the whole network is on the device
MOVING_MODES = ("split-v1", "split-v2")  # where the host has all weights between two rounds
CLOUD = "cloud"


def host_name(zone: str) -> str:
    """Name of a zone's edge host: of its keys, its log, its process."""
    return f"host-{zone}"


def tier_names(job: Job) -> list[str]:
    """Cloud, edge hosts and devices: everyone who needs a key pair."""
    return [CLOUD, *(host_name(z.name) for z in job.zones), *(d.id for d in job.devices)]


def find_device(job: Job, device_id: str) -> DeviceSection:
    """Raises JobError if the job has no such device."""
    for device in job.devices:
        if device.id == device_id:
            return device
    raise JobError(
        f"there is no device {device_id!r} in the job"
        f"{_nearest(device_id, [d.id for d in job.devices])}; it has "
        f"{_listed([d.id for d in job.devices])}"
    )


def find_zone(job: Job, name: str) -> ZoneSection:
    """Raises JobError if the job has no such zone."""
    for zone in job.zones:
        if zone.name == name:
            return zone
    raise JobError(
        f"there is no zone {name!r} in the job; it has {_listed([z.name for z in job.zones])}"
    )


def job_digest(job: Job) -> str:
    """Names what training depends on (not addresses, keys or folders): state that a job with
    another digest left is of no use."""
    import hashlib  # 3 MB of OpenSSL that a device has no use for

    parts: list[Any] = [job.name, job.seed, job.mode, job.model, job.train, job.codec, job.data]
    if job.plan.replan != "off":
        parts.append(job.plan)
    parts.append(sorted(zone.name for zone in job.zones))
    parts.append(sorted((device.id, device.zone, device.data) for device in job.devices))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


# ---- reading ----


def read_job(path: str | Path) -> Job:
    """The job in the TOML file `path`, checked, its paths (keys, out, .npz, serial) made absolute.

    Raises JobError with one line: file, key, what is allowed, what was found.
    """
    path = Path(path)
    return make_job(_read_toml(path), str(path), path.absolute().parent)


def make_job(values: dict[str, Any], name: str, folder: Path) -> Job:
    """`read_job` from values already parsed.

    name: of the file, for messages; folder: where relative paths start.
    """
    try:
        job = msgspec.convert(values, Job)
    except msgspec.ValidationError as error:
        raise JobError(f"{name}: {_explain(str(error), values)}") from None
    for key, rule, found in _problems(job):
        raise JobError(f"{name}: {key} {rule}, found {_show(found)}")
    _resolve_paths(job, folder)
    return job


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise JobError(
            f"there is no job file {path}: write one with `seamline job init {path}`"
        ) from None
    except UnicodeDecodeError as error:
        raise JobError(
            f"{path}: byte {error.start} is not UTF-8; a job file is TOML text"
        ) from None
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: not valid TOML: {error}") from None


def _resolve_paths(job: Job, folder: Path) -> None:
    job.out = absolute(job.out, folder)
    job.keys.folder = absolute(job.keys.folder, folder)
    job.data.source = local_source(job.data.source, folder)
    if job.model.start:
        job.model.start = absolute(job.model.start, folder)
    for device in job.devices:
        device.link = _local_port(device.link, folder)
        device.host_link = _local_port(device.host_link, folder)
        if device.network:
            from .network_trace import NAMES, NONE  # devices have no use for it

            if device.network not in (NONE, *NAMES):
                device.network = absolute(device.network, folder)


def _local_port(address: str, folder: Path) -> str:
    found = SERIAL.fullmatch(address)
    if found is None or found[1].startswith(USB):
        return address
    return f"serial:{absolute(found[1], folder)}:{found[2]}"


# ---- mistakes of shape: what msgspec found, in the words of the file ----


def _explain(text: str, values: dict[str, Any]) -> str:
    message, _, where = text.partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    kind = _type_at(key)
    if unknown := re.search(r"unknown field `(.*)`", message):
        fields = [f.name for f in msgspec.structs.fields(kind)]
        name = unknown[1]
        return (
            f"{_join(key, name)} is not a key{_nearest(name, fields)}; allowed: {_listed(fields)}"
        )
    if missing := re.search(r"required field `(.*)`", message):
        key = _join(key, missing[1])
        return f"{key} is missing: {_allowed(_type_at(key))} is needed"
    found = _show(_value_at(values, key))
    if "out of range" in message:
        return f"{key} must be a whole number below 2^63, found {found}"
    return f"{key} must be {_allowed(kind)}, found {found}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _parts(key: str) -> list[tuple[str, str]]:
    """`devices[3].link` as (index, name) steps, one of the two empty."""
    return re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)


def _type_at(key: str) -> Any:
    kind: Any = Job
    for index, name in _parts(key):
        kind = typing.get_args(kind)[0] if index else typing.get_type_hints(kind)[name]
    return kind


def _value_at(values: Any, key: str) -> Any:
    for index, name in _parts(key):
        values = values[int(index)] if index else values[name]
    return values


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _allowed(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return " or ".join(_show(choice) for choice in typing.get_args(kind))
    if origin is list:
        return "a list of tables"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_allowed(part) for part in typing.get_args(kind))
    return _WORDS.get(kind, "a table")


def _show(value: Any) -> str:
    """A value as it would stand in the file, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    text = _toml(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


# ---- impossible values ----

Problem = tuple[str, str, Any]  # key, rule, what was found

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,55}")
NETWORK = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._*-]+):(\d{1,5}|\*)")
SERIAL = re.compile(r"serial:(.+):(\d+)")
SOCKET = re.compile(r"socket://[A-Za-z0-9._-]+:\d{1,5}")

_NAME_RULE = "must be 1 to 56 letters, digits, '.', '_' or '-', beginning with a letter or digit"
_TCP_RULE = "must look like tcp://HOST:PORT with a port of 0 to 65535"
_LINE_RULE = "must look like serial:PATH:BAUD (or socket://HOST:PORT)"


def _between(low: float, high: float) -> tuple[Callable[[float], bool], str]:
    return lambda v: low <= v <= high, f"must be {low} to {high}"


def _above_zero(high: float = math.inf) -> tuple[Callable[[float], bool], str]:
    rule = "must be above 0" + ("" if math.isinf(high) else f" and at most {high}")
    return lambda v: 0 < v <= high and math.isfinite(v), rule


def _at_least(low: float) -> tuple[Callable[[float], bool], str]:
    return lambda v: v >= low and math.isfinite(v), f"must be {low} or more"


RANGES = {
    "seed": _between(0, 2**32 - 1),
    "train.batch": _between(1, 4096),
    "train.device_steps": _between(1, 65535),
    "train.edge_rounds": _between(1, 2**24),
    "train.cloud_rounds": _between(1, 2**24),
    "train.front_rate": _above_zero(),
    "train.back_rate": _above_zero(),
    "train.momentum": (lambda v: 0 <= v < 1, "must be 0 or more and below 1"),
    "train.weight_decay": _at_least(0),
    "train.evaluate_every": _at_least(0),
    "train.upload_every": _at_least(1),
    "model.exit_entropy": _at_least(0),
    "model.exit_loss": _at_least(0),
    "data.validation": _at_least(0),
    "round.deadline_s": _above_zero(),
    "round.quorum": _above_zero(1),
    "round.join_wait_s": _at_least(0),
    "link.silence_s": _between(2, 3600),
    "codec.cloud_alpha": _at_least(0),
    "codec.cloud_bytes": _at_least(0),
}


def _problems(job: Job) -> Iterator[Problem]:
    """Everything a job of the right shape can have wrong; the caller takes the first."""
    for key, (fits, rule) in RANGES.items():
        value: Any = job
        for part in key.split("."):
            value = getattr(value, part)
        if not fits(value):
            yield key, rule, value
    yield from _work_problems(job)
    yield from _plan_problems(job)
    yield from _zone_problems(job)
    yield from _device_problems(job)
    yield from _address_problems(job)


def _work_problems(job: Job) -> Iterator[Problem]:
    train = job.train
    steps = train.device_steps * train.edge_rounds * train.cloud_rounds
    if steps >= 2**31:
        yield "train.cloud_rounds", "times edge_rounds and device_steps must stay below 2^31", steps
    if job.mode in LOCAL_MODES and train.freeze_front:
        yield (
            "train.freeze_front",
            f"must be false in mode {job.mode}: nothing would be trained",
            True,
        )
    if train.arithmetic == "q8" and job.mode not in LOCAL_MODES:
        rule = 'must be "int8" with train.arithmetic "q8": a q8 front computes in int8'
        for key, codec in (("codec.up", job.codec.up), ("codec.down", job.codec.down)):
            if codec != "int8":
                yield key, rule, codec
    yield from _exit_problems(job)
    if isinstance(job.model.seam, int) and job.model.seam < 1:
        rule = "must be 1 or more (weighted layers on the device) or the name of a module"
        yield "model.seam", rule, job.model.seam
    for key, text in (
        ("model.name", job.model.name),
        ("model.seam", job.model.seam),
        ("out", job.out),
    ):
        if text == "":
            yield key, "must not be empty", text
    if not job.name.isprintable() or not 1 <= len(job.name) <= 200:
        yield "name", "must be 1 to 200 printable characters", job.name
    wrong = check_source(job.data.source)
    if wrong:
        yield "data.source", wrong, job.data.source


def _exit_problems(job: Job) -> Iterator[Problem]:
    exits, weights = job.model.exits, job.model.exit_weights
    if len({str(seam) for seam in exits}) < len(exits):
        yield "model.exits", "must be different seams", exits
    if exits and job.mode in LOCAL_MODES:
        yield "model.exits", f"must be empty in mode {job.mode}: no layer is behind a seam", exits
    if job.mode == "local-loss" and job.train.freeze_front:
        yield "train.freeze_front", "must be false in mode local-loss: nothing would learn", True
    if weights and len(weights) != len(exits) + 1:
        rule = f"must be {len(exits) + 1} numbers: of each of model.exits, then of the end"
        yield "model.exit_weights", rule, weights
    if exits and job.data.validation and job.model.exit_loss >= 1:
        yield "model.exit_loss", "must be less than 1: it is a share", job.model.exit_loss
    if not all(math.isfinite(w) and w >= 0 for w in weights) or (weights and not any(weights)):
        yield "model.exit_weights", "must be 0 or more, and one of them more", weights


def _plan_problems(job: Job) -> Iterator[Problem]:
    plan = job.plan
    ids = [device.id for device in job.devices]
    if plan.replan != "off" and job.mode not in MOVING_MODES:
        modes = " and ".join(MOVING_MODES)
        yield "plan.replan", f'must be "off" in mode {job.mode}: seams move in {modes}', plan.replan
    if plan.replan != "off" and job.train.freeze_front:
        yield "plan.replan", 'must be "off" with train.freeze_front', plan.replan
    if plan.replan == "schedule" and not plan.moves:
        yield "plan.moves", "must list at least one move ([[plan.moves]])", plan.moves
    if plan.replan != "schedule" and plan.moves:
        yield "plan.moves", 'must be empty unless plan.replan is "schedule"', len(plan.moves)
    rounds = job.train.edge_rounds * job.train.cloud_rounds
    for i, move in enumerate(plan.moves):
        if not 1 <= move.round <= rounds:
            rule = f"must be an edge round of the job, 1 to {rounds}"
            yield f"plan.moves[{i}].round", rule, move.round
        if move.device != "*" and move.device not in ids:
            rule = f'must be "*" or a device of the job ({_listed(ids)})'
            yield f"plan.moves[{i}].device", rule + _nearest(move.device, ids), move.device
        if move.seam == "" or (isinstance(move.seam, int) and move.seam < 1):
            rule = "must be 1 or more (weighted layers on the device) or the name of a module"
            yield f"plan.moves[{i}].seam", rule, move.seam


def _zone_problems(job: Job) -> Iterator[Problem]:
    if not job.zones:
        yield "zones", "must have at least one zone ([[zones]])", job.zones
    seen: set[str] = set()
    for i, zone in enumerate(job.zones):
        if not NAME.fullmatch(zone.name):
            yield f"zones[{i}].name", _NAME_RULE, zone.name
        if zone.name in seen:
            yield f"zones[{i}].name", "must be unique", zone.name
        if all(device.zone != zone.name for device in job.devices):
            yield f"zones[{i}].name", "must be the zone of at least one device", zone.name
        seen.add(zone.name)


def _device_problems(job: Job) -> Iterator[Problem]:
    zones = [zone.name for zone in job.zones]
    seen: set[str] = set()
    for i, device in enumerate(job.devices):
        if not NAME.fullmatch(device.id):
            yield f"devices[{i}].id", _NAME_RULE, device.id
        if device.id == CLOUD or device.id.startswith(host_name("")):
            yield (
                f"devices[{i}].id",
                "must not be cloud or begin with host- (names of other tiers)",
                device.id,
            )
        if device.id in seen:
            yield f"devices[{i}].id", "must be unique", device.id
        if device.zone not in zones:
            yield f"devices[{i}].zone", f"must be a zone of the job ({_listed(zones)})", device.zone
        seen.add(device.id)


def _address_problems(job: Job) -> Iterator[Problem]:
    places = [("cloud.address", job.cloud.address)]
    places += [(f"zones[{i}].address", zone.address) for i, zone in enumerate(job.zones)]
    taken: dict[str, str] = {}
    for key, address in places:
        if not is_network(address):
            yield key, _TCP_RULE, address
        elif not is_open_port(address) and address in taken:
            yield key, f"must differ from {taken[address]}", address
        taken[address] = key
    lines: dict[str, str] = {}
    for i, device in enumerate(job.devices):
        key = f"devices[{i}]"
        if device.host_link and not is_line(device.host_link):
            yield f"{key}.host_link", _LINE_RULE, device.host_link
        if device.link and not is_line(device.link) and not is_network(device.link):
            yield f"{key}.link", f"{_TCP_RULE}, or like serial:PATH:BAUD", device.link
        if is_line(device.link) and not device.host_link:
            yield f"{key}.host_link", "must name the edge host's end of the serial line", ""
        if is_network(device.link) and device.host_link:
            yield f"{key}.link", "must be a serial line, as host_link is one", device.link
        for end in (device.link, device.host_link):
            if SERIAL.fullmatch(end) and end in lines:
                yield key, f"must not share a serial port with {lines[end]}", end
            lines[end] = key


def is_network(address: str) -> bool:
    """tcp://HOST:PORT"""
    found = NETWORK.fullmatch(address)
    return found is not None and (found[2] == "*" or int(found[2]) <= 65535)


def is_line(address: str) -> bool:
    """serial:PATH:BAUD, serial:usb=SERIALNUMBER:BAUD or socket://HOST:PORT: a byte line, not the
    network's messages."""
    found = SERIAL.fullmatch(address)
    return (found is not None and found[1] != USB and int(found[2]) > 0) or SOCKET.fullmatch(
        address
    ) is not None


def is_open_port(address: str) -> bool:
    """Does the address leave the choice of its port to the machine?"""
    return address.endswith((":0", ":*"))


# ---- writing ----


def write_toml(job: Job) -> str:
    """The job as TOML text that `read_job` reads back to an equal job."""
    values: dict[str, Any] = msgspec.to_builtins(job)
    plain = {k: v for k, v in values.items() if not isinstance(v, (dict, list))}
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    for key, value in values.items():
        tables = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
        for table in tables:
            lines += ["", f"[[{key}]]" if isinstance(value, list) else f"[{key}]"]
            lines += [f"{name} = {_toml(entry)}" for name, entry in table.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(_escape(character) for character in value) + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"
