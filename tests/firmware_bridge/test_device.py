"""The device's sealed line in C against the host's in Python, on a virtual line in virtual time."""

from __future__ import annotations

import ctypes
import random
import zlib
from collections.abc import Callable
from itertools import count

import pytest
from c_device import Device, build
from seamline.kernels._link import (
    MESSAGE,
    FrameDecoder,
    encode_body,
)
from seamline.runtime.handshake import HOST, Handshake
from seamline.runtime.keys import new_secret, public_of, raw_key
from seamline.runtime.sealed_end import SealedEnd

SECRETS = {name: new_secret() for name in ("watch-1", "host-A", "other")}
PUBLIC = {name: raw_key(public_of(secret)) for name, secret in SECRETS.items()}
HELLO, FIRST, SECOND, REFUSE = 0, 1, 2, 15
boot_ids = (number << 32 for number in count(1))

Line = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("device"))


def host_of(device: str = "watch-1", key: str = "", first_number: int = 0) -> SealedEnd:
    """key: whose public key the host takes for the device's."""
    known = {device: PUBLIC[key or device]}.get
    secret = raw_key(SECRETS["host-A"])
    hand = Handshake(HOST, "host-A", secret, known=known, first_number=first_number)
    return SealedEnd(next(boot_ids), 0, hand)


def frame(body: bytes) -> bytes:
    """A body in clear, as it goes over the line."""
    return encode_body(body + zlib.crc32(body).to_bytes(4, "little"))


def bodies(data: bytes) -> list[bytes]:
    return FrameDecoder(2000, raw=True).feed(data)


def stages(data: bytes) -> list[int]:
    return [body[1] for body in bodies(data) if body[0] == 0x14]


def clean(data: bytes) -> bytes:
    return data


class Play:
    """A device in C and a host; `to_host` and `to_device` are what the line does to bytes."""

    def __init__(self, library: ctypes.CDLL, host: SealedEnd | None = None, **device: object):
        self.library, self.now = library, 1000
        self.device = self.new_device(**device)
        self.host = host or host_of()
        self.to_host: Line = clean
        self.to_device: Line = clean
        self.events: dict[str, list[tuple[int, bytes | None]]] = {"device": [], "host": []}

    def new_device(self, key: str = "host-A", **how: object) -> Device:
        made = Device(
            self.library, next(boot_ids), self.now, "watch-1", raw_key(SECRETS["watch-1"]),
            "host-A", PUBLIC[key], **how,
        )  # fmt: skip
        assert made.started == 0
        return made

    def step(self) -> None:
        self.now += 1
        self.host.feed(self.to_host(self.device.output(self.now)), self.now)
        self.device.feed(self.to_device(self.host.output(self.now)), self.now)
        self.events["device"] += self.device.events()
        self.events["host"] += self.host.events()

    def run(self, until: Callable[[], bool], most_ms: int = 30_000) -> int:
        """Milliseconds that passed until it held; fails when it never does."""
        begin = self.now
        while not until():
            self.step()
            assert self.now - begin <= most_ms, (self.device.counters, self.host.counters)
        return self.now - begin

    def pass_time(self, ms: int) -> None:
        for _ in range(ms):
            self.step()

    def join(self, most_ms: int = 30_000) -> int:
        return self.run(lambda: self.device.joined and self.host.joined, most_ms)

    def messages(self, who: str) -> list[bytes | None]:
        return [data for kind, data in self.events[who] if kind == MESSAGE]

    def exchange(self, size: int = 5000, seed: int = 0) -> None:
        """A message each way, whole."""
        draw = random.Random(seed)
        for who, end in (("host", self.device), ("device", self.host)):
            before, data = len(self.messages(who)), draw.randbytes(size)
            self.run(lambda end=end, data=data: end.send(data))
            self.run(lambda who=who, before=before: len(self.messages(who)) > before, 120_000)
            assert self.messages(who)[-1] == data


def test_a_device_and_its_host_join_and_talk(library):
    play = Play(library)
    assert play.join() < 50
    for size in (0, 1, 63, 64, 1024, 1025, 30_000):
        play.exchange(size, size)
    assert play.device.counters["handshakes"] == play.host.counters["handshakes"] == 1
    assert play.host.peer == "watch-1"
    assert not play.device.trouble and not play.host.trouble


def test_a_quiet_line_keeps_its_keys(library):
    play = Play(library)
    play.join()
    play.pass_time(20_000)
    play.exchange()
    assert play.device.counters["handshakes"] == 1
