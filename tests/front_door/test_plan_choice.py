"""`seamline profile` and `seamline plan --bandwidth`: tables, JSON, the page, one line an error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seamline.cli import main
from seamline.plan_page import in_bits, in_time, ranges, shorter


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile of the watch network; the choice is made from its bytes, which are the same on
    every machine, on links so slow that times of layers do not matter."""
    path = tmp_path_factory.mktemp("profile") / "watch.json"
    assert main(["profile", "watch", "--repeat", "1", "--out", str(path)]) == 0
    return str(path)


def plan(kept: str, *words: str) -> list[str]:
    return ["plan", "watch", "--profile", kept, *words]


def test_the_table_of_a_profile_has_a_line_for_each_unit(capsys) -> None:
    assert main(["profile", "digits", "--repeat", "1", "--batch", "2"]) == 0
    out = capsys.readouterr()
    lines = out.out.splitlines()
    assert "a batch of 2" in lines[0] and out.err == ""
    assert [line.split()[1] for line in lines[2:-1]] == ["conv2d"] * 3 + ["dense"]


def test_the_least_bytes_win_on_a_slow_link_and_the_text_says_why(capsys, kept: str) -> None:
    assert main(plan(kept, "--bandwidth", "50k", "--round-trip", "10", "--devices", "4")) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[2].split()[:4] == ["1", "end", "split", "int4"]
    for said in (
        "chosen: seam 1 (behind 1), int4",
        "most of it the uplink",
        "next best: seam 2",
        "Neurosurgeon, int4",
        "break-even: 2pq = 102,400 values against 2K(1-b)|W| = 81,",
    ):
        assert said in text, said
    assert not any("inf" in line or "nan" in line for line in lines)


def test_the_document_has_the_rows_of_the_table(capsys, kept: str) -> None:
    assert main(plan(kept, "--bandwidth", "100k/1M", "--format", "json")) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["chosen"] == document["rows"][0]
    row = document["chosen"]
    assert (row["seam"], row["codec"], row["bandwidth_bps"]) == (1, "int4", 100e3)
    assert sum(row["stages_ms"]) + row["averaging_ms"] == pytest.approx(row["predicted_ms"])
    assert row["averaging_ms"] > 0  # fronts are averaged beside the steps
    assert document["break_even"] == {"split": 2 * 16 * 800, "federated": 2 * 10175}


def test_board_and_codec_limit_what_is_chosen(capsys, kept: str) -> None:
    words = ("--bandwidth", "100k", "--codec", "int8", "--board", "stm32f4-discovery")
    assert main(plan(kept, *words)) == 0
    text = capsys.readouterr().out
    assert "chosen: seam 1 (behind 1), int8" in text and "do not keep the limit of RAM" in text


def test_the_page_draws_every_seam(capsys, kept: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(plan(kept, "--bandwidth", "1M", "--pass", "inference", "--out", str(page))) == 0
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text and "an inference" in text
    named = {
        int(number)
        for label in re.findall(r">seams? ([^<]*)<", text)
        for part in label.split(", ")
        for number in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    }
    assert named == set(range(1, 6))
    assert "1 Mbit/s up, 1 Mbit/s down" in text and "Chosen by bandwidth: " in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_the_page_says_what_is_chosen_from_which_bandwidth_on() -> None:
    rates = (1e3, 2e3, 4e3)
    one, two = zip(rates, (9.0, 5.0, 4.0), strict=True), zip(rates, (9.5, 5.0, 2.0), strict=True)
    chosen = zip(rates, (9.0, 5.0, 2.0), strict=True)
    curves = {"chosen": list(chosen), "seam 1": list(one), "seam 2": list(two)}
    assert ranges(curves) == "seam 1; seam 2 from 4 kbit/s on"
    assert ranges({**curves, "chosen": curves["seam 1"]}) == "seam 1 at every bandwidth"
    assert ranges({}) == "nothing can be done at any bandwidth"
    assert shorter(["seam 4", "seam 1", "seam 2", "5 units"]) == "seams 1-2, 4, 5 units"
    assert (in_bits(2.5e6), in_time(1500), in_time(0.02)) == ("2.5 Mbit/s", "1.5 s", "20 \u00b5s")


def test_on_a_poor_link_a_device_with_an_exit_goes_on_alone(
    capsys, kept: str, tmp_path: Path
) -> None:
    document = json.loads(Path(kept).read_text())
    times = {"infer": 1e-6, "forward": 1e-5, "backward": 1e-5}
    head = {"name": "head", "kind": "dense", "inputs": [1], "edge": times, "device": times}
    head |= {"values": 7, "parameters": 500, "macs": 5000}
    document["exits"] = [{"name": "early", "behind": 0, "head": head}]
    path = tmp_path / "exits.json"
    path.write_text(json.dumps(document))
    words = ["--profile", str(path), "--averaged", "10", "--uploads", "10", "--uploads", "0"]
    words += ["--deadline", "200", "--mode", "split", "--mode", "local"]
    for rate, chosen in (("1M", "int4"), ("20k", "exit early")):
        assert main(["plan", "watch", "--bandwidth", rate, *words]) == 0
        assert chosen in capsys.readouterr().out.split("chosen: ")[1].splitlines()[0]
    words = [*words[:-4], "--mode", "local"]
    assert main(["plan", "watch", "--bandwidth", "20k", *words]) == 0
    said = capsys.readouterr().out.split("chosen: ")[1]
    assert "exit early, alone, loss at its exit" in said.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--bandwidth", "0"], 5, "the link carries 0 bit/s up"),
        (["--bandwidth", "fast"], 2, "expected bits a second like 250k or 1M, got 'fast'"),
        (["--bandwidth", "1M/1M/1M"], 2, "expected UP or UP/DOWN"),
        (["--bandwidth", "1M", "--loss", "1"], 2, "below 1"),
        (["--bandwidth", "1M", "--exit", "early"], 3, "no exit 'early'"),
        (["--bandwidth", "1M", "--codec", "int3"], 3, "no codec 'int3'"),
        (["--bandwidth", "1M", "--floor", "9"], 5, "no legal seam from 9 on; the deepest is 5"),
        (["--bandwidth", "50k", "--deadline", "1"], 5, "deadline of 1 ms cannot be met: the least"),
        (["--bandwidth", "1M", "--board", "bluepill"], 5, "limit of RAM cannot be kept: the least"),
        (["--bandwidth", "1M", "--goal", "energy"], 3, "no energy"),
        (["--bandwidth", "1M", "--profile", "none.json"], 3, "seamline profile JOB --out FILE"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(
    capsys, kept: str, words: list[str], code: int, said: str
) -> None:
    assert main(plan(kept, *words)) == code
    out = capsys.readouterr()
    assert said in out.err and out.err.count("\n") == 1 and out.out == ""


def test_a_model_without_a_legal_seam_names_the_layer_in_the_way(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "odd_net.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    model = nn.Sequential(nn.GELU(), nn.Flatten(), nn.Linear(36, 3))\n"
        "    model.input_shape = (1, 6, 6)\n    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["plan", "odd_net:net", "--bandwidth", "1M"]) == 5
    said = capsys.readouterr().err
    assert said == "error: odd_net:net has no legal seam: devices have no kernel for _0\n"


def test_a_profile_of_another_model_is_refused(capsys, kept: str) -> None:
    assert main(["plan", "digits", "--profile", kept, "--bandwidth", "1M"]) == 2
    assert "it is of watch, not of digits" in capsys.readouterr().err


def test_a_profile_can_be_predicted_from_others_of_the_device(
    capsys, kept: str, tmp_path: Path
) -> None:
    laws, out = tmp_path / "laws.json", tmp_path / "digits.json"
    words = ["profile", "digits", "--repeat", "1", "--batch", "2"]
    assert main([*words, "--like", kept, "--predictor", str(laws), "--out", str(out)]) == 0
    assert "(predicted, f32)" in capsys.readouterr().out
    assert json.loads(out.read_text())["origin"] == "predicted"
    assert main([*words, "--predictor", str(laws)]) == 0
    assert "(predicted, f32)" in capsys.readouterr().out
    assert main([*words, "--predictor", str(tmp_path / "none.json")]) == 3


def test_a_device_without_pytorch_times_a_profile_anew(
    capsys, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.cli.find_spec", lambda name: None)
    out = tmp_path / "pi.json"
    assert main(["profile", kept, "--repeat", "1", "--id", "pi-1", "--out", str(out)]) == 0
    capsys.readouterr()
    old, new = json.loads(Path(kept).read_text()), json.loads(out.read_text())
    assert new["device"] == "pi-1"
    changed = {name for name in new if new[name] != old[name]}
    assert changed <= {"device", "units", "codecs"}
    for before, after in zip(old["units"], new["units"], strict=True):
        assert after["device"] != before["device"]
        assert {**after, "device": None} == {**before, "device": None}
    assert main(["profile", kept, "--batch", "3"]) == 2
    assert "a profile has its own" in capsys.readouterr().err
    assert main(["profile", "watch"]) == 7


def test_timing_a_profile_anew_imports_no_torch(kept: str) -> None:
    code = (
        "import sys; from seamline.cli import main; "
        f"assert main(['profile', {kept!r}, '--repeat', '1']) == 0; "
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda d: d.update(layers=[]), 3, "units have other layers than the 0"),
        (lambda d: d["layers"][0].update(output=[1, 49, 16]), 5, "the shapes do not fit"),
        (lambda d: d["layers"][0].update(kind="magic"), 5, "expected one of conv2d"),
        (lambda d: d.update(input_shape=None), 3, "has no layers"),
    ],
)
def test_layers_that_are_none_are_refused(
    capsys, kept: str, tmp_path: Path, change: Callable[[Any], object], code: int, said: str
) -> None:
    document = json.loads(Path(kept).read_text())
    change(document)
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    assert main(["profile", str(path)]) == code
    assert said in capsys.readouterr().err
