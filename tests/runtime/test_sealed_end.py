"""Two sealed ends over a virtual line in virtual time: handshakes, faults, strangers."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from itertools import count

import pytest
from seamline.kernels._link import (
    JOINED,
    MESSAGE,
    RESTARTED,
    SILENT,
    FrameDecoder,
    PacketEnd,
    encode_body,
)
from seamline.runtime.handshake import DEVICE, HOST, Handshake
from seamline.runtime.keys import new_secret, public_of, raw_key
from seamline.runtime.sealed_end import SealedEnd

SECRETS = {name: new_secret() for name in ("watch-1", "host-A", "other")}
PUBLIC = {name: raw_key(public_of(secret)) for name, secret in SECRETS.items()}
boot_ids = (number << 32 for number in count(1))

Line = Callable[[bytes], bytes]


def handshake(own: str, peer: str, key: str = "", first_number: int = 0) -> Handshake:
    """key: whose public key `own` takes for that of `peer`."""
    role = HOST if own.startswith("host-") else DEVICE
    known = {peer: PUBLIC[key or peer]}.get
    return Handshake(role, own, raw_key(SECRETS[own]), known=known, first_number=first_number)


def clean(data: bytes) -> bytes:
    return data


class Play:
    """A device and a host; `to_host` and `to_device` are what the line does to bytes."""

    def __init__(self, device: Handshake | None = None, host: Handshake | None = None) -> None:
        self.now = 1000
        self.device = SealedEnd(
            next(boot_ids), self.now, device or handshake("watch-1", "host-A"),
            bytes_per_second=11520,
        )  # fmt: skip
        self.host = SealedEnd(next(boot_ids), self.now, host or handshake("host-A", "watch-1"))
        self.to_host: Line = clean
        self.to_device: Line = clean
        self.events: dict[str, list[tuple[int, bytes | None]]] = {"device": [], "host": []}

    def run(self, until: Callable[[], bool], most_ms: int = 30_000) -> int:
        """Milliseconds that passed until it held; fails when it never does."""
        begin = self.now
        while not until():
            self.now += 1
            assert self.now - begin <= most_ms, (self.device.counters, self.host.counters)
            self.host.feed(self.to_host(self.device.output(self.now)), self.now)
            self.device.feed(self.to_device(self.host.output(self.now)), self.now)
            self.events["device"] += self.device.events()
            self.events["host"] += self.host.events()
        return self.now - begin

    @staticmethod
    def frame(body: bytes) -> bytes:
        """A body in clear, as it goes over the line."""
        return encode_body(body + zlib.crc32(body).to_bytes(4, "little"))

    @staticmethod
    def body(frame: bytes) -> bytes:
        """What is in a frame without its zero."""
        found = FrameDecoder(2000, raw=True).feed(frame + b"\0")
        return found[0] if found else b""

    def join(self) -> int:
        return self.run(lambda: self.device.joined and self.host.joined)

    def messages(self, who: str) -> list[bytes | None]:
        return [data for kind, data in self.events[who] if kind == MESSAGE]

    def exchange(self, size: int = 5000) -> None:
        """A message each way, whole."""
        for who, end, other in (("host", self.device, "d"), ("device", self.host, "h")):
            before, data = len(self.messages(who)), other.encode() * size
            self.run(lambda end=end, data=data: end.send(data))
            self.run(lambda who=who, before=before: len(self.messages(who)) > before, 120_000)
            assert self.messages(who)[-1] == data


def bad_line(draw: random.Random) -> Line:
    """Loses, repeats and damages what passes."""

    def carry(data: bytes) -> bytes:
        if not data or draw.random() < 0.2:
            return b""
        if draw.random() < 0.1:
            return data + data
        if draw.random() < 0.2:
            at = draw.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        return data

    return carry


def test_ends_that_know_each_other_join_and_talk():
    play = Play()
    assert play.join() < 50
    play.exchange()
    assert play.device.counters["handshakes"] == play.host.counters["handshakes"] == 1
    assert play.host.peer == "watch-1" and play.device.peer == "host-A"
    assert not play.device.trouble and not play.host.trouble


def test_nothing_of_a_message_is_on_the_line_in_clear():
    play = Play()
    heard = bytearray()

    def tap(data: bytes) -> bytes:
        heard.extend(data)
        return data

    play.to_host = tap
    play.join()
    play.device.send(b"SECRET" * 100)
    play.run(lambda: bool(play.messages("host")))
    assert b"SECRET" not in heard and len(heard) > 600


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_line_delays_and_changes_nothing(seed):
    draw = random.Random(seed)
    play = Play()
    play.to_host, play.to_device = bad_line(draw), bad_line(draw)
    play.join()
    play.exchange(3000)
    play.to_host = play.to_device = clean
    play.exchange()


@pytest.mark.parametrize("first", [2**16 - 3, 2**32 - 3])
def test_numbers_of_frames_wrap(first):
    play = Play(handshake("watch-1", "host-A", first_number=first),
                handshake("host-A", "watch-1", first_number=first))  # fmt: skip
    play.join()
    play.exchange()
    assert play.host.counters["replayed"] == 0 == play.device.counters["frames_forged"]


def test_a_device_that_starts_again_is_served_at_once():
    play = Play()
    play.join()
    play.device = SealedEnd(next(boot_ids), play.now, handshake("watch-1", "host-A"))
    assert play.run(lambda: RESTARTED in [kind for kind, _ in play.events["host"]], 500) < 500
    play.join()
    play.exchange()


def test_a_host_that_starts_again_calls_the_device():
    play = Play()
    play.join()
    play.run(lambda: play.now >= 5000)
    play.host = SealedEnd(next(boot_ids), play.now, handshake("host-A", "watch-1"))
    assert play.join() < 2000  # before silence could tell
    play.exchange()
    assert SILENT not in [kind for kind, _ in play.events["device"]]


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("who", ["device", "host"])
def test_an_end_may_die_at_each_message_of_the_handshake(who, at):
    """`at`: how many pieces the line carries before."""
    play = Play()
    carried = 0

    def counted(data: bytes) -> bytes:
        nonlocal carried
        carried += bool(data)
        return data

    play.to_host = play.to_device = counted
    play.run(lambda: carried >= at)
    own, peer = ("watch-1", "host-A") if who == "device" else ("host-A", "watch-1")
    setattr(play, who, SealedEnd(next(boot_ids), play.now, handshake(own, peer)))
    play.events[who].clear()
    play.run(lambda: bool(play.events[who]) and play.device.joined and play.host.joined, 8000)
    play.exchange()


def test_after_a_cut_line_both_find_each_other():
    play = Play()
    play.join()
    play.to_host = play.to_device = lambda data: b""
    play.run(lambda: not play.device.joined and not play.host.joined, 3500)
    play.to_host = play.to_device = clean
    assert play.join() < 2000
    play.exchange()


# ---- who is not the peer ----


def refused(device: Handshake, host: Handshake) -> tuple[str, str]:
    play = Play(device, host)
    play.run(lambda: bool(play.device.trouble and play.host.trouble))
    play.run(lambda until=play.now + 5000: play.now >= until)
    assert not play.device.joined and not play.host.joined and not play.host.peer
    return play.device.trouble, play.host.trouble


def test_a_wrong_key_is_refused_at_both_ends():
    device, host = refused(handshake("watch-1", "host-A"), handshake("host-A", "watch-1", "other"))
    assert "is not the one it has" in device and "the key of watch-1" in host
    device, host = refused(handshake("watch-1", "host-A", "other"), handshake("host-A", "watch-1"))
    assert "is not the one it has" in device and "is not the one it has" in host


def test_another_device_on_the_line_is_refused():
    device, host = refused(handshake("watch-1", "host-A"), handshake("host-A", "other"))
    assert "does not know us, or has another one" in device
    assert "no watch-1.public, or another peer belongs here" in host


def test_a_stranger_does_not_interrupt_a_session():
    play = Play()
    play.join()
    stranger = Handshake(DEVICE, "watch-1", raw_key(SECRETS["other"]), known=PUBLIC.get)
    for _ in range(3000):
        play.now += 1
        body = stranger.output(play.now)
        noise = Play.frame(body) if body is not None else b""
        play.host.feed(noise + play.device.output(play.now), play.now)
        answer = play.host.output(play.now)
        play.device.feed(answer, play.now)
        for end in (play.device, play.host):
            assert all(kind == JOINED for kind, _ in end.events())
    play.exchange()
    assert play.host.peer == "watch-1" and stranger.established is None


def test_recorded_frames_do_nothing():
    play = Play()
    record: list[bytes] = []

    def tap(data: bytes) -> bytes:
        record.append(data)
        return data

    play.to_host = tap
    play.join()
    play.exchange()
    play.to_host = clean
    before = play.messages("host")
    for data in record:  # in the session they were of
        play.host.feed(data, play.now)
    play.run(lambda until=play.now + 500: play.now >= until)
    assert play.messages("host") == before and play.host.joined
    lone = SealedEnd(next(boot_ids), 0, handshake("host-A", "watch-1"))
    for now, data in enumerate(record):  # and at a host that has started again
        lone.feed(data, now)
        lone.output(now)
    assert not lone.joined and not lone.peer and lone.counters["handshakes"] == 0


def test_a_changed_hello_breaks_the_handshake():
    """No hand on the line can make two ends agree on less than they offered."""
    play = Play()

    def downgrade(data: bytes) -> bytes:
        frames = data.split(b"\0")
        for i, frame in enumerate(frames):
            body = bytearray(Play.body(frame))
            if body[:2] == b"\x14\x00":  # HELLO
                body[3] = 9  # another largest version
                frames[i] = Play.frame(bytes(body[:-4]))[:-1]
        return b"\0".join(frames)

    play.to_host = downgrade
    play.run(lambda: bool(play.host.trouble))
    play.run(lambda until=play.now + 3000: play.now >= until)
    assert not play.device.joined and not play.host.joined


def test_clear_text_is_refused_and_told():
    play = Play()
    lone = PacketEnd(next(boot_ids), play.now)
    for _ in range(2000):
        play.now += 1
        play.host.feed(lone.output(play.now), play.now)
        lone.feed(play.host.output(play.now), play.now)
    assert not play.host.joined and not lone.joined
    assert "speaks clear text" in play.host.trouble
    assert lone.counters["malformed"] > 0  # by which SerialLine knows what to say


def test_any_bytes_are_borne():
    draw = random.Random(5)
    play = Play()
    play.join()
    heads = [b"\x14\x00", b"\x14\x01\x00", b"\x14\x02", b"\x14\x03", b"\x14\x0f", b"\x18", b"\x12"]
    for _ in range(3000):
        noise = draw.choice(heads) + draw.randbytes(draw.randrange(120))
        wire = Play.frame(noise) if draw.random() < 0.7 else encode_body(noise)
        for end in (play.device, play.host):
            end.feed(wire, play.now)
            end.output(play.now)
    play.run(lambda: play.device.joined and play.host.joined)
    play.exchange()


def test_a_key_that_is_forgotten_ends_the_session():
    known = {"watch-1": PUBLIC["watch-1"]}
    play = Play(host=Handshake(HOST, "host-A", raw_key(SECRETS["host-A"]), known=known.get))
    play.join()
    known.clear()
    play.host.drop()
    play.run(lambda: not play.device.joined and not play.host.joined, 4000)
    play.run(lambda until=play.now + 5000: play.now >= until)
    assert not play.host.joined and "does not know us" in play.device.trouble


def test_a_flood_of_hellos_costs_little_and_is_answered_now_and_then():
    play = Play()
    host = handshake("host-A", "watch-1")
    for number in range(5000):
        hello = b"\x14\x00\x01\x01\x00\x01" + number.to_bytes(16, "little") + b"\x07watch-1"
        host.input(hello, play.now)
    answers = 0
    while host.output(play.now) is not None:
        answers += 1
    assert 0 < answers <= 4 and host.established is None


def test_a_hello_of_another_version_is_told_at_both_ends():
    host, device = handshake("host-A", "watch-1"), handshake("watch-1", "host-A")
    hello = bytearray(device.output(2000) or b"")
    hello[2:4] = b"\x02\x03"
    host.input(bytes(hello), 2000)
    assert "another version" in host.trouble
    refusal = host.output(2000)
    assert refusal is not None and refusal[1] == 15
    device.input(refusal, 2000)
    assert "another version" in device.trouble
