"""Cuts: their costs by hand and by brute force, Neurosurgeon, Edgent, what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from seamline.edge_host.partition import (
    END,
    Branch,
    Decision,
    NoPlan,
    Pass,
    Scene,
    branch,
    break_even,
    cost,
    edgent,
    edgent_map,
    legal_cuts,
    memory,
    neurosurgeon,
)
from seamline.runtime.profile import (
    Codec,
    Energy,
    Exit,
    Link,
    Profile,
    ProfileError,
    Seam,
    Times,
    Unit,
)
from small_profiles import CODECS, make_link, make_profile

PASSES: tuple[Pass, ...] = ("inference", "training")
DEVICE, EDGE = Times(0.01, 0.02, 0.03), Times(0.001, 0.002, 0.003)


def chain(*values: int) -> Profile:
    units = tuple(
        Unit(f"u{i}", "dense", (i,), count, 10, 100, EDGE, DEVICE) for i, count in enumerate(values)
    )
    return Profile("m", "d", "e", 4, 20, units, codecs=(Codec("int8", 10, 8),))


def block() -> Profile:
    """u0, then u1 and u2 around which u0's output goes to the sum u3, then u4."""
    reads = [(0,), (1,), (2,), (3, 1), (4,)]
    units = tuple(
        Unit(f"u{i}", "x", inputs, 100 + i, 1, 1, EDGE, DEVICE) for i, inputs in enumerate(reads)
    )
    return Profile("m", "d", "e", 1, 7, units, codecs=(Codec("f32", 0, 32),))


def by_hand(scene: Scene, of: Branch, cut: int) -> tuple[float, float]:
    """Seconds and joules of a cut, unit by unit and tensor by tensor."""
    training = scene.pass_ == "training"
    link, codec, energy = scene.link, scene.codec, scene.profile.energy
    samples = scene.profile.batch if training else 1
    crossed = set()
    for reader, unit in enumerate(of.units):
        for tensor in unit.inputs:
            maker = tensor - 1
            if maker < cut <= reader:
                crossed.add(tensor)
    up = down = packing = 0.0
    for tensor in crossed:
        count = samples * (of.units[tensor - 1].values if tensor else of.input_values)
        size = codec.head + math.ceil(codec.bits * count / 8)
        up += size
        packing += count * (codec.device_pack + codec.edge_unpack)
        if training and tensor:
            down += size
            packing += count * (codec.edge_pack + codec.device_unpack)
    if cut < len(of.units):
        up += 2 * samples if training else 0
        down += 0 if training else scene.profile.answer_bytes
    total = packing + 8 * up / link.up / (1 - link.loss) + 8 * down / link.down / (1 - link.loss)
    trips = link.round_trip / (1 - link.loss) * ((up > 0) + (down > 0)) / 2
    work = {True: 0.0, False: 0.0}
    macs = 0
    for index, unit in enumerate(of.units):
        times = unit.device if index < cut else unit.edge
        assert times is not None
        work[index < cut] += times.forward + times.backward if training else times.infer
        macs += unit.macs * samples * (3 if training else 1) if index < cut else 0
    assert energy is not None
    edge = scene.load * work[False]
    joules = energy.mac * macs + energy.byte_up * up + energy.byte_down * down
    return total + trips + work[True] + edge, joules + energy.wait * (edge + trips)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("goal", ["time", "energy"])
def test_neurosurgeon_finds_what_trying_all_cuts_finds(pass_: Pass, goal: str) -> None:
    for seed in range(100):
        profile = make_profile(seed, residual=seed % 2 == 1)
        scene = Scene(profile, make_link(seed), CODECS[seed % 3], pass_, 1 + seed % 4)
        of = branch(profile)
        every = [by_hand(scene, of, cut)[goal == "energy"] for cut in range(len(of.units) + 1)]
        found = neurosurgeon(scene, of, "time" if goal == "time" else "energy")
        assert found.cost.of("time" if goal == "time" else "energy") == pytest.approx(min(every))
        assert every[found.cut] == pytest.approx(min(every))


def test_a_cut_inside_a_block_carries_both_tensors() -> None:
    of = branch(block())
    assert [of.crossing(cut) for cut in range(6)] == [[0], [1], [1, 2], [1, 3], [4], []]
    scene = Scene(block(), Link(8e3, 8e3), block().codecs[0])
    assert cost(scene, of, 3).bytes_up == 4 * (100 + 102)


def test_training_sends_labels_up_and_gradients_down() -> None:
    profile = chain(30, 40)
    found = cost(
        Scene(profile, Link(8e3, 8e3, 0.1), profile.codecs[0], "training"), branch(profile), 1
    )
    assert (found.bytes_up, found.bytes_down) == (10 + 120 + 2 * 4, 10 + 120)
    assert found.seconds == pytest.approx(0.05 + 0.138 + 0.005 + 0.130 + 0.1)
    nothing = cost(Scene(profile, Link(0, 0), profile.codecs[0], "training"), branch(profile), 2)
    assert nothing.seconds == pytest.approx(0.1)  # all on the device: no link is needed
    raw = cost(Scene(profile, Link(8e3, 8e3), profile.codecs[0], "training"), branch(profile), 0)
    assert (raw.bytes_up, raw.bytes_down) == (10 + 80 + 8, 0)  # the input has no gradient


def test_edgent_takes_the_deepest_exit_in_time() -> None:
    met = missed = 0
    for seed in range(200):
        profile = make_profile(seed, exits=3)
        scene = Scene(profile, make_link(seed), CODECS[seed % 3])
        names = [END, *(e.name for e in sorted(profile.exits, key=lambda e: -e.behind))]
        least = {}
        for name in names:
            of = branch(profile, name)
            least[name] = min(by_hand(scene, of, cut)[0] for cut in range(len(of.units) + 1))
        deadline = sorted(least.values())[seed % len(least)] * (0.9 if seed % 5 == 0 else 1.0001)
        good = [name for name in names if least[name] <= deadline]
        if good:
            met += 1
            found = edgent(scene, deadline)
            assert found.exit == good[0]
            assert found.cost.seconds == pytest.approx(least[good[0]])
        else:
            missed += 1
            with pytest.raises(NoPlan, match="the least is"):
                edgent(scene, deadline)
    assert met > 100 and missed > 10


def test_the_map_keeps_a_deadline_between_its_states() -> None:
    states = [5e4, 2e5, 1e6, 4e6]
    kept = 0
    for seed in range(40):
        profile = make_profile(seed, exits=2)
        scene = Scene(profile, Link(1e6, 2e6, 0.002), CODECS[1])
        deadline = 0.8 * neurosurgeon(scene, branch(profile)).cost.seconds
        table = edgent_map(scene, states, deadline)
        for (low, meets), (high, _) in pairwise(zip(states, table.meets, strict=True)):
            rate = math.sqrt(low * high)
            decision = table.at(rate)
            assert decision is table.at(low)
            there = Scene(profile, Link(rate, 2 * rate, 0.002), CODECS[1])
            again = cost(there, branch(profile, decision.exit), decision.cut).seconds
            kept += meets
            assert not meets or again <= deadline
        assert isinstance(table.at(1.0), Decision)
    assert kept > 20


@pytest.mark.parametrize("states", [[], [0.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
def test_a_map_wants_ascending_states(states: list[float]) -> None:
    profile = chain(5)
    with pytest.raises(ValueError, match="ascending"):
        edgent_map(Scene(profile, Link(1, 1), profile.codecs[0]), states, 1.0)


def test_an_exit_needs_only_its_own_units() -> None:
    """A head behind u1 (inside the block) needs no sum; its cuts are the network's first ones."""
    head = Unit("head", "dense", (2,), 3, 1, 1, EDGE, DEVICE)
    profile = msgspec.structs.replace(block(), exits=(Exit("early", 1, head),))
    of = branch(profile, "early")
    assert [unit.name for unit in of.units] == ["u0", "u1", "head"]
    assert of.whole == (0, 1, 2, None)
    beside = Unit("u2", "x", (1,), 9, 1, 1, EDGE, DEVICE)  # now u2 reads u0 and skips u1
    units = (*profile.units[:2], beside, *profile.units[3:])
    last = Exit("late", 2, Unit("head", "dense", (3,), 3, 1, 1, EDGE, DEVICE))
    of = branch(msgspec.structs.replace(profile, units=units, exits=(last,)), "late")
    assert [unit.name for unit in of.units] == ["u0", "u2", "head"]
    assert of.whole == (0, 1, None, None)
    assert of.units[1].inputs == (1,) and of.units[2].inputs == (2,)


def test_only_seams_that_can_be_run_are_chosen() -> None:
    seam = Seam(1, 1, "u0", 1000, 500, 70, 9, 9)
    head = Unit("head", "dense", (1,), 3, 5, 1, EDGE, DEVICE)
    profile = msgspec.structs.replace(block(), seams=(seam,), exits=(Exit("early", 0, head),))
    assert legal_cuts(profile, branch(profile)) == [1]
    assert legal_cuts(profile, branch(profile), every=True) == [1, 2, 3, 4, 5]
    early = branch(profile, "early")
    assert legal_cuts(profile, early) == [1, 2]  # with or without its head
    assert memory(profile, early, 1, "training") == (1000, 70)
    assert memory(profile, early, 2, "training") == (1000 + 12 * 5 + 8 * 3, 70 + 20)
    assert memory(profile, early, 2, "inference") == (500 + 8 * 3, 70 + 20)
    with pytest.raises(NoPlan, match="no legal seam with at least 2 units"):
        legal_cuts(profile, branch(profile), 2)


def test_a_device_without_kernels_stops_the_cuts() -> None:
    for seed in range(50):
        profile = make_profile(seed, able=False)
        scene = Scene(profile, make_link(seed), CODECS[0])
        of = branch(profile)
        assert neurosurgeon(scene, of).cut <= of.runnable
        assert cost(scene, of, of.runnable).seconds < math.inf


def test_a_dead_link_leaves_the_device_alone_or_nothing() -> None:
    profile = chain(5, 6)
    scene = Scene(profile, Link(0, 0), profile.codecs[0])
    assert neurosurgeon(scene, branch(profile)).cut == 2
    units = (profile.units[0], msgspec.structs.replace(profile.units[1], device=None))
    unable = msgspec.structs.replace(profile, units=units)
    with pytest.raises(NoPlan, match="carries 0 bit/s up"):
        neurosurgeon(Scene(unable, Link(0, 0), profile.codecs[0]), branch(unable))


def test_what_is_not_there_is_named() -> None:
    profile = chain(5)
    scene = Scene(profile, Link(1, 1), profile.codecs[0])
    with pytest.raises(ProfileError, match="no exit 'early': it has none but its end"):
        branch(profile, "early")
    with pytest.raises(ProfileError, match="no exit 'early'"):
        edgent(scene, 1.0, exits=["early"])
    with pytest.raises(ProfileError, match="no codec 'int3'"):
        profile.codec("int3")
    with pytest.raises(ProfileError, match="no energy"):
        neurosurgeon(scene, branch(profile), "energy")
    with pytest.raises(ValueError, match="0 to 1"):
        cost(scene, branch(profile), 2)
    assert Energy(1, 1, 1).wait == 0


def test_break_even_is_where_both_send_the_same() -> None:
    profile = chain(30, 40, 50)
    few, many = break_even(profile, 1, 5, 10), break_even(profile, 1, 7, 10)
    assert (few.split, few.federated) == (2 * 5 * 30, 2 * 10 * 20)
    assert few.split_wins and not many.split_wins
    assert few.most_samples == 7  # at 6.67 samples both send the same
    assert "split sends less" in few.text() and "federated learning sends less" in many.text()
