"""What a device keeps of an int8 front, and what it makes of a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seamline.runtime.kept import read_state
from seamline.runtime.plan import LayerSpec, build_plan
from seamline.runtime.q8_plan import build_q8_plan

LAYERS = [LayerSpec("dense", 0, (1, 1, 3))]
PLAN = build_q8_plan(LAYERS, (1, 1, 4), 1)
KEPT = {
    "velocity": np.ones(24, np.int8),
    "exponents": np.full(1, -9, np.int32),
    "round": np.array(5, np.uint32),
    "seed": np.array(3, np.uint32),
    "plan": np.frombuffer(PLAN, np.uint8),
}


def read(path: Path, **changes: Any) -> dict[str, Any] | None:
    arrays = {name: array for name, array in {**KEPT, **changes}.items() if array is not None}
    np.savez(path / "d.npz", **arrays)
    return read_state(path / "d.npz")


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found is not None and (found["round"], found["plan"]) == (5, PLAN)
    assert np.array_equal(found["velocity"], KEPT["velocity"])
    assert read(tmp_path, velocity=None) is not None, "a front without momentum"


@pytest.mark.parametrize(
    "changes",
    [
        {"exponents": np.full(1, 1 << 30, np.int32)},
        {"exponents": np.full(1, -(1 << 31), np.int32)},
        {"exponents": np.full(1, np.nan)},
        {"exponents": None},
        {"velocity": np.full(24, np.nan, np.float32)},
        {"velocity": np.full(24, "x")},
        {"plan": np.frombuffer(build_plan(LAYERS, (1, 1, 4), 1), np.uint8)},
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path, **changes) is None
