"""What a zone computes: equal to plain torch, whatever the timing; averages, personal fronts, who
is absent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from seamline.edge_host.models import load_model
from seamline.edge_host.split import float_state
from seamline.edge_host.trainer import average, device_seed, turn_order
from seamline.kernels import parcel, random_bits
from seamline.runtime import message as wire
from seamline.runtime.errors import UserError
from seamline.runtime.message import Flag, Kind, Message
from torch import Tensor, nn

MODES = ["split-v1", "split-v2", "split-v3", "federated", "isolated"]
EPOCH_STREAM = 0x45504F43
PLAIN = {
    "codec": "f32", "back_optimizer": "sgd", "front_rate": 0.05, "back_rate": 0.02, "momentum": 0.9
}  # fmt: skip


class Plain:
    """The unsplit network in plain torch, trained by SGD on the batches a device would draw."""

    def __init__(self, world: Any, device: str, front: int) -> None:
        job = world.job
        self.train, self.world, self.device = job.train, world, device
        self.model = load_model(job.model.name, job.model.args, job.seed)
        names = set(list(float_state(self.model))[:front])
        parts = [
            [p for name, p in self.model.named_parameters() if (name in names) == inside]
            for inside in (True, False)
        ]
        groups = [{"params": part} for part in parts if part]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=job.train.momentum)
        self.seed = device_seed(job.seed, device)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        x, y = self.world.data[self.device][:2]
        chosen = []
        for position in range(number * self.train.batch, (number + 1) * self.train.batch):
            keys = random_bits(self.seed, EPOCH_STREAM + position // len(x), 0, len(x))
            chosen.append(np.argsort(keys, kind="stable")[position % len(x)])
        nchw = np.ascontiguousarray(x[chosen].transpose(0, 3, 1, 2))
        return torch.from_numpy(nchw), torch.from_numpy(y[chosen].astype(np.int64))

    def step(self, number: int, decay: float) -> float:
        rates = [self.train.front_rate * decay, self.train.back_rate * decay]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate
        self.optimizer.zero_grad()
        x, y = self.batch(number)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def vector(self) -> NDArray[np.float32]:
        return np.concatenate([p.detach().numpy().ravel() for p in self.model.parameters()])


def whole(state: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([value.ravel() for value in state.values()])


def in_order(model: nn.Module, state: dict[str, Any]) -> NDArray[np.float32]:
    return whole({name: state[name] for name in float_state(model)})


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("seam", [1, 2, "9"])
def test_uncompressed_split_training_of_one_device_equals_plain_torch(
    world: Callable[..., Any], steps: int, seam: int | str
) -> None:
    here = world(
        devices={"d0": 23}, seam=seam, device_steps=steps, edge_rounds=20 // steps, **PLAIN
    )
    here.run()
    front = len(here.host.cut.front_names)
    plain = Plain(here, "d0", front)
    total = 40
    losses = [plain.step(i, 1 - i / total) for i in range(total)]
    assert len(losses) == total
    expected = plain.vector()
    got = in_order(plain.model, here.cloud.model)
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
    start = in_order(plain.model, {k: v.numpy() for k, v in float_state(
        load_model(here.job.model.name, here.job.model.args, here.job.seed)).items()})  # fmt: skip
    assert np.linalg.norm(start - expected) > 0.01 * np.linalg.norm(expected)


def test_the_turn_order_is_drawn_anew_for_every_round_and_step() -> None:
    devices = [f"d{i}" for i in range(6)]
    orders = {tuple(turn_order(1, devices, r, s)) for r in range(6) for s in range(6)}
    assert len(orders) > 30
    assert all(sorted(order) == devices for order in orders)
    assert turn_order(1, devices[::-1], 3, 2) == turn_order(1, devices, 3, 2)
    assert turn_order(2, devices, 3, 2) != turn_order(1, devices, 3, 2)


def test_an_average_is_weighted_by_samples_and_summed_in_double_precision() -> None:
    vectors = {"b": np.float32([1, 1e8]), "a": np.float32([4, 1])}
    mean = average(vectors, {"a": 1, "b": 3})
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, np.float32([1.75, 0.75e8 + 0.25]))
    np.testing.assert_array_equal(average(vectors, {"a": 0, "b": 0})[:1], np.float32([2.5]))
    one = np.float32([0.1, 1e-30])
    assert average({"x": one}, {"x": 5}).tobytes() == one.tobytes()


def test_v1_averages_fronts_and_backs_of_devices_that_train_apart(
    world: Callable[..., Any],
) -> None:
    here = world("split-v1", devices={"d0": 12, "d1": 20}, cloud_rounds=1, edge_rounds=4, **PLAIN)
    here.run()
    apart = {d: Plain(here, d, len(here.host.cut.front_names)) for d in here.data}
    assert_equals_averaged(here, apart, front=True, back=True)


def test_federated_averages_networks_trained_on_the_devices(world: Callable[..., Any]) -> None:
    here = world(
        "federated",
        devices={"d0": 12, "d1": 20},
        cloud_rounds=1,
        edge_rounds=4,
        rate_decay="none",
        **PLAIN,
    )
    here.run()
    apart = {d: Plain(here, d, 99) for d in here.data}
    assert_equals_averaged(here, apart, front=True, back=True)


def test_v3_averages_backs_and_leaves_fronts_on_the_devices(world: Callable[..., Any]) -> None:
    here = world("split-v3", devices={"d0": 12, "d1": 20}, cloud_rounds=1, edge_rounds=4, **PLAIN)
    here.run()
    names = here.host.cut.front_names
    apart = {d: Plain(here, d, len(names)) for d in here.data}
    assert_equals_averaged(here, apart, front=False, back=True)
    assert not [m for _, m in here.arrived if m.kind == Kind.WEIGHTS]
    for name in names:  # what the cloud has of the fronts is where they began
        np.testing.assert_array_equal(here.cloud.model[name], here.host.trainer.initial[name])
    for device in here.data:
        own = {k: v for k, v in float_state(apart[device].model).items() if k in names}
        got = here.host.cut.front_state(here.devices[device].front())
        for name, value in own.items():
            np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-3, atol=1e-5)
    assert here.devices["d0"].front().tobytes() != here.devices["d1"].front().tobytes()


def assert_equals_averaged(here: Any, apart: dict[str, Plain], front: bool, back: bool) -> None:
    """Trains the plain networks as the job says, averaging the parts named, and compares with the
    cloud's model.
    """
    train = here.job.train
    steps, rounds = train.device_steps, train.edge_rounds
    samples = {d: len(here.data[d][0]) for d in apart}
    names = set(here.host.cut.front_names)
    for r in range(rounds):
        for s in range(steps):
            done = r * steps + s
            decay = 1 - done / (rounds * steps) if train.rate_decay == "linear" else 1.0
            for plain in apart.values():
                plain.step(done, decay)
        states = {d: float_state(plain.model) for d, plain in apart.items()}
        for name in states[next(iter(states))]:
            if front if name in names else back:
                mean = average({d: states[d][name].numpy() for d in states}, samples)
                for state in states.values():
                    state[name].copy_(torch.from_numpy(mean))
    expected = float_state(next(iter(apart.values())).model)
    for name, value in expected.items():
        if front if name in names else back:
            np.testing.assert_allclose(
                here.cloud.model[name], value.numpy(), rtol=1e-3, atol=1e-5, err_msg=name
            )


def test_isolated_devices_learn_alone_and_are_judged_on_all_data(world: Callable[..., Any]) -> None:
    here = world(
        "isolated", devices={"d0": 12, "d1": 20}, cloud_rounds=2, rate_decay="none", **PLAIN
    )
    here.run()
    apart = {d: Plain(here, d, 99) for d in here.data}
    for plain in apart.values():
        for i in range(12):
            plain.step(i, 1.0)
    fronts = here.host.trainer.fronts
    for device, plain in apart.items():
        got = in_order(plain.model, here.host.cut.front_state(fronts[device]))
        np.testing.assert_allclose(got, plain.vector(), rtol=1e-3, atol=1e-5)
    last = here.named("evaluated")[-1]["devices"]
    assert set(last) == {"d0", "d1"}
    for device, plain in apart.items():
        tests = [here.data[d][2:] for d in here.data]
        right = [correct(plain.model, *test) for test in tests]
        assert (last[device]["correct"], last[device]["total"]) == (sum(right), 20)
        own = correct(plain.model, *here.data[device][2:])
        assert (last[device]["own_correct"], last[device]["own_total"]) == (own, 10)
    for name, value in here.host.trainer.initial.items():
        np.testing.assert_array_equal(here.cloud.model[name], value)


def correct(model: nn.Module, x: NDArray[Any], y: NDArray[Any]) -> int:
    with torch.no_grad():
        logits = model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
    return int((logits.argmax(1).numpy() == y).sum())


@pytest.mark.parametrize("mode", ["split-v1", "split-v2", "federated"])
def test_an_evaluation_is_that_of_the_global_model(world: Callable[..., Any], mode: str) -> None:
    here = world(mode, codec="f32", cloud_rounds=3, evaluate_every=2)
    here.run()
    assert [e["cloud_round"] for e in here.named("evaluated")] == [2, 3]
    model = here.host.cut.merge(here.cloud.model).eval()
    for device, found in here.named("evaluated")[-1]["devices"].items():
        x, y = here.data[device][2:]
        assert (found["correct"], found["total"]) == (correct(model, x, y), len(y))
        with torch.no_grad():
            nchw = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            loss = F.cross_entropy(model(nchw), torch.from_numpy(y.astype(np.int64))).item()
        assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert here.cloud.report is not None
    assert here.cloud.report["metrics"]["evaluated"] == here.named("evaluated")[-1]["devices"]


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(1, 1000))
def test_the_same_seed_gives_the_same_bits_in_whatever_order_answers_arrive(
    world: Callable[..., Any], mode: str, seed: int
) -> None:
    first = world(mode, name=f"first-{seed}-{mode}")
    first.run()
    second = world(mode, seed=seed, name=f"second-{seed}-{mode}")
    second.run()
    assert [d for d, _ in first.arrived] != [d for d, _ in second.arrived]
    assert first.fingerprint() == second.fingerprint()
    assert first.host.trainer.fronts.keys() == second.host.trainer.fronts.keys()
    for device, front in first.host.trainer.fronts.items():
        assert front.tobytes() == second.host.trainer.fronts[device].tobytes()
    for device in first.devices:
        assert first.devices[device].front().tobytes() == second.devices[device].front().tobytes()
    assert first.named("evaluated") == second.named("evaluated")


def test_a_frozen_front_never_changes_and_no_gradient_goes_down(world: Callable[..., Any]) -> None:
    here = world(freeze_front=True)
    here.run()
    for name in here.host.cut.front_names:
        np.testing.assert_array_equal(here.cloud.model[name], here.host.trainer.initial[name])
    grads = [m for _, m in here.sent if m.kind == Kind.GRAD]
    assert grads and all(len(m.body) == 8 and Flag.FROZEN in Flag(m.flags) for m in grads)
    steps = [m for d, m in here.sent if m.kind == Kind.STEP and d == "d0"]
    assert sum(Flag.WEIGHTS in Flag(m.flags) for m in steps) == 1


def test_both_rates_fall_in_a_line_over_the_whole_job(world: Callable[..., Any]) -> None:
    here = world(devices={"d0": 12}, cloud_rounds=2, edge_rounds=2, device_steps=2, front_rate=0.8)
    here.run()
    grads = [m for _, m in here.sent if m.kind == Kind.GRAD]
    rates = [np.frombuffer(m.body, "<f4", 1)[0] for m in grads]
    np.testing.assert_allclose(rates, [0.8 * (1 - i / 8) for i in range(8)], rtol=1e-6)


def test_batches_and_rounds_count_up_over_the_whole_job(world: Callable[..., Any]) -> None:
    here = world(devices={"d0": 12})
    here.run()
    steps = [m for _, m in here.sent if m.kind == Kind.STEP]
    assert [m.round for m in steps] == [1, 2, 3, 4, 5, 6]
    assert [int(np.frombuffer(m.body, "<u4", 1, 4)[0]) for m in steps] == [0, 2, 4, 6, 8, 10]
    places = [
        (m.round, m.step) for _, m in here.sent if m.kind in (Kind.STEP, Kind.GRAD, Kind.EVAL)
    ]
    assert places == sorted(places)


# ---- devices that leave, are late, come back ----


def test_a_device_lost_in_a_round_is_left_out_and_takes_part_again_after_it_rejoins(
    world: Callable[..., Any],
) -> None:
    here = world(cloud_rounds=8)
    here.run(lambda w: len([m for d, m in w.arrived if d == "d1" and m.kind == Kind.ACT]) == 3)
    here.lose("d1")
    rounds = here.host.trainer.rounds_done
    here.run(lambda w: w.host.trainer.rounds_done == rounds + 2)
    assert here.named("left")[-1] == {
        "event": "left", "zone": "A", "device": "d1", "reason": "killed"
    }  # fmt: skip
    assert set(here.host.trainer.roster.active) == {"d0", "d2"}
    began = here.now
    here.join("d1")
    here.run(lambda w: "d1" in w.host.trainer.roster.active)
    assert here.now - began < 1.0
    again = next(m for d, m in reversed(here.sent) if d == "d1" and m.kind == Kind.STEP)
    assert Flag.WEIGHTS in Flag(again.flags)
    here.run()
    assert here.cloud.updates[-1][1] == 12 + 20 + 9


@pytest.mark.parametrize("kept", [True, False])
def test_a_personal_front_goes_on_where_it_was_if_the_device_has_kept_it(
    world: Callable[..., Any], kept: bool
) -> None:
    here = world("split-v3", cloud_rounds=4)
    here.run(lambda w: w.host.trainer.rounds_done == 4)
    device = here.devices["d1"]
    here.lose("d1")
    front = device.front()
    here.join("d1", device if kept else None)
    here.run(lambda w: "d1" in w.host.trainer.roster.active)
    again = next(m for d, m in reversed(here.sent) if d == "d1" and m.kind == Kind.STEP)
    assert (Flag.WEIGHTS in Flag(again.flags)) is not kept
    if kept:
        assert here.devices["d1"].front().tobytes() == front.tobytes()
    here.run()
    assert here.cloud.done


def test_the_first_round_waits_for_all_and_then_for_the_quorum(world: Callable[..., Any]) -> None:
    here = world(absent=("d2",), rounds={"join_wait_s": 20.0, "quorum": 0.6})
    here.run(lambda w: any(m.kind == Kind.STEP for _, m in w.sent))
    assert 20.0 <= here.now < 22.0
    assert here.host.trainer.roster.active == {"d0", "d1"}


def test_below_the_quorum_training_waits_and_goes_on_when_a_device_comes(
    world: Callable[..., Any],
) -> None:
    here = world(absent=("d1", "d2"), rounds={"join_wait_s": 5.0, "quorum": 0.6})
    here.run(lambda w: w.now > 60.0)
    assert not [m for _, m in here.sent if m.kind == Kind.STEP]
    assert here.named("waiting") == [{"event": "waiting", "zone": "A", "ready": 1, "needed": 2}]
    here.data["d1"] = here.data["d0"]
    here.join("d1")
    here.run()
    assert here.cloud.done


def test_a_silent_device_is_skipped_at_the_deadline_and_counts_again_once_it_is_heard(
    world: Callable[..., Any],
) -> None:
    here = world(cloud_rounds=60, evaluate_every=50, rounds={"deadline_s": 4.0})
    here.run(lambda w: w.host.trainer.rounds_done == 1)
    here.muted.add("d2")
    here.run(lambda w: w.host.trainer.rounds_done == 3)
    assert here.named("late") == [{"event": "late", "zone": "A", "device": "d2"}]
    assert 4.0 <= here.now < 10.0
    here.muted.clear()
    here.run()
    assert "d2" in here.named("evaluated")[-1]["devices"]
    assert here.cloud.updates[-1][1] == 12 + 20 + 9


def test_a_lost_answer_is_asked_for_again_and_applied_once(world: Callable[..., Any]) -> None:
    plain = world(name="plain")
    plain.run()
    here = world(name="lossy")
    here.run(lambda w: w.host.trainer.rounds_done == 2)
    here.muted.add("d0")
    here.run(lambda w: w.now > 3.0)
    here.muted.clear()
    here.run()
    assert here.named("late") == []
    assert here.fingerprint() == plain.fingerprint()


def test_with_all_devices_gone_the_zone_waits_and_goes_on(world: Callable[..., Any]) -> None:
    here = world()
    here.run(lambda w: w.host.trainer.rounds_done == 2)
    for device in list(here.devices):
        here.lose(device)
    here.run(lambda w: w.now > 30.0)
    assert here.host.trainer.rounds_done == 3  # the round at hand ended with nobody
    for device in here.data:
        here.join(device)
    here.run()
    assert here.cloud.done


def answer_of(here: Any, device: str, change: Callable[[bytes], bytes]) -> None:
    """Runs until the device's next ACT and puts a changed one in its place."""
    genuine = here.devices[device].receive

    def receive(data: bytes) -> list[bytes]:
        answers = []
        for encoded in genuine(data):
            message = Message.decode(encoded)
            if message.kind == Kind.ACT:
                message = replace(message, body=change(bytes(message.body)))
                here.devices[device].receive = genuine
            answers.append(message.encode())
        return answers

    here.devices[device].receive = receive


def shorter(body: bytes) -> bytes:
    return body[:-1]


def label_out_of_range(body: bytes) -> bytes:
    return body[:4] + b"\xff\x00" + body[6:]


def fewer_samples(body: bytes) -> bytes:
    labels, activation = wire.read_act(body)
    packed = parcel.pack(activation[:1], "f32")
    return b"\x01\x00\x00\x00" + labels[:1].astype("<u2").tobytes() + packed


def other_shape(body: bytes) -> bytes:
    labels, activation = wire.read_act(body)
    packed = parcel.pack(np.ascontiguousarray(activation[..., :1]), "f32")
    return body[: 4 + 2 * len(labels)] + packed


def not_finite(body: bytes) -> bytes:
    return body[:-4] + np.float32(math.nan).tobytes()


@pytest.mark.parametrize(
    "change", [shorter, label_out_of_range, fewer_samples, other_shape, not_finite]
)
def test_a_device_that_sends_nonsense_is_sent_away_and_the_round_goes_on(
    world: Callable[..., Any], change: Callable[[bytes], bytes]
) -> None:
    here = world(codec="f32")
    here.run(lambda w: w.host.trainer.rounds_done == 1)
    answer_of(here, "d1", change)
    here.run()
    errors = [d for d, m in here.sent if m.kind == Kind.ERROR]
    assert errors == ["d1"]
    assert here.cloud.done
    assert all(np.isfinite(value).all() for value in here.cloud.model.values())


def test_training_that_diverges_is_one_clear_error(world: Callable[..., Any]) -> None:
    here = world(
        devices={"d0": 12}, codec="f32", back_optimizer="sgd", back_rate=1e30, rate_decay="none"
    )
    with pytest.raises(UserError, match=r"training diverged; lower train\.back_rate"):
        here.run()


@pytest.mark.parametrize(
    ("mode", "seam", "train", "words"),
    [
        ("split-v2", "end", {}, "no layer is left behind the seam 10"),
        ("federated", 1, {"freeze_front": True}, "nothing to train"),
    ],
)
def test_modes_seams_and_freezing_that_do_not_go_together_are_refused(
    world: Callable[..., Any], mode: str, seam: int | str, train: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        world(mode, seam=seam, **train)


def test_a_zone_without_devices_is_refused(world: Callable[..., Any]) -> None:
    here = world()
    job = copy.deepcopy(here.job)
    job.devices[0].zone = job.devices[1].zone = job.devices[2].zone = "B"
    with pytest.raises(UserError, match="zone 'A' has no devices"):
        type(here)(job, {}, 0)
