"""The conversation of a device whose front trains in int8."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from seamline.kernels import SeamError, parcel
from seamline.kernels.front import NOTHING, SEND, TEST, TRAIN, Session
from seamline.runtime import message as wire
from seamline.runtime.calibration import calibrate
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import LayerSpec, build_plan, read_plan
from seamline.runtime.q8_parameters import blob_of, learned_bytes
from seamline.runtime.q8_plan import build_q8_plan
from seamline.runtime.quantise import quantise
from seamline.runtime.quantised import QuantisedFront, fuse

CHAIN = [
    LayerSpec("conv2d", 0, (1, 3, 4), kernel=(1, 2)),
    LayerSpec("relu", 1, (1, 3, 4)),
    LayerSpec("dense", 2, (1, 1, 5)),
]
CHAIN_SHAPE = (1, 4, 2)
BATCH = 2
PARAMETERS = 20 + 65
PLAN = build_q8_plan(fuse(CHAIN)[0], CHAIN_SHAPE, BATCH)
SETTINGS = wire.Settings(3, BATCH, 1, 1, 1, 0.9, 0.0, q8_rounding=1)


class Device:
    """A joined session with random samples."""

    def __init__(self, settings: wire.Settings = SETTINGS, plan: bytes = PLAN) -> None:
        self.session = Session("d0", b"bootboot", 8, 4, samples=(-2.0, 2.0))
        self.session.hello()
        self.say(Kind.WELCOME, wire.welcome_body())
        self.say(Kind.PLAN, wire.plan_body(settings, plan))
        self.answered = self.heard()

    def say(self, kind: Kind, body: bytes, round_: int = 0, step: int = 0, flags: int = 0) -> int:
        action = self.session.receive(Message(kind, 7, round_, step, flags, body).encode())
        while action in (TRAIN, TEST):
            rng = np.random.default_rng(self.session.need_first)
            n = self.session.need_count
            self.session.inputs[:n] = rng.normal(0, 1, (n, *CHAIN_SHAPE))
            self.session.labels[:n] = rng.integers(0, 3, n)
            action = self.session.batch()
        return action

    def heard(self) -> Message:
        return Message.decode(self.session.answer())

    def step(self, round_: int, front: QuantisedFront | None, flags: int = 0) -> int:
        weights = None if front is None else wire.bytes_parcel(blob_of(front))
        body = wire.step_body(0.1, 0, 2, weights)
        return self.say(Kind.STEP, body, round_, 0, flags | (Flag.WEIGHTS if weights else 0))

    def gradient(self, round_: int, step: int = 0, flags: int = Flag.LAST, e: int = -8) -> int:
        g = np.full((BATCH, 1, 1, 5), 90, np.int8)
        body = wire.grad_body(0.1, 0.5, parcel.pack_int8(g, 2.0**e))
        return self.say(Kind.GRAD, body, round_, step, flags)


@pytest.fixture(scope="module")
def chain() -> QuantisedFront:
    rng = np.random.default_rng(4)
    parameters = rng.normal(0, 0.5, PARAMETERS).astype(np.float32)
    x = rng.normal(0, 1, (16, *CHAIN_SHAPE)).astype(np.float32)
    return quantise(CHAIN, CHAIN_SHAPE, parameters, calibrate(CHAIN, CHAIN_SHAPE, parameters, x))


def test_a_round_from_step_to_weights(chain: QuantisedFront) -> None:
    device = Device()
    assert wire.read_ready(device.answered.body).inputs == (-2.0, 2.0)
    assert device.step(1, chain) == SEND
    act = device.heard()
    labels, activation = wire.read_act(act.body)
    assert (act.kind, act.round, act.step) == (Kind.ACT, 1, 0)
    assert len(labels) == BATCH and activation.shape == (BATCH, 1, 1, 5)
    assert wire.read_act_scale(act.body) == np.float32(chain.scale(2))
    assert device.gradient(1) == SEND
    answer = device.heard()
    loss, learned, extremes = wire.read_q8_weights(answer.body)
    assert (answer.kind, loss) == (Kind.WEIGHTS, 0.5)
    assert len(learned) == len(learned_bytes(chain)) and learned != learned_bytes(chain)
    assert extremes.shape == (3, 2) and (extremes[:, 0] < extremes[:, 1]).all()


def test_the_answer_with_an_activation_is_kept_until_its_gradient_comes(
    chain: QuantisedFront,
) -> None:
    device = Device()
    device.step(1, chain)
    act = device.session.answer()
    assert device.say(Kind.PROBE, bytes(4)) == SEND
    assert device.step(1, chain) == SEND and device.session.answer() == act
    device.gradient(1, flags=0)  # and the next batch is asked for
    following = device.heard()
    assert (following.kind, following.step) == (Kind.ACT, 1) and following.body != act[24:]


def test_a_look_at_the_weights_takes_the_place_of_the_activation(chain: QuantisedFront) -> None:
    device = Device()
    device.step(1, chain)
    assert device.say(Kind.WEIGHTS_GET, b"", 1) == SEND
    _, learned, _ = wire.read_q8_weights(device.heard().body)
    assert learned == learned_bytes(chain)
    device.gradient(1)
    assert "state of the session" in wire.read_error(device.heard().body).text
    assert device.step(2, chain) == SEND and device.heard().kind == Kind.ACT


def test_samples_lie_in_the_arena_and_not_over_the_input(chain: QuantisedFront) -> None:
    session = Device().session
    arena, tensor = read_plan(PLAN).arena_bytes, struct.unpack_from("<I", PLAN, 48 + 8)[0]
    first = session.inputs.ctypes.data - session.learned.ctypes.data
    assert first > 0 and first + session.inputs.nbytes <= arena
    input_end = tensor + BATCH * int(np.prod(CHAIN_SHAPE))
    assert first >= input_end or first + session.inputs.nbytes <= tensor


def test_an_update_is_applied_once_however_often_it_is_asked_for(chain: QuantisedFront) -> None:
    device = Device()
    device.step(1, chain)
    device.gradient(1)
    answer = device.session.answer()
    assert device.gradient(1) == SEND and device.session.answer() == answer
    assert device.step(1, chain) == NOTHING  # older than what was applied
    assert device.gradient(0) == NOTHING
    device.step(2, None)
    act = device.session.answer()
    assert device.step(2, None) == SEND and device.session.answer() == act
    assert device.gradient(1) == NOTHING


@pytest.mark.parametrize(
    ("provoke", "text"),
    [
        (lambda d, front: d.gradient(1), "state of the session"),
        (lambda d, front: d.step(1, None), "state of the session"),
        (lambda d, front: d.say(Kind.STEP, b"abc", 1), "bytes end before"),
        (lambda d, front: (d.step(1, front), d.gradient(2)), "state of the session"),
        (
            lambda d, front: (
                d.step(1, front),
                d.say(
                    Kind.GRAD,
                    wire.grad_body(0.1, 0, parcel.pack(np.ones((BATCH, 1, 1, 5), "f4"), "int8")),
                    1,
                ),
            ),
            "argument is out of range",
        ),
        (
            lambda d, front: (
                d.step(1, front),
                d.say(
                    Kind.GRAD,
                    wire.grad_body(0.1, 0, parcel.pack_int8(np.ones((1, 2), np.int8), 0.5)),
                    1,
                ),
            ),
            "shapes do not fit",
        ),
        (
            lambda d, front: d.say(Kind.STEP, wire.step_body(float("nan"), 0, 1, None), 1),
            "NaN or infinite",
        ),
        (
            lambda d, front: d.say(
                Kind.STEP,
                wire.step_body(0.1, 0, 1, parcel.pack(np.ones(PARAMETERS, np.float32), "f32")),
                1,
                0,
                Flag.WEIGHTS,
            ),
            "kind of message, layer or codec",
        ),
    ],
)
def test_what_makes_no_sense_is_an_error_and_the_next_round_goes_on(
    chain: QuantisedFront, provoke: Callable[[Device, QuantisedFront], Any], text: str
) -> None:
    device = Device()
    provoke(device, chain)
    answer = device.heard()
    assert answer.kind == Kind.ERROR and text in wire.read_error(answer.body).text
    assert device.step(5, chain) == SEND and device.heard().kind == Kind.ACT


def test_local_steps_compute_the_loss_on_the_device(chain: QuantisedFront) -> None:
    device = Device()
    assert device.step(1, chain, Flag.LOCAL) == SEND
    loss, learned, _ = wire.read_q8_weights(device.heard().body)
    assert 0 < loss < 20 and learned != learned_bytes(chain)
    assert device.say(Kind.EVAL, wire.eval_body(0, 2, None), 1, 9, Flag.LOCAL) == SEND
    correct, total, _ = wire.read_result(device.heard().body)
    assert correct <= total == 2


def test_a_message_of_another_session_is_dropped(chain: QuantisedFront) -> None:
    device = Device()
    with pytest.raises(SeamError):
        device.session.receive(
            Message(Kind.STEP, 8, 1, 0, 0, wire.step_body(0, 0, 1, None)).encode()
        )


@pytest.mark.parametrize(
    ("settings", "plan", "text"),
    [
        ({"codec_up": 0}, PLAN, "codec"),
        ({"q8_rounding": 3}, PLAN, "codec"),
        ({"momentum": 1.0}, PLAN, "argument"),
        ({"decay": -1.0}, PLAN, "argument"),
        ({}, build_q8_plan(fuse(CHAIN)[0], CHAIN_SHAPE, BATCH, training=False), "codec"),
    ],
)
def test_what_an_int8_front_cannot_do_is_refused_with_its_plan(
    settings: dict[str, Any], plan: bytes, text: str
) -> None:
    answer = Device(dataclasses.replace(SETTINGS, **settings), plan).answered
    assert answer.kind == Kind.ERROR and text in wire.read_error(answer.body).text


def test_hello_says_that_fronts_can_train_in_int8_and_an_f32_plan_still_does() -> None:
    hello = wire.read_hello(Message.decode(Session("d0", b"bootboot", 8, 4).hello()).body)
    assert hello.layers & wire.Q8_BIT
    device = Device(plan=build_plan(CHAIN, CHAIN_SHAPE, BATCH))
    assert wire.read_ready(device.answered.body).inputs is None
    assert device.session.params is not None and device.session.velocity is None


def test_momentum_survives_a_lost_link_and_a_restart(chain: QuantisedFront) -> None:
    """The host sends parameters with their scales anew; velocities are the device's own."""
    device = Device()
    device.step(1, chain)
    device.gradient(1)
    kept = {name: array.copy() for name, array in device.session.kept().items()}
    assert kept["velocity"].any() and kept["exponents"].any()
    device.session.hello()
    device.say(Kind.WELCOME, wire.welcome_body())
    device.say(Kind.PLAN, wire.plan_body(SETTINGS, PLAN))
    again = Device()
    assert not again.session.kept()["velocity"].any()
    again.session.restore_momentum(kept)
    for session in (device.session, again.session):
        for name, array in session.kept().items():
            assert np.array_equal(array, kept[name])
    again.session.restore_momentum({"velocity": np.zeros(3, np.int8)})
    assert not again.session.kept()["velocity"].any()
