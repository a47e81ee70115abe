"""What hosts may say to a session, whole and damaged, and the run of hostile.c that hears it."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path
from zlib import crc32

from seamline.runtime import message as wire
from seamline.runtime.message import Flag, Kind, Message


def conversation(settings: wire.Settings, plan: bytes, weights: bytes, dy: bytes) -> list[bytes]:
    """All a host can say, in an order in which every message is taken. weights, dy: parcels."""
    said = [
        Message(Kind.WELCOME, 7, body=wire.welcome_body()),
        Message(Kind.PLAN, 7, body=wire.plan_body(settings, plan)),
        Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS, wire.step_body(0.1, 0, 1, weights)),
        Message(Kind.GRAD, 7, 1, 0, 0, wire.grad_body(0.1, 0.5, dy)),
        Message(Kind.GRAD, 7, 1, 1, Flag.LAST, wire.grad_body(0.1, 0.5, dy)),
        Message(Kind.STEP, 7, 2, 0, Flag.LOCAL, wire.step_body(0.1, 0, 3, None)),
        Message(Kind.EVAL, 7, 2, 0, Flag.LOCAL, wire.eval_body(7, 2, None)),
        Message(Kind.EVAL, 7, 2, 1, Flag.WEIGHTS, wire.eval_body(0, 1, weights)),
        Message(Kind.WEIGHTS, 7, 2, 0, 0, struct.pack("<If", 0, 0.0) + weights),
        Message(Kind.WEIGHTS_GET, 7, 2, 0),
        Message(Kind.PROBE, 7, body=b"nonce and some bytes"),
        Message(Kind.ERROR, 7, body=wire.error_body(-17, 1, "a text")),
    ]
    return [message.encode() for message in said]


def sealed(plan: bytearray) -> bytes:
    """A plan with its checksum made right again."""
    plan[44:48] = bytes(4)
    plan[44:48] = struct.pack("<I", crc32(plan))
    return bytes(plan)


def changed(data: bytes, chance: random.Random, most: int) -> bytearray:
    """Up to `most` bytes of it changed."""
    out = bytearray(data)
    for _ in range(chance.randrange(most + 1)):
        out[chance.randrange(len(out))] = chance.choice(
            (0, 1, 2, 127, 128, 255, chance.randrange(256))
        )
    return out


def damaged(message: bytes, chance: random.Random) -> bytes:
    """Now and then: bytes changed behind the kind, or the body cut with its length made right."""
    data = bytearray(message)
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(3, len(data))] = chance.choice((0, 255, chance.randrange(256)))
    if chance.random() < 0.1:
        data = data[: chance.randrange(24, len(data) + 1)]
        data[20:24] = struct.pack("<I", len(data) - 24)
    return bytes(data)


def disturbed(said: list[bytes], chance: random.Random) -> list[bytes]:
    """A conversation with damaged messages, in half of all cases in another order."""
    out = [damaged(message, chance) for message in said]
    if chance.random() < 0.5:
        tail = out[2:]
        chance.shuffle(tail)
        out[2:] = tail
    return out


def run(driver: Path, path: Path, conversations: list[list[bytes]]) -> tuple[int, int]:
    """(messages sent, messages dropped) by sessions that must not leave their memory."""
    with path.open("wb") as file:
        file.write(struct.pack("<I", len(conversations)))
        for said in conversations:
            file.write(struct.pack("<I", len(said)))
            for message in said:
                file.write(struct.pack("<I", len(message)) + message)
    done = subprocess.run([driver, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    sent, dropped = map(int, done.stdout.split())
    return sent, dropped
