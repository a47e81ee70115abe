"""Hostile plans and messages under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import random
from pathlib import Path

import hostile
import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime import message as wire
from seamline.runtime.plan import LayerSpec, build_plan

pytestmark = pytest.mark.timeout(600)  # the sanitizers slow the compiler down

PAD = ((1, 1), (1, 1))
LAYERS = [
    LayerSpec("conv2d", 0, (6, 6, 4), kernel=(3, 3), padding=PAD),
    LayerSpec("group_norm", 1, (6, 6, 4), groups=2),
    LayerSpec("relu", 2, (6, 6, 4)),
    LayerSpec("depthwise", 3, (6, 6, 4), kernel=(3, 3), padding=PAD),
    LayerSpec("add", 4, (6, 6, 4), second_input=3),
    LayerSpec("max_pool", 5, (3, 3, 4), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("average_pool", 6, (1, 1, 4), kernel=(3, 3)),
    LayerSpec("flatten", 7, (1, 1, 4)),
    LayerSpec("dense", 8, (1, 1, 3)),
]
PLAN = build_plan(LAYERS, (6, 6, 2), 2)
PARAMETERS = sum(
    layer.parameters((6, 6, 2) if i == 0 else LAYERS[i - 1].output_shape)
    for i, layer in enumerate(LAYERS)
)
SETTINGS = wire.Settings(1, 2, 1, 1, 1, 0.9, 0.0)


WEIGHTS = parcel.pack(np.linspace(-1, 1, PARAMETERS, dtype=np.float32), "f32")
GRADIENT = parcel.pack(np.ones((2, 1, 1, 3), np.float32), "int8")


def conversation(plan: bytes) -> list[bytes]:
    return hostile.conversation(SETTINGS, plan, WEIGHTS, GRADIENT)


def sequence(chance: random.Random) -> list[bytes]:
    plan = hostile.sealed(hostile.changed(PLAN, chance, 3))
    return hostile.disturbed(conversation(plan), chance)


def test_a_whole_conversation_is_answered_message_by_message(driver: Path, tmp_path: Path) -> None:
    said = conversation(PLAN)
    assert hostile.run(driver, tmp_path / "said", [said]) == (len(said) - 2, 0)


def test_no_hostile_conversation_leaves_its_memory(driver: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    sent, dropped = hostile.run(driver, tmp_path / "said", [sequence(chance) for _ in range(4000)])
    assert sent > 10_000, "most messages are understood, or the damage proves little"
    assert dropped > 1000
