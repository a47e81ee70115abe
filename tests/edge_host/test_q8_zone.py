"""A zone whose fronts train in int8: every mode, the same bits, restarts, who comes late, what is
refused.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seamline.edge_host.local_zone import LocalZone
from seamline.kernels import parcel
from seamline.kernels.front import Q8Front
from seamline.runtime import message as wire
from seamline.runtime.config import Job
from seamline.runtime.data import Data
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import PlanError
from seamline.runtime.quantised import read_front, run

MODES = ["split-v1", "split-v2", "split-v3", "federated", "isolated"]
Worlds = Callable[..., Any]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_to_the_end_in_int8(world: Worlds, mode: str) -> None:
    here = world(mode, arithmetic="q8", cloud_rounds=3)
    here.run()
    losses = [metrics["loss"] for _, _, metrics in here.cloud.updates]
    assert here.host.done and len(losses) == 3 and np.isfinite(losses).all()
    fronts = here.host.trainer.wire_fronts.fronts
    personal = mode in ("split-v3", "isolated")
    assert sorted(fronts) == (["d0", "d1", "d2"] if personal else ["zone"])
    assert all(front.rounds > 0 for front in fronts.values())
    assert sum(d["total"] for d in here.named("evaluated")[-1]["devices"].values()) >= 30


@pytest.mark.parametrize("mode", ["split-v2", "split-v3", "federated"])
def test_the_same_seed_gives_the_same_bits_whatever_the_timing(world: Worlds, mode: str) -> None:
    first, second = (world(mode, arithmetic="q8", seed=s, name=f"out{s}") for s in (1, 2))
    first.run()
    second.run()
    assert first.fingerprint() == second.fingerprint()
    for device in first.devices:
        assert first.devices[device].front().tobytes() == second.devices[device].front().tobytes()


def test_the_fronts_learn(world: Worlds) -> None:
    here = world(arithmetic="q8", cloud_rounds=12, edge_rounds=5, device_steps=1, batch=8)
    here.run()
    losses = [metrics["loss"] for _, _, metrics in here.cloud.updates]
    assert losses[-1] < 0.6 * losses[0]
    name = here.host.cut.front_names[0]
    assert np.abs(here.cloud.model[name] - here.host.trainer.initial[name]).max() > 0.01


def test_only_bytes_of_int8_cross_the_seam(world: Worlds) -> None:
    here = world(arithmetic="q8")
    here.run()
    grads = [m for _, m in here.sent if m.kind == Kind.GRAD]
    acts = [m for _, m in here.arrived if m.kind == Kind.ACT]
    for grad in grads:
        scale, zero = struct.unpack_from("<fi", grad.body, 16)
        assert grad.body[8] == parcel.CODECS["int8"] and zero == 0
        assert math.frexp(scale)[0] == 0.5
    shape = here.host.cut.shape
    assert {len(act.body) for act in acts} == {4 + 8 + 16 + 16 + 4 * int(np.prod(shape))}
    steps = [m for _, m in here.sent if m.kind == Kind.STEP]
    floats = 4 * here.host.trainer.front.size
    assert all(Flag.WEIGHTS in Flag(m.flags) and len(m.body) < floats for m in steps)


def test_all_devices_of_a_round_train_the_same_int8_weights(world: Worlds) -> None:
    here = world(arithmetic="q8")
    here.run()
    for round_ in {m.round for _, m in here.sent if m.kind == Kind.STEP}:
        sent = {m.body[12:] for _, m in here.sent if m.kind == Kind.STEP and m.round == round_}
        assert len(sent) == 1


def test_a_host_that_restarts_between_rounds_leads_to_the_same_bits(world: Worlds) -> None:
    whole = world(arithmetic="q8", cloud_rounds=4, name="whole")
    whole.run()
    here = world(arithmetic="q8", cloud_rounds=4, name="restarted")
    here.run(lambda w: w.cloud.round == 2 and not w.host.trainer.busy)
    here.restart()
    here.run()
    assert here.named("restored")
    assert here.fingerprint() == whole.fingerprint()


def test_a_device_that_is_lost_and_one_that_comes_late_take_part(world: Worlds) -> None:
    here = world(
        arithmetic="q8", cloud_rounds=6, absent=("d2",), rounds={"join_wait_s": 1.0, "quorum": 0.3}
    )
    here.data["d2"] = tuple(np.array(part) for part in here.data["d1"])
    here.run(lambda w: len(w.rounds()) == 4)
    here.lose("d0")
    here.run(lambda w: len(w.rounds()) == 6)
    here.join("d2")
    here.join("d0")
    here.run()
    assert set(here.rounds()[0]["devices"]) == {"d0", "d1"}
    assert set(here.rounds()[-1]["devices"]) == {"d0", "d1", "d2"}


def test_a_frozen_front_stays_and_its_ranges_are_found_all_the_same(world: Worlds) -> None:
    here = world(arithmetic="q8", freeze_front=True, cloud_rounds=3)
    here.run()
    for name in here.host.cut.front_names:
        np.testing.assert_array_equal(here.cloud.model[name], here.host.trainer.initial[name])
    assert here.host.trainer.wire_fronts.fronts["zone"].rounds > 0


@pytest.mark.parametrize("option", ["q8_rounding", "q8_momentum"])
def test_each_option_of_the_job_reaches_the_devices(world: Worlds, option: str) -> None:
    choices = {
        "q8_rounding": ["stochastic", "nearest", "truncate"],
        "q8_momentum": ["int8", "float", "none"],
    }
    prints = []
    for choice in choices[option]:
        here = world(arithmetic="q8", name=choice, **{option: choice})
        here.run()
        prints.append(here.fingerprint())
        assert (here.devices["d0"].session.velocity is None) == (choice == "none")
    assert len(set(prints)) == len(prints)


def test_what_is_finished_runs_on_a_device_without_torch(world: Worlds, tmp_path: Path) -> None:
    here = world(arithmetic="q8", seam=2)
    here.run()
    path = tmp_path / "out" / "zones" / "A" / "front-q8.npz"
    front = read_front(path)
    with np.load(path) as file:
        plan, blob = file["plan"].tobytes(), file["blob"].tobytes()
    device = Q8Front(plan)
    device.set(blob)
    x = here.data["d0"][0][: device.batch]
    np.testing.assert_array_equal(run(front, front.quantise(x)), device.forward(x))
    assert front.layers[0].weights is not None and front.layers[0].weights.any()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda body: body[:-2], "extremes"),
        (lambda body: body[:-1], "pairs"),
        (lambda body: body[:8] + wire.bytes_parcel(b"abcd") + body[-4:], "bytes"),
        (lambda body: body[:40] + b"\x80" + body[41:], "-128"),
    ],
)
def test_a_device_that_sends_nonsense_is_sent_away(
    world: Worlds, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    here = world(arithmetic="q8")
    device, told = here.devices["d1"], list[str]()
    receive = device.receive

    def spoiled(data: bytes) -> list[bytes]:
        if data[3] == Kind.ERROR:
            told.append(wire.read_error(Message.decode(data).body).text)
        found = []
        for answer in receive(data):
            message = Message.decode(answer)
            if message.kind == Kind.WEIGHTS:
                message = dataclasses.replace(message, body=spoil(bytes(message.body)))
            found.append(message.encode())
        return found

    device.receive = spoiled
    here.run(lambda w: bool(told))
    assert reason in told[0]


def test_a_device_that_cannot_train_in_int8_is_told_so(world: Worlds) -> None:
    here = world(arithmetic="q8")
    hello = bytearray(here.devices["d1"].session.hello())
    hello[24 + 24 + 3] &= 0x7F  # the highest of the layer bits
    here.lose("d1")
    here.host.from_device("d1", bytes(hello), here.now)
    refused = [Message.decode(data) for peer, data in here.host.fleet.outbox if peer == "d1"]
    assert "cannot train in int8: upgrade it, or set train.arithmetic" in (
        wire.read_error(refused[-1].body).text
    )


def test_a_front_with_group_norm_is_refused_before_anything_starts(world: Worlds) -> None:
    job: Job = world().job
    job.model.name, job.model.args, job.model.seam = "resnet8", {}, 1
    job.train.arithmetic = "q8"
    data = Data(*(np.zeros(0),) * 4, classes=1)
    with pytest.raises(PlanError, match="fold_batch_norm"):
        LocalZone(job, "A", {"d0": data})
