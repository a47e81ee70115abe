"""The joint search against one candidate after the other, and what it says when there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import msgspec
import numpy as np
import pytest
from seamline.edge_host.partition import (
    END,
    Goal,
    NoPlan,
    Scene,
    branch,
    cost,
    exits_by_depth,
    legal_cuts,
    memory,
)
from seamline.edge_host.search import Candidate, Mode, Wish, search
from seamline.runtime.profile import Codec, Link, Profile, ProfileError, Seam, Times, Unit
from small_profiles import CODECS, make_link, make_profile

Key = tuple[str, str, int, str, int, int]
Table = dict[Key, tuple[int, float, float, int, int]]  # rank, seconds, joules, RAM, flash


def split_ones(profile: Profile, link: Link, wish: Wish) -> Table:
    """(rank, seconds, joules, RAM, flash) of every split candidate."""
    found: Table = {}
    training = wish.pass_ == "training"
    names = exits_by_depth(profile)
    for depth, name in enumerate(names):
        if wish.exits is not None and name not in wish.exits:
            continue
        of = branch(profile, name)
        try:
            cuts = legal_cuts(profile, of, wish.floor, every=wish.every_cut)
        except NoPlan:
            continue
        for cut, codec in product(cuts, wish.codecs or [c.name for c in profile.codecs]):
            scene = Scene(profile, link, profile.codec(codec), wish.pass_, wish.load)
            there = cost(scene, of, cut)
            stages = (there.device, there.up, there.edge, there.down, there.turn)
            ram, flash = memory(profile, of, cut, wish.pass_)
            size = 4 * sum(unit.parameters for unit in of.units[:cut])
            seam = next((s for s in profile.seams if s.units == of.whole[cut]), None)
            up, down = (seam.weights_up, seam.weights_down) if seam else (size, size)
            average = link.seconds(up) + link.seconds(down, down=True) + link.turn
            assert profile.energy is not None
            shared = profile.energy.byte_up * up + profile.energy.byte_down * down
            stash = 4 * profile.batch * sum(unit.values for unit in of.units[:cut])
            for steps, m in product(wish.averaged if training else (1,), wish.in_flight):
                seconds = max(*stages, sum(stages) / m) + (average / steps if training else 0)
                kept = ram + (stash if training else stash // profile.batch) * (m - 1)
                joules = there.joules + (shared / steps if training else 0)
                rank = wish.modes.index("split") * len(names) + depth
                found["split", name, cut, codec, steps, m] = (rank, seconds, joules, kept, flash)
    return found


def local_ones(profile: Profile, link: Link, wish: Wish) -> Table:
    """The same of the device that learns alone."""
    found: Table = {}
    names = exits_by_depth(profile)
    for depth, name in enumerate(names):
        if name == END or (wish.exits is not None and name not in wish.exits):
            continue
        of, behind = branch(profile, name), profile.exit(name).behind
        cut = len(of.units)
        if of.runnable < cut or cut < wish.floor:
            continue
        parameters = 4 * sum(unit.parameters for unit in of.units[:-1])
        average = link.seconds(parameters) + link.seconds(parameters, down=True) + link.turn
        ram, flash = memory(profile, of, cut, "training")
        values = profile.batch * of.units[-2].values
        macs = 3 * profile.batch * sum(unit.macs for unit in of.units)
        device = sum(unit.device.forward + unit.device.backward for unit in of.units if unit.device)
        rest = sum(u.edge.forward + u.edge.backward for u in profile.units[behind + 1 :])
        energy = profile.energy
        assert energy is not None
        for codec, h, steps in product(profile.codecs, wish.uploads, wish.averaged):
            size = codec.size(values) + 2 * profile.batch
            up = link.seconds(size) + values * (codec.device_pack + codec.edge_unpack) if h else 0.0
            longest = max(device, up / h if h else 0, wish.load * rest / h if h else 0)
            joules = energy.mac * macs + energy.byte_up * (size / h if h else 0)
            joules += (energy.byte_up + energy.byte_down) * parameters / steps
            rank = wish.modes.index("local") * len(names) + depth
            key = ("local", name, cut, codec.name, h, steps)
            found[key] = (rank, longest + average / steps, joules, ram, flash)
    return found


def best_of(every: Table, wish: Wish) -> tuple[int, float] | None:
    """(rank, goal) of the best that keeps the limits."""
    good = [
        (rank, seconds if wish.goal == "time" else joules)
        for rank, seconds, joules, ram, flash in every.values()
        if math.isfinite(seconds)
        and (wish.deadline is None or seconds <= wish.deadline)
        and (not wish.ram or ram <= wish.ram)
        and (not wish.flash or flash <= wish.flash)
    ]
    return min(good, default=None)


def wish_of(seed: int) -> Wish:
    random = np.random.default_rng(seed)
    training = bool(seed % 2)
    goal: Goal = "energy" if seed % 3 == 0 else "time"
    modes: tuple[Mode, ...] = (("split",), ("split", "local"), ("local", "split"))[
        seed % 3 if training else 0
    ]
    return Wish(
        pass_="training" if training else "inference",
        goal=goal,
        deadline=float(random.uniform(0.005, 0.3)) if random.random() < 0.6 else None,
        modes=modes,
        averaged=(1, 5, 20)[: 1 + seed % 3],
        uploads=(1, 5, 0)[: 1 + seed % 3],
        in_flight=(1, 2, 4)[: 1 + seed % 2],
        load=float(random.uniform(1, 3)),
        floor=int(random.integers(0, 3)),
        ram=int(random.integers(20_000, 400_000)) if random.random() < 0.5 else None,
        flash=int(random.integers(5_000, 100_000)) if random.random() < 0.3 else None,
    )


def test_the_search_finds_the_best_of_all_candidates() -> None:
    kept = refused = local = 0
    for seed in range(400):
        profile = make_profile(seed, residual=seed % 2 == 0, exits=seed % 4, able=seed % 5 > 0)
        link, wish = make_link(seed), wish_of(seed)
        every = {} if wish.modes == () else split_ones(profile, link, wish)
        if "local" in wish.modes:
            every |= local_ones(profile, link, wish)
        best = best_of(every, wish)
        if best is None:
            refused += 1
            with pytest.raises(NoPlan):
                search(profile, link, wish)
            continue
        kept += 1
        found = search(profile, link, wish, 5).best
        value = found.seconds if wish.goal == "time" else found.joules
        assert value == pytest.approx(best[1]), seed
        depth = exits_by_depth(profile).index(found.exit)
        assert wish.modes.index(found.mode) * (len(profile.exits) + 1) + depth == best[0]
        local += found.mode == "local"
    assert kept > 150 and refused > 50 and local > 15


def test_candidates_come_best_first_and_agree_with_the_table() -> None:
    profile, link = make_profile(3, exits=2), make_link(3)
    found = search(profile, link, Wish(exits=(END,), in_flight=(1, 2)), 100)
    assert found.others[0] == found.best
    assert len(found.others) == (len(profile.units) - 1) * len(CODECS) + 1  # codecs of no use
    seconds = [other.seconds for other in found.others]
    assert seconds == sorted(seconds)
    every = split_ones(profile, link, Wish(exits=(END,), in_flight=(1, 2)))
    for other in found.others:
        key = (other.mode, other.exit, other.cut, other.codec, other.interval, other.in_flight)
        assert every[key][1] == pytest.approx(other.seconds)
        assert every[key][3] == other.ram


def device_edge(count: int = 4) -> Profile:
    device, edge = Times(0.01, 0.02, 0.03), Times(0.001, 0.002, 0.003)
    units = tuple(Unit(f"u{i}", "dense", (i,), 100, 1000, 10, edge, device) for i in range(count))
    seams = tuple(
        Seam(c, c, f"u{c - 1}", 20_000 * c, 500 * c, 4000 * c, 4000 * c, 4000 * c)
        for c in (1, 2, 3)
    )
    return Profile("net", "d", "e", 4, 100, units, seams, codecs=(Codec("int8", 10, 8),))


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (Wish(deadline=1e-3), r"deadline of 1 ms cannot be met: the least possible is 2\d\.\d+ ms"),
        (
            Wish("training", ram=100),
            "limit of RAM cannot be kept: the least possible is 20,000 bytes",
        ),
        (Wish("training", flash=100), "limit of flash cannot be kept: the least possible is 4,000"),
        (Wish(floor=4), "no legal seam with at least 4 units on the device"),
        (Wish("training", modes=("local",)), "no exit on the device to learn from alone"),
        (Wish(deadline=0), "expected more than 0"),
    ],
)
def test_what_binds_is_named(wish: Wish, text: str) -> None:
    with pytest.raises(NoPlan, match=text):
        search(device_edge(), Link(1e6, 1e6, 0.01), wish)


def test_limits_that_only_together_exclude_all_are_named() -> None:
    slow = device_edge()
    big = msgspec.structs.replace(slow.units[0], values=10_000)
    profile = msgspec.structs.replace(slow, units=(big, *slow.units[1:]))
    link = Link(1e6, 1e6)
    alone = search(profile, link, Wish("training", averaged=(1000,))).best
    assert alone.cut == 2  # the first cut is behind a large tensor
    wish = Wish("training", averaged=(1000,), ram=20_000, deadline=alone.seconds * 1.01)
    with pytest.raises(NoPlan, match=r"the least possible is .* within the limits of RAM"):
        search(profile, link, wish)


def test_a_limit_that_costs_something_is_told() -> None:
    slow = device_edge()
    big = msgspec.structs.replace(slow.units[0], values=10_000)
    profile = msgspec.structs.replace(slow, units=(big, *slow.units[1:]))
    link, wish = Link(1e6, 1e6), Wish("training", averaged=(1000,))
    free, bound = search(profile, link, wish), search(profile, link, replace(wish, ram=20_000))
    assert (free.best.cut, free.limits) == (2, {})
    assert bound.best.cut == 1
    assert bound.limits == {"RAM": pytest.approx(free.best.seconds)}
    assert bound.refused["RAM"] == 2


def test_a_dead_link_is_said_unless_the_device_can_do_it_alone() -> None:
    with pytest.raises(NoPlan, match="carries 0 bit/s up"):
        search(device_edge(), Link(0, 0), Wish())
    found = search(device_edge(), Link(0, 0), Wish(every_cut=True)).best
    assert (found.cut, found.bytes_up) == (4, 0)


def test_what_is_not_there_or_not_known_is_said() -> None:
    link = Link(1e6, 1e6)
    with pytest.raises(ProfileError, match="no exit 'early'"):
        search(device_edge(), link, Wish(exits=("early",)))
    with pytest.raises(ProfileError, match="no codec 'int2'"):
        search(device_edge(), link, Wish(codecs=("int2",)))
    with pytest.raises(ProfileError, match="no energy"):
        search(device_edge(), link, Wish(goal="energy"))
    for wrong in (Wish(in_flight=(0,)), Wish(averaged=()), Wish(uploads=(-1,)), Wish(load=0.5)):
        with pytest.raises(ValueError, match="expected"):
            search(device_edge(), link, wrong)


def test_the_longest_stage_is_what_bounds() -> None:
    found = search(device_edge(), Link(1e3, 1e9), Wish(in_flight=(8,)))
    assert isinstance(found.best, Candidate)
    assert found.best.bound == "the uplink"
    assert search(device_edge(), Link(1e9, 1e9), Wish()).best.bound == "the device"


def test_averaging_that_takes_most_is_said() -> None:
    wish = Wish("training", floor=3)
    found = search(device_edge(), Link(1e5, 1e5), wish).best
    assert found.bound == "averaging fronts"
    assert found.averaging == pytest.approx(2 * 8 * 12_000 / 1e5)
