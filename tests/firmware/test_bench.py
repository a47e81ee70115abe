"""`seamline firmware bench`: its rows, its bars, and what it says where it cannot measure."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import pytest
from seamline.firmware_bridge import bench_step, image
from seamline.firmware_bridge.bench_step import build
from seamline.runtime.networks import network

from seamline.cli import main

FIELDS = {"board", "net", "layer", "pass", "dtype", "instructions"}
FIELDS |= {"ram_bytes", "flash_bytes", "stack_bytes"}


@pytest.fixture(scope="module", autouse=True)
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An image is compiled once, whoever asks for it."""
    once = functools.cache(
        lambda board, dtype: build(board, dtype, tmp_path_factory.mktemp("bench"))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_step, "build", lambda board, dtype, _: once(board, dtype))
        yield


def bench(capsys, *arguments: str) -> list[dict]:
    assert main(["firmware", "bench", *arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"].startswith("seamline firmware bench")
    return document["rows"]


def test_rows_of_a_network_say_what_each_layer_takes(tools, capsys):
    rows = bench(capsys, "--board", "an386", "--net", "watch")
    assert all(set(row) >= FIELDS and row["same"] for row in rows)
    for pass_, dtype, name in (("forward", "q8", "all"), ("step", "q8", "front")):
        mine = [row for row in rows if (row["pass"], row["dtype"]) == (pass_, dtype)]
        *parts, whole = mine
        assert whole["layer"] == name
        assert sum(row["instructions"] for row in parts) == pytest.approx(
            whole["instructions"], rel=0.01
        )
        assert all(whole[f"{what}_bytes"] > 500 for what in ("ram", "flash", "stack"))
        assert all(row["ram_bytes"] is None for row in parts)
    assert {row["dtype"] for row in rows} == {"q8", "f32"}


# Instructions a multiply-add, and RAM of a whole step, at most.
STEP_BARS = {"kws": 2.5, "ic": 2.5, "watch": 2.6}


def test_a_float_step_takes_few_instructions_a_product(tools, capsys):
    rows = bench(
        capsys, "--board", "an386", "an500", "--net", *STEP_BARS, "--pass", "step", "--dtype", "f32"
    )
    found = {(r["board"], r["net"]): r["per_mac"] for r in rows if r["layer"] == "front"}
    assert len(found) == 6
    assert [key for key, per_mac in found.items() if per_mac > STEP_BARS[key[1]]] == []


def test_a_step_in_least_memory_learns_the_same(tools, capsys):
    """KWS, two blocks in int8: below 72 KB."""
    arguments = ["--board", "an386", "--net", "kws", "--pass", "step", "--dtype", "q8"]
    *_, usual = bench(capsys, *arguments)
    *_, least = bench(capsys, *arguments, "--recompute")
    assert usual["same"] and least["same"]
    assert least["ram_bytes"] < 72 * 1024 < usual["ram_bytes"]
    assert least["instructions"] > usual["instructions"]


def test_published_totals_stand_beside_ours(tools, capsys):
    rows = bench(capsys, "--board", "an547", "--net", "kws", "ad", "--pass", "forward")
    found = {row["net"]: row for row in rows if row["layer"] == "all"}
    assert found["kws"]["peer"] == "CMSIS-NN"
    for row in found.values():
        assert row["instructions"] < row["peer_instructions"]
    assert found["kws"]["ram_bytes"] < 24_300 and found["ad"]["ram_bytes"] < 4_000


@pytest.mark.parametrize("dtype", ["q8", "f32"])
def test_a_step_on_any_board_learns_what_it_learns_here(dtype, board, tmp_path):
    built = bench_step.build(board, dtype, tmp_path)
    for net in ("watch", "kws") if board.core == "Cortex-M55" else ("watch",):
        case = bench_step.case_of(network(net), dtype)
        assert bench_step.run(board, built, case, tmp_path).learned == case.learned


def test_a_plan_that_does_not_fit_is_said(tools, tmp_path):
    board = image.BOARDS["an386"]
    built = bench_step.build(board, "q8", tmp_path)
    case = bench_step.case_of(network("watch"), "q8")
    wrong = bytearray(case.record)
    wrong[40] ^= 1
    broken = bench_step.Case(**{**vars(case), "record": bytes(wrong)})
    with pytest.raises(RuntimeError, match="ended with 2"):
        bench_step.run(board, built, broken, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--board", "uno"], "--board uno: there are an385"),
        (["--net", "gpt"], "--net gpt: there are kws"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert main(["firmware", "bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1


def test_missing_tools_are_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["firmware", "bench"]) == 7
    said = capsys.readouterr().err
    assert "apt-get install" in said and len(said.splitlines()) == 1


def test_other_bytes_are_said(tools, monkeypatch, capsys):
    honest = bench_step.case_of

    def wrong(*what):
        return bench_step.Case(**{**vars(honest(*what)), "learned": 1})

    monkeypatch.setattr(bench_step, "case_of", wrong)
    arguments = ["--board", "an386", "--net", "watch", "--pass", "step", "--dtype", "q8"]
    assert main(["firmware", "bench", *arguments]) == 1
    assert "other bytes than on this machine: an386 watch step" in capsys.readouterr().err
