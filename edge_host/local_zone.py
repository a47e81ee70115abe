"""A zone with its devices in one process, without links: for benchmarks and for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..kernels.front import SEND, TEST, TRAIN, Session
from ..runtime.config import Job
from ..runtime.data import Data
from ..runtime.device import BatchOrder, session_of
from .fleet import Answer, Fleet, Joined
from .host import cut_model, make_plan
from .replan import make_trainer
from .trainer import Result, Trainer


@dataclass
class _Device:
    """A session and its samples."""

    session: Session
    data: Data
    order: BatchOrder | None = None

    def receive(self, message: bytes) -> bytes | None:
        session, data = self.session, self.data
        action = session.receive(message)
        while action in (TRAIN, TEST):
            first, count = session.need_first, session.need_count
            if action == TEST:
                session.inputs[:count] = data.x_test[first : first + count]
                session.labels[:count] = data.y_test[first : first + count]
            else:
                self.order = self.order or BatchOrder(len(data.x_train), session.seed)
                indices = self.order.indices(first, count)
                session.inputs[:count] = data.x_train[indices]
                session.labels[:count] = data.y_train[indices]
            action = session.batch()
        return session.answer() if action == SEND else None


@dataclass
class LocalZone:
    """A trainer, its fleet and their devices, who hear each other at once."""

    job: Job
    zone: str
    data: dict[str, Data]
    trainer: Trainer = field(init=False)
    fleet: Fleet = field(init=False)
    devices: dict[str, _Device] = field(init=False)
    scores: dict[str, Any] = field(init=False)  # of the last evaluation, by device

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        cut = cut_model(self.job)
        self.trainer = make_trainer(
            self.job, self.zone, cut, lambda cut: make_plan(self.job, cut), 0.0
        )
        plan = make_plan(self.job, cut)
        self.fleet = Fleet(self.job, self.zone, plan, plan_of=self.trainer.plan_of)
        self.devices = {
            name: _Device(session_of(name, bytes(8), one), one) for name, one in self.data.items()
        }
        for name, device in self.devices.items():
            self._hear(name, device.session.hello())
        self._exchange()

    def train(self) -> float:
        """The whole job; the final model's share of right answers on all held-out samples."""
        result = None
        for round_ in range(self.job.train.cloud_rounds):
            self.trainer.train(round_, None if result is None else result.state)
            result = self._work()
        assert result is not None
        self.trainer.evaluate(self.job.train.cloud_rounds, result.state)
        self.scores = self._work().metrics["evaluated"]
        found = self.scores.values()
        return float(sum(d["correct"] for d in found) / sum(d["total"] for d in found))

    def _work(self) -> Result:
        while self.trainer.busy:
            self.trainer.advance()
            self._exchange()
        assert self.trainer.result is not None
        return self.trainer.result

    def _exchange(self) -> None:
        """Until nobody says anything any more."""
        roster = self.trainer.roster
        roster.events.clear()
        while roster.outbox or self.fleet.outbox:
            for name, message in roster.outbox:
                self.fleet.send(name, message)
            roster.outbox.clear()
            sent, self.fleet.outbox = self.fleet.outbox, []
            for name, data in sent:
                answer = self.devices[name].receive(data)
                if answer is not None:
                    self._hear(name, answer)

    def _hear(self, name: str, data: bytes) -> None:
        for happening in self.fleet.receive(name, data, 0.0):
            if isinstance(happening, Answer):
                self.trainer.roster.answer(name, happening.message)
            elif isinstance(happening, Joined):
                self.trainer.joined(
                    name,
                    happening.samples,
                    happening.tests,
                    happening.has_checkpoint,
                    happening.inputs,
                )
            else:
                raise RuntimeError(f"{name} fell out of the bench: {happening}")
