"""`seamline plan`: tables that add up, JSON alone on stdout, one clear line for each mistake."""

from __future__ import annotations

import json

import pytest

from seamline.cli import main


def lines(capsys) -> list[str]:
    out = capsys.readouterr()
    assert out.err == ""
    return out.out.splitlines()


def numbers(line: str) -> list[int]:
    return [int(word.replace(",", "")) for word in line.split() if word[0].isdigit()]


def test_without_a_seam_there_is_a_line_for_each_legal_one_and_each_arithmetic(capsys):
    assert main(["plan", "dscnn"]) == 0
    table = lines(capsys)
    assert [line.split()[:3] for line in table[2:6]] == [
        ["1", "1", "f32"],
        ["1", "1", "q8"],
        ["2", "3", "f32"],
        ["2", "3", "q8"],
    ]
    assert len(table) == 2 + 2 * 10


def test_the_sections_of_a_seam_add_up(capsys):
    assert main(["plan", "dscnn", "--seam", "5"]) == 0
    table = lines(capsys)
    total = next(i for i, line in enumerate(table) if line.startswith("total"))
    for column in (0, -2):  # f32 training, q8 training: every section has both
        training = [numbers(line)[column] for line in table[2:5]]
        assert len(training) == 3
    parts = [numbers(line)[0] for line in table[2:total]]
    assert sum(parts) == numbers(table[total])[0]


def test_json_is_one_document_and_agrees_with_itself(capsys):
    command = ["plan", "watch", "--seam", "2", "--batch", "16", "--format", "json"]
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "seamline " + " ".join(command)
    assert [row["dtype"] for row in document["rows"]] == ["f32", "q8"]
    for row in document["rows"]:
        assert row["batch"] == 16
        assert sum(row["training_sections"].values()) == row["training_ram"]
        assert sum(row["inference_sections"].values()) == row["inference_ram"]
        assert row["bytes_up"].keys() == row["bytes_down"].keys()


def test_a_board_says_what_would_have_to_go(capsys):
    assert main(["plan", "dscnn", "--seam", "5", "--board", "nano33ble", "--dtype", "f32"]) == 0
    text = lines(capsys)
    at = next(i for i, line in enumerate(text) if line.startswith("f32 does not fit: "))
    assert [line.split(":")[0].strip() for line in text[at + 1 :]] == ["q8", "seam 3 (5)"]
    assert main(["plan", "dscnn", "--seam", "5", "--board", "nano33ble", "--dtype", "q8"]) == 0
    assert "q8 fits: " in lines(capsys)[-1]


def test_recompute_takes_less_ram_and_more_work(capsys):
    found = []
    for more in ([], ["--recompute"]):
        assert main(["plan", "dscnn", "--seam", "5", "--format", "json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["rows"])
    for usual, again in zip(*found, strict=True):
        assert again["training_ram"] < usual["training_ram"]
        assert again["step_macs"] > usual["step_macs"]
        assert again["made_again"] and not usual["made_again"]


def test_a_job_gives_model_arguments_and_batch(capsys, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(
        '[model]\nname = "watch"\nargs = { classes = 3 }\n[train]\nbatch = 5\n'
        '[[zones]]\nname = "A"\naddress = "tcp://127.0.0.1:5710"\n'
        '[[devices]]\nid = "one"\nzone = "A"\n'
    )
    assert main(["plan", str(job), "--seam", "end", "--dtype", "f32", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["batch"] == 5 and row["values"] == 3


def test_a_model_with_group_norm_says_why_it_has_no_int8_front(capsys):
    assert main(["plan", "resnet8", "--seam", "1"]) == 0
    assert any(line.startswith("no q8: layer 1 (group_norm)") for line in lines(capsys))


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["watch", "--seam", "99"], "no seam '99'; legal are 1 (1), 2 (3), 3 (6)", 5),
        (["watch", "--board", "uno"], "no board 'uno'; there are nano33ble", 2),
        (["watch", "--batch", "0"], "a whole number from 1", 2),
        (["watch", "--batch", "5000"], "1 to 4096", 2),
        (["nothing"], "no bundled model 'nothing'", 5),
        (["nothing.toml"], "no job file nothing.toml", 2),
    ],
)
def test_a_mistake_is_one_line(arguments, words, code, capsys):
    try:
        found = main(["plan", *arguments])
    except SystemExit as ended:
        found = ended.code
    out = capsys.readouterr()
    assert found == code
    assert out.out == "" and len(out.err.splitlines()) == 1 and words in out.err


def test_without_torch_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("seamline.cli.find_spec", lambda name: None)
    assert main(["plan", "watch"]) == 7
    assert capsys.readouterr().err == (
        "error: 'seamline plan' needs PyTorch: pip install 'seamline[edge]'\n"
    )
