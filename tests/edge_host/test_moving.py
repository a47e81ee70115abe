"""Seams that move while training goes on: what goes across, and that nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from seamline.kernels.front import Session
from seamline.runtime.config import MoveSection, PlanSection
from seamline.runtime.errors import UserError
from seamline.runtime.message import Kind

PLAIN = {
    "codec": "f32", "back_optimizer": "sgd", "front_rate": 0.05, "back_rate": 0.05, "momentum": 0.9
}  # fmt: skip
ONE = {"d0": 23}
NEVER = [MoveSection(99, seam) for seam in (1, 2, 3)]
TO_AND_FRO = [MoveSection(2, 2), MoveSection(4, 3), MoveSection(6, 1), MoveSection(8, 2)]


def schedule(*moves: MoveSection) -> PlanSection:
    return PlanSection("schedule", list(moves))


def vector(here: Any) -> NDArray[np.float32]:
    return np.concatenate([here.cloud.model[n].ravel() for n in sorted(here.cloud.model)])


def distance(one: Any, other: Any) -> float:
    return float(np.linalg.norm(vector(one) - vector(other)) / np.linalg.norm(vector(other)))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("seam", [1, 2])
@pytest.mark.parametrize("mode", ["split-v1", "split-v2"])
def test_with_one_seam_for_all_every_bit_is_that_of_the_fixed_seam(
    world: Callable[..., Any], mode: str, seam: int, optimizer: str
) -> None:
    more = {"seam": seam, "codec": "int8", "back_optimizer": optimizer}
    fixed = world(mode, name="fixed", **more)
    fixed.run()
    here = world(mode, name="moving", plan=schedule(*NEVER), **more)
    here.run()
    assert here.fingerprint() == fixed.fingerprint()
    assert here.named("evaluated") == fixed.named("evaluated")


@pytest.mark.parametrize(("mode", "devices"), [("split-v2", ONE), ("split-v1", None)])
def test_training_with_seams_that_move_equals_training_with_a_fixed_one(
    world: Callable[..., Any], mode: str, devices: dict[str, int] | None
) -> None:
    more = {"devices": devices, "cloud_rounds": 3, **PLAIN}
    fixed = world(mode, name="fixed", **more)
    fixed.run()
    here = world(mode, name="moving", plan=schedule(*TO_AND_FRO), **more)
    here.run()
    assert len(here.named("moved")) == 4 * len(here.devices)
    assert distance(here, fixed) < 1e-5
    without = world(mode, name="without", plan=schedule(*TO_AND_FRO), **more)
    for device in without.devices.values():
        forget_momentum(device)
    without.run()
    assert distance(without, fixed) > 1e-3, "momentum that is lost must be seen"


def forget_momentum(device: Any) -> None:
    """What this device is sent as momentum, it does not take."""
    receive = device.receive

    def without(data: bytes) -> Any:
        answers = receive(data)
        if data[3] == Kind.WEIGHTS:
            device.session.momentum[:] = 0
        return answers

    device.receive = without


# ---- devices with different seams ----


def test_a_layer_is_the_mean_of_its_copies_and_the_backs_counts_for_who_trained_there(
    world: Callable[..., Any],
) -> None:
    more = {"cloud_rounds": 1, "edge_rounds": 2, **PLAIN}
    here = world(plan=schedule(MoveSection(2, 3, "d1"), MoveSection(2, 2, "d2")), **more)
    trainer = here.host.trainer
    found: dict[str, Any] = {}
    average = trainer._average

    def look(fronts: Any, done: Any, samples: Any) -> None:
        found.update(fronts=fronts, samples=samples, back=trainer.wholes["zone"].named())
        average(fronts, done, samples)

    trainer._average = look
    here.run()
    own = {d: trainer._cut_of(d).front_state(front) for d, front in found["fronts"].items()}
    samples = found["samples"]
    names = [trainer.seams.parts[number][0] for number in range(4)]
    for name, holders in zip(names, ("d0 d1 d2", "d1 d2", "d1", ""), strict=True):
        total = sum(samples.values())
        left = total - sum(samples[d] for d in holders.split())
        expected = sum(samples[d] / total * own[d][name].astype(float) for d in holders.split())
        expected = expected + left / total * found["back"][name]
        assert np.allclose(here.cloud.model[name], expected, rtol=1e-6, atol=1e-8), name
        assert trainer.state()[name].tobytes() == here.cloud.model[name].tobytes()


def test_a_move_of_one_device_leaves_the_others_where_they_are(world: Callable[..., Any]) -> None:
    here = world(plan=schedule(MoveSection(3, 2, "d1")))
    here.run()
    plans = [(d, m.round) for d, m in here.sent if m.kind == Kind.PLAN and m.round]
    assert plans == [("d1", 3)]
    moved = here.named("moved")
    names = ("device", "round", "from", "to", "reason")
    told = ("d1", 3, 1, 2, "planned for round 3")
    assert [tuple(event[n] for n in names) for event in moved] == [told]
    assert here.host.trainer.places == {"d0": 0, "d1": 1, "d2": 0}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_that_comes_to_the_back_is_the_mean_of_who_brings_it(
    world: Callable[..., Any], optimizer: str
) -> None:
    plan = schedule(MoveSection(1, 2, "d0"), MoveSection(1, 2, "d1"), MoveSection(3, 1))
    here = world(plan=plan, cloud_rounds=1, **{**PLAIN, "back_optimizer": optimizer})
    trainer = here.host.trainer
    here.run(lambda w: w.host.trainer.rounds_done == 2)
    whole = trainer.wholes["zone"]
    at = whole.part(1)
    own = {}
    for device in ("d0", "d1"):
        flat = np.zeros(whole.values.shape, np.float32)
        momentum = np.array(here.devices[device].session.momentum)
        whole.put(trainer.seams.cuts[1].front_state(momentum), flat)
        own[device] = flat[at]
    back = whole.velocity()[at]  # of what d2 trained there
    here.run(lambda w: any(m.kind == Kind.STEP and m.round == 3 for _, m in w.sent))
    got = trainer.wholes["zone"].velocity()[at]
    expected = (12 * own["d0"] + 20 * own["d1"] + 9 * back) / 41
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-8)
    assert not np.allclose(got, back)
    here.run()


def test_every_mixture_of_seams_learns(world: Callable[..., Any]) -> None:
    plan = schedule(MoveSection(1, 3, "d0"), MoveSection(2, 2, "d2"), MoveSection(5, 1, "d0"))
    for mode in ("split-v1", "split-v2"):
        here = world(mode, plan=plan, cloud_rounds=6, rate_decay="none", name=mode)
        here.run()
        losses = [event["loss"] for event in here.rounds()]
        assert np.mean(losses[-3:]) < np.mean(losses[:3])


# ---- what does not go as planned ----


def test_a_device_without_room_for_a_front_keeps_the_one_it_has_and_its_momentum(
    world: Callable[..., Any],
) -> None:
    more = {"devices": ONE, "cloud_rounds": 3, **PLAIN}
    fixed = world(name="fixed", **more)
    fixed.run()
    here = world(plan=schedule(MoveSection(3, 3)), name="small", **more)
    device = here.devices["d0"]
    here.lose("d0")
    room = fixed.devices["d0"].session.memory_bytes
    device.session = Session("d0", b"bootboot", 23, 10, room)
    here.join("d0", device)
    here.run()
    assert not here.named("moved")
    (note,) = [e["text"] for e in here.named("note")]
    assert note.startswith("d0 keeps its seam 1, 3 was planned for round 3: ")
    assert here.fingerprint() == fixed.fingerprint()
    assert len([m for _, m in here.sent if m.kind == Kind.PLAN]) == 3  # joined, tried, back


@pytest.mark.parametrize("asked", [Kind.WEIGHTS_GET, Kind.PLAN, Kind.WEIGHTS])
def test_a_device_lost_in_the_middle_of_a_move_moves_when_it_is_back(
    world: Callable[..., Any], asked: Kind
) -> None:
    here = world(plan=schedule(MoveSection(3, 2)), cloud_rounds=6, **PLAIN)
    here.run(lambda w: any(d == "d1" and m.kind == asked and m.round > 0 for d, m in w.sent))
    assert not here.host.done
    here.lose("d1")
    here.join("d1")
    here.run()
    assert here.host.trainer.places == {"d0": 1, "d1": 1, "d2": 1}
    assert here.cloud.updates[-1][1] == 12 + 20 + 9


@pytest.mark.parametrize("mode", ["split-v1", "split-v2"])
@pytest.mark.parametrize("when", [3, 6, 9, 14, 20])
def test_where_all_are_waited_for_a_loss_around_a_move_changes_no_bit(
    world: Callable[..., Any], mode: str, when: int
) -> None:
    plan = schedule(MoveSection(2, 2, "d1"), MoveSection(4, 3, "d1"), MoveSection(6, 1, "d1"))
    more = {"rounds": {"wait": "all"}, "momentum": 0.0, "cloud_rounds": 3, "plan": plan}
    plain = world(mode, name="plain", **more)
    plain.run()
    here = world(mode, name="lost", **more)
    here.run(lambda w: sum(d == "d1" for d, _ in w.arrived) >= when)
    here.lose("d1")
    here.join("d1")
    here.run()
    assert here.fingerprint() == plain.fingerprint()
    assert [e["device"] for e in here.named("moved")] == ["d1"] * 3


@pytest.mark.parametrize("arithmetic", ["f32", "q8"])
@pytest.mark.parametrize("when", [2, 3, 4, 5])
def test_a_host_that_starts_again_moves_the_same_seams_to_the_same_bits(
    world: Callable[..., Any], when: int, arithmetic: str
) -> None:
    plan = schedule(MoveSection(2, 2), MoveSection(4, 3, "d1"), MoveSection(6, 1))
    more = {"rounds": {"wait": "all"}, "momentum": 0.0, "cloud_rounds": 3, "plan": plan}
    more |= {"arithmetic": arithmetic, "q8_momentum": "none"}
    plain = world(name="plain", **more)
    plain.run()
    here = world(name="killed", **more)
    here.run(lambda w: w.host.trainer.rounds_done == when)
    here.restart()
    here.run()
    assert here.fingerprint() == plain.fingerprint()


# ---- int8 fronts ----


@pytest.mark.parametrize("mode", ["split-v1", "split-v2"])
def test_int8_fronts_move_with_their_parameters_and_begin_with_new_momentum(
    world: Callable[..., Any], mode: str
) -> None:
    plan = schedule(MoveSection(3, 2, "d1"), MoveSection(5, 1, "d1"), MoveSection(7, 3, "d0"))
    more = {"arithmetic": "q8", "cloud_rounds": 8, "rate_decay": "none"}
    here = world(mode, plan=plan, name="moving", **more)
    here.run()
    assert [e["device"] for e in here.named("moved")] == ["d1", "d1", "d0"]
    assert not [m for _, m in here.sent if m.kind == Kind.WEIGHTS_GET]
    losses = [event["loss"] for event in here.rounds()]
    assert losses[-1] < losses[0] / 10


def test_int8_fronts_that_never_move_are_those_of_the_fixed_seam(world: Callable[..., Any]) -> None:
    fixed = world(arithmetic="q8", name="fixed")
    fixed.run()
    here = world(arithmetic="q8", plan=schedule(*NEVER), name="moving")
    here.run()
    assert here.fingerprint() == fixed.fingerprint()


# ---- jobs that cannot be ----


@pytest.mark.parametrize("seam", [99, "nowhere", 5])
def test_a_schedule_with_a_seam_that_is_none_says_so(
    world: Callable[..., Any], seam: int | str
) -> None:
    with pytest.raises(UserError, match=r"plan.moves, round 3: "):
        world(plan=schedule(MoveSection(3, seam)))


def test_zones_with_different_seams_have_the_same_model_by_names(world: Callable[..., Any]) -> None:
    more = {"cloud_rounds": 1, **PLAIN}
    fixed = world(seam=3, name="deep", **more)
    fixed.run()
    moved = world(plan=schedule(MoveSection(1, 3)), name="moved", **more)
    moved.run()
    shapes = [{n: v.shape for n, v in w.cloud.model.items()} for w in (fixed, moved)]
    assert shapes[0] == shapes[1]
    assert moved.fingerprint() == fixed.fingerprint(), "moved before the first round: as if set"
