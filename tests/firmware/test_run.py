"""A job with an emulated board, as `seamline run` and `seamline demo` take it."""

import json

import pytest
from kills import write_waves

from seamline.cli import main
from seamline.demo import board_job, demo_job

JOB = """
out = "{name}"
[train]
batch = 8
edge_rounds = 2
cloud_rounds = 2
arithmetic = "{arithmetic}"
[round]
wait = "all"
[cloud]
address = "tcp://127.0.0.1:0"
[data]
source = "{{id}}.npz"
[keys]
folder = "keys"
[[zones]]
name = "A"
address = "tcp://127.0.0.1:0"
[[devices]]
id = "d0"
zone = "A"
[[devices]]
id = "d1"
zone = "A"
{board}
"""


@pytest.mark.parametrize("arithmetic", ["f32", "q8"])
def test_a_run_with_a_board_gives_the_model_of_one_without(tools, tmp_path, capsys, arithmetic):
    models = {}
    for number in range(2):
        write_waves(tmp_path / f"d{number}.npz", seed=number, samples=20)
    for name, board in (("linux", ""), ("board", 'board = "an386"')):
        job = tmp_path / f"{name}.toml"
        job.write_text(JOB.format(name=name, arithmetic=arithmetic, board=board))
        assert main(["run", str(job), "--format", "json"]) == 0
        done = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert set(done["per_device"]) == {"d0", "d1"}
        models[name] = done["model_hash"]
    assert models["linux"] == models["board"]


def test_the_demo_ends_with_a_board_that_joins_the_trained_fleet(tools, tmp_path, capsys):
    out = tmp_path / "demo"
    words = ["--devices", "1", "--zones", "1", "--rounds", "1", "--out", str(out)]
    assert main(["demo", *words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    board = found["board"]
    assert (board["core"], board["device"], board["steps"]) == ("Cortex-M4", "watch-2", 10)
    assert 0 < board["accuracy"] <= 1 and len(board["model_hash"]) == 64
    assert board["model_hash"] != found["model_hash"]


def test_without_tools_the_demo_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    words = ["--devices", "1", "--zones", "1", "--rounds", "1", "--out", str(tmp_path / "demo")]
    assert main(["demo", *words]) == 0
    assert "no emulated Cortex-M4 joined: arm-none-eabi-gcc and" in capsys.readouterr().out


def test_a_board_there_is_not_is_said_before_anything_is_trained(tmp_path, capsys):
    assert main(["demo", "--board", "an1", "--out", str(tmp_path / "demo")]) == 2
    assert "there is no board 'an1'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_the_board_wears_the_next_person(tmp_path):
    class Asked:
        devices, zones, seed, seam, codec, rounds = 10, 2, 0, "2", "int8", None
        arithmetic, rounding = "f32", "stochastic"

    more = board_job(demo_job(Asked, tmp_path), "an386")
    last = more.devices[-1]
    assert (last.id, last.zone, last.data, last.board) == ("watch-11", "A", {"person": 1}, "an386")
    assert len(more.devices) == 11 and more.model.start.endswith("model.npz")


@pytest.mark.parametrize(
    ("board", "path", "code", "said"),
    [
        ("an386", None, 0, "d1 is emulated: "),
        ("an1", None, 2, "there is no board 'an1'"),
        ("an386", "", 7, "arm-none-eabi-gcc and"),
    ],
)
def test_check_says_whether_a_board_can_be_emulated(
    tools, tmp_path, capsys, monkeypatch, board, path, code, said
):
    for number in range(2):
        write_waves(tmp_path / f"d{number}.npz", seed=number, samples=20)
    job = tmp_path / "job.toml"
    job.write_text(JOB.format(name="out", arithmetic="f32", board=f'board = "{board}"'))
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert main(["check", str(job)]) == code
    assert said in capsys.readouterr().out
