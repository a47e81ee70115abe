"""The command line as a person uses it: bad input is one line and an exit code, no traceback."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seamline.runtime.config import read_job
from seamline.runtime.errors import EXIT_CODES

from seamline.cli import main

JOB = """
out = "out"
[data]
source = "{id}.npz"
[cloud]
address = "tcp://127.0.0.1:0"
[[zones]]
name = "A"
address = "tcp://127.0.0.1:0"
[[devices]]
id = "d1"
zone = "A"
"""


def seamline(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seamline", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def job(tmp_path):
    """A job of one device whose data is good."""
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    write_data(tmp_path / "d1.npz")
    return path


def write_data(path: Path, bad: float = 0.0) -> None:
    x = np.zeros((4, 100, 6), np.float32)
    y = np.arange(4)
    wrong = x.copy()
    wrong[2, 0, 0] = bad
    np.savez(path, x_train=wrong, y_train=y, x_test=x, y_test=y)


def taken_port() -> tuple[socket.socket, int]:
    held = socket.create_server(("127.0.0.1", 0))
    return held, held.getsockname()[1]


BAD = {
    "no command": ([], 2, "required"),
    "unknown command": (["frob"], 2, "invalid choice: 'frob'"),
    "job missing": (["cloud", "none.toml"], 2, "no job file none.toml"),
    "job is a folder": (["check", "."], 2, "cannot be read"),
    "job missing for a run": (["run", "none.toml"], 2, "seamline job init none.toml"),
    "unknown zone": (["host", "job.toml", "--zone", "C"], 2, "no zone 'C' in the job; it has A"),
    "zone missing": (["host", "job.toml"], 2, "--zone"),
    "unknown device": (
        ["device", "job.toml", "--id", "d2"],
        2,
        "no device 'd2' in the job; it has d1",
    ),
    "wrong link": (["device", "job.toml", "--id", "d1", "--link", "usb"], 2, "tcp://HOST:PORT"),
    "no keys": (["device", "job.toml", "--id", "d1"], 3, "no key for 'd1'"),
    "no keys for the cloud": (["cloud", "job.toml"], 3, "no key for 'cloud'"),
    "no keys for a host": (["host", "job.toml", "--zone", "A"], 3, "no key for 'host-A'"),
    "unknown tier to check": (["check", "job.toml", "--only", "x"], 2, "cloud, host-A, d1"),
    "unknown data": (["data", "get", "mnist"], 2, "there are watch, digits"),
    "wheel missing": (["data", "get", "watch", "--from", "no.whl"], 3, "no.whl cannot be read"),
    "wheel of something else": (["data", "get", "watch", "--from", "job.toml"], 3, "its sha256 is"),
    "too many devices": (["demo", "--devices", "11", "--out", "o"], 2, "has 10 people"),
    "too many zones": (["demo", "--devices", "2", "--zones", "3", "--out", "o"], 2, "at least one"),
    "no devices": (["demo", "--devices", "0"], 2, "a whole number from 1"),
    "seed below 0": (["demo", "--seed", "-1"], 2, "--seed"),
    "unknown codec": (["demo", "--codec", "int3"], 2, "invalid choice: 'int3'"),
    "seam 0": (["demo", "--seam", "0", "--out", "o"], 2, "model.seam"),
    "foreign out": (["demo", "--out", "."], 2, "is not empty"),
    "out in a file": (["demo", "--out", "job.toml/x"], 2, "cannot write to --out"),
    "init twice": (["job", "init", "job.toml"], 2, "is there already"),
    "init nowhere": (["job", "init", "no/where.toml"], 2, "cannot write no/where.toml"),
    "line in no folder": (["link-proxy", "--line", "no/a", "no/b"], 4, "no/a"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_an_exit_code(job, monkeypatch, capsys, case):
    arguments, code, said = BAD[case]
    monkeypatch.chdir(job.parent)
    try:
        found = main(arguments)
    except SystemExit as left:  # argparse
        found = left.code
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_mistake_shows_no_traceback_in_a_real_process(job):
    done = seamline("device", job, "--id", "d1")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: no key for 'd1'")
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_an_error_of_the_cloud(job):
    held, port = taken_port()
    with held:
        text = JOB.replace("tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}", 1)
        job.write_text(text)
        done = seamline("cloud", job, "--insecure")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert str(port) in done.stderr


def test_nan_in_the_data_names_file_and_place(job):
    write_data(job.with_name("d1.npz"), float("nan"))
    done = seamline("device", job, "--id", "d1", "--insecure")
    assert done.returncode == 3
    assert "d1.npz: x_train[2, 0, 0] is nan" in done.stderr


def test_a_missing_extra_says_what_to_install(job, monkeypatch, capsys):
    monkeypatch.setattr("seamline.cli.find_spec", lambda name: None)
    for arguments in (["host", str(job), "--zone", "A"], ["run", str(job)], ["demo"]):
        assert main(arguments) == 7
        said = capsys.readouterr().err
        assert said == (
            f"error: 'seamline {arguments[0]}' needs PyTorch: pip install 'seamline[edge]'\n"
        )


def test_every_exit_code_is_in_the_help_and_the_readme(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code, words in EXIT_CODES.items():
        assert f"{code:<4} {words}" in text
        assert f"| {code} |" in readme or code == 1


def test_the_written_job_is_a_good_job_with_comments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["job", "init"]) == 0
    assert "seamline check job.toml" in capsys.readouterr().out
    job = read_job("job.toml")
    assert [zone.name for zone in job.zones] == ["A", "B"]
    lines = Path("job.toml").read_text().splitlines()
    assert sum("#" in line for line in lines) > 25
    assert all(len(line) <= 100 for line in lines)


def test_keys_are_made_once_readable_by_their_owner_alone(job, capsys):
    assert main(["keys", "new", str(job)]) == 0
    assert "d1: d1.secret, d1.public, host-A.public" in capsys.readouterr().out
    folder = job.parent / "keys"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {
        f"{n}.{k}" for n in ("cloud", "host-A", "d1") for k in ("secret", "public")
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.glob("*.secret"))
    assert main(["keys", "new", str(job), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---- check ----


def check(job, capsys, *more):
    code = main(["check", str(job), "--format", "json", *more])
    document = json.loads(capsys.readouterr().out)
    return code, {f["what"]: f for f in document["findings"]}, document["ok"]


def test_check_passes_a_good_job_and_lists_the_seams(job, capsys):
    main(["keys", "new", str(job)])
    capsys.readouterr()
    code, findings, ok = check(job, capsys)
    assert (code, ok) == (0, True)
    assert "1x25x24 cross, 2440 parameters" in findings["seam 2"]["text"]
    assert "kB" in findings["memory"]["text"]
    assert "bytes up and" in findings["traffic"]["text"]
    assert not any(path.name == "out" for path in job.parent.iterdir())


def test_check_finds_every_fault_at_once(job, capsys):
    write_data(job.with_name("d1.npz"), float("inf"))
    held, port = taken_port()
    with held:
        text = JOB.replace("tcp://127.0.0.1:0", f"tcp://127.0.0.1:{port}", 1)
        job.write_text(text + "[model]\nseam = 9\n")
        code, findings, ok = check(job, capsys)
    failed = {what: f["exit_code"] for what, f in findings.items() if f["status"] == "fail"}
    assert failed == {"keys": 3, "cloud.address": 4, "data d1": 3, "model": 5}
    assert (code, ok) == (3, False)


def test_check_notices_data_that_does_not_fit_the_model(job, capsys):
    x, y = np.zeros((4, 50, 6), np.float32), np.arange(4)
    np.savez(job.with_name("d1.npz"), x_train=x, y_train=y, x_test=x, y_test=y)
    code, findings, _ = check(job, capsys, "--insecure")
    assert code == 5
    assert "the model takes (1, 100, 6)" in findings["data d1"]["text"]


def test_check_refuses_a_secret_that_others_can_read(job, capsys):
    main(["keys", "new", str(job)])
    (job.parent / "keys" / "d1.secret").chmod(0o644)
    capsys.readouterr()
    code, findings, _ = check(job, capsys, "--only", "d1")
    assert code == 3
    assert "chmod 600" in findings["key d1"]["text"]
    assert "key cloud" not in findings


# ---- small commands ----


def test_json_is_one_document_of_the_small_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for arguments in (["info"], ["data", "list"], ["job", "init", str(tmp_path / "j.toml")]):
        assert main([*arguments, "--format", "json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m seamline data list | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)


def test_a_device_starts_without_torch_rich_or_matplotlib(job):
    code = (
        "import sys; sys.argv = ['seamline', 'device', sys.argv[1], '--id', 'd1']\n"
        "from seamline.cli import main\n"
        "assert main() == 3\n"
        "import seamline.runtime.device\n"
        "heavy = {'torch', 'rich', 'matplotlib', 'jinja2', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(job)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
