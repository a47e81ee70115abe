"""A zone's devices as the edge host sees them: joining, sessions, bytes, leaving. No sockets, no
clocks.

HELLO is checked (versions, arithmetic, who it is, what it can run), then WELCOME and PLAN go down
and READY comes up. A device that says HELLO again has started anew or has lost us: its old session
ends and a new one begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..kernels import ARITHMETIC_VERSION, WIRE_VERSION, SeamError
from ..kernels.parcel import CODECS
from ..runtime import message as wire
from ..runtime.config import Job
from ..runtime.errors import UserError
from ..runtime.ledger import DOWN, UP, Ledger
from ..runtime.message import Kind, Message
from ..runtime.plan import read_plan
from .trainer import device_seed

HELLO_AGAIN_S = 2.0  # a HELLO repeated sooner while joining is an echo: the answer is on its way

Q8_ROUNDINGS = {"nearest": 0, "stochastic": 1, "truncate": 2}

# Status of seam.h, sign dropped, for an ERROR
VERSION, KIND, STATE, SESSION, MEMORY, DATA, ARITHMETIC, UNKNOWN = 5, 8, 11, 12, 13, 14, 15, 17


@dataclass(frozen=True)
class Joined:
    """A device is ready to train."""

    device: str
    samples: int
    tests: int
    has_checkpoint: bool
    inputs: tuple[float, float] | None = None  # least and largest value of its samples, if known
    saved_round: int = 0  # of its checkpoint


@dataclass(frozen=True)
class Left:
    """A device is gone, or was sent away; `reason` is for people. failed: it says that it cannot go
    on.
    """

    device: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Answer:
    """What a ready device sent in answer to a request."""

    device: str
    message: Message


@dataclass(frozen=True)
class Stats:
    """What a device tells about itself, for people."""

    device: str
    values: dict[str, Any]


Happening = Joined | Left | Answer | Stats


@dataclass
class Traffic:
    """Bytes of messages since the start, over all sessions of a device."""

    up: int = 0
    down: int = 0


@dataclass
class _Session:
    number: int
    hello: wire.Hello
    welcomed: float  # when WELCOME went down
    plan: bytes = b""
    ready: bool = False
    planning: bool = False  # what it was sent last is another plan


@dataclass
class Fleet:
    """The devices of `zone`. `outbox` (peer, bytes) is taken by the caller."""

    job: Job
    zone: str
    plan: bytes
    next_session: int = 1
    plan_of: Callable[[str], bytes | None] = lambda device: None  # where it has one of its own
    outbox: list[tuple[str, bytes]] = field(default_factory=list)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)  # of all devices
    _sessions: dict[str, _Session] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._zones = {device.id: device.zone for device in self.job.devices}
        self._q8 = self.job.train.arithmetic == "q8"

    # ---- from the devices ----

    def receive(self, peer: str, data: bytes, now: float) -> list[Happening]:
        """One message from the peer whose name the link has proven."""
        self.traffic.setdefault(peer, Traffic()).up += len(data)
        try:
            message = Message.decode(data)
        except ValueError as error:
            self.ledger.count(UP, None, len(data))
            return self._unreadable(peer, data, error)
        self.ledger.count(UP, message, len(data))
        try:
            if message.kind == Kind.HELLO:
                return self._hello(peer, message, now)
        except ValueError as error:
            return self._unreadable(peer, data, error)
        session = self._sessions.get(peer)
        if session is None or message.session != session.number:
            if session is None and message.kind not in (Kind.ERROR, Kind.BYE):
                text = "no session: say HELLO first"
                self._error(peer, SESSION, message.kind, text)  # a restarted host tells its devices
            return []
        return self._in_session(peer, session, message)

    def _unreadable(self, peer: str, data: bytes, error: ValueError) -> list[Happening]:
        status = abs(error.status) if isinstance(error, SeamError) else VERSION
        return self._refuse(peer, status, data[3] if len(data) > 3 else 0, str(error))

    def lost(self, peer: str, reason: str, failed: bool = False) -> list[Happening]:
        """The link says that the peer is gone, or it did so itself."""
        session = self._sessions.pop(peer, None)
        return [Left(peer, reason, failed)] if session is not None and session.ready else []

    def _in_session(self, peer: str, session: _Session, message: Message) -> list[Happening]:
        stays = session.planning and message.kind == Kind.ERROR and _of_plan(message)
        if message.kind in (Kind.BYE, Kind.ERROR) and not stays:
            return self.lost(peer, _reason(message), message.kind == Kind.ERROR)
        if message.kind == Kind.STATS:
            return _stats(peer, message)
        if session.ready:
            return [Answer(peer, message)]
        return self._ready(peer, session, message) if message.kind == Kind.READY else []

    def _ready(self, peer: str, session: _Session, message: Message) -> list[Happening]:
        """The device has its plan."""
        try:
            ready = wire.read_ready(message.body)
        except ValueError as error:
            return self._refuse(peer, STATE, message.kind, str(error))
        if session.plan != self._plan_of(peer):
            text = "the seam has moved meanwhile: say HELLO again"
            return self._refuse(peer, SESSION, Kind.PLAN, text)
        session.ready = True
        hello = session.hello
        saved = ready.saved_round if ready.has_checkpoint else 0
        return [Joined(peer, hello.samples, hello.tests, ready.has_checkpoint, ready.inputs, saved)]

    def _hello(self, peer: str, message: Message, now: float) -> list[Happening]:
        hello = wire.read_hello(message.body)
        old = self._sessions.get(peer)
        if old and not old.ready and old.hello.boot_id == hello.boot_id:
            if now - old.welcomed < self.job.link.wait_s(HELLO_AGAIN_S):
                return []
            self._welcome(peer, old, now)
            return []
        wrong = self._check(peer, hello)
        if wrong is not None:
            return self._refuse(peer, wrong[0], Kind.HELLO, wrong[1])
        gone = self.lost(peer, "joined anew")
        self._sessions[peer] = _Session(self.next_session, hello, now)
        self.next_session += 1
        self._welcome(peer, self._sessions[peer], now)
        return gone

    def _check(self, peer: str, hello: wire.Hello) -> tuple[int, str] | None:
        """Why this device cannot join: (status, text), or None."""
        who = hello.device_id
        if not hello.version_min <= WIRE_VERSION <= hello.version_max:
            older = "the device" if hello.version_max < WIRE_VERSION else "the edge host"
            return VERSION, (
                f"{who} speaks wire version {hello.version_min} to {hello.version_max}, "
                f"the edge host {WIRE_VERSION}: upgrade {older}"
            )
        if hello.arithmetic != ARITHMETIC_VERSION:
            older = "the device" if hello.arithmetic < ARITHMETIC_VERSION else "the edge host"
            return ARITHMETIC, (
                f"{who} computes with arithmetic version {hello.arithmetic}, the edge host with "
                f"{ARITHMETIC_VERSION}: upgrade {older}"
            )
        if who != peer:
            return UNKNOWN, f"the link belongs to {peer}, but the device says it is {who}"
        if who not in self._zones:
            return UNKNOWN, f"{who} is not in the job {self.job.name}: add it to the job file"
        if self._zones[who] != self.zone:
            return UNKNOWN, f"{who} belongs to zone {self._zones[who]}, this is zone {self.zone}"
        return self._check_means(who, hello)

    def _check_means(self, who: str, hello: wire.Hello) -> tuple[int, str] | None:
        """Has the device what the plan and the codecs need?"""
        if hello.samples == 0:
            return DATA, f"{who} has no training samples"
        needed = {CODECS[self.job.codec.up], CODECS[self.job.codec.down], CODECS["f32"]}
        if any(not hello.codecs >> codec & 1 for codec in needed):
            codec = self.job.codec
            return KIND, f"{who} has not the codecs of the job ({codec.up} up, {codec.down} down)"
        if self._q8 and not hello.layers & wire.Q8_BIT:
            return KIND, f'{who} cannot train in int8: upgrade it, or set train.arithmetic = "f32"'
        needs = read_plan(self._plan_of(who)).arena_bytes
        if hello.ram and hello.ram < needs:
            return MEMORY, (
                f"{who} has {hello.ram} bytes of RAM for training, the plan needs {needs}: "
                "choose an earlier seam or a smaller batch"
            )
        return None

    # ---- to the devices ----

    def send(self, device: str, message: Message) -> None:
        """A message of the trainer to a device; an ERROR ends its session. Nothing if the device
        is gone.
        """
        session = self._sessions.get(device)
        if session is None:
            return
        session.planning = message.kind == Kind.PLAN
        self._post(device, replace(message, session=session.number))
        if message.kind == Kind.ERROR:
            del self._sessions[device]

    def goodbye(self, text: str) -> None:
        """BYE to everyone."""
        for device in sorted(self._sessions):
            self.send(device, Message(Kind.BYE, body=wire.bye_body(text)))
        self._sessions.clear()

    def _welcome(self, peer: str, session: _Session, now: float) -> None:
        session.welcomed = now
        session.plan = self._plan_of(peer)
        body = wire.plan_body(settings_for(self.job, peer), session.plan)
        self._post(peer, Message(Kind.WELCOME, session.number, body=wire.welcome_body()))
        self._post(peer, Message(Kind.PLAN, session.number, body=body))

    def _plan_of(self, device: str) -> bytes:
        return self.plan_of(device) or self.plan

    def _refuse(self, peer: str, status: int, kind: int, text: str) -> list[Happening]:
        gone = self.lost(peer, text)
        self._error(peer, status, kind, text)
        return gone or [Left(peer, text)]

    def _error(self, peer: str, status: int, kind: int, text: str) -> None:
        self._post(peer, Message(Kind.ERROR, body=wire.error_body(status, kind, text)))

    def _post(self, peer: str, message: Message) -> None:
        data = message.encode()
        self.traffic.setdefault(peer, Traffic()).down += len(data)
        self.ledger.count(DOWN, message, len(data))
        self.outbox.append((peer, data))


def settings_for(job: Job, device: str) -> wire.Settings:
    """What a device is told beside the plan of its front."""
    q8 = job.train.arithmetic == "q8"
    return wire.Settings(
        seed=device_seed(job.seed, device),
        batch=job.train.batch,
        codec_up=CODECS[job.codec.up],
        codec_down=CODECS[job.codec.down],
        rounding=1 if job.codec.rounding == "stochastic" else 0,
        momentum=job.train.momentum,
        decay=job.train.weight_decay,
        q8_rounding=Q8_ROUNDINGS[job.train.q8_rounding] if q8 else 0,
    )


def _of_plan(message: Message) -> bool:
    """Does an ERROR say that a plan cannot be had?"""
    try:
        return wire.read_error(message.body).kind == Kind.PLAN
    except ValueError:
        return False


def _reason(message: Message) -> str:
    """The text of a BYE or ERROR, as far as it can be read."""
    try:
        if message.kind == Kind.ERROR:
            return str(wire.read_error(message.body).text)
        return wire.read_bye(message.body) or "said goodbye"
    except ValueError:
        return "said goodbye in words that cannot be read"


def _stats(peer: str, message: Message) -> list[Happening]:
    try:
        values = json.loads(bytes(message.body))
    except ValueError:
        return []
    return [Stats(peer, values)] if isinstance(values, dict) else []


def check_batch(job: Job) -> None:
    """Raises UserError for a batch no plan can have."""
    if not 1 <= job.train.batch <= 4096:
        raise UserError(f"train.batch {job.train.batch}: 1 to 4096 are allowed")
