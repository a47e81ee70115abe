"""The command line: one clear line and the right exit code for mistakes, tools that work."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from seamline.runtime.config import (
    CloudSection,
    CodecSection,
    Job,
    KeysSection,
    RoundSection,
    TrainSection,
    read_job,
)
from seamline.runtime.errors import EXIT_CODES

from seamline import __version__
from seamline.cli import main

JOB = """
[data]
source = "{{id}}.npz"
[cloud]
address = "tcp://127.0.0.1:{0}"
[[zones]]
name = "A"
address = "tcp://127.0.0.1:{1}"
[[devices]]
id = "one"
zone = "A"
[[devices]]
id = "two"
zone = "A"
"""
SECONDS = 30  # how long a process may take to do what it is waited for


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def job(tmp_path: Path, monkeypatch) -> Path:
    """A job of two devices with their data and keys; the working folder is elsewhere."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 100, 6)), np.arange(8) % 7
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(*free_ports(2)))
    assert main(["keys", "new", str(path)]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return path


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "seamline", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


# ---- mistakes ----

MISTAKES = {
    # name: (arguments, exit code, words of the line)
    "no command": ([], 2, "required"),
    "no such command": (["trian"], 2, "invalid choice: 'trian'"),
    "no job": (["run"], 2, "JOB"),
    "no job file": (["run", "none.toml"], 2, "seamline job init none.toml"),
    "the job is a folder": (["check", "."], 2, "cannot be read"),
    "no zone given": (["host", "{job}"], 2, "--zone"),
    "no such zone": (["host", "{job}", "--zone", "Z"], 2, "no zone 'Z'"),
    "no such device": (["device", "{job}", "--id", "oen"], 2, "one"),
    "no link address": (["device", "{job}", "--id", "one", "--link", "udp:7"], 2, "tcp://"),
    "no such serial port": (
        ["device", "{job}", "--id", "one", "--link", "serial:/no/port:9600"],
        4,
        "/no/port",
    ),
    "eleven devices": (["demo", "--devices", "11"], 2, "10 people"),
    "too few devices for the zones": (["demo", "--devices", "1", "--zones", "3"], 2, "--zones 3"),
    "seam nought": (["demo", "--seam", "0"], 2, "model.seam must be 1 or more"),
    "a seed below 0": (["demo", "--seed", "-1"], 2, "--seed"),
    "no such wheel": (["data", "get", "watch", "--from", "none.whl"], 3, "none.whl"),
    "check of no such tier": (["check", "{job}", "--only", "oen"], 2, "did you mean one"),
    "check of no such zone": (["check", "{job}", "--only", "host-Z"], 2, "no zone 'Z'"),
    "rounds in words": (["demo", "--rounds", "many"], 2, "a whole number from 1"),
    "a codec of its own": (["demo", "--codec", "int3"], 2, "int3"),
    "int8 with int4 parcels": (
        ["demo", "--arithmetic", "q8", "--codec", "int4"],
        2,
        'codec.up must be "int8" with train.arithmetic "q8"',
    ),
    "an arithmetic of its own": (["demo", "--arithmetic", "int8"], 2, "int8"),
    "a rounding of its own": (["demo", "--rounding", "up"], 2, "up"),
    "accuracy of no data set": (["bench", "accuracy", "--data", "mnist"], 2, "mnist"),
    "accuracy at no rate": (["bench", "accuracy", "--front-rate", "0"], 2, "a number above 0"),
    "accuracy over no seeds": (["bench", "accuracy", "--seeds", "0"], 2, "a whole number from 1"),
    "no such data": (["data", "get", "cifar"], 2, "cifar"),
    "half a cable": (["link-proxy", "--line", "a"], 2, "--line"),
    "a rate above one": (["link-proxy", "--line", "a", "b", "--ber", "2"], 2, "ber 2.0"),
    "a silence of no time": (["link-proxy", "--line", "a", "b", "--silence", "x"], 2, "FROM-UNTIL"),
    "a cut at no time": (["link-proxy", "--line", "a", "b", "--cut", "0"], 2, "seconds above 0"),
    "a cable into nowhere": (["link-proxy", "--line", "/no/a", "/no/b"], 4, "/no/a"),
    "a folder that is not the demo's": (["demo", "--out", ".."], 2, "is not empty"),
    "a folder inside a file": (["demo", "--out", "{job}/x"], 2, "cannot write to --out"),
    "a wheel of something else": (["data", "get", "watch", "--from", "{job}"], 3, "its sha256 is"),
    "a job file in nowhere": (["job", "init", "/no/job.toml"], 2, "/no/job.toml"),
}


def run_here(arguments: list[str], capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as end:  # how argparse leaves
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_on_stderr_with_its_exit_code(job, capsys, case):
    arguments, code, words = case
    found, out, err = run_here([a.replace("{job}", str(job)) for a in arguments], capsys)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_a_process_gives_the_code_and_no_traceback(job):
    Path("bad.toml").write_text("seed = -1\n[[zones]]\nname = 'A'\naddress = 5\n")
    runs = [(start("check", "bad.toml"), 2, "zones[0].address must be a text, found 5")]
    job.with_name("one.npz").unlink()
    runs.append((start("device", str(job), "--id", "one"), 3, "there is no data file"))
    job.parent.joinpath("keys", "two.secret").unlink()
    runs.append((start("device", str(job), "--id", "two"), 3, "no key for 'two'"))
    for process, code, words in runs:
        found, out, err = ended(process)
        assert (found, out, err[:7], err.count("\n")) == (code, "", "error: ", 1)
        assert words in err and "Traceback" not in err


def test_nan_in_the_data_names_file_and_place(job):
    x, y = np.zeros((4, 100, 6)), np.zeros(4, np.int64)
    x[2, 0, 0] = np.nan
    np.savez(job.with_name("one.npz"), x_train=x, y_train=y, x_test=x, y_test=y)
    code, out, err = ended(start("device", str(job), "--id", "one", "--insecure"))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "one.npz: x_train[2, 0, 0] is nan" in err


def test_a_port_in_use_is_an_error_of_the_cloud(job):
    address = read_job(job).cloud.address
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        code, out, err = ended(start("cloud", str(job), "--format", "json"))
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert address in err


def test_every_exit_code_is_in_the_help_and_the_readme(capsys):
    text = run_here(["run", "--help"], capsys)[1]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code, words in EXIT_CODES.items():
        assert f"{code:<4} {words}" in text
        assert f"| {code} |" in readme or code == 1  # 1 is a defect, not an outcome


def test_a_reader_that_leaves_early_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m seamline data list | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["host", "run", "demo"])
def test_a_missing_extra_is_named_before_anything_starts(job, capsys, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    more = {"host": [str(job), "--zone", "A"], "run": [str(job)], "demo": []}[command]
    assert run_here([command, *more], capsys) == (
        7,
        "",
        f"error: 'seamline {command}' needs PyTorch: pip install 'seamline[edge]'\n",
    )


def test_a_file_that_the_system_refuses_is_no_traceback_but_a_defect_is(job, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("seamline.check.run_check", refuse)
    assert run_here(["check", str(job)], capsys) == (
        2,
        "",
        "error: /some/file: Permission denied\n",
    )

    def fail(*_, **__):
        raise OSError("a defect")

    monkeypatch.setattr("seamline.check.run_check", fail)
    with pytest.raises(OSError, match="a defect"):
        main(["check", str(job)])


# ---- tools ----


def test_the_version_is_told(capsys):
    assert run_here(["--version"], capsys)[:2] == (0, f"seamline {__version__}\n")


def test_job_init_writes_a_job_that_can_be_read_and_replaces_nothing(tmp_path, capsys):
    path = tmp_path / "new.toml"
    assert run_here(["job", "init", str(path)], capsys)[0] == 0
    written = read_job(path)
    assert [zone.name for zone in written.zones] == ["A", "B"]
    path.write_text("mine")
    code, _, err = run_here(["job", "init", str(path)], capsys)
    assert code == 2 and "is there already" in err and path.read_text() == "mine"


def test_the_template_shows_every_key_with_its_default(tmp_path, capsys):
    """Keys that every job chooses for itself are named here; all others must stand as they are."""
    path = tmp_path / "new.toml"
    run_here(["job", "init", str(path)], capsys)
    own = {"name", "out", "cloud_rounds"}
    text = path.read_text()
    for section in (Job, TrainSection, CodecSection, RoundSection, KeysSection, CloudSection):
        for field in msgspec.structs.fields(section):
            assert re.search(rf"\b{field.name}\b", text), f"{field.name} is not in the template"
    job, bare = read_job(path), tmp_path / "bare.toml"
    bare.write_text(text[text.index("[[zones]]") :])
    plain = read_job(bare)
    for name in ("train", "codec", "round", "keys", "cloud", "model", "data"):
        written, default = (msgspec.to_builtins(getattr(one, name)) for one in (job, plain))
        assert {k: v for k, v in written.items() if k not in own} == {
            k: v for k, v in default.items() if k not in own
        }
    assert (job.seed, job.mode) == (plain.seed, plain.mode)


def test_keys_new_keeps_keys_and_says_what_each_machine_needs(job, capsys):
    secret = (job.parent / "keys" / "one.secret").read_bytes()
    code, out, _ = run_here(["keys", "new", str(job), "--format", "json"], capsys)
    told = json.loads(out)
    assert (code, told["made"]) == (0, [])
    assert (job.parent / "keys" / "one.secret").read_bytes() == secret
    assert told["needs"] == {
        "cloud": ["host-A"],
        "host-A": ["cloud", "one", "two"],
        "one": ["host-A"],
        "two": ["host-A"],
    }


def test_data_list_and_info_are_one_json_value(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listed = json.loads(run_here(["data", "list", "--format", "json"], capsys)[1])["rows"]
    assert {"watch": False}.items() <= {one["name"]: one["here"] for one in listed}.items()
    found = json.loads(run_here(["info", "--format", "json"], capsys)[1])
    assert found["variants"].startswith("generic")
    assert found["kernels"] in found["variants"].split(", ")
    assert found["seamline"] == __version__


# ---- check ----


def checks(arguments: list[str], capsys) -> tuple[int, list[dict]]:
    code, out, err = run_here(["check", *arguments, "--format", "json"], capsys)
    assert err == ""
    return code, [json.loads(line) for line in out.splitlines()]


def test_a_good_job_passes_with_its_seams_and_estimates(job, capsys):
    code, lines = checks([str(job)], capsys)
    assert code == 0 and all(line["ok"] for line in lines)
    by_name = {line["name"]: line for line in lines}
    assert {"keys", "address", "data", "model", "memory", "link"} <= set(by_name)
    assert [line["seam"] for line in lines if line["name"] == "legal seam"] == [1, 2, 3, 4, 5]
    assert by_name["link"]["up_bytes"] > 16 * 25 * 24  # a byte a value, scales, labels


FAILURES = {
    # name: (what is changed, exit code, check that fails, words)
    "a secret others can read": ("secret", 3, "keys", "chmod 600"),
    "a damaged public key": ("public", 3, "keys", "no key file"),
    "a port in use": ("port", 4, "address", "zones[0].address"),
    "an address of another machine": ("place", 4, "address", "203.0.113.7"),
    "data missing": ("data", 3, "data", "one.npz"),
    "data of another shape": ("shape", 3, "data and model", "1x50x6"),
    "more classes than the model tells": ("classes", 3, "data and model", "9"),
    "a seam too deep": ("seam", 5, "model", "9"),
    "no such model": ("model", 5, "model", "nonesuch"),
}


def spoil(what: str, job: Path) -> None:
    text = job.read_text()
    x, y = np.zeros((4, 100, 6)), np.zeros(4, np.int64)
    if what == "secret":
        (job.parent / "keys" / "one.secret").chmod(0o644)
    elif what == "public":
        (job.parent / "keys" / "one.public").write_text("no key")
    elif what == "place":
        job.write_text(text.replace("127.0.0.1", "203.0.113.7"))
    elif what == "data":
        job.with_name("one.npz").unlink()
    elif what == "shape":
        np.savez(job.with_name("one.npz"), x_train=x[:, :50], y_train=y, x_test=x[:, :50], y_test=y)
    elif what == "classes":
        np.savez(job.with_name("one.npz"), x_train=x, y_train=y + 8, x_test=x, y_test=y)
    elif what == "seam":
        job.write_text(text + "[model]\nseam = 9\n")
    elif what == "model":
        job.write_text(text + '[model]\nname = "nonesuch:net"\n')


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
def test_check_finds_what_would_fail_later(job, capsys, case):
    what, code, name, words = case
    taken = socket.socket()
    with taken:
        if what == "port":
            taken.bind(("127.0.0.1", int(read_job(job).zones[0].address.rpartition(":")[2])))
            taken.listen()
        spoil(what, job)
        found, lines = checks([str(job)], capsys)
    failed = [line for line in lines if not line["ok"]]
    assert found == code and failed[0]["name"] == name and words in failed[0]["text"]


def test_what_a_local_run_makes_itself_is_no_failure(job, capsys):
    for file in (job.parent / "keys").iterdir():
        file.unlink()
    line = 'link = "serial:/no/port:9600"\nhost_link = "serial:/no/other:9600"\n'
    job.write_text(job.read_text() + line)
    code, lines = checks([str(job)], capsys)
    assert code == 0 and "not there yet: cloud, host-A, one;" in lines[1]["text"]
    code, lines = checks([str(job), "--only", "host-A"], capsys)
    failed = [line["text"] for line in lines if not line["ok"]]
    assert code == 3 and "no key for 'host-A'" in failed[0] and "/no/other" in failed[1]
    code, lines = checks([str(job), "--only", "two"], capsys)
    assert code == 4 and "/no/port" in lines[1]["text"]


def test_check_for_one_device_needs_only_what_that_device_needs(job, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    job.with_name("two.npz").unlink()
    for name in ("cloud", "host-A", "two"):
        (job.parent / "keys" / f"{name}.secret").unlink()
    code, lines = checks([str(job), "--only", "one"], capsys)
    assert code == 0 and [line["name"] for line in lines] == ["job", "keys", "data"]
    assert checks([str(job), "--only", "host-A", "--insecure"], capsys)[0] == 7


# ---- processes ----


def test_a_device_loads_nothing_heavy():
    code = (
        "import sys, seamline.cli, seamline.events, seamline.runtime.device\n"
        "import seamline.runtime.zmq_link\n"
        "heavy = {'torch', 'rich', 'jinja2', 'matplotlib', 'sqlite3', 'ctypes.util'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_waiting_tier_ends_quietly_at_a_signal(job, number):
    process = start("cloud", str(job), "--format", "json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "listening"
    process.send_signal(number)
    code, _, err = ended(process)
    assert (code, err) == (130, "")


def test_no_tier_outlives_the_process_that_started_it(job):
    """The parent is killed with -9; its child must see it and go: the pipe they share closes."""
    parent = (
        "import os, subprocess, sys, time\n"
        "env = {**os.environ, 'SEAMLINE_PARENT': str(os.getpid())}\n"
        "child = [sys.executable, '-m', 'seamline', 'cloud', sys.argv[1], '--format', 'json']\n"
        "subprocess.Popen(child, env=env).wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(job)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert json.loads(process.stdout.readline())["event"] == "listening"
        process.kill()
        process.wait(SECONDS)
        closed, _, _ = select.select([process.stdout], [], [], SECONDS)
        assert closed and process.stdout.read() == ""


def test_a_tier_whose_parent_has_gone_before_does_not_start(job):
    code, out, err = ended(start("cloud", str(job), SEAMLINE_PARENT="1"))
    assert code != 0 and (out, err) == ("", "")
