"""The edge host program: one loop that joins the zone's devices, its training and the cloud."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..runtime.config import LOCAL_MODES, Job, find_zone
from ..runtime.errors import UserError
from ..runtime.files import write_whole
from ..runtime.keys import load_keys
from ..runtime.ledger import Table
from ..runtime.link import Link, LinkLost, Listener, Received, open_link, open_listener
from ..runtime.plan import build_plan, size_up
from ..runtime.q8_plan import build_q8_plan, size_up_q8, sums_of
from ..runtime.quantised import fuse
from ..runtime.recompute import choose
from ..runtime.status import Reporter
from .checkpoint import (
    ZoneState,
    load_zone,
    restore_trainer,
    save_model,
    save_zone,
    trainer_arrays,
    zone_file,
)
from .exits import check_exits, job_network
from .fleet import Answer, Fleet, Happening, Joined, Left, Stats, check_batch
from .models import input_shape
from .replan import make_trainer
from .split import END, Split, split
from .uplink import REPEAT_S, Finish, State, Train, Uplink, report_body
from .zone_differences import ZoneDifferences

Emit = Callable[[dict[str, Any]], None]

CLOUD_S = 0.02  # how often the cloud is heard in training, and the devices between two rounds
ROUND_EVENT_S = 0.2  # at most one round event in this time
FAREWELL_S = 5.0  # how long the last word may take, and devices to hear that the job is done


def cut_model(job: Job) -> Split:
    """The job's network, seeded and cut where its mode and seam say. Raises UserError (exit 5)."""
    model = job_network(job)
    seam = END if job.mode in LOCAL_MODES else job.model.seam
    cut = split(model, seam, input_shape(model), exit_on_device=job.mode == "local-loss")
    check_exits(job, cut)
    return cut


def make_plan(job: Job, cut: Split) -> bytes:
    """The plan of the front for the job's batch."""
    train = job.train
    if train.arithmetic == "q8":
        specs, stands_for, _ = fuse(cut.front)
        momentum, sums = train.q8_momentum, sums_of(recompute=train.recompute)
        if cut.exit_from not in stands_for:
            raise UserError("the exit of an int8 front must not begin with a ReLU", 5)
        seam = stands_for.index(cut.exit_from)
        q8 = size_up_q8(
            specs, cut.input_shape, train.batch, momentum=momentum, sums=sums, seam=seam
        )
        again = choose(q8) if train.recompute else ()
        return build_q8_plan(
            specs, cut.input_shape, train.batch, momentum=momentum, sums=sums, again=again,
            seam=seam,
        )  # fmt: skip
    seam = cut.exit_from
    front = size_up(cut.front, cut.input_shape, job.train.batch, seam=seam)
    again = choose(front) if job.train.recompute else ()
    return build_plan(cut.front, cut.input_shape, job.train.batch, again=again, seam=seam)


class Host:
    """A zone without links: fleet, trainer and uplink, and what passes between them."""

    def __init__(self, job: Job, zone: str, emit: Emit, now: float, first_session: int = 1) -> None:
        """Raises UserError if the zone or the model is not usable."""
        self.address = find_zone(job, zone).address
        check_batch(job)
        self.job, self.zone, self.emit = job, zone, emit
        self.cut = cut_model(job)
        self.trainer = make_trainer(job, zone, self.cut, lambda cut: make_plan(job, cut), now)
        self.fleet = Fleet(job, zone, make_plan(job, self.cut), first_session, self.trainer.plan_of)
        self.link_kind: Callable[[str], str] = lambda device: "tcp"  # of a device: tcp or serial
        self.done = False
        self.next_round = 0
        self._leave_at: float | None = None  # nothing is left to do; when to go in any case
        self._last_word = b""  # said before a restart
        self.differences = None if job.codec.cloud == "f32" else ZoneDifferences(job.codec)
        if self.differences is not None:
            self.differences.check(self.trainer.initial)
        repeat_s = job.link.wait_s(REPEAT_S)
        self.uplink = Uplink(zone, job.name, now, self._restore(), repeat_s, self.differences)
        if self._last_word:
            self._leave_at = now + FAREWELL_S
            self.uplink.report(self.next_round, self._last_word)
        self._order: Train | Finish | None = None
        self._start: State = {}  # the model the round began with; empty: the cloud had none yet
        self._told = now - ROUND_EVENT_S
        self._held: dict[str, Any] | None = None  # the latest round event not passed on

    def _restore(self) -> tuple[int, bytes] | None:
        """Goes on from the last durable cloud round; returns its update if the cloud may not have
        it.
        """
        kept = load_zone(self.job, self.zone)
        if kept is None:
            return None
        try:
            restore_trainer(self.trainer, kept.arrays)
            if self.differences is not None:
                self.differences.restore(kept.arrays)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"the state of zone {self.zone} does not fit the model ({error}); remove "
                f"{self.job.out}/zones/{self.zone}",
                3,
            ) from error
        self.next_round, self._last_word = kept.next_round, kept.report
        self.trainer.rounds_done = kept.next_round * self.job.train.edge_rounds
        self.emit({"event": "restored", "zone": self.zone, "cloud_round": kept.next_round})
        return (kept.next_round - 1, kept.update) if kept.update else None

    # ---- inputs ----

    def from_device(self, peer: str, data: bytes, now: float) -> None:
        for happening in self.fleet.receive(peer, data, now):
            self._happened(happening)

    def lost_device(self, peer: str, reason: str) -> None:
        for happening in self.fleet.lost(peer, reason):
            self._happened(happening)

    def from_cloud(self, data: bytes) -> None:
        order = self.uplink.receive(data)
        if isinstance(order, Train):
            self._train(order)
        elif isinstance(order, Finish):
            self._order = order
            self.trainer.evaluate(order.rounds, order.state)

    def tick(self, now: float) -> None:
        self.trainer.roster.tick(now)
        self.uplink.tick(now)

    def _happened(self, happening: Happening) -> None:
        device = happening.device
        if isinstance(happening, Answer):
            self.trainer.roster.answer(device, happening.message)
        elif isinstance(happening, Joined):
            self.trainer.joined(
                device,
                happening.samples,
                happening.tests,
                happening.has_checkpoint,
                happening.inputs,
                happening.saved_round,
            )
            joined = {"event": "joined", "zone": self.zone, "device": device}
            self.emit({**joined, "link": self.link_kind(device)})
        elif isinstance(happening, Left):
            self.trainer.left(device, happening.reason if happening.failed else "")
            self.emit(
                {"event": "left", "zone": self.zone, "device": device, "reason": happening.reason}
            )
        elif isinstance(happening, Stats):
            self.emit(
                {"event": "stats", "zone": self.zone, "device": device, "stats": happening.values}
            )

    def _train(self, order: Train) -> None:
        if order.round < self.next_round:  # a cloud that began anew
            self.trainer.forget()
            if self.differences is not None:
                self.differences.sender.forget()
        self._order = order
        self.trainer.train(order.round, order.state)
        self._start = {} if order.state is None else self.trainer.state()

    # ---- work ----

    def work(self, now: float) -> bool:
        """Goes on as far as it can. True if it did something and should be called again once all
        is sent.
        """
        self.trainer.advance()
        roster = self.trainer.roster
        moved = bool(roster.outbox)
        for device, message in roster.outbox:
            self.fleet.send(device, message)
        roster.outbox.clear()
        for event in roster.events:
            self._tell(event, now)
        roster.events.clear()
        if self._order is not None and self.trainer.result is not None:
            self._finish_work(self._order, now)
            moved = True
        if self._leave_at is not None and not self.done and self._may_leave(now):
            self.fleet.goodbye("the job is done")
            self.done = moved = True
        return moved

    def _may_leave(self, now: float) -> bool:
        """The cloud has our last word. After a restart: and the devices, some of which may have
        heard that the job is done, are here to hear it.
        """
        here = len(self.trainer.roster.ready()) == len(self.trainer.roster.devices)
        heard = self.uplink.report_accepted and (here or not self._last_word)
        return heard or now >= (self._leave_at or now)

    def _tell(self, event: dict[str, Any], now: float) -> None:
        """Passes an event on; of rounds only so many that a person or a log can follow, and always
        the last.
        """
        if event["event"] == "round":
            for device, values in event["devices"].items():
                traffic = self.fleet.traffic[device]
                values |= {"bytes_up": traffic.up, "bytes_down": traffic.down}
            self._held = event
            if now - self._told < ROUND_EVENT_S:
                return
            self._told = now
        if self._held is not None:
            self.emit(self._held)
            self._held = None
        if event["event"] != "round":
            self.emit(event)

    def _finish_work(self, order: Train | Finish, now: float) -> None:
        result = self.trainer.result
        assert result is not None
        self._order = self.trainer.result = None
        metrics = {**result.metrics, "bytes": self._bytes()}
        self._tell_bytes(result.cloud_round)
        if isinstance(order, Train):
            difference = {k: value - self._start.get(k, 0) for k, value in result.state.items()}
            update = self.uplink.update(order.round, result.samples, metrics, difference)
            self.next_round = order.round + 1
            state = ZoneState(self.next_round, self._arrays(), update)
            save_zone(self.job, self.zone, state)
            self.uplink.send_update(now)
            return
        path = save_model(self.job, self.cut, result.state)
        for name, data in self.trainer.finished_fronts(self.fleet.plan).items():
            write_whole(zone_file(self.job, self.zone).with_name(name), data)
        self._save_exits()
        self.emit({"event": "saved", "path": str(path)})
        report = report_body(order.rounds, metrics)
        if self.trainer.roster.wait_all:
            state = ZoneState(order.rounds, self._arrays(), report=report)
            save_zone(self.job, self.zone, state)
            self._leave_at = now + FAREWELL_S
        self.uplink.report(order.rounds, report)
        if self._leave_at is None:
            self.fleet.goodbye("the job is done")
            self.done = True

    def _save_exits(self) -> None:
        """Rules of the exits, found on this zone's devices, beside the zone's state."""
        if self.trainer.calibration is not None:
            path = zone_file(self.job, self.zone).with_name("exits.json")
            text = json.dumps(self.trainer.calibration.document(), indent=1)
            write_whole(path, text.encode())

    def ledger(self) -> dict[str, Table]:
        """Bytes since the start, on both hops."""
        return {"devices": self.fleet.ledger.total, "cloud": self.uplink.ledger.total}

    def _tell_bytes(self, cloud_round: int) -> None:
        """What crossed both hops since this was told last; what follows goes with the next."""
        hops = {"devices": self.fleet.ledger.take(), "cloud": self.uplink.ledger.take()}
        event = {"event": "bytes", "zone": self.zone, "cloud_round": cloud_round}
        self.emit({**event, "bytes": hops})

    def _arrays(self) -> dict[str, Any]:
        own = {} if self.differences is None else self.differences.arrays()
        return trainer_arrays(self.trainer) | own

    def _bytes(self) -> dict[str, dict[str, int]]:
        return {d: {"up": t.up, "down": t.down} for d, t in sorted(self.fleet.traffic.items())}


def run_host(
    job: Job,
    zone: str,
    *,
    insecure: bool = False,
    emit: Emit,
    stop: threading.Event | None = None,
) -> int:
    """Runs the edge host of `zone` until the cloud says that the job is done, or `stop` is set.
    Returns 0.

    insecure: no keys, clear text on the network. emit: is called with each event, a JSON-able
    dict. Raises UserError: no such zone, a model that cannot be cut there, a missing key, an
    address in use, a cloud that refuses the zone.
    """
    torch.set_num_threads(1)  # two busy threads on few cores are several times slower
    host = Host(job, zone, emit, time.monotonic(), random.SystemRandom().randrange(1, 1 << 31))
    name = f"host-{zone}"
    keys = None if insecure else load_keys(Path(job.keys.folder), name)
    lines = {d.id: d.host_link for d in job.devices if d.zone == zone and d.host_link}
    patience = job.link.silence_s
    listener = open_listener(host.address, lines, name=name, keys=keys, silence_s=patience)
    try:
        host.link_kind = listener.link_kind
        emit({"event": "listening", "zone": zone, "address": listener.address()})
        link = open_link(job.cloud.address, name=name, keys=keys, host="cloud", silence_s=patience)
        reporter = Reporter(
            job.out,
            name,
            lambda: [*link.peers(), *listener.peers()],
            emit,
            lambda: listener.counters[""]["refused_keys"],
            host.ledger,
        )
        try:
            _loop(host, listener, link, stop or threading.Event(), reporter)
        finally:
            reporter.close()
            link.close()
    finally:
        listener.close()
    return 0


def _loop(
    host: Host, listener: Listener, link: Link, stop: threading.Event, reporter: Reporter
) -> None:
    """Until the job is done or stop is set: devices, cloud, time, work, and what goes out."""
    cloud_at, told = 0.0, host.next_round
    while not stop.is_set():
        busy = host.trainer.busy
        for event in listener.poll(CLOUD_S if busy else 0.0):
            if isinstance(event, Received):
                host.from_device(event.peer, event.data, time.monotonic())
            else:
                host.lost_device(event.peer, event.reason)
                reporter.links(event.peer)
        now = time.monotonic()
        if now - cloud_at >= CLOUD_S or not busy:
            _hear_cloud(host, link, 0.0 if busy else CLOUD_S, reporter)
            cloud_at = now = time.monotonic()
        host.tick(now)
        reporter.tick(now)
        more = True
        while more:
            more = host.work(time.monotonic())
            _send(host, listener, link, now)
        if host.next_round != told:
            told = host.next_round
            reporter.links()
        if host.done:
            host._tell_bytes(host.next_round)
            host.emit({"event": "done", "zone": host.zone})
            return


def _hear_cloud(host: Host, link: Link, wait: float, reporter: Reporter) -> None:
    """All that has come from the cloud, waiting up to `wait` seconds for the first of it."""
    try:
        data = link.receive(wait)
        while data is not None:
            host.from_cloud(data)
            data = link.receive(0.0)
    except LinkLost as lost:
        if lost.refused:
            raise UserError(f"the cloud does not accept the key of zone {host.zone}", 6) from lost
        host.uplink.lost(time.monotonic())
        host.emit({"event": "cloud_lost", "zone": host.zone, "reason": lost.reason})
        reporter.links("cloud")


def _send(host: Host, listener: Listener, link: Link, now: float) -> None:
    for peer, data in host.fleet.outbox:
        listener.send(peer, data)
    host.fleet.outbox.clear()
    try:
        for data in host.uplink.outbox:
            link.send(data)
    except LinkLost as lost:
        host.uplink.lost(now)
        host.emit({"event": "cloud_lost", "zone": host.zone, "reason": lost.reason})
    host.uplink.outbox.clear()
