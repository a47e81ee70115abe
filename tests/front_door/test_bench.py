"""`seamline bench kernels`: what its document and its table hold. No time is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from seamline.kernels.bench import Prepared, Roofline, interleave, measure_roofline
from seamline.kernels.front import Front
from seamline.runtime.networks import NETWORKS, costs, make_piece, network
from seamline.runtime.plan import build_plan

from seamline import bench_kernels
from seamline.bench_kernels import Peer
from seamline.bench_q8 import Q8Piece, Q8Training, chain_of
from seamline.cli import main

QUICK = ["bench", "kernels", "--net", "watch", "--repeat", "1"]
FIELDS = {"net", "layer", "pass", "dtype", "variant", "batch", "us", "us_median", "noise", "gmacs"}
FIELDS |= {"roofline", "peer", "peer_us", "peer_us_median", "ratio"}
MACS = {"kws": 2_656_768, "ic": 12_501_632, "vww": 7_489_664, "ad": 264_192, "watch": 126_240}

JOB = """
out = "out"
mode = "split-v2"
data = { source = "none.npz" }
model = { name = "watch", seam = 2 }
train = { batch = 4 }
cloud = { address = "tcp://127.0.0.1:0" }
zones = [{ name = "A", address = "tcp://127.0.0.1:0" }]
devices = [{ id = "d1", zone = "A" }]
"""


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The one document of a run that measures next to nothing."""
    assert main([*QUICK, "--format", "json", *arguments]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device: nothing of the extras can be imported."""
    extras = ("torch", "rich", "onnx", "onnxruntime", "ai_edge_litert", "flatbuffers")
    found = bench_kernels.find_spec

    def find_spec(name: str) -> object:
        return None if name in extras else found(name)

    monkeypatch.setattr(bench_kernels, "find_spec", find_spec)


# ---- the document ----


def test_the_document_has_the_fields_of_every_row(capsys):
    found = document(capsys)
    assert set(found) == {"machine", "command", "rows"}
    assert found["command"] == "seamline " + " ".join([*QUICK, "--format", "json"])
    assert found["machine"]["peak_gmacs"] > 0
    for row in found["rows"]:
        assert set(row) - {"note"} == FIELDS
        assert row["us"] > 0 and row["us_median"] >= row["us"] and row["roofline"] > 0
        assert (row["ratio"] is None) == ("note" in row)


def test_whole_front_and_every_layer_are_measured(capsys):
    rows = document(capsys)["rows"]
    layers = {"all", "front", *(unit.name for unit in network("watch").units)}
    measured = {("f32", "forward"): layers, ("f32", "backward"): layers, ("q8", "forward"): layers}
    for (dtype, pass_), wanted in measured.items():
        assert {r["layer"] for r in rows if (r["dtype"], r["pass"]) == (dtype, pass_)} == wanted
    steps = {(r["dtype"], r["layer"], r["batch"]) for r in rows if r["pass"] == "step"}
    assert steps == {
        *(("f32", layer, batch) for layer in ("all", "front") for batch in (1, 16)),
        *(("q8", "front", batch) for batch in (1, 16)),
    }


def test_a_front_trained_in_int8_stands_beside_ours_in_f32(capsys):
    rows = document(capsys, "--dtype", "q8")["rows"]
    for pass_ in ("backward", "step"):
        found = {(r["layer"], r["batch"], r["peer"]) for r in rows if r["pass"] == pass_}
        assert found == {("front", 1, "seamline f32"), ("front", 16, "seamline f32")}
    assert all(r["ratio"] is not None for r in rows if r["peer"] == "seamline f32")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_in_int8_moves_weights(name):
    net = network(name)
    layers, shape = net.part(0, net.front)
    training = Q8Training(make_piece(layers, shape, 2))
    before = training.front.learned.copy()
    assert training.front.velocity is not None and not training.front.velocity.any()
    for _ in range(20):
        training.step()
    assert training.front.velocity.any()
    assert (training.front.learned != before).any()


def test_net_pass_and_batch_choose(capsys):
    rows = document(capsys, "--pass", "step", "--batch", "3")["rows"]
    assert {(r["net"], r["pass"], r["batch"]) for r in rows} == {("watch", "step", 3)}


def test_codecs_stand_beside_a_copy(capsys):
    rows = document(capsys, "--net", "codec")["rows"]
    assert all(set(row) == FIELDS and row["net"] == "codec" for row in rows)
    passes = {(r["pass"], r["dtype"]) for r in rows if r["peer"] == "copy" and r["ratio"]}
    pairs = {(p, d) for p in ("pack", "unpack", "pack-stochastic") for d in ("f32", "int8", "int4")}
    pairs -= {("pack-stochastic", "f32")}
    assert passes == pairs | {("quantise", "int8"), ("dequantise", "int8")}
    assert main([*QUICK[:2], "--net", "codec", "--repeat", "1"]) == 0
    assert "copy" in capsys.readouterr().out


def test_the_json_is_alone_on_standard_output():
    command = [sys.executable, "-m", "seamline", *QUICK, "--pass", "forward", "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert len(run.stdout.splitlines()) == 1
    json.loads(run.stdout)


# ---- peers ----


def test_a_missing_peer_is_a_row_that_says_what_to_install(capsys, monkeypatch):
    no_peers(monkeypatch)
    rows = document(capsys, "--pass", "forward")["rows"]
    for peer in ("torch", "onnxruntime", "litert-xnnpack", "litert-ruy", "litert-reference"):
        notes = {r["note"] for r in rows if r["peer"] == peer and r["ratio"] is None}
        assert len(notes) == 1 and "pip install 'seamline[bench]'" in notes.pop()


def test_a_device_without_extras_prints_its_own_figures(capsys, monkeypatch):
    no_peers(monkeypatch)
    assert main([*QUICK, "--pass", "forward"]) == 0
    out = capsys.readouterr().out
    assert "roofline" in out and "no torch: torch not installed" in out
    assert any(line.startswith("watch  conv1") for line in out.splitlines())


def test_the_command_loads_no_torch_where_there_is_none(tmp_path):
    """A stand-in that fails when imported shows who would have imported it."""
    (tmp_path / "torch.py").write_text("raise ImportError('imported')\n")
    command = [sys.executable, "-m", "seamline", *QUICK, "--pass", "forward", "--format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    rows = [r for r in json.loads(run.stdout)["rows"] if r["peer"] == "torch"]
    assert {r["note"] for r in rows} == {"ImportError: imported"}


def test_a_peer_that_fails_is_a_row_that_says_how(capsys, monkeypatch):
    def make(item):
        raise ArithmeticError("no such layer\nsecond line")

    monkeypatch.setattr(bench_kernels, "PEERS", (Peer("odd", (), ("forward",), True, make),))
    rows = document(capsys, "--pass", "forward")["rows"]
    assert {(r["peer"], r["ratio"], r["note"]) for r in rows} == {
        ("odd", None, "ArithmeticError: no such layer")
    }


def ours(piece) -> np.ndarray:
    front = Front(build_plan(piece.layers, piece.input_shape, piece.batch))
    front.params[:] = piece.parameters
    return front.forward(piece.x)


def close(found: np.ndarray, piece) -> None:
    wanted = ours(piece)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def whole(name: str):
    net = network(name)
    return make_piece(net.layers, net.input_shape, 2)


@pytest.mark.parametrize("name", ["ad", "watch"])  # the others are padded on one side more
def test_torch_computes_the_same(name):
    torch = pytest.importorskip("seamline.edge_host.bench_peer", exc_type=ImportError)
    close(torch.torch_output(whole(name)), whole(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_the_same(name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from seamline.bench_onnx import onnx_output

    close(onnx_output(whole(name)), whole(name))


@pytest.mark.parametrize("resolver", ["xnnpack", "ruy", "reference"])
@pytest.mark.parametrize("name", ["kws", "ic", "vww", "ad"])  # watch is padded on both sides alike
def test_litert_computes_the_same(name, resolver):
    pytest.importorskip("ai_edge_litert")
    from seamline.bench_litert import litert_output

    close(litert_output(whole(name), resolver), whole(name))


def close_q8(found: np.ndarray, piece) -> None:
    """Others round once where TensorFlow Lite Micro rounds twice; thirty layers add up."""
    q = Q8Piece(piece)
    assert np.abs(found.astype(int) - chain_of(q).forward(q.x)).max() <= 8


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_the_same_in_int8(name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from seamline.bench_onnx import onnx_output

    close_q8(onnx_output(whole(name), "q8"), whole(name))


@pytest.mark.parametrize("resolver", ["xnnpack", "ruy", "reference"])
@pytest.mark.parametrize("name", ["kws", "ic", "vww", "ad"])
def test_litert_computes_the_same_in_int8(name, resolver):
    pytest.importorskip("ai_edge_litert")
    from seamline.bench_litert import litert_output

    close_q8(litert_output(whole(name), resolver, "q8"), whole(name))


# ---- comparing ----


def test_compare_flags_a_row_that_became_slower(capsys, tmp_path, monkeypatch):
    no_peers(monkeypatch)
    first = document(capsys, "--pass", "step")
    for row in first["rows"]:
        row["us"] = row["us"] / 100 if row["layer"] == "front" else row["us"] * 100
        row["noise"] = 0.0
    old = tmp_path / "old.json"
    old.write_text(json.dumps(first))
    code = main([*QUICK, "--pass", "step", "--format", "json", "--compare", str(old)])
    out, err = capsys.readouterr()
    assert code == 1
    assert {r["layer"] for r in json.loads(out)["rows"] if r["slower"]} == {"front"}
    assert "slower: watch front step f32 batch 16: " in err and "4 slower by more than 15%" in err


def test_compare_is_content_when_nothing_became_slower(capsys, tmp_path):
    first = document(capsys, "--pass", "step")
    for row in first["rows"]:
        row["us"] *= 100
    old = tmp_path / "old.json"
    old.write_text(json.dumps(first))
    assert main([*QUICK, "--pass", "step", "--compare", str(old)]) == 0


def row(us: float, noise: float) -> dict:
    what = {"net": "kws", "layer": "all", "pass": "step", "dtype": "f32", "batch": 1}
    return {**what, "us": us, "noise": noise}


@pytest.mark.parametrize(
    ("before", "now", "slower"),
    [
        (row(100, 0.0), row(114, 0.0), False),
        (row(100, 0.0), row(116, 0.0), True),
        (row(100, 0.1), row(134, 0.1), False),
        (row(100, 0.1), row(136, 0.1), True),
    ],
)
def test_the_noise_of_both_runs_is_forgiven(before, now, slower):
    assert bool(bench_kernels._compare([now], [before])) is slower


# ---- mistakes ----

BAD = {
    "unknown net": (["--net", "resnet"], "--net resnet: there are kws, ic, vww, ad, watch, codec"),
    "unknown pass": (["--pass", "sideways"], "invalid choice: 'sideways'"),
    "batch 0": (["--batch", "0"], "a whole number from 1 is needed, found '0'"),
    "repeat -1": (["--repeat=-1"], "a whole number from 1 is needed, found '-1'"),
    "no old file": (["--compare", "none.json"], "--compare: no file none.json"),
    "old is no JSON": (["--compare", "bad.json"], "bad.json is not JSON"),
    "old is another document": (["--compare", "other.json"], "other.json is not what"),
    "net and job": (["--net", "kws", "--job", "job.toml"], "not allowed with"),
    "job missing": (["--job", "none.toml"], "no job file none.toml"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_option_is_one_clear_line(case, tmp_path, monkeypatch, capsys):
    arguments, text = BAD[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text('{"rows": [{"net": "kws"}]}')
    try:
        code = main(["bench", "kernels", *arguments])
    except SystemExit as leaving:  # argparse
        code = leaving.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert text in err and err.startswith("error: ") and err.count("\n") == 1


# ---- the front of a job ----


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def test_a_job_says_what_the_device_can_train_per_second(job, capsys):
    pytest.importorskip("torch")
    assert main(["bench", "kernels", "--job", str(job), "--repeat", "1"]) == 0
    last = capsys.readouterr().out.splitlines()
    assert any(line.startswith("this device can train ") for line in last)
    assert main(["bench", "kernels", "--job", str(job), "--repeat", "1", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {r["batch"] for r in rows} == {4}
    assert {r["net"] for r in rows} == {"watch"}
    steps = [r for r in rows if r["pass"] == "step"]
    assert steps and all(r["samples_per_s"] > 0 for r in steps)


def test_a_job_in_int8_names_both_arithmetics(job, capsys):
    pytest.importorskip("torch")
    text = job.read_text().replace("{ batch = 4 }", '{ batch = 4, arithmetic = "q8" }')
    job.write_text(text + 'codec = { up = "int8", down = "int8" }\n')
    assert main(["bench", "kernels", "--job", str(job), "--repeat", "1"]) == 0
    last = capsys.readouterr().out
    assert "samples/s in q8" in last and "samples/s in f32" in last


def test_a_job_without_torch_says_which_extra(job, capsys, monkeypatch):
    no_peers(monkeypatch)
    assert main(["bench", "kernels", "--job", str(job)]) == 7
    assert "seamline[edge]" in capsys.readouterr().err


# ---- what is behind it ----


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_multiply_adds_it_is_known_for(name):
    net = network(name)
    piece = make_piece(net.layers, net.input_shape, 3)
    assert sum(cost.macs for cost in costs(piece, "forward")) == 3 * MACS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_unit_of_a_network_is_a_plan(name):
    net = network(name)
    for unit in net.units:
        layers, shape = net.part(unit.first, unit.end)
        build_plan(layers, shape, 1)
    assert [u.first for u in net.units][1:] == [u.end for u in net.units][:-1]


def test_contenders_take_turns():
    order: list[str] = []
    interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    turns = "".join(
        name for name, before in zip(order, ["", *order], strict=False) if name != before
    )
    assert turns == "ab" * 4  # one to warm up, three samples


def test_what_prepares_is_done_before_every_call():
    order: list[str] = []
    work = Prepared(lambda: order.append("p"), lambda: order.append("w"))
    interleave({"": work}, 2)
    assert "".join(order) == "pw" * (len(order) // 2)


def test_the_roofline_is_what_binds():
    roof = Roofline(1e9, ((1000, 1e9), (1_000_000, 5e8)), 4e9)
    assert roof.least_us(2000, 100) == pytest.approx(2.0)
    assert roof.least_us(100, 1000) == pytest.approx(1.0)
    assert roof.least_us(100, 10_000) == pytest.approx(10.0)
    assert roof.least_us(100, 10_000_000) == pytest.approx(20_000.0)
    assert roof.least_us(2000, 100, "q8") == pytest.approx(0.5)
    assert roof.least_us(100, 4000, "q8") == pytest.approx(1.0)
    measured = measure_roofline(1)
    assert (
        measured.macs > 0 and measured.macs_q8 > 0 and all(rate > 0 for _, rate in measured.copies)
    )


# ---- accuracy ----


@pytest.fixture
def small_digits(monkeypatch):
    """Random images in the place of the digits; nobody has the watch data."""
    from seamline.runtime.data import Data

    from seamline import bench_accuracy

    def data(job, device):
        rng = np.random.default_rng(int(device.partition("-")[2]))
        x, y = rng.random((40, 8, 8, 1), np.float32), rng.integers(0, 10, 40).astype(np.int32)
        return Data(x[:30], y[:30], x[30:], y[30:], 10)

    monkeypatch.setattr(bench_accuracy, "device_data", data)
    monkeypatch.setattr(bench_accuracy, "is_here", lambda name: name == "digits")


def test_the_accuracy_of_each_rounding_is_a_row(small_digits, capsys):
    argv = ["bench", "accuracy", "--seeds", "2", "--rounds", "1", "--format", "json"]
    assert main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == "seamline " + " ".join(argv)
    assert document["notes"] == ["the watch data is not here: `seamline data get watch`"]
    variants = ["f32", "q8 stochastic", "q8 nearest", "q8 truncate", "frozen front"]
    assert [row["variant"] for row in document["rows"]] == variants
    for row in document["rows"]:
        assert row["data"] == "digits" and row["seeds"] == 2 and len(row["accuracies"]) == 2
        assert 0 <= row["min"] <= row["mean"] <= row["max"] <= 1
    assert document["rows"][0]["points"] == 0


def test_the_table_of_accuracies_can_be_read(small_digits, capsys):
    assert main(["bench", "accuracy", "--seeds", "1", "--rounds", "1", "--data", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:6] == ["data", "front", "seeds", "mean", "min", "max"]
    assert lines[3].startswith("digits  f32")
    assert len(lines) == 8


def test_without_any_data_the_bench_says_where_it_comes_from(small_digits, capsys):
    assert main(["bench", "accuracy", "--data", "watch"]) == 3
    assert "seamline data get watch" in capsys.readouterr().err
