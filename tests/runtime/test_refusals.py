"""A host says why it does not accept what is at the other end of a cable: the reason, once, and how
often.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from cables import Cable
from seamline.kernels._link import FrameDecoder, encode_body
from seamline.runtime import serial_link
from seamline.runtime.handshake import REASONS
from seamline.runtime.keys import Keys, load_keys, make_keys
from seamline.runtime.link import Link, LinkLost, Listener, Peer, open_link, open_listener
from seamline.runtime.status import REFUSALS, Reporter, read_status

WITHIN_S = 20.0
NAMES = ["host-A", "watch-1", "watch-2"]


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def cable(cleanup: ExitStack, tmp_path: Path) -> Cable:
    found = Cable(tmp_path)
    cleanup.callback(found.pull_out)
    return found


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Keys]:
    """By name, of a folder of its own for each; all know one another until a file is removed."""
    make_keys(tmp_path / "all", NAMES)

    def of(name: str) -> Keys:
        folder = tmp_path / f"keys-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in (tmp_path / "all").iterdir():
            if path.suffix == ".public" or path.stem == name:
                (folder / path.name).write_bytes(path.read_bytes())
                (folder / path.name).chmod(0o600)
        return load_keys(folder, name)

    return of


class Bench:
    """A host on a cable with what tells of it, and whatever is put at the other end."""

    def __init__(self, cleanup: ExitStack, cable: Cable, keys: Keys | None, out: Path) -> None:
        self.cable, self.cleanup, self.out = cable, cleanup, out
        self.listener: Listener = open_listener(
            "", {"watch-1": cable.address_a}, name="host-A", keys=keys
        )
        cleanup.callback(self.listener.close)
        self.events: list[dict[str, Any]] = []
        self.reporter = Reporter(out, "host-A", self.listener.peers, self.events.append)
        cleanup.callback(self.reporter.close)

    def dial(self, name: str, keys: Keys | None) -> Link:
        link = open_link(self.cable.address_b, name=name, keys=keys, host="host-A")
        self.cleanup.callback(link.close)
        return link

    def peer(self) -> Peer:
        (found,) = self.listener.peers()
        return found

    def wait(self, reason: str, link: Link | None = None) -> dict[str, Any]:
        """Until it is told; then nothing else was, and it stands in the status."""
        until = time.monotonic() + WITHIN_S
        while not any(event["event"] == "refused" for event in self.events):
            assert time.monotonic() < until, (self.peer(), self.events)
            self.listener.poll(0.05)
            self.reporter.tick(time.monotonic())
            if link is not None:
                with suppress(LinkLost):
                    link.receive(0.01)
        (event,) = self.events
        assert event["reason"] == reason and event["peer"] == "watch-1" and event["count"] >= 1
        (tier,) = read_status(self.out)
        assert tier.peers[0].refused[reason] >= 1
        assert self.peer().state == ("unplugged" if reason == "busy" else "waiting")
        return event


@pytest.fixture
def bench(
    cleanup: ExitStack, cable: Cable, keys: Callable[[str], Keys], tmp_path: Path
) -> Callable[[Keys | None], Bench]:
    return lambda own: Bench(cleanup, cable, own, tmp_path / "run")


def test_a_name_without_a_key_is_told_by_name(bench, keys):
    own = keys("host-A")
    assert own.folder is not None
    host = bench(own)
    (own.folder / "watch-1.public").unlink()
    event = host.wait("unknown_name", host.dial("watch-1", keys("watch-1")))
    assert "calls itself watch-1, of which the key folder has no key" in event["text"]


def test_another_device_on_the_cable_is_told_by_name(bench, keys):
    host = bench(keys("host-A"))
    event = host.wait("other_device", host.dial("watch-2", keys("watch-2")))
    assert "watch-2 is there, but watch-1 belongs on this line" in event["text"]


def test_a_wrong_key_is_told(bench, keys):
    own = keys("host-A")
    assert own.folder is not None
    other = (own.folder / "watch-2.public").read_text()
    (own.folder / "watch-2.public").unlink()
    (own.folder / "watch-1.public").write_text(other)
    host = bench(load_keys(own.folder, "host-A"))
    event = host.wait("wrong_key", host.dial("watch-1", keys("watch-1")))
    assert "its key is not the one in the key folder" in event["text"]


def test_clear_text_is_told_by_a_host_with_keys(bench, keys):
    host = bench(keys("host-A"))
    assert "speaks clear text" in host.wait("clear_text", host.dial("watch-1", None))["text"]


def test_sealed_frames_are_told_by_a_host_without_keys(bench, keys):
    host = bench(None)
    link = host.dial("watch-1", keys("watch-1"))
    assert "seals what it says" in host.wait("sealed", link)["text"]


def other_version(name: bytes = b"watch-1") -> bytes:
    """A HELLO of an end that speaks versions 2 and 3 only."""
    body = b"\x14\x00\x02\x03\x00\x01" + bytes(16) + bytes([len(name)]) + name
    return encode_body(body + crc32(body).to_bytes(4, "little"))


def test_another_version_is_told(bench, keys, cleanup):
    host = bench(keys("host-A"))
    other = os.open(host.cable.b, os.O_RDWR | os.O_NOCTTY)
    cleanup.callback(os.close, other)
    os.write(other, b"\0" + other_version())
    assert "another version of the line" in host.wait("other_version")["text"]


@pytest.mark.parametrize("name", [b"watch-1", b"\x1b[2J"])
def test_a_pairing_device_is_told_by_its_name(bench, keys, cleanup, name):
    host = bench(keys("host-A"))
    other = os.open(host.cable.b, os.O_RDWR | os.O_NOCTTY)
    cleanup.callback(os.close, other)
    hello = FrameDecoder(2000, raw=True).feed(other_version(name))[0][:-4]
    pairing = hello[:2] + b"\x01\x01\x00\x04" + hello[6:]
    os.write(other, b"\0" + encode_body(pairing + crc32(pairing).to_bytes(4, "little")))
    assert "it is pairing" in host.wait("pairing")["text"]
    assert host.peer().called == ("watch-1" if name == b"watch-1" else "'\\x1b[2J'")


def test_a_port_that_another_program_took_while_it_was_away_is_told(bench, keys, monkeypatch):
    host = bench(keys("host-A"))
    taken = threading.Event()

    def refuse(*_: object, **__: object) -> None:
        taken.set()
        raise serial_link.serial.SerialException(
            11, "Could not exclusively lock port: [Errno 11] Resource temporarily unavailable"
        )

    monkeypatch.setattr(serial_link.serial, "Serial", refuse)
    host.cable.pull_out()
    host.cable.plug_in()
    assert taken.wait(WITHIN_S)
    assert "in use by another program" in host.wait("busy")["text"]


def test_the_network_is_no_way_for_a_device_that_has_a_cable(cleanup, cable, keys, tmp_path):
    listener = open_listener(
        "tcp://127.0.0.1:*", {"watch-1": cable.address_a}, name="host-A", keys=keys("host-A")
    )
    cleanup.callback(listener.close)
    link = open_link(listener.address(), name="watch-1", keys=keys("watch-1"), host="host-A")
    cleanup.callback(link.close)
    link.send(b"hello")
    until = time.monotonic() + WITHIN_S
    while not listener.peers()[0].refused:
        assert time.monotonic() < until
        assert listener.poll(0.05) == []
    assert listener.peers()[0].refused == {"cabled": 1}


def test_one_that_is_accepted_is_not_told_of(bench, keys):
    host = bench(keys("host-A"))
    link = host.dial("watch-1", keys("watch-1"))
    link.send(b"hello")
    until = time.monotonic() + WITHIN_S
    while not host.listener.poll(0.1):
        assert time.monotonic() < until
    host.reporter.tick(time.monotonic())
    assert host.events == [] and host.peer().refused == {} and host.peer().state == "joined"


def test_every_reason_has_its_words():
    others = {"other_device", "sealed", "busy", "cabled"}
    assert set(REFUSALS) == set(REASONS.values()) | others
    for text in REFUSALS.values():
        text.format(peer="watch-1", called="eve")
