"""A device asks a trained network: its own exit answers what it is sure of, the edge host the rest;
alone, the exit answers everything. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import SeamError
from ..kernels.front import Front, exit_answers
from . import infer_wire as bodies
from . import message as wire
from .config import Job, find_device, find_zone
from .errors import UserError
from .files import write_whole
from .keys import load_keys
from .link import JOINED, Link, LinkLost, load_link, open_link
from .message import Kind, Message
from .plan import read_plan

F32 = NDArray[np.float32]

DEVICE, HOST = "device", "host"
ANSWER_S = 1.0  # what the host may take for an answer; then the device's exit gives its own
FIRST_S = 20.0  # to get a front at all


@dataclass(frozen=True)
class Answer:
    """Of one sample. place: "device" or "host"; exit: which of the host's, -1 on the device.

    alone: the device's exit was not sure, but nobody else was there; seconds: since it was asked.
    """

    label: int
    place: str
    exit: int
    alone: bool
    seconds: float


@dataclass
class DeviceFront:
    """A front with its exit, as it came from the host."""

    data: bytes  # FRONT's body
    file: bodies.FrontFile = field(init=False)
    front: Front = field(init=False)
    has_exit: bool = field(init=False)

    def __post_init__(self) -> None:
        """Raises ValueError for anything that is no front: SeamError, PlanError, ProtocolError."""
        self.file = bodies.read_front(self.data)
        self.front = Front(self.file.plan)
        self.has_exit = read_plan(self.file.plan).seam > 0
        if self.front.params.shape != self.file.parameters.shape:
            raise wire.ProtocolError(
                f"FRONT: the plan has {self.front.params.size} parameters, "
                f"{self.file.parameters.size} came"
            )
        self.front.params[:] = self.file.parameters

    @property
    def tag(self) -> bytes:
        return self.data[: bodies.TAG]

    def ask(self, x: F32) -> tuple[NDArray[np.int32], NDArray[np.int32], F32]:
        """x [n, h, w, c] -> what the exit is sure of [n] (-1: not), what it would say [n] (-1: no
        exit is there), what crosses the seam [n, h', w', c'].
        """
        made = self.front.forward(x)
        nothing = np.full(len(x), -1, np.int32)
        if not self.has_exit:
            return nothing, nothing, made
        logits = made.reshape(len(x), -1)
        sure = exit_answers(logits, self.file.temperature, self.file.entropy)
        guess = np.where(np.isfinite(logits).all(1), logits.argmax(1), -1).astype(np.int32)
        return sure, guess, self.front.crossing()


class InferenceClient:
    """A device's way to the network: `with InferenceClient(link, path) as client: client.infer(x)`.

    path: where the front is kept, so that a device that starts without its host can answer. One
    thread calls.
    """

    def __init__(self, link: Link, path: Path, *, answer_s: float = ANSWER_S) -> None:
        self.link, self.path, self.answer_s = link, path, answer_s
        self.own: DeviceFront | None = None
        self._number = 0
        self._started = False
        if path.is_file():
            try:
                self.own = DeviceFront(path.read_bytes())
            except ValueError as error:
                raise UserError(f"{path} is damaged ({error}): remove it", 3) from None

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(self, *raised: object) -> None:
        self.link.close()

    def start(self, timeout: float = FIRST_S) -> None:
        """Gets the newest front, if the host is there. Raises UserError (exit 6): there is none yet
        and no host gave one.
        """
        self._started = True
        end = time.monotonic() + (timeout if self.own is None else self.answer_s)
        reason = "no answer"
        while time.monotonic() < end:
            try:
                if self._exchange(None, min(end, time.monotonic() + 1.0)) is not None:
                    return
            except LinkLost as lost:
                reason = lost.reason
                if lost.refused:
                    raise UserError(reason, 6) from None
        if self.own is None:
            raise UserError(
                f"this device has no front yet and its edge host gives none: {reason}; start "
                "`seamline infer JOB --zone ZONE` there",
                6,
            )

    def infer(self, x: F32) -> list[Answer]:
        """Answers of samples [n, h, w, c], float32, in order. Raises ValueError for another shape,
        UserError (exit 6): nobody can answer.
        """
        if self.own is None or not self._started:
            self.start()
        assert self.own is not None
        answers: list[Answer] = []
        first = 0
        while first < len(x):
            some = np.ascontiguousarray(x[first : first + self.own.front.batch])
            answers += self._some(some)
            first += len(some)
        return answers

    def _some(self, x: F32) -> list[Answer]:
        began = time.monotonic()
        own = self.own
        assert own is not None
        sure, guess, crossing = own.ask(x)
        sure_s = time.monotonic() - began
        open_ = np.flatnonzero(sure < 0)
        answers = [Answer(int(label), DEVICE, -1, False, sure_s) for label in sure]
        found = self._from_host(np.ascontiguousarray(crossing[open_])) if open_.size else None
        if self.own is not own:  # the host has another front now: ask that one
            return self._some(x)
        seconds = time.monotonic() - began
        for number, at in enumerate(open_):
            if found is not None:
                label, exit_ = int(found[0][number]), int(found[1][number])
                answers[at] = Answer(label, HOST, exit_, False, seconds)
            elif guess[at] >= 0:
                answers[at] = Answer(int(guess[at]), DEVICE, -1, True, seconds)
            else:
                raise UserError(
                    "the edge host does not answer, and this device has no exit that could: add "
                    "the seam to model.exits and train again, or start the host",
                    6,
                )
        return answers

    def _from_host(self, crossing: F32) -> tuple[Any, Any] | None:
        """None: alone, or the host has sent another front."""
        if not np.isfinite(crossing).all() or self.link.peers()[0].state != JOINED:
            self._listen()
            if not np.isfinite(crossing).all() or self.link.peers()[0].state != JOINED:
                return None
        try:
            return self._exchange(crossing, time.monotonic() + self.answer_s)
        except LinkLost:
            return None

    def _listen(self) -> None:
        """The link goes on looking for its host only while it is asked."""
        try:
            while self.link.receive(0.0) is not None:
                pass
        except LinkLost:
            pass

    def _exchange(self, crossing: F32 | None, until: float) -> tuple[Any, Any] | None:
        """One question. None: no answer in time, or a new front came instead (for a question
        without samples that is an answer, too)."""
        own = self.own
        tag, codec = (own.tag, own.file.codec) if own is not None else (bodies.NO_TAG, 0)
        self._number = (self._number + 1) & 0xFFFFFFFF
        body = bodies.infer_body(tag, crossing, codec)
        self.link.send(Message(Kind.INFER, step=self._number, body=body).encode())
        while (left := until - time.monotonic()) > 0:
            data = self.link.receive(left)
            if data is None:
                continue
            try:
                message = Message.decode(data)
                if message.step != self._number:
                    continue  # an answer that came too late
                if message.kind == Kind.FRONT:
                    self._take(bytes(message.body))
                    return None if crossing is not None else (None, None)
                if message.kind == Kind.ANSWER:
                    found = bodies.read_answer(message.body)
                    if len(found[0]) == (0 if crossing is None else len(crossing)):
                        return found
                if message.kind == Kind.ERROR:
                    raise UserError(f"the edge host: {wire.read_error(message.body).text}", 6)
            except (SeamError, wire.ProtocolError):
                continue  # damaged: as if it had not come
        return None

    def _take(self, body: bytes) -> None:
        self.own = DeviceFront(body)
        write_whole(self.path, body)


def open_client(
    job: Job, device_id: str, *, link_address: str | None = None, insecure: bool = False
) -> InferenceClient:
    """The client of a device; its front is kept in `OUT/devices/ID.front`. Raises UserError."""
    section = find_device(job, device_id)
    zone = find_zone(job, section.zone)
    address = link_address or section.link or zone.address
    load_link(address)
    keys = None if insecure else load_keys(Path(job.keys.folder), device_id)
    link = open_link(
        address, name=device_id, keys=keys, host=f"host-{zone.name}", silence_s=job.link.silence_s
    )
    try:
        return InferenceClient(link, Path(job.out) / "devices" / f"{device_id}.front")
    except BaseException:
        link.close()
        raise


def statistics(answers: Iterable[Answer], labels: Iterable[int]) -> dict[str, Any]:
    """Shares, right answers and latency (ms) by who has answered: `device`, `alone`, `host 0` .."""
    by_place: dict[str, list[tuple[Answer, int]]] = {}
    for answer, label in zip(answers, labels, strict=True):
        name = "alone" if answer.alone else answer.place
        name += f" {answer.exit}" if answer.place == HOST else ""
        by_place.setdefault(name, []).append((answer, label))
        by_place.setdefault("all", []).append((answer, label))
    total = len(by_place.get("all", []))
    table = {}
    for name, pairs in sorted(by_place.items()):
        ms = np.array([1e3 * answer.seconds for answer, _ in pairs])
        table[name] = {
            "samples": len(pairs),
            "share": len(pairs) / total,
            "accuracy": sum(answer.label == label for answer, label in pairs) / len(pairs),
            "median_ms": round(float(np.median(ms)), 3),
            "p95_ms": round(float(np.percentile(ms, 95)), 3),
        }
    return table


def run_client(
    job: Job,
    device_id: str,
    *,
    samples: int,
    batch: int,
    emit: Callable[[dict[str, Any]], None],
    link_address: str | None = None,
    insecure: bool = False,
) -> int:
    """Asks for test samples of the device, `batch` at a time, and emits `inferred` with the
    statistics. Raises UserError."""
    from .data import device_data

    data = device_data(job, device_id)
    stop = len(data.x_test) - job.data.validation
    x, y = data.x_test[:stop][:samples], data.y_test[:stop][:samples]
    if not len(x):
        raise UserError(f"{device_id} has no test samples to ask about", 3)
    with open_client(job, device_id, link_address=link_address, insecure=insecure) as client:
        client.start()
        answers: list[Answer] = []
        for first in range(0, len(x), batch):
            answers += client.infer(x[first : first + batch])
        up, down = (client.link.counters[f"bytes_{way}"] for way in ("sent", "received"))
    table = statistics(answers, (int(label) for label in y))
    event = {"event": "inferred", "device": device_id, "samples": len(x), "exits": table}
    emit({**event, "bytes_up": up, "bytes_down": down})
    return 0
