"""`seamline firmware trace`: a board's step layer by layer, and that it finds the layer that is
wrong."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_zone import Zone, write_job
from seamline.edge_host.host import cut_model
from seamline.firmware_bridge import image, objects, trace
from seamline.firmware_bridge.trace import Step, trace_here
from seamline.kernels.errors import SeamError
from seamline.kernels.front import Front, Q8Front
from seamline.kernels.front import trace as run_record
from seamline.runtime.config import read_job
from seamline.runtime.plan import read_plan

from seamline import trace_command
from seamline.cli import main

WATCH = {"shape": (100, 6), "model": {"name": "watch", "seam": 3}}
KWS = {"shape": (49, 10, 1), "model": {"name": "dscnn", "seam": 5}}
WHOLE = {"shape": (100, 6), "model": {"name": "watch"}, "mode": "federated"}


@pytest.fixture(scope="module", autouse=True)
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What does not depend on the step is compiled once a board."""
    honest, own = objects.compile_files, image.HERE / "trace_image.c"

    @functools.cache
    def once(board: image.Board, files: tuple[Path, ...], optimise: str) -> list[Path]:
        return honest(board, files, tmp_path_factory.mktemp("objects"), [optimise])

    def compile_files(board: image.Board, files: list[Path], out: Path, flags: list[str]) -> Any:
        others = tuple(file for file in files if file != own)
        return [*honest(board, [own], out, flags), *once(board, others, flags[-1])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "compile_files", compile_files)
        yield


def job_of(folder: Path, what: dict, arithmetic: str, batch: int = 2) -> Path:
    train = {"arithmetic": arithmetic, "batch": batch, "cloud_rounds": 1}
    return write_job(folder, Zone(**what, train=train), {})


def step_of(folder: Path, what: dict, arithmetic: str) -> Step:
    job = read_job(job_of(folder, what, arithmetic))
    return trace_command.make_step(job, cut_model(job), "d00", None)


def told(capsys, path: Path, board: str, code: int, *more: str) -> dict:
    words = ["firmware", "trace", str(path), "--id", "d00", "--board", board]
    assert main([*words, *more, "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


CASES = [
    ("watch", WATCH, "q8", "lm3s6965evb"),
    ("kws", KWS, "f32", "an386"),
    ("whole", WHOLE, "q8", "an547"),
]


@pytest.mark.parametrize(("name", "what", "arithmetic", "board"), CASES)
def test_every_layer_of_a_step_on_a_board_is_that_of_this_machine(
    tools, tmp_path, capsys, name, what, arithmetic, board
):
    found = told(capsys, job_of(tmp_path, what, arithmetic), board, 0)
    assert found["same"] and found["samples"] == 2 and found["board"] == board
    passes = [row["pass"] for row in found["rows"]]
    loss = ["loss"] if name == "whole" else []
    made = passes.index("gradient") - len(loss)
    assert passes[:made] == ["input", *["forward"] * (made - 1)]
    assert passes[made : made + len(loss) + 1] == [*loss, "gradient"]
    assert ("weight gradient" in passes) == (arithmetic == "f32") and passes[-1] == "momentum"
    learned = {row["layer"] for row in found["rows"] if row["pass"] == "learned"}
    weighted = {row["layer"] for row in found["rows"] if row["name"] in ("conv2d", "depthwise")}
    assert weighted <= learned and len(learned) >= 3
    assert len({row["here"] for row in found["rows"]}) > len(passes) * 3 // 4  # real checksums


def test_a_wrong_weight_on_the_board_is_found_in_its_layer(tools, tmp_path, capsys, monkeypatch):
    honest = trace_command.trace_board

    def wrong(step: Step, *more: Any) -> Any:
        parameters = bytearray(step.parameters)
        for at in range(40):  # of the second convolution
            parameters[16 * 5 * 6 + 4 * 16 + at] ^= 32
        return honest(replace(step, parameters=bytes(parameters)), *more)

    monkeypatch.setattr(trace_command, "trace_board", wrong)
    path = job_of(tmp_path, WATCH, "q8")
    assert main(["firmware", "trace", str(path), "--id", "d00", "--board", "an547"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("first difference: layer 1 conv2d, forward: ")
    assert "on this machine" in said.err and said.err.endswith(" on an547\n")
    rows = [line.split() for line in said.out.splitlines()]
    assert [row[-1] for row in rows[1:5]] == ["yes", "yes", "NO", "NO"]


def test_a_wrong_kernel_on_the_board_is_found_in_its_layer_and_pass(
    tools, tmp_path, capsys, monkeypatch
):
    """Backward alone: everything forward is right, and so is what comes before it on the way."""
    kernel = image.CORE / "activation.c"
    text, broken = kernel.read_text(), tmp_path / "broken.c"
    right = "dx[i] = open ? dx[i] : 0.0f;"
    assert text.count(right) == 1
    broken.write_text(text.replace(right, "dx[i] = open ? -dx[i] : 0.0f;"))
    sources = [broken if file == kernel else file for file in trace.SOURCES]
    monkeypatch.setattr(trace, "SOURCES", sources)
    path = job_of(tmp_path, WHOLE, "f32")
    found = told(capsys, path, "an386", 1)
    first = next(row for row in found["rows"] if not row["same"])
    assert (first["layer"], first["name"], first["pass"]) == (8, "relu", "backward")


def test_forward_alone_ends_behind_the_last_layer(tools, tmp_path, capsys):
    path = job_of(tmp_path, WATCH, "q8")
    rows = told(capsys, path, "an547", 0, "--pass", "forward", "--samples", "1")["rows"]
    assert [row["pass"] for row in rows] == ["input", *["forward"] * (len(rows) - 1)]
    assert len(rows) > 3


@pytest.mark.parametrize("what", [WATCH, KWS, WHOLE])
def test_a_traced_step_is_a_step(tmp_path, what):
    """What the trace says of f32 is what the front's own functions make."""
    step = step_of(tmp_path, what, "f32")
    found = {(s.layer, s.pass_): s.crc for s in trace_here(step)}
    front = Front(step.plan)
    front.params[:] = np.frombuffer(step.parameters, np.float32)
    out = front.forward(step.x)
    layers = len(read_plan(step.plan).kinds)
    assert found[layers - 1, "forward"] == zlib.crc32(out.tobytes())
    if step.labels is not None:
        front.loss(step.labels)
    front.backward(step.gradient)
    front.update(step.rate, step.momentum, step.decay)
    assert found[None, "momentum"] == zlib.crc32(front.momentum.tobytes())
    assert found[0, "learned"] == zlib.crc32(front.params[: first_layer(found, front)].tobytes())


def first_layer(found: dict[tuple[int | None, str], int], front: Front) -> int:
    """Parameters of layer 0, looked for: those whose checksum it told."""
    for count in range(1, len(front.params) + 1):
        if zlib.crc32(front.params[:count].tobytes()) == found[0, "learned"]:
            return count
    return 0


@pytest.mark.parametrize("what", [WATCH, KWS, WHOLE])
def test_a_traced_int8_step_is_a_step(tmp_path, what):
    step = step_of(tmp_path, what, "q8")
    found = {(s.layer, s.pass_): s.crc for s in trace_here(step)}
    front = Q8Front(step.plan)
    front.set(step.parameters)
    out = front.forward(step.x)
    layers = len(read_plan(step.plan).kinds)
    assert found[layers - 1, "forward"] == zlib.crc32(out.tobytes())
    how = {"rate": step.rate, "momentum": step.momentum, "decay": step.decay}
    how |= {"seed": step.seed, "mode": step.mode}
    if step.labels is not None:
        front.train(step.labels, **how)
    else:
        front.backward(step.gradient, step.exponent, **how)
    moved = zlib.crc32(front.velocity_exponents.tobytes(), zlib.crc32(front.velocity.tobytes()))
    assert found[None, "momentum"] == moved
    assert front.learned.tobytes() != step.parameters[: len(front.learned)]


@pytest.mark.parametrize("arithmetic", ["q8", "f32"])
def test_a_damaged_record_is_refused(tmp_path, arithmetic):
    step = step_of(tmp_path, WATCH, arithmetic)
    record, arena = step.record(), read_plan(step.plan).arena_bytes
    for size in (0, 63, 64, len(record) // 2, len(record) - 16):
        with pytest.raises(SeamError):
            run_record(record[:size], arena)
    for at in range(0, 20, 4):  # another size of an array
        wrong = bytearray(record)
        wrong[at] ^= 4
        with pytest.raises(SeamError):
            run_record(bytes(wrong), arena)
    for at, value in ((20, 0), (20, 3), (32, 3)):  # samples, rounding
        wrong = bytearray(record)
        wrong[at] = value
        with pytest.raises(SeamError):
            run_record(bytes(wrong), arena)
    with pytest.raises(SeamError):
        run_record(record, arena - 16)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--id", "d00", "--board", "uno"], 2, "there is no board 'uno'"),
        (["--id", "d01", "--board", "an386"], 2, "there is no device 'd01'"),
        (["--id", "d00", "--board", "lm3s6965evb"], 5, "lm3s6965evb has too little RAM for "),
    ],
)
def test_a_mistake_is_one_line(tools, tmp_path, capsys, words, code, said):
    assert main(["firmware", "trace", str(job_of(tmp_path, KWS, "f32", 16)), *words]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_missing_tools_are_one_line(tmp_path, monkeypatch, capsys):
    path = job_of(tmp_path, WATCH, "q8")
    monkeypatch.setenv("PATH", "")
    assert main(["firmware", "trace", str(path), "--id", "d00", "--board", "an386"]) == 7
    error = capsys.readouterr().err
    assert "apt-get install" in error and error.count("\n") == 1
