"""A local run: every tier a process, restarts after accidents, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from seamline.runtime.config import make_job, read_job
from seamline.runtime.errors import UserError

from seamline.run import LocalRun, localise

STAND_IN = Path(__file__).with_name("stand_in.py")
OPEN = "tcp://127.0.0.1:0"


@pytest.fixture
def job(tmp_path):
    zones = [{"name": name, "address": OPEN} for name in "AB"]
    devices = [{"id": "d1", "zone": "A"}, {"id": "d2", "zone": "B"}]
    devices.append({"id": "d3", "zone": "B", "host_link": "serial:/dev/ttyNONE:9600"})
    values = {"zones": zones, "devices": devices, "cloud": {"address": OPEN}, "out": "out"}
    return make_job(values, "job", tmp_path)


@pytest.fixture
def behave(tmp_path, monkeypatch):
    """Tells the stand-ins what to do; returns how to read the process ids a tier has had."""
    lives = tmp_path / "lives"
    lives.mkdir()
    monkeypatch.setenv("STAND_IN_LIVES", str(lives))

    def tell(**behaviour):
        monkeypatch.setenv(
            "STAND_IN", json.dumps({k.replace("_", "-"): v for k, v in behaviour.items()})
        )
        return lambda name: [int(line) for line in (lives / name).read_text().split()]

    return tell


def run(job) -> LocalRun:
    return LocalRun(job, command=[sys.executable, str(STAND_IN)])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        os.sched_yield()


def test_a_run_starts_every_tier_once_and_ends_when_all_are_done(job, behave):
    lives = behave()
    with run(job) as local:
        seen = [(tier, event["event"]) for tier, event in local.events() if event]
    names = ["cloud", "host-A", "host-B", "d1", "d2", "d3"]
    assert {(name, "done") for name in names} <= set(seen)
    for name in (*names, "lines"):
        assert len(lives(name)) == 1
        assert not any(alive(pid) for pid in lives(name))


def test_a_device_starts_when_its_edge_host_listens(job, behave):
    behave()
    with run(job) as local:
        started = {tier: number for number, (tier, event) in enumerate(local.events()) if event}
        first = {}
        for number, tier in enumerate(started):
            first.setdefault(tier, number)
    assert first["host-A"] < first["d1"]
    assert first["lines"] < first["host-B"] < first["d2"]


def test_the_children_get_keys_ports_lines_and_one_thread(job, behave):
    behave()
    with run(job) as local:
        assert local._environment()["OPENBLAS_NUM_THREADS"] == "1"
        found = read_job(Path(job.out) / "local-job.toml")
        list(local.events())
    ports = {found.cloud.address, *(zone.address for zone in found.zones)}
    assert len(ports) == 3
    assert not any(port.endswith(":0") for port in ports)
    assert found.devices[2].link == f"serial:{job.out}/lines/d3.device:9600"
    secrets = list(Path(job.keys.folder).glob("*.secret"))
    assert len(secrets) == 6
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)


def test_a_reserved_port_can_be_bound_by_its_tier_and_is_given_to_nobody_else(job):
    found, reserved, _ = localise(job)
    port = int(found.cloud.address.rpartition(":")[2])
    others = set()
    sockets = []
    for _ in range(50):
        other = socket.create_server(("127.0.0.1", 0))
        sockets.append(other)
        others.add(other.getsockname()[1])
    assert port not in others
    with socket.socket() as tier:
        tier.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tier.bind(("127.0.0.1", port))
        tier.listen()
    for each in (*sockets, *reserved):
        each.close()


def test_a_tier_that_dies_by_accident_is_started_again_and_it_is_said(job, behave):
    lives = behave(d1="die once", host_A="die once")
    with run(job) as local:
        events = [event for _, event in local.events() if event.get("event") == "restarted"]
    assert sorted(event["tier"] for event in events) == ["d1", "host-A"]
    assert all(event["number"] == 1 for event in events)
    assert len(lives("d1")) == len(lives("host-A")) == 2


def test_a_tier_that_dies_again_and_again_ends_the_run_with_its_last_words(job, behave):
    lives = behave(d2="die", cloud="hang", host_B="hang")
    with (
        pytest.raises(UserError, match="d2 died 4 times, at last by signal 9") as caught,
        run(job) as local,
    ):
        list(local.events())
    assert "something odd" in str(caught.value)
    assert len(lives("d2")) == 4
    assert not any(alive(pid) for name in ("cloud", "host-B", "lines") for pid in lives(name))


def test_a_users_mistake_is_not_tried_again(job, behave):
    lives = behave(host_B="refuse", cloud="hang")
    with pytest.raises(UserError, match="host-B: port 5 is in use") as caught, run(job) as local:
        list(local.events())
    assert caught.value.exit_code == 4
    assert len(lives("host-B")) == 1
    assert not alive(lives("cloud")[0])


def test_a_tier_that_ignores_sigterm_is_killed(job, behave):
    lives = behave(cloud="stubborn", host_A="hang", host_B="hang")
    local = run(job)
    with local:
        for tier, event in local.events():
            if tier == "cloud" and event:
                break
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert not alive(lives("cloud")[0])


# ---- however the parent ends ----

PARENT = """
import sys
from seamline.run import LocalRun, ending_on_signals
from seamline.runtime.config import read_job
job = read_job(sys.argv[1])
with ending_on_signals(), LocalRun(job, command=[sys.executable, sys.argv[2]]) as run:
    for tier, event in run.events():
        if event:
            print(tier, flush=True)
"""
TIERS = ("lines", "cloud", "host-A", "host-B", "d1", "d2", "d3")


@pytest.fixture
def parent(job, behave, tmp_path):
    """A run in a process of its own, all of whose tiers hang; and the ids of their processes."""
    from seamline.runtime.config import write_toml

    lives = behave(**dict.fromkeys(["cloud", "host_A", "host_B", "d1", "d2", "d3"], "hang"))
    path = tmp_path / "job.toml"
    path.write_text(write_toml(job))
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), str(STAND_IN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    heard = set()
    while heard != set(TIERS):
        line = process.stdout.readline().strip()
        assert line, "the run ended early"
        heard.add(line)
    pids = [pid for name in TIERS for pid in lives(name)]
    assert all(alive(pid) for pid in pids)
    yield process, pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_ctrl_c_and_sigterm_end_every_process_at_once(parent, number, code):
    process, pids = parent
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(5) == code
    assert time.monotonic() - began < 2.5
    assert not any(alive(pid) for pid in pids)


def test_kill_9_of_the_parent_leaves_no_orphan(parent):
    process, pids = parent
    process.kill()
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), 5)


def test_a_child_whose_parent_is_gone_before_it_can_ask_ends_at_once():
    code = "from seamline.lifeline import tie_to_parent; tie_to_parent(); print('alive')"
    environment = {**os.environ, "SEAMLINE_PARENT": "1"}  # not its parent
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
