"""`seamline status`: what tiers tell of their links, which of them live, what else lies there."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from seamline.runtime.link import JOINED, LOST, Peer
from seamline.runtime.status import Reporter, Watch, read_status, running_folders

from seamline.cli import main

LINE = {
    "bytes_sent": 5_000_000,
    "bytes_received": 70,
    "messages_sent": 9,
    "messages_received": 8,
    "losses": 1,
    "retransmits": 12,
    "frames_damaged": 13,
    "frames_forged": 14,
    "replayed": 15,
    "credit_stalls": 16,
    "rtt_us": 1700,
    "payload_sent": 400,
    "payload_received": 70,
}
NETWORK = {key: LINE[key] for key in list(LINE)[:5]} | {"rtt_us": 0}
CABLE = Peer("watch-1", "serial", JOINED, "it was quiet", LINE, {"wrong_key": 3}, "eve")
PEERS = [CABLE, Peer("watch-2", "tcp", LOST, "it is gone", NETWORK)]

TIER = """
import sys, time
from seamline.runtime.status import Reporter
reporter = Reporter(sys.argv[1], "host-A", list, print)
while True:
    reporter.tick(time.monotonic())
    print("told", flush=True)
    time.sleep(0.05)
"""


def reporter(out: Path, tier: str = "host-A", **given: object) -> Reporter:
    events = given.pop("events", [])
    assert isinstance(events, list)
    return Reporter(out, tier, lambda: PEERS, events.append, **given)  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["status", *arguments])
    return code, *capsys.readouterr()


@pytest.fixture
def process(tmp_path: Path):
    found = subprocess.Popen([sys.executable, "-c", TIER, str(tmp_path)], stdout=subprocess.PIPE)
    assert found.stdout is not None and found.stdout.readline() == b"told\n"
    yield found
    found.kill()
    found.wait()
    found.stdout.close()


def test_a_row_of_each_peer_has_the_figures_of_its_link(tmp_path, capsys):
    tier = reporter(tmp_path, keys=lambda: 7)
    tier.tick(1.0)
    code, out, err = run(capsys, str(tmp_path))
    head, cable, network, *rest = out.splitlines()
    assert (code, err) == (0, "")
    words = "host-A watch-1 serial joined 5.0 MB 70 B 9/8 1 12 13 14 15 16 1.7 ms - -"
    assert " ".join(cable.split()) == words
    words = "host-A watch-2 tcp lost 5.0 MB 70 B 9/8 1 - - - - - - - -"
    assert " ".join(network.split()) == words
    assert len(head) <= 150 and head.split()[:4] == ["tier", "peer", "link", "state"]
    assert f"host-A: running, process {os.getpid()}, told 0.0 s ago; refused 7 keys" in rest[0]
    assert rest[1].strip() == "refused at watch-1: wrong key, 3 times"
    tier.close()


def test_bytes_are_shown_by_what_they_carried(tmp_path, capsys):
    ways = {"up": {"messages": 10, "conv.weight": 2000}, "down": {"conv.weight": 70}}
    told = reporter(tmp_path, ledger=lambda: {"cloud": ways})
    told.tick(0.0)
    try:
        code, out, _ = run(capsys, str(tmp_path))
        rows = [line.split() for line in out.splitlines() if line.startswith("host-A  cloud")]
        assert code == 0
        assert rows == [
            ["host-A", "cloud", "conv.weight", "2.0", "kB", "70", "B"],
            ["host-A", "cloud", "messages", "10", "B", "0", "B"],
        ]
        assert read_status(tmp_path)[0].ledger == {"cloud": ways}
    finally:
        told.close()


def test_json_has_the_whole_of_it(tmp_path, capsys):
    tier = reporter(tmp_path)
    tier.tick(1.0)
    tier.tick(3.0)
    code, out, _ = run(capsys, str(tmp_path), "--format", "json")
    (found,) = json.loads(out)["tiers"]
    assert code == 0 and found["state"] == "running" and found["pid"] == os.getpid()
    cable, network = found["peers"]
    assert cable["rtt_us"] == 1700 and cable["refused"] == {"wrong_key": 3}
    assert cable["goodput_sent"] == 0 and cable["reason"] == "it was quiet"
    assert network["retransmits"] is None and network["rtt_us"] is None
    tier.close()


def test_a_job_file_names_its_run(tmp_path, capsys):
    job = (
        '[[zones]]\nname = "A"\naddress = "tcp://127.0.0.1:1"\n[[devices]]\nid = "d"\nzone = "A"\n'
    )
    (tmp_path / "job.toml").write_text(f'out = "here"\n{job}')
    tier = reporter(tmp_path / "here")
    tier.tick(1.0)
    assert run(capsys, str(tmp_path / "job.toml"))[0] == 0
    tier.close()


def test_only_this_user_may_read_what_is_told(tmp_path):
    before = os.umask(0)
    try:
        tier = reporter(tmp_path)
        tier.tick(1.0)
    finally:
        os.umask(before)
    files = sorted((tmp_path / "status").iterdir())
    assert [file.name for file in files] == ["host-A.json", "host-A.lock"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    tier.close()


def test_a_tier_that_runs_is_found_without_its_folder(tmp_path, process, capsys):
    assert str(tmp_path) in running_folders()
    code, out, _ = run(capsys)
    assert code == 0 and f"host-A: running, process {process.pid}" in out


def test_a_killed_tier_has_died_and_a_new_one_takes_its_file(tmp_path, process, capsys):
    assert read_status(tmp_path)[0].state == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_status(tmp_path)[0].state == "died"
    assert str(tmp_path) not in running_folders()
    code, out, err = run(capsys, str(tmp_path))
    assert (code, out) == (6, "") and err.count("\n") == 1
    assert f"nothing runs in {tmp_path}: host-A died " in err
    tier = reporter(tmp_path)
    tier.tick(1.0)
    assert read_status(tmp_path)[0].pid == os.getpid()
    tier.close()
    assert read_status(tmp_path)[0].state == "ended"


def test_a_dead_tier_is_shown_beside_one_that_runs(tmp_path, process, capsys):
    process.kill()
    process.wait()
    tier = reporter(tmp_path, "cloud")
    tier.tick(1.0)
    code, out, _ = run(capsys, str(tmp_path))
    assert code == 0 and "host-A: died, its last word is " in out and "cloud: running" in out
    tier.close()


def test_a_tier_that_is_stopped_is_told_as_silent(tmp_path, process, capsys):
    process.send_signal(signal.SIGSTOP)
    path = tmp_path / "status" / "host-A.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "written": time.time() - 60}))
    code, out, _ = run(capsys, str(tmp_path))
    assert code == 0
    assert "told 60.0 s ago: it computes for long, is stopped, or cannot write" in out


def test_two_processes_of_one_name_do_not_write_over_one_another(tmp_path, process):
    tier = reporter(tmp_path)
    tier.tick(1.0)
    assert read_status(tmp_path)[0].pid == process.pid
    process.kill()
    process.wait()
    tier.tick(3.0)
    assert read_status(tmp_path)[0].pid == os.getpid()
    tier.close()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:40]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "truncated"),
    "not JSON": (lambda path: path.write_bytes(b"\xff\xfe"), "malformed"),
    "another document": (lambda path: path.write_bytes(b"[1]"), "Expected `object`"),
    "another type": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"peers":[', b'"peers":["x",')),
        "Expected `object`, got `str`",
    ),
    "another format": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":9')),
        "it has format 9, this seamline reads 1",
    ),
    "another tier's": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"host-A"', b'"host-B"')),
        "it is of 'host-B'",
    ),
    "a pipe": (pipe, "it is no file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory|it is no file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_one_clear_line_and_the_rest_is_shown(tmp_path, capsys, kind):
    tiers = [reporter(tmp_path, name) for name in ("cloud", "host-A")]
    for tier in tiers:
        tier.tick(1.0)
    harm, reason = DAMAGE[kind]
    harm(tmp_path / "status" / "host-A.json")
    code, out, err = run(capsys, str(tmp_path))
    assert code == 3 and err.count("\n") == 1 and "cloud: running" in out
    assert f"{tmp_path}/status/host-A.json is no status file" in err
    assert any(word.lower() in err.lower() for word in reason.split("|")), err
    if kind not in ("a folder",):
        tiers[1].tick(3.0)  # what is written next is whole
        assert run(capsys, str(tmp_path))[0] == 0
    for tier in tiers:
        tier.close()


def test_what_is_not_there_is_one_clear_line(tmp_path, capsys, monkeypatch):
    code, _, err = run(capsys, str(tmp_path / "none"))
    assert code == 2 and err == (
        f"error: there is no folder {tmp_path}/none: name the folder of a run, or its job file\n"
    )
    code, _, err = run(capsys, str(tmp_path))
    assert code == 3 and "no tier has told its status in" in err
    (tmp_path / "status").mkdir()
    code, _, err = run(capsys, str(tmp_path))
    assert code == 6 and f"nothing runs in {tmp_path}: no tier has told its status" in err
    monkeypatch.setattr("seamline.status_command.running_folders", list)
    code, _, err = run(capsys)
    assert code == 6 and "no tier of this user runs on this machine" in err


def test_names_that_a_terminal_would_obey_are_shown_as_text(tmp_path, capsys):
    peer = Peer("\x1b[2Jeve", "tcp", JOINED, "", NETWORK)
    tier = Reporter(tmp_path, "host-A", lambda: [peer], print)
    tier.tick(1.0)
    _, out, _ = run(capsys, str(tmp_path))
    assert "\x1b" not in out and "'\\x1b[2Jeve'" in out
    tier.close()


def test_a_disk_that_takes_nothing_is_told_once_and_stops_nobody(tmp_path):
    (tmp_path / "status").write_text("a file in the way")
    events: list[dict[str, object]] = []
    tier = reporter(tmp_path, events=events)
    for now in (1.0, 3.0, 5.0):
        tier.tick(now)
    tier.close()
    notes = [event for event in events if event["event"] == "note"]
    assert len(notes) == 1 and f"cannot write {tmp_path}/status" in str(notes[0]["text"])


# ---- figures that need time ----


def moved(count: int, **refused: int) -> Peer:
    counters = {**LINE, "payload_sent": count, "payload_received": 2 * count}
    return Peer("watch-1", "serial", LOST, "", counters, refused, "eve")


def test_goodput_is_a_mean_over_the_last_ten_seconds():
    watch = Watch()
    assert watch.rows([moved(0)], 0.0)[0].goodput_sent is None
    for second in range(1, 11):
        (row,) = watch.rows([moved(1000 * second)], float(second))
        assert (row.goodput_sent, row.goodput_received) == (1000, 2000)
    for second in range(11, 21):
        (row,) = watch.rows([moved(10_000)], float(second))
        assert row.goodput_sent == 1000 - 100 * (second - 10)
    for second in range(21, 200):
        watch.rows([moved(10_000)], float(second))
    assert len(watch._seen["watch-1"]) <= 12


def test_a_refusal_is_told_at_once_then_once_a_minute_while_it_goes_on():
    watch = Watch()
    told = [
        (second, event["reason"], event["count"])
        for second in range(180)
        for event in watch.refusals([moved(0, wrong_key=1 + second)], float(second))
    ]
    assert told == [(0, "wrong_key", 1), (60, "wrong_key", 61), (120, "wrong_key", 121)]
    assert watch.refusals([moved(0, wrong_key=180)], 999.0)  # what came since then
    assert not watch.refusals([moved(0, wrong_key=180)], 2000.0)
    (other,) = watch.refusals([moved(0, wrong_key=180, unknown_name=1)], 2000.5)
    assert other["reason"] == "unknown_name" and "copy eve.public there" in other["text"]


def test_a_failed_try_on_the_way_to_a_connection_is_counted_and_not_told():
    """An answer that comes late, of an earlier handshake, fails like a wrong key."""
    watch = Watch()
    joined = Peer("watch-1", "serial", JOINED, "", LINE, {"wrong_key": 1}, "watch-1")
    assert watch.refusals([joined], 1.0) == []
    assert watch.rows([joined], 1.0)[0].refused == {"wrong_key": 1}
    (event,) = watch.refusals([moved(0, wrong_key=2)], 2.0)
    assert event["count"] == 2
