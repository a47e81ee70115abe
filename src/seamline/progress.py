"""What is known of a running job: fed with events and time, read by table and report. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .events import Event, describe
from .runtime.config import Job, host_name, is_line
from .runtime.ledger import Table, add

NOTES_KEPT = 200
TOLD = (
    "left",
    "resumed",
    "late",
    "lost",
    "waiting",
    "restored",
    "restarted",
    "cloud_lost",
    "zone_left",
    "refused",
    "moved",
    "note",
    "error",
)


@dataclass
class Counter:
    """Bytes of one direction since the job began, across restarts of the edge host that counts."""

    before: int = 0  # counted by earlier lives of the host
    seen: int = 0  # in its present life
    said: int = 0  # by the host itself, last

    def host(self, value: int) -> None:
        """The host's own figure; a smaller one than before means that it was started anew."""
        if value < self.said:
            self.before, self.seen = self.before + self.seen, 0
        self.said = value
        self.seen = max(self.seen, value)

    def cloud(self, value: int) -> None:
        """The host's figure as the cloud passed it on, late or early; of a first life only."""
        if not self.before:
            self.seen = max(self.seen, value)

    @property
    def total(self) -> int:
        return self.before + self.seen


@dataclass
class DeviceView:
    """One device. correct, total: of its last evaluation; own_*: isolated, on its own samples."""

    id: str
    zone: str
    link: str  # tcp or serial
    state: str = "starting"
    loss: float | None = None
    correct: int = 0
    total: int = 0
    own_correct: int | None = None
    own_total: int | None = None
    up: Counter = field(default_factory=Counter)
    down: Counter = field(default_factory=Counter)
    vmhwm_mb: float = 0.0
    steps: int = 0
    compute_s: float = 0.0

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.total if self.total else None


@dataclass(frozen=True)
class Point:
    """An evaluation of the whole fleet after `cloud_round` rounds; bytes: of all devices so far."""

    cloud_round: int
    seconds: float
    bytes_up: int
    bytes_down: int
    accuracy: float
    loss: float
    devices: dict[str, float]


class Progress:
    """Feed it every event with the name of its tier; read devices, points, losses, notes."""

    def __init__(self, job: Job, now: float) -> None:
        self.job, self.began, self.now = job, now, now
        self.devices = {
            d.id: DeviceView(d.id, d.zone, "serial" if d.board or is_line(d.host_link) else "tcp")
            for d in job.devices
        }
        self.zones: dict[str, dict[str, Any]] = {z.name: {} for z in job.zones}
        self.cloud_rounds = 0  # done
        self.edge_rounds = 0  # done, of the zone that is furthest
        self.loss: float | None = None
        self.points: list[Point] = []
        self.losses: list[
            tuple[int, float, float]
        ] = []  # cloud rounds done, seconds, training loss
        self.notes: list[tuple[float, str]] = []
        self.paths: list[str] = []
        self.links: dict[tuple[str, str], Event] = {}  # what a tier said last of one of its peers
        self.traffic: dict[str, dict[str, Any]] = {}  # of lines that follow a network
        self.ledger: dict[str, Table] = {}  # hop -> bytes by what they carried
        self.hash = ""
        self.trained_s: float | None = None  # when the last cloud round ended
        self._evaluations: dict[int, dict[str, dict[str, Any]]] = {}

    @property
    def bytes_up(self) -> int:
        return sum(device.up.total for device in self.devices.values())

    @property
    def bytes_down(self) -> int:
        return sum(device.down.total for device in self.devices.values())

    @property
    def seconds(self) -> float:
        return self.now - self.began

    def message_bytes(self, name: str) -> tuple[int, int]:
        """Whole messages (up, down) of a device: by what it said last itself, or the edge host of
        it; each since that program was started last.
        """
        host = host_name(self.devices[name].zone)
        mine, theirs = self.links.get((name, host), {}), self.links.get((host, name), {})
        up = [mine.get("bytes_sent"), theirs.get("bytes_received")]
        down = [mine.get("bytes_received"), theirs.get("bytes_sent")]
        return max(int(n or 0) for n in up), max(int(n or 0) for n in down)

    def feed(self, tier: str, event: Event, now: float) -> None:
        """One event of one tier. Unknown events are passed over."""
        self.now = now
        kind = event.get("event")
        over = self.cloud_rounds >= self.job.train.cloud_rounds
        if kind in TOLD and not (over and kind in ("zone_left", "left")):
            self.notes = [*self.notes, (self.seconds, f"{tier}: {describe(event)}")][-NOTES_KEPT:]
        device = self.devices.get(str(event.get("device")))
        if kind == "round":
            self._round(event)
        elif kind == "cloud_round":
            self._cloud_round(event)
        elif kind == "evaluated":
            self._evaluated(event)
        elif kind == "link":
            if not (over and event.get("state") == "lost"):  # who is done hangs up
                self.links[tier, str(event.get("peer"))] = event
        elif kind == "bytes":
            self._ledger(event)
        elif kind == "traffic":
            self.traffic = event["lines"]
        elif kind == "saved":
            self.paths = list(dict.fromkeys([*self.paths, str(event.get("path"))]))
        elif kind == "done" and tier == "cloud":
            self.hash = str(event.get("hash", ""))
            self._traffic(event.get("reports", {}))
        elif device is not None:
            _device_event(device, tier, event)

    def _round(self, event: Event) -> None:
        self.edge_rounds = max(self.edge_rounds, int(event["round"]))
        self.zones.get(event["zone"], {}).update(round=event["round"], loss=event["loss"])
        losses = [zone["loss"] for zone in self.zones.values() if "loss" in zone]
        self.loss = sum(losses) / len(losses) if losses else None
        for id_, values in event.get("devices", {}).items():
            device = self.devices.get(id_)
            if device is not None:
                device.state = "training"
                device.loss = values.get("loss", device.loss)
                if "bytes_up" in values:
                    device.up.host(values["bytes_up"])
                    device.down.host(values["bytes_down"])

    def _cloud_round(self, event: Event) -> None:
        self.cloud_rounds = max(self.cloud_rounds, int(event["round"]) + 1)
        self.trained_s = self.seconds
        metrics = event.get("metrics", {})
        self._traffic(metrics)
        losses = [m["loss"] for m in metrics.values() if m.get("loss") is not None]
        if losses:
            self.losses.append((self.cloud_rounds, self.seconds, sum(losses) / len(losses)))

    def _ledger(self, event: Event) -> None:
        """The hop to the cloud as the cloud counts it; that of the devices from all zones."""
        for hop in ("devices", "zones"):
            if hop in event["bytes"]:
                self.ledger[hop] = add(self.ledger.get(hop, {}), event["bytes"][hop])

    def _traffic(self, metrics: dict[str, Any]) -> None:
        for zone in metrics.values():
            for id_, traffic in zone.get("bytes", {}).items():
                device = self.devices.get(id_)
                if device is not None:
                    device.up.cloud(traffic["up"])
                    device.down.cloud(traffic["down"])

    def _evaluated(self, event: Event) -> None:
        after = int(event["cloud_round"])
        found = self._evaluations.setdefault(after, {})
        for id_, values in event["devices"].items():
            device = self.devices.get(id_)
            if device is None:
                continue
            found[id_] = values
            device.correct, device.total = values["correct"], values["total"]
            device.own_correct = values.get("own_correct")
            device.own_total = values.get("own_total")
        zones = {self.devices[id_].zone for id_ in found}
        total = sum(values["total"] for values in found.values())
        if len(zones) < len(self.zones) or not total:
            return
        weighted = sum(values["loss"] * values["total"] for values in found.values())
        point = Point(
            cloud_round=after,
            seconds=self.seconds,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            accuracy=sum(values["correct"] for values in found.values()) / total,
            loss=weighted / total,
            devices={i: v["correct"] / v["total"] for i, v in sorted(found.items()) if v["total"]},
        )
        others = [other for other in self.points if other.cloud_round != after]
        self.points = sorted([*others, point], key=lambda p: p.cloud_round)

    def record(self) -> dict[str, Any]:
        """Everything a report needs, JSON-able."""
        return {
            "points": [asdict(point) for point in self.points],
            "losses": [list(entry) for entry in self.losses],
            "devices": {id_: _device_record(device) for id_, device in self.devices.items()},
            "cloud_rounds": self.cloud_rounds,
            "edge_rounds": self.edge_rounds,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": round(self.seconds, 3),
            "ledger": self.ledger,
            "notes": [list(note) for note in self.notes],
            "links": [{**event, "tier": tier} for (tier, _), event in sorted(self.links.items())],
            "hash": self.hash,
        }


def _device_event(device: DeviceView, tier: str, event: Event) -> None:
    kind = event["event"]
    if kind == "stats":
        values = event.get("stats", event)
        device.vmhwm_mb = max(device.vmhwm_mb, float(values.get("vmhwm_mb") or 0))
        device.steps = int(values.get("steps", device.steps))
        device.compute_s = float(values.get("compute_s", device.compute_s))
    elif kind in ("joined", "left", "late", "lost", "done"):
        device.state = "lost" if kind == "left" else str(kind)


def _device_record(device: DeviceView) -> dict[str, Any]:
    values = {k: v for k, v in vars(device).items() if k not in ("up", "down")}
    return {
        **values,
        "accuracy": device.accuracy,
        "bytes_up": device.up.total,
        "bytes_down": device.down.total,
    }
