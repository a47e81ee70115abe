"""Where to cut: what each cut of a network costs, and the two classic ways to pick one. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from ..runtime.budget import LABEL
from ..runtime.errors import UserError
from ..runtime.profile import Codec, Link, Profile, ProfileError, Seam, Times, Unit
from .models import CANNOT_CUT

Goal = Literal["time", "energy"]
Pass = Literal["inference", "training"]
END = "end"  # the exit at the network's own end
TRAINING_MACS = 3  # forward, gradients of weights, of inputs
# Of a cut that no planner has laid out: weights, momentum, gradients; values and their gradients.
TRAINING_BYTES, VALUE_BYTES = 12, 8


class NoPlan(UserError):
    """Nothing satisfies what is asked (exit code 5). The text names the constraint."""

    def __init__(self, text: str) -> None:
        super().__init__(text, CANNOT_CUT)


@dataclass(frozen=True)
class Branch:
    """The units that answer at one exit, its head last. whole: of how many of the network's units
    each prefix is made: a cut behind c units of the branch is one behind whole[c] of the network,
    None where they are not the network's first ones."""

    exit: str
    units: tuple[Unit, ...]
    input_values: int
    whole: tuple[int | None, ...]

    def values(self, tensor: int) -> int:
        """Floats of one sample of a tensor; 0 is the input."""
        return self.units[tensor - 1].values if tensor else self.input_values

    def last_readers(self) -> list[int]:
        """The last unit that reads each tensor; -1 for the answer."""
        last = [-1] * (len(self.units) + 1)
        for index, unit in enumerate(self.units):
            for tensor in unit.inputs:
                last[tensor] = index
        return last

    def crossing(self, cut: int) -> list[int]:
        """Tensors that cross a cut behind `cut` units: two inside a residual block."""
        last = self.last_readers()
        return [tensor for tensor in range(cut + 1) if last[tensor] >= cut]

    @property
    def runnable(self) -> int:
        """How many units from the first on a device has kernels for."""
        bad = (i for i, unit in enumerate(self.units) if unit.device is None)
        return next(bad, len(self.units))


def branch(profile: Profile, exit_: str = END) -> Branch:
    """The units that `exit_` needs. Raises ProfileError for an exit there is not."""
    if exit_ == END:
        count = len(profile.units)
        return Branch(END, profile.units, profile.input_values, tuple(range(count + 1)))
    found = profile.exit(exit_)
    needed: set[int] = set()
    ahead = [found.behind]
    while ahead:
        index = ahead.pop()
        if index not in needed:
            needed.add(index)
            ahead += [tensor - 1 for tensor in profile.units[index].inputs if tensor]
    order = sorted(needed)
    moved = {0: 0} | {old + 1: new + 1 for new, old in enumerate(order)}
    units = [_reading(profile.units[old], moved) for old in order]
    units.append(_reading(found.head, moved))
    whole: list[int | None] = [
        c if order[:c] == list(range(c)) else None for c in range(len(units))
    ]
    return Branch(exit_, tuple(units), profile.input_values, (*whole, None))


def _reading(unit: Unit, moved: dict[int, int]) -> Unit:
    inputs = tuple(moved[tensor] for tensor in unit.inputs)
    return msgspec.structs.replace(unit, inputs=inputs)


def exits_by_depth(profile: Profile) -> list[str]:
    """Names of all exits, the deepest (the end) first."""
    inner = sorted(profile.exits, key=lambda found: -found.behind)
    return [END, *(found.name for found in inner)]


# ---- what a cut costs ----


@dataclass(frozen=True)
class Cost:
    """Seconds by stage of one inference or one training step, and what it takes of the device.

    up, down: with packing and unpacking; turn: round trips; joules: nan where not known.
    """

    device: float
    up: float
    edge: float
    down: float
    turn: float
    joules: float
    bytes_up: int
    bytes_down: int

    @property
    def seconds(self) -> float:
        """One stage after the other."""
        return self.device + self.up + self.edge + self.down + self.turn

    def of(self, goal: Goal) -> float:
        return self.seconds if goal == "time" else self.joules

    @property
    def bound(self) -> str:
        """The stage that takes most."""
        stages = {"the device": self.device, "the uplink": self.up, "the edge host": self.edge}
        stages |= {"the downlink": self.down, "round trips": self.turn}
        return max(stages, key=lambda name: stages[name])


@dataclass(frozen=True)
class Scene:
    """All a cost depends on beside network and cut. load: the edge host is so many times slower
    than when it was measured. A codec for both ways."""

    profile: Profile
    link: Link
    codec: Codec
    pass_: Pass = "inference"
    load: float = 1.0

    @property
    def batch(self) -> int:
        return self.profile.batch if self.pass_ == "training" else 1

    def seconds(self, times: Times | None) -> float:
        if times is None:
            return math.inf
        return times.training if self.pass_ == "training" else times.infer


def cost(scene: Scene, of: Branch, cut: int) -> Cost:
    """The cut with `cut` units on the device, 0 to all of them.

    Inference: everything that crosses goes up, the answer comes down. Training: also the labels,
    and down the gradients of what crossed (none of the input's). All on the device: no link.
    """
    if not 0 <= cut <= len(of.units):
        raise ValueError(f"cut: expected 0 to {len(of.units)}, got {cut}")
    training = scene.pass_ == "training"
    crossing = of.crossing(cut)
    given = [t for t in crossing if t] if training else []
    up_values = [scene.batch * of.values(tensor) for tensor in crossing]
    down_values = [scene.batch * of.values(tensor) for tensor in given]
    bytes_up = sum(map(scene.codec.size, up_values))
    bytes_down = sum(map(scene.codec.size, down_values))
    if cut < len(of.units):
        bytes_up += LABEL * scene.batch * training
        bytes_down += scene.profile.answer_bytes * (not training)
    link, codec = scene.link, scene.codec
    device = sum(scene.seconds(unit.device) for unit in of.units[:cut])
    edge = scene.load * sum(scene.seconds(unit.edge) for unit in of.units[cut:])
    up = link.seconds(bytes_up) + sum(up_values) * (codec.device_pack + codec.edge_unpack)
    down = link.seconds(bytes_down, down=True)
    down += sum(down_values) * (codec.edge_pack + codec.device_unpack)
    turn = link.turn / 2 * ((bytes_up > 0) + (bytes_down > 0))
    joules = math.nan
    if scene.profile.energy is not None:
        macs = sum(unit.macs for unit in of.units[:cut]) * scene.batch
        joules = scene.profile.energy.mac * macs * (TRAINING_MACS if training else 1)
        joules += scene.profile.energy.byte_up * bytes_up
        joules += scene.profile.energy.byte_down * bytes_down
        joules += scene.profile.energy.wait * (edge + turn)
    return Cost(device, up, edge, down, turn, joules, bytes_up, bytes_down)


def memory(profile: Profile, of: Branch, cut: int, pass_: Pass) -> tuple[int, int]:
    """Bytes of RAM and flash on the device: the planner's, where seamline can cut there; else an
    estimate. A head on the device is always estimated, and added."""
    seams = {seam.units: seam for seam in profile.seams}
    seam, head = seams.get(of.whole[cut] or -1), 0
    if seam is None and cut == len(of.units) and of.exit != END:
        seam, head = seams.get(of.whole[cut - 1] or -1), 1
    if seam is None:
        return estimate(of.units[:cut], profile.batch, pass_)
    ram, flash = estimate(of.units[cut - 1 : cut], profile.batch, pass_) if head else (0, 0)
    kept = seam.training_ram if pass_ == "training" else seam.inference_ram
    return kept + ram, seam.flash + flash


def estimate(units: Sequence[Unit], batch: int, pass_: Pass) -> tuple[int, int]:
    """RAM and flash of units nobody has planned: f32, every value of a training step at once;
    for inference the largest input and output of a unit."""
    parameters = sum(unit.parameters for unit in units)
    if pass_ == "training":
        values = sum(unit.values for unit in units)
        return TRAINING_BYTES * parameters + VALUE_BYTES * batch * values, 4 * parameters
    values = max((unit.values for unit in units), default=0)
    return VALUE_BYTES * values, 4 * parameters


def legal_cuts(profile: Profile, of: Branch, floor: int = 1, *, every: bool = False) -> list[int]:
    """Cuts that may be chosen: seamline's seams, and all on the device where a head ends the
    branch; with `every` (or where the profile names no seam) any cut the device has kernels for.
    floor: the smallest number of units on the device (what leaves it is then not raw).

    Raises NoPlan if there is none.
    """
    able = range(floor, of.runnable + 1)
    seams = {seam.units for seam in profile.seams}
    if every or not seams:
        found = list(able)
    else:
        found = [cut for cut in able if of.whole[cut] in seams or _at_head(of, cut, seams)]
    if not found:
        raise NoPlan(
            f"{profile.model}, exit {of.exit}: there is no legal seam with at least {floor} units "
            f"on the device; it has kernels for the first {of.runnable} of {len(of.units)}"
        )
    return found


def _at_head(of: Branch, cut: int, seams: Collection[int]) -> bool:
    return cut == len(of.units) and of.exit != END and of.whole[cut - 1] in seams


def seam_of(profile: Profile, of: Branch, cut: int) -> Seam | None:
    """The seam in the job file that a cut is."""
    return next((seam for seam in profile.seams if seam.units == of.whole[cut]), None)


# ---- Neurosurgeon ----


@dataclass(frozen=True)
class Decision:
    """One cut of one branch and its cost."""

    exit: str
    cut: int
    codec: str
    cost: Cost


def scan(scene: Scene, of: Branch, cuts: Collection[int] | None = None) -> Iterator[Decision]:
    """Every cut and its cost. cuts: default all that the device can run."""
    for cut in range(of.runnable + 1) if cuts is None else cuts:
        yield Decision(of.exit, cut, scene.codec.name, cost(scene, of, cut))


def neurosurgeon(
    scene: Scene, of: Branch, goal: Goal = "time", cuts: Collection[int] | None = None
) -> Decision:
    """The cheapest cut by latency or the device's energy: scan all (Kang et al., Neurosurgeon,
    ASPLOS 2017, https://doi.org/10.1145/3037697.3037698). The shallowest of equals.

    cuts: default all that the device can run, none and all included. Raises NoPlan where no cut
    is finite (no bandwidth, and the device cannot do it alone) or energies are not known.
    """
    need_energy(scene.profile, goal)
    best = min(scan(scene, of, cuts), key=lambda it: (it.cost.of(goal), it.cut), default=None)
    if best is None:
        raise NoPlan(f"{scene.profile.model}, exit {of.exit}: no cut is allowed")
    if not math.isfinite(best.cost.seconds):
        raise NoPlan(dead_link(scene.link, scene.profile.model))
    return best


def dead_link(link: Link, model: str) -> str:
    """Why nothing works on a link that carries nothing, in words."""
    return (
        f"the link carries {link.up:g} bit/s up and {link.down:g} down, so no seam of {model} can "
        "be used and no front averaged, and there is no way that needs no link: give a link with "
        "bandwidth, or an exit on the device"
    )


def need_energy(profile: Profile, goal: Goal) -> None:
    """Raises ProfileError if energy is asked for and the profile has none."""
    if goal == "energy" and profile.energy is None:
        raise ProfileError(
            f"the profile of {profile.model} has no energy: give joules per multiply-add and byte"
        )


# ---- Edgent ----


def edgent(
    scene: Scene,
    deadline: float,
    exits: Sequence[str] | None = None,
    floor: int = 0,
    *,
    legal: bool = False,
) -> Decision:
    """The deepest exit whose fastest cut takes at most `deadline` seconds (Li, Zeng, Zhou, Chen:
    Edge AI, arXiv:1910.05316, static configurator).

    exits: default all. legal: only seams that seamline can run, not any cut. Raises NoPlan with the
    least that is possible, and ProfileError for an exit there is not.
    """
    order = exits_by_depth(scene.profile)
    allowed = order if exits is None else [name for name in order if name in set(exits)]
    for name in exits or ():
        branch(scene.profile, name)
    tried = []
    for name in allowed:
        of = branch(scene.profile, name)
        found = neurosurgeon(scene, of, cuts=_cuts(scene, of, floor, legal=legal))
        if found.cost.seconds <= deadline:
            return found
        tried.append(found)
    if not tried:
        raise NoPlan(f"{scene.profile.model}: no exit is allowed")
    least = min(tried, key=lambda it: it.cost.seconds)
    raise NoPlan(
        f"the deadline of {1e3 * deadline:g} ms cannot be met: the least is "
        f"{1e3 * least.cost.seconds:.3g} ms (exit {least.exit}, {least.cut} units on the device, "
        f"{least.codec}), most of it {least.cost.bound}"
    )


def _cuts(scene: Scene, of: Branch, floor: int, *, legal: bool) -> Sequence[int]:
    if legal:
        return legal_cuts(scene.profile, of, max(floor, 1))
    return range(floor, of.runnable + 1)


@dataclass(frozen=True)
class StateMap:
    """Bandwidth states, ascending, in bits a second, and what to do in each. meets: is the
    deadline kept there?"""

    states: tuple[float, ...]
    decisions: tuple[Decision, ...]
    meets: tuple[bool, ...]

    def at(self, bandwidth: float) -> Decision:
        """Of the largest state that is not above the bandwidth, so that a deadline that is kept in
        the state is kept here, too; of the smallest below all."""
        return self.decisions[max(bisect_right(self.states, bandwidth) - 1, 0)]


def edgent_map(
    scene: Scene,
    states: Sequence[float],
    deadline: float,
    exits: Sequence[str] | None = None,
    *,
    legal: bool = False,
) -> StateMap:
    """The dynamic configurator of arXiv:1910.05316: what `edgent` does in each bandwidth state,
    made before and looked up after a change. Up and down scale alike. Where no exit meets the
    deadline, the fastest there is.

    states: bits a second up, ascending, above 0. Raises ValueError for others.
    """
    if not states or list(states) != sorted(set(states)) or states[0] <= 0:
        raise ValueError(f"states: expected ascending bits a second above 0, got {list(states)}")
    ratio = scene.link.down / scene.link.up if scene.link.up > 0 else 1.0
    decisions, meets = [], []
    for rate in states:
        link = Link(rate, rate * ratio, scene.link.round_trip, scene.link.loss)
        there = Scene(scene.profile, link, scene.codec, scene.pass_, scene.load)
        try:
            decisions.append(edgent(there, deadline, exits, legal=legal))
            meets.append(True)
        except NoPlan:
            decisions.append(_fastest(there, exits, legal=legal))
            meets.append(False)
    return StateMap(tuple(states), tuple(decisions), tuple(meets))


def _fastest(scene: Scene, exits: Sequence[str] | None, *, legal: bool) -> Decision:
    names = exits_by_depth(scene.profile) if exits is None else exits
    branches = [branch(scene.profile, name) for name in names]
    every = [neurosurgeon(scene, of, cuts=_cuts(scene, of, 0, legal=legal)) for of in branches]
    return min(every, key=lambda it: it.cost.seconds)


# ---- against plain federated learning ----


@dataclass(frozen=True)
class BreakEven:
    """Floats that cross the links in a round: split, 2 p q, beside federated, 2 K (1 - b) |W|."""

    samples: int
    cut_values: int
    devices: int
    back_parameters: int

    @property
    def split(self) -> int:
        return 2 * self.samples * self.cut_values

    @property
    def federated(self) -> int:
        return 2 * self.devices * self.back_parameters

    @property
    def split_wins(self) -> bool:
        return self.split < self.federated

    @property
    def most_samples(self) -> int:
        """Samples a round below which split sends less."""
        return math.ceil(self.federated / (2 * self.cut_values)) if self.cut_values else 0

    def text(self) -> str:
        who = "split" if self.split_wins else "plain federated learning"
        return (
            f"break-even: 2pq = {self.split:,} values against 2K(1-b)|W| = {self.federated:,}: "
            f"{who} sends less; split does below {self.most_samples:,} samples a round"
        )


def break_even(
    profile: Profile, cut: int, samples: int, devices: int, exit_: str = END
) -> BreakEven:
    """When split learning sends less than plain federated learning (Singh et al.,
    arXiv:1909.09145, with the front averaged in both). samples: of all devices in a round."""
    of = branch(profile, exit_)
    values = sum(map(of.values, of.crossing(cut)))
    return BreakEven(samples, values, devices, sum(unit.parameters for unit in of.units[cut:]))
