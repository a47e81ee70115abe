"""The README's story holds: its job is one, its commands exist, its exit codes are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from seamline.kernels import f32
from seamline.runtime.config import read_job
from seamline.runtime.errors import EXIT_CODES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_job_in_ten_lines_is_a_job(tmp_path: Path) -> None:
    text = block("toml")
    assert len(text.splitlines()) <= 10
    path = tmp_path / "job.toml"
    path.write_text(text)
    job = read_job(path)
    assert [device.id for device in job.devices] == ["watch-1", "watch-2"]


def test_the_kernel_example_runs() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 1, 20, 3)).astype(np.float32)
    w = rng.normal(size=(4, 1, 5, 3)).astype(np.float32)
    names = {"f32": f32, "x": x, "w": w, "b": np.zeros(4, np.float32)}
    lines = [line for line in block("python").splitlines() if line]
    exec(lines[1], names)
    names["dy"] = np.ones_like(names["y"])
    exec(lines[2], names)
    assert names["dw"].shape == w.shape


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"`seamline ([a-z-]+)", README))
    done = subprocess.run(
        [sys.executable, "-m", "seamline", "--help"], capture_output=True, text=True, check=True
    )
    assert named
    assert all(re.search(rf"^    {name}\b", done.stdout, re.MULTILINE) for name in named), named


def test_every_exit_code_is_listed() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == set(EXIT_CODES)
