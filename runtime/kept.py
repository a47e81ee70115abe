"""What a device keeps on disk of its front, so that it goes on where it was when it starts again.

`ID.npz` is the front of a moment ago, written now and then. `ID@ROUND.npz` is the front after a
round that the host asked to keep (flag KEEP), on disk before the host hears that the round is over.
Two of those stay: a host that was killed before it kept that round begins again behind the one
before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.front import check_plan
from .files import npz_bytes, read_npz, write_whole

State = dict[str, Any]  # arrays of the front, `plan`, `round`, `seed`

_Q8 = 1  # dtype of a plan; runtime/q8_plan.py would bring all that makes plans
ROUNDS_KEPT = 2
EXPONENT_MOST = 1024  # of velocities: float32 scales cannot make one as large


class Kept:
    """The files of one device in `folder`."""

    def __init__(self, folder: Path, device_id: str) -> None:
        self.latest = folder / f"{device_id}.npz"
        name = re.compile(re.escape(device_id) + r"@(\d{1,10})\.npz")
        found = [(name.fullmatch(path.name), path) for path in folder.glob("*@*.npz")]
        self.rounds = {int(match[1]): path for match, path in found if match}

    def newest(self) -> State | None:
        """The front as it was last, to tell the host of it."""
        for round_ in sorted(self.rounds, reverse=True):
            state = read_state(self.rounds[round_])
            if state is not None:
                return state
        return read_state(self.latest)

    def after(self, round_: int, plan: bytes, seed: int) -> State | None:
        """The front of this plan and seed after the last kept round up to `round_`; None: there is
        none.
        """
        for kept in sorted((r for r in self.rounds if r <= round_), reverse=True):
            state = read_state(self.rounds[kept])
            if state is not None and (state["plan"], state["seed"]) == (plan, seed):
                return state
        return None

    def keep(self, round_: int, arrays: Mapping[str, NDArray[Any]], plan: bytes, seed: int) -> None:
        """The front after `round_`, durable when it returns. Raises OSError."""
        path = self.latest.with_name(f"{self.latest.stem}@{round_}.npz")
        write_whole(path, _bytes(round_, arrays, plan, seed))
        self.rounds[round_] = path
        older = sorted(r for r in self.rounds if r < round_)
        self._remove(set(self.rounds) - {round_, *older[1 - ROUNDS_KEPT :]})
        self.latest.unlink(missing_ok=True)  # it is older

    def save(self, round_: int, arrays: Mapping[str, NDArray[Any]], plan: bytes, seed: int) -> None:
        """The front as it is in `round_`; whole, but lost if the power goes. Raises OSError."""
        write_whole(self.latest, _bytes(round_, arrays, plan, seed), sync=False)

    def clear(self) -> None:
        """The job is done: a new one starts without momentum."""
        self._remove(set(self.rounds))
        self.latest.unlink(missing_ok=True)

    def _remove(self, rounds: set[int]) -> None:
        for round_ in rounds:
            self.rounds.pop(round_).unlink(missing_ok=True)


def _bytes(round_: int, arrays: Mapping[str, NDArray[Any]], plan: bytes, seed: int) -> bytes:
    numbers = {"round": np.array(round_, np.uint32), "seed": np.array(seed, np.uint32)}
    return npz_bytes({**arrays, **numbers, "plan": np.frombuffer(plan, np.uint8)})


def read_state(path: Path) -> State | None:
    """What was kept, or None: nothing there, or a file that a full disk or a user has damaged."""
    try:
        found = read_npz(path)
        plan = found.pop("plan").tobytes()
        _, _, parameters, _ = check_plan(plan)
        round_ = int(found.pop("round")) & 0xFFFFFFFF
        seed = int(found.pop("seed")) & 0xFFFFFFFF
        sound = _is_q8_momentum(found) if plan[6] == _Q8 else _is_front(found, parameters)
        return {**found, "plan": plan, "round": round_, "seed": seed} if sound else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _is_front(found: dict[str, NDArray[Any]], parameters: int) -> bool:
    """An f32 front as it was kept."""
    arrays = (found["params"], found["momentum"])
    return all(a.shape == (parameters,) and bool(np.isfinite(a).all()) for a in arrays)


def _is_q8_momentum(found: dict[str, NDArray[Any]]) -> bool:
    """Velocities (where a front has any) and exponents of an int8 front; a session looks at their
    shapes."""
    exponents, velocity = found["exponents"], found.get("velocity")
    if exponents.dtype != np.int32 or (velocity is not None and velocity.dtype != np.int8):
        return False
    return bool((exponents >= -EXPONENT_MOST).all() and (exponents <= EXPONENT_MOST).all())
