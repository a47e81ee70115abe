"""The device's sealed line on emulated Cortex-M boards says what it says on this machine."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest
from c_device import Device
from c_device import build as build_library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from seamline.firmware_bridge import image
from seamline.kernels._link import JOINED, MESSAGE, SENT
from seamline.runtime.handshake import HOST, Handshake
from seamline.runtime.sealed_end import SealedEnd

SECRETS = {name: random.Random(name).randbytes(32) for name in ("watch-1", "host-A")}
HERE = Path(__file__).parent
MESSAGES = [b"", bytes(range(256)) * 12, b"x" * 4096]


class Draw:
    """The bytes that the image draws."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> bytes:
        self.count += 1
        return bytes((self.count * 37 + at * 11 + 5) % 256 for at in range(size))


def public(name: str) -> bytes:
    return X25519PrivateKey.from_private_bytes(SECRETS[name]).public_key().public_bytes_raw()


class Recorder:
    """A talk of a device in C with a host, as records."""

    def __init__(self, library) -> None:
        self.data = SECRETS["watch-1"] + public("host-A")
        self.records = 0
        self.device = Device(
            library, 7 << 32, 0, "watch-1", SECRETS["watch-1"], "host-A", public("host-A"),
            rx_space=4096, draw=Draw(),
        )  # fmt: skip

    def note(self, what: str, now: int, data: bytes) -> None:
        self.data += what.encode() + struct.pack("<IH", now, len(data)) + data
        self.records += 1

    def host(self, boot_id: int) -> SealedEnd:
        known = {"watch-1": public("watch-1")}.get
        hand = Handshake(HOST, "host-A", SECRETS["host-A"], known=known)
        return SealedEnd(boot_id, 0, hand, rx_space=4096)

    def step(self, host: SealedEnd, now: int) -> list[int]:
        """One round of the loop; the events of the device."""
        said = self.device.output(now, 1 << 20)
        for frame in said.split(b"\0")[:-1]:
            self.note("O", now, frame + b"\0")
        self.note("O", now, b"")
        host.feed(said, now)
        host.events()
        came = host.output(now)
        for at in range(0, len(came), 4096):
            self.note("I", now, came[at : at + 4096])
        self.device.feed(came, now)
        events = self.device.events()
        for kind, message in events:
            self.note("E", now, bytes([kind]) + (message or b""))
        self.note("E", now, b"\0")
        return [kind for kind, _ in events]


def record(library) -> Recorder:
    """Messages both ways, and again with a host that has started anew."""
    talk, now = Recorder(library), 0
    for host in (talk.host(8 << 32), talk.host(9 << 32)):
        events: list[int] = []
        waiting, coming = list(MESSAGES), list(MESSAGES)
        while events.count(SENT) < len(MESSAGES) or events.count(MESSAGE) < len(MESSAGES):
            now += 7
            assert now < 60_000
            events += talk.step(host, now)
            if JOINED in events and waiting and not talk.device.busy:
                message = waiting[0]
                if talk.device.send(message):
                    talk.note("S", now, waiting.pop(0))
            if coming and host.joined and not host.busy and host.send(coming[0]):
                coming.pop(0)
    return talk


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return record(build_library(tmp_path_factory.mktemp("library")))


def test_a_sealed_talk_on_a_board_is_that_of_this_machine(board, recorded, tmp_path):
    path = tmp_path / "talk.bin"
    path.write_bytes(recorded.data)
    files, flags = image.sealing()
    built = image.build(board, [HERE / "line.c", *files], tmp_path, flags)
    said = image.run(board, built, [str(path)], options=["-icount", "shift=6"])
    found = {name: int(number) for name, number in re.findall(r"(.+) (\d+)\n", said)}
    assert found["records"] == recorded.records and found["handshakes"] == 2
    assert found["stack"] <= 2 << 10
    assert found["longest call in instructions"] <= 7_000_000  # four products on the curve
    assert image.sizes(built)["text"] <= 30 << 10  # with the board's own files


def test_another_byte_is_noticed_on_a_board(recorded, tools, tmp_path):
    board = image.BOARDS["an386"]
    path = tmp_path / "talk.bin"
    path.write_bytes(recorded.data[:31] + b"\x55" + recorded.data[32:])
    files, flags = image.sealing()
    built = image.build(board, [HERE / "line.c", *files], tmp_path, flags)
    with pytest.raises(RuntimeError, match="another answer at record"):
        image.run(board, built, [str(path)])
