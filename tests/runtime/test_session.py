"""The device's session: its conversation as named cases; split training equals unsplit training."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels import SeamError, parcel, reference, reference_parcel
from seamline.kernels.front import END, FAIL, NOTHING, SEND, TEST, TRAIN, Front, Session
from seamline.runtime import message as wire
from seamline.runtime.device import BatchOrder
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import LayerSpec, build_plan

FRONT = [
    LayerSpec("conv2d", 0, (1, 10, 4), kernel=(1, 3), stride=(1, 2), padding=((0, 0), (1, 1))),
    LayerSpec("relu", 1, (1, 10, 4)),
]
BACK = [
    LayerSpec("dense", 0, (1, 1, 8)),
    LayerSpec("relu", 1, (1, 1, 8)),
    LayerSpec("dense", 2, (1, 1, 3)),
]
WHOLE = [
    *FRONT,
    LayerSpec("dense", 2, (1, 1, 8)),
    LayerSpec("relu", 3, (1, 1, 8)),
    LayerSpec("dense", 4, (1, 1, 3)),
]
SHAPE = (1, 20, 2)
BATCH, NUMBER, SEED = 4, 77, 5
RATE, MOMENTUM, DECAY = 0.1, 0.9, 1e-3
INT8, F32 = 1, 0

rng = np.random.default_rng(3)
X = rng.normal(size=(11, *SHAPE)).astype(np.float32)
Y = rng.integers(0, 3, 11).astype(np.int32)
START = rng.normal(0, 0.5, 28).astype(np.float32)  # the front's parameters


class Device:
    """A session with its data, as the device program drives it."""

    def __init__(self, layers=FRONT, codec=F32, memory_limit=0):
        self.session = Session("d", b"bootboot", len(X), len(X), memory_limit)
        self.plan = build_plan(layers, SHAPE, BATCH)
        self.settings = wire.Settings(SEED, BATCH, codec, codec, 1, MOMENTUM, DECAY)
        self.batches = 0

    def tell(self, kind, round_=0, step=0, flags=0, body=b"", session=NUMBER):
        """Give it a message; returns (action, its answer or None)."""
        action = self.session.receive(Message(kind, session, round_, step, flags, body).encode())
        while action in (TRAIN, TEST):
            first, count = self.session.need_first, self.session.need_count
            indices = (
                np.arange(first, first + count)
                if action == TEST
                else BatchOrder(len(X), SEED).indices(first, count)
            )
            self.session.inputs[:count], self.session.labels[:count] = X[indices], Y[indices]
            self.batches += 1
            action = self.session.batch()
        return action, Message.decode(self.session.answer()) if action == SEND else None

    def join(self):
        self.session.hello()
        assert self.tell(Kind.WELCOME, body=wire.welcome_body()) == (NOTHING, None)
        return self.tell(Kind.PLAN, body=wire.plan_body(self.settings, self.plan))

    def step(self, round_=1, flags=Flag.WEIGHTS, first=0, local=0, params=START):
        weights = parcel.pack(params, "f32") if flags & Flag.WEIGHTS else None
        return self.tell(Kind.STEP, round_, 0, flags, wire.step_body(RATE, first, local, weights))

    def gradient(self, step, dy, flags=0, round_=1):
        packed = parcel.pack(dy, "f32") if isinstance(dy, np.ndarray) else dy
        body = wire.grad_body(RATE, 0.5, packed)
        return self.tell(Kind.GRAD, round_, step, flags, body)


def joined(**options) -> Device:
    device = Device(**options)
    device.join()
    return device


DY = np.full((BATCH, 1, 10, 4), 0.1, np.float32)
INFINITE = parcel.pack(DY, "f32")[:-4] + np.float32("inf").tobytes()


def code(answer):
    assert answer.kind == Kind.ERROR
    return -wire.read_error(answer.body).code


def test_hello_says_who_it_is_and_what_it_can():
    hello = wire.read_hello(Message.decode(Session("watch-3", b"12345678", 9, 4).hello()).body)
    assert (hello.device_id, hello.boot_id, hello.samples, hello.tests) == (
        "watch-3",
        b"12345678",
        9,
        4,
    )
    assert hello.codecs == sum(1 << number for number in parcel.CODECS.values())


def test_a_plan_is_answered_with_the_memory_it_takes():
    _, ready = Device().join()
    assert ready.kind == Kind.READY
    assert ready.session == NUMBER
    assert (
        wire.read_ready(ready.body).arena_bytes == Front(build_plan(FRONT, SHAPE, BATCH)).arena_size
    )


def test_a_plan_over_the_memory_limit_is_refused():
    assert code(Device(memory_limit=1000).join()[1]) == -13


def test_a_round_goes_step_act_grad_act_grad_weights():
    device = joined()
    _, act = device.step()
    assert (act.kind, act.round, act.step) == (Kind.ACT, 1, 0)
    labels, activation = wire.read_act(act.body)
    assert activation.shape == (BATCH, 1, 10, 4)
    assert labels.tolist() == Y[BatchOrder(11, SEED).indices(0, BATCH)].tolist()
    _, act = device.gradient(0, DY)
    assert (act.kind, act.round, act.step) == (Kind.ACT, 1, 1)
    _, weights = device.gradient(1, DY, Flag.LAST)
    assert (weights.kind, weights.round, weights.step) == (Kind.WEIGHTS, 1, 1)
    samples, loss, params = wire.read_weights(weights.body)
    assert (samples, loss) == (len(X), 0.5)
    assert not np.array_equal(params, START)


def test_a_repeated_request_gets_the_same_answer_and_is_applied_once():
    device = joined()
    first = device.step()[1]
    again = device.step()[1]
    assert bytes(first.body) == bytes(again.body)
    assert device.batches == 1
    first = device.gradient(0, DY)[1]
    params = device.session.params.copy()
    again = device.gradient(0, DY)[1]
    assert bytes(first.body) == bytes(again.body)
    assert np.array_equal(params, device.session.params)


PROBE = bytes(4)
LARGE_PROBE = bytes(600)  # more than the session keeps room for beside its answer


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("a step", lambda d: d.step()),
        ("a gradient", lambda d: d.gradient(0, DY)),
        ("the last gradient", lambda d: d.gradient(1, DY, Flag.LAST)),
    ],
)
def test_a_probe_does_not_cost_the_answer_kept(name, ask):
    device = joined()
    device.step()
    if name != "a step":
        device.gradient(0, DY)
    if name == "the last gradient":
        device.gradient(1, DY, Flag.LAST)
    kept, batches = device.session.answer(), device.batches
    assert device.tell(Kind.PROBE, body=PROBE)[1].kind == Kind.PROBE_ECHO
    assert ask(device)[0] == SEND
    assert device.session.answer() == kept
    assert device.batches == batches, "nothing was computed again"


def test_after_a_large_probe_a_repeat_is_ignored_and_the_round_goes_on():
    device = joined()
    device.step()
    assert device.tell(Kind.PROBE, body=LARGE_PROBE)[1].body == LARGE_PROBE
    assert device.step() == (NOTHING, None)
    assert device.gradient(0, DY)[1].kind == Kind.ACT


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("an evaluation", lambda d: d.tell(Kind.EVAL, 1, body=wire.eval_body(0, 3, None))),
        ("a look at the weights", lambda d: d.tell(Kind.WEIGHTS_GET, 1)),
        ("a large probe", lambda d: d.tell(Kind.PROBE, body=LARGE_PROBE)),
    ],
)
def test_a_last_gradient_that_comes_late_again_is_old_and_no_mistake(name, between):
    device = joined()
    device.step()
    device.gradient(0, DY, Flag.LAST)
    params = device.session.params.copy()
    between(device)
    assert device.gradient(0, DY, Flag.LAST) == (NOTHING, None), name
    assert np.array_equal(params, device.session.params)
    assert device.step(round_=2)[1].kind == Kind.ACT


def test_a_gradient_whose_activation_an_evaluation_replaced_is_a_mistake():
    device = joined()
    device.step()
    device.tell(Kind.EVAL, 1, body=wire.eval_body(0, 3, None))
    assert code(device.gradient(0, DY)[1]) == -11


def test_a_plan_that_comes_again_is_answered_again_until_there_is_work():
    device = joined()
    ready = device.session.answer()
    body = wire.plan_body(device.settings, device.plan)
    assert device.tell(Kind.PLAN, body=body)[1].encode() == ready
    assert device.tell(Kind.WELCOME, body=wire.welcome_body()) == (NOTHING, None)
    device.step()
    assert device.tell(Kind.PLAN, body=body) == (NOTHING, None)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("settings_", [(NAN, 0.0), (INF, 0.0), (0.9, NAN), (0.9, -INF)])
def test_a_momentum_or_decay_that_is_no_number_is_refused(settings_):
    device = Device()
    device.settings = wire.Settings(SEED, BATCH, F32, F32, 1, *settings_)
    assert code(device.join()[1]) == -10


@pytest.mark.parametrize("rate", [NAN, INF, -INF])
def test_a_rate_that_is_no_number_changes_nothing(rate):
    device = joined()
    body = wire.step_body(rate, 0, 1, parcel.pack(START, "f32"))
    assert code(device.tell(Kind.STEP, 1, 0, Flag.WEIGHTS, body)[1]) == -10
    device.step()
    body = wire.grad_body(rate, 0.5, parcel.pack(DY, "f32"))
    assert code(device.tell(Kind.GRAD, 1, 0, 0, body)[1]) == -10
    assert np.array_equal(device.session.params, START)
    assert not device.session.momentum.any()


def test_a_front_that_diverged_trains_again_as_soon_as_it_gets_weights():
    device, fresh = joined(), joined()
    device.step()
    assert code(device.gradient(0, np.full_like(DY, 3e38))[1]) == -10
    fresh.step(round_=2)
    for each in (device, fresh):
        each.step(round_=2)
        each.gradient(0, DY, round_=2)
    assert np.isfinite(device.session.momentum).all(), "infinity must not stay for ever"
    assert np.array_equal(device.session.params, fresh.session.params)


def test_momentum_that_is_sound_outlives_an_error():
    device = joined()
    device.step()
    device.gradient(0, DY)
    momentum = device.session.momentum.copy()
    assert code(device.gradient(1, INFINITE)[1]) == -10
    assert momentum.any()
    assert np.array_equal(device.session.momentum, momentum)


def test_a_host_is_told_of_a_front_only_if_it_is_one_of_its_plan():
    device = Device()
    device.session.saved(6, device.plan)
    ready = wire.read_ready(device.join()[1].body)
    assert (ready.has_checkpoint, ready.saved_round) == (True, 6)
    device = Device()
    device.session.saved(6, build_plan(WHOLE, SHAPE, BATCH))
    assert not wire.read_ready(device.join()[1].body).has_checkpoint


def test_a_front_that_trained_is_still_there_after_a_lost_link_and_the_host_is_told():
    device = joined()
    assert not wire.read_ready(device.join()[1].body).has_checkpoint, "it has learnt nothing yet"
    device.step(round_=3)
    ready = wire.read_ready(device.join()[1].body)
    assert (ready.has_checkpoint, ready.saved_round) == (True, 3)
    device.plan = build_plan(WHOLE, SHAPE, BATCH)
    assert not wire.read_ready(device.join()[1].body).has_checkpoint, "another plan"
    device.plan = build_plan(FRONT, SHAPE, BATCH)
    assert not wire.read_ready(device.join()[1].body).has_checkpoint, "it was given up"


def test_a_front_that_diverged_is_not_offered_to_the_host():
    device = joined()
    device.step()
    device.gradient(0, np.full_like(DY, 3e38))
    assert not np.isfinite(device.session.params).all()
    assert not wire.read_ready(device.join()[1].body).has_checkpoint


def test_old_requests_are_ignored():
    device = joined()
    device.step()
    device.gradient(0, DY)
    device.gradient(1, DY)
    assert device.gradient(0, DY) == (NOTHING, None)
    device.step(round_=5)
    assert device.step(round_=4) == (NOTHING, None)
    assert device.gradient(1, DY, round_=4) == (NOTHING, None)


def test_a_frozen_front_does_not_change():
    device = joined()
    device.step()
    device.gradient(0, None, Flag.FROZEN | Flag.LAST)
    assert np.array_equal(device.session.params, START)


def test_a_personal_front_stays_on_the_device():
    device = joined()
    device.step()
    assert device.gradient(0, DY, Flag.LAST | Flag.PERSONAL)[1].kind == Kind.READY


@pytest.mark.parametrize(
    ("name", "tell", "status"),
    [
        ("a gradient before any step", lambda d: d.gradient(0, DY), -11),
        ("a gradient of another shape", lambda d: (d.step(), d.gradient(0, DY[:2]))[1], -9),
        ("a gradient with infinity", lambda d: (d.step(), d.gradient(0, INFINITE))[1], -10),
        ("weights of another size", lambda d: d.step(params=START[:5]), -9),
        ("a step cut short", lambda d: d.tell(Kind.STEP, 1, body=b"123"), -3),
        ("local with no steps", lambda d: d.step(flags=Flag.LOCAL), -1),
        (
            "tests that do not exist",
            lambda d: d.tell(Kind.EVAL, body=wire.eval_body(10, 4, None)),
            -1,
        ),
        ("an empty test", lambda d: d.tell(Kind.EVAL, body=wire.eval_body(0, 0, None)), -1),
        ("a kind a device never gets", lambda d: d.tell(Kind.HELLO), -8),
    ],
)
def test_what_makes_no_sense_is_answered_with_an_error(name, tell, status):
    device = joined()
    assert code(tell(device)[1]) == status, name
    assert device.step(round_=9)[1].kind == Kind.ACT, "and the session goes on"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda m: m[:10], -3),
        (lambda m: b"XX" + m[2:], -4),
        (lambda m: m[:2] + b"\x09" + m[3:], -5),
        (lambda m: m + b"tail", -7),
        (lambda m: m[:20] + b"\xff\xff\xff\xff" + m[24:], -3),
        (lambda m: m[:6] + b"\x01" + m[7:], -1),
        (lambda m: m[:8] + b"\x01" + m[9:], -12),
    ],
)
def test_bytes_that_are_no_message_for_us_are_dropped_with_a_status(change, status):
    device = joined()
    message = Message(Kind.WEIGHTS_GET, NUMBER).encode()
    with pytest.raises(SeamError) as caught:
        device.session.receive(change(message))
    assert caught.value.status == status
    assert device.tell(Kind.WEIGHTS_GET)[1].kind == Kind.WEIGHTS


def test_bye_ends_and_an_error_of_the_host_is_read():
    device = joined()
    assert device.tell(Kind.BYE, body=wire.bye_body("done"))[0] == END
    assert device.tell(Kind.ERROR, body=wire.error_body(-17, 1, "who are you?"))[0] == FAIL
    assert device.session.failure == (17, "who are you?")


def test_a_probe_is_echoed():
    answer = joined().tell(Kind.PROBE, body=b"\x01\x00\x00\x00payload")[1]
    assert (answer.kind, bytes(answer.body)) == (Kind.PROBE_ECHO, b"\x01\x00\x00\x00payload")


def test_a_lost_link_and_the_same_plan_keep_what_was_learnt():
    device = joined()
    device.step()
    device.gradient(0, DY, Flag.LAST)
    params, momentum = device.session.params.copy(), device.session.momentum.copy()
    device.join()
    assert np.array_equal(params, device.session.params)
    assert np.array_equal(momentum, device.session.momentum)
    assert device.step(round_=1)[1].kind == Kind.ACT


def test_int8_activations_are_the_reference_parcel_of_the_same_forward():
    device, exact = joined(codec=INT8), joined()
    device.step(), exact.step()
    packed = Message.decode(device.session.answer()).body
    _, x = wire.read_act(Message.decode(exact.session.answer()).body)
    stream = (1 * 2654435761 + Kind.ACT) & 0xFFFFFFFF
    seed = int(reference.random_bits(SEED, stream, 0, 1)[0])
    assert bytes(packed[4 + 2 * BATCH :]) == reference_parcel.pack(x, "int8", "stochastic", seed)


def test_evaluation_counts_on_the_device_or_sends_the_activation():
    device = joined(layers=WHOLE)
    result = device.tell(Kind.EVAL, 0, 0, Flag.LOCAL, wire.eval_body(0, 3, None))[1]
    correct, total, loss = wire.read_result(result.body)
    assert total == 3
    assert correct == (Y[:3] == 0).sum(), "all-zero weights answer class 0"
    assert loss == pytest.approx(3 * np.log(3), rel=1e-5)
    result = joined().tell(Kind.EVAL, body=wire.eval_body(8, 3, None))[1]
    labels, activation = wire.read_act(result.body)
    assert labels.tolist() == Y[8:].tolist()
    assert activation.shape == (3, 1, 10, 4)


@settings(max_examples=300)
@given(st.data())
def test_damaged_messages_never_break_a_session(data):
    device = joined()
    device.step()
    body = data.draw(st.binary(max_size=200))
    kind = data.draw(st.sampled_from(list(Kind)))
    flags = data.draw(st.integers(0, 31))
    round_, step = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    with contextlib.suppress(SeamError):
        device.tell(kind, round_, step, flags, body)
    device.join()
    assert device.tell(Kind.WEIGHTS_GET)[1].kind in (Kind.WEIGHTS, Kind.ERROR)


def reference_step(p, v, x, labels):
    """One step of the whole network from the definition alone; p and v change in place."""
    w1, b1 = p[:24].reshape(4, 1, 3, 2), p[24:28]
    w2, b2 = p[28:348].reshape(8, 40), p[348:356]
    w3, b3 = p[356:380].reshape(3, 8), p[380:]
    how = {"stride": (1, 2), "padding": ((0, 0), (1, 1))}
    a = reference.relu(reference.conv2d(x, w1, b1, **how))
    flat = a.reshape(len(x), -1)
    h = reference.relu(reference.dense(flat, w2, b2))
    _, dz = reference.softmax_cross_entropy(reference.dense(h, w3, b3), labels)
    dh, dw3, db3 = reference.dense_backward(dz, h, w3)
    dh = reference.relu_backward(dh, h)
    dflat, dw2, db2 = reference.dense_backward(dh, flat, w2)
    da = reference.relu_backward(dflat.reshape(a.shape), a)
    _, dw1, db1 = reference.conv2d_backward(da, x, w1, **how)
    g = np.concatenate([t.reshape(-1) for t in (dw1, db1, dw2, db2, dw3, db3)])
    reference.sgd(p, v, g, RATE, MOMENTUM, DECAY)


def test_split_training_equals_unsplit_training_and_the_definition_bit_for_bit():
    start = np.random.default_rng(8).normal(0, 0.4, 383).astype(np.float32)
    device = joined()
    back = Front(build_plan(BACK, (1, 10, 4), BATCH))
    back.params[:] = start[28:]
    whole = Front(build_plan(WHOLE, SHAPE, BATCH))
    whole.params[:] = start
    p, v = start.copy(), np.zeros_like(start)
    order = BatchOrder(len(X), SEED)
    answer = device.step(params=start[:28])[1]
    for step in range(12):
        indices = order.indices(step, BATCH)
        whole.forward(X[indices])
        whole.loss(Y[indices])
        whole.backward()
        whole.update(RATE, MOMENTUM, DECAY)
        reference_step(p, v, X[indices], Y[indices])
        labels, activation = wire.read_act(answer.body)
        dy = back_step(back, activation, labels)
        answer = device.gradient(step, dy)[1]
        split = np.concatenate([device.session.params, back.params])
        assert split.tobytes() == whole.params.tobytes() == p.tobytes(), f"step {step}"


def back_step(back, activation, labels):
    """The back as a Front of its own; the gradient of its input by the definition."""
    back.forward(activation)
    back.loss(labels)
    w2 = back.params[:320].reshape(8, 40).copy()
    w3 = back.params[328:352].reshape(3, 8).copy()
    flat = activation.reshape(len(labels), -1)
    h = reference.relu(reference.dense(flat, w2, back.params[320:328]))
    _, dz = reference.softmax_cross_entropy(reference.dense(h, w3, back.params[352:]), labels)
    dh, _, _ = reference.dense_backward(dz, h, w3)
    dflat, _, _ = reference.dense_backward(reference.relu_backward(dh, h), flat, w2)
    back.backward()
    back.update(RATE, MOMENTUM, DECAY)
    return dflat.reshape(activation.shape)


def test_batches_walk_through_all_samples_once_an_epoch_in_a_seeded_order():
    order = BatchOrder(11, SEED)
    walk = np.concatenate([order.indices(number, BATCH) for number in range(11)])
    for epoch in range(4):
        assert sorted(walk[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    assert walk[:11].tolist() != walk[11:22].tolist()
    assert np.array_equal(BatchOrder(11, SEED).indices(7, BATCH), walk[28:32])
