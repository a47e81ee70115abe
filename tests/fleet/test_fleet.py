"""A whole fleet as a user runs it: real processes, sockets, keys; what survives a kill -9."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from seamline.runtime.config import read_job

from seamline.cli import main


def run_job(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seamline", "run", str(path), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def model_hash(path: Path) -> str:
    arrays = np.load(path, allow_pickle=False)
    digest = hashlib.sha256()
    for name in sorted(arrays.files):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


MODES = ["split-v1", "split-v2", "split-v3", "federated", "isolated", "local-loss"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_to_the_end(job, mode, tmp_path):
    done = run_job(job(mode=mode))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.npz").exists()
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"


def test_the_same_seed_gives_the_same_bits_twice(job, tmp_path):
    hashes = []
    for _ in range(2):
        path = job(zones=2, devices=3)
        done = run_job(path)
        assert done.returncode == 0, done.stderr
        hashes.append(model_hash(tmp_path / "out" / "model.npz"))
        (tmp_path / "out").rename(tmp_path / f"out-{len(hashes)}")
    assert hashes[0] == hashes[1]


def tiers(start, path, devices=("d00", "d01"), zones=("A",)):
    cloud = start("cloud", str(path))
    hosts = {zone: start("host", str(path), "--zone", zone) for zone in zones}
    return cloud, hosts, {d: start("device", str(path), "--id", d) for d in devices}


def rounds(event):
    return event["event"] == "round"


def test_a_killed_device_is_noticed_the_round_goes_on_and_it_rejoins(job, start):
    path = job(devices=3, cloud_rounds=60, edge_rounds=20)
    _, hosts, devices = tiers(start, path, ("d00", "d01", "d02"))
    host = hosts["A"]
    host.wait_for(rounds)
    killed = devices["d01"].kill()
    left = host.wait_for(lambda e: e["event"] == "left" and e["device"] == "d01", 10)
    assert left["seen"] - killed < 3.0
    seen = len(host.events)
    host.wait_for(rounds, 10, after=seen)
    seen = len(host.events)
    again = start("device", str(path), "--id", "d01")
    host.wait_for(lambda e: e["event"] == "joined" and e["device"] == "d01", 10, after=seen)
    again.wait_for(lambda e: e["event"] == "done")
    assert host.process.wait(30) == 0


def test_a_fleet_behind_a_bad_network_joins_again_after_each_cut(job, start):
    """Three devices with keys reach their host through the proxy only; it is slow, stalls, and
    hangs up on all of them every few seconds.
    """
    names = ["d00", "d01", "d02"]
    path = job(devices=3, cloud_rounds=200, edge_rounds=20)
    address = read_job(str(path)).zones[0].address.removeprefix("tcp://")
    line = ["--line", "listen://127.0.0.1:0", f"socket://{address}"]
    shape = ["--delay-ms", "2", "--bandwidth", "2000000", "--loss", "0.001", "--seed", "1"]
    cuts = [word for seconds in range(4, 60, 4) for word in ("--cut", str(seconds))]
    proxy = start("link-proxy", *line, *shape, *cuts)
    door = proxy.wait_for(lambda e: e["event"] == "listening")["lines"][0][0]
    start("cloud", str(path))
    host = start("host", str(path), "--zone", "A")
    link = ["--link", door.replace("listen://", "tcp://")]
    devices = [start("device", str(path), "--id", name, *link) for name in names]
    for device in devices:
        device.wait_for(lambda e: e["event"] == "lost" and "connection to" in e["reason"])
        seen = len(device.events)
        device.wait_for(lambda e: e["event"] == "joined", after=seen)
    seen = len(host.events)
    after = host.wait_for(rounds, 20, after=seen)
    assert set(after["devices"]) <= set(names) and after["loss"] > 0
    proxy.process.send_signal(signal.SIGTERM)
    counters = proxy.wait_for(lambda e: e["event"] == "done")["counters"]
    assert counters[0]["connections"] >= 6 and counters[0]["bytes_in"] > 100_000


@pytest.mark.parametrize("who", ["host", "cloud"])
def test_a_killed_host_or_cloud_goes_on_from_the_last_durable_round(job, start, who):
    path = job(cloud_rounds=40, edge_rounds=20)
    cloud, hosts, devices = tiers(start, path)
    host = hosts["A"]
    third = cloud.wait_for(lambda e: e["event"] == "cloud_round" and e["round"] >= 3)
    if who == "host":
        host.kill()
        host = start("host", str(path), "--zone", "A")
    else:
        cloud.kill()
        cloud = start("cloud", str(path))
    later = cloud.wait_for(
        lambda e: e["event"] == "cloud_round" and e["seen"] > third["seen"] and e["round"] > 3
    )
    assert later["round"] >= third["round"]
    cloud.wait_for(lambda e: e["event"] == "done", 60)
    assert cloud.process.wait(30) == 0
    assert host.process.wait(30) == 0
    for device in devices.values():
        assert device.process.wait(30) == 0


def test_fronts_in_int8_give_the_same_bits_with_any_kernels(job, tmp_path, monkeypatch):
    hashes = []
    for variant in ("", "generic"):
        path = job(arithmetic="q8")
        if variant:
            monkeypatch.setenv("SEAMLINE_KERNELS", variant)
        done = run_job(path)
        assert done.returncode == 0, done.stderr
        hashes.append(model_hash(tmp_path / "out" / "model.npz"))
        with np.load(tmp_path / "out" / "zones" / "A" / "front-q8.npz") as file:
            assert file["blob"].size > 1000 and file["plan"].size > 100
        (tmp_path / "out").rename(tmp_path / f"out-{len(hashes)}")
    assert hashes[0] == hashes[1]


def test_status_shows_every_tier_while_it_runs_and_a_device_that_was_killed(
    job, start, tmp_path, capsys
):
    path = job(cloud_rounds=200, edge_rounds=20)
    _, hosts, devices = tiers(start, path)
    hosts["A"].wait_for(lambda e: e["event"] == "link" and e["peer"] == "d01")
    devices["d00"].kill()
    hosts["A"].wait_for(lambda e: e["event"] == "link" and e["state"] == "lost", 10)
    wanted = {
        "cloud": {"host-A": "joined"},
        "host-A": {"cloud": "joined", "d00": "lost", "d01": "joined"},
        "d01": {"host-A": "joined"},
    }
    seen, until = {}, time.monotonic() + 30
    while seen != wanted:  # told once a second
        assert time.monotonic() < until, seen
        assert main(["status", str(path), "--format", "json"]) == 0
        found = {tier["name"]: tier for tier in json.loads(capsys.readouterr().out)["tiers"]}
        seen = {
            name: {row["peer"]: row["state"] for row in tier["peers"]}
            for name, tier in found.items()
            if name != "d00"  # what it said last
        }
        time.sleep(0.1)
    assert {name: tier["state"] for name, tier in found.items()} == {
        "cloud": "running",
        "host-A": "running",
        "d00": "died",
        "d01": "running",
    }
    assert found["host-A"]["pid"] == hosts["A"].process.pid
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "d00: died" in capsys.readouterr().out
