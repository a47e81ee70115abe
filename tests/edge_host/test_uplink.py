"""The zone's side of the cloud protocol as a table of what arrives and what goes out."""

from __future__ import annotations

import numpy as np
import pytest
from seamline.edge_host.uplink import REPEAT_S, Finish, Train, Uplink, report_body
from seamline.runtime import message as wire
from seamline.runtime.errors import UserError
from seamline.runtime.message import Kind, Message

MODEL = {"w": np.float32([[1, 2], [3, 4]]), "b": np.float32([5])}


def from_cloud(kind: Kind, round_: int = 0, model: dict[str, np.ndarray] | None = None) -> bytes:
    body = wire.zone_body({"round": round_}, model or {})
    return Message(kind, round=round_, body=body).encode()


def said(uplink: Uplink) -> list[Message]:
    out = [Message.decode(data) for data in uplink.outbox]
    uplink.outbox.clear()
    return out


@pytest.fixture
def uplink() -> Uplink:
    """A zone that has been welcomed."""
    here = Uplink("A", "job", 0.0)
    here.receive(from_cloud(Kind.ZONE_WELCOME))
    return here


def test_hello_is_said_until_the_cloud_gives_work() -> None:
    here = Uplink("A", "kitchen", 0.0)
    for now in (0.0, 1.0, REPEAT_S, 2 * REPEAT_S - 0.1, 2 * REPEAT_S):
        here.tick(now)
    hellos = said(here)
    assert [m.kind for m in hellos] == [Kind.ZONE_HELLO] * 3
    meta, arrays = wire.read_zone(hellos[0].body)
    assert (meta["zone"], meta["job"], arrays) == ("A", "kitchen", {})
    here.receive(from_cloud(Kind.ZONE_WELCOME))
    here.tick(100.0)
    assert [m.kind for m in said(here)] == [Kind.ZONE_HELLO], "an order may have been lost"
    here.receive(from_cloud(Kind.ZONE_ROUND, 0, MODEL))
    here.tick(200.0)
    assert said(here) == []


def test_a_round_is_an_order_to_train_once(uplink: Uplink) -> None:
    order = uplink.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL))
    assert isinstance(order, Train) and order.round == 3 and order.state is not None
    np.testing.assert_array_equal(order.state["w"], MODEL["w"])
    assert uplink.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL)) is None
    again = uplink.receive(from_cloud(Kind.ZONE_ROUND, 4, MODEL))
    assert isinstance(again, Train) and again.round == 4


def test_the_first_round_has_no_model(uplink: Uplink) -> None:
    assert uplink.receive(from_cloud(Kind.ZONE_ROUND, 0)) == Train(0, None)


def test_an_update_is_repeated_until_it_is_accepted(uplink: Uplink) -> None:
    uplink.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL))
    body = uplink.update(3, 77, {"loss": 0.5}, {"w": MODEL["w"]})
    assert said(uplink) == []  # not before it is on disk
    uplink.send_update(10.0)
    uplink.tick(10.0 + REPEAT_S / 2)
    uplink.tick(10.0 + REPEAT_S)
    first, second = said(uplink)
    assert first.kind == second.kind == Kind.ZONE_UPDATE and first.round == 3
    assert bytes(first.body) == bytes(second.body) == body
    meta, arrays = wire.read_zone(first.body)
    assert (meta["round"], meta["samples"], meta["metrics"]) == (3, 77, {"loss": 0.5})
    np.testing.assert_array_equal(arrays["w"], MODEL["w"])
    uplink.receive(from_cloud(Kind.ZONE_ACCEPTED, 2))
    uplink.tick(20.0)
    assert len(said(uplink)) == 1
    uplink.receive(from_cloud(Kind.ZONE_ACCEPTED, 3))
    uplink.tick(30.0)
    assert [m.kind for m in said(uplink)] == [Kind.ZONE_HELLO]


def test_a_round_whose_update_waits_is_answered_with_it_and_not_trained_again() -> None:
    here = Uplink("A", "job", 0.0, pending=(3, wire.zone_body({"round": 3, "samples": 1}, {})))
    here.tick(0.0)
    assert [m.kind for m in said(here)] == [Kind.ZONE_HELLO]
    here.receive(from_cloud(Kind.ZONE_WELCOME, 3))
    assert here.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL)) is None
    assert [(m.kind, m.round) for m in said(here)] == [(Kind.ZONE_UPDATE, 3)]


def test_an_update_of_a_round_that_is_over_is_forgotten(uplink: Uplink) -> None:
    uplink.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL))
    uplink.update(3, 1, {}, MODEL)
    assert isinstance(uplink.receive(from_cloud(Kind.ZONE_ROUND, 4, MODEL)), Train)
    uplink.tick(50.0)
    assert said(uplink) == []


def test_a_lost_cloud_is_said_hello_to_at_once_and_then_gets_the_update(uplink: Uplink) -> None:
    uplink.receive(from_cloud(Kind.ZONE_ROUND, 3, MODEL))
    uplink.lost(10.0)
    uplink.update(3, 1, {}, MODEL)
    uplink.send_update(10.0)
    assert said(uplink) == []
    uplink.lost(10.0)
    uplink.tick(10.0)
    assert [m.kind for m in said(uplink)] == [Kind.ZONE_HELLO]
    uplink.receive(from_cloud(Kind.ZONE_WELCOME))
    uplink.tick(10.0 + REPEAT_S)
    assert [m.kind for m in said(uplink)] == [Kind.ZONE_UPDATE]


def test_the_end_is_an_order_once_and_its_report_is_repeated_on_demand(uplink: Uplink) -> None:
    order = uplink.receive(from_cloud(Kind.ZONE_DONE, 9, MODEL))
    assert isinstance(order, Finish) and order.rounds == 9
    assert uplink.receive(from_cloud(Kind.ZONE_DONE, 9, MODEL)) is None
    assert said(uplink) == []
    uplink.report(9, report_body(9, {"accuracy": 1}))
    uplink.receive(from_cloud(Kind.ZONE_DONE, 9, MODEL))
    first, second = said(uplink)
    assert first.kind == second.kind == Kind.ZONE_REPORT and first.round == 9
    assert wire.read_zone(first.body)[0]["metrics"] == {"accuracy": 1}


def test_a_refusal_of_the_cloud_is_the_users_to_mend(uplink: Uplink) -> None:
    error = Message(Kind.ERROR, body=wire.error_body(17, 32, "no zone A in job x"))
    with pytest.raises(UserError, match="the cloud refused zone A: no zone A in job x") as caught:
        uplink.receive(error.encode())
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "data", [b"", b"nonsense that is long enough for a header", from_cloud(Kind.ZONE_ROUND)[:-1]]
)
def test_bytes_that_are_no_message_are_one_clear_error(uplink: Uplink, data: bytes) -> None:
    with pytest.raises(UserError, match="the cloud sent bytes that cannot be read"):
        uplink.receive(data)
