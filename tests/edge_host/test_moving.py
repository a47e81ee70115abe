"""Seams that move while training goes on: what goes across, and that nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from seamline.runtime.config import MoveSection, PlanSection
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
