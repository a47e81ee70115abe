"""The host with its parts joined: what it says, keeps on disk, and goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seamline.edge_host import load_checkpoint
from seamline.edge_host.checkpoint import load_zone, save_zone, zone_file
from seamline.edge_host.host import Host, make_plan
from seamline.edge_host.split import float_state
from seamline.runtime import message as wire
from seamline.runtime.errors import UserError
from seamline.runtime.files import write_whole
from seamline.runtime.message import Kind, Message
from seamline.runtime.plan import read_plan


def folder(here: Any) -> Path:
    return Path(here.job.out)


def test_the_finished_model_loads_as_one_plain_torch_module(world: Callable[..., Any]) -> None:
    here = world(seam=2)
    here.run()
    model = load_checkpoint(folder(here) / "model.pt")
    assert type(model) is torch.nn.Sequential and not model.training
    for name, value in float_state(model).items():
        np.testing.assert_array_equal(value.numpy(), here.cloud.model[name])
    raw = torch.load(folder(here) / "model.pt", weights_only=True)
    assert set(raw) == {"state_dict", "model", "args", "exits", "seam", "job"}
    assert (raw["model"], raw["seam"], raw["job"]) == ("watch", "3", "job")
    with np.load(folder(here) / "front.npz", allow_pickle=False) as front:
        assert sorted(front.files) == sorted(here.host.cut.front_names)
        for name in front.files:
            np.testing.assert_array_equal(front[name], here.cloud.model[name])
    assert [path.name for path in folder(here).rglob(".*")] == []


def test_a_checkpoint_that_is_missing_or_foreign_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "model.pt")
    for name, data in {"text": b"hello", "pickle": b"cos\nsystem\n(S'x'\ntR."}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="is not a seamline checkpoint"):
            load_checkpoint(tmp_path / name)
    torch.save({"state_dict": {}}, tmp_path / "other")
    with pytest.raises(UserError, match="KeyError"):
        load_checkpoint(tmp_path / "other")


def test_devices_that_compute_again_take_less_memory_and_learn_the_same_bits(
    world: Callable[..., Any],
) -> None:
    usual = world("federated", name="usual")
    again = world("federated", name="again", recompute=True)
    for here in (usual, again):
        here.run()
    sizes = [read_plan(make_plan(here.job, here.host.cut)).arena_bytes for here in (usual, again)]
    assert sizes[1] < sizes[0]
    for name, value in usual.cloud.model.items():
        np.testing.assert_array_equal(value, again.cloud.model[name])


def test_events_tell_the_story_of_a_job(world: Callable[..., Any]) -> None:
    here = world(cloud_rounds=3, evaluate_every=2)
    here.run()
    assert {e["device"] for e in here.named("joined")} == {"d0", "d1", "d2"}
    last = here.rounds()[-1]
    assert (last["zone"], last["cloud_round"], last["round"]) == ("A", 2, 9)
    assert last["loss"] > 0 and last["seconds"] >= 0
    for device in last["devices"].values():
        assert device["loss"] > 0 and device["bytes_up"] > 1000 and device["bytes_down"] > 1000
    assert [e["path"] for e in here.named("saved")] == [str(folder(here) / "model.pt")]
    times = [e["round"] for e in here.rounds()]
    assert times == sorted(set(times)) and len(times) < 9


def test_the_cloud_gets_samples_and_metrics_with_each_update(world: Callable[..., Any]) -> None:
    here = world(cloud_rounds=3, evaluate_every=2)
    here.run()
    assert [(r, samples) for r, samples, _ in here.cloud.updates] == [(0, 41), (1, 41), (2, 41)]
    metrics = [m for _, _, m in here.cloud.updates]
    assert all(m["loss"] > 0 for m in metrics)
    assert ["evaluated" in m for m in metrics] == [False, False, True]
    assert set(metrics[2]["evaluated"]) == {"d0", "d1", "d2"}
    assert metrics[2]["bytes"]["d0"]["up"] > metrics[1]["bytes"]["d0"]["up"]


def test_devices_are_told_that_the_job_is_done(world: Callable[..., Any]) -> None:
    here = world()
    here.run()
    assert sorted(d for d, m in here.sent if m.kind == Kind.BYE) == ["d0", "d1", "d2"]


@pytest.mark.parametrize("mode", ["split-v1", "split-v2", "federated", "isolated"])
def test_a_restarted_host_goes_on_from_the_last_durable_round(
    world: Callable[..., Any], mode: str
) -> None:
    plain = world(mode, name="plain", cloud_rounds=4, momentum=0.0)
    plain.run()
    here = world(mode, name="killed", cloud_rounds=4, momentum=0.0)
    here.run(lambda w: w.cloud.round == 2 and w.host.trainer.rounds_done == 6)
    here.restart()
    assert here.named("restored") == [{"event": "restored", "zone": "A", "cloud_round": 2}]
    here.run()
    assert [r for r, _, _ in here.cloud.updates] == [0, 1, 2, 3]
    for name, value in plain.cloud.model.items():
        np.testing.assert_array_equal(value, here.cloud.model[name])


def test_a_host_killed_before_its_update_was_accepted_sends_it_again_without_training(
    world: Callable[..., Any],
) -> None:
    here = world(cloud_rounds=3)
    here.cloud.accepts = False
    here.run(lambda w: w.host.next_round == 1)
    kept = load_zone(here.job, "A")
    assert kept is not None and kept.next_round == 1 and kept.update
    here.restart()
    sent = len(here.sent)
    here.cloud.accepts = True
    here.run(lambda w: bool(w.cloud.updates))
    assert all(m.kind != Kind.STEP for _, m in here.sent[sent:])
    here.run()
    assert [r for r, _, _ in here.cloud.updates] == [0, 1, 2]


def test_a_state_of_another_job_is_not_used(world: Callable[..., Any]) -> None:
    here = world()
    here.run()
    assert load_zone(here.job, "A") is not None
    other = world(batch=5)
    assert zone_file(other.job, "A").exists() and load_zone(other.job, "A") is None
    other.run()
    assert other.named("restored") == []


def test_the_same_job_run_again_with_a_new_cloud_gives_the_same_bits(
    world: Callable[..., Any],
) -> None:
    first = world()
    first.run()
    second = world()
    second.run()
    assert second.named("restored") and second.cloud.round == 2
    assert first.fingerprint() == second.fingerprint()


def test_a_damaged_zone_file_is_one_clear_error(world: Callable[..., Any]) -> None:
    here = world()
    here.run()
    path = zone_file(here.job, "A")
    data = path.read_bytes()
    for wrong in (b"", b"x" * 100, data[: len(data) // 2]):
        write_whole(path, wrong)
        with pytest.raises(UserError, match=r"state\.npz cannot be read .* remove it") as caught:
            Host(here.job, "A", lambda event: None, 0.0)
        assert caught.value.exit_code == 3


def test_a_zone_file_that_does_not_fit_the_model_is_one_clear_error(
    world: Callable[..., Any],
) -> None:
    here = world()
    here.run()
    kept = load_zone(here.job, "A")
    assert kept is not None
    kept.arrays["front"] = np.zeros(3, np.float32)
    save_zone(here.job, "A", kept)
    with pytest.raises(UserError, match="does not fit the model"):
        Host(here.job, "A", lambda event: None, 0.0)


def test_writing_whole_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_round_of_the_cloud_ends_the_one_at_hand(world: Callable[..., Any]) -> None:
    here = world(cloud_rounds=5)
    here.run(lambda w: w.host.trainer.rounds_done == 4)
    here.cloud.round = 3  # the cloud went on without this zone
    here.host.from_cloud(here.cloud.order())
    here.run()
    assert [r for r, _, _ in here.cloud.updates] == [0, 3, 4]


def test_a_model_of_the_cloud_that_is_not_this_jobs_is_refused(world: Callable[..., Any]) -> None:
    here = world()
    body = wire.zone_body({"round": 1}, {"w": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="not the one of this job"):
        here.host.from_cloud(Message(Kind.ZONE_ROUND, round=1, body=body).encode())


def test_an_unknown_zone_is_refused_with_those_there_are(world: Callable[..., Any]) -> None:
    here = world()
    with pytest.raises(UserError, match="there is no zone 'Z' in the job; it has A"):
        Host(here.job, "Z", lambda event: None, 0.0)
