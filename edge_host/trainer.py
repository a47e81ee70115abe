"""Trains one zone, one cloud round at a time: fed answers and time, yields requests. No sockets,
no clocks.

The work is written as it happens, one line after the other, in generators that pause while a
device computes. The host waits for each device in turn until it answers, is lost, or the deadline
passes, so the same seed gives the same bits in whatever order the answers arrive. A device that
joins takes part from the next edge round on.

Numbering on the wire: edge round r of the job (from 0) travels as round r + 1, so that an
evaluation before it (round r, steps from EVAL_STEPS) is later than the last step of the round
before and earlier than its own first.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels import SeamError, random_bits
from ..runtime import message as wire
from ..runtime.config import LOCAL_MODES, Job, TrainSection
from ..runtime.errors import UserError
from ..runtime.message import Flag, Kind, Message
from .back import Back
from .calibrate_exits import Calibration
from .evaluation import Evaluation, Tally
from .exits import exit_weights
from .fronts import ZONE, F32Fronts, Fronts
from .roster import RESEND_S, Roster
from .split import Split, float_state

Array = NDArray[np.float32]
State = dict[str, Array]
Work = Generator[None, None, None]

TURN_STREAM = 0x5455524E  # "TURN": the order of devices in a step
DEVICE_STREAM = 0x44455649  # "DEVI": a device's seed
DOWN_STREAM = 0x444F574E  # "DOWN": the rounding seed of what goes down to a device
ROUND_FACTOR = 2654435761  # SPEC.md, seed of a parcel


def _random(seed: int, stream: int, index: int) -> int:
    mask = 0xFFFFFFFF
    return int(random_bits(seed & mask, stream & mask, index & mask, 1)[0])


def device_seed(job_seed: int, device: str) -> int:
    """The seed a device gets in its PLAN: order of its samples, rounding of what it sends."""
    return _random(job_seed, DEVICE_STREAM, crc32(device.encode()))


def turn_order(job_seed: int, devices: list[str], round_: int, step: int) -> list[str]:
    """All devices of a zone in the order of their turns, drawn anew for every (round, step)."""
    keys = random_bits(_random(job_seed, TURN_STREAM, round_), step, 0, len(devices))
    names = sorted(devices)
    return [names[i] for i in np.argsort(keys, kind="stable")]


def upload_steps(train: TrainSection, round_: int) -> list[int]:
    """Mode local-loss: the steps of this edge round whose activations come up, one in
    `upload_every`, which counts whole rounds where it is longer than one.
    """
    every, steps = train.upload_every, train.device_steps
    if every <= steps:
        return list(range(0, steps, every))
    return [0] if round_ % -(-every // steps) == 0 else []


def average(vectors: Mapping[str, Array], samples: Mapping[str, int]) -> Array:
    """Mean weighted by samples, summed in float64 and sorted order, as f32."""
    total = sum(samples[name] for name in vectors)
    mean = np.zeros(next(iter(vectors.values())).shape, np.float64)
    for name in sorted(vectors):
        share = samples[name] / total if total else 1 / len(vectors)
        mean += share * vectors[name]
    return mean.astype(np.float32)


@dataclass(frozen=True)
class Result:
    """What a cloud round, or the last evaluation, came to. state: the zone's whole model; samples:
    of the devices that took part; metrics: for people and tables, JSON-able.
    """

    cloud_round: int
    state: State
    samples: int
    metrics: dict[str, Any]


class Trainer:
    """A zone in training. Tell `roster` who is here and what they answer, then call `advance`;
    take `roster.outbox`, `roster.events` and, when `busy` is over, `result`.
    """

    def __init__(self, job: Job, zone: str, cut: Split, now: float) -> None:
        """Raises UserError if the zone has no devices, or mode, seam and freezing do not go
        together.
        """
        self.job, self.zone, self.cut = job, zone, cut
        self.local = job.mode in LOCAL_MODES
        self.alone = job.mode == "local-loss"  # devices learn from their own exit's loss
        self.personal = job.mode in ("split-v3", "isolated")
        devices = sorted(device.id for device in job.devices if device.zone == zone)
        self._check(devices)
        self.roster = Roster(
            zone,
            devices,
            now,
            deadline_s=job.round.deadline_s,
            quorum=job.round.quorum,
            join_s=job.round.join_wait_s,
            wait_all=job.round.wait == "all",
            resend_s=job.link.wait_s(RESEND_S),
        )
        self.front: Array = cut.front_vector(float_state(cut.model))
        self.fronts: dict[str, Array] = {}  # isolated: each device's own, as it last sent it
        self.wire_fronts = self._make_fronts()
        self.backs = self._make_backs(devices)  # by device; v2 has one, ZONE
        self.rounds_done = 0  # edge rounds of the job
        self.evaluation = Evaluation(self)
        self.calibration: Calibration | None = None  # of the exits, after the last evaluation
        self.result: Result | None = None
        self.initial = self.state()
        self._sizes = {name: value.size for name, value in self.initial.items()}
        self._work: Work | None = None
        self._down_seed = {d: _random(job.seed, DOWN_STREAM, crc32(d.encode())) for d in devices}
        self._took_part: dict[str, int] = {}  # samples of the devices seen in this cloud round
        self._losses: dict[str, Tally] = {}  # in this cloud round
        self._fitted = False  # were the fronts, in this cloud round?

    def _check(self, devices: list[str]) -> None:
        if not devices:
            raise UserError(f"zone {self.zone!r} has no devices in the job file")
        if self.local and not self.cut.at_end:
            raise UserError(f"mode {self.job.mode}: the seam must be at the end of the model", 5)
        if not self.local and self.cut.at_end:
            raise UserError(
                f"mode {self.job.mode}: no layer is left behind the seam {self.cut.seam}; "
                "move the seam forward, or use mode federated",
                5,
            )
        if self.local and self.job.train.freeze_front:
            raise UserError(f"mode {self.job.mode}: freeze_front would leave nothing to train")

    def _make_fronts(self) -> Fronts:
        """As the job's arithmetic wants. Raises PlanError (exit 5) for a front q8 cannot be."""
        if self.job.train.arithmetic == "q8":
            from .q8_fronts import Q8Fronts  # fronts in f32 need none of it

            return Q8Fronts(self.job, self.cut)
        return F32Fronts(self.job, self.front.size)

    def _make_backs(self, devices: list[str]) -> dict[str, Back]:
        """None where the network is on the devices, one in v2, else one for each device."""
        if self.local:
            return {}
        train = self.job.train
        return {
            name: Back(
                copy.deepcopy(self.cut.back),
                train.back_optimizer,
                train.momentum,
                train.weight_decay,
                exit_weights(self.job, self.cut),
            )
            for name in ([ZONE] if self.job.mode in ("split-v2", "local-loss") else devices)
        }

    # ---- work, as the caller sees it ----

    @property
    def busy(self) -> bool:
        return self._work is not None

    def joined(
        self,
        device: str,
        samples: int,
        tests: int,
        has_checkpoint: bool,
        inputs: tuple[float, float] | None = None,
        saved_round: int = 0,
    ) -> None:
        """A device is ready. One that kept a personal front keeps it, once the job has begun, but
        in q8: there it gets the one it reported last, with the scales that the host knows.

        inputs: the least and the largest value of its samples, where it is to compute in q8.
        saved_round: the last one of which it has a checkpoint.
        """
        edge_rounds = self.job.train.edge_rounds
        begun = self.rounds_done // edge_rounds * edge_rounds
        if self.roster.wait_all and saved_round < begun:
            text = (
                f"{device} has lost what it kept after round {begun}: "
                "the model will not be bit for bit that of an undisturbed run"
            )
            self.roster.events.append({"event": "note", "zone": self.zone, "text": text})
        keeps = has_checkpoint and self._keeps_front()
        self.wire_fronts.joined(self.owner_of(device), inputs)
        tests = max(0, tests - self.job.data.validation)  # these follow the test samples
        self.roster.joined(device, samples, tests, needs_front=not keeps)

    def left(self, device: str, failure: str = "") -> None:
        """A device is gone. failure: it said that it cannot go on, and why; where all are waited
        for, that must not happen at the same place twice: it always would.
        """
        if failure and self.roster.fails_again(device):
            raise UserError(
                f'{device} fails at the same step every time ({failure}) and round.wait = "all" '
                "leaves nobody out: mend it, or lower the rates if training diverged",
                6,
            )
        self.roster.left(device)

    def train(self, cloud_round: int, state: State | None) -> None:
        """Begins cloud round `cloud_round` (from 0) from the whole model `state` (None: as
        initialised).

        Raises UserError (exit 6) for the state of another model.
        """
        self._begin(state)
        self.rounds_done = cloud_round * self.job.train.edge_rounds
        self._work = self._cloud_round(cloud_round)

    def evaluate(self, cloud_rounds: int, state: State | None) -> None:
        """Begins the last evaluation, of the final model after `cloud_rounds` rounds."""
        self._begin(state)
        self.rounds_done = cloud_rounds * self.job.train.edge_rounds
        self._work = self._last_evaluation(cloud_rounds)

    def forget(self) -> None:
        """Drops what was gathered in earlier rounds: optimisers, personal fronts."""
        self.fronts = {}
        for back in self.backs.values():
            back.load_optimizer_state({})

    def advance(self) -> None:
        """Goes on as far as the answers that are here allow."""
        if self._work is not None:
            try:
                next(self._work)
            except StopIteration:
                self._work = None

    def stop(self) -> None:
        """Gives up the work at hand; what was trained in this cloud round is lost."""
        self._work = None
        self.roster.stop()

    def _begin(self, state: State | None) -> None:
        self.stop()
        self.result = None
        self._took_part, self._losses, self._fitted = {}, {}, False
        state = self.initial if state is None else state
        if {name: value.size for name, value in state.items()} != self._sizes:
            raise UserError("the cloud's model is not the one of this job: its tensors differ", 6)
        self._set_front(self.cut.front_vector(state))
        for back in self.backs.values():
            back.load_named(state)

    def _keeps_front(self) -> bool:
        """Do devices have fronts of their own that the host does not know?"""
        own = self.job.mode == "split-v3" and self.job.train.arithmetic == "f32"
        return own and self.rounds_done > 0

    def owner_of(self, device: str) -> str:
        """Whose front a device trains: the zone's or its own."""
        return device if self.personal else ZONE

    def _cut_of(self, device: str) -> Split:
        """Where the network is cut for this device."""
        return self.cut

    def back_of(self, device: str) -> Back:
        """What this device's activations go through."""
        return self.backs.get(ZONE) or self.backs[device]

    def plan_of(self, device: str) -> bytes | None:
        """The plan of the front with which this device begins a session; None: the job's."""
        return None

    def more_arrays(self) -> dict[str, NDArray[Any]]:
        """What more than weights and optimisers must be kept between cloud rounds."""
        return {}

    def restore_more(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `more_arrays`. Raises KeyError or ValueError where they do not fit."""

    def _front_of(self, owner: str) -> Array:
        return self.fronts.get(owner, self.front)

    def send_anew(self, owners: list[str]) -> None:
        """The fronts of these owners have other scales now: their devices must be sent them."""
        for device, here in self.roster.present.items():
            here.needs_front |= self.owner_of(device) in owners

    def _set_front(self, front: Array) -> None:
        """The zone's front; devices that keep theirs, or have this one already, are not sent it."""
        changed = front.tobytes() != self.front.tobytes()
        self.front = front
        if changed and not self.personal:
            for here in self.roster.present.values():
                here.needs_front = True

    def state(self) -> State:
        """The zone's whole model now: names and layouts of torch's state dict."""
        state = self.cut.front_state(self.front)
        for back in list(self.backs.values())[:1]:  # they are equal between edge rounds
            state.update(back.named())
        return state

    def finished_fronts(self, plan: bytes) -> dict[str, bytes]:
        """Files that a device needs to infer, beside the parameters in float."""
        return self.wire_fronts.finished(self._front_of, plan)

    # ---- a cloud round ----

    def _cloud_round(self, cloud_round: int) -> Work:
        metrics: dict[str, Any] = {}
        every = self.job.train.evaluate_every
        if every > 0 and cloud_round > 0 and cloud_round % every == 0:
            metrics["evaluated"] = yield from self.evaluation.run(cloud_round)
        self._begin_exactly()
        for round_ in range(self.job.train.edge_rounds):
            last = round_ == self.job.train.edge_rounds - 1
            yield from self._edge_round(cloud_round, last)
            self.rounds_done += 1
            self.send_anew(self.wire_fronts.round_done(self._front_of))
        self.wire_fronts.end()
        self.roster.begin()
        metrics["loss"] = _mean([tally.mean for tally in self._losses.values()])
        self._finish(cloud_round, metrics)

    def _begin_exactly(self) -> None:
        """From here a device that is lost begins again, with a front that comes along: its own
        only where the host does not know it.
        """
        if not self.roster.wait_all:
            return
        self.roster.begin()
        for here in self.roster.present.values():
            here.needs_front |= not self._keeps_front()

    def _last_evaluation(self, cloud_rounds: int) -> Work:
        devices = yield from self.evaluation.run(cloud_rounds)
        metrics = {"evaluated": devices}
        if self.cut.all_exits and self.job.data.validation:
            self.calibration = yield from self.evaluation.calibrate()
            metrics["exits"] = self.calibration.document()
        self._finish(cloud_rounds, metrics)

    def _finish(self, cloud_round: int, metrics: dict[str, Any]) -> None:
        self.result = Result(cloud_round, self.state(), sum(self._took_part.values()), metrics)

    def gather(self) -> Generator[None, None, list[str]]:
        """Who takes part now. Fronts are fitted once in a cloud round, when it is known who is
        here: the order in which devices join must not change a bit.
        """
        members = yield from self.roster.gather()
        if not self._fitted:
            self._fitted = True
            self.send_anew(self.wire_fronts.begin(self._front_of))
        return members

    def _edge_round(self, cloud_round: int, last: bool) -> Work:
        """last: of the cloud round."""
        members = yield from self.gather()
        yield from self._before_round(members)
        members = [device for device in members if device in self.roster.active]
        keep = Flag.KEEP if last and self.roster.wait_all else Flag(0)
        report = self.wire_fronts.wants_report(last)  # by now the fronts of all members are there
        began = self.roster.now
        losses: dict[str, Tally] = {}
        if self.local:
            yield from self._local_round(members, losses, keep)
        elif self.alone:
            yield from self._alone_round(members, losses, keep)
        else:
            yield from self._split_round(members, losses, self._last_flags(report) | keep)
        for device, tally in losses.items():
            self._losses.setdefault(device, Tally()).add(0, tally.count, tally.loss)
        self.roster.events.append(
            {
                "event": "round",
                "zone": self.zone,
                "cloud_round": cloud_round,
                "round": self.rounds_done + 1,
                "loss": _mean([tally.mean for tally in losses.values()]),
                "devices": {d: {"loss": tally.mean} for d, tally in sorted(losses.items())},
                "seconds": self.roster.now - began,
            }
        )

    def _before_round(self, members: list[str]) -> Work:
        """What is to be done between two edge rounds; here nothing."""
        yield from ()

    # ---- the seam inside the network ----

    def _split_round(self, members: list[str], losses: dict[str, Tally], ends: Flag) -> Work:
        """k1 steps of every member, then their fronts (v3: their backs; v1: both) are averaged.
        ends: flags of the last gradient.
        """
        samples = {device: self.roster.present[device].samples for device in members}
        steps = self.job.train.device_steps
        for device in members:
            self._ask_step(device, Flag(0), Kind.ACT, 0)
        for step in range(steps):
            for device in self._turns(members, step):
                answer = yield from self.roster.wait(device)
                if answer is not None:
                    flags = ends if step == steps - 1 else Flag(0)
                    self._train_on(device, answer, step, flags, losses)
                    yield  # the gradient goes out before the next device's turn
        fronts: dict[str, Array] = {}
        done = []
        for device in members:
            answer = yield from self.roster.wait(device)
            if answer is None:
                continue
            if answer.kind == Kind.WEIGHTS:
                front = self._read_front(device, answer)
                if front is None:
                    continue
                fronts[device] = front
            done.append(device)
        self._took_part.update({device: samples[device] for device in done})
        self._average(fronts, done, samples)

    def _average(self, fronts: dict[str, Array], done: list[str], samples: dict[str, int]) -> None:
        """Ends a split round. fronts: what devices sent; done: who went through to its end."""
        if self.personal:
            self.fronts.update(fronts)
        elif fronts and not self.job.train.freeze_front:
            self._set_front(average(fronts, samples))
        if done and ZONE not in self.backs:
            mean = average({d: self.backs[d].vector() for d in done}, samples)
            for back in self.backs.values():
                back.load_vector(mean)

    def _turns(self, members: list[str], step: int) -> list[str]:
        """Whose activation is next. Drawn over all devices of the zone: who is absent does not
        move the others.
        """
        order = turn_order(self.job.seed, self.roster.devices, self.rounds_done, step)
        here = set(members)
        return [device for device in order if device in here]

    def _last_flags(self, report: bool) -> Flag:
        """Of the gradient that ends a round. report: devices that keep their fronts say what became
        of them.
        """
        keeps = self.personal or self.job.train.freeze_front
        return Flag.LAST | Flag.PERSONAL if keeps and not report else Flag.LAST

    def _train_on(
        self, device: str, answer: Message, step: int, flags: Flag, losses: dict[str, Tally]
    ) -> None:
        """The hot path: one activation through the device's back, its gradient to the device."""
        train = self.job.train
        back = self.back_of(device)
        batch = self.read_activation(device, answer)
        if batch is None:
            return
        rate, round_ = self._decay(step), self.rounds_done + 1
        self._seed_back(device, step)
        gradient, loss = back.step(*batch, train.back_rate * rate, not train.freeze_front)
        if not np.isfinite(loss):
            self._not_finite(device, batch[0], loss)
            return
        losses.setdefault(device, Tally()).add(0, 1, loss)
        body, last = None, Flag.LAST in flags
        if gradient is None:
            flags |= Flag.FROZEN
        else:
            seed = _random(self._down_seed[device], round_ * ROUND_FACTOR + Kind.GRAD, step)
            values = self._cut_of(device).to_nhwc(gradient)
            body = self.wire_fronts.gradient(values, answer.body, seed)
        grad = Message(
            Kind.GRAD,
            round=round_,
            step=step,
            flags=flags,
            body=wire.grad_body(train.front_rate * rate, loss, body),
        )
        answers = (Kind.READY if Flag.PERSONAL in flags else Kind.WEIGHTS) if last else Kind.ACT
        self.roster.ask(device, grad, answers, step if last else step + 1)

    def _seed_back(self, device: str, step: int) -> None:
        """What a back draws, say dropout, depends on device, round and step."""
        place = ((self.rounds_done + 1) << 16 | step) & 0xFFFFFFFF
        torch.default_generator.manual_seed(self._down_seed[device] << 32 | place)

    def _not_finite(self, device: str, activation: torch.Tensor, loss: float) -> None:
        """The back did not learn from this batch: the device's fault if what it sent is not
        finite, else ours.
        """
        if bool(torch.isfinite(activation).all()):
            raise UserError(
                f"the loss of {device} is {loss}: training diverged; lower train.back_rate or "
                "train.front_rate"
            )
        self.drop(device, ValueError("an activation that is not finite"))

    # ---- an exit at the seam that teaches the front ----

    def _alone_round(self, members: list[str], losses: dict[str, Tally], ends: Flag) -> Work:
        """k1 steps of every member by its own exit's loss; of some batches the activation comes up
        and trains the back, while the device goes on. Nothing goes down but what it asks for next.
        """
        uploads = upload_steps(self.job.train, self.rounds_done)
        if not uploads:
            yield from self._local_round(members, losses, ends)
            return
        samples = {device: self.roster.present[device].samples for device in members}
        for device in members:
            self._ask_step(device, Flag(0), Kind.ACT, 0)
        behind = [*uploads[1:], self.job.train.device_steps]
        for number, (step, following) in enumerate(zip(uploads, behind, strict=True)):
            last = following == behind[-1]
            for device in self._turns(members, number):
                answer = yield from self.roster.wait(device)
                batch = None if answer is None else self.read_activation(device, answer)
                if batch is not None:
                    flags = ends | Flag.LAST if last else Flag(0)
                    self._let_go_on(device, number, step, following - step - 1, flags)
                    yield  # it learns while the back does
                    self._teach(device, batch, step)
        yield from self._gather_fronts(members, losses, samples)

    def _let_go_on(self, device: str, number: int, step: int, steps: int, flags: Flag) -> None:
        """Take the step of the batch that came up, then `steps` more."""
        last = Flag.LAST in flags
        rate = self.job.train.front_rate * self._decay(step)
        request = Message(
            Kind.GRAD,
            round=self.rounds_done + 1,
            step=number,
            flags=flags | Flag.LOCAL | Flag.FROZEN,
            body=wire.local_body(rate, 0.0, steps),
        )
        self.roster.ask(
            device, request, Kind.WEIGHTS if last else Kind.ACT, number if last else number + 1
        )

    def _teach(self, device: str, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> None:
        """One batch through the back, which nobody waits for."""
        self._seed_back(device, step)
        rate = self.job.train.back_rate * self._decay(step)
        _, loss = self.backs[ZONE].step(*batch, rate, need_gradient=False)
        if not np.isfinite(loss):
            self._not_finite(device, batch[0], loss)

    # ---- the whole network on the device ----

    def _local_round(self, members: list[str], losses: dict[str, Tally], keep: Flag) -> Work:
        """k1 local steps of every member; federated: averaged, isolated: each keeps its own."""
        samples = {device: self.roster.present[device].samples for device in members}
        for device in members:
            self._ask_step(device, Flag.LOCAL | keep, Kind.WEIGHTS, 0)
        yield from self._gather_fronts(members, losses, samples)

    def _gather_fronts(
        self, members: list[str], losses: dict[str, Tally], samples: dict[str, int]
    ) -> Work:
        """What members learnt by their own losses."""
        vectors: dict[str, Array] = {}
        for device in members:
            answer = yield from self.roster.wait(device)
            vector = None if answer is None else self._read_front(device, answer, losses)
            if vector is not None:
                vectors[device] = vector
        self._took_part.update({device: samples[device] for device in vectors})
        if self.personal:
            self.fronts.update(vectors)
        elif vectors:
            self._set_front(average(vectors, samples))

    # ---- messages ----

    def _ask_step(self, device: str, flags: Flag, answers: Kind, step: int) -> None:
        """The request that opens a round."""
        train = self.job.train
        weights = self.weights_for(device, self.owner_of(device), to_train=True)
        if weights is not None:
            flags |= Flag.WEIGHTS
        first_batch = self.rounds_done * train.device_steps
        body = wire.step_body(
            train.front_rate * self._decay(0), first_batch, train.device_steps, weights
        )
        request = Message(Kind.STEP, round=self.rounds_done + 1, step=0, flags=flags, body=body)
        self.roster.ask(device, request, answers, step)

    def weights_for(self, device: str, owner: str, to_train: bool) -> bytes | None:
        """The parcel of the owner's front for a device, None if it has it already."""
        here = self.roster.present.get(device)
        if here is None or not here.needs_front:
            return None
        here.needs_front = False
        front = self._front_of(owner)
        return self.wire_fronts.weights(owner, front, to_train, self.rounds_done)

    def _decay(self, step: int) -> float:
        """Factor of both rates in this step: from 1 down to 0 in a line over the whole job."""
        train = self.job.train
        if train.rate_decay == "none":
            return 1.0
        done = self.rounds_done * train.device_steps + step
        return max(0.0, 1 - done / (train.cloud_rounds * train.edge_rounds * train.device_steps))

    def read_activation(
        self, device: str, answer: Message, count: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(activation in torch layout, labels), or None and the device is dropped if they are not
        what was asked.
        """
        try:
            labels, activation = wire.read_act(answer.body)
            tensor = self._cut_of(device).to_nchw(activation)
            if len(labels) != len(tensor) or len(labels) != (count or self.job.train.batch):
                raise ValueError(f"{len(labels)} labels and {len(tensor)} activations")
            if labels.max(initial=0) >= self.cut.classes or labels.min(initial=0) < 0:
                raise ValueError(f"a label outside 0..{self.cut.classes - 1}")
        except ValueError as error:
            self.drop(device, error)
            return None
        return tensor, torch.from_numpy(labels.astype(np.int64))

    def _read_front(
        self, device: str, answer: Message, losses: dict[str, Tally] | None = None
    ) -> Array | None:
        """The parameters a device sent, or None and the device is dropped if they are unusable."""
        try:
            loss, vector = self.wire_fronts.learned(self.owner_of(device), answer.body)
        except ValueError as error:
            self.drop(device, error)
            return None
        if losses is not None:
            losses.setdefault(device, Tally()).add(0, 1, loss)
        return vector

    def drop(self, device: str, error: Exception) -> None:
        """A device that sends nonsense is sent away with the reason; it may join again. Where all
        are waited for, it would send the same again.
        """
        status = abs(error.status) if isinstance(error, SeamError) else 9
        body = wire.error_body(status, Kind.ACT, str(error))
        self.roster.drop(device, Message(Kind.ERROR, body=body))
        if self.roster.wait_all:
            raise UserError(
                f'{device} cannot be used ({error}) and round.wait = "all" leaves nobody out: '
                "restart the device, then this edge host, or lower the rates if training diverged",
                6,
            )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
