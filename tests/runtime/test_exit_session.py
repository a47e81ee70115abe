"""A device with an exit behind its seam: local loss, its own answers, another plan in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from seamline.kernels import parcel, random_bits
from seamline.kernels.front import (
    NOTHING,
    SEND,
    TEST,
    TRAIN,
    Front,
    Q8Front,
    Session,
    exit_answers,
)
from seamline.runtime import message as wire
from seamline.runtime.calibration import calibrate
from seamline.runtime.device import BatchOrder
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import LayerSpec, PlanError, build_plan, lay_out, read_plan, size_up
from seamline.runtime.q8_parameters import blob_of, learned_bytes
from seamline.runtime.q8_plan import build_q8_plan
from seamline.runtime.quantise import quantise
from seamline.runtime.quantised import QuantisedFront, fuse
from seamline.runtime.recompute import choose

FRONT = [
    LayerSpec("conv2d", 0, (1, 10, 4), kernel=(1, 3), stride=(1, 2), padding=((0, 0), (1, 1))),
    LayerSpec("relu", 1, (1, 10, 4)),
]
EXIT = [
    LayerSpec("average_pool", 2, (1, 5, 4), kernel=(1, 2), stride=(1, 2)),
    LayerSpec("dense", 3, (1, 1, 3)),
]
SHAPE, BATCH, SEED = (1, 20, 2), 4, 5
OWN, ALL = 28, 28 + 63  # parameters of the front; of both
RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-3

rng = np.random.default_rng(3)
X = rng.normal(size=(11, *SHAPE)).astype(np.float32)
Y = rng.integers(0, 3, 11).astype(np.int32)
START = rng.normal(0, 0.5, ALL).astype(np.float32)
DY = rng.normal(0, 0.1, (BATCH, 1, 10, 4)).astype(np.float32)
WITH_EXIT = build_plan([*FRONT, *EXIT], SHAPE, BATCH, seam=2)
ALONE = build_plan(FRONT, SHAPE, BATCH)
F32, INT8 = 0, 1


class Device:
    """A session with its data, as the device program drives it."""

    def __init__(self, plan: bytes, codec: int = F32, memory: int = 0) -> None:
        self.session = Session("d", b"bootboot", len(X), len(X), memory, samples=(-4.0, 4.0))
        self.codec = codec
        self.session.hello()
        self.tell(Kind.WELCOME, body=wire.welcome_body())
        self.plan(plan)

    def plan(self, plan: bytes, round_: int = 0) -> Message | None:
        settings = wire.Settings(SEED, BATCH, self.codec, self.codec, 1, MOMENTUM, DECAY, 1)
        return self.tell(Kind.PLAN, round_, body=wire.plan_body(settings, plan))

    def tell(
        self, kind: int, round_: int = 0, step: int = 0, flags: int = 0, body: bytes = b""
    ) -> Message | None:
        """Its answer, None if it has none."""
        action = self.session.receive(Message(kind, 7, round_, step, flags, body).encode())
        while action in (TRAIN, TEST):
            first, count = self.session.need_first, self.session.need_count
            order = BatchOrder(len(X), SEED)
            at = np.arange(first, first + count) if action == TEST else order.indices(first, count)
            self.session.inputs[:count], self.session.labels[:count] = X[at], Y[at]
            action = self.session.batch()
        assert action in (SEND, NOTHING)
        return Message.decode(self.session.answer()) if action == SEND else None

    def step(self, weights: bytes | None, round_: int = 1, flags: int = 0, local: int = 0) -> Any:
        body = wire.step_body(RATE, 0, local, weights)
        return self.tell(Kind.STEP, round_, 0, flags | (Flag.WEIGHTS if weights else 0), body)

    def local(self, step: int, steps: int, flags: int = 0) -> Any:
        flags |= Flag.LOCAL | Flag.FROZEN
        return self.tell(Kind.GRAD, 1, step, flags, wire.local_body(RATE, 9.0, steps))

    def exits(self, most: float, weights: bytes | None = None) -> Any:
        flags = Flag.EXIT | (Flag.WEIGHTS if weights else 0)
        return self.tell(Kind.EVAL, 1, 9, flags, wire.exit_body(0, BATCH, 1.5, most, weights))


class Alone:
    """What such a device must come to: the same steps on a front of its own."""

    def __init__(self) -> None:
        self.front = Front(WITH_EXIT)
        self.front.params[:] = START
        self.order, self.batch = BatchOrder(len(X), SEED), 0
        self.losses: list[float] = []

    def forward(self) -> NDArray[np.float32]:
        """What crosses the seam for the next batch."""
        self.at = self.order.indices(self.batch, BATCH)
        self.front.forward(X[self.at])
        return self.front.crossing()

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.forward()
            self.losses.append(self.front.loss(Y[self.at])[0])
            self.front.backward()
            self.front.update(RATE, MOMENTUM, DECAY)
            self.batch += 1


def packed(params: NDArray[np.float32]) -> bytes:
    return parcel.pack(params, "f32")


def code(answer: Message | None) -> int:
    assert answer is not None and answer.kind == Kind.ERROR
    return -wire.read_error(answer.body).code


# ---- f32 ----


def test_a_round_with_local_loss_sends_every_hth_activation_and_learns_from_all_batches() -> None:
    device, alone = Device(WITH_EXIT), Alone()
    for steps, step, n in ((0, None, 0), (1, 0, 2), (3, 1, 1)):
        answer = device.step(packed(START)) if step is None else device.local(step, n)
        alone.step(0 if step is None else n + 1)
        assert answer.kind == Kind.ACT, steps
        assert answer.step == (0 if step is None else step + 1)
        labels, activation = wire.read_act(answer.body)
        assert np.array_equal(activation, alone.forward())
        assert np.array_equal(labels, Y[alone.at])
    answer = device.local(2, 3, Flag.LAST)
    alone.step(4)
    _, loss, params = wire.read_weights(answer.body)
    assert np.array_equal(params, alone.front.params)
    assert loss == pytest.approx(np.mean(alone.losses), rel=1e-6) and len(alone.losses) == 9
    assert np.array_equal(device.session.momentum, alone.front.momentum)


def test_a_local_request_that_is_repeated_is_applied_once() -> None:
    device = Device(WITH_EXIT)
    device.step(packed(START))
    first = device.local(0, 2)
    params = device.session.params.copy()
    assert device.local(0, 2).body == first.body
    assert np.array_equal(params, device.session.params)
    last = device.local(1, 0, Flag.LAST)
    assert device.local(1, 0, Flag.LAST).body == last.body
    assert device.local(0, 2) is None


def test_alone_for_a_round_no_activation_goes_out() -> None:
    device, alone = Device(WITH_EXIT), Alone()
    answer = device.step(packed(START), flags=Flag.LOCAL, local=5)
    alone.step(5)
    assert answer.kind == Kind.WEIGHTS
    assert np.array_equal(wire.read_weights(answer.body)[2], alone.front.params)


def test_in_a_split_round_the_exit_rests_and_the_front_learns_as_without_one() -> None:
    device, plain = Device(WITH_EXIT), Device(ALONE)
    device.step(packed(START), flags=Flag.LOCAL, local=2)  # the exit has momentum from now on
    after, momentum = device.session.params.copy(), device.session.momentum.copy()
    plain.step(packed(after[:OWN]))
    plain.session.momentum[:] = momentum[:OWN]
    assert device.step(None, 2).body == plain.step(None, 2).body
    gradient = wire.grad_body(RATE, 0.5, packed(DY))
    for step in range(3):
        one, other = (d.tell(Kind.GRAD, 2, step, 0, gradient) for d in (device, plain))
        assert one is not None and other is not None and one.body == other.body
    assert np.array_equal(device.session.params[:OWN], plain.session.params)
    assert np.array_equal(device.session.params[OWN:], after[OWN:])
    assert np.array_equal(device.session.momentum[OWN:], momentum[OWN:])
    assert not np.array_equal(device.session.params[:OWN], after[:OWN])


def test_an_exit_answers_what_it_is_sure_of_and_the_host_gets_the_rest() -> None:
    device, front = Device(WITH_EXIT), Front(WITH_EXIT)
    front.params[:] = START
    logits = front.forward(X[:BATCH]).reshape(BATCH, 3)
    crossing = front.crossing()
    entropies = np.sort(_entropy(logits / 1.5))
    most = float(entropies[:3].mean() / 2 + entropies[1] / 2)  # between two of them
    labels, answers, rest = wire.read_exit_result(device.exits(most, packed(START)).body)
    expected = np.where(_entropy(logits / 1.5) <= most, logits.argmax(1), -1)
    assert 0 < (expected >= 0).sum() < BATCH
    assert np.array_equal(answers, expected) and np.array_equal(labels, Y[:BATCH])
    assert np.array_equal(exit_answers(logits, 1.5, most), expected)
    assert rest is not None and np.array_equal(rest, crossing[expected < 0])
    _, answers, rest = wire.read_exit_result(device.exits(1e9).body)
    assert np.array_equal(answers, logits.argmax(1)) and rest is None
    _, answers, rest = wire.read_exit_result(device.exits(-1.0).body)
    assert (answers == -1).all() and rest is not None and np.array_equal(rest, crossing)


def _entropy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    return np.asarray(-(p * np.log(p)).sum(1))


def test_an_evaluation_of_the_exit_alone_counts_on_the_device() -> None:
    device, front = Device(WITH_EXIT), Front(WITH_EXIT)
    front.params[:] = START
    logits = front.forward(X[:BATCH]).reshape(BATCH, 3)
    body = wire.eval_body(0, BATCH, packed(START))
    answer = device.tell(Kind.EVAL, 0, 9, Flag.LOCAL | Flag.WEIGHTS, body)
    assert answer is not None
    assert wire.read_result(answer.body)[:2] == ((logits.argmax(1) == Y[:BATCH]).sum(), BATCH)


UNSURE_LOGITS = {
    "not a number": [np.nan, 0.0, 1.0],
    "infinity": [np.inf, 0.0, 1.0],
    "two infinities": [np.inf, np.inf, 1.0],
}


@pytest.mark.parametrize("logits", UNSURE_LOGITS.values(), ids=UNSURE_LOGITS)
def test_an_exit_is_never_sure_of_what_is_no_number(logits: list[float]) -> None:
    assert exit_answers(np.array([logits], np.float32), 1.0, 1e9) == [-1]


def test_equal_logits_are_as_unsure_as_can_be() -> None:
    logits = np.zeros((1, 8), np.float32)
    assert exit_answers(logits, 1.0, np.log(8) + 1e-3) == [0]
    assert exit_answers(logits, 1.0, np.log(8) - 1e-3) == [-1]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), 1e-40])
def test_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        exit_answers(np.zeros((1, 3), np.float32), temperature, 0.5)


def test_what_an_exit_cannot_be_asked() -> None:
    assert code(Device(ALONE).exits(0.5)) == -11  # it has none
    device = Device(WITH_EXIT)
    bad = wire.exit_body(0, BATCH, 1.0, 0.5, None)
    for at, value in ((8, b"\0\0\x80\xff"), (8, bytes(4)), (12, b"\0\0\xc0\x7f")):
        body = bad[:at] + value + bad[at + 4 :]
        assert code(device.tell(Kind.EVAL, 1, 9, Flag.EXIT, body)) == -1
    assert code(device.tell(Kind.EVAL, 1, 9, Flag.EXIT, bad[:-1])) < 0
    device.step(packed(START))
    assert code(device.tell(Kind.GRAD, 1, 0, Flag.LOCAL, wire.grad_body(RATE, 0, None))) < 0


BAD_RESULTS: dict[str, Callable[[bytes], bytes]] = {
    "too few answers": lambda b: b[:18],
    "another count": lambda b: b[:2] + b"\1\0" + b[4:],
    "bytes behind": lambda b: b + b"\0",
}


@pytest.mark.parametrize("damage", BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_a_result_that_does_not_add_up(damage: Callable[[bytes], bytes]) -> None:
    body = bytes(Device(WITH_EXIT).exits(1e9, packed(START)).body)
    assert wire.read_exit_result(body)[2] is None
    with pytest.raises(wire.ProtocolError, match="RESULT"):
        wire.read_exit_result(damage(body))


# ---- plans ----


def test_a_plan_says_where_its_exit_begins() -> None:
    assert read_plan(WITH_EXIT).seam == 2 and read_plan(ALONE).seam == 0
    assert Front(WITH_EXIT).seam_shape == (1, 10, 4) == Front(ALONE).seam_shape
    assert Front(WITH_EXIT).output_shape == (1, 1, 3)


def test_an_exit_reads_only_what_crosses_the_seam() -> None:
    with pytest.raises(PlanError, match=r"layer 3 \(dense\) of the exit reads tensor 2"):
        build_plan([*FRONT, EXIT[0], LayerSpec("dense", 2, (1, 1, 3))], SHAPE, BATCH, seam=3)
    with pytest.raises(PlanError, match="expected 0 to 3 layers before an exit, got 4"):
        build_plan([*FRONT, *EXIT], SHAPE, BATCH, seam=4)


def test_what_crosses_the_seam_is_not_made_again() -> None:
    front = size_up([*FRONT, *EXIT], SHAPE, BATCH, seam=2)
    assert 1 not in choose(front)
    with pytest.raises(PlanError, match="layer 1 makes what crosses the seam"):
        lay_out(front, again=[1])


# ---- another plan between two rounds ----


def test_another_plan_between_two_rounds() -> None:
    device = Device(ALONE)
    gradient = wire.grad_body(RATE, 0.5, packed(DY))
    device.step(packed(START[:OWN]))
    device.tell(Kind.GRAD, 1, 0, Flag.LAST, gradient)
    got = device.tell(Kind.WEIGHTS_GET, 1, 0, Flag.MOMENTUM)
    assert got is not None
    momentum = wire.read_weights(got.body)[2]
    assert np.array_equal(momentum, device.session.momentum) and momentum.any()
    ready = device.plan(WITH_EXIT, 2)
    assert ready is not None and ready.kind == Kind.READY and ready.round == 2
    again = device.plan(WITH_EXIT, 2)
    assert again is not None and again.body == ready.body
    assert device.plan(ALONE, 1) is None and device.plan(ALONE, 2) is not None  # old; again
    assert device.session.plan == WITH_EXIT
    moved = np.concatenate([momentum, np.ones(ALL - OWN, np.float32)])
    body = wire.weights_body(moved)
    set_ = device.tell(Kind.WEIGHTS, 2, 1, Flag.MOMENTUM, body)
    assert set_ is not None and set_.kind == Kind.READY
    assert np.array_equal(device.session.momentum, moved) and not device.session.params.any()
    assert device.step(packed(START), 1) is None  # older than the plan
    act = device.step(packed(START), 2)
    assert act.kind == Kind.ACT and np.array_equal(device.session.params, START)
    assert device.plan(ALONE, 3) is not None


def test_a_plan_that_does_not_fit_leaves_none_until_the_next() -> None:
    device = Device(ALONE, memory=Device(ALONE).session.memory_bytes)
    device.step(packed(START[:OWN]))
    assert code(device.plan(WITH_EXIT, 2)) == -13
    assert code(device.step(packed(START[:OWN]), 2)) < 0
    ready = device.plan(ALONE, 2)
    assert ready is not None and ready.kind == Kind.READY
    assert device.step(packed(START[:OWN]), 2).kind == Kind.ACT


def test_no_plan_in_the_middle_of_a_request() -> None:
    device = Device(ALONE)
    body = wire.step_body(RATE, 0, 0, packed(START[:OWN]))
    message = Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS, body)
    assert device.session.receive(message.encode()) == TRAIN
    settings = wire.Settings(SEED, BATCH, F32, F32, 1, MOMENTUM, DECAY)
    plan = Message(Kind.PLAN, 7, 2, 0, 0, wire.plan_body(settings, WITH_EXIT))
    assert device.session.receive(plan.encode()) == NOTHING


# ---- int8 ----

SPECS = fuse([*FRONT, *EXIT])[0]
Q8_PLAN = build_q8_plan(SPECS, SHAPE, BATCH, seam=1)


@pytest.fixture(scope="module")
def both() -> QuantisedFront:
    layers = [*FRONT, *EXIT]
    return quantise(layers, SHAPE, START, calibrate(layers, SHAPE, START, X))


def test_local_loss_in_int8_equals_the_same_steps_on_a_front_of_its_own(
    both: QuantisedFront,
) -> None:
    device, front = Device(Q8_PLAN, INT8), Q8Front(Q8_PLAN)
    front.set(blob_of(both))
    order = BatchOrder(len(X), SEED)
    batch = 0

    def steps(count: int) -> None:
        nonlocal batch
        for _ in range(count):
            at = order.indices(batch, BATCH)
            front.forward(X[at])
            seed = int(random_bits(SEED, (1 * 2654435761 + Kind.STEP) & 0xFFFFFFFF, batch, 1)[0])
            front.train(Y[at], rate=RATE, momentum=MOMENTUM, decay=DECAY, seed=seed)
            batch += 1

    def crossing() -> NDArray[np.float32]:
        front.forward(X[order.indices(batch, BATCH)])
        zero, scale = both.zero(1), both.scale(1)
        return ((front.crossing().astype(np.float32) - zero) * np.float32(scale)).astype("f4")

    answer = device.step(wire.bytes_parcel(blob_of(both)))
    assert np.array_equal(wire.read_act(answer.body)[1], crossing())
    answer = device.local(0, 2)
    steps(3)
    assert np.array_equal(wire.read_act(answer.body)[1], crossing())
    answer = device.local(1, 1, Flag.LAST)
    steps(2)
    _, learned, extremes = wire.read_q8_weights(answer.body)
    assert learned == front.learned.tobytes() != learned_bytes(both)
    assert (extremes[:, 0] < extremes[:, 1]).all()


def test_in_int8_a_split_round_leaves_the_exit_alone(both: QuantisedFront) -> None:
    device = Device(Q8_PLAN, INT8)
    device.step(wire.bytes_parcel(blob_of(both)))
    g = rng.integers(-100, 100, (BATCH, 1, 10, 4)).astype(np.int8)
    body = wire.grad_body(RATE, 0.5, parcel.pack_int8(g, 2.0**-8))
    answer = device.tell(Kind.GRAD, 1, 0, Flag.LAST, body)
    assert answer is not None
    _, learned, extremes = wire.read_q8_weights(answer.body)
    before = learned_bytes(both)
    own = 24 + 16  # bytes of the convolution's weights and biases
    assert learned[:own] != before[:own] and learned[own:] == before[own:]
    assert (extremes[2:, 0] > extremes[2:, 1]).all()  # nothing was seen there


def test_an_exit_in_int8_answers(both: QuantisedFront) -> None:
    device, front = Device(Q8_PLAN, INT8), Q8Front(Q8_PLAN)
    front.set(blob_of(both))
    q = front.forward(X[:BATCH]).reshape(BATCH, 3).astype(np.float32)
    logits = ((q - both.zero(3)) * np.float32(both.scale(3))).astype(np.float32)
    most = float(np.median(_entropy(logits / 1.5)))
    blob = wire.bytes_parcel(blob_of(both))
    _, answers, rest = wire.read_exit_result(device.exits(most, blob).body)
    assert np.array_equal(answers, exit_answers(logits, 1.5, most))
    assert 0 < (answers < 0).sum() < BATCH
    zero, scale = both.zero(1), both.scale(1)
    crossing = (front.crossing()[answers < 0].astype(np.float32) - zero) * np.float32(scale)
    assert rest is not None and np.array_equal(rest, crossing)


def test_momentum_of_an_int8_front_stays_on_the_device(both: QuantisedFront) -> None:
    device = Device(Q8_PLAN, INT8)
    device.step(wire.bytes_parcel(blob_of(both)))
    assert code(device.tell(Kind.WEIGHTS_GET, 1, 0, Flag.MOMENTUM)) < 0
    assert code(device.tell(Kind.WEIGHTS, 1, 1, Flag.MOMENTUM, wire.weights_body(START))) < 0
