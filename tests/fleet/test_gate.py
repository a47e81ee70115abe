"""Edge host and cloud prove at their start that a stranger's key is refused: with the gate broken
in any way they serve nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from seamline.cloud.server import run_cloud
from seamline.edge_host.host import run_host
from seamline.runtime import zmq_link
from seamline.runtime.config import read_job
from seamline.runtime.link import LinkError

ZAP_OPTIONS = (zmq.ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN)


def yes_to_all(patch: pytest.MonkeyPatch) -> None:
    answer = zmq_link._Gate._answer

    def lenient(gate: Any, request: list[bytes]) -> list[bytes]:
        return [*answer(gate, request)[:2], b"200", b"OK", b"anybody", b""]

    patch.setattr(zmq_link._Gate, "_answer", lenient)


def nobody_asked(patch: pytest.MonkeyPatch) -> None:
    """What libzmq does by itself: without a domain and a gate it takes every key."""
    patch.setattr(zmq_link, "_Gate", Idle)
    patch.setattr(
        zmq.Socket,
        "setsockopt",
        lambda socket, option, value: None if option in ZAP_OPTIONS else socket.set(option, value),
    )


class Idle(threading.Thread):
    """A gate that is not where libzmq asks."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        self.refused = 0


def no_answer(patch: pytest.MonkeyPatch) -> None:
    def close(gate: Any) -> None:
        gate._socket.close(0)

    patch.setattr(zmq_link._Gate, "run", close)


def serve(program: str, path: Path, emit: Callable[[dict[str, Any]], None]) -> int:
    stop = threading.Event()
    stop.set()
    job = read_job(str(path))
    if program == "cloud":
        return run_cloud(job, emit=emit, stop=stop)
    return run_host(job, "A", emit=emit, stop=stop)


@pytest.mark.parametrize("program", ["cloud", "edge host"])
@pytest.mark.parametrize("broken", [yes_to_all, nobody_asked, no_answer])
def test_a_broken_gate_is_noticed_at_the_start_and_nobody_is_served(
    job: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    broken: Callable[[pytest.MonkeyPatch], None],
) -> None:
    events: list[dict[str, Any]] = []
    path = job(devices=1)
    assert serve(program, path, events.append) == 0
    assert events.pop()["event"] == "listening"
    broken(monkeypatch)
    with pytest.raises(LinkError, match="does not refuse a stranger's key") as error:
        serve(program, path, events.append)
    assert error.value.exit_code == 4
    assert events == []
