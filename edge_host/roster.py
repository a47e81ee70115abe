"""Who of a zone is here, what each device is working on, and until when the host waits for it. No
sockets, no clocks.

A caller asks devices and waits for each answer in an order of its own, in a generator that pauses
while a device computes. Answers are kept until they are asked for, so the order in which they
arrive changes nothing.

With `wait_all` nobody is left out. A device that is lost stays active, and all it was asked since
`begin` is in its journal. When it comes back it goes back to where it was then, is asked the same
again, one request after the other, and what it answers for the first time counts.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from ..runtime.message import Kind, Message

RESEND_S = 5.0  # an open request is sent again after this; a device then repeats its answer
PROBE_S = 1.0  # how often a late device is asked whether it is there


@dataclass
class Present:
    """A device that has joined. samples, tests: how many it holds for training and testing."""

    samples: int
    tests: int
    needs_front: bool  # the parameters on the device are not those it should have now
    late: bool = False  # missed a deadline and has not been heard since
    away_since: float | None = None  # lost; only where all are waited for

    @property
    def away(self) -> bool:
        return self.away_since is not None


@dataclass
class _Request:
    """What a device works on, and the (kind, round, step) that answers it."""

    message: Message
    answer: tuple[int, int, int]
    sent: float


@dataclass
class _Journal:
    """What a device was asked. at: number of the request it works on; told: of the first whose
    answer the caller has not had. begin: of the first since `begin`; what is before is there while
    a device that came back still does it again. lost_at: when a device was lost that has not
    caught up yet; failed: what was told when it failed last.
    """

    requests: list[_Request] = field(default_factory=list)
    at: int = 0
    told: int = 0
    begin: int = 0
    lost_at: float | None = None
    failed: int | None = None

    @property
    def current(self) -> _Request | None:
        return self.requests[self.at] if self.at < len(self.requests) else None

    def cut(self) -> None:
        """Forgets what was before `begin`; a device in a new session needs none of it."""
        if self.begin == 0:
            return
        del self.requests[: self.begin]
        self.at, self.told = max(0, self.at - self.begin), max(0, self.told - self.begin)
        self.begin, self.failed = 0, None


class Roster:
    """The devices of one zone. `outbox` (device, message) and `events` are taken by the caller."""

    def __init__(
        self,
        zone: str,
        devices: list[str],
        now: float,
        *,
        deadline_s: float,
        quorum: float,
        join_s: float,
        wait_all: bool = False,
        resend_s: float = RESEND_S,
    ) -> None:
        """deadline_s: how long a round waits for a device; quorum: share of `devices` a round
        needs; join_s: how long the first round waits for all of them; wait_all: every round does,
        for ever; resend_s: until a request is sent again.
        """
        self.zone = zone
        self.devices = sorted(devices)
        self.present: dict[str, Present] = {}
        self.active: set[str] = set()  # takes part in what is going on
        self.outbox: list[tuple[str, Message]] = []
        self.events: list[dict[str, Any]] = []
        self.now = self.deadline = now
        self.wait_all = wait_all
        self.begun = 0  # how often `begin` was called
        self.needed = len(devices) if wait_all else max(1, math.ceil(quorum * len(devices)))
        self._deadline_s, self._join_until = deadline_s, now + join_s
        self._resend_s = resend_s
        self._probed = now
        self._open: dict[str, _Request] = {}
        self._answers: dict[str, Message] = {}
        self._journals = {device: _Journal() for device in self.devices if wait_all}

    # ---- what happens outside ----

    def joined(self, device: str, samples: int, tests: int, needs_front: bool) -> None:
        """A device is ready; it takes part from the next round on, or goes on with what it was
        asked.
        """
        old = self.present.get(device)
        self.left(device)
        journal = self._journals.get(device)
        if journal is not None:
            journal.cut()
        if journal is None or not journal.requests or old is None:
            self.present[device] = Present(samples, tests, needs_front)
            return
        journal.lost_at, old.away_since, journal.at = old.away_since, None, 0
        self._catch_up(device, journal)
        self._send(device, journal.requests[0])

    def left(self, device: str) -> None:
        """A device is gone: what it was working on is lost, what it had answered still counts."""
        self._open.pop(device, None)
        if self.wait_all and device in self.present:
            self.present[device].away_since = self.now
            return
        self.present.pop(device, None)
        self.active.discard(device)

    def fails_again(self, device: str) -> bool:
        """A device says that it cannot do what it was asked: did it fail there before?"""
        journal = self._journals.get(device)
        if journal is None:
            return False
        again = journal.failed == journal.told
        journal.failed = journal.told
        return again

    def answer(self, device: str, message: Message) -> None:
        """A message of a device. One that answers no open request is an echo of an earlier one and
        ignored.
        """
        if device in self.present:
            self.present[device].late = False
        request = self._open.get(device)
        if request and _answers(request, message):
            del self._open[device]
            journal = self._journals.get(device)
            if journal is None or self._first_time(device, journal):
                self._answers[device] = message

    def _first_time(self, device: str, journal: _Journal) -> bool:
        """The request at hand is answered: goes on to the next. False: it was answered before."""
        new = journal.at == journal.told and journal.at >= journal.begin
        journal.at += 1
        journal.told = max(journal.told, journal.at)
        self._catch_up(device, journal)
        if journal.begin and journal.at == journal.begin:
            journal.cut()
        if journal.current is not None:
            self._send(device, journal.current)
        return new

    def _catch_up(self, device: str, journal: _Journal) -> None:
        """Tells when a device that was lost is where it was then."""
        if journal.lost_at is None or journal.at < journal.told:
            return
        where = (journal.current or journal.requests[-1]).message
        event = {"event": "resumed", "zone": self.zone, "device": device, "again": journal.told}
        place = {"round": where.round, "step": where.step}
        self.events.append({**event, **place, "seconds": self.now - journal.lost_at})
        journal.lost_at = None

    def tick(self, now: float) -> None:
        """Time goes on: sends again what was not answered, and gives up on devices past the
        deadline.
        """
        self.now = now
        if self.wait_all:
            self._tell_who_is_missing(now)
        elif self._open and now >= self.deadline:
            for device in sorted(self._open):
                self.present[device].late = True
                self.active.discard(device)
                self.events.append({"event": "late", "zone": self.zone, "device": device})
            self._open.clear()
            self.deadline = now + self._deadline_s
        for device, request in self._open.items():
            if now - request.sent >= self._resend_s:
                request.sent = now
                self.outbox.append((device, request.message))
        if now - self._probed >= PROBE_S:
            self._probed = now
            late = [device for device, here in self.present.items() if here.late]
            self.outbox += [(device, Message(Kind.PROBE, body=bytes(4))) for device in late]

    def _tell_who_is_missing(self, now: float) -> None:
        """Once a deadline: a round that waits for somebody says for whom."""
        away = [device for device in sorted(self.active) if self.present[device].away]
        if now >= self.deadline:
            self.deadline = now + self._deadline_s
            self.events += [{"event": "late", "zone": self.zone, "device": d} for d in away]

    # ---- what the work asks for ----

    def ready(self) -> list[str]:
        """Devices that can take part now, sorted."""
        return sorted(d for d, here in self.present.items() if not here.late and not here.away)

    def begin(self) -> None:
        """What devices are asked from here on is what one that comes back is asked again; it goes
        back to where it is now by itself.
        """
        self.begun += 1
        for device, journal in self._journals.items():
            journal.begin = len(journal.requests)
            if device not in self._open:  # else it is doing things again, and then goes on
                journal.cut()

    def gather(self) -> Generator[None, None, list[str]]:
        """Waits for all devices until the joining time is over, then for the quorum. Those found
        are active.
        """
        told = False
        while len(self.ready()) < len(self.devices):
            if self.now >= self._join_until:
                if len(self.ready()) >= self.needed:
                    break
                if not told:
                    told = True
                    ready = {"ready": len(self.ready()), "needed": self.needed}
                    self.events.append({"event": "waiting", "zone": self.zone, **ready})
            yield
        self._join_until = self.now  # only the first round waits for all
        if not self.wait_all:
            self._open.clear()
        self._answers.clear()
        members = self.ready()
        self.active = set(members)
        self.deadline = self.now + self._deadline_s
        return members

    def ask(self, device: str, message: Message, answer: Kind, step: int) -> None:
        """Sends a request to an active device; `answer` with the request's round and `step`
        answers it.
        """
        if device not in self.active:
            return
        request = _Request(message, (answer, message.round, step), self.now)
        journal = self._journals.get(device)
        if journal is not None:
            journal.requests.append(request)
            if self.present[device].away or journal.current is not request:
                return  # it comes to this when it has done again what is before
        self._send(device, request)

    def _send(self, device: str, request: _Request) -> None:
        request.sent = self.now
        self._open[device] = request
        self.outbox.append((device, request.message))

    def wait(self, device: str) -> Generator[None, None, Message | None]:
        """The answer to the device's request, or None when the device is gone or too late."""
        while True:
            found = self._answers.pop(device, None)
            if found is not None or device not in self.active:
                return found
            yield

    def drop(self, device: str, message: Message) -> None:
        """Sends a device that does not keep to the protocol its last message and forgets it."""
        self.left(device)
        self.outbox.append((device, message))

    def stop(self) -> None:
        """Nothing is asked for any more."""
        self.active.clear()
        if not self.wait_all:
            self._open.clear()
        self.begin()
        self._answers.clear()


def _answers(request: _Request, message: Message) -> bool:
    """Is it the answer to the request? A PLAN may be answered by an ERROR, too: no room for it."""
    kind = request.answer[0]
    if message.kind == Kind.ERROR and request.message.kind == Kind.PLAN:
        kind = Kind.ERROR
    return (message.kind, message.round, message.step) == (kind, *request.answer[1:])
