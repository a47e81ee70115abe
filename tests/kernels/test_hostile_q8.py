"""Hostile plans, parameters and messages of int8 fronts under the sanitizers."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import hostile
import numpy as np
import pytest
from seamline.kernels import SeamError, parcel
from seamline.kernels.front import SEND, TEST, TRAIN, Session, check_plan
from seamline.runtime import message as wire
from seamline.runtime.message import Kind, Message
from seamline.runtime.plan import LayerSpec
from seamline.runtime.q8_parameters import blob_of
from seamline.runtime.q8_plan import build_q8_plan
from seamline.runtime.quantised import QuantisedFront, QuantisedLayer

pytestmark = pytest.mark.timeout(600)  # the sanitizers slow the compiler down

SHAPE = (6, 6, 2)
SAME = ((1, 1), (1, 1))
WEIGHTED = ("conv2d", "depthwise", "dense")
LAYERS = [
    LayerSpec("conv2d", 0, (6, 6, 4), kernel=(3, 3), padding=SAME),
    LayerSpec("depthwise", 1, (6, 6, 4), kernel=(3, 3), padding=SAME),
    LayerSpec("add", 2, (6, 6, 4), second_input=1),
    LayerSpec("relu", 3, (6, 6, 4)),
    LayerSpec("conv2d", 4, (6, 6, 3), has_bias=False),
    LayerSpec("max_pool", 5, (3, 3, 3), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("average_pool", 6, (1, 1, 3), kernel=(3, 3)),
    LayerSpec("flatten", 7, (1, 1, 3)),
    LayerSpec("dense", 8, (1, 1, 3)),
]
SETTINGS = wire.Settings(1, 2, 1, 1, 1, 0.9, 1e-3, q8_rounding=1)
CHOICES = [
    {},
    {"sums": "pieces"},
    {"momentum": "none"},
    {"momentum": "float"},
    {"again": [0, 1, 2]},
    {"training": False},
]
PLANS = [build_q8_plan(LAYERS, SHAPE, 2, **choice) for choice in CHOICES]


def weight_shape(spec: LayerSpec, made: tuple[int, int, int]) -> tuple[int, ...]:
    out = spec.output_shape[2]
    shapes = {"conv2d": (out, *spec.kernel, made[2]), "depthwise": (1, *spec.kernel, out)}
    return shapes.get(spec.kind, (out, int(np.prod(made))))


def layer_of(spec: LayerSpec, made: tuple[int, int, int], chance: np.random.Generator):
    """Its integers, in whose scales everything comes to about 1."""
    if spec.kind == "add":
        return QuantisedLayer(
            spec,
            sum={
                f"{who}_{what}": value
                for who, number in (("a", (1 << 30, 0)), ("b", (1 << 30, 0)), ("y", (1 << 30, -18)))
                for what, value in zip(("multiplier", "shift"), number, strict=True)
            },
        )
    if spec.kind not in WEIGHTED:
        return QuantisedLayer(spec)
    out = spec.output_shape[2]
    bias = chance.integers(-500, 500, out).astype(np.int32) if spec.has_bias else None
    return QuantisedLayer(
        spec,
        weights=chance.integers(-127, 128, weight_shape(spec, made)).astype(np.int8),
        bias=bias,
        weight_scales=np.full(out, 0.01, np.float32),
        multiplier=chance.integers(1 << 30, (1 << 31) - 1, out).astype(np.int32),
        shift=np.full(out, -8, np.int32),
    )


def small_front() -> QuantisedFront:
    """A front of LAYERS with random parameters."""
    chance = np.random.default_rng(3)
    shapes = [SHAPE, *(layer.output_shape for layer in LAYERS)]
    layers = [layer_of(spec, shapes[spec.input], chance) for spec in LAYERS]
    tensors = len(shapes)
    scales, zeros = np.full(tensors, 0.05, np.float32), np.full(tensors, -3, np.int32)
    return QuantisedFront(SHAPE, layers, scales, zeros, list(range(tensors)))


FRONT = small_front()
BLOB = blob_of(FRONT)


GRADIENT = parcel.pack_int8(np.full((2, 1, 1, 3), 90, np.int8), 2.0**-7)


def conversation(plan: bytes, blob: bytes) -> list[bytes]:
    return hostile.conversation(SETTINGS, plan, wire.bytes_parcel(blob), GRADIENT)


def sequence(chance: random.Random) -> list[bytes]:
    plan = hostile.sealed(hostile.changed(chance.choice(PLANS), chance, 3))
    blob = bytes(hostile.changed(BLOB, chance, 2))
    return hostile.disturbed(conversation(plan, blob), chance)


def answers(said: list[bytes]) -> list[Message]:
    """What a session on zeros says to all of it."""
    session = Session("d", bytes(8), 9, 9, samples=(0.0, 0.0))
    session.hello()
    found = []
    for message in said:
        action = session.receive(message)
        while action in (TRAIN, TEST):
            session.inputs[:] = 0
            action = session.batch()
        if action == SEND:
            found.append(Message.decode(session.answer()))
    return found


@pytest.mark.parametrize("plan", PLANS[:-1])
def test_all_that_is_damaged_here_makes_sense_as_it_was(plan: bytes) -> None:
    """Else the damage would only be to what is refused anyway."""
    kinds = [answer.kind for answer in answers(conversation(plan, BLOB))]
    assert len(kinds) == 10 and Kind.ERROR not in kinds


@pytest.mark.parametrize("plan", PLANS)
def test_a_whole_conversation_is_answered_message_by_message(
    driver: Path, tmp_path: Path, plan: bytes
) -> None:
    said = conversation(plan, BLOB)
    assert hostile.run(driver, tmp_path / "said", [said]) == (len(said) - 2, 0)


def test_no_hostile_conversation_leaves_its_memory(driver: Path, tmp_path: Path) -> None:
    chance = random.Random(4)
    sent, dropped = hostile.run(driver, tmp_path / "said", [sequence(chance) for _ in range(3000)])
    assert sent > 8_000, "most messages are understood, or the damage proves little"
    assert dropped > 500


def layer_at(index: int) -> int:
    return 48 + 20 * (len(LAYERS) + 1) + 48 * index


@pytest.mark.parametrize("later", range(len(LAYERS)))
def test_a_layer_is_not_read_before_its_tensors_are_known(
    driver: Path, tmp_path: Path, later: int
) -> None:
    """The scratch memory of a layer depends on later layers, which were read unchecked."""
    plan = bytearray(PLANS[0])
    struct.pack_into("<H", plan, layer_at(later) + 2, 0xFFFF)
    with pytest.raises(SeamError) as caught:
        check_plan(hostile.sealed(plan))
    assert caught.value.status == -1
    assert hostile.run(
        driver, tmp_path / "said", [conversation(hostile.sealed(plan), BLOB)[:2]]
    ) == (1, 0)


ARENA = struct.unpack_from("<I", PLANS[0], 24)[0]
LEARNED = struct.unpack_from("<I", PLANS[0], 20)[0]


@pytest.mark.parametrize(
    ("name", "offset", "layout", "value", "status"),
    [
        ("weights that are another layer's bias", layer_at(8) + 20, "<I", 0, -1),
        ("weights that are another layer's bias", layer_at(1) + 20, "<I", 4, -1),
        ("a gap in what is learned", layer_at(1) + 20, "<I", 92, -1),
        ("weights between words", layer_at(1) + 20, "<I", 2, -7),
        ("weights behind all", layer_at(1) + 20, "<I", LEARNED, -7),
        ("more that is learned than there is room", 20, "<I", LEARNED + 4, -7),
        ("less that is learned than layers have", 20, "<I", LEARNED - 4, -7),
        ("a blob of another size", 36, "<I", len(BLOB) + 4, -9),
        ("a blob over the limit", 36, "<I", 1 << 30, -7),
        ("a flag without a meaning", 7, "<B", 8, -1),
        ("momentum in float32 and none at once", 7, "<B", 6, -1),
        ("momentum in float32 without its room", 7, "<B", 4, -7),
        ("answers where the parameters are", 40, "<I", 16, -7),
        ("answers that leave the arena", 40, "<I", 1 << 16, -7),
        ("no room for answers", 40, "<I", 0, -7),
        ("an arena without room for the samples", 24, "<I", ARENA - 16, -7),
        ("another arithmetic", 6, "<B", 2, -8),
        ("a group norm", layer_at(3), "<B", 8, -7),
        ("scratch that holds no row", 32, "<I", 16, -7),
        ("scratch where the parameters are", 28, "<I", 0, -7),
        ("a gradient of the input", 48 + 12, "<I", 4096, -1),
        ("a tensor without a gradient", 48 + 20 + 12, "<I", 0xFFFFFFFF, -1),
    ],
)
def test_a_plan_with_one_lie_is_refused(
    name: str, offset: int, layout: str, value: int, status: int
) -> None:
    plan = bytearray(PLANS[0])
    struct.pack_into(layout, plan, offset, value)
    with pytest.raises(SeamError) as caught:
        check_plan(hostile.sealed(plan))
    assert caught.value.status == status, name


def test_what_is_learned_is_what_layers_have() -> None:
    """Without velocities there is room for more, which nothing would check."""
    plan = bytearray(PLANS[2])
    struct.pack_into("<I", plan, 20, LEARNED + 4)
    with pytest.raises(SeamError) as caught:
        check_plan(hostile.sealed(plan))
    assert caught.value.status == -9
