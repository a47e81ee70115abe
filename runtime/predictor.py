"""Predicts what a layer takes on a kind of device that has been measured with other networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .profile import Amount, Name, Profile, ProfileError, Record, Times, Unit

F64 = NDArray[np.float64]
WHICH = ("forward", "backward")
TERMS = 6  # of `_terms`
ALL = "all"  # kinds that were measured too seldom
GENTLE = 0.2  # how far one live step moves the correction (of its logarithm)
MOST_BYTES = 2**20
Coefficients = tuple[Amount, Amount, Amount, Amount, Amount, Amount]


class Law(Record, frozen=True):
    """Seconds of a unit of one kind, as a sum of non-negative terms (see `_terms`)."""

    kind: Name
    which: Literal["forward", "backward"]
    coefficients: Coefficients


class Predictor(Record, frozen=True):
    """Laws for one kind of device. correction: what live steps took beside what was predicted."""

    device: Name
    laws: tuple[Law, ...]
    samples: Annotated[int, msgspec.Meta(ge=1)]
    correction: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    format: Literal[1] = 1

    def seconds(self, unit: Unit, batch: int, which: str) -> float:
        """Of one pass ("forward" or "backward") of a unit. Raises ProfileError for a unit without
        features."""
        known: dict[tuple[str, str], Coefficients] = {
            (law.kind, law.which): law.coefficients for law in self.laws
        }
        law = known.get((unit.kind, which)) or known[ALL, which]
        return float(_terms(unit, batch) @ np.array(law)) * self.correction

    def times(self, unit: Unit, batch: int) -> Times:
        """As a profile has them."""
        infer, forward = (self.seconds(unit, size, "forward") for size in (1, batch))
        return Times(infer, forward, self.seconds(unit, batch, "backward"))


def _terms(unit: Unit, batch: int) -> F64:
    """[1, weights, MACs, MACs an output channel (what is gathered), input, output values]: a call,
    then what is computed, read and written, in millions."""
    if unit.features is None:
        raise ProfileError(f"unit {unit.name}: the profile does not say its features: measure anew")
    taken = math.prod(unit.features.input) * len(unit.inputs)
    gathered = unit.macs / unit.features.output[2]
    per_sample = np.array([unit.macs, gathered, taken, unit.values], np.float64)
    return np.concatenate([[1.0, unit.parameters / 1e6], batch * per_sample / 1e6])


def fit(profiles: Sequence[Profile], device: str) -> Predictor:
    """Laws from all measured units: least squares of relative errors with coefficients that are
    not negative, for each kind of layer and each pass (the regression of Neurosurgeon,
    https://doi.org/10.1145/3037697.3037698, with channels among its terms).

    Raises ProfileError where nothing was measured on a device.
    """
    rows: dict[tuple[str, str], list[tuple[F64, float]]] = {}
    count = 0
    for unit, batch in _measured(profiles):
        assert unit.device is not None
        count += 1
        known = [("forward", batch, unit.device.forward), ("backward", batch, unit.device.backward)]
        for which, size, seconds in [("forward", 1, unit.device.infer), *known]:
            if seconds > 0:
                for kind in (unit.kind, ALL):
                    rows.setdefault((kind, which), []).append((_terms(unit, size), seconds))
    if any((ALL, which) not in rows for which in WHICH):
        raise ProfileError("no unit of these profiles was measured on a device")
    laws = []
    for (kind, which), found in sorted(rows.items()):
        if kind == ALL or len(found) >= TERMS:
            law = _least(np.array([t for t, _ in found]), np.array([s for _, s in found]))
            name: Literal["forward", "backward"] = "forward" if which == "forward" else "backward"
            laws.append(Law(kind, name, law))
    return Predictor(device, tuple(laws), count)


def _measured(profiles: Iterable[Profile]) -> Iterable[tuple[Unit, int]]:
    for profile in profiles:
        for unit in profile.units:
            if unit.device is not None and unit.features is not None:
                yield unit, profile.batch


def _least(terms: F64, seconds: F64) -> Coefficients:
    """Non-negative least squares of (terms @ c / seconds - 1), by Lawson and Hanson's active set
    (Solving Least Squares Problems, 1974, chapter 23)."""
    a = terms / seconds[:, None]
    scale = np.maximum(np.abs(a).max(0), 1e-300)
    a, b = a / scale, np.ones(len(seconds))
    x, free = np.zeros(a.shape[1]), np.zeros(a.shape[1], bool)
    for _ in range(10 * a.shape[1]):
        slope = a.T @ (b - a @ x)
        slope[free] = -np.inf
        if slope.max() <= 1e-9 * len(b):
            break
        free[int(slope.argmax())] = True
        while True:
            z = np.zeros_like(x)
            z[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            bad = free & (z <= 0)
            if not bad.any():
                break
            step = (x[bad] / np.maximum(x[bad] - z[bad], 1e-300)).min()
            x = x + step * (z - x)
            free &= x > 1e-15
            x[~free] = 0
        x = z
    c = [float(value) for value in x / scale]
    return c[0], c[1], c[2], c[3], c[4], c[5]


def predict(predictor: Predictor, profile: Profile) -> Profile:
    """The profile with predicted times of the device for every unit that it can run."""
    units = [
        unit
        if unit.device is None
        else msgspec.structs.replace(unit, device=predictor.times(unit, profile.batch))
        for unit in profile.units
    ]
    return msgspec.structs.replace(
        profile, units=tuple(units), device=predictor.device, origin="predicted"
    )


def refine(predictor: Predictor, front: Sequence[Unit], batch: int, seconds: float) -> Predictor:
    """After a live step: forward and backward of these units took `seconds` on the device. The
    correction moves a fifth of the way, so that one slow step does little."""
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds: expected a finite number above 0, got {seconds}")
    expected = sum(predictor.seconds(unit, batch, which) for unit in front for which in WHICH)
    if expected <= 0:
        return predictor
    moved = predictor.correction * (seconds / expected) ** GENTLE
    return msgspec.structs.replace(predictor, correction=min(max(moved, 1e-6), 1e6))


def save_predictor(predictor: Predictor, path: Path) -> None:
    """As JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(predictor), indent=1) + b"\n")


def load_predictor(path: Path) -> Predictor:
    """Raises ProfileError: missing, too long, no JSON, a wrong field, or a pass without a law."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ProfileError(f"{path}: expected at most {MOST_BYTES} bytes: fit a predictor anew")
        found = msgspec.json.decode(data, type=Predictor)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}: fit a predictor first") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{path}: {error}: fit a predictor anew") from None
    known = {(law.kind, law.which) for law in found.laws}
    finite = all(math.isfinite(c) for law in found.laws for c in law.coefficients)
    if not finite or any((ALL, which) not in known for which in WHICH):
        raise ProfileError(f"{path}: expected finite laws for all kinds: fit a predictor anew")
    return found
