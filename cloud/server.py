"""The cloud program: one loop that joins the link to the zones, the rounds and the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..kernels import SeamError
from ..runtime import message as wire
from ..runtime.config import Job
from ..runtime.errors import UserError
from ..runtime.keys import load_keys
from ..runtime.ledger import DOWN, UP, Ledger, Table
from ..runtime.link import Listener, Received, open_listener
from ..runtime.message import Kind, Message, ProtocolError
from ..runtime.status import Reporter
from .aggregate import model_hash
from .rounds import Close, Effect, Keep, Present, Refuse, Report, Rounds, Send
from .store import Store, read_model, write_model

Emit = Callable[[dict[str, Any]], None]

POLL_S = 0.1
HOST = "host-"  # an edge host's name is this and its zone
REFUSED = 11  # status in an ERROR: the message does not fit the state


class Cloud:
    """Rounds and store without links: messages in, (peer, bytes) in `outbox` out, in an order that
    keeps every promise."""

    def __init__(self, job: Job, emit: Emit, now: float) -> None:
        """Raises UserError if the store cannot be used."""
        self.emit = emit
        self.closed = 0  # rounds, in this life
        self.out = Path(job.out)
        self.outbox: list[tuple[str, bytes]] = []
        self.traffic = Ledger()  # of all zones
        self.store = Store(self.out / "cloud", job)
        try:
            state = self.store.restore()
            if job.model.start and not state.model:
                state.model = read_model(Path(job.model.start))
            self.rounds = Rounds(job, state, now)
        except BaseException:
            self.store.close()
            raise
        self._encoded: tuple[Send, bytes] | None = (
            None  # the last model sent: the same for every zone
        )

    def close(self) -> None:
        self.store.close()

    def receive(self, peer: str, data: bytes, now: float) -> None:
        """A message of an edge host, or of something else: then it is told so."""
        zone = peer.removeprefix(HOST) if peer.startswith(HOST) else ""
        kind = 0
        try:
            message = self._decode(data)
            kind = message.kind
            if not zone:
                raise ProtocolError(f"{peer!r} is no edge host: only edge hosts join the cloud")
            if kind in (Kind.ERROR, Kind.BYE):
                self._carry_out(self.rounds.lost(zone, "it said goodbye", now))
                return
            meta, arrays = wire.read_zone(message.body)
        except (SeamError, ProtocolError) as error:
            self._refuse(peer, Refuse(zone or peer, kind, str(error)))
            return
        self._carry_out(self.rounds.receive(zone, kind, meta, dict(arrays), now))

    def _decode(self, data: bytes) -> Message:
        """Counted, whatever it is. Raises SeamError."""
        message = None
        try:
            message = Message.decode(data)
            return message
        finally:
            self.traffic.count(UP, message, len(data))

    def lost(self, peer: str, reason: str, now: float) -> None:
        if peer.startswith(HOST):
            self._carry_out(self.rounds.lost(peer.removeprefix(HOST), reason, now))

    def tick(self, now: float) -> None:
        self._carry_out(self.rounds.tick(now))

    def finish(self) -> str:
        """Writes the final model; returns its hash."""
        model = self.rounds.state.model
        write_model(self.out / "model.npz", model)
        return model_hash(model)

    # ---- effects ----

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """In order: what a message promises is durable before it goes out."""
        for effect in effects:
            if isinstance(effect, Send):
                self._post(HOST + effect.zone, self._encode(effect))
            elif isinstance(effect, Refuse):
                self._refuse(HOST + effect.zone, effect)
            elif isinstance(effect, Keep):
                self.store.keep_update(effect)
            elif isinstance(effect, Close):
                self._closed(effect)
            elif isinstance(effect, Report):
                self.store.keep_report(effect)
                self.emit({"event": "zone_report", "zone": effect.zone, "metrics": effect.metrics})
            else:
                self._present(effect)

    def _present(self, effect: Present) -> None:
        if effect.here:
            self.store.keep_zone(effect.zone)
            self.emit({"event": "zone_joined", "zone": effect.zone})
        else:
            self.emit({"event": "zone_left", "zone": effect.zone, "reason": effect.reason})

    def _closed(self, close: Close) -> None:
        self.store.keep_round(close)
        self.closed += 1
        self.emit(
            {
                "event": "cloud_round",
                "round": close.round,
                "zones": sorted(close.metrics),
                "seconds": close.seconds,
                "hash": close.hash,
                "metrics": close.metrics,
            }
        )
        self.tell_bytes(close.round)

    def _refuse(self, peer: str, refuse: Refuse) -> None:
        self.emit({"event": "zone_refused", "zone": refuse.zone, "reason": refuse.text})
        body = wire.error_body(REFUSED, refuse.kind, refuse.text)
        self._post(peer, Message(Kind.ERROR, body=body).encode())

    def _post(self, peer: str, data: bytes) -> None:
        self.traffic.count(DOWN, Message.decode(data), len(data))
        self.outbox.append((peer, data))

    def ledger(self) -> dict[str, Table]:
        """Bytes since the start."""
        return {"zones": self.traffic.total}

    def tell_bytes(self, cloud_round: int) -> None:
        """What crossed since this was told last; what follows goes with the next."""
        event = {"event": "bytes", "cloud_round": cloud_round}
        self.emit({**event, "bytes": {"zones": self.traffic.take()}})

    def _encode(self, send: Send) -> bytes:
        if self._encoded is not None:
            last, data = self._encoded
            same = (last.kind, last.round, last.meta) == (send.kind, send.round, send.meta)
            if same and last.arrays is send.arrays:
                return data
        try:
            body = wire.zone_body(send.meta, send.arrays, send.parcels)
            data = Message(send.kind, round=send.round, body=body).encode()
        except SeamError as error:
            raise UserError(f"the model cannot be sent to zone {send.zone}: {error}", 5) from error
        if send.arrays:
            self._encoded = (send, data)
        return data


def run_cloud(
    job: Job, *, insecure: bool = False, emit: Emit, stop: threading.Event | None = None
) -> int:
    """Runs the cloud until all rounds are done and reported, or `stop` is set. Returns 0.

    insecure: no keys, clear text on the network. emit: is called with each event, a JSON-able dict.
    Raises UserError: no key, an address in use, a store that cannot be used or written.
    """
    stop = stop or threading.Event()
    keys = None if insecure else load_keys(Path(job.keys.folder), "cloud")
    cloud = Cloud(job, emit, time.monotonic())
    try:
        listener = open_listener(
            job.cloud.address, {}, name="cloud", keys=keys, silence_s=job.link.silence_s
        )
        try:
            emit({"event": "listening", "address": listener.address()})
            reporter = Reporter(
                job.out,
                "cloud",
                listener.peers,
                emit,
                lambda: listener.counters[""]["refused_keys"],
                cloud.ledger,
            )
            try:
                _loop(cloud, listener, stop, reporter)
            finally:
                reporter.close()
        finally:
            listener.close()
    finally:
        cloud.close()
    return 0


def _loop(cloud: Cloud, listener: Listener, stop: threading.Event, reporter: Reporter) -> None:
    """Until everybody has reported or has had the time to, or stop is set."""
    saved, told = "", 0
    while not stop.is_set():
        cloud.tick(time.monotonic())
        reporter.tick(time.monotonic())
        if cloud.closed != told:
            told = cloud.closed
            reporter.links()
        if cloud.rounds.done and not saved:
            saved = (
                cloud.finish()
            )  # before a zone is told: whoever hears that it is done finds the model
        for peer, data in cloud.outbox:
            listener.send(peer, data)
        cloud.outbox.clear()
        if cloud.rounds.finished(time.monotonic()):
            cloud.tell_bytes(cloud.rounds.last)
            cloud.emit({"event": "done", "hash": saved})
            return
        for event in listener.poll(POLL_S):
            if isinstance(event, Received):
                cloud.receive(event.peer, event.data, time.monotonic())
            else:
                cloud.lost(event.peer, event.reason, time.monotonic())
                reporter.links(event.peer)
