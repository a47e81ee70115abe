"""JointDNN against every placement there is: shortest path, integer program, limits."""

from __future__ import annotations

import math
from itertools import product

import msgspec
import pytest
from seamline.edge_host.joint_dnn import DEVICE, EDGE, Limits, joint_dnn, joint_dnn_within, total
from seamline.edge_host.partition import (
    Branch,
    Goal,
    NoPlan,
    Pass,
    Scene,
    branch,
    cost,
    estimate,
)
from seamline.runtime.profile import Codec, Link, Profile, ProfileError, Times, Unit
from small_profiles import CODECS, make_link, make_profile

PASSES: tuple[Pass, ...] = ("inference", "training")
GOALS: tuple[Goal, ...] = ("time", "energy")


def every_placement(of: Branch) -> list[tuple[int, ...]]:
    sides = [(EDGE,) if unit.device is None else (DEVICE, EDGE) for unit in of.units]
    return list(product(*sides))


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("goal", GOALS)
def test_the_shortest_path_is_the_best_of_all_placements(pass_: Pass, goal: Goal) -> None:
    hops = set()
    for seed in range(100):
        profile = make_profile(seed, residual=seed % 3 > 0, able=seed % 4 > 0)
        link = Link(1e8, 1e8, 1e-4) if seed % 2 else make_link(seed)
        device = make_link(seed).up < 3e5  # sometimes a device as fast as the edge host
        scene = Scene(profile, link, CODECS[seed % 3], pass_, 10.0 if device else 1.0)
        of = branch(profile)
        every = [total(scene, of, sides) for sides in every_placement(of)]
        found = joint_dnn(scene, of, goal)
        least = min(p.seconds if goal == "time" else p.joules for p in every)
        assert (found.seconds if goal == "time" else found.joules) == pytest.approx(least)
        hops.add(found.hops)
    assert len(hops) > 2 or goal == "energy"


@pytest.mark.parametrize("pass_", PASSES)
def test_one_hop_of_a_chain_costs_what_a_cut_costs(pass_: Pass) -> None:
    for seed in range(60):
        profile = make_profile(seed)
        scene = Scene(profile, make_link(seed), CODECS[seed % 3], pass_, 2.0)
        of = branch(profile)
        for cut in range(len(of.units) + 1):
            sides = [DEVICE] * cut + [EDGE] * (len(of.units) - cut)
            placed, there = total(scene, of, sides), cost(scene, of, cut)
            assert placed.seconds == pytest.approx(there.seconds)
            assert placed.joules == pytest.approx(there.joules)


@pytest.mark.parametrize("goal", GOALS)
def test_the_program_is_the_best_placement_within_its_limits(goal: Goal) -> None:
    kept = refused = 0
    for seed in range(120):
        profile = make_profile(seed, residual=seed % 2 == 0, able=seed % 5 > 0)
        pass_ = PASSES[seed % 2]
        scene = Scene(profile, make_link(seed), CODECS[seed % 3], pass_)
        of = branch(profile)
        every = [total(scene, of, sides) for sides in every_placement(of)]
        middle = sorted(every, key=lambda p: p.seconds)[len(every) // 3]
        by_joules = sorted(p.joules for p in every)
        limits = Limits(
            seconds=middle.seconds * (0.3 if seed % 7 == 0 else 1.001) if seed % 2 else None,
            joules=by_joules[0 if seed % 5 == 0 else len(every) // 3] * 1.001 if seed % 3 else None,
            ram=estimate(of.units[: len(of.units) // 2], profile.batch, pass_)[0] + 1,
            first=int(seed % 4 == 0 and profile.units[0].device is not None),
        )
        good = [p for p in every if within(p, of, profile, pass_, limits)]
        if not good:
            refused += 1
            with pytest.raises(NoPlan, match=r"the least possible is|all together"):
                joint_dnn_within(scene, of, limits, goal)
            continue
        kept += 1
        found = joint_dnn_within(scene, of, limits, goal)
        least = min(p.seconds if goal == "time" else p.joules for p in good)
        assert (found.seconds if goal == "time" else found.joules) == pytest.approx(least, rel=1e-5)
        assert any(found.sides == p.sides for p in good)
    assert kept > 40 and refused > 10


def within(placed: object, of: Branch, profile: Profile, pass_: Pass, limits: Limits) -> bool:
    assert hasattr(placed, "sides") and hasattr(placed, "seconds") and hasattr(placed, "joules")
    here = [u for u, side in zip(of.units, placed.sides, strict=True) if side == DEVICE]
    ram = sum(estimate([unit], profile.batch, pass_)[0] for unit in here)
    return (
        (limits.seconds is None or placed.seconds <= limits.seconds)
        and (limits.joules is None or placed.joules <= limits.joules)
        and (limits.ram is None or ram <= limits.ram)
        and all(side == DEVICE for side in placed.sides[: limits.first])
    )


def slow_in_the_middle() -> Profile:
    """Three units; the device is slow at the second only, the input is small, so is all else."""
    fast, slow = Times(0.001, 0.001, 0.001), Times(10, 10, 10)
    units = tuple(
        Unit(f"u{i}", "dense", (i,), 10, 100, 1, edge, device)
        for i, (device, edge) in enumerate([(fast, slow), (slow, fast), (fast, slow)])
    )
    return Profile("m", "d", "e", 1, 10, units, codecs=(Codec("f32", 0, 32),))


def test_it_hops_there_and_back() -> None:
    profile = slow_in_the_middle()
    scene = Scene(profile, Link(1e6, 1e6, 0.001), profile.codecs[0])
    assert joint_dnn(scene, branch(profile)).sides == (DEVICE, EDGE, DEVICE)
    training = Scene(profile, Link(1e6, 1e6, 0.001), profile.codecs[0], "training")
    assert joint_dnn(training, branch(profile)).sides == (DEVICE, EDGE, DEVICE)


def test_a_limit_that_cannot_be_kept_is_named_with_the_least_possible() -> None:
    profile = slow_in_the_middle()
    scene = Scene(profile, Link(1e6, 1e6, 0.001), profile.codecs[0])
    of = branch(profile)
    least = joint_dnn(scene, of).seconds
    with pytest.raises(NoPlan, match=rf"0.001 s cannot be kept: the least possible is {least:.4g}"):
        joint_dnn_within(scene, of, Limits(seconds=0.001))
    with pytest.raises(NoPlan, match=r"50 bytes of RAM cannot be kept"):
        joint_dnn_within(scene, of, Limits(ram=50, first=1))
    with pytest.raises(NoPlan, match="all together"):
        joint_dnn_within(
            scene, of, Limits(seconds=2 * least, ram=estimate(of.units[:1], 1, "inference")[0])
        )
    with pytest.raises(ProfileError, match="no energy"):
        joint_dnn_within(scene, of, Limits(joules=1.0))


def test_a_dead_link_leaves_one_side() -> None:
    profile = slow_in_the_middle()
    scene = Scene(profile, Link(0, 0), profile.codecs[0])
    assert joint_dnn(scene, branch(profile)).sides == (DEVICE,) * 3
    assert joint_dnn_within(scene, branch(profile), Limits()).sides == (DEVICE,) * 3
    units = (*profile.units[:2], msgspec.structs.replace(profile.units[2], device=None))
    unable = msgspec.structs.replace(profile, units=units)
    there = Scene(unable, Link(0, 0), profile.codecs[0])
    for plan in (
        lambda: joint_dnn(there, branch(unable)),
        lambda: joint_dnn_within(there, branch(unable), Limits()),
    ):
        with pytest.raises(NoPlan, match="carries 0 bit/s"):
            plan()
    assert math.isfinite(
        joint_dnn(Scene(unable, Link(1e6, 1e6), profile.codecs[0]), branch(unable)).seconds
    )
