"""Predicts what a layer takes on a kind of device that has been measured with other layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .kernel_work import ALL, Which, common_work, path, place, work
from .layer_bank import Sample
from .profile import Amount, Name, Profile, ProfileError, Record, Times, Unit

F64 = NDArray[np.float64]
WHICH: tuple[Which, ...] = ("forward", "backward")
LANES = (16, 8, 4)  # floats in a vector; what fits the times best is taken
FEW, MANY = 6, 24  # samples that a path's law needs, of common amounts and of the kernels' own
GENTLE = 0.2  # how far one live step moves the correction (of its logarithm)
ROUNDS, NEAR = 6, 0.02  # of reweighting; errors below it count alike
REACHES, RIDGES = (0.7, 1.2, 2.0, 3.5), (0.01, 0.03, 0.1, 0.3, 1.0)
CLIP = 0.5  # of a residual's logarithm
MOST_BYTES = 2**23
COMMON = 6  # amounts of `common_work`
Point = tuple[float, float, float, float, float, float, float]


class Rest(Record, frozen=True):
    """What a law leaves over, by the neighbours in the table: the logarithm is the sum of
    weights * exp(-distance), distances between places whose coordinates are divided by `scale`."""

    scale: Point
    points: tuple[Point, ...]
    weights: tuple[float, ...]


class Law(Record, frozen=True):
    """Seconds of a unit on one path, as a sum of non-negative amounts of work (`kernel_work`)
    times what the neighbours say. common: of `common_work`, for want of samples."""

    path: Name
    which: Literal["forward", "backward"]
    coefficients: Annotated[tuple[Amount, ...], msgspec.Meta(min_length=1, max_length=64)]
    common: bool = False
    rest: Rest | None = None


class Predictor(Record, frozen=True):
    """Laws for one kind of device. lanes: floats in its vectors. correction: what live steps took
    beside what was predicted."""

    device: Name
    laws: tuple[Law, ...]
    samples: Annotated[int, msgspec.Meta(ge=1)]
    lanes: Annotated[int, msgspec.Meta(ge=1, le=256)] = LANES[0]
    correction: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    format: Literal[2] = 2

    def seconds(self, unit: Unit, batch: int, which: Which) -> float:
        """Of one pass of a unit. Raises ProfileError for a unit without features."""
        known = {(law.path, law.which): law for law in self.laws}
        law = known.get((path(unit, which), which)) or known[ALL, which]
        amounts = _amounts(unit, batch, which, None if law.common else self.lanes)
        if len(amounts) != len(law.coefficients):
            raise ProfileError(
                f"the predictor's law of {law.path} has {len(law.coefficients)} terms, expected "
                f"{len(amounts)}: fit a predictor anew"
            )
        seconds = float(amounts @ np.array(law.coefficients)) * self.correction
        return seconds if law.rest is None else seconds * _say(law.rest, place(unit, batch))

    def times(self, unit: Unit, batch: int) -> Times:
        """As a profile has them."""
        infer, forward = (self.seconds(unit, size, "forward") for size in (1, batch))
        return Times(infer, forward, self.seconds(unit, batch, "backward"))


def _amounts(unit: Unit, batch: int, which: Which, lanes: int | None) -> F64:
    """lanes None: the common ones."""
    return common_work(unit, batch) if lanes is None else work(unit, batch, which, lanes)


def _say(rest: Rest, at: F64) -> float:
    scale = np.array(rest.scale)
    away = np.linalg.norm((np.array(rest.points) - at) / scale, axis=1)
    return math.exp(min(max(float(np.exp(-away) @ np.array(rest.weights)), -1.0), 1.0))


# ---- fitting ----


class _Row(Record, frozen=True):
    unit: Unit
    batch: int
    seconds: float


def samples_of(profiles: Iterable[Profile]) -> list[Sample]:
    """All measured units of profiles."""
    return [
        Sample(unit, profile.batch, unit.device)
        for profile in profiles
        for unit in profile.units
        if unit.device is not None and unit.features is not None
    ]


def fit(measured: Sequence[Profile | Sample], device: str) -> Predictor:
    """Laws from measured units, of networks or of a bank of layers: for each path through the
    kernels and each pass least squares of relative errors, with coefficients that are not
    negative (the regression of Neurosurgeon, https://doi.org/10.1145/3037697.3037698, with what
    the kernels do as its terms), and kernel ridge regression of what that leaves over.

    Raises ProfileError where nothing was measured on a device.
    """
    profiles = [entry for entry in measured if isinstance(entry, Profile)]
    samples = [entry for entry in measured if isinstance(entry, Sample)] + samples_of(profiles)
    rows: dict[Which, list[_Row]] = {"forward": [], "backward": []}
    for sample in samples:
        unit, batch, took = sample.unit, sample.batch, sample.device
        rows["forward"] += [_Row(unit, 1, took.infer), _Row(unit, batch, took.forward)]
        rows["backward"].append(_Row(unit, batch, took.backward))
    rows = {which: [row for row in found if row.seconds > 0] for which, found in rows.items()}
    if not all(rows.values()):
        raise ProfileError("no unit of these profiles was measured on a device")
    lanes = _lanes(rows["forward"])
    laws = []
    for which in WHICH:
        laws.append(_law(ALL, which, rows[which], None))
        for name in sorted({path(row.unit, which) for row in rows[which]}):
            own = [row for row in rows[which] if path(row.unit, which) == name]
            if len(own) >= FEW:
                laws.append(_law(name, which, own, lanes if len(own) >= MANY else None))
    return Predictor(device, tuple(laws), len(samples), lanes)


def _seconds(rows: Sequence[_Row]) -> F64:
    return np.array([row.seconds for row in rows])


def _lanes(rows: Sequence[_Row]) -> int:
    """The vector length whose laws err least."""
    return min(LANES, key=lambda lanes: _error(rows, lanes))


def _error(rows: Sequence[_Row], lanes: int) -> float:
    found = 0.0
    for name in ("pointwise", "conv2d", "dense"):
        own = [row for row in rows if path(row.unit, "forward") == name]
        if len(own) >= MANY:
            amounts = np.array([work(row.unit, row.batch, "forward", lanes) for row in own])
            made = amounts @ np.array(_least(amounts, _seconds(own), 1))
            found += float(np.abs(made / _seconds(own) - 1).mean()) * len(own)
    return found


def _law(name: str, which: Which, rows: Sequence[_Row], lanes: int | None) -> Law:
    """lanes None: of common amounts, without a table."""
    amounts = np.array([_amounts(row.unit, row.batch, which, lanes) for row in rows])
    coefficients = _least(amounts, _seconds(rows))
    if lanes is None:
        return Law(name, which, coefficients, common=True)
    left = np.log(_seconds(rows) / np.maximum(amounts @ np.array(coefficients), 1e-12))
    points = np.array([place(row.unit, row.batch) for row in rows])
    return Law(name, which, coefficients, rest=_rest(points, np.clip(left, -CLIP, CLIP)))


def _rest(points: F64, left: F64) -> Rest | None:
    """Reach and ridge are those with the least median error when each point is left out in turn
    (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, 5.4.2); None where that
    is no better than nothing."""
    spread = np.maximum(points.std(0), 0.3)
    apart = (points[:, None] - points[None]) / spread
    away = np.sqrt((apart**2).sum(-1))
    least, best = float(np.median(np.abs(left))), None
    for reach in REACHES:
        near = np.exp(-away / reach)
        for ridge in RIDGES:
            inverse = np.linalg.inv(near + ridge * np.eye(len(left)))
            weights = inverse @ left
            error = float(np.median(np.abs(weights / np.diag(inverse))))
            if error < least:
                least, best = error, (reach, weights)
    if best is None:
        return None
    reach, weights = best
    rounded = [tuple(float(f"{x:.6g}") for x in row) for row in (spread * reach, *points)]
    scale, *found = msgspec.convert(rounded, list[Point])
    return Rest(scale, tuple(found), tuple(float(f"{x:.6g}") for x in weights))


def _least(terms: F64, seconds: F64, rounds: int = ROUNDS) -> tuple[float, ...]:
    """Non-negative least squares of (terms @ c / seconds - 1), weighted anew so that the sum of
    errors counts rather than of their squares: a few odd layers bend no law."""
    weights = np.ones(len(seconds))
    found = np.zeros(terms.shape[1])
    for _ in range(rounds):
        found = _non_negative(terms * (weights / seconds)[:, None], weights)
        off = np.abs(terms @ found / seconds - 1)
        weights = 1 / np.sqrt(np.maximum(off, NEAR))
    return tuple(float(f"{value:.9g}") for value in found)


def _non_negative(a: F64, b: F64) -> F64:
    """Least squares of a @ x - b, x not negative, by Lawson and Hanson's active set (Solving Least
    Squares Problems, 1974, chapter 23)."""
    scale = np.maximum(np.abs(a).max(0), 1e-300)
    a = a / scale
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
    return np.asarray(x / scale, np.float64)


# ---- use ----


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
    path.write_bytes(msgspec.json.encode(predictor) + b"\n")


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
    known = {(law.path, law.which) for law in found.laws}
    if any((ALL, which) not in known for which in WHICH):
        raise ProfileError(f"{path}: expected laws for all paths: fit a predictor anew")
    if not all(map(_sound, found.laws)):
        raise ProfileError(
            f"{path}: coefficients or tables of a law that do not fit: fit a predictor anew"
        )
    return found


def _sound(law: Law) -> bool:
    if not all(map(math.isfinite, law.coefficients)):
        return False
    if (law.common or law.path == ALL) and len(law.coefficients) != COMMON:
        return False
    if law.rest is None:
        return True
    rest = law.rest
    numbers = [*rest.scale, *rest.weights, *(x for point in rest.points for x in point)]
    whole = 0 < len(rest.points) == len(rest.weights) and min(rest.scale) > 0
    return whole and all(map(math.isfinite, numbers))
