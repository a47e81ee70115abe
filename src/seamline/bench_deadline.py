"""Deadlines in `seamline bench plan`: Edgent's map and a change-point detector on a link whose
bandwidth changes in steps."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import msgspec

from .edge_host.bench_exits import Branchy, add_exits
from .edge_host.measure import Setting
from .edge_host.partition import Decision, Scene, branch, cost, edgent_map
from .edge_host.real_step import Model, Place, RealSteps, Stages
from .plan_link import send, slower
from .runtime.change import Watch
from .runtime.faults import Faults
from .runtime.network_trace import Schedule, Step, Trace, make_trace
from .runtime.profile import Link, Profile
from .runtime.shaped_line import ShapedLine

Row = dict[str, Any]
RATES = (50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000)
STATES = tuple(4e4 * 1.27**step for step in range(25))  # bits a second, to 12 Mbit/s
DELAY_MS = 1.0  # each way: a local network
STEPS, ASKED = 16, 200  # of the bandwidth, and inferences in each
TIGHT = 0.9  # of what the device takes alone to the network's end
MARGIN = 0.9  # of the deadline that a plan may use
PAUSE = 1.5  # deadlines between two questions
PROBE = 256  # bytes, where nothing else crosses
CHUNK = 1000  # bytes of a message that show a bandwidth
CODEC = "int8"


@dataclass(frozen=True)
class Scenery:
    """What the deadline is to be kept with. tables: least times, of which a slower device's are
    made: a microcontroller does not stumble as a shared machine does."""

    branchy: Branchy
    real: dict[str, RealSteps]
    tables: dict[str, dict[Place, Stages]]
    slow: float
    deadline: float
    trace: Trace


def deadline_rows(name: str, model: Model, profile: Profile, args: argparse.Namespace) -> list[Row]:
    """One row: how often the deadline was kept with the detector, with a map that always knows the
    bandwidth, and with the plan of the first bandwidth for ever."""
    setting = Setting(name, profile.device, profile.edge, profile.batch, args.repeat)
    branchy = add_exits(model, profile, setting)
    real = {
        exit_: RealSteps(it, branchy.profiles[exit_], "inference")
        for exit_, it in branchy.models.items()
    }
    tables = {exit_: steps.measure(args.repeat) for exit_, steps in real.items()}
    slowed = slower(_refined(branchy, tables), args.slow)
    scene = Scene(slowed, Link(1e6, 1e6, 2 * DELAY_MS / 1e3), slowed.codec(CODEC))
    whole = branch(slowed)
    deadline = TIGHT * cost(scene, whole, whole.runnable).device
    found = edgent_map(scene, STATES, MARGIN * deadline, legal=True)
    scenery = Scenery(branchy, real, tables, args.slow, deadline, _trace(args.seed, deadline))
    schedule = Schedule(scenery.trace, "up")
    first = found.at(float(schedule.rate(0)))
    watch = Watch()
    plan = [first]

    def follow(now_us: int, seen: Sequence[float]) -> Decision:
        changed = [rate for rate in seen if watch.add(rate) is not None]
        if changed and watch.estimate is not None:
            plan[0] = found.at(watch.estimate)
        return plan[0]

    with_detector, deepest = _hits(scenery, follow)
    known, _ = _hits(scenery, lambda now_us, seen: found.at(float(schedule.rate(now_us))))
    fixed, _ = _hits(scenery, lambda now_us, seen: first)
    return [
        {
            "net": name,
            "slow": args.slow,
            "deadline_ms": 1e3 * deadline,
            "asked": STEPS * ASKED,
            "steps": STEPS,
            "hits": with_detector,
            "hits_known": known,
            "hits_fixed": fixed,
            "deepest": deepest,
            "states_met": sum(found.meets) / len(found.meets),
        }
    ]


def _refined(branchy: Branchy, tables: dict[str, dict[Place, Stages]]) -> Profile:
    """The profile after live runs: what they take beside the sums of their units (calls, messages)
    counts with the first unit; the most of all, so that a plan promises no more than was seen."""
    worst = 0.0
    for exit_, table in tables.items():
        profile = branchy.profiles[exit_]
        for place, stages in table.items():
            units = profile.units[: place.units]
            alone = sum(unit.device.infer for unit in units if unit.device is not None)
            values = profile.units[place.units - 1].values
            packing = values * profile.codec(place.codec).device_pack * (stages.up > 0)
            if place.units:
                worst = max(worst, stages.before - alone - packing)
    first = branchy.profile.units[0]
    assert first.device is not None
    took = msgspec.structs.replace(first.device, infer=first.device.infer + worst)
    first = msgspec.structs.replace(first, device=took)
    return msgspec.structs.replace(branchy.profile, units=(first, *branchy.profile.units[1:]))


def _trace(seed: int, deadline: float) -> Trace:
    """Each bandwidth as often as the others, in an order that the seed gives; never twice the same
    in a row."""
    draw, rates = random.Random(seed), list(RATES) * (STEPS // len(RATES))
    while any(a == b for a, b in pairwise(rates)):
        draw.shuffle(rates)
    length = round(1e6 * ASKED * PAUSE * deadline)
    return make_trace(
        "steps", [Step(i * length, rate, rate, DELAY_MS) for i, rate in enumerate(rates)]
    )


def _hits(
    scenery: Scenery, choose: Callable[[int, Sequence[float]], Decision]
) -> tuple[float, float]:
    """Shares of questions answered in time, and of those answered at the network's end. A question
    that comes while one is being answered waits, its time counts from when it came, and it is
    dropped where its deadline is over before. choose:
    told the moment and the bandwidths seen since it was last asked."""
    up, down = (ShapedLine(scenery.trace, Faults(), to=to) for to in "ba")
    period, free, probed = PAUSE * scenery.deadline * 1e6, 0, 0
    kept, deep = 0, 0
    seen: list[float] = []
    for number in range(STEPS * ASKED):
        asked = round(number * period)
        start = max(asked, free)
        if start - asked > 1e6 * scenery.deadline:
            continue  # too late to be answered at all
        decision = choose(start, seen)
        stages = _run(scenery, decision)
        end, seen = _answer((up, down), stages, start, scenery.slow)
        if not stages.up and end >= probed:  # a probe goes when the answer is there
            pieces: list[tuple[int, int]] = []
            probed = send(up, PROBE, end, pieces=pieces)
            seen = rates_of(pieces, end, DELAY_MS)
        kept += end - asked <= 1e6 * scenery.deadline
        deep += decision.exit == "end"
        free = end
    return kept / (STEPS * ASKED), deep / (STEPS * ASKED)


def _run(scenery: Scenery, decision: Decision) -> Stages:
    """The computing of one inference: the edge host's as it takes now."""
    profile = scenery.branchy.profiles[decision.exit]
    of = branch(scenery.branchy.profile, decision.exit)
    units = len(profile.units) if decision.cut == len(of.units) else decision.cut
    seam = next(seam for seam in profile.seams if seam.units == units)
    codec = profile.codecs[0].name if units == len(profile.units) else CODEC
    place = Place(units, seam.number, codec)
    now = scenery.real[decision.exit].run(place)
    return replace(scenery.tables[decision.exit][place], edge=now.edge)


def _answer(
    ways: tuple[ShapedLine, ShapedLine], stages: Stages, start: int, slow: float
) -> tuple[int, list[float]]:
    """When the answer is there, and the bits a second that the uplink has shown."""
    now = start + round(1e6 * slow * stages.before)
    if not stages.up:
        return now, []
    pieces: list[tuple[int, int]] = []
    come = send(ways[0], stages.up, now, pieces=pieces)
    back = send(ways[1], stages.down, come + round(1e6 * stages.edge))
    return back + round(1e6 * slow * stages.after), rates_of(pieces, now, DELAY_MS)


def rates_of(pieces: Sequence[tuple[int, int]], start_us: int, delay_ms: float) -> list[float]:
    """Bits a second of each CHUNK bytes of a message that began at start_us; one of a shorter
    message. pieces: (microsecond, bytes) as they came."""
    found: list[float] = []
    last, size = start_us + 1e3 * delay_ms, 0
    for at, count in pieces:
        size += count
        if size >= CHUNK or (at, count) == pieces[-1]:
            if at > last and (size >= CHUNK or not found):
                found.append(8e6 * size / (at - last))
            last, size = float(at), 0
    return found
