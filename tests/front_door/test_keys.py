"""`seamline keys list|show|forget|rotate`: what they say is true, what they refuse is one line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from seamline.runtime.keys import fingerprint, load_keys, make_keys

from seamline.cli import main

JOB = """
[[zones]]
name = "A"
address = "tcp://127.0.0.1:5710"
[[devices]]
id = "one"
zone = "A"
[[devices]]
id = "two"
zone = "A"
"""


@pytest.fixture
def job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The job of an edge host's machine: its own secret, the others' public keys."""
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    assert main(["keys", "new", str(path)]) == 0
    for name in ("cloud", "one", "two"):
        (tmp_path / "keys" / f"{name}.secret").unlink()
    capsys.readouterr()
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["keys", *arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("place", ["job", "folder"])
def test_list_tells_names_fingerprints_and_what_each_may_do(job, capsys, place):
    where = str(job if place == "job" else job.parent / "keys")
    code, out, _ = run(capsys, "list", where)
    keys = load_keys(job.parent / "keys", "host-A")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and list(lines) == ["name", "host-A", "cloud", "one", "two"]
    assert fingerprint(keys.peers["one"]) in lines["one"] and " peer " in lines["one"]
    assert "join" in lines["one"] and "by network or cable" in lines["one"]
    assert " own " in lines["host-A"] and "this machine can be host-A" in lines["host-A"]
    assert keys.secret not in out


def test_list_and_show_have_json(job, capsys):
    rows = json.loads(run(capsys, "list", str(job), "--format", "json")[1])["rows"]
    keys = load_keys(job.parent / "keys", "host-A")
    assert [(row["name"], row["whose"]) for row in rows] == [
        ("host-A", "own"),
        ("cloud", "peer"),
        ("one", "peer"),
        ("two", "peer"),
    ]
    shown = json.loads(run(capsys, "show", str(job), "one", "--format", "json")[1])
    assert shown == rows[2]
    assert shown["public"] == keys.peers["one"]
    assert shown["fingerprint"] == fingerprint(keys.peers["one"])


def test_show_tells_the_whole_public_key(job, capsys):
    code, out, _ = run(capsys, "show", str(job.parent / "keys"), "two")
    key = load_keys(job.parent / "keys", "host-A").peers["two"]
    assert code == 0 and key in out and fingerprint(key) in out


def test_a_name_the_job_does_not_have_is_pointed_out(job, capsys):
    make_keys(job.parent / "keys", ["old-watch"])
    (job.parent / "keys" / "old-watch.secret").unlink()
    out = run(capsys, "list", str(job))[1]
    line = next(line for line in out.splitlines() if line.startswith("old-watch"))
    assert "this job does not name it: forget it?" in line


def test_a_damaged_file_is_a_row_and_the_error(job, capsys):
    (job.parent / "keys" / "one.public").write_text("spoilt")
    code, out, err = run(capsys, "list", str(job))
    assert code == 3 and "one.public is no key file" in err and err.count("\n") == 1
    assert "damaged" in out and "two" in out
    assert run(capsys, "show", str(job), "one")[0] == 3


def test_an_empty_folder_says_how_keys_are_made(tmp_path, capsys):
    assert "seamline keys new JOB" in run(capsys, "list", str(tmp_path))[1]
    assert json.loads(run(capsys, "list", str(tmp_path), "--format", "json")[1])["rows"] == []


def test_forget_removes_a_peer_and_says_so(job, capsys):
    code, out, _ = run(capsys, "forget", str(job), "one", "--yes")
    assert code == 0 and "it may not join from now on" in out
    assert set(load_keys(job.parent / "keys", "host-A").peers) == {"cloud", "two"}


MISTAKES = {
    # name: (arguments, exit code, words of the line)
    "nobody to ask": (["forget", "{job}", "one"], 2, "--yes forgets without asking"),
    "an own secret": (["forget", "{job}", "host-A", "--yes"], 3, "say --own"),
    "an unknown name": (["forget", "{job}", "onne", "--yes"], 3, "cloud, one, two"),
    "a name that is a path": (["show", "{job}", "../x"], 3, "cannot be the name of a key"),
    "a peer's key to replace": (["rotate", "{job}", "one"], 3, "has no one.secret"),
    "no such place": (["list", "/no/such"], 2, "no job file /no/such"),
    "new keys of a folder": (["new", "{keys}"], 2, "takes the job file"),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_changes_nothing(job, capsys, monkeypatch, case):
    arguments, code, words = case
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 the test ends first
    keys = job.parent / "keys"
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    found, _, err = run(capsys, *(one.format(job=job, keys=keys) for one in arguments))
    assert found == code and words in err and err.startswith("error: ") and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize(("answer", "gone"), [("yes", True), ("no", False), ("", False)])
def test_forget_asks_on_a_terminal(job, answer, gone):
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "seamline", "keys", "forget", str(job), "one"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    out, err = process.communicate(timeout=30)
    os.close(terminal)
    os.close(ours)
    assert "forget the peer one (" in err and "Type yes or no" in err
    assert process.returncode == (0 if gone else 2) and ("forgot one" in out) == gone
    assert (job.parent / "keys" / "one.public").exists() != gone


def test_an_own_secret_is_removed_when_that_is_meant(job, capsys):
    code, out, _ = run(capsys, "forget", str(job), "host-A", "--own", "--yes")
    assert code == 0 and "its secret is gone" in out
    assert not list((job.parent / "keys").glob("host-A.*"))


def test_rotate_says_which_machines_need_the_new_key(job, capsys):
    folder = job.parent / "keys"
    before = load_keys(folder, "host-A")
    code, out, _ = run(capsys, "rotate", str(job), "host-A")
    after = load_keys(folder, "host-A")
    assert code == 0 and before.public != after.public
    assert f"copy {folder}/host-A.public over the old one on the machine of: cloud, one, two" in out
    assert fingerprint(before.public) in out and fingerprint(after.public) in out
    assert after.secret not in out
    told = json.loads(run(capsys, "rotate", str(folder), "host-A", "--format", "json")[1])
    assert told["needs"] == ["cloud", "one", "two"] and told["was"] == fingerprint(after.public)
