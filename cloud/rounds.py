"""Cloud rounds as a state machine without I/O: fed messages and time, it yields messages and finished rounds.

Iterate, then aggregate: a round is k2 edge rounds of k1 device steps inside every zone; then the zones' differences are
averaged. A round closes when every zone of the job has answered, or when a quorum has and the deadline after it passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels import SeamError
from ..runtime import message as wire
from ..runtime.message import Kind, Message, ProtocolError
from .aggregate import Model, Update, aggregate

STATUS_ARGUMENT = -1


@dataclass(frozen=True)
class Rules:
    """zones: their names. quorum: share of zones a round needs. deadline_s: how long a quorum waits for the rest.
    join_wait_s: how long the start waits for all zones."""

    job: str
    zones: tuple[str, ...]
    rounds: int
    quorum: float
    deadline_s: float
    join_wait_s: float

    @property
    def needed(self) -> int:
        """Zones of a quorum, at least one."""
        return max(1, int(np.ceil(self.quorum * len(self.zones) - 1e-9)))


@dataclass(frozen=True)
class Finished:
    """A round that can be made durable and then announced with `Rounds.commit`."""

    round: int
    model: Model
    metrics: dict[str, Any]  # by zone
    seconds: float


@dataclass
class Rounds:
    """`round` is the one in work; `outbox` (zone, bytes) is taken by the caller."""

    rules: Rules
    started: float
    round: int = 0
    model: Model = field(default_factory=dict)
    running: bool = False
    outbox: list[tuple[str, bytes]] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    reports: dict[str, Any] = field(default_factory=dict)
    _updates: dict[str, Update] = field(default_factory=dict)
    _metrics: dict[str, Any] = field(default_factory=dict)
    _opened: float = 0.0
    _quorum_at: float | None = None
    _order: bytes | None = None  # the message of the round in work, packed once

    @property
    def over(self) -> bool:
        """All rounds are done."""
        return self.round >= self.rules.rounds

    # ---- from the zones ----

    def receive(self, zone: str, data: bytes, now: float) -> bool:
        """One message of a zone whose name the link has proven; True if the zone has just joined."""
        try:
            message = Message.decode(data)
            if message.kind == Kind.ZONE_HELLO:
                return self._hello(zone, message)
            if message.kind == Kind.ZONE_UPDATE:
                self._update(zone, message, now)
            elif message.kind == Kind.ZONE_REPORT:
                self._report(zone, message)
        except (ProtocolError, SeamError) as error:
            self._refuse(zone, getattr(error, "status", STATUS_ARGUMENT), data, str(error))
        return False

    def lost(self, zone: str) -> bool:
        """The link says that the zone is gone; True if it was here."""
        here = zone in self.present
        self.present.discard(zone)
        return here

    def _hello(self, zone: str, message: Message) -> bool:
        meta, _ = wire.read_zone(message.body)
        if zone not in self.rules.zones or meta.get("zone") != zone:
            known = ", ".join(self.rules.zones)
            raise ProtocolError(f"zone {meta.get('zone')!r} is not in this job; it has {known}")
        if meta.get("job") != self.rules.job:
            raise ProtocolError(
                f"zone {zone} runs job {meta.get('job')!r}, the cloud {self.rules.job!r}: give both the same file"
            )
        new = zone not in self.present
        self.present.add(zone)
        body = wire.zone_body({"round": self.round, "done": self.over}, {})
        self._send(zone, Kind.ZONE_WELCOME, body)
        if self.over:
            self._send_order(zone)
        elif self.running and zone not in self._updates:
            self._send_order(zone)
        return new

    def _update(self, zone: str, message: Message, now: float) -> None:
        if message.round == self.round and self.running and zone not in self._updates:
            meta, difference = wire.read_zone(message.body)
            samples = meta.get("samples")
            if not isinstance(samples, int) or samples <= 0:
                raise ProtocolError(f"update of zone {zone}: expected samples > 0, got {samples!r}")
            self._check(zone, difference)
            self._updates[zone] = Update(samples, difference)
            self._metrics[zone] = meta.get("metrics", {})
            if len(self._updates) == self.rules.needed:
                self._quorum_at = now
        elif message.round > self.round:
            raise ProtocolError(f"zone {zone} answers round {message.round}; this is round {self.round}")
        # A repeated or late update is accepted in words and changes nothing.
        accepted = wire.zone_body({"round": message.round}, {})
        self._send(zone, Kind.ZONE_ACCEPTED, accepted, message.round)

    def _check(self, zone: str, difference: Model) -> None:
        others: Mapping[str, Any] = self.model or next(
            (u.difference for _, u in sorted(self._updates.items())), {}
        )
        for name, array in difference.items():
            if self.model and name not in self.model:
                raise ProtocolError(f"update of zone {zone}: the model has no tensor {name}")
            if name in others and others[name].shape != array.shape:
                raise ProtocolError(
                    f"update of zone {zone}: {name} has shape {array.shape}, expected {others[name].shape}"
                )
        if not difference:
            raise ProtocolError(f"update of zone {zone}: it holds no tensors")

    def _report(self, zone: str, message: Message) -> None:
        meta, _ = wire.read_zone(message.body)
        self.reports[zone] = meta.get("metrics", {})

    def _refuse(self, zone: str, status: int, data: bytes, text: str) -> None:
        kind = data[3] if len(data) > 3 else 0
        self._send(zone, Kind.ERROR, wire.error_body(status, kind, text))

    # ---- rounds ----

    def tick(self, now: float) -> Finished | None:
        """Starts when the zones are here; gives the round in work once it can close."""
        if not self.running and not self.over:
            waited = now - self.started >= self.rules.join_wait_s
            if len(self.present) >= (self.rules.needed if waited else len(self.rules.zones)):
                self._open(now)
            return None
        if not self.running or not self._may_close(now):
            return None
        model = aggregate(self.model, self._updates)
        return Finished(self.round, model, dict(self._metrics), now - self._opened)

    def _may_close(self, now: float) -> bool:
        if len(self._updates) == len(self.rules.zones):
            return True
        return self._quorum_at is not None and now - self._quorum_at >= self.rules.deadline_s

    def commit(self, finished: Finished, now: float) -> None:
        """The round is durable: announce it by opening the next, or the end."""
        self.model = finished.model
        self.round = finished.round + 1
        if not self.over:
            self._open(now)
            return
        self.running = False
        self._order = None
        for zone in sorted(self.present):
            self._send_order(zone)

    def _open(self, now: float) -> None:
        self._updates, self._metrics = {}, {}
        self._quorum_at, self._opened = None, now
        self.running = True
        self._order = None
        for zone in sorted(self.present):
            self._send_order(zone)

    # ---- to the zones ----

    def _send_order(self, zone: str) -> None:
        if self._order is None:
            kind = Kind.ZONE_DONE if self.over else Kind.ZONE_ROUND
            body = wire.zone_body({"round": self.round}, self.model)
            self._order = Message(kind, round=self.round, body=body).encode()
        self.outbox.append((zone, self._order))

    def _send(self, zone: str, kind: Kind, body: bytes, round_: int | None = None) -> None:
        header = self.round if round_ is None else round_
        self.outbox.append((zone, Message(kind, round=header, body=body).encode()))
