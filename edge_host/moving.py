"""A zone whose seams move: each device has one of its own, and another from a round on.

Between two edge rounds a device that moves says what its momentum is, is sent another PLAN, and
then the momentum of what it has now; its front comes with the next STEP. Nothing starts anew: each
layer's weights and momentum go where the layer goes.

What a layer is at the end of an edge round (SPEC.md): the mean of its copies, weighted by samples;
the back's copy counts for the samples of the devices that trained it there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..runtime import message as wire
from ..runtime.config import Job
from ..runtime.message import Flag, Kind, Message
from .back import Back
from .exits import check_exits
from .fleet import settings_for
from .fronts import ZONE, F32Fronts, Fronts, VectorOf
from .seams import Seams, Whole
from .split import Split
from .trainer import State, Trainer, Work, average

Array = NDArray[np.float32]

MOVE_STEPS = 1 << 25  # the step of a request that belongs to a move, away from all others
MakePlan = Callable[[Split], bytes]


@dataclass(frozen=True)
class Wanted:
    """A place for a device's seam, and why; words for people."""

    place: int
    reason: str


class Decider(Protocol):
    """Says where seams should be."""

    def decide(
        self, trainer: MovingTrainer, members: list[str]
    ) -> Generator[None, None, dict[str, Wanted]]:
        """Before the edge round `trainer.rounds_done` + 1; may ask devices first."""


class MovingTrainer(Trainer):
    """A Trainer whose devices have seams of their own."""

    def __init__(
        self,
        job: Job,
        zone: str,
        cuts: Mapping[int | str, Split],
        make_plan: MakePlan,
        decider: Decider,
        now: float,
    ) -> None:
        """cuts: by seam, the job's own first. Raises UserError as Trainer does, for each cut."""
        self.seams = Seams(cuts)
        self.decider, self._make_plan = decider, make_plan
        cut = next(iter(cuts.values()))
        self.base = self.seams.places[next(iter(cuts))]
        for other in self.seams.cuts:
            check_exits(job, other)
        self.places = {d.id: self.base for d in job.devices if d.zone == zone}
        self.refused: set[tuple[str, int]] = set()  # (device, place): it has no room for it
        self._plans: dict[int, bytes] = {}
        self._begun: dict[str, tuple[int, int]] = {}  # what the place was before the roster began
        super().__init__(job, zone, cut, now)

    # ---- whose front, which back ----

    def _make_fronts(self) -> Fronts:
        self._moving = _MovingFronts(self.job, self.seams, self.base)
        return self._moving

    def _make_backs(self, devices: list[str]) -> dict[str, Back]:
        owners = [ZONE] if self.job.mode == "split-v2" else devices
        self.wholes = {owner: Whole(self.job, self.seams) for owner in owners}
        return cast("dict[str, Back]", self.wholes)  # they have all that belongs to a model

    def _whole_of(self, device: str) -> Whole:
        return self.wholes.get(ZONE) or self.wholes[device]

    def owner_of(self, device: str) -> str:
        """Devices with the same seam train the same front."""
        return _owner(self.places[device])

    def _front_of(self, owner: str) -> Array:
        return next(iter(self.wholes.values())).front(_place(owner))

    def _cut_of(self, device: str) -> Split:
        return self.seams.cuts[self.places[device]]

    def back_of(self, device: str) -> Back:
        return self._whole_of(device).back(self.places[device])

    def _set_front(self, front: Array) -> None:
        self.front = front
        for here in self.roster.present.values():
            here.needs_front = True

    def state(self) -> State:
        return next(iter(self.wholes.values())).named()  # they are equal between edge rounds

    # ---- plans ----

    def plan_of(self, device: str) -> bytes:
        """A device that comes back where all are waited for begins where the roster began."""
        begun, place = self._begun.get(device, (-1, 0))
        if not self.roster.wait_all or begun != self.roster.begun:
            place = self.places[device]
        return self._plan(place)

    def _plan(self, place: int) -> bytes:
        if place not in self._plans:
            self._plans[place] = self._make_plan(self.seams.cuts[place])
        return self._plans[place]

    # ---- the end of a round ----

    def _average(self, fronts: dict[str, Array], done: list[str], samples: dict[str, int]) -> None:
        """Each layer over all its copies, wherever they are."""
        vectors = {}
        for device, front in fronts.items():
            whole = self._whole_of(device)
            vector = whole.values.copy()
            whole.put(self.seams.cuts[self.places[device]].front_state(front), vector)
            vectors[device] = vector
        if ZONE in self.wholes:
            self._average_zone(vectors, done, samples)
        elif done:
            self._average_backs(vectors, done, samples)
        self.front = self._front_of(_owner(self.base))
        for here in self.roster.present.values():
            here.needs_front |= bool(fronts)

    def _average_zone(
        self, vectors: dict[str, Array], done: list[str], samples: dict[str, int]
    ) -> None:
        """One back: of a layer that some devices hold and others trained at the back, the back's
        copy counts for the samples of the others.
        """
        whole = self.wholes[ZONE]
        for number in range(len(self.seams.parts) - 1):
            at = whole.part(number)
            holders = {d: v[at] for d, v in vectors.items() if self.places[d] >= number}
            others = sum(samples[d] for d in done if self.places[d] < number)
            if holders:
                copies = {**holders, **({"": whole.values[at].copy()} if others else {})}
                whole.values[at] = average(copies, {**samples, "": others})

    def _average_backs(
        self, vectors: dict[str, Array], done: list[str], samples: dict[str, int]
    ) -> None:
        """A back for each device: every layer is once on the device or behind it."""
        for device, vector in vectors.items():
            self.wholes[device].values[:] = vector
        mean = average({d: self.wholes[d].vector() for d in done}, samples)
        for whole in self.wholes.values():
            whole.load_vector(mean)

    # ---- moving ----

    def _before_round(self, members: list[str]) -> Work:
        wanted = yield from self.decider.decide(self, members)
        moves = {
            device: want
            for device, want in sorted(wanted.items())
            if want.place != self.places[device] and (device, want.place) not in self.refused
        }
        if moves:
            yield from self._move(moves)

    def _move(self, moves: dict[str, Wanted]) -> Work:
        """To places where they are not. Who is lost meanwhile stays where it was."""
        crosses = self.job.train.arithmetic == "f32" and self.job.train.momentum > 0
        momenta: dict[str, Array] = {}
        if crosses:
            momenta = yield from self._get_momenta(sorted(moves))
        ready = [device for device in moves if device in self.roster.active]
        for device in ready:
            self._ask_plan(device, moves[device].place, 0)
        moved = []
        for device in ready:
            answer = yield from self.roster.wait(device)
            if answer is not None and answer.kind == Kind.ERROR:
                yield from self._stay(device, moves[device], answer)
            elif answer is not None:
                moved.append(device)
        before = dict(self.places)
        host = {device: self._whole_of(device).velocity() for device in momenta}
        for device in moved:
            self._note_place(device, moves[device])
        if crosses:
            self._give_momenta(momenta, host, before)
            yield from self._wait_ready(sorted(momenta))
            self._take_momenta(momenta, moved, before)
        self.send_anew(self._moving.refit(self._front_of))
        for device in ready:
            if device in self.roster.present:
                self.roster.present[device].needs_front = True

    def _note_place(self, device: str, wanted: Wanted) -> None:
        old = self.places[device]
        if self._begun.get(device, (-1, 0))[0] != self.roster.begun:
            self._begun[device] = self.roster.begun, old
        self.places[device] = wanted.place
        self._moving.use(wanted.place, old)
        names = {"from": self.seams.number(old), "to": self.seams.number(wanted.place)}
        event = {"event": "moved", "zone": self.zone, "device": device, **names}
        self.roster.events.append({**event, "round": self.rounds_done + 1, "reason": wanted.reason})

    def _ask_plan(self, device: str, place: int, step: int) -> None:
        body = wire.plan_body(settings_for(self.job, device), self._plan(place))
        request = Message(Kind.PLAN, round=self.rounds_done + 1, step=MOVE_STEPS + step, body=body)
        self.roster.ask(device, request, Kind.READY, request.step)

    def _stay(self, device: str, wanted: Wanted, answer: Message) -> Work:
        """The device cannot have that front; it gets the one it had."""
        try:
            error = wire.read_error(answer.body).text
        except ValueError:
            error = "it does not say why"
        self.refused.add((device, wanted.place))
        old, new = self.seams.number(self.places[device]), self.seams.number(wanted.place)
        text = f"{device} keeps its seam {old}, {new} was {wanted.reason}: {error}"
        self.roster.events.append({"event": "note", "zone": self.zone, "text": text})
        self._ask_plan(device, self.places[device], 1)
        yield from self.roster.wait(device)

    # ---- momentum ----

    def _get_momenta(self, devices: list[str]) -> Generator[None, None, dict[str, Array]]:
        """Of each device, [p] of the whole network; what it does not have is 0."""
        for device in devices:
            request = Message(
                Kind.WEIGHTS_GET, round=self.rounds_done, step=MOVE_STEPS, flags=Flag.MOMENTUM
            )
            self.roster.ask(device, request, Kind.WEIGHTS, request.step)
        found = {}
        for device in devices:
            answer = yield from self.roster.wait(device)
            if answer is None:
                continue
            cut, whole = self._cut_of(device), self._whole_of(device)
            try:
                values = wire.read_weights(answer.body)[2].reshape(-1)
                if not np.isfinite(values).all():
                    raise ValueError("a momentum that is not finite")
                state = cut.front_state(values)
            except ValueError as error:
                self.drop(device, error)
                continue
            found[device] = np.zeros(whole.values.shape, np.float32)
            whole.put(state, found[device])
        return found

    def _give_momenta(
        self, momenta: dict[str, Array], host: dict[str, Array], before: dict[str, int]
    ) -> None:
        """Layers that a device had go on with its own momentum, new ones with the back's."""
        for device, own in sorted(momenta.items()):
            whole, cut = self._whole_of(device), self._cut_of(device)
            new = whole.part(before[device] + 1).start  # where its old front ended
            merged = np.concatenate([own[:new], host[device][new:]])
            state: State = {}
            for part in range(self.places[device] + 1):
                state.update(whole.named_part(part, merged))
            request = Message(
                Kind.WEIGHTS,
                round=self.rounds_done + 1,
                step=MOVE_STEPS + 2,
                flags=Flag.MOMENTUM,
                body=wire.weights_body(cut.front_vector(state)),
            )
            self.roster.ask(device, request, Kind.READY, request.step)

    def _wait_ready(self, devices: list[str]) -> Work:
        for device in devices:
            yield from self.roster.wait(device)

    def _take_momenta(
        self, momenta: dict[str, Array], moved: list[str], before: dict[str, int]
    ) -> None:
        """The back's momentum of layers that come to it: the mean by samples of those who bring it,
        and of what the back has for the devices that trained there already.
        """
        samples = {d: here.samples for d, here in self.roster.present.items()}
        for number in range(1, len(self.seams.parts) - 1):
            for owner, whole in self.wholes.items():
                of = [d for d in self.roster.present if owner in (ZONE, d)]
                bring = {
                    d: momenta[d]
                    for d in of
                    if d in moved and d in momenta and self.places[d] < number <= before[d]
                }
                if not bring:
                    continue
                there = sum(samples[d] for d in of if before[d] < number)
                copies = {**bring, **({"": whole.velocity()} if there else {})}
                mean = average(copies, {**samples, "": there})
                whole.set_velocity(number, mean, known=there > 0)

    # ---- what is kept ----

    def more_arrays(self) -> dict[str, NDArray[Any]]:
        return {f"place/{d}": np.array(place, np.int64) for d, place in self.places.items()}

    def restore_more(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for device in self.places:
            place = int(arrays[f"place/{device}"])
            if not 0 <= place < len(self.seams.cuts):
                raise ValueError(f"a seam number {place}")
            self.places[device] = place
            self._moving.use(place, self.base)


def _owner(place: int) -> str:
    return f"{ZONE}@{place}"


def _place(owner: str) -> int:
    return int(owner.partition("@")[2])


class _MovingFronts:
    """Fronts of each seam that devices have, each as if it were the zone's only one."""

    def __init__(self, job: Job, seams: Seams, base: int) -> None:
        """Raises PlanError (exit 5) for a front that q8 cannot be."""
        self.job, self.seams, self.base = job, seams, base
        self.q8 = job.train.arithmetic == "q8"
        self.fronts: dict[int, Fronts] = {}
        self._inputs: list[tuple[float, float]] = []
        self._new: list[int] = []
        for place in range(len(seams.cuts)):
            self._make(place)
        self.use(base, base)

    def _make(self, place: int) -> Fronts:
        cut = self.seams.cuts[place]
        if self.q8:
            from .q8_fronts import Q8Fronts  # fronts in f32 need none of it

            return Q8Fronts(self.job, cut)
        return F32Fronts(self.job, sum(p.size for p in cut.parameters))

    def use(self, place: int, like: int) -> None:
        """Devices have this seam from here on. like: the seam they had, whose ranges are known."""
        if place in self.fronts:
            return
        made = self.fronts[place] = self._make(place)
        for inputs in self._inputs:
            made.joined(ZONE, inputs)
        if self.q8:
            made.adopt(ZONE, self.fronts[like])  # type: ignore[attr-defined]
        self._new.append(place)

    def refit(self, vector_of: VectorOf) -> list[str]:
        """Fits fronts that are new; returns their owners."""
        new, self._new = self._new, []
        return [o for p in new for o in _owners(p, self.fronts[p].begin(_vector(p, vector_of)))]

    def _of(self, owner: str) -> Fronts:
        return self.fronts[_place(owner)]

    def joined(self, owner: str, inputs: tuple[float, float] | None) -> None:
        if inputs is not None:
            self._inputs.append(inputs)
        for fronts in self.fronts.values():
            fronts.joined(ZONE, inputs)

    def owners(self) -> list[str]:
        return [o for place, f in self.fronts.items() for o in _owners(place, f.owners())]

    def weights(self, owner: str, vector: Array, to_train: bool, round_: int) -> bytes:
        return self._of(owner).weights(ZONE, vector, to_train, round_)

    def learned(self, owner: str, body: wire.Body) -> tuple[float, Array]:
        return self._of(owner).learned(ZONE, body)

    def gradient(self, gradient: Array, act: wire.Body, seed: int) -> bytes:
        return self.fronts[self.base].gradient(gradient, act, seed)

    def wants_report(self, last: bool) -> bool:
        return any(fronts.wants_report(last) for fronts in self.fronts.values())

    def round_done(self, vector_of: VectorOf) -> list[str]:
        return [
            owner
            for place, fronts in self.fronts.items()
            for owner in _owners(place, fronts.round_done(_vector(place, vector_of)))
        ]

    def begin(self, vector_of: VectorOf) -> list[str]:
        self._new = []
        return [
            owner
            for place, fronts in self.fronts.items()
            for owner in _owners(place, fronts.begin(_vector(place, vector_of)))
        ]

    def end(self) -> None:
        for fronts in self.fronts.values():
            fronts.end()

    def finished(self, vector_of: VectorOf, plan: bytes) -> dict[str, bytes]:
        return self.fronts[self.base].finished(_vector(self.base, vector_of), plan)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            f"at/{place}/{name}": array
            for place, fronts in sorted(self.fronts.items())
            for name, array in fronts.arrays().items()
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for place in range(len(self.seams.cuts)):
            prefix = f"at/{place}/"
            own = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
            if own:
                self.use(place, self.base)
            if place in self.fronts:
                self.fronts[place].restore(own)


def _owners(place: int, owners: list[str]) -> list[str]:
    return [_owner(place) for _ in owners]


def _vector(place: int, vector_of: VectorOf) -> VectorOf:
    return lambda owner: vector_of(_owner(place))
