"""Joining and leaving: every HELLO that must be refused is, with a text that says why; sessions
follow each other.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from seamline.edge_host.fleet import Answer, Fleet, Joined, Left, Stats, check_batch
from seamline.edge_host.host import cut_model, make_plan
from seamline.kernels import ARITHMETIC_VERSION, WIRE_VERSION
from seamline.runtime import message as wire
from seamline.runtime.config import (
    CodecSection,
    DeviceSection,
    Job,
    ModelSection,
    TrainSection,
    ZoneSection,
)
from seamline.runtime.errors import UserError
from seamline.runtime.message import Hello, Kind, Message

HELLO = Hello(
    version_min=WIRE_VERSION,
    version_max=WIRE_VERSION,
    arithmetic=ARITHMETIC_VERSION,
    boot_id=bytes(8),
    ram=0,
    flash=0,
    codecs=0b111,
    layers=0x3FF,
    samples=30,
    tests=10,
    device_id="d0",
)
READY = bytes(12)


def hello_body(hello: Hello) -> bytes:
    """The HELLO a device's session would write (SPEC.md)."""
    name = hello.device_id.encode()
    fields = list(vars(hello).values())[:-1]
    return struct.pack("<BBH8sIIIIIIB", *fields, len(name)) + name


@pytest.fixture
def fleet() -> Fleet:
    job = Job(
        zones=[ZoneSection("A", "tcp://a"), ZoneSection("B", "tcp://b")],
        devices=[DeviceSection("d0", "A"), DeviceSection("d1", "A"), DeviceSection("far", "B")],
        model=ModelSection("watch", 1),
        codec=CodecSection("int8", "int8"),
    )
    return Fleet(job, "A", make_plan(job, cut_model(job)), next_session=40)


def said(fleet: Fleet) -> list[tuple[str, Message]]:
    """What went out since the last look."""
    out = [(peer, Message.decode(data)) for peer, data in fleet.outbox]
    fleet.outbox.clear()
    return out


def hello(fleet: Fleet, now: float = 0.0, peer: str = "d0", **changes: Any) -> list[Any]:
    body = hello_body(replace(HELLO, device_id=peer, **changes))
    return fleet.receive(peer, Message(Kind.HELLO, body=body).encode(), now)


def join(fleet: Fleet, peer: str = "d0", now: float = 0.0, **changes: Any) -> int:
    """Runs the handshake; returns the session's number."""
    hello(fleet, now, peer, **changes)
    number = said(fleet)[0][1].session
    fleet.receive(peer, Message(Kind.READY, number, body=READY).encode(), now)
    return number


def test_a_device_of_the_zone_is_welcomed_gets_its_plan_and_is_ready(fleet: Fleet) -> None:
    assert hello(fleet) == []
    (first, welcome), (second, plan) = said(fleet)
    assert (first, welcome.kind, welcome.session) == ("d0", Kind.WELCOME, 40)
    assert (second, plan.kind, plan.session) == ("d0", Kind.PLAN, 40)
    assert bytes(plan.body).endswith(fleet.plan)
    ready = Message(Kind.READY, 40, body=READY).encode()
    assert fleet.receive("d0", ready, 0.1) == [Joined("d0", 30, 10, False)]


def test_each_device_has_its_own_seed(fleet: Fleet) -> None:
    hello(fleet)
    hello(fleet, peer="d1")
    plans = [bytes(m.body)[:4] for _, m in said(fleet) if m.kind == Kind.PLAN]
    assert len(plans) == 2 and plans[0] != plans[1]


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "an older wire": (
        {"version_min": 0, "version_max": 0},
        5,
        "d0 speaks wire version 0 to 0, the edge host 1: upgrade the device",
    ),
    "a newer wire": ({"version_min": 2, "version_max": 3}, 5, "upgrade the edge host"),
    "older arithmetic": ({"arithmetic": 0}, 15, "upgrade the device"),
    "newer arithmetic": ({"arithmetic": 9}, 15, "upgrade the edge host"),
    "another name than the link's": (
        {"device_id": "d1"},
        17,
        "the link belongs to d0, but the device says it is d1",
    ),
    "no samples": ({"samples": 0}, 14, "d0 has no training samples"),
    "no int8": ({"codecs": 0b001}, 8, "has not the codecs of the job (int8 up, int8 down)"),
    "too little memory": ({"ram": 100}, 13, "d0 has 100 bytes of RAM"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_hello_that_does_not_fit_is_refused_with_the_reason(fleet: Fleet, case: str) -> None:
    changes, code, words = REFUSED[case]
    body = hello_body(replace(HELLO, **changes))
    happenings = fleet.receive("d0", Message(Kind.HELLO, body=body).encode(), 0.0)
    ((peer, message),) = said(fleet)
    error = wire.read_error(message.body)
    assert (peer, message.kind, error.code) == ("d0", Kind.ERROR, code)
    assert words in error.text
    assert happenings == [Left("d0", error.text)]


@pytest.mark.parametrize(
    ("peer", "words"),
    [("stranger", "stranger is not in the job"), ("far", "far belongs to zone B, this is zone A")],
)
def test_a_device_of_another_job_or_zone_is_refused(fleet: Fleet, peer: str, words: str) -> None:
    hello(fleet, peer=peer)
    error = wire.read_error(said(fleet)[0][1].body)
    assert error.code == 17 and words in error.text


@pytest.mark.parametrize(
    "data", [b"", b"SL", b"GET / HTTP/1.1\r\n\r\n........", Message(Kind.HELLO, body=b"x").encode()]
)
def test_bytes_that_are_no_message_are_answered_with_an_error(fleet: Fleet, data: bytes) -> None:
    fleet.receive("d0", data, 0.0)
    assert [m.kind for _, m in said(fleet)] == [Kind.ERROR]


def test_nonsense_ends_the_session_of_the_device_that_sent_it(fleet: Fleet) -> None:
    join(fleet)
    assert [type(h) for h in fleet.receive("d0", b"nonsense", 1.0)] == [Left]
    assert [m.kind for _, m in said(fleet)] == [Kind.ERROR]


def test_a_hello_repeated_while_joining_is_answered_again_only_after_a_while(fleet: Fleet) -> None:
    hello(fleet)
    assert [m.session for _, m in said(fleet)] == [40, 40]
    hello(fleet, now=1.0)
    assert said(fleet) == []
    hello(fleet, now=5.0)
    assert [m.session for _, m in said(fleet)] == [40, 40]


@pytest.mark.parametrize("boot", [bytes(8), b"anotherb"])
def test_a_ready_device_that_says_hello_again_gets_a_new_session(fleet: Fleet, boot: bytes) -> None:
    old = join(fleet)
    assert hello(fleet, now=0.5, boot_id=boot) == [Left("d0", "joined anew")]
    new = said(fleet)[0][1].session
    assert new == old + 1
    assert fleet.receive("d0", Message(Kind.ACT, old).encode(), 0.6) == []
    assert fleet.receive("d0", Message(Kind.READY, new, body=READY).encode(), 0.7) == [
        Joined("d0", 30, 10, False)
    ]


def test_answers_are_passed_on_only_from_a_ready_device(fleet: Fleet) -> None:
    hello(fleet)
    session = said(fleet)[0][1].session
    act = Message(Kind.ACT, session, 3, 1, body=b"abc")
    assert fleet.receive("d0", act.encode(), 0.0) == []
    fleet.receive("d0", Message(Kind.READY, session, body=READY).encode(), 0.0)
    (answer,) = fleet.receive("d0", act.encode(), 0.0)
    assert isinstance(answer, Answer) and bytes(answer.message.body) == b"abc"


def test_a_device_of_before_a_restart_is_told_to_say_hello(fleet: Fleet) -> None:
    fleet.receive("d0", Message(Kind.ACT, 7).encode(), 0.0)
    error = wire.read_error(said(fleet)[0][1].body)
    assert error.code == 12 and "say HELLO first" in error.text


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(Kind.BYE, body=wire.bye_body("battery empty")), "battery empty"),
        (Message(Kind.ERROR, body=wire.error_body(14, 3, "no data")), "no data"),
    ],
)
def test_a_goodbye_or_an_error_of_the_device_says_why_it_left(
    fleet: Fleet, message: Message, reason: str
) -> None:
    message = replace(message, session=join(fleet))
    assert fleet.receive("d0", message.encode(), 1.0) == [
        Left("d0", reason, message.kind == Kind.ERROR)
    ]
    assert fleet.lost("d0", "later") == []


def test_a_lost_device_that_was_ready_has_left(fleet: Fleet) -> None:
    join(fleet)
    hello(fleet, peer="d1")
    assert fleet.lost("d0", "heartbeat") == [Left("d0", "heartbeat")]
    assert fleet.lost("d1", "heartbeat") == []


def test_requests_carry_the_session_and_an_error_ends_it(fleet: Fleet) -> None:
    number = join(fleet)
    fleet.send("d0", Message(Kind.STEP, round=2))
    fleet.send("d1", Message(Kind.STEP, round=2))
    assert [(peer, m.session, m.round) for peer, m in said(fleet)] == [("d0", number, 2)]
    fleet.send("d0", Message(Kind.ERROR, body=wire.error_body(9, 7, "no")))
    fleet.send("d0", Message(Kind.STEP))
    assert [m.kind for _, m in said(fleet)] == [Kind.ERROR]


def test_goodbye_goes_to_everyone(fleet: Fleet) -> None:
    join(fleet)
    join(fleet, "d1")
    fleet.goodbye("done")
    assert [(peer, m.kind) for peer, m in said(fleet)] == [("d0", Kind.BYE), ("d1", Kind.BYE)]


def test_bytes_of_a_device_are_counted_over_its_sessions(fleet: Fleet) -> None:
    join(fleet)
    once = fleet.traffic["d0"].up, fleet.traffic["d0"].down
    fleet.lost("d0", "gone")
    join(fleet, now=9.0)
    assert (fleet.traffic["d0"].up, fleet.traffic["d0"].down) == (2 * once[0], 2 * once[1])
    assert once[1] > len(fleet.plan) and once[0] > 24 * 2


@pytest.mark.parametrize(
    ("body", "happenings"),
    [(b'{"vmhwm_mb": 30}', [Stats("d0", {"vmhwm_mb": 30})]), (b"[1]", []), (b"\xff", [])],
)
def test_what_a_device_says_about_itself_is_passed_on_if_it_can_be_read(
    fleet: Fleet, body: bytes, happenings: list[Any]
) -> None:
    number = join(fleet)
    assert fleet.receive("d0", Message(Kind.STATS, number, body=body).encode(), 1.0) == happenings


@pytest.mark.parametrize("batch", [0, 4097])
def test_a_batch_no_plan_can_have_is_refused(fleet: Fleet, batch: int) -> None:
    fleet.job.train = TrainSection(batch=batch)
    with pytest.raises(UserError, match="1 to 4096"):
        check_batch(fleet.job)
