"""Fleets over emulated networks: the rates of a trace are what comes through, training ends with
the same bits, and nothing is left behind.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

from seamline.runtime.keys import load_keys, make_keys
from seamline.runtime.link import Received, open_link, open_listener
from seamline.runtime.link_proxy import run_link_proxy
from seamline.runtime.network_trace import Schedule, Step, make_trace

AHEAD = 10_500  # bytes: a tenth of a second of the fast step, and a grain
WITHIN_S = 60.0  # far more than anything here takes; only a hang reaches it
STEP = make_trace("step", [Step(0, 800_000, 160_000, 5.0), Step(1_000_000, 80_000, 800_000, 5.0)])


def run_over(traces, listener):
    """The doors of a proxy in front of a listener, how to end it, and its events."""
    target = listener.address().replace("tcp://", "socket://")
    pairs = [("listen://127.0.0.1:0", target)] * len(traces)
    events, ready, stop = [], threading.Event(), threading.Event()

    def emit(event):
        events.append(event)
        ready.set()

    thread = threading.Thread(
        target=run_link_proxy, args=(pairs, emit, stop), kwargs={"traces": traces}, daemon=True
    )
    thread.start()
    assert ready.wait(5)

    def end():
        stop.set()
        thread.join(5)
        assert not thread.is_alive()

    doors = [line[0].replace("listen://", "tcp://") for line in events[0]["lines"]]
    return doors, end, events


def test_two_devices_get_in_each_step_what_the_trace_gives(start, tmp_path: Path) -> None:
    """They say all they can, and are answered, until three laps of bytes have come: a fast step up
    is a slow one down. Never more than the trace allows, and not much less.
    """
    names = ["watch-1", "watch-2"]
    make_keys(tmp_path, ["host-A", *names])
    listener = open_listener(
        "tcp://127.0.0.1:*", {}, name="host-A", keys=load_keys(tmp_path, "host-A")
    )
    (tmp_path / "step.csv").write_text(
        "seconds,up_bits_per_s,down_bits_per_s,delay_ms\n0,800000,160000,5\n1,80000,800000,5\n"
    )
    line = ["--line", "listen://127.0.0.1:0", listener.address().replace("tcp://", "socket://")]
    proxy = start("link-proxy", *line, *line, "--trace", str(tmp_path / "step.csv"))
    there = proxy.wait_for(lambda event: event["event"] == "listening")
    doors = [door.replace("listen://", "tcp://") for door, _ in there["lines"]]
    links = {
        name: open_link(door, name=name, keys=load_keys(tmp_path, name))
        for name, door in zip(names, doors, strict=True)
    }
    came = {name: {"up": 0, "down": 0} for name in names}
    waiting = {name: {"up": 0, "down": 0} for name in names}
    wanted = 3 * 110_000  # bytes of three laps, up; a little less is messages
    until = time.monotonic() + WITHIN_S
    try:
        while min(ways["up"] for ways in came.values()) < 0.9 * wanted:
            assert time.monotonic() < until, came
            for name, link in links.items():
                # Before the host is there, a message that is the same again is not sent again.
                while waiting[name]["up"] < (60_000 if came[name]["down"] else 1):
                    link.send(bytes(2000))
                    waiting[name]["up"] += 2000
                if (data := link.receive(0.0)) is not None:
                    came[name]["down"] += len(data)
                    waiting[name]["down"] -= len(data)
            for event in listener.poll(0.005):
                assert isinstance(event, Received), event
                came[event.peer]["up"] += len(event.data)
                waiting[event.peer]["up"] -= len(event.data)
                while waiting[event.peer]["down"] < 60_000:
                    assert listener.send(event.peer, bytes(2000))
                    waiting[event.peer]["down"] += 2000
        told = [event for event in proxy.events if event["event"] == "traffic"]
    finally:
        for link in links.values():
            link.close()
        listener.close()
    proxy.process.send_signal(signal.SIGTERM)
    done = proxy.wait_for(lambda event: event["event"] == "done")
    began = next(at for at in told if min(line["down"]["bytes"] for line in at["lines"]) > 2000)
    for number, seen in enumerate(came.values()):
        for way in ("up", "down"):
            assert seen[way] <= done["traffic"]["lines"][number][way]["bytes"]
            check_steps(began, told[-1], number, way)


def check_steps(first, last, line: int, way: str) -> None:
    """Between two tellings, while both devices had something to say all the time. A tenth of a
    second is taken ahead, and counted in the step in which it will leave.
    """
    begin, end = (round(1e6 * at["seconds"]) for at in (first, last))
    schedule = Schedule(STEP, way)
    least = bytes_in_steps(schedule, begin + 150_000, end)
    most = bytes_in_steps(schedule, begin, end + 150_000)
    assert end - begin > STEP.length_us
    for step in range(2):
        left = last["lines"][line][way]["left"][step] - first["lines"][line][way]["left"][step]
        assert 0.8 * least[step] < left <= most[step] + AHEAD, (way, step, left, least, most)


def bytes_in_steps(schedule: Schedule, from_us: int, until_us: int) -> list[int]:
    """What each step has room for, in all laps between."""
    found, lap = [0, 0], STEP.length_us
    second = 1_000_000
    ends = [from_us, *range(from_us // second * second + second, until_us, second), until_us]
    for start, stop in pairwise(ends):
        units = schedule.capacity(stop) - schedule.capacity(start)
        found[start % lap // 1_000_000] += units // schedule.UNITS_PER_BYTE
    return found


def test_a_message_that_takes_long_is_no_silence_for_who_was_told_to_wait(tmp_path: Path) -> None:
    """6 KB at 10 kbit/s: heartbeats queue behind it for five seconds."""
    listener = open_listener("tcp://127.0.0.1:*", {}, name="host-A", keys=None, silence_s=20.0)
    doors, end, _ = run_over([make_trace("slow", [Step(0, 10_000, 10_000)])], listener)
    link = open_link(doors[0], name="watch-1", keys=None, silence_s=20.0)
    link.send(bytes(6000))
    until = time.monotonic() + WITHIN_S
    found: list[object] = []
    try:
        while not found:
            assert time.monotonic() < until
            assert link.receive(0.01) is None
            found = listener.poll(0.01)
        assert found == [Received("watch-1", bytes(6000))]
    finally:
        link.close()
        listener.close()
        end()


# ---- whole runs ----


def run_job(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seamline", "run", str(path), "--format", "json", *more],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines, of running processes, that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def test_a_run_over_networks_ends_with_the_same_bits_and_says_what_came_through(
    job, tmp_path: Path
) -> None:
    """A device over TCP, one on a serial line and one with a trace of its own; a far cloud."""
    slow = "seconds,up_bits_per_s,down_bits_per_s,delay_ms,loss\n0,400000,800000,5,0.02\n"
    (tmp_path / "own.csv").write_text(slow)
    path = job(devices=3, cloud_rounds=2, evaluate_every=0)
    text = path.read_text().replace('id = "d02"', 'id = "d02"\nnetwork = "own.csv"')
    path.write_text(text.replace('id = "d01"', 'id = "d01"\nhost_link = "serial:none:921600"'))
    results = []
    for more in ([], ["--network", "step", "--network-cloud", "good"]):
        one = run_job(path, *more)
        assert one.returncode == 0, one.stderr
        results.append(json.loads(one.stdout.splitlines()[-1]))
        (tmp_path / "out").rename(tmp_path / f"out-{len(results)}")
    plain, shaped = results
    assert plain["model_hash"] == shaped["model_hash"]
    assert set(plain["network"]["lines"]) == {"d02"}  # its own, without asking
    network = shaped["network"]
    assert (network["devices"], network["cloud"]) == ("step", "good")
    used = {name: line["network"] for name, line in network["lines"].items()}
    own = str(tmp_path / "own.csv")
    assert used == {"d00": "step", "d01": "step", "d02": own, "host-A": "good"}
    for line in network["lines"].values():
        for way, most in (("up", 30e6), ("down", 30e6)):
            assert line[way]["bytes"] >= line[way]["message_bytes"] > 1000
            assert 0 < line[way]["goodput_bits_per_s"] < most
    assert network["lines"]["d02"]["up"]["goodput_bits_per_s"] < 400_000
    assert network["lines"]["d02"]["down"]["goodput_bits_per_s"] < 800_000
    assert "own.csv" in (tmp_path / "out-2" / "report.html").read_text()
    assert processes_of(tmp_path) == []
    assert list((tmp_path / "out-2" / "lines").iterdir()) == []


def test_ctrl_c_ends_a_run_over_a_slow_network_and_leaves_nothing(job, start, tmp_path) -> None:
    path = job(devices=2)
    path.write_text(
        path.read_text().replace('id = "d01"', 'id = "d01"\nhost_link = "serial:none:921600"')
    )
    run = start("run", str(path), "--network", "lora-ish")
    run.wait_for(lambda event: event["event"] == "joined")
    assert any("link-proxy" in words for words in processes_of(tmp_path))
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(20) == 130
    assert processes_of(tmp_path) == []
    assert list((tmp_path / "out" / "lines").iterdir()) == []


def test_a_network_that_cannot_be_is_said_before_anything_starts(job, tmp_path: Path) -> None:
    path = job()
    (tmp_path / "bad.csv").write_text(
        "seconds,up_bits_per_s,down_bits_per_s\n0,1000,1000\n10,0,1000\n"
    )
    for network, said in (
        (str(tmp_path / "bad.csv"), "bad.csv, line 3: up_bits_per_s 0 carries nothing"),
        ("5g", "there is no network '5g': name one of good, 3g"),
    ):
        for flag in ("--network", "--network-cloud"):
            done = run_job(path, flag, network)
            assert done.returncode == 2
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
            assert said in done.stderr
    assert not (tmp_path / "out").exists()
