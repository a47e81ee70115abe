"""Every example runs as its first line says, in real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_model_and_data_of_ones_own_train_with_one_command(tmp_path):
    folder = tmp_path / "examples" / "waves"
    shutil.copytree(EXAMPLES / "waves", folder)
    done = subprocess.run(
        [sys.executable, "-m", "seamline", "run", str(folder / "job.toml"), "--format", "json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    *events, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last["event"] == "done"
    assert last["accuracy"] > 0.9
    assert {event["tier"] for event in events} >= {"cloud", "host-A", "north", "south", "west"}
    out = tmp_path / "runs" / "waves"
    files = {name: out / name for name in ("model.pt", "front.npz", "model.npz", "report.html")}
    assert {name: str(path) for name, path in files.items()} == last["files"]
    with np.load(files["front.npz"], allow_pickle=False) as front:
        assert front["0.weight"].shape == (12, 2, 5)
    assert "seam" in files["report.html"].read_text()
