"""JointDNN: every unit on the side where the whole is cheapest, with as many hops as that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.budget import LABEL
from .partition import TRAINING_MACS, Branch, Goal, NoPlan, Scene, dead_link, estimate, need_energy

DEVICE, EDGE = 0, 1
SIDES = (DEVICE, EDGE)
_Where = tuple[tuple[int, int], ...]  # (tensor, bits of the sides that have it)


@dataclass(frozen=True)
class Placement:
    """The side of each unit. seconds: one after the other; joules: nan where not known."""

    sides: tuple[int, ...]
    seconds: float
    joules: float

    @property
    def hops(self) -> int:
        """How often the side changes from one unit to the next; the input is on the device."""
        return sum(a != b for a, b in zip((DEVICE, *self.sides), self.sides, strict=False))


@dataclass(frozen=True)
class _Price:
    """(seconds, joules) of what can be paid for: units by side, tensors up and down, the answer
    (or the labels) where the last unit is on the edge host."""

    unit: list[tuple[tuple[float, float], tuple[float, float]]]
    up: list[tuple[float, float]]
    down: list[tuple[float, float]]
    last: tuple[float, float]


def _prices(scene: Scene, of: Branch) -> _Price:
    """As `partition.cost` has them: in training every unit's backward runs where its forward ran,
    and a tensor that goes one way is followed by its gradient the other way."""
    training = scene.pass_ == "training"
    energy, link = scene.profile.energy, scene.link
    units = []
    for unit in of.units:
        there = scene.load * scene.seconds(unit.edge)
        macs = unit.macs * scene.batch * (TRAINING_MACS if training else 1)
        joules = (energy.mac * macs, energy.wait * there) if energy else (math.nan, math.nan)
        units.append(((scene.seconds(unit.device), joules[0]), (there, joules[1])))

    def way(size: float, values: int, *, down: bool) -> tuple[float, float]:
        codec = scene.codec
        rate = (
            codec.edge_pack + codec.device_unpack
            if down
            else (codec.device_pack + codec.edge_unpack)
        )
        seconds = link.seconds(size, down=down) + values * rate + link.turn / 2
        if energy is None:
            return seconds, math.nan
        byte = energy.byte_down if down else energy.byte_up
        return seconds, byte * size + energy.wait * link.turn / 2

    up, down = [], []
    for tensor in range(len(of.units) + 1):
        values = scene.batch * of.values(tensor)
        size = scene.codec.size(values)
        both = [way(size, values, down=False), way(size, values, down=True)]
        there_and_back = (both[0][0] + both[1][0], both[0][1] + both[1][1])
        up.append(there_and_back if training and tensor else both[0])
        down.append(there_and_back if training else both[1])
    if training:
        labels = LABEL * scene.batch
        last = (link.seconds(labels), energy.byte_up * labels if energy else math.nan)
    else:
        last = way(scene.profile.answer_bytes, 0, down=True)
    return _Price(units, up, down, last)


def total(scene: Scene, of: Branch, sides: Sequence[int]) -> Placement:
    """What a placement costs. A tensor crosses once, as a message of its own."""
    seconds, joules = _paid(_prices(scene, of), of, sides)
    return Placement(tuple(sides), seconds, joules)


def _paid(price: _Price, of: Branch, sides: Sequence[int]) -> tuple[float, float]:
    """Seconds and joules of a placement."""
    parts = [price.unit[index][side] for index, side in enumerate(sides)]
    sent = set()
    for index, unit in enumerate(of.units):
        for tensor in unit.inputs:
            maker = sides[tensor - 1] if tensor else DEVICE
            if maker != sides[index]:
                sent.add((tensor, maker))
    parts += [price.up[t] if maker == DEVICE else price.down[t] for t, maker in sorted(sent)]
    if sides[-1] == EDGE:
        parts.append(price.last)
    return sum(s for s, _ in parts), sum(j for _, j in parts)


# ---- the shortest path ----


def joint_dnn(scene: Scene, of: Branch, goal: Goal = "time") -> Placement:
    """The best placement, as a shortest path (Eshratifar, Abrishami, Pedram: JointDNN,
    arXiv:1801.08618).

    A chain is the paper's graph of two rows: a node is (units done, side). Where branches meet, a
    node also says which sides have each tensor that is still wanted, so that blocks are exact:
    both tensors inside one cross where they must. The input is on the device; an answer must end
    there, a loss may be on either side. Raises NoPlan where every path needs a dead link.
    """
    need_energy(scene.profile, goal)
    price, which = _prices(scene, of), int(goal == "energy")
    last = of.last_readers()
    paths: dict[_Where, tuple[float, tuple[int, ...]]] = {((0, 1 << DEVICE),): (0.0, ())}
    for index in range(len(of.units)):
        grown: dict[_Where, tuple[float, tuple[int, ...]]] = {}
        for where, (cost, sides) in paths.items():
            for side, paid, there in _steps(of, price, which, index, where):
                kept = tuple((t, bits) for t, bits in there if last[t] > index)
                if kept not in grown or cost + paid < grown[kept][0]:
                    grown[kept] = (cost + paid, (*sides, side))
        paths = grown
    found = [path for path in paths.values() if math.isfinite(path[0])]
    if not found:
        raise NoPlan(dead_link(scene.link, scene.profile.model))
    return total(scene, of, min(found)[1])


def _steps(
    of: Branch, price: _Price, which: int, index: int, where: _Where
) -> Iterator[tuple[int, float, _Where]]:
    """(side, cost, who has what then) of running unit `index` on each side it can run on."""
    for side in SIDES:
        seconds = price.unit[index][side][0]
        if not math.isfinite(seconds):
            continue
        paid, having = price.unit[index][side][which], dict(where)
        for tensor in set(of.units[index].inputs):
            if not having[tensor] >> side & 1:
                paid += (price.up if side == EDGE else price.down)[tensor][which]
                having[tensor] |= 1 << side
        having[index + 1] = 1 << side
        if index == len(of.units) - 1 and side == EDGE:
            paid += price.last[which]
        yield side, paid, tuple(sorted(having.items()))


# ---- with constraints ----


@dataclass(frozen=True)
class Limits:
    """What a placement may take: seconds, joules of the device, bytes of its RAM. None: no limit.
    first: so many units stay on the device (privacy)."""

    seconds: float | None = None
    joules: float | None = None
    ram: int | None = None
    first: int = 0


def joint_dnn_within(scene: Scene, of: Branch, limits: Limits, goal: Goal = "time") -> Placement:
    """The best placement within limits: the integer program of arXiv:1801.08618, any graph of
    units, solved by `scipy.optimize.milp` (HiGHS).

    Variables: is unit i on the edge host; does tensor t go up; does it go down. RAM is the sum of
    `partition.estimate` over units on the device. Raises NoPlan that names the limit, and the
    least possible where one alone binds.
    """
    needs_joules = goal == "energy" or limits.joules is not None
    need_energy(scene.profile, "energy" if needs_joules else "time")
    program = _Program(scene, of, limits)
    found = program.solve(goal, ("seconds", "joules", "ram"))
    if found is None:
        raise NoPlan(_why(program, limits, goal))
    return total(scene, of, found)


class _Program:
    """The integer program's matrices; `solve` with some or all of its limits."""

    def __init__(self, scene: Scene, of: Branch, limits: Limits) -> None:
        self.price, self.limits, self.of = _prices(scene, of), limits, of
        self.n = len(of.units)
        self.model = scene.profile.model
        self.ram = [estimate([unit], scene.profile.batch, scene.pass_)[0] for unit in of.units]
        self.dead = dead_link(scene.link, scene.profile.model)

    def weights(self, what: str) -> tuple[NDArray[np.float64], float]:
        """(of each variable, constant) for seconds, joules or ram."""
        n = self.n
        row = np.zeros(n + 2 * (n + 1))
        if what == "ram":
            row[:n] = [-size for size in self.ram]
            return row, float(sum(self.ram))
        which = int(what == "joules")
        here = [sides[DEVICE][which] for sides in self.price.unit]
        there = [sides[EDGE][which] for sides in self.price.unit]
        fixed = [h if math.isfinite(h) else 0.0 for h in here]
        row[:n] = np.array(there) - fixed
        row[n - 1] += _finite(self.price.last[which])
        row[n : 2 * n + 1] = [_finite(pair[which]) for pair in self.price.up]
        row[2 * n + 1 :] = [_finite(pair[which]) for pair in self.price.down]
        return row, sum(fixed)

    def _bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the variables: what no link carries and no kernel runs is fixed."""
        n, price = self.n, self.price
        low, high = np.zeros(3 * n + 2), np.ones(3 * n + 2)
        for index in range(n):
            if not math.isfinite(price.unit[index][DEVICE][0]):
                low[index] = 1
            if index < self.limits.first:
                high[index] = 0
        if not math.isfinite(price.last[0]):
            high[n - 1] = 0
        for tensor in range(n + 1):
            high[n + tensor] = math.isfinite(price.up[tensor][0])
            high[2 * n + 1 + tensor] = math.isfinite(price.down[tensor][0])
        return low, high

    def _crossings(self) -> Iterator[NDArray[np.float64]]:
        """Rows that are at most 0: reader - maker <= up, maker - reader <= down."""
        n = self.n
        for reader, unit in enumerate(self.of.units):
            for tensor in set(unit.inputs):
                for sign, at in ((1, n + tensor), (-1, 2 * n + 1 + tensor)):
                    row = np.zeros(3 * n + 2)
                    row[reader] += sign
                    if tensor:
                        row[tensor - 1] -= sign
                    row[at] = -1
                    yield row

    def solve(self, goal: Goal, limited: Sequence[str]) -> list[int] | None:
        """The sides, or None: nothing satisfies the limits that are named."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        low, high = self._bounds()
        if (low > high).any():
            return None
        rows = list(self._crossings())
        most = [0.0] * len(rows)
        for what in limited:
            limit = getattr(self.limits, what)
            if limit is not None:
                row, constant = self.weights(what)
                scale = max(float(np.abs(row).max()), 1e-30)
                rows.append(row / scale)
                most.append((limit - constant) / scale)
        aim, _ = self.weights("joules" if goal == "energy" else "seconds")
        found = milp(
            aim / max(float(np.abs(aim).max()), 1e-30),
            integrality=np.ones(3 * self.n + 2, np.int64),
            bounds=Bounds(low, high),
            constraints=LinearConstraint(np.array(rows), -np.inf, np.array(most)),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        return [round(x) for x in found.x[: self.n]]

    def least(self, what: str) -> float | None:
        """Of seconds, joules or ram, with no other limit."""
        aim, constant = self.weights(what)
        if what == "ram":
            return constant + sum(float(aim[i]) for i in range(self.limits.first, self.n))
        sides = self.solve("energy" if what == "joules" else "time", ())
        if sides is None:
            return None
        return _paid(self.price, self.of, sides)[what == "joules"]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _why(program: _Program, limits: Limits, goal: Goal) -> str:
    """Which limit cannot be kept, and the least that is possible."""
    if program.solve("time", ()) is None:
        return program.dead
    for what, unit in (("seconds", "s"), ("joules", "J"), ("ram", "bytes of RAM")):
        limit = getattr(limits, what)
        if limit is not None and program.solve(goal, (what,)) is None:
            least = program.least(what)
            return (
                f"{program.model}: {limit:g} {unit} cannot be kept: the least possible is "
                f"{least:.4g} {unit}"
            )
    return f"{program.model}: each limit can be kept alone, all together cannot: loosen one"
