"""Evaluation of a zone's model on its devices: the network's end, every exit, early answers; and
what the exits are calibrated by.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime import message as wire
from ..runtime.message import Flag, Kind, Message
from .back import score
from .calibrate_exits import Calibration, apply_rules, calibrate_exits
from .fronts import ZONE
from .split import EXITS

if TYPE_CHECKING:
    from .trainer import Trainer

Array = NDArray[np.float32]

EVAL_STEPS = 1 << 24  # steps of an evaluation start here
CALIBRATION_STEPS = 3 << 24  # and of what exits are calibrated by


@dataclass
class Tally:
    """Sums over steps or samples for one device."""

    correct: int = 0
    count: int = 0
    loss: float = 0.0

    def add(self, correct: int, count: int, loss: float) -> None:
        self.correct += correct
        self.count += count
        self.loss += loss

    @property
    def mean(self) -> float:
        return self.loss / self.count if self.count else 0.0

    def report(self) -> dict[str, Any]:
        return {"correct": self.correct, "total": self.count, "loss": self.mean}


@dataclass
class Scores:
    """What one evaluation found, by device."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    exits: dict[str, list[Tally]] = field(default_factory=dict)  # in the network's order
    early: dict[str, Tally] = field(default_factory=dict)  # what the device answered itself

    def of(self, device: str) -> Tally:
        return self.tallies.setdefault(device, Tally())

    def exit_of(self, device: str, number: int) -> Tally:
        tallies = self.exits.setdefault(device, [])
        tallies.extend(Tally() for _ in range(len(tallies), number + 1))
        return tallies[number]

    def early_of(self, device: str) -> Tally:
        return self.early.setdefault(device, Tally())

    def report(self, exits: list[str]) -> dict[str, dict[str, Any]]:
        """By device, with its exits of these names, if there are any."""
        found = {device: tally.report() for device, tally in sorted(self.tallies.items())}
        for device, tallies in self.exits.items():
            found[device]["exits"] = {
                name: tally.report() for name, tally in zip(exits, tallies, strict=True)
            }
        for device, tally in self.early.items():
            found[device]["early"] = {"correct": tally.correct, "total": tally.count}
        return found


class Evaluation:
    """Generators that pause while devices compute, as a Trainer's work; they change nothing of what
    it trains.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.job, self.cut, self.roster = trainer.job, trainer.cut, trainer.roster
        self.early = (
            trainer.alone and self.job.model.exit_entropy > 0
        )  # may devices answer themselves?

    def run(self, cloud_rounds: int) -> Generator[None, None, dict[str, Any]]:
        """Of the model as it is now, on every device; isolated: of each device's model on every
        device.
        """
        yield from self.trainer.gather()
        if self.trainer.alone:
            self._load_exit()
        if self.job.mode == "isolated":
            devices = yield from self._evaluate_isolated()
        else:
            scores = Scores()
            # In q8 fronts are rounded to the nearest for this, and at random to train again.
            self.trainer.send_anew(self.trainer.wire_fronts.owners())
            yield from self._evaluate(scores, EVAL_STEPS)
            self.trainer.send_anew(self.trainer.wire_fronts.owners())
            devices = scores.report(self.cut.all_exits)
        self.roster.events.append(
            {
                "event": "evaluated",
                "zone": self.trainer.zone,
                "cloud_round": cloud_rounds,
                "devices": devices,
            }
        )
        return devices

    def _evaluate_isolated(self) -> Generator[None, None, dict[str, Any]]:
        """By owner of the model: correct and total on all devices of the zone, and on its own
        data.
        """
        devices: dict[str, dict[str, Any]] = {}
        first = EVAL_STEPS
        for owner in sorted(self.trainer.fronts):
            scores = Scores()
            for here in self.roster.present.values():
                here.needs_front = True
            first = yield from self._evaluate(scores, first, owner)
            for here in self.roster.present.values():  # to be given their own back
                here.needs_front = True
            whole, own = Tally(), scores.of(owner)
            for tally in scores.tallies.values():
                whole.add(tally.correct, tally.count, tally.loss)
            devices[owner] = {
                "correct": whole.correct,
                "total": whole.count,
                "loss": whole.mean,
                "own_correct": own.correct,
                "own_total": own.count,
            }
        return devices

    def _evaluate(
        self, scores: Scores, first_step: int, owner: str | None = None
    ) -> Generator[None, None, int]:
        """All active devices at once, chunk after chunk. owner: of the front that they run, if not
        their own. Returns the next free step.
        """
        batch = self.job.train.batch
        members = sorted(self.roster.active)
        tests = {device: self.roster.present[device].tests for device in members}
        chunks = max([-(-count // batch) for count in tests.values()], default=0)
        for chunk in range(chunks + 1):
            for device in members:
                if chunk > 0 and (chunk - 1) * batch < tests[device]:
                    answer = yield from self.roster.wait(device)
                    count = min(batch, tests[device] - (chunk - 1) * batch)
                    if answer is not None:
                        self._score(device, answer, count, scores)
                if chunk * batch < tests[device]:
                    count = min(batch, tests[device] - chunk * batch)
                    self._ask_eval(
                        device, first_step + chunk, chunk * batch, count, owner, early=self.early
                    )
        return first_step + chunks

    def _ask_eval(
        self,
        device: str,
        step: int,
        first: int,
        count: int,
        owner: str | None = None,
        *,
        early: bool,
    ) -> None:
        """early: its exit may answer; else it sends what crosses the seam, whatever that knows."""
        flags = Flag.LOCAL if self.trainer.local else Flag.EXIT if early else Flag(0)
        weights = self.trainer.weights_for(
            device, owner or self.trainer.owner_of(device), to_train=False
        )
        if weights is not None:
            flags |= Flag.WEIGHTS
        body = wire.eval_body(first, count, weights)
        if early:
            body = wire.exit_body(first, count, 1.0, self.job.model.exit_entropy, weights)
        request = Message(
            Kind.EVAL, round=self.trainer.rounds_done, step=step, flags=flags, body=body
        )
        self.roster.ask(device, request, Kind.RESULT, step)

    def _score(self, device: str, answer: Message, count: int, scores: Scores) -> None:
        if self.trainer.local:
            try:
                correct, total, loss = wire.read_result(answer.body)
                if total != count or correct > total:
                    raise ValueError(f"result of {total} samples, {count} were asked for")
            except ValueError as error:
                self.trainer.drop(device, error)
                return
            scores.of(device).add(correct, total, loss)
            return
        if self.early:
            self._score_early(device, answer, count, scores)
            return
        batch = self.trainer.read_activation(device, answer, count)
        if batch is None:
            return
        activation, labels = batch
        *exits, end = self._all_logits(device, activation)
        correct, loss = score(end, labels)
        scores.of(device).add(correct, count, loss)
        for number, logits in enumerate(exits):
            correct, loss = score(logits, labels)
            scores.exit_of(device, number).add(correct, count, loss)

    def _score_early(self, device: str, answer: Message, count: int, scores: Scores) -> None:
        """The device has answered what its exit is sure of; the others go through the back."""
        try:
            labels, answers, rest = wire.read_exit_result(answer.body)
            if len(labels) != count or max(labels.max(), answers.max()) >= self.cut.classes:
                raise ValueError(f"{len(labels)} answers to {count} samples, or a class too many")
            activation = None if rest is None else self.cut.to_nchw(rest)
        except ValueError as error:
            self.trainer.drop(device, error)
            return
        sure = answers >= 0
        right = int((answers[sure] == labels[sure]).sum())
        scores.early_of(device).add(right, int(sure.sum()), 0.0)
        if activation is None:
            scores.of(device).add(right, count, 0.0)
            return
        open_ = torch.from_numpy(labels[~sure].astype(np.int64))
        correct, loss = self.trainer.backs[ZONE].evaluate(activation, open_)[-1]
        scores.of(device).add(right + correct, count, loss)

    def _exit_logits(self, activation: torch.Tensor) -> torch.Tensor:
        """What the device's exit makes of an activation."""
        with torch.no_grad():
            logits: torch.Tensor = self.cut.head(activation)
        return logits

    def _load_exit(self) -> None:
        """The exit as the devices have it now."""
        state = self.cut.front_state(self.trainer.front)
        with torch.no_grad():
            for name, parameter in self.cut.head.eval().named_parameters():
                value = state[f"{EXITS}.{self.cut.own_exit}.{name}"]
                parameter.copy_(torch.from_numpy(value))

    def calibrate(self) -> Generator[None, None, Calibration]:
        """Rules for the exits, from what the devices keep apart for it, and what the test samples
        come to with them.
        """
        apart = self.job.data.validation
        here = {device: self.roster.present[device] for device in sorted(self.roster.active)}
        self.trainer.send_anew(self.trainer.wire_fronts.owners())
        ranges = {device: (one.tests, one.tests + apart) for device, one in here.items()}
        found = yield from self._logits(ranges, CALIBRATION_STEPS)
        calibration = calibrate_exits(*found, self.job.model.exit_loss)
        steps = CALIBRATION_STEPS + -(-apart // self.job.train.batch)
        tests = yield from self._logits({d: (0, one.tests) for d, one in here.items()}, steps)
        return replace(calibration, tests=apply_rules(calibration.rules, *tests))

    def _logits(
        self, ranges: dict[str, tuple[int, int]], step: int
    ) -> Generator[None, None, tuple[dict[str, Array], Array, NDArray[np.int64]]]:
        """Of every exit and of the end for the test samples first..last - 1 of each device, and
        their labels. step: the first that is free.
        """
        batch = self.job.train.batch
        logits: list[list[Array]] = [[] for _ in [*self.cut.all_exits, "end"]]
        labels = [np.zeros(0, np.int64)]
        for chunk in range(-(-max((b - a for a, b in ranges.values()), default=0) // batch)):
            counts = {d: min(batch, b - a - chunk * batch) for d, (a, b) in ranges.items()}
            asked = {device: count for device, count in counts.items() if count > 0}
            for device, count in asked.items():
                first = ranges[device][0] + chunk * batch
                self._ask_eval(device, step + chunk, first, count, early=False)
            for device, count in asked.items():
                answer = yield from self.roster.wait(device)
                found = (
                    None if answer is None else self.trainer.read_activation(device, answer, count)
                )
                if found is not None:
                    labels.append(found[1].numpy())
                    made = self._all_logits(device, found[0])
                    for kept, one in zip(logits, made, strict=True):
                        kept.append(one.numpy())
        nothing = np.zeros((0, self.cut.classes), np.float32)
        *exits, end = [np.concatenate([nothing, *kept]) for kept in logits]
        return (
            dict(zip(self.cut.all_exits, exits, strict=True)),
            end,
            np.concatenate(labels),
        )

    def _all_logits(self, device: str, activation: torch.Tensor) -> list[torch.Tensor]:
        """Of every exit from the device's on, and of the end."""
        back = self.trainer.back_of(device)
        own = [self._exit_logits(activation)] if self.trainer.alone else []
        return [*own, *back.logits(activation)]
