"""The job file: what one training job is, checked when it is read."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Mode = Literal["split-v1", "split-v2", "split-v3", "federated", "isolated"]
Codec = Literal["f32", "int8", "int4"]


class ModelSection(msgspec.Struct, forbid_unknown_fields=True):
    """name: a bundled model or `package.module:function` returning an nn.Module. seam: number of weighted layers
    (conv, dense) on the device, or the dotted name of the last module on the device."""

    name: str = "watch"
    seam: int | str = 2
    args: dict[str, Any] = {}


class DataSection(msgspec.Struct, forbid_unknown_fields=True):
    """source: bundled name, path of an .npz (x_train, y_train, x_test, y_test), or `package.module:function`."""

    source: str = "watch"
    args: dict[str, Any] = {}


class TrainSection(msgspec.Struct, forbid_unknown_fields=True):
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
    evaluate_every: int = 4  # cloud rounds between two evaluations (the last round is always evaluated)


class RoundSection(msgspec.Struct, forbid_unknown_fields=True):
    deadline_s: float = 30.0  # an edge round, and how long the cloud waits for late zones
    quorum: float = 0.5  # share of the zone's devices (cloud: of the zones) a round needs
    join_wait_s: float = 20.0  # at the start: how long to wait for all before going on with a quorum


class CodecSection(msgspec.Struct, forbid_unknown_fields=True):
    up: Codec = "int8"
    down: Codec = "int8"
    rounding: Literal["nearest", "stochastic"] = "stochastic"


class CloudSection(msgspec.Struct, forbid_unknown_fields=True):
    address: str = "tcp://127.0.0.1:5700"


class ZoneSection(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    address: str


class DeviceSection(msgspec.Struct, forbid_unknown_fields=True):
    """link: the device's end (`tcp://..` or `serial:PATH:BAUD`; default: its zone's address). host_link: the edge host's
    end of a serial line (`serial:PATH:BAUD`); empty for the network. data: arguments for the data source."""

    id: str
    zone: str
    link: str = ""
    host_link: str = ""
    data: dict[str, Any] = {}


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
    cloud: CloudSection = msgspec.field(default_factory=CloudSection)
    keys: KeysSection = msgspec.field(default_factory=KeysSection)
