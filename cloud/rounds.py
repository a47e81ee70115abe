"""The cloud's side of the zone protocol (SPEC.md, Zone and cloud): a state machine, fed messages
and time. No I/O.

Every input returns the effects it asks for. They are carried out in order, so what a message
promises is durable before the message goes out: a Keep before its ACCEPTED, a Close before the next
ROUND.

A round closes when it has a quorum of updates and no zone is left to wait for. A zone that is here
is waited for until `deadline_s` after the quorum; one that was lost until `deadline_s` after its
loss; one that never came until `join_wait_s` after the start. So a slow zone costs a round at most
the deadline, and a dead zone costs later rounds nothing. With `round.wait = "all"` every zone is
waited for, as long as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..runtime.config import Job
from ..runtime.differences import Estimate
from ..runtime.message import Kind
from .aggregate import Model, Update, aggregate, model_hash

REPORT_DEADLINES = 10  # the last evaluation may take as long as this many deadlines
LATE_S = 5.0  # started after the end: how long a late zone may come for the model
SAMPLES_MAX = 1 << 53  # exact in float64
TEXT_MAX = 400  # characters of an error; the wire carries 512 bytes


@dataclass(frozen=True)
class Send:
    """A message to a zone. arrays: the model that goes with it; parcels: in its place, what it
    differs by from the one the zone has."""

    zone: str
    kind: Kind
    round: int
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: Model = field(default_factory=dict)
    parcels: dict[str, bytes] | None = None


@dataclass(frozen=True)
class Refuse:
    """An ERROR to a zone: what it sent cannot be used."""

    zone: str
    kind: int
    text: str


@dataclass(frozen=True)
class Keep:
    """An update to make durable."""

    zone: str
    round: int
    update: Update


@dataclass(frozen=True)
class Close:
    """A round to make durable. model: the one after it; metrics by zone that took part. sent,
    codecs: what zones have of the model, and how it was sent, if not as it is."""

    round: int
    model: Model
    hash: str
    metrics: dict[str, dict[str, Any]]
    seconds: float
    sent: Model = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A zone's last word on the final model, to make durable."""

    zone: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Present:
    """A zone came (here) or went."""

    zone: str
    here: bool
    reason: str = ""


Effect = Send | Refuse | Keep | Close | Report | Present


class Bad(ValueError):
    """What a zone sent cannot be used; the text says why."""


@dataclass
class State:
    """What outlives the process: rounds closed so far, the model after them, updates of the open
    round, reports. sent, codecs: as in Close."""

    round: int = 0
    model: Model = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: Model = field(default_factory=dict)
    codecs: dict[str, str] = field(default_factory=dict)


class Rounds:
    """All zones of one job, from the first round to the last report."""

    def __init__(self, job: Job, state: State, now: float) -> None:
        self.name = job.name
        self.zones = sorted(zone.name for zone in job.zones)
        self.last = job.train.cloud_rounds
        self.deadline_s = job.round.deadline_s
        self.wait_all = job.round.wait == "all"
        quorum = 1.0 if self.wait_all else job.round.quorum
        self.quorum = max(1, math.ceil(quorum * len(self.zones)))
        self.state = state
        self._join_until = now + job.round.join_wait_s
        self._lost_until: dict[str, float] = {}  # how long a lost zone is waited for
        self._here: set[str] = set()
        self._began = now
        self._quorum_at: float | None = None
        self._over_at = now if self.done else math.inf  # when the last round closed
        self._stay_until = now + LATE_S if self.done else -math.inf
        self._estimate = _estimate(job, state)  # what zones have; None: the model as it is
        self._has: dict[str, str] = {}  # which estimate a zone has

    @property
    def done(self) -> bool:
        """All rounds are closed; reports may be missing."""
        return self.state.round >= self.last

    def finished(self, now: float) -> bool:
        """Nothing is left to wait for."""
        if not self.done or now < self._stay_until:
            return False
        end = self._over_at + REPORT_DEADLINES * self.deadline_s
        missing = [zone for zone in self.zones if zone not in self.state.reports]
        if self.wait_all:
            return not missing
        return all(now >= self._end(zone, end) for zone in missing)

    def _end(self, zone: str, late: float) -> float:
        """Until when to wait for a zone; late: when it is too late for one that is here."""
        if zone in self._here:
            return late
        return max(self._join_until, min(late, self._lost_until.get(zone, -math.inf)))

    # ---- inputs ----

    def receive(
        self, zone: str, kind: int, meta: Mapping[str, Any], arrays: Model, now: float
    ) -> list[Effect]:
        """A message of `zone`, which the link has proven to be that zone. meta and arrays: its
        body."""
        if zone not in self.zones:
            names = ", ".join(self.zones)
            return [
                Refuse(
                    zone, kind, f"there is no zone {zone!r} in job {self.name!r}; it has {names}"
                )
            ]
        effects: list[Effect] = []
        try:
            if kind == Kind.ZONE_HELLO:
                self._check_hello(zone, meta)
            if zone not in self._here:
                self._here.add(zone)
                effects.append(Present(zone, True))
            if kind == Kind.ZONE_HELLO:
                self._has[zone] = str(meta.get("has", ""))
                effects += self._welcome(zone)
            elif kind == Kind.ZONE_UPDATE:
                effects += self._update(zone, meta, arrays)
            elif kind == Kind.ZONE_REPORT:
                effects += self._report(zone, meta)
            else:
                raise Bad(f"the cloud takes no message of kind {kind}")
        except Bad as bad:
            effects.append(Refuse(zone, kind, str(bad)[:TEXT_MAX]))
        return effects + self.tick(now)

    def lost(self, zone: str, reason: str, now: float) -> list[Effect]:
        """The link says that the zone is gone."""
        if zone not in self._here:
            return []
        self._here.remove(zone)
        self._lost_until[zone] = now + self.deadline_s
        return [Present(zone, False, reason), *self.tick(now)]

    def tick(self, now: float) -> list[Effect]:
        """Closes the open round if it is time."""
        if self.done or len(self.state.updates) < self.quorum:
            return []
        if self._quorum_at is None:
            self._quorum_at = now
        late = self._quorum_at + self.deadline_s
        missing = [zone for zone in self.zones if zone not in self.state.updates]
        if any(now < self._end(zone, late) for zone in missing):
            return []
        return self._close(now)

    # ---- answers ----

    def _check_hello(self, zone: str, meta: Mapping[str, Any]) -> None:
        if meta.get("zone") != zone:
            raise Bad(f"the key of zone {zone!r} was used to join as zone {meta.get('zone')!r}")
        if meta.get("job") != self.name:
            raise Bad(
                f"zone {zone!r} runs the job {meta.get('job')!r}, the cloud {self.name!r}: "
                "start both with the same job file"
            )

    def _welcome(self, zone: str) -> list[Effect]:
        meta = {"round": self.state.round, "done": self.done}
        welcome = Send(zone, Kind.ZONE_WELCOME, self.state.round, meta)
        if zone in self.state.updates:  # it must not train the round again
            return [welcome, _accepted(zone, self.state.round)]
        return [welcome, self._order(zone)]

    def _order(self, zone: str) -> Send:
        """What a zone has to do now: train the open round, or evaluate the final model."""
        kind = Kind.ZONE_DONE if self.done else Kind.ZONE_ROUND
        round_ = self.state.round
        meta: dict[str, Any] = {"round": round_}
        sent = self._estimate
        if sent is None or not sent.model:
            return Send(zone, kind, round_, meta, self.state.model)
        has, meta["to"] = self._has.get(zone, ""), sent.name
        self._has[zone] = sent.name  # or it says so in its next HELLO
        if has == sent.name:
            return Send(zone, kind, round_, {**meta, "from": has})
        if has and has == sent.before and sent.step is not None:
            return Send(zone, kind, round_, {**meta, "from": has}, sent.model, sent.step)
        return Send(zone, kind, round_, meta, sent.model)

    def _update(self, zone: str, meta: Mapping[str, Any], arrays: Model) -> list[Effect]:
        round_ = _round(meta)
        if round_ > self.state.round:  # a zone that knows more than a cloud that began anew
            return [self._order(zone)]
        if round_ < self.state.round or self.done or zone in self.state.updates:
            return [_accepted(zone, round_)]
        update = Update(_samples(meta), arrays, _metrics(meta))
        self._check(zone, arrays)
        self.state.updates[zone] = update
        return [Keep(zone, round_, update), _accepted(zone, round_)]

    def _check(self, zone: str, arrays: Model) -> None:
        """Names and shapes as in the model (round 0: as in the updates that are here), values and
        result finite."""
        if not arrays:
            raise Bad(f"the update of zone {zone!r} has no tensors")
        known: Model = dict(self.state.model)
        if not known:
            for other in self.state.updates.values():
                known |= other.arrays
        for name, array in arrays.items():
            if not name or not name.isprintable():
                raise Bad(f"the update of zone {zone!r} has a tensor named {name!r}")
            if name not in known and self.state.model:
                raise Bad(
                    f"the update of zone {zone!r} has a tensor {name!r} that the model has not"
                )
            if name in known and known[name].shape != array.shape:
                raise Bad(
                    f"the update of zone {zone!r}: {name} has shape {list(array.shape)}, expected "
                    f"{list(known[name].shape)}"
                )
            with np.errstate(over="ignore", invalid="ignore"):
                new = array + self.state.model[name] if name in self.state.model else array
            if not np.isfinite(new).all():
                raise Bad(f"the update of zone {zone!r}: {name} has values that are not finite")

    def _report(self, zone: str, meta: Mapping[str, Any]) -> list[Effect]:
        if not self.done or _round(meta) != self.state.round:
            return [self._order(zone)]
        answer = [_accepted(zone, self.state.round)] if self.wait_all else []
        if zone in self.state.reports:
            return [*answer]
        metrics = _metrics(meta)
        self.state.reports[zone] = metrics
        return [Report(zone, metrics), *answer]

    def _close(self, now: float) -> list[Effect]:
        state = self.state
        model = aggregate(state.model, state.updates)
        if self._estimate is not None:
            self._estimate.move(model, state.round)
            state.sent, state.codecs = self._estimate.model, self._estimate.codecs
            if state.round == self.last - 1:
                model = state.sent  # what everybody has is the job's result
        metrics = {zone: state.updates[zone].metrics for zone in sorted(state.updates)}
        close = Close(
            state.round,
            model,
            model_hash(model),
            metrics,
            now - self._began,
            state.sent,
            state.codecs,
        )
        state.round, state.model, state.updates = state.round + 1, model, {}
        self._began, self._quorum_at = now, None
        if self.done:
            self._over_at = now
        return [close, *(self._order(zone) for zone in self.zones if zone in self._here)]


def _estimate(job: Job, state: State) -> Estimate | None:
    """What zones have of the model, after a restart too."""
    if job.codec.cloud == "f32":
        return None
    estimate = Estimate(job.codec)
    estimate.codecs = dict(state.codecs)
    if state.sent or state.model:
        estimate.set(state.sent or state.model)
    return estimate


def _accepted(zone: str, round_: int) -> Send:
    return Send(zone, Kind.ZONE_ACCEPTED, round_, {"round": round_})


def _round(meta: Mapping[str, Any]) -> int:
    return _integer(meta, "round", 1 << 32)


def _samples(meta: Mapping[str, Any]) -> int:
    return _integer(meta, "samples", SAMPLES_MAX)


def _integer(meta: Mapping[str, Any], key: str, end: int) -> int:
    value = meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
        raise Bad(f"{key}: expected a whole number from 0, got {str(value)[:40]!r}")
    return value


def _metrics(meta: Mapping[str, Any]) -> dict[str, Any]:
    metrics = meta.get("metrics", {})
    if not isinstance(metrics, dict):
        raise Bad(f"metrics: expected a JSON object, got {str(metrics)[:40]!r}")
    return metrics
