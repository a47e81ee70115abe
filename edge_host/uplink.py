"""The zone's side of the cloud protocol (SPEC.md, Zone and cloud): a state machine, fed messages
and time. No I/O.

HELLO is repeated until WELCOME, and while there is nothing to do; a ROUND is an order to train; its
update is repeated until ACCEPTED; DONE is answered by a REPORT. A zone that comes back with an
update not yet accepted sends that instead of training the round again. A REPORT is repeated like an
update where the cloud is to accept it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime import message as wire
from ..runtime.errors import UserError
from ..runtime.ledger import DOWN, UP, Ledger
from ..runtime.message import Kind, Message
from .zone_differences import ZoneDifferences

State = dict[str, NDArray[np.float32]]
REPEAT_S = 2.0  # what was not answered is said again


@dataclass(frozen=True)
class Train:
    """The cloud's order: train `round` from `state` (None: the seeded initialisation)."""

    round: int
    state: State | None


@dataclass(frozen=True)
class Finish:
    """The job is over after `rounds` cloud rounds; `state` is the final model."""

    rounds: int
    state: State | None


class Uplink:
    """`outbox` (bytes) is taken by the caller."""

    def __init__(
        self,
        zone: str,
        job: str,
        now: float,
        pending: tuple[int, bytes] | None = None,
        repeat_s: float = REPEAT_S,
        differences: ZoneDifferences | None = None,
    ) -> None:
        """pending: (round, body) of an update from before a restart, maybe not accepted. repeat_s:
        until something is said again. differences: where models do not travel as they are.
        """
        self.zone, self.job, self._repeat_s = zone, job, repeat_s
        self.outbox: list[bytes] = []
        self.ledger = Ledger()
        self.welcomed = False
        self.training: int | None = None
        self.report_accepted = False
        self._differences = differences
        self._pending = pending
        self._report: Message | None = None
        self._finishing = False
        self._said = now - self._repeat_s

    # ---- from the cloud, and time ----

    def receive(self, data: bytes) -> Train | Finish | None:
        """One message of the cloud. Raises UserError (exit 6): the cloud refuses this zone, or is
        no cloud.
        """
        try:
            message = Message.decode(data)
            self.ledger.count(DOWN, message, len(data))
            return self._receive(message)
        except ValueError as error:
            raise UserError(f"the cloud sent bytes that cannot be read: {error}", 6) from error

    def _receive(self, message: Message) -> Train | Finish | None:
        if message.kind == Kind.ERROR:
            raise UserError(
                f"the cloud refused zone {self.zone}: {wire.read_error(message.body).text}", 6
            )
        if message.kind == Kind.ZONE_WELCOME:
            self.welcomed = True
        elif message.kind == Kind.ZONE_ACCEPTED:
            if self._pending is not None and message.round == self._pending[0]:
                self._pending = None
            if self._report is not None and message.round == self._report.round:
                self.report_accepted = True
        elif message.kind == Kind.ZONE_ROUND:
            return self._round(message)
        elif message.kind == Kind.ZONE_DONE:
            return self._done(message)
        return None

    def tick(self, now: float) -> None:
        """Says again what was not answered in time."""
        if now - self._said < self._repeat_s:
            return
        self._said = now
        idle = self.training is None and not self._finishing  # or an order was lost
        if not self.welcomed or (idle and self._pending is None and self._report is None):
            self._hello()
        elif self._pending is not None:
            self._send_update()
        elif self._report is not None and not self.report_accepted:
            self._send_report()

    def _hello(self) -> None:
        meta = {"zone": self.zone, "job": self.job}
        if self._differences is not None:
            meta["has"] = self._differences.name
        body = wire.zone_body(meta, {})
        self._say(Message(Kind.ZONE_HELLO, body=body))

    def _say(self, message: Message) -> None:
        data = message.encode()
        self.ledger.count(UP, message, len(data))
        self.outbox.append(data)

    def lost(self, now: float) -> None:
        """The cloud is gone: say HELLO until it is back. Work goes on."""
        self.welcomed = False
        self._said = now - self._repeat_s

    def _round(self, message: Message) -> Train | None:
        self.welcomed = True
        round_ = message.round
        if self._pending is not None and self._pending[0] == round_:
            self._send_update()
            return None
        if self.training == round_:
            return None
        self._pending = None
        taken, state = self._take(message)
        if not taken:
            return None
        self.training = round_
        return Train(round_, state)

    def _done(self, message: Message) -> Finish | None:
        self.welcomed = True
        self._pending = None
        self.training = None
        if self._report is not None:
            self._send_report()
            return None
        if self._finishing:
            return None
        taken, state = self._take(message)
        if not taken:
            return None
        self._finishing = True
        return Finish(message.round, state)

    def _take(self, message: Message) -> tuple[bool, State | None]:
        """The model in a message; (False, None): this zone has not what it begins from, and has
        said so."""
        meta, arrays = wire.read_zone(message.body)
        if self._differences is None:
            return True, arrays or None
        if self._differences.take(meta, arrays):
            return True, self._differences.model or None
        self.training = None
        self._hello()
        return False, None

    # ---- from the zone ----

    def update(
        self, round_: int, samples: int, metrics: dict[str, Any], difference: Mapping[str, Any]
    ) -> bytes:
        """Sends what the zone learned in `round_` until it is accepted. Returns the body, for safe
        keeping. Raises UserError: numbers that cannot be sent.
        """
        meta = {"round": round_, "samples": samples, "metrics": metrics}
        parcels = None
        if self._differences is not None:
            packed = self._differences.pack(dict(difference), round_)
            difference, parcels = packed.values, packed.parcels
        body = wire.zone_body(meta, dict(difference), parcels)
        self.training = None
        self._pending = (round_, body)
        return body

    def send_update(self, now: float) -> None:
        """The update goes out for the first time: it is on disk by now."""
        self._said = now
        self._send_update()

    def report(self, rounds: int, body: bytes) -> None:
        """The zone's last word, a `report_body`."""
        self._report = Message(Kind.ZONE_REPORT, round=rounds, body=body)
        self._send_report()

    def _send_report(self) -> None:
        assert self._report is not None
        self._say(self._report)

    def _send_update(self) -> None:
        if self._pending is not None and self.welcomed:
            round_, body = self._pending
            self._say(Message(Kind.ZONE_UPDATE, round=round_, body=body))


def report_body(rounds: int, metrics: dict[str, Any]) -> bytes:
    """What a zone found after `rounds` cloud rounds."""
    return wire.zone_body({"round": rounds, "metrics": metrics}, {})
