"""What the tests of the edge host share: a front on the kernels, and a zone in virtual time
without sockets.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from seamline.edge_host.host import Host
from seamline.edge_host.split import Split, float_state
from seamline.kernels.front import SEND, TEST, TRAIN, Front, Session
from seamline.runtime import message as wire
from seamline.runtime.config import (
    CodecSection,
    DeviceSection,
    Job,
    ModelSection,
    PlanSection,
    RoundSection,
    TrainSection,
    ZoneSection,
)
from seamline.runtime.data import Data, keep_apart
from seamline.runtime.device import BatchOrder
from seamline.runtime.message import Kind, Message
from seamline.runtime.plan import build_plan
from torch import Tensor

torch.set_num_threads(1)

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
START: dict[str, Any] = {
    "cloud_rounds": 2,
    "edge_rounds": 3,
    "device_steps": 2,
    "batch": 4,
    "evaluate_every": 1,
}


@pytest.fixture
def on_device() -> Callable[[Split, Tensor], NDArray[np.float32]]:
    """(cut, x [n, *input] in torch layout) -> what the front computes, [n, h, w, c], with the
    kernels.
    """

    def forward(cut: Split, x: Tensor) -> NDArray[np.float32]:
        h, w, c = cut.input_shape
        front = Front(build_plan(cut.front, cut.input_shape, len(x)))
        front.params[:] = cut.front_vector(float_state(cut.model))
        nhwc = x.numpy().reshape(len(x), c, h, w).transpose(0, 2, 3, 1)
        return np.array(front.forward(np.ascontiguousarray(nhwc)))

    return forward


def waves(seed: int, samples: int) -> Arrays:
    """Three classes of noisy waves [n, 1, 32, 2]: x and y to train, x and y to test (10)."""
    rng = np.random.default_rng(seed)
    n = samples + 10
    y = rng.integers(0, 3, n).astype(np.int32)
    t = np.arange(32)[None, :, None] / 32
    x = np.sin(2 * np.pi * (1 + 2 * y[:, None, None]) * t + rng.uniform(0, 6, (n, 1, 2)))
    x = (x + rng.normal(0, 0.1, x.shape)).astype(np.float32)[:, None]
    return x[:samples], y[:samples], x[samples:], y[samples:]


class Device:
    """A session of the core with its data, as the device program drives it."""

    def __init__(self, name: str, data: Arrays) -> None:
        self.data = data
        ends = (float(data[0].min()), float(data[0].max()))
        self.session = Session(name, b"bootboot", len(data[0]), len(data[2]), samples=ends)
        self.order: BatchOrder | None = None

    def hello(self) -> bytes:
        return self.session.hello()

    def receive(self, data: bytes) -> list[bytes]:
        session = self.session
        action = session.receive(data)
        while action in (TRAIN, TEST):
            first, count = session.need_first, session.need_count
            if action == TEST:
                x, y = (part[first : first + count] for part in self.data[2:])
            else:
                self.order = self.order or BatchOrder(len(self.data[0]), session.seed)
                chosen = self.order.indices(first, count)
                x, y = (part[chosen] for part in self.data[:2])
            session.inputs[:count], session.labels[:count] = x, y
            action = session.batch()
        return [session.answer()] if action == SEND else []

    def front(self) -> NDArray[Any]:
        """Its parameters now: [p] in the plan's order; in q8 the bytes of the learned part."""
        params, learned = self.session.params, self.session.learned
        return np.array(params if learned is None else learned)


@dataclass
class Cloud:
    """A cloud for one zone, as SPEC.md says and no more. `updates`: (round, samples, metrics) as
    they came.
    """

    job: Job
    model: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    round: int = 0
    updates: list[tuple[int, int, dict[str, Any]]] = field(default_factory=list)
    report: dict[str, Any] | None = None
    accepts: bool = True
    hears: bool = True  # what a zone says at the end

    def receive(self, data: bytes) -> list[bytes]:
        message = Message.decode(data)
        meta, arrays = wire.read_zone(message.body)
        if message.kind == Kind.ZONE_HELLO:
            body = wire.zone_body({"round": self.round, "done": self.done}, {})
            return [Message(Kind.ZONE_WELCOME, body=body).encode(), self.order()]
        if message.kind == Kind.ZONE_REPORT:
            if not self.hears:
                return []
            self.report = meta
            body = wire.zone_body({"round": message.round}, {})
            return [Message(Kind.ZONE_ACCEPTED, round=message.round, body=body).encode()]
        assert message.kind == Kind.ZONE_UPDATE
        if not self.accepts:
            return []
        if message.round == self.round:
            self.updates.append((message.round, meta["samples"], meta["metrics"]))
            self.model = {name: self.model.get(name, 0) + arrays[name] for name in arrays}
            self.round += 1
        body = wire.zone_body({"round": message.round}, {})
        return [Message(Kind.ZONE_ACCEPTED, round=message.round, body=body).encode(), self.order()]

    @property
    def done(self) -> bool:
        return self.round == self.job.train.cloud_rounds

    def order(self) -> bytes:
        model = self.model if self.round else {}
        kind = Kind.ZONE_DONE if self.done else Kind.ZONE_ROUND
        body = wire.zone_body({"round": self.round}, model)
        return Message(kind, round=self.round, body=body).encode()


class World:
    """A zone in virtual time: a Host, its devices and a cloud; messages take a random, seeded
    while, in order for each device.
    """

    def __init__(self, job: Job, data: dict[str, Arrays], seed: int) -> None:
        self.job, self.data = job, data
        self.random = random.Random(seed)
        self.now = 0.0
        self.events: list[dict[str, Any]] = []
        self.host = Host(job, "A", self.events.append, 0.0)
        self.cloud = Cloud(job)
        self.devices: dict[str, Device] = {}
        self.muted: set[str] = set()  # what these send is lost on the way
        self.sent: list[tuple[str, Message]] = []  # to devices
        self.arrived: list[tuple[str, Message]] = []  # from devices
        self._due: list[tuple[float, int, str, str, bytes]] = []
        self._last: dict[tuple[str, str], float] = {}
        self._count = 0
        for device in sorted(data):
            self.join(device)

    def join(self, device: str, again: Device | None = None) -> None:
        """A device starts (anew), or one that was lost comes back, and says HELLO."""
        self.lose(device)
        self.devices[device] = again or Device(device, self.data[device])
        self._post("host", device, self.devices[device].hello())

    def lose(self, device: str) -> None:
        """A device is gone at once, with what is on its way."""
        if self.devices.pop(device, None) is not None:
            self._due = [entry for entry in self._due if entry[3] != device]
            heapq.heapify(self._due)
            self.host.lost_device(device, "killed")

    def restart(self) -> None:
        """The host starts anew from what it has on disk; devices and cloud find it again."""
        self._due.clear()
        self.host = Host(self.job, "A", self.events.append, self.now, 1000)
        for device in sorted(self.devices):
            self._post("host", device, self.devices[device].hello())

    def run(
        self, until: Callable[[World], bool] = lambda world: False, limit: float = 500.0
    ) -> None:
        """Until the job is done or `until`; fails after `limit` virtual seconds."""
        end = self.now + limit
        while not self.host.done and not until(self):
            assert self.now < end, f"nothing happens any more: {self.events[-3:]}"
            self.now = min(self._due[0][0] if self._due else self.now + 1.0, self.now + 1.0)
            while self._due and self._due[0][0] <= self.now:
                self._deliver(*heapq.heappop(self._due)[2:])
            self.host.tick(self.now)
            while self.host.work(self.now):
                self._collect()
            self._collect()
        while self.host.done and self._due:
            self._deliver(*heapq.heappop(self._due)[2:])

    def _collect(self) -> None:
        for peer, data in self.host.fleet.outbox:
            if peer in self.devices:
                self.sent.append((peer, Message.decode(data)))
                self._post("device", peer, data)
        self.host.fleet.outbox.clear()
        for data in self.host.uplink.outbox:
            self._post("cloud", "", data)
        self.host.uplink.outbox.clear()

    def _post(self, to: str, peer: str, data: bytes) -> None:
        after = max(self.now, self._last.get((to, peer), 0.0))
        due = after + self.random.uniform(0.001, 0.01)
        self._last[to, peer] = due
        self._count += 1
        heapq.heappush(self._due, (due, self._count, to, peer, data))

    def _deliver(self, to: str, peer: str, data: bytes) -> None:
        if to == "device":
            for answer in self.devices[peer].receive(data):
                if peer not in self.muted:
                    self._post("host", peer, answer)
        elif to == "cloud":
            for answer in self.cloud.receive(data):
                self._post("zone", "", answer)
        elif to == "zone":
            self.host.from_cloud(data)
        else:
            self.arrived.append((peer, Message.decode(data)))
            self.host.from_device(peer, data, self.now)

    # ---- what a test asks ----

    def rounds(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "round"]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def fingerprint(self) -> bytes:
        return b"".join(self.cloud.model[name].tobytes() for name in sorted(self.cloud.model))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes a world of `devices` (id -> training samples) around a small network."""

    def build(
        mode: str = "split-v2",
        *,
        devices: dict[str, int] | None = None,
        absent: tuple[str, ...] = (),
        seed: int = 0,
        codec: str = "int8",
        seam: int | str = 1,
        exits: tuple[int | str, ...] = (),
        exit_entropy: float = 0.0,
        validation: int = 0,
        rounds: dict[str, Any] | None = None,
        plan: PlanSection | None = None,
        name: str = "out",
        **train: Any,
    ) -> World:
        sizes = devices or {"d0": 12, "d1": 20, "d2": 9}
        job = Job(
            zones=[ZoneSection("A", "tcp://127.0.0.1:*")],
            devices=[DeviceSection(device, "A") for device in sizes],
            seed=7,
            mode=mode,  # type: ignore[arg-type]
            out=str(tmp_path / name),
            model=ModelSection(
                "watch",
                seam,
                args={"channels": 2, "length": 32, "classes": 3},
                exits=list(exits),
                exit_entropy=exit_entropy,
            ),
            train=TrainSection(**{**START, **train}),
            codec=CodecSection(codec, codec),  # type: ignore[arg-type]
            round=RoundSection(**(rounds or {})),
            plan=plan or PlanSection(),
        )
        data = {d: waves(i, n) for i, (d, n) in enumerate(sizes.items()) if d not in absent}
        if validation:
            job.data.validation = validation
            whole = {d: Data(*arrays, classes=3) for d, arrays in data.items()}
            apart = {d: keep_apart(one, validation, job.seed, d) for d, one in whole.items()}
            data = {d: (a.x_train, a.y_train, a.x_test, a.y_test) for d, a in apart.items()}
        return World(job, data, seed)

    yield build
