"""The device program on a scripted link: joining, losing the host, and what it keeps on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime import device as program
from seamline.runtime import message as wire
from seamline.runtime.config import DataSection, DeviceSection, Job, ZoneSection
from seamline.runtime.errors import UserError
from seamline.runtime.link import JOINED, LinkLost, Peer
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import LayerSpec, build_plan

PLAN = build_plan([LayerSpec("dense", 0, (1, 1, 3))], (1, 1, 4), 2)
SETTINGS = wire.Settings(1, 2, 0, 0, 0, 0.9, 0.0)
START = np.arange(15, dtype=np.float32) / 10
DY = np.ones((2, 1, 1, 3), np.float32)


def step(round_: int) -> Message:
    body = wire.step_body(0.1, 0, 1, parcel.pack(START, "f32"))
    return Message(Kind.STEP, 7, round_, 0, Flag.WEIGHTS, body)


def gradient(round_: int) -> Message:
    body = wire.grad_body(0.1, 0.0, parcel.pack(DY, "f32"))
    return Message(Kind.GRAD, 7, round_, 0, Flag.LAST, body)


WELCOME = Message(Kind.WELCOME, 7, body=wire.welcome_body())
GIVE_PLAN = Message(Kind.PLAN, 7, body=wire.plan_body(SETTINGS, PLAN))
BYE = Message(Kind.BYE, 7, body=wire.bye_body("done"))


class ScriptedLink:
    """Gives what the script says, one a receive; an exception in it is raised."""

    def __init__(self, script) -> None:
        self.script, self.sent, self.closed = deque(script), [], False

    def send(self, data: bytes) -> None:
        self.sent.append(Message.decode(data))

    def receive(self, timeout: float) -> bytes | None:
        item = self.script.popleft()
        if isinstance(item, BaseException):
            raise item
        return None if item is None else item.encode()

    def peers(self) -> list[Peer]:
        return [Peer("host-A", "tcp", JOINED, counters={"messages_sent": len(self.sent)})]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch):
    """Runs the device on a script; returns (link, events)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 1, 1, 4)).astype(np.float32)
    y = np.arange(6) % 3
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    job = Job(
        zones=[ZoneSection("A", "tcp://127.0.0.1:5999")],
        devices=[DeviceSection("d", "A")],
        out=str(tmp_path / "out"),
        data=DataSection(str(tmp_path / "{id}.npz")),
    )

    def runner(*script):
        link, events = ScriptedLink(script), []
        runner.link = link
        monkeypatch.setattr(program, "open_link", lambda *_, **__: link)
        try:
            program.run_device(job, "d", insecure=True, emit=events.append)
        finally:
            assert link.closed
        return link, events

    runner.checkpoint = tmp_path / "out" / "devices" / "d.npz"
    return runner


def kinds(link) -> list[int]:
    return [message.kind for message in link.sent]


def test_it_joins_trains_and_ends_when_the_host_says_so(run):
    link, events = run(WELCOME, GIVE_PLAN, step(1), gradient(1), BYE)
    assert kinds(link) == [Kind.HELLO, Kind.READY, Kind.ACT, Kind.WEIGHTS]
    assert [e["event"] for e in events] == ["joined", "done", "stats", "link"]
    assert not run.checkpoint.exists(), "the job is done: nothing is left for the next"


def test_a_lost_host_is_greeted_anew_and_the_front_goes_on(run):
    link, events = run(WELCOME, GIVE_PLAN, LinkLost("gone"), WELCOME, GIVE_PLAN, step(1), BYE)
    assert kinds(link).count(Kind.HELLO) >= 1
    assert kinds(link)[-1] == Kind.ACT
    assert [e["event"] for e in events][:4] == ["joined", "lost", "link", "joined"]


def test_a_host_without_our_session_is_greeted_anew(run):
    error = Message(Kind.ERROR, body=wire.error_body(12, Kind.ACT, "no session: say HELLO first"))
    link, _ = run(WELCOME, GIVE_PLAN, error, None, WELCOME, GIVE_PLAN, BYE)
    assert kinds(link)[-1] == Kind.READY


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (Message(Kind.ERROR, body=wire.error_body(17, 1, "d is not in the job")), "not in the job"),
        (LinkLost("key not accepted", refused=True), "key not accepted"),
    ],
)
def test_a_refusal_that_waiting_cannot_mend_ends_with_its_reason(run, last, words):
    with pytest.raises(UserError, match=words) as caught:
        run(last)
    assert caught.value.exit_code == 6


def test_damaged_bytes_are_dropped(run):
    class Garbage:
        def encode(self):
            return b"garbage that is no message at all"

    link, _ = run(Garbage(), WELCOME, GIVE_PLAN, Garbage(), step(1), BYE)
    assert kinds(link)[-1] == Kind.ACT


def weights_after(run, *script):
    link, _ = run(*script)
    return wire.read_weights(link.sent[-1].body)[2]


def test_momentum_survives_a_restart_but_not_a_new_job(run):
    through = weights_after(
        run, WELCOME, GIVE_PLAN, step(2), gradient(2), step(3), gradient(3), BYE
    )
    with pytest.raises(KeyboardInterrupt):
        run(WELCOME, GIVE_PLAN, step(2), gradient(2), KeyboardInterrupt())
    assert run.checkpoint.exists()
    restarted = weights_after(run, WELCOME, GIVE_PLAN, step(3), gradient(3), BYE)
    assert restarted.tobytes() == through.tobytes()
    with pytest.raises(KeyboardInterrupt):
        run(WELCOME, GIVE_PLAN, step(2), gradient(2), KeyboardInterrupt())
    fresh = weights_after(run, WELCOME, GIVE_PLAN, step(1), gradient(1), BYE)
    assert (
        fresh.tobytes()
        == weights_after(run, WELCOME, GIVE_PLAN, step(1), gradient(1), BYE).tobytes()
    )
    assert fresh.tobytes() != through.tobytes()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_no_checkpoint(run, content):
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(content)
    link, _ = run(WELCOME, GIVE_PLAN, step(5), gradient(5), BYE)
    assert not wire.read_ready(link.sent[1].body).has_checkpoint


def keep(run, **changed):
    arrays = {
        "params": START,
        "momentum": np.zeros(15, np.float32),
        "round": np.uint32(4),
        "seed": np.uint32(1),
        "plan": np.frombuffer(PLAN, np.uint8),
    }
    run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    np.savez(run.checkpoint, **(arrays | changed))


def told_of_checkpoint(run) -> bool:
    link, _ = run(WELCOME, GIVE_PLAN, BYE)
    return wire.read_ready(link.sent[1].body).has_checkpoint


def test_a_checkpoint_is_told_to_the_host(run):
    keep(run)
    assert told_of_checkpoint(run)


@pytest.mark.parametrize(
    "changed",
    [
        {"params": START[:5]},
        {"params": START.reshape(3, 5)},
        {"params": np.full(15, np.nan, np.float32)},
        {"params": np.full(15, "x")},
        {"momentum": np.full(15, np.inf, np.float32)},
        {"plan": np.frombuffer(PLAN[:-1] + b"!", np.uint8)},
        {"plan": np.frombuffer(b"another plan", np.uint8)},
        {"round": np.arange(3)},
        {"round": np.float32("nan")},
    ],
)
def test_a_checkpoint_that_does_not_add_up_is_no_checkpoint(run, changed):
    keep(run, **changed)
    assert not told_of_checkpoint(run)


def test_a_checkpoint_of_another_front_is_not_told_to_the_host(run):
    other = build_plan([LayerSpec("dense", 0, (1, 1, 3), has_bias=False)], (1, 1, 4), 2)
    twelve = np.zeros(12, np.float32)
    keep(run, plan=np.frombuffer(other, np.uint8), params=twelve, momentum=twelve)
    assert not told_of_checkpoint(run)


def test_a_front_that_diverged_is_not_written(run):
    huge = wire.grad_body(1e30, 0.0, parcel.pack(np.full_like(DY, 1e30), "f32"))
    diverging = Message(Kind.GRAD, 7, 2, 0, 0, huge)
    with pytest.raises(KeyboardInterrupt):
        run(WELCOME, GIVE_PLAN, step(2), diverging, KeyboardInterrupt())
    assert not run.checkpoint.exists()


def test_a_plan_that_comes_again_is_answered_but_joins_once(run):
    link, events = run(WELCOME, GIVE_PLAN, GIVE_PLAN, BYE)
    assert kinds(link) == [Kind.HELLO, Kind.READY, Kind.READY]
    assert [e["event"] for e in events] == ["joined", "done", "stats", "link"]


def test_a_stopped_device_says_goodbye(run):
    with pytest.raises(KeyboardInterrupt):
        run(WELCOME, GIVE_PLAN, KeyboardInterrupt())
    assert kinds(run.link)[-1] == Kind.BYE


TRAINING = """
import json, sys
from seamline.runtime import device as program, message as wire, zmq_link

from seamline.kernels import parcel
from seamline.runtime.config import DataSection, DeviceSection, Job, ZoneSection
from seamline.runtime.message import Flag, Kind, Message
import numpy as np

folder, plan = sys.argv[1], bytes.fromhex(sys.argv[2])
batch = 32
gradient = parcel.pack(np.full((batch, 1, 30, 32), 1e-4, np.float32), "int8")

class Host:
    def __init__(self):
        self.step = -3
    def send(self, data):
        pass
    def receive(self, timeout):
        self.step += 1
        if self.step == -2:
            return Message(Kind.WELCOME, 7, body=wire.welcome_body()).encode()
        if self.step == -1:
            settings = wire.Settings(1, batch, 1, 1, 1, 0.9, 0.0)
            return Message(Kind.PLAN, 7, body=wire.plan_body(settings, plan)).encode()
        if self.step == 0:
            weights = parcel.pack(np.full(18 * 64 + 64 + 64 * 5 * 32 + 32, 0.01, np.float32), "f32")
            body = wire.step_body(0.01, 0, 1, weights)
            return Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS, body).encode()
        if self.step <= 20:
            body = wire.grad_body(0.01, 0.5, gradient)
            return Message(Kind.GRAD, 7, 1, self.step - 1, 0, body).encode()
        return Message(Kind.BYE, 7, body=wire.bye_body("done")).encode()
    def peers(self):
        return []
    def close(self):
        pass

program.open_link = lambda *_, **__: Host()
job = Job(zones=[ZoneSection("A", "tcp://127.0.0.1:5999")], devices=[DeviceSection("d", "A")],
          out=folder + "/out", data=DataSection(folder + "/{id}.npz"))
events = []
program.run_device(job, "d", insecure=True, emit=events.append)
last = [event for event in events if event["event"] == "stats"][-1]
heavy = "torch rich matplotlib jinja2 asyncio cryptography scipy pandas".split()
print(json.dumps({"steps": last["steps"], "vmhwm_mb": last["vmhwm_mb"],
                  "heavy": [name for name in heavy if name in sys.modules]}))
"""


def test_a_device_process_that_trains_is_small_and_loads_nothing_heavy(tmp_path):
    layers = [
        LayerSpec("conv2d", 0, (1, 60, 64), kernel=(1, 3), padding=((0, 0), (1, 1))),
        LayerSpec("relu", 1, (1, 60, 64)),
        LayerSpec("conv2d", 2, (1, 60, 32), kernel=(1, 5), padding=((0, 0), (2, 2))),
        LayerSpec("max_pool", 3, (1, 30, 32), kernel=(1, 2), stride=(1, 2)),
    ]
    plan = build_plan(layers, (1, 60, 6), 32)
    x = np.random.default_rng(0).normal(size=(2000, 1, 60, 6)).astype(np.float32)
    y = np.arange(2000) % 5
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path), plan.hex()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == 21
    assert found["heavy"] == []
    assert found["vmhwm_mb"] <= 45


# ---- rounds that the host asked to keep ----


def keeping(round_: int) -> Message:
    last = gradient(round_)
    return Message(Kind.GRAD, 7, round_, 0, last.flags | Flag.KEEP, last.body)


def kept(run) -> list[str]:
    return sorted(path.name for path in run.checkpoint.parent.glob("d@*.npz"))


def test_a_round_is_on_disk_before_the_host_hears_that_it_is_over(run, monkeypatch):
    found = []

    def send(self, data):
        self.sent.append(Message.decode(data))
        found.append((self.sent[-1].kind, kept(run)))

    monkeypatch.setattr(ScriptedLink, "send", send)
    run(WELCOME, GIVE_PLAN, step(1), gradient(1), step(2), keeping(2), BYE)
    weights = [files for kind, files in found if kind == Kind.WEIGHTS]
    assert weights == [[], ["d@2.npz"]]
    assert kept(run) == [], "the job is done"


def test_it_goes_back_to_the_round_before_the_one_it_is_asked_for(run):
    rounds = [m for r in (2, 3, 4) for m in (step(r), keeping(r))]
    through = weights_after(run, WELCOME, GIVE_PLAN, *rounds, step(5), gradient(5), BYE)
    for lost in ([], [step(5)], [step(5), gradient(5)]):
        with pytest.raises(KeyboardInterrupt):
            run(WELCOME, GIVE_PLAN, *rounds, *lost, KeyboardInterrupt())
        assert kept(run) == ["d@3.npz", "d@4.npz"]
        again = weights_after(run, WELCOME, GIVE_PLAN, step(5), gradient(5), BYE)
        assert again.tobytes() == through.tobytes()


def test_it_goes_back_too_when_only_the_host_was_lost(run):
    rounds = [m for r in (2, 3, 4) for m in (step(r), keeping(r))]
    through = weights_after(run, WELCOME, GIVE_PLAN, *rounds, BYE)
    lost = LinkLost("gone"), WELCOME, GIVE_PLAN
    again = weights_after(
        run, WELCOME, GIVE_PLAN, *rounds, step(5), gradient(5), *lost, step(4), keeping(4), BYE
    )
    assert again.tobytes() == through.tobytes()


def test_the_first_round_has_no_momentum_also_when_it_is_done_again(run):
    through = weights_after(run, WELCOME, GIVE_PLAN, step(1), gradient(1), BYE)
    lost = LinkLost("gone"), WELCOME, GIVE_PLAN
    again = weights_after(
        run, WELCOME, GIVE_PLAN, step(1), gradient(1), *lost, step(1), gradient(1), BYE
    )
    assert again.tobytes() == through.tobytes()


def test_its_own_front_goes_back_where_the_host_sends_none(run):
    def bare(round_: int) -> Message:
        return Message(Kind.STEP, 7, round_, 0, 0, wire.step_body(0.1, 0, 1, None))

    begin = WELCOME, GIVE_PLAN, step(1), keeping(1), bare(2), keeping(2)
    second = WELCOME, GIVE_PLAN, bare(2), gradient(2)
    through = weights_after(run, *begin[:-1], gradient(2), BYE)
    with pytest.raises(KeyboardInterrupt):
        run(*begin, KeyboardInterrupt())
    assert weights_after(run, *second, BYE).tobytes() == through.tobytes()
    again = weights_after(run, *begin, LinkLost("gone"), *second, BYE)
    assert again.tobytes() == through.tobytes()


def test_a_round_that_cannot_be_kept_is_told_and_training_goes_on(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program.Kept, "keep", full)
    link, events = run(WELCOME, GIVE_PLAN, step(1), keeping(1), BYE)
    assert kinds(link)[-1] == Kind.WEIGHTS
    assert [e["event"] for e in events][:2] == ["joined", "error"]
    assert "No space left" in events[1]["reason"]
