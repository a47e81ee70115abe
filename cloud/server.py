"""The cloud program: one loop that joins the zones' links, the rounds and the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..runtime.config import Job, job_digest
from ..runtime.keys import load_keys
from ..runtime.link import Listener, Received, open_listener
from .rounds import Rounds, Rules
from .store import Store, model_hash, write_model

Emit = Callable[[dict[str, Any]], None]

POLL_S = 0.05
LATE_S = 3.0  # after a restart at the end: how long late zones are answered


def rules(job: Job) -> Rules:
    return Rules(
        job=job.name,
        zones=tuple(sorted(zone.name for zone in job.zones)),
        rounds=job.train.cloud_rounds,
        quorum=job.round.quorum,
        deadline_s=job.round.deadline_s,
        join_wait_s=job.round.join_wait_s,
    )


def run_cloud(
    job: Job, *, insecure: bool = False, emit: Emit, stop: threading.Event | None = None
) -> int:
    """Aggregates until the last round and returns 0. Raises UserError: no key, address in use, a foreign store.

    Writes `<out>/model.npz` (arrays under torch's names). insecure: no keys, clear text. emit: is called with each
    event, a JSON-able dict.
    """
    keys = None if insecure else load_keys(Path(job.keys.folder), "cloud")
    store = Store(Path(job.out) / "cloud", job_digest(job), job.name)
    try:
        rounds = Rounds(rules(job), time.monotonic())
        last = store.last()
        if last is not None:
            rounds.round, rounds.model = last[0] + 1, last[1]
            emit({"event": "restored", "round": last[0]})
        listener = open_listener(job.cloud.address, {}, name="cloud", keys=keys)
        try:
            emit({"event": "listening", "address": listener.address()})
            _loop(job, rounds, store, listener, emit, stop or threading.Event())
        finally:
            listener.close()
    finally:
        store.close()
    return 0


def _loop(
    job: Job, rounds: Rounds, store: Store, listener: Listener, emit: Emit, stop: threading.Event
) -> None:
    wait = LATE_S if rounds.over else job.round.deadline_s
    over_at = time.monotonic() if rounds.over else None
    while not stop.is_set():
        _hear(rounds, listener, emit)
        now = time.monotonic()
        finished = rounds.tick(now)
        if finished is not None:
            digest = store.save(finished)
            rounds.commit(finished, now)
            event = {"event": "cloud_round", "round": finished.round, "zones": sorted(finished.metrics)}
            emit({**event, "seconds": round(finished.seconds, 3), "hash": digest, "metrics": finished.metrics})
        _send(rounds, listener)
        if rounds.over:
            over_at = now if over_at is None else over_at
            everyone = set(rounds.reports) >= set(rounds.rules.zones)
            if everyone or now - over_at >= wait:
                break
    if rounds.over:
        write_model(Path(job.out) / "model.npz", rounds.model)
        emit({"event": "done", "hash": model_hash(rounds.model), "reports": rounds.reports})


def _hear(rounds: Rounds, listener: Listener, emit: Emit) -> None:
    for event in listener.poll(POLL_S):
        zone = event.peer.removeprefix("host-")
        if isinstance(event, Received):
            if rounds.receive(zone, event.data, time.monotonic()):
                emit({"event": "zone_joined", "zone": zone})
        elif rounds.lost(zone):
            emit({"event": "zone_left", "zone": zone, "reason": event.reason})


def _send(rounds: Rounds, listener: Listener) -> None:
    for zone, data in rounds.outbox:
        listener.send(f"host-{zone}", data)
    rounds.outbox.clear()
