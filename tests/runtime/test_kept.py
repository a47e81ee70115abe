"""What a device keeps of its front: which files stay, and which one it goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from seamline.runtime.kept import Kept
from seamline.runtime.plan import LayerSpec, build_plan

PLAN = build_plan([LayerSpec("dense", 0, (1, 1, 3))], (1, 1, 4), 2)
OTHER = build_plan([LayerSpec("dense", 0, (1, 1, 3), has_bias=False)], (1, 1, 4), 2)
SEED = 9


def front(value: float, parameters: int = 15) -> dict[str, np.ndarray]:
    full = np.full(parameters, value, np.float32)
    return {"params": full, "momentum": full / 2}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, "d.1")


def keep(kept: Kept, *rounds: int) -> None:
    for round_ in rounds:
        kept.keep(round_, front(round_), PLAN, SEED)


def names(kept: Kept) -> list[str]:
    return sorted(path.name for path in kept.latest.parent.iterdir())


def test_the_last_two_rounds_stay(kept: Kept) -> None:
    keep(kept, 10, 20, 30)
    assert names(kept) == ["d.1@20.npz", "d.1@30.npz"]


def test_it_goes_on_from_the_last_round_up_to_the_one_asked_for(kept: Kept) -> None:
    keep(kept, 10, 20)
    again = Kept(kept.latest.parent, "d.1")
    for upto, found in ((25, 20), (20, 20), (19, 10), (10, 10)):
        state = again.after(upto, PLAN, SEED)
        assert state is not None and state["round"] == found
        assert state["params"].tobytes() == front(found)["params"].tobytes()
        assert state["momentum"].tobytes() == front(found)["momentum"].tobytes()
    assert again.after(9, PLAN, SEED) is None


def test_rounds_of_a_longer_job_before_are_forgotten(kept: Kept) -> None:
    keep(kept, 40, 50, 10)
    assert names(kept) == ["d.1@10.npz"]


def test_a_front_of_another_job_is_not_gone_on_from(kept: Kept) -> None:
    keep(kept, 10)
    assert kept.after(10, PLAN, SEED + 1) is None
    assert kept.after(10, OTHER, SEED) is None


def test_a_damaged_file_gives_the_one_before(kept: Kept) -> None:
    keep(kept, 10, 20)
    kept.rounds[20].write_bytes(kept.rounds[20].read_bytes()[:-9])
    state = kept.after(20, PLAN, SEED)
    assert state is not None and state["round"] == 10
    newest = kept.newest()
    assert newest is not None and newest["round"] == 10


def test_files_of_others_are_left_alone(kept: Kept) -> None:
    folder = kept.latest.parent
    for name in ("dx1@10.npz", "d.1@ten.npz", "d.1@10.npz.bak", "d.12.npz", "e@5.npz"):
        (folder / name).write_bytes(b"theirs")
    mine = Kept(folder, "d.1")
    assert mine.rounds == {}
    mine.keep(3, front(3), PLAN, SEED)
    mine.clear()
    assert len(list(folder.iterdir())) == 5


def test_what_is_saved_now_and_then_gives_way_to_a_round(kept: Kept) -> None:
    kept.save(7, front(7), PLAN, SEED)
    newest = kept.newest()
    assert newest is not None and newest["round"] == 7
    keep(kept, 10)
    assert names(kept) == ["d.1@10.npz"]
    kept.clear()
    assert names(kept) == [] and kept.newest() is None
