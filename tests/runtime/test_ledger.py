"""What a message carries, by the bytes it is made of; a body that makes no sense is all around."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime import message as wire
from seamline.runtime.ledger import AROUND, Ledger, add, carried
from seamline.runtime.message import Flag, Kind, Message

PARCEL = parcel.pack(np.ones((2, 1, 1, 3), np.float32), "int8")
FRONT = parcel.pack(np.ones(9, np.float32), "f32")
MODEL = {"a.weight": np.ones((2, 3), np.float32), AROUND: np.ones(4, np.float32)}
LABELS = struct.pack("<HHHH", 2, 0, 1, 1)
PLAN = wire.plan_body(wire.Settings(1, 2, 1, 1, 0, 0.9, 0.0), bytes(70))

CARRIES = {
    "an activation": (Message(Kind.ACT, body=LABELS + PARCEL), {"activations": len(PARCEL)}),
    "of an evaluation": (Message(Kind.RESULT, body=LABELS + PARCEL), {"activations": len(PARCEL)}),
    "with an exit": (
        Message(Kind.RESULT, flags=Flag.EXIT, body=LABELS + bytes(4) + PARCEL),
        {"activations": len(PARCEL)},
    ),
    "a gradient": (
        Message(Kind.GRAD, body=wire.grad_body(0.1, 1.0, PARCEL)),
        {"gradients": len(PARCEL)},
    ),
    "a front": (Message(Kind.WEIGHTS, body=bytes(8) + FRONT), {"fronts": len(FRONT)}),
    "a front to train": (
        Message(Kind.STEP, body=wire.step_body(0.1, 0, 1, FRONT)),
        {"fronts": len(FRONT)},
    ),
    "a front to evaluate": (
        Message(Kind.EVAL, body=wire.eval_body(0, 1, FRONT)),
        {"fronts": len(FRONT)},
    ),
    "a plan": (Message(Kind.PLAN, body=PLAN), {"plans": 70}),
    "a model": (
        Message(Kind.ZONE_UPDATE, body=wire.zone_body({}, MODEL)),
        {"a.weight": 20 + 24, f"{AROUND} (tensor)": 20 + 16},
    ),
    "a frozen front": (Message(Kind.GRAD, body=wire.grad_body(0.1, 1.0, None)), {}),
    "a local result": (Message(Kind.RESULT, flags=Flag.LOCAL, body=bytes(12)), {}),
    "a hello": (Message(Kind.ZONE_HELLO, body=wire.zone_body({"zone": "A"}, {})), {}),
}


@pytest.mark.parametrize("name", CARRIES)
def test_what_a_message_carries(name: str) -> None:
    message, expected = CARRIES[name]
    assert carried(message) == expected
    size = len(message.encode())
    ledger = Ledger()
    ledger.count("up", message, size)
    assert sum(ledger.total["up"].values()) == size and ledger.total["down"] == {}
    assert ledger.take()["up"] == ledger.total["up"] and ledger.take()["up"] == {}


@pytest.mark.parametrize("kind", list(Kind))
def test_any_body_is_counted_to_the_last_byte(kind: Kind) -> None:
    rng = np.random.default_rng(int(kind))
    for size in (*range(30), 200):
        ledger = Ledger()
        message = Message(kind, body=rng.bytes(size))
        ledger.count("down", message, size + 20)
        assert sum(ledger.total["down"].values()) == size + 20
        assert all(count >= 0 for count in ledger.total["down"].values())
    for head in (b"[]", b'{"tensors": 3}', b'{"tensors": ["a"]}', b"\xff"):
        body = struct.pack("<I", len(head)) + head
        assert carried(Message(kind, body=body)).get("a") is None


def test_tables_are_added_row_by_row() -> None:
    one, other = {"up": {"a": 1}, "down": {}}, {"up": {"a": 2, "b": 3}, "down": {"c": 4}}
    assert add(one, other) == {"up": {"a": 3, "b": 3}, "down": {"c": 4}}
    assert add({}, one) == one
