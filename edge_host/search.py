"""One search over place, exit, codec, interval and pipelining, exact because it looks at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..runtime.budget import LABEL
from ..runtime.profile import MOST_UNITS, Codec, Link, Profile, Unit
from .partition import (
    END,
    TRAINING_MACS,
    VALUE_BYTES,
    Branch,
    Goal,
    NoPlan,
    Pass,
    branch,
    dead_link,
    exits_by_depth,
    legal_cuts,
    memory,
    need_energy,
)

Mode = Literal["split", "local"]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Wish:
    """What is asked, and what may be used for it.

    exits: None is all. modes: "split" (with everything on the device where that is a legal place)
    and "local" (training only: the device learns from the loss at its exit and waits for nobody,
    what crosses goes up every `uploads`-th batch; 0: never). averaged: device steps between two
    averages of the fronts. in_flight: batches under way at once. load: the edge host is so many
    times slower than measured. floor: units that must be on the device.
    """

    pass_: Pass = "inference"
    goal: Goal = "time"
    deadline: float | None = None  # seconds of an inference or a step
    exits: tuple[str, ...] | None = None
    codecs: tuple[str, ...] | None = None
    modes: tuple[Mode, ...] = ("split",)
    averaged: tuple[int, ...] = (1,)
    uploads: tuple[int, ...] = (1,)
    in_flight: tuple[int, ...] = (1,)
    load: float = 1.0
    floor: int = 1
    ram: int | None = None  # bytes; None: the profile's, 0 there: no limit
    flash: int | None = None
    every_cut: bool = False  # also cuts that seamline has no seam for


@dataclass(frozen=True)
class Candidate:
    """A way to do it. interval: device steps between averages (split) or uploads (local)."""

    mode: Mode
    exit: str
    cut: int
    codec: str
    interval: int
    in_flight: int
    seconds: float
    joules: float
    ram: int
    flash: int
    stages: tuple[float, float, float, float, float]  # device, up, edge, down, round trips
    bytes_up: float
    bytes_down: float

    @property
    def averaging(self) -> float:
        """The step's share of averaging the fronts, in seconds."""
        longest = max(self.stages)
        alone = self.mode == "local"
        step = longest if alone else max(longest, sum(self.stages) / self.in_flight)
        return max(self.seconds - step, 0.0)

    @property
    def bound(self) -> str:
        """What takes most."""
        names = ("the device", "the uplink", "the edge host", "the downlink", "round trips")
        parts = [*zip(self.stages, names, strict=True), (self.averaging, "averaging fronts")]
        return max(parts, key=lambda part: part[0])[1]


@dataclass(frozen=True)
class Found:
    """best, and the best of each (mode, exit, cut, codec) that keeps every limit, best first.
    refused: how many were left out by each limit. limits: those that cost something: what the goal
    would be without each."""

    best: Candidate
    others: tuple[Candidate, ...]
    looked_at: int
    refused: dict[str, int]
    limits: dict[str, float] = field(default_factory=dict)


# ---- the table of all candidates ----


@dataclass(frozen=True)
class _Group:
    """All cuts of one mode, exit and codec; arrays [cut, interval, in flight], flattened."""

    mode: Mode
    of: Branch
    codec: Codec
    rank: int
    cuts: NDArray[np.int64]
    intervals: NDArray[np.int64]
    in_flight: NDArray[np.int64]
    seconds: F64
    joules: F64
    ram: F64
    flash: F64
    stages: F64  # [5, ...]
    up: F64
    down: F64


def search(profile: Profile, link: Link, wish: Wish, others: int = 0) -> Found:
    """The best candidate within all limits. Order: first of `modes`, then the deepest exit that
    keeps the limits, then the goal; of equals the first codec named, the shallowest cut. others:
    how many more to tell of.

    Exact: every combination is computed, as vectors over cuts, intervals and batches in flight
    for each mode, exit and codec. `python tests/edge_host/time_search.py`: 30 units, 3 exits,
    3 codecs, 4 intervals, 2 in flight.

    Raises NoPlan that names the limit that binds and the least possible, ProfileError for an exit
    or codec there is not or energies that are not known, ValueError for a wish out of range.
    """
    _check(profile, wish)
    groups = list(_groups(profile, link, wish))
    if not groups:
        raise NoPlan(f"{profile.model}: no exit on the device to learn from alone: declare one")
    table = {
        name: np.concatenate([getattr(group, name) for group in groups])
        for name in ("seconds", "joules", "ram", "flash")
    }
    rank = np.concatenate([np.full(len(group.seconds), group.rank) for group in groups])
    goal = table["seconds" if wish.goal == "time" else "joules"]
    alive = np.isfinite(table["seconds"])
    if not alive.any():
        raise NoPlan(dead_link(link, profile.model))
    keeps = _limits(profile, wish, table)
    good = alive.copy()
    for kept in keeps.values():
        good &= kept
    if not good.any():
        raise NoPlan(_why(profile, wish, table, alive, keeps))
    order = np.lexsort((goal, rank))
    at = int(order[good[order]][0])
    cheaper = {}
    for name in keeps:
        rest = alive.copy()
        for other, kept in keeps.items():
            rest &= kept if other != name else True
        best = order[rest[order]][0]
        if (rank[best], goal[best]) < (rank[at], goal[at]):
            cheaper[name] = float(goal[best])
    best_first = _best_of_each(groups, order[good[order]], others)
    refused = {name: int((alive & ~kept).sum()) for name, kept in keeps.items()}
    return Found(_candidate(groups, at), best_first, len(goal), refused, cheaper)


def _check(profile: Profile, wish: Wish) -> None:
    if wish.goal == "energy":
        need_energy(profile, wish.goal)
    for name in wish.exits or ():
        if name != END:
            profile.exit(name)
    for what, low, values in (
        ("averaged", 1, wish.averaged),
        ("uploads", 0, wish.uploads),
        ("in_flight", 1, wish.in_flight),
    ):
        if not values or min(values) < low:
            raise ValueError(f"{what}: expected numbers from {low} on, got {values}")
    if wish.deadline is not None and not wish.deadline > 0:
        raise NoPlan(f"a deadline of {wish.deadline:g} s cannot be met: expected more than 0")
    if not wish.load >= 1:
        raise ValueError(f"load: expected at least 1, got {wish.load}")


def _limits(profile: Profile, wish: Wish, table: dict[str, F64]) -> dict[str, NDArray[np.bool_]]:
    """Which candidates keep each limit that there is."""
    ram = profile.ram if wish.ram is None else wish.ram
    flash = profile.flash if wish.flash is None else wish.flash
    keeps = {}
    if wish.deadline is not None:
        keeps["deadline"] = table["seconds"] <= wish.deadline
    if ram:
        keeps["RAM"] = table["ram"] <= ram
    if flash:
        keeps["flash"] = table["flash"] <= flash
    return keeps


def _groups(profile: Profile, link: Link, wish: Wish) -> Iterator[_Group]:
    names = exits_by_depth(profile)
    allowed = names if wish.exits is None else [n for n in names if n in wish.exits]
    codecs = wish.codecs or tuple(codec.name for codec in profile.codecs)
    none: NoPlan | None = None
    some = False
    known: dict[str, _Sums] = {}
    for place, mode in enumerate(wish.modes):
        for depth, name in enumerate(allowed):
            if mode == "local" and (name == END or wish.pass_ != "training"):
                continue
            sums = known.get(name) or _Sums(profile, branch(profile, name), wish)
            known[name], of = sums, sums.of
            try:
                cuts = legal_cuts(profile, of, wish.floor, every=wish.every_cut)
            except NoPlan as error:
                none = none or error
                continue
            if mode == "local" and cuts[-1] != len(of.units):
                continue
            for codec in codecs:
                some = True
                group = _local if mode == "local" else _split
                rank = place * len(names) + depth
                yield group(sums, link, wish, profile.codec(codec), cuts, rank)
    if not some and none is not None:
        raise none


class _Sums:
    """What every codec of a branch shares: sums over units in front of and behind each cut."""

    def __init__(self, profile: Profile, of: Branch, wish: Wish) -> None:
        training = wish.pass_ == "training"
        self.profile, self.of, self.training = profile, of, training
        self.batch = profile.batch if training else 1
        self.device = _before([_time(unit.device, training) for unit in of.units])
        edge = _before([_time(unit.edge, training) for unit in of.units])
        self.edge = wish.load * (edge[-1] - edge)
        macs = _before([unit.macs * self.batch for unit in of.units])
        self.macs = macs * (TRAINING_MACS if training else 1)
        self.values = _before([float(unit.values) for unit in of.units])
        self.weights = 4 * _before([float(unit.parameters) for unit in of.units])
        self.room: dict[tuple[int, ...], tuple[F64, F64]] = {}
        self.shared: dict[tuple[int, ...], tuple[F64, F64, F64]] = {}
        self.ends = np.array(of.last_readers()[:-1]) + 1  # of the cuts that each tensor crosses
        tensors = [self.batch * of.values(tensor) for tensor in range(len(of.units))]
        self.tensors = np.array(tensors, np.int64)
        self.gradients = self.training * (np.arange(len(of.units)) > 0)
        self.many = self._over(self.tensors)
        self.fewer = self._over(self.tensors * self.gradients)

    def _over(self, sizes: NDArray[np.int64]) -> F64:
        """By cut: the sum over what crosses it."""
        count = len(self.ends)
        change = np.zeros(count + 1)
        change[:count] = sizes
        change -= np.bincount(self.ends, sizes, count + 1)
        return np.cumsum(change)

    def crossing(self, codec: Codec) -> tuple[F64, F64]:
        """By cut: bytes up and down of tensors."""
        sizes = codec.head - (-codec.bits * self.tensors // 8)  # `Codec.size` of each
        return self._over(sizes), self._over(sizes * self.gradients)


def _time(times: object, training: bool) -> float:
    found: float = getattr(times, "training" if training else "infer", math.inf)
    return found


def _before(values: Sequence[float]) -> F64:
    return np.concatenate([[0.0], np.cumsum(np.array(values, np.float64))])


def _weights(sums: _Sums, link: Link, cuts: Sequence[int]) -> tuple[F64, F64, F64]:
    """Seconds, bytes up and bytes down of one average of the fronts, by cut; the same for every
    codec.
    """
    key = tuple(cuts)
    if key in sums.shared:
        return sums.shared[key]
    seams = {seam.units: seam for seam in sums.profile.seams}
    up, down = np.zeros(len(cuts)), np.zeros(len(cuts))
    if sums.training:
        for i, cut in enumerate(cuts):
            seam = seams.get(sums.of.whole[cut] or -1)
            up[i] = seam.weights_up if seam else sums.weights[cut]
            down[i] = seam.weights_down if seam else sums.weights[cut]
    turn = link.turn * sums.training
    sums.shared[key] = (_seconds(link, up) + _seconds(link, down, down=True) + turn, up, down)
    return sums.shared[key]


def _seconds(link: Link, size: F64, *, down: bool = False) -> F64:
    """`Link.seconds` for many."""
    rate = (link.down if down else link.up) * (1 - link.loss)
    if rate > 0:
        return 8 * size / rate
    return np.where(size > 0, np.inf, 0.0)


def _split(
    sums: _Sums, link: Link, wish: Wish, codec: Codec, cuts: Sequence[int], rank: int
) -> _Group:
    """One stage after the other; with m batches in flight a step takes as long as the longest
    stage, but at least 1/m of all. Fronts are averaged every `interval` steps."""
    at = np.array(cuts)
    up, down = (part[at] for part in sums.crossing(codec))
    many, fewer = sums.many[at], sums.fewer[at]
    crosses = at < len(sums.of.units)
    up = up + crosses * (LABEL * sums.batch if sums.training else 0)
    down = down + crosses * (0 if sums.training else sums.profile.answer_bytes)
    way_up = _seconds(link, up) + many * (codec.device_pack + codec.edge_unpack)
    way_down = _seconds(link, down, down=True)
    way_down += fewer * (codec.edge_pack + codec.device_unpack)
    turn = link.turn / 2 * ((up > 0).astype(float) + (down > 0))
    stages = np.stack([sums.device[at], way_up, sums.edge[at], way_down, turn])
    joules = _joules(sums, at, up, down, sums.edge[at] + turn)
    steps = np.array(wish.averaged if sums.training else (1,))
    flights = np.array(wish.in_flight)
    average, front_up, front_down = _weights(sums, link, cuts)
    seconds = np.maximum(stages.max(0)[:, None], stages.sum(0)[:, None] / flights)
    whole = seconds[:, None, :] + (average[:, None] / steps)[:, :, None]
    shared = _shared_joules(sums, front_up, front_down)[:, None] / steps
    stash = VALUE_BYTES / 2 * sums.batch * sums.values[at][:, None] * (flights - 1)
    ram, flash = _memory(sums, cuts)
    shape = whole.shape
    return _Group(
        "split", sums.of, codec, rank,
        np.broadcast_to(at[:, None, None], shape).ravel(),
        np.broadcast_to(steps[None, :, None], shape).ravel(),
        np.broadcast_to(flights[None, None, :], shape).ravel(),
        whole.ravel(),
        np.broadcast_to((joules[:, None] + shared)[:, :, None], shape).ravel(),
        np.broadcast_to((ram[:, None] + stash)[:, None, :], shape).ravel(),
        np.broadcast_to(flash[:, None, None], shape).ravel(),
        np.broadcast_to(stages[:, :, None, None], (5, *shape)).reshape(5, -1),
        np.broadcast_to((up[:, None] + front_up[:, None] / steps)[:, :, None], shape).ravel(),
        np.broadcast_to((down[:, None] + front_down[:, None] / steps)[:, :, None], shape).ravel(),
    )  # fmt: skip


def _local(
    sums: _Sums, link: Link, wish: Wish, codec: Codec, cuts: Sequence[int], rank: int
) -> _Group:
    """The device does the whole branch and its head; what the head reads goes up every h-th batch
    and trains the rest of the network meanwhile. Nothing comes down but averages."""
    del cuts  # the head is on the device
    every = np.array(wish.uploads)
    averaged = np.array(wish.averaged)
    cut = len(sums.of.units)
    values = sums.batch * sums.of.values(cut - 1)
    size = codec.size(values) + LABEL * sums.batch
    share = np.where(every > 0, 1 / np.maximum(every, 1), 0.0)
    up = (
        share * (link.seconds(size) + values * (codec.device_pack + codec.edge_unpack))
        if (link.up > 0 or not (every > 0).any())
        else np.where(every > 0, np.inf, 0.0)
    )
    edge = share * wish.load * sum(_time(unit.edge, True) for unit in _behind(sums))
    device = np.full(len(every), sums.device[cut])
    average, front_up, front_down = (part[0] for part in _weights(sums, link, [cut - 1]))
    stages = np.stack([device, up, edge, np.zeros(len(every)), np.zeros(len(every))])
    whole = stages.max(0)[:, None] + average / averaged
    sent = share * size
    energy = _joules(sums, np.array([cut]), sent, np.zeros(len(every)), np.zeros(len(every)))
    shared = _shared_joules(sums, front_up, front_down)
    ram, flash = _memory(sums, [cut])
    shape = whole.shape
    return _Group(
        "local", sums.of, codec, rank,
        np.full(whole.size, cut),
        np.broadcast_to(every[:, None], shape).ravel(),
        np.ones(whole.size, np.int64),
        whole.ravel(),
        (energy[:, None] + shared / averaged).ravel(),
        np.full(whole.size, ram[0]),
        np.full(whole.size, flash[0]),
        np.broadcast_to(stages[:, :, None], (5, *shape)).reshape(5, -1),
        (sent[:, None] + front_up / averaged).ravel(),
        np.broadcast_to(front_down / averaged, shape).ravel(),
    )  # fmt: skip


def _behind(sums: _Sums) -> Sequence[Unit]:
    """The network's units that the exit does not need."""
    found = sums.profile.exit(sums.of.exit)
    return sums.profile.units[found.behind + 1 :]


def _memory(sums: _Sums, cuts: Sequence[int]) -> tuple[F64, F64]:
    """RAM and flash by cut; the same for every codec."""
    key = tuple(cuts)
    if key not in sums.room:
        pass_: Pass = "training" if sums.training else "inference"
        both = [memory(sums.profile, sums.of, cut, pass_) for cut in cuts]
        ram, flash = np.array(both, np.float64).T
        sums.room[key] = (ram, flash)
    return sums.room[key]


def _joules(sums: _Sums, at: NDArray[np.int64], up: F64, down: F64, waits: F64) -> F64:
    energy = sums.profile.energy
    if energy is None:
        return np.full(len(up), math.nan)
    made = energy.mac * sums.macs[at] + energy.byte_up * up + energy.byte_down * down
    return np.asarray(made + energy.wait * waits, np.float64)


def _shared_joules(sums: _Sums, up: F64, down: F64) -> F64:
    """Of one average of the fronts."""
    energy = sums.profile.energy
    if energy is None:
        return np.full(np.shape(up), math.nan)
    return np.asarray(energy.byte_up * up + energy.byte_down * down, np.float64)


# ---- what comes out ----


def _candidate(groups: Sequence[_Group], index: int) -> Candidate:
    for group in groups:
        if index < len(group.seconds):
            break
        index -= len(group.seconds)
    stages = [float(stage) for stage in group.stages[:, index]]
    return Candidate(
        group.mode,
        group.of.exit,
        int(group.cuts[index]),
        group.codec.name,
        int(group.intervals[index]),
        int(group.in_flight[index]),
        float(group.seconds[index]),
        float(group.joules[index]),
        int(group.ram[index]),
        int(group.flash[index]),
        (stages[0], stages[1], stages[2], stages[3], stages[4]),
        float(group.up[index]),
        float(group.down[index]),
    )


def _best_of_each(
    groups: Sequence[_Group], order: NDArray[np.int64], most: int
) -> tuple[Candidate, ...]:
    """The best candidate of each mode, exit, cut and codec, best first."""
    if not most:
        return ()
    number = np.concatenate([_numbers(group, MOST_UNITS * 2 * i) for i, group in enumerate(groups)])
    _, first = np.unique(number[order], return_index=True)
    return tuple(_candidate(groups, int(index)) for index in order[np.sort(first)[:most]])


def _numbers(group: _Group, first: int) -> NDArray[np.int64]:
    """A number for each cut; where nothing crosses, codecs are all the same."""
    if group.mode == "local":
        return first + group.cuts
    return np.where(group.cuts == len(group.of.units), -1 - group.rank, first + group.cuts)


def _why(
    profile: Profile,
    wish: Wish,
    table: dict[str, F64],
    alive: NDArray[np.bool_],
    keeps: dict[str, NDArray[np.bool_]],
) -> str:
    """Which limit binds, and the least possible with the others kept."""
    columns = {"deadline": "seconds", "RAM": "ram", "flash": "flash"}
    for name, kept in keeps.items():
        if (alive & kept).any():
            continue
        return f"{profile.model}: {_least(name, float(table[columns[name]][alive].min()), wish)}"
    for name in keeps:
        rest = alive.copy()
        for other, kept in keeps.items():
            rest &= kept if other != name else True
        if rest.any():
            least = float(table[columns[name]][rest].min())
            others = " and ".join(other for other in keeps if other != name)
            return f"{profile.model}: {_least(name, least, wish)} within the limits of {others}"
    return f"{profile.model}: the limits exclude one another: {', '.join(keeps)}; loosen one"


def _least(name: str, least: float, wish: Wish) -> str:
    if name == "deadline" and wish.deadline is not None:
        return (
            f"the deadline of {1e3 * wish.deadline:g} ms cannot be met: the least possible is "
            f"{1e3 * least:.4g} ms"
        )
    return f"the limit of {name} cannot be kept: the least possible is {least:,.0f} bytes"
