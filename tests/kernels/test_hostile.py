"""Hostile plans and messages under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime import message as wire
from seamline.runtime.message import Flag, Kind, Message
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


def conversation(plan: bytes) -> list[bytes]:
    """All a host can say, in an order in which every message is taken."""
    weights = parcel.pack(np.linspace(-1, 1, PARAMETERS, dtype=np.float32), "f32")
    dy = parcel.pack(np.ones((2, 1, 1, 3), np.float32), "int8")
    said = [
        Message(Kind.WELCOME, 7, body=wire.welcome_body()),
        Message(Kind.PLAN, 7, body=wire.plan_body(SETTINGS, plan)),
        Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS, wire.step_body(0.1, 0, 1, weights)),
        Message(Kind.GRAD, 7, 1, 0, 0, wire.grad_body(0.1, 0.5, dy)),
        Message(Kind.GRAD, 7, 1, 1, Flag.LAST, wire.grad_body(0.1, 0.5, dy)),
        Message(Kind.STEP, 7, 2, 0, Flag.LOCAL, wire.step_body(0.1, 0, 3, None)),
        Message(Kind.EVAL, 7, 2, 0, Flag.LOCAL, wire.eval_body(7, 2, None)),
        Message(Kind.EVAL, 7, 2, 1, Flag.WEIGHTS, wire.eval_body(0, 1, weights)),
        Message(Kind.WEIGHTS, 7, 2, 0, 0, struct.pack("<If", 0, 0.0) + weights),
        Message(Kind.WEIGHTS_GET, 7, 2, 0),
        Message(Kind.PROBE, 7, body=b"nonce and some bytes"),
        Message(Kind.ERROR, 7, body=wire.error_body(-17, 1, "a text")),
    ]
    return [message.encode() for message in said]


def damaged_plan(chance: random.Random) -> bytes:
    """Some bytes changed, the checksum made right again."""
    plan = bytearray(PLAN)
    for _ in range(chance.randrange(4)):
        plan[chance.randrange(len(plan))] = chance.choice(
            (0, 1, 2, 127, 255, chance.randrange(256))
        )
    plan[44:48] = bytes(4)
    plan[44:48] = struct.pack("<I", crc32(plan))
    return bytes(plan)


def damaged(message: bytes, chance: random.Random) -> bytes:
    """Now and then: bytes changed behind the kind, or the body cut with its length made right."""
    data = bytearray(message)
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(3, len(data))] = chance.choice((0, 255, chance.randrange(256)))
    if chance.random() < 0.1:
        data = data[: chance.randrange(24, len(data) + 1)]
        data[20:24] = struct.pack("<I", len(data) - 24)
    return bytes(data)


def sequence(chance: random.Random) -> list[bytes]:
    said = [damaged(m, chance) for m in conversation(damaged_plan(chance))]
    if chance.random() < 0.5:
        tail = said[2:]
        chance.shuffle(tail)
        said[2:] = tail
    return said


def run(driver: Path, path: Path, conversations: list[list[bytes]]) -> tuple[int, int]:
    with path.open("wb") as file:
        file.write(struct.pack("<I", len(conversations)))
        for said in conversations:
            file.write(struct.pack("<I", len(said)))
            for message in said:
                file.write(struct.pack("<I", len(message)) + message)
    done = subprocess.run([driver, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sent, dropped = map(int, done.stdout.split())
    return sent, dropped


def test_a_whole_conversation_is_answered_message_by_message(driver: Path, tmp_path: Path) -> None:
    said = conversation(PLAN)
    assert run(driver, tmp_path / "said", [said]) == (len(said) - 2, 0)


def test_no_hostile_conversation_leaves_its_memory(driver: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    sent, dropped = run(driver, tmp_path / "said", [sequence(chance) for _ in range(4000)])
    assert sent > 10_000, "most messages are understood, or the damage proves little"
    assert dropped > 1000
