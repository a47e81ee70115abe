"""A zone whose job waits for all, in virtual time: what is lost is done again, and nothing twice.

Without momentum a device of these tests has nothing to keep: tests/fleet/test_kills.py has devices
that do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from seamline.edge_host import host
from seamline.edge_host.checkpoint import load_zone
from seamline.edge_host.roster import Roster
from seamline.runtime import message as wire
from seamline.runtime.errors import UserError
from seamline.runtime.message import Flag, Kind, Message
from torch import nn

ALL = {"wait": "all"}


@pytest.fixture
def zone(world: Callable[..., Any]) -> Callable[..., Any]:
    """A world that waits for all, without momentum."""

    def build(mode: str = "split-v2", **more: Any) -> Any:
        return world(mode, **{"rounds": ALL, "momentum": 0.0, "cloud_rounds": 3, **more})

    return build


def answers(world: Any, device: str, count: int) -> Callable[[Any], bool]:
    """Until the device has sent so many activations or parameters in training."""
    kinds = (Kind.ACT, Kind.WEIGHTS)
    return lambda w: sum(d == device and m.kind in kinds for d, m in w.arrived) >= count


@pytest.mark.parametrize("mode", ["split-v1", "split-v2", "federated"])
@pytest.mark.parametrize("when", [1, 3, 8, 20])
def test_a_lost_device_is_waited_for_and_changes_nothing(
    zone: Callable[..., Any], mode: str, when: int
) -> None:
    plain = zone(mode, name="plain")
    plain.run()
    here = zone(mode, name="lost")
    here.run(answers(here, "d1", when if mode != "federated" else 1 + when // 5))
    here.lose("d1")
    done = here.host.trainer.rounds_done
    here.now += 100.0
    here.host.tick(here.now)
    assert here.host.trainer.rounds_done == done and not here.cloud.done
    assert "d1" in here.host.trainer.roster.active, "it must not be left out"
    here.join("d1")
    here.run()
    assert here.fingerprint() == plain.fingerprint()
    assert len(here.named("resumed")) == 1


def test_whom_a_round_waits_for_is_told_once_a_deadline(zone: Callable[..., Any]) -> None:
    here = zone(rounds={**ALL, "deadline_s": 30.0})
    here.run(answers(here, "d1", 3))
    here.lose("d1")
    for _ in range(100):
        here.now += 1.0
        here.host.tick(here.now)
        here.host.work(here.now)
    assert [e["device"] for e in here.named("late")] == ["d1"] * 3


def test_a_device_lost_while_it_does_things_again_does_them_again(zone: Callable[..., Any]) -> None:
    plain = zone(name="plain")
    plain.run()
    here = zone(name="lost")
    for count in (7, 9, 11):
        here.run(answers(here, "d1", count))
        here.lose("d1")
        here.join("d1")
    here.run()
    assert here.fingerprint() == plain.fingerprint()


def test_an_absent_device_holds_the_first_round_whatever_the_quorum(
    zone: Callable[..., Any],
) -> None:
    here = zone(absent=("d2",), rounds={**ALL, "quorum": 0.3, "join_wait_s": 5.0})
    with pytest.raises(AssertionError, match="nothing happens"):
        here.run(limit=60.0)
    assert not any(m.kind == Kind.STEP for _, m in here.sent)
    assert here.named("waiting")[-1]["needed"] == 3


def test_the_request_that_ends_a_cloud_round_and_no_other_says_keep(
    zone: Callable[..., Any], world: Callable[..., Any]
) -> None:
    for here, rounds in ((zone(), {3, 6, 9}), (world(name="other"), set())):
        here.run()
        kept = [m for d, m in here.sent if d == "d0" and m.flags & Flag.KEEP]
        assert {m.round for m in kept} == rounds
        assert all(m.flags & Flag.LAST for m in kept)


@pytest.mark.parametrize("mode", ["split-v2", "federated"])
def test_a_host_that_starts_again_begins_its_cloud_round_again(
    zone: Callable[..., Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "split-v2":
        load = host.job_network

        def with_dropout(*arguments: Any) -> Any:
            model = load(*arguments)
            model.insert(len(model) - 1, nn.Dropout(0.5))
            return model

        monkeypatch.setattr(host, "job_network", with_dropout)
    plain = zone(mode, name="plain")
    plain.run()
    here = zone(mode, name="killed")
    here.run(lambda w: w.host.trainer.rounds_done == 4)
    here.restart()
    here.run()
    assert here.fingerprint() == plain.fingerprint()


def test_the_last_word_is_repeated_until_the_cloud_has_it(zone: Callable[..., Any]) -> None:
    here = zone()
    here.cloud.hears = False
    here.run(lambda w: bool(w.named("saved")))
    heard = here.now
    here.run(lambda w: w.now > heard + 3.0)
    assert not here.host.done and not any(m.kind == Kind.BYE for _, m in here.sent)
    here.cloud.hears = True
    here.run()
    assert here.cloud.report is not None


def test_a_host_killed_at_the_end_says_its_last_word_and_evaluates_no_more(
    zone: Callable[..., Any],
) -> None:
    here = zone()
    here.cloud.hears = False
    here.run(lambda w: bool(w.named("saved")))
    kept = load_zone(here.job, "A")
    assert kept is not None and kept.report and not kept.update
    here.cloud.hears = True
    here.restart()
    sent = len(here.sent)
    here.run()
    later = {m.kind for _, m in here.sent[sent:]}
    assert Kind.BYE in later and not later & {Kind.EVAL, Kind.STEP}
    assert here.cloud.report is not None


def test_a_host_killed_at_the_end_does_not_wait_for_ever_for_devices_that_are_done(
    zone: Callable[..., Any],
) -> None:
    here = zone()
    here.cloud.hears = False
    here.run(lambda w: bool(w.named("saved")))
    here.cloud.hears = True
    here.lose("d1")
    here.restart()
    here.run(limit=20.0)
    assert here.host.done


def test_a_device_that_fails_at_the_same_step_twice_ends_the_job_with_its_reason(
    zone: Callable[..., Any],
) -> None:
    here = zone()
    here.run(answers(here, "d1", 4))

    def fail() -> None:
        session = here.host.fleet._sessions["d1"].number
        body = wire.error_body(10, Kind.GRAD, "a value is not finite")
        here.host.from_device("d1", Message(Kind.ERROR, session, body=body).encode(), here.now)

    fail()
    here.join("d1")
    here.run(lambda w: "d1" in w.host.trainer.roster.ready())
    with pytest.raises(UserError, match="d1 fails at the same step every time") as caught:
        fail()
    assert caught.value.exit_code == 6


def test_nonsense_of_a_device_ends_the_job_that_waits_for_all(zone: Callable[..., Any]) -> None:
    here = zone()
    here.run(answers(here, "d1", 4))
    here.muted.add("d1")
    here.run(lambda w: "d1" in w.host.trainer.roster._open)
    request = here.host.trainer.roster._open["d1"]
    session = here.host.fleet._sessions["d1"].number
    kind, round_, step = request.answer
    nonsense = Message(kind, session, round_, step, body=b"nonsense")
    here.host.from_device("d1", nonsense.encode(), here.now)
    with pytest.raises(UserError, match=r'd1 cannot be used .* round\.wait = "all"'):
        here.run(limit=30.0)


@pytest.mark.parametrize("lost", [True, False])
def test_a_device_that_has_lost_what_it_kept_is_told_of(
    zone: Callable[..., Any], lost: bool
) -> None:
    here = zone(cloud_rounds=4)
    here.run(lambda w: w.host.trainer.rounds_done == 4)
    device = here.devices["d1"]
    here.lose("d1")
    here.join("d1", None if lost else device)
    here.run()
    assert [("d1 has lost" in e["text"]) for e in here.named("note")] == [True] * lost


@pytest.mark.parametrize("first", ["devices", "cloud"])
def test_fronts_of_their_own_in_int8_report_whoever_comes_first(
    world: Callable[..., Any], first: str
) -> None:
    here = world("split-v3", arithmetic="q8", name=first)
    if first == "devices":
        receive, here.cloud.receive = here.cloud.receive, lambda data: []
        here.run(lambda w: len(w.host.trainer.roster.present) == 3)
        here.cloud.receive = receive
    else:
        for device in here.data:
            here.lose(device)
        here.run(lambda w: w.host.trainer.busy)
        for device in here.data:
            here.join(device)
    here.run()
    ends = [m for d, m in here.sent if d == "d0" and m.flags & Flag.LAST and m.round == 1]
    assert not ends[0].flags & Flag.PERSONAL


class Line:
    """A roster of one device, and what the device is asked and answers."""

    def __init__(self) -> None:
        self.roster = Roster("A", ["d"], 0.0, deadline_s=30, quorum=1, join_s=9, wait_all=True)
        self.come()
        self.gather()

    def come(self) -> None:
        self.roster.joined("d", 9, 9, needs_front=True)

    def gather(self) -> None:
        for _ in self.roster.gather():
            raise AssertionError("the device is here")

    def ask(self, round_: int, step: int) -> None:
        self.roster.ask("d", Message(Kind.GRAD, 0, round_, step), Kind.ACT, step)

    def asked(self) -> list[tuple[int, int]]:
        found = [(message.round, message.step) for _, message in self.roster.outbox]
        self.roster.outbox.clear()
        return found

    def answer(self, round_: int, step: int) -> None:
        self.roster.answer("d", Message(Kind.ACT, 0, round_, step))

    def answers(self) -> list[tuple[int, int]]:
        return [(m.round, m.step) for m in self.roster._answers.values()]


def test_a_device_is_asked_again_one_request_after_the_other() -> None:
    line = Line()
    for step in range(3):
        line.ask(1, step)
        if step < 2:
            line.answer(1, step)
            line.roster._answers.clear()
    assert line.asked() == [(1, 0), (1, 1), (1, 2)]
    line.roster.left("d")
    line.come()
    assert line.asked() == [(1, 0)]
    line.answer(1, 0)
    line.answer(1, 0)
    assert line.asked() == [(1, 1)] and line.answers() == []
    line.answer(1, 1)
    line.answer(1, 2)
    assert line.asked() == [(1, 2)] and line.answers() == [(1, 2)]


def test_the_next_round_waits_until_the_device_has_done_the_last_one_again() -> None:
    line = Line()
    line.ask(1, 0)
    line.answer(1, 0)
    line.ask(1, 1)
    line.answer(1, 1)
    line.roster.left("d")
    line.come()
    line.asked()
    line.roster.begin()
    line.gather()
    line.ask(2, 0)
    assert line.asked() == []
    line.answer(1, 0)
    assert line.asked() == [(1, 1)]
    line.answer(1, 1)
    assert line.asked() == [(2, 0)] and line.answers() == []
    line.answer(2, 0)
    assert line.answers() == [(2, 0)]
    line.roster.left("d")
    line.come()
    assert line.asked() == [(2, 0)], "in a new session it starts behind the last round"


def test_what_a_device_is_asked_while_it_is_away_waits_for_it() -> None:
    line = Line()
    line.ask(1, 0)
    line.answer(1, 0)
    line.roster.left("d")
    line.asked()
    line.ask(1, 1)
    assert line.asked() == []
    line.come()
    line.answer(1, 0)
    assert line.asked() == [(1, 0), (1, 1)]
