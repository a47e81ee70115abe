"""The device program: its data, its front, its session, and one link to the edge host. No torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import SeamError, random_bits
from ..kernels.front import END, FAIL, SEND, TEST, TRAIN, Session
from .config import Job, find_device, find_zone
from .data import Data, device_data
from .errors import UserError
from .kept import Kept, State
from .keys import load_keys
from .link import Link, LinkLost, load_link, open_link
from .message import Flag, Kind, Message, bye_body, read_error
from .status import Reporter

Emit = Callable[[dict[str, Any]], None]

EPOCH_STREAM = 0x45504F43
HELLO_EVERY_S = 1.0
SAVE_EVERY_S = 1.0
STATS_EVERY_S = 5.0
REJOIN = {11, 12}  # statuses (sign dropped) after which a new HELLO helps: state, session


class BatchOrder:
    """Which samples are in which batch: an endless walk through all, in a new order each epoch."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self._epochs: dict[int, NDArray[np.intp]] = {}

    def indices(self, number: int, batch: int) -> NDArray[np.intp]:
        """The samples of batch `number`, [batch]."""
        positions = np.arange(number * batch, (number + 1) * batch)
        epochs = positions // self.samples
        wanted = range(int(epochs[0]), int(epochs[-1]) + 1)
        self._epochs = {e: self._epochs[e] if e in self._epochs else self._order(e) for e in wanted}
        if len(wanted) == 1:
            return self._epochs[wanted[0]][positions - wanted[0] * self.samples]
        pairs = zip(epochs, positions % self.samples, strict=True)
        return np.array([self._epochs[int(e)][p] for e, p in pairs])

    def _order(self, epoch: int) -> NDArray[np.intp]:
        stream = (EPOCH_STREAM + epoch) & 0xFFFFFFFF
        return np.argsort(random_bits(self.seed, stream, 0, self.samples), kind="stable")


@dataclass
class _Program:
    device_id: str
    data: Data
    session: Session
    link: Link
    emit: Emit
    reporter: Reporter
    disk: Kept
    kept: State | None  # the newest found on disk at the start, until it is used
    joined: bool = False
    order: BatchOrder | None = None
    steps: int = 0
    compute_s: float = 0.0
    said: float = -HELLO_EVERY_S
    begun: int = 0  # the round begun last
    fresh: bool = False  # no round was begun since the host was joined
    has_front: bool = False  # since then, a front came or was put back
    changed: bool = False  # the front has trained since it was saved
    saved: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    told_steps: int = 0

    def serve(self) -> None:
        """Until the host says BYE."""
        while True:
            now = time.monotonic()
            if not self.joined and now - self.said >= HELLO_EVERY_S:
                self.said = now
                self.link.send(self.session.hello())
            try:
                data = self.link.receive(0.2 if not self.joined else 1.0)
            except LinkLost as lost:
                self._lost(lost)
                continue
            if data is not None and self._take(data):
                return
            self._housekeeping(time.monotonic())

    def _lost(self, lost: LinkLost) -> None:
        if lost.refused:
            raise UserError(lost.reason, 6) from None
        self.emit({"event": "lost", "device": self.device_id, "reason": lost.reason})
        self.reporter.links()
        self.joined = False
        self.said = -HELLO_EVERY_S  # greet the next host at once

    def _take(self, data: bytes) -> bool:
        """One message from the host; True when it was the last."""
        start = time.perf_counter()
        if data[3] == Kind.WEIGHTS_GET and data[4] & Flag.MOMENTUM:
            self._go_back(Message.decode(data), TRAIN)
        try:
            action = self.session.receive(data)
        except SeamError:
            return False  # not for this session, or damaged: the host asks again
        if action in (TRAIN, TEST):
            self._go_back(Message.decode(data), action)
        while action in (TRAIN, TEST):
            action = self._batch(action)
        self.compute_s += time.perf_counter() - start
        self.changed |= data[3] in (Kind.STEP, Kind.GRAD)
        if action == SEND:
            if data[4] & Flag.KEEP:
                self._keep()
            self._send(data[3])
        elif action == FAIL:
            self._failed()
        return action == END

    def _restore_front(self) -> None:
        """A personal front goes on from the checkpoint; any other is overwritten by the host."""
        kept = self.kept
        if kept and kept["plan"] == self.session.plan:
            self.session.restore_front(kept)

    def _go_back(self, request: Message, action: int) -> None:
        """The first work for a host that was joined anew starts from the front after the round
        before, which that host may know as the last: what was learned since is learned again.
        """
        if not self.fresh:
            return
        session = self.session
        assert session.plan is not None
        ends = action == TEST or request.kind == Kind.WEIGHTS_GET
        round_ = request.round if ends else request.round - 1
        state = self.disk.after(round_, session.plan, session.seed)
        self.has_front |= bool(request.flags & Flag.WEIGHTS)
        if state is not None and not self.has_front:
            session.restore_front(state)
            self.has_front = True
        if action == TEST:
            return
        self.fresh = False
        if round_ == 0 or state is not None:  # in the first round of a job there is no momentum
            self.begun, self.kept = request.round, None
            session.saved(0, None)
            session.restore_momentum(state or {})

    def _keep(self) -> None:
        """The front after a round that the host asked to keep, before the host hears of it."""
        session = self.session
        if session.answer()[3] == Kind.ERROR:
            return
        assert session.plan is not None
        try:
            self.disk.keep(session.trained_round, session.kept(), session.plan, session.seed)
        except OSError as error:
            self._not_written(error)

    def _batch(self, action: int) -> int:
        session, data = self.session, self.data
        first, count = session.need_first, session.need_count
        if action == TEST:
            session.inputs[:count] = data.x_test[first : first + count]
            session.labels[:count] = data.y_test[first : first + count]
            return session.batch()
        self._begin()
        if self.order is None or self.order.seed != session.seed:
            self.order = BatchOrder(len(data.x_train), session.seed)
        indices = self.order.indices(first, count)
        np.take(data.x_train, indices, axis=0, out=session.inputs[:count])
        np.take(data.y_train, indices, axis=0, out=session.labels[:count])
        self.steps += 1
        return session.batch()

    def _begin(self) -> None:
        """Momentum: none in the first round of a job, else what the checkpoint kept."""
        session, kept = self.session, self.kept
        if session.trained_round == self.begun:
            return
        self.begun, self.kept = session.trained_round, None
        session.saved(0, None)
        if self.begun == 1:
            session.restore_momentum({})
        elif kept and kept["plan"] == session.plan:
            session.restore_momentum(kept)

    def _send(self, asked: int) -> None:
        answer = self.session.answer()
        self.link.send(answer)
        if answer[3] == Kind.ERROR:
            error = read_error(answer[24:])
            self.emit({"event": "error", "device": self.device_id, "reason": error.text})
            self.joined = self.joined and asked == Kind.PLAN  # the host has the plan before it
        elif asked == Kind.PLAN and self.joined:
            self.fresh, self.kept = False, None  # the host brings what this front needs
        elif asked == Kind.PLAN:
            self._restore_front()
            self.joined = self.fresh = True
            self.has_front = False
            self.emit({"event": "joined", "device": self.device_id})

    def _failed(self) -> None:
        code, text = self.session.failure
        if code not in REJOIN:
            raise UserError(f"the edge host refused {self.device_id}: {text}", 6)
        self.joined = False

    def _housekeeping(self, now: float) -> None:
        self.reporter.tick(now)
        if now - self.saved >= SAVE_EVERY_S:
            self.save(now)
        if now - self.told >= STATS_EVERY_S and self.steps != self.told_steps:
            self.tell(now)

    def save(self, now: float) -> None:
        """The front as it is, written whole and renamed. A full disk is told; training goes on."""
        self.saved, session = now, self.session
        if session.plan is None or session.trained_round == 0 or not self.changed:
            return
        if self.disk.rounds:
            return  # the host says when
        self.changed = False
        arrays = session.kept()
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return  # a front that diverged must not come back from the disk
        try:
            self.disk.save(session.trained_round, arrays, session.plan, session.seed)
        except OSError as error:
            self._not_written(error)

    def _not_written(self, error: OSError) -> None:
        reason = f"cannot write {self.disk.latest}: {error.strerror}; training goes on"
        self.emit({"event": "error", "device": self.device_id, "reason": reason})

    def tell(self, now: float) -> None:
        """Also at the end; between, only when something was done since."""
        self.told, self.told_steps = now, self.steps
        event = {"event": "stats", "device": self.device_id, "vmhwm_mb": vmhwm_mb()}
        self.emit({**event, "steps": self.steps, "compute_s": round(self.compute_s, 3)})


def vmhwm_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return None


def session_of(device_id: str, boot_id: bytes, data: Data) -> Session:
    """The session of a device with these samples."""
    train = data.x_train
    samples = float(train.min()), float(train.max())
    return Session(device_id, boot_id, len(train), len(data.x_test), samples=samples)


def run_device(
    job: Job,
    device_id: str,
    *,
    link_address: str | None = None,
    insecure: bool = False,
    emit: Emit,
) -> int:
    """Serves the edge host until it says BYE; 0 then. UserError for what a person must mend."""
    section = find_device(job, device_id)
    zone = find_zone(job, section.zone)
    address = link_address or section.link or zone.address
    data = device_data(job, device_id)
    load_link(address)
    keys = None if insecure else load_keys(Path(job.keys.folder), device_id)
    session = session_of(device_id, os.urandom(8), data)
    disk = Kept(Path(job.out) / "devices", device_id)
    kept = disk.newest()
    if kept is not None:
        session.saved(kept["round"], kept["plan"])
    link = open_link(
        address,
        name=device_id,
        keys=keys,
        host=f"host-{zone.name}",
        silence_s=job.link.silence_s,
    )
    reporter = Reporter(job.out, device_id, link.peers, emit)
    program = _Program(device_id, data, session, link, emit, reporter, disk, kept)
    try:
        program.serve()
        disk.clear()
        emit({"event": "done", "device": device_id})
    except KeyboardInterrupt:
        program.save(time.monotonic())
        link.send(Message(Kind.BYE, body=bye_body("stopped by its user")).encode())
        raise
    finally:
        program.tell(time.monotonic())
        reporter.links()
        reporter.close()
        link.close()
    return 0
