"""`seamline quantize`: from what a run left to an int8 front, its comparison and its trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from seamline.edge_host import fold_batch_norm, load_model
from seamline.edge_host.checkpoint import save_model
from seamline.edge_host.finished import load_finished
from seamline.edge_host.host import cut_model
from seamline.edge_host.models import BUNDLED
from seamline.edge_host.split import END, float_state, split
from seamline.kernels.front import Q8Front
from seamline.runtime.calibration import METHODS
from seamline.runtime.config import read_job
from seamline.runtime.files import npz_bytes
from seamline.runtime.quantised import read_front, run, trace_input

from seamline.cli import main

torch.set_num_threads(1)

JOB = """
out = "."
model = {{ name = "{model}", seam = {seam} }}
mode = "{mode}"
[data]
source = "{{id}}.npz"
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


def waves(seed: int) -> dict[str, np.ndarray]:
    """Windows of 100 moments of 6 values in 7 classes of frequencies; 60 to train, 30 held out."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, 90)
    t = np.arange(100)[None, :, None] / 100
    x = np.sin(2 * np.pi * (1 + 2 * y[:, None, None]) * t + rng.uniform(0, 6, (90, 1, 6)))
    x = (x + rng.normal(0, 0.1, x.shape)).astype(np.float32)
    return {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:]}


def finish(folder: Path, model: str = "watch", seam: int | str = 2, mode: str = "split-v2") -> Path:
    """The folder of a run: job, data of two devices, the (untrained) model it left."""
    folder.mkdir(exist_ok=True)
    text = JOB.format(model=model, seam=json.dumps(seam), mode=mode)
    (folder / "job.toml").write_text(text)
    for number, name in enumerate(("one", "two")):
        np.savez(folder / f"{name}.npz", **waves(number))
    job = read_job(folder / "job.toml")
    cut = cut_model(job)
    save_model(job, cut, {k: t.numpy() for k, t in float_state(cut.model).items()})
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return finish(tmp_path_factory.mktemp("run"))


def run_here(arguments, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as end:  # how argparse leaves
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def document(arguments, capsys) -> dict:
    code, out, _ = run_here(["quantize", *arguments, "--format", "json"], capsys)
    assert code == 0
    return json.loads(out)


# ---- a run ----


def test_a_run_is_quantised_compared_and_written(finished, capsys):
    code, out, err = run_here(["quantize", finished, "--compare"], capsys)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == (
        "watch: front up to module 3, 2440 parameters; calibrated by minmax on 120 samples of one, "
        "two"
    )
    assert [line.split()[1] for line in lines[1:5]] == ["made", "input", *["conv2d+relu"] * 2]
    assert "on 60 held-out samples" in lines[5] and lines[6].endswith(" dB")
    assert lines[7].startswith("weights and biases: 2560 bytes instead of 9760; memory to infer")
    assert lines[8] == str(finished / "front-q8.npz")
    assert [layer.spec.kind for layer in read_front(lines[8]).layers] == ["conv2d", "conv2d"]


@pytest.mark.parametrize("seam", ["2", "end"])
def test_plan_and_parameters_in_the_file_run_on_a_device_with_the_same_bytes(
    finished, capsys, tmp_path, seam
):
    path = tmp_path / "q8.npz"
    found = document([finished, "--seam", seam, "--out", path], capsys)
    with np.load(path) as file:
        device = Q8Front(file["plan"].tobytes())
        device.set(file["blob"].tobytes())
    front = read_front(path)
    for one in trace_input(front, 3, 0):
        assert np.array_equal(device.forward(one[None]), run(front, one[None]))
    assert device.arena_size == found["arena_bytes"]


def test_the_job_file_names_the_run_too(finished, capsys, tmp_path):
    out = tmp_path / "deep" / "q8.npz"
    found = document([finished / "job.toml", "--out", out], capsys)
    assert found["files"] == {"front": str(out)} and out.is_file()
    assert found["source"] == str(finished / "model.pt")


@pytest.mark.parametrize("method", METHODS)
def test_each_calibration_keeps_the_answers_of_the_whole_network(
    finished, capsys, tmp_path, method
):
    arguments = [finished, "--seam", "end", "--calibration", method, "--out", tmp_path / "q8.npz"]
    found = document(arguments, capsys)
    assert found["whole"] and found["calibration"]["method"].startswith(method)
    kinds = [row["name"] for row in found["layers"]]
    assert kinds == ["input", *["conv2d+relu"] * 3, "average_pool", "dense+relu", "dense"]
    assert found["sqnr_db"] > 25 and found["accuracy"]["same_answer"] >= 0.9
    assert found["q8_bytes"] < 0.27 * found["float_bytes"]


def test_options_reach_the_quantiser(finished, capsys, tmp_path):
    out = ["--out", tmp_path / "q8.npz"]
    one = document([finished, "--device", "two", "--samples", "7", *out], capsys)
    assert one["calibration"] == {
        "method": "minmax",
        "devices": ["two"],
        "samples": 7,
    }
    assert one["accuracy"]["samples"] == 30
    document([finished, "--per-tensor", *out], capsys)
    for layer in read_front(tmp_path / "q8.npz").layers:
        assert len(set(layer.weight_scales.tolist())) == 1
    cut = ["--calibration", "percentile", "--percentile", "90"]
    narrow = document([finished, *cut, *out], capsys)
    assert narrow["layers"][1]["saturated"] > 0.01
    assert narrow["layers"][1]["scale"] < one["layers"][1]["scale"]
    assert document([finished, "--seam", "3", *out], capsys)["seam"] == "6"


def test_the_same_run_gives_the_same_file(finished, capsys, tmp_path):
    for name in ("a", "b"):
        document([finished, "--calibration", "mse", "--out", tmp_path / f"{name}.npz"], capsys)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_without_model_pt_the_clouds_model_or_the_front_alone_is_taken(capsys, tmp_path):
    folder = finish(tmp_path / "run")
    whole = document([folder], capsys)
    model = load_model("watch", {}, 0)
    arrays = {name: t.numpy() for name, t in float_state(model).items()}
    (folder / "model.npz").write_bytes(npz_bytes(arrays))
    (folder / "model.pt").unlink()
    cloud = document([folder], capsys)
    (folder / "model.npz").unlink()
    front = document([folder], capsys)
    assert [d["source"].rpartition("/")[2] for d in (whole, cloud, front)] == [
        "model.pt",
        "model.npz",
        "front.npz",
    ]
    assert whole["layers"] == cloud["layers"] == front["layers"]
    assert whole["accuracy"] == cloud["accuracy"] and front["accuracy"] is None


def test_a_run_whose_fronts_stayed_on_the_devices_is_said_to_be_untrained(capsys, tmp_path):
    folder = finish(tmp_path / "run", mode="split-v3")
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 0 and err == (
        "note: in split-v3 the trained fronts stay on the devices: this one was never trained\n"
    )


def test_batch_norm_of_the_network_is_folded_where_the_whole_of_it_is_quantised(
    capsys, tmp_path, monkeypatch
):
    """A front with batch norm is not trained, but a back may have it: `--seam end` folds it."""

    def normed(**args):
        model = BUNDLED["watch"](**args)
        parts = list(model)
        layers = [*parts[:4], torch.nn.Conv2d(24, 32, 1, bias=False), torch.nn.BatchNorm2d(32)]
        found = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(800, 7))
        torch.nn.init.uniform_(found[5].running_var, 0.2, 4)
        found.input_shape = model.input_shape
        return found

    monkeypatch.setitem(sys.modules, "normed_model", type(sys)("normed_model"))
    sys.modules["normed_model"].make = normed
    folder = finish(tmp_path / "run", model="normed_model:make")
    found = document([folder, "--seam", "end"], capsys)
    assert [row["name"] for row in found["layers"][1:]] == [
        "conv2d+relu", "conv2d+relu", "conv2d", "dense",
    ]  # fmt: skip
    assert found["sqnr_db"] > 25
    job = read_job(folder / "job.toml")
    model = load_model("normed_model:make", {}, job.seed).eval()
    cut = split(fold_batch_norm(model), END, (6, 1, 100))
    ours = load_finished(job, folder, END).parameters
    assert np.array_equal(ours, cut.front_vector(float_state(cut.model)))


# ---- calibration on devices ----


def test_devices_without_torch_calibrate_and_only_ranges_come_back(
    finished, capsys, tmp_path, monkeypatch
):
    """The host has no data, the devices have no torch; the front is that of both in one place."""
    document([finished, "--calibration", "mse", "--out", tmp_path / "here.npz"], capsys)
    front, job = tmp_path / "float.npz", finished / "job.toml"
    code, out, _ = run_here(["quantize", finished, "--float", front], capsys)
    assert code == 0 and out.splitlines()[1] == (
        f"next, on each device: `seamline calibrate {front} JOB --id ID`"
    )
    files = [tmp_path / f"{name}.ranges" for name in ("one", "two")]
    with monkeypatch.context() as device:
        device.setitem(sys.modules, "torch", None)  # as if it were not installed
        for name, file in zip(("one", "two"), files, strict=True):
            more = ["--id", name, "--calibration", "mse", "--out", file]
            code, out, _ = run_here(["calibrate", front, job, *more], capsys)
            assert (code, out) == (
                0,
                f"{name}: 5 ranges by mse of 60 samples, which stay here\n{file}\n",
            )
    assert all(file.stat().st_size < 2000 for file in files)
    for name in ("one", "two"):
        (finished / f"{name}.npz").rename(tmp_path / f"{name}-away.npz")
    try:
        more = ["--ranges", *files, "--out", tmp_path / "there.npz"]
        found = document([finished, *more], capsys)
    finally:
        for name in ("one", "two"):
            (tmp_path / f"{name}-away.npz").rename(finished / f"{name}.npz")
    assert (tmp_path / "there.npz").read_bytes() == (tmp_path / "here.npz").read_bytes()
    assert found["calibration"] == {"method": "mse", "devices": ["one", "two"], "samples": 120}
    assert found["layers"] is None and found["accuracy"] is None
    code, out, _ = run_here(["quantize", finished, *more, "--device", "one", "--compare"], capsys)
    assert code == 0 and "on 30 held-out samples" in out


def test_ranges_of_another_front_are_refused(finished, capsys, tmp_path):
    front, ranges = tmp_path / "float.npz", tmp_path / "ranges.npz"
    run_here(["quantize", finished, "--float", front, "--seam", "3"], capsys)
    more = ["--id", "one", "--out", ranges, "--format", "json"]
    code, out, _ = run_here(["calibrate", front, finished / "job.toml", *more], capsys)
    assert code == 0 and json.loads(out)["device"] == "one" and len(json.loads(out)["lo"]) == 8
    code, _, err = run_here(["quantize", finished, "--ranges", ranges], capsys)
    assert code == 3 and "the ranges of one are of another front" in err
    assert run_here(["quantize", finished, "--seam", "3", "--ranges", ranges], capsys)[0] == 0


# ---- traces ----


def test_a_quantised_front_is_traced_on_another_machine_without_torch_and_data(
    finished, capsys, tmp_path, monkeypatch
):
    """The other machine has a device's installation and the one file."""
    kept, q8 = tmp_path / "trace.txt", tmp_path / "q8.npz"
    document([finished, "--out", q8, "--trace", kept], capsys)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    code, out, _ = run_here(["quantize", q8], capsys)
    assert code == 0 and out == kept.read_text()
    code, out, _ = run_here(["quantize", q8, "--against", kept], capsys)
    assert (code, out) == (0, f"the trace is that of {kept}\n")
    other = kept.read_text().splitlines()
    other[2] = other[2][:-8] + "00000000"
    kept.write_text("\n".join(other))
    code, out, err = run_here(["quantize", q8, "--against", kept], capsys)
    assert (code, out) == (1, "")
    assert err.startswith("the traces differ: expected '1 conv2d+relu 1x50x16 00000000', got '1 ")
    found = run_here(["quantize", q8, "--against", kept, "--format", "json"], capsys)
    assert found[0] == 1 and "00000000" in json.loads(found[1])["difference"]


def test_a_new_quantisation_is_held_against_an_old_trace(finished, capsys, tmp_path):
    kept, out = tmp_path / "trace.txt", ["--out", tmp_path / "q8.npz"]
    first = document([finished, *out, "--trace", kept], capsys)
    assert first["files"]["trace"] == str(kept)
    assert kept.read_text().splitlines() == first["trace"]
    code, said, _ = run_here(["quantize", finished, *out, "--against", kept], capsys)
    assert code == 0 and said.endswith(f"the trace is that of {kept}\n")
    code, _, err = run_here(["quantize", finished, *out, "--seed", "1", "--against", kept], capsys)
    assert code == 3 and "the trace of something else" in err


# ---- mistakes ----

MISTAKES = {
    # name: (arguments, exit code, words of the line)
    "no run": ([], 2, "RUN"),
    "no such folder": (["{run}/none"], 2, "{run}/none"),
    "a folder of something else": (["{empty}"], 2, "is not the folder of a run"),
    "a job that has not run": (["{empty}/new/job.toml"], 3, "train first (`seamline run JOB`)"),
    "no such device": (["{run}", "--device", "wto"], 2, "no device 'wto'"),
    "a calibration of its own": (["{run}", "--calibration", "median"], 2, "median"),
    "a percentile of the smallest": (["{run}", "--percentile", "1"], 2, "above 50"),
    "a percentile in words": (["{run}", "--percentile", "most"], 2, "found 'most'"),
    "a percentile of minmax": (
        ["{run}", "--percentile", "99"], 2, "--percentile belongs to --calibration percentile",
    ),
    "no samples": (["{run}", "--samples", "0"], 2, "a whole number from 1"),
    "a seam that is not there": (["{run}", "--seam", "9"], 5, "only 5 weighted layers"),
    "a trace of nowhere": (["{run}", "--against", "{empty}/none"], 3, "there is no file"),
    "a trace that is none": (["{run}", "--against", "{run}/job.toml"], 3, "it is no trace"),
    "a trace of bytes": (["{run}", "--against", "{run}/model.pt"], 3, "it is no trace"),
    "a trace into nowhere": (["{run}", "--trace", "{empty}/no/file"], 2, "{empty}/no/file"),
    "calibration beside ranges": (
        ["{run}", "--ranges", "x.npz", "--calibration", "mse"], 2, "cannot go with --ranges",
    ),
    "a comparison without samples": (
        ["{run}", "--ranges", "x.npz", "--compare"], 2, "--compare needs samples",
    ),
    "ranges that are not there": (["{run}", "--ranges", "{empty}/x"], 3, "there is no file"),
    "ranges that are none": (["{run}", "--ranges", "{run}/one.npz"], 3, "is no file of ranges"),
    "a float front into nowhere": (["{run}", "--float", "{run}/job.toml/x"], 2, "job.toml"),
    "no such quantised front": (["{empty}/q8.npz"], 3, "there is no file"),
    "a float front": (["{run}/front.npz"], 3, "`seamline quantize RUN` makes one"),
    "calibration of what is quantised": (
        ["{run}/front-q8.npz", "--calibration", "mse"], 2, "--calibration: {run}/front-q8.npz is",
    ),
    "comparison of what is quantised": (["{run}/front-q8.npz", "--compare"], 2, "--compare: "),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_exit_code(finished, capsys, tmp_path, case):
    arguments, code, words = case
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "job.toml").write_text((finished / "job.toml").read_text())
    if not (finished / "front-q8.npz").exists():
        document([finished], capsys)

    def place(text: str) -> str:
        return text.replace("{run}", str(finished)).replace("{empty}", str(tmp_path))

    found, out, err = run_here(["quantize", *map(place, arguments)], capsys)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and place(words) in err and err.count("\n") == 1


CALIBRATE = {
    # name: (arguments, exit code, words of the line)
    "no device": (["{front}", "{run}/job.toml"], 2, "--id"),
    "no such device": (["{front}", "{run}/job.toml", "--id", "wto"], 2, "no device 'wto'"),
    "no such front": (["{front}x", "{run}/job.toml", "--id", "one"], 3, "there is no file"),
    "a quantised front": (
        ["{run}/front-q8.npz", "{run}/job.toml", "--id", "one"], 3, "is no float front",
    ),
    "a percentile of minmax": (
        ["{front}", "{run}/job.toml", "--id", "one", "--percentile", "99"], 2, "--percentile",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CALIBRATE.values(), ids=CALIBRATE.keys())
def test_a_mistake_in_calibrating_is_one_line_with_its_exit_code(finished, capsys, tmp_path, case):
    arguments, code, words = case
    front = tmp_path / "float.npz"
    run_here(["quantize", finished], capsys)
    run_here(["quantize", finished, "--float", front], capsys)

    def place(text: str) -> str:
        return text.replace("{run}", str(finished)).replace("{front}", str(front))

    found, out, err = run_here(["calibrate", *map(place, arguments)], capsys)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


DAMAGE = {
    "a checkpoint of other bytes": ("model.pt", b"bytes", "is not a seamline checkpoint"),
    "arrays of other bytes": ("model.npz", b"bytes", "cannot be read"),
    "arrays of another model": (
        "model.npz",
        npz_bytes({"w": np.zeros(3, np.float32)}),
        "does not belong to this model",
    ),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_run_is_one_line(tmp_path, capsys, case):
    name, data, words = case
    folder = finish(tmp_path / "run")
    (folder / "model.pt").unlink()
    (folder / name).write_bytes(data)
    code, out, err = run_here(["quantize", folder], capsys)
    assert code in (3, 5) and out == "" and words in err and err.count("\n") == 1


def test_a_checkpoint_whose_model_has_changed_is_one_line(tmp_path, capsys):
    folder = finish(tmp_path / "run")
    checkpoint = torch.load(folder / "model.pt", weights_only=True)
    torch.save({**checkpoint, "args": {"classes": 5}}, folder / "model.pt")
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 3 and "does not belong to the model it names" in err and err.count("\n") == 1


def test_parameters_that_are_not_finite_are_one_line(tmp_path, capsys):
    folder = finish(tmp_path / "run")
    checkpoint = torch.load(folder / "model.pt", weights_only=True)
    checkpoint["state_dict"]["0.weight"][0, 0, 0, 0] = np.nan
    torch.save(checkpoint, folder / "model.pt")
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 3 and "parameters that are not finite" in err


def test_data_that_is_not_here_or_of_another_shape_is_named(tmp_path, capsys):
    folder = finish(tmp_path / "run")
    (folder / "two.npz").unlink()
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 3 and "two: there is no data file" in err
    assert "--device ID names those whose data is here" in err
    assert run_here(["quantize", folder, "--device", "one"], capsys)[0] == 0
    x = np.zeros((4, 50, 6), np.float32)
    np.savez(folder / "two.npz", x_train=x, y_train=[0] * 4, x_test=x, y_test=[0] * 4)
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 3 and "two: the model takes samples of 1x100x6, its data has 1x50x6" in err


def test_group_norm_is_refused_with_what_to_do(tmp_path, capsys):
    """A front of ResNet with group norm: int8 has none."""
    folder = finish(tmp_path / "run", model="resnet8", seam=1)
    x = np.zeros((4, 32, 32, 3), np.float32)
    for name in ("one", "two"):
        np.savez(folder / f"{name}.npz", x_train=x, y_train=[0] * 4, x_test=x, y_test=[0] * 4)
    code, _, err = run_here(["quantize", folder], capsys)
    assert code == 5 and "(group_norm)" in err and "fold_batch_norm" in err


def test_a_missing_extra_is_named_before_anything_is_read(finished, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run_here(["quantize", finished], capsys) == (
        7,
        "",
        "error: 'seamline quantize' needs PyTorch: pip install 'seamline[edge]'\n",
    )
