"""The device's sealed line in C against the host's in Python, on a virtual line in virtual time."""

from __future__ import annotations

import ctypes
import os
import random
import zlib
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace

import pytest
from c_device import Device, build
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from seamline.kernels._link import (
    JOINED,
    MESSAGE,
    RESTARTED,
    SILENT,
    FrameDecoder,
    PacketEnd,
    encode_body,
)
from seamline.runtime import handshake as handshake_module
from seamline.runtime import noise as noise_module
from seamline.runtime.handshake import DEVICE, HOST, Handshake
from seamline.runtime.sealed_end import SealedEnd

SECRETS = {name: random.Random(name).randbytes(32) for name in ("watch-1", "host-A", "other")}
PUBLIC = {
    name: X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    for name, secret in SECRETS.items()
}
HELLO, FIRST, SECOND, REFUSE = 0, 1, 2, 15
HOST_HELLO = b"\x14\0\1\1\1\1" + bytes(16) + b"\x06host-A"
boot_ids = (number << 32 for number in count(1))

Line = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("device"))


def host_of(
    device: str = "watch-1", key: str = "", first_number: int = 0, name: str = "host-A"
) -> SealedEnd:
    """key: whose public key the host takes for the device's."""
    known = {device: PUBLIC[key or device]}.get
    secret = SECRETS["host-A"]
    hand = Handshake(HOST, name, secret, known=known, first_number=first_number)
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
            self.library, next(boot_ids), self.now, "watch-1", SECRETS["watch-1"],
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


@pytest.mark.parametrize("first", [2**16 - 3, 2**32 - 3])
def test_numbers_of_frames_wrap(library, first):
    play = Play(library, host_of(first_number=first), first_number=first)
    play.join()
    play.exchange()
    assert play.host.counters["replayed"] == 0 == play.device.counters["frames_forged"]
    assert play.device.counters["handshakes"] == 1


def test_keys_that_are_used_up_are_replaced(library):
    first = 2**48 - 20
    play = Play(library, host_of(first_number=first), first_number=first)
    play.join()
    play.exchange(20_000)
    play.exchange()
    assert play.device.counters["handshakes"] >= 2
    assert not {SILENT, RESTARTED} & {kind for kind, _ in play.events["device"]}


# ---- lines that lose, repeat, reorder and damage ----


class BadLine:
    """Frames are lost, come twice, late, before others, or with a wrong bit."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.late = draw, []
        self.rate = draw.choice([0.1, 0.3, 0.5])

    def __call__(self, data: bytes) -> bytes:
        out = b""
        for whole in data.split(b"\0")[:-1]:
            frame, fate = whole + b"\0", self.draw.random() / self.rate
            if fate < 0.25:
                continue
            if fate < 0.4:
                out += frame
            elif fate < 0.6:
                self.late.append(frame)
                continue
            elif fate < 0.9:
                at = self.draw.randrange(len(frame))
                frame = (
                    frame[:at] + bytes([frame[at] ^ 1 << self.draw.randrange(8)]) + frame[at + 1 :]
                )
            out += frame
        if self.late and self.draw.random() < 0.02:
            out += self.late.pop(self.draw.randrange(len(self.late)))
        return out


@pytest.fixture
def seeded(monkeypatch):
    """What Python's ends draw is then the same every time: `seeded.draw` gives the bytes."""
    found = SimpleNamespace(draw=random.Random(0).randbytes)

    def urandom(size: int) -> bytes:
        return found.draw(size)

    monkeypatch.setattr(handshake_module, "os", SimpleNamespace(urandom=urandom))

    class Keys:
        from_private_bytes = X25519PrivateKey.from_private_bytes

        @staticmethod
        def generate():
            return X25519PrivateKey.from_private_bytes(found.draw(32))

    monkeypatch.setattr(noise_module, "X25519PrivateKey", Keys)
    return found


@pytest.mark.parametrize("block", range(8))
def test_a_bad_line_delays_and_changes_nothing(library, seeded, block):
    """25 histories each. The handshake on a bad line, then messages, byte by byte."""
    for seed in range(25 * block, 25 * block + 25):
        draw = random.Random(seed)
        seeded.draw = random.Random(seed + 10_000).randbytes
        play = Play(library, draw=random.Random(seed + 20_000).randbytes)
        play.to_host, play.to_device = BadLine(draw), BadLine(draw)
        play.run(lambda play=play: play.host.peer == "watch-1" and play.device.joined, 90_000)
        for end in ("to_host", "to_device"):
            setattr(play, end, clean)
        play.join()
        play.exchange(draw.randrange(3000), seed)
        assert all(len(data) < 3000 for who in play.events for data in play.messages(who))


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("who", ["device", "host"])
def test_an_end_may_be_reset_at_each_message_of_the_handshake(library, who, at):
    """`at`: how many pieces the line carries before."""
    play = Play(library)
    carried = 0

    def counted(data: bytes) -> bytes:
        nonlocal carried
        carried += bool(data)
        return data

    play.to_host = play.to_device = counted
    play.run(lambda: carried >= at)
    if who == "device":
        play.device = play.new_device()
    else:
        play.host = host_of()
    play.events[who].clear()
    play.run(lambda: bool(play.events[who]) and play.device.joined and play.host.joined, 8000)
    play.exchange()


def test_a_device_that_starts_again_is_served_at_once(library):
    play = Play(library)
    play.join()
    play.device = play.new_device()
    assert play.run(lambda: RESTARTED in [kind for kind, _ in play.events["host"]], 500) < 500
    play.join()
    play.exchange()


def test_a_host_that_starts_again_calls_the_device(library):
    play = Play(library)
    play.join()
    play.pass_time(4000)
    play.host = host_of()
    assert play.join() < 2000  # before silence could tell
    play.exchange()
    assert SILENT not in [kind for kind, _ in play.events["device"]]


def test_after_a_cut_line_both_find_each_other(library):
    play = Play(library)
    play.join()
    play.to_host = play.to_device = lambda data: b""
    play.run(lambda: not play.device.joined and not play.host.joined, 3500)
    play.to_host = play.to_device = clean
    assert play.join() < 2000
    play.exchange()


def test_recorded_frames_do_nothing(library):
    play = Play(library)
    record: list[bytes] = []

    def tap(data: bytes) -> bytes:
        record.append(data)
        return data

    play.to_device = tap
    play.join()
    play.exchange()
    play.to_device = clean
    before, replayed = play.messages("device"), play.device.counters["replayed"]
    for data in record:  # in the session they were of
        play.device.feed(data, play.now)
    play.pass_time(500)
    assert play.messages("device") == before and play.device.joined
    assert play.device.counters["replayed"] > replayed
    lone = play.new_device()
    for data in record:  # and at a device that has started again
        play.now += 1
        lone.feed(data, play.now)
        lone.output(play.now)
    assert not lone.joined and lone.counters["handshakes"] == 0


# ---- who is not the host ----


def refused(play: Play) -> tuple[str, str]:
    play.run(lambda: bool(play.device.trouble and play.host.trouble))
    play.pass_time(5000)
    assert not play.device.joined and not play.host.joined and not play.host.peer
    return play.device.trouble, play.host.trouble


def test_a_wrong_key_is_refused_at_both_ends(library):
    device, host = refused(Play(library, host_of(key="other")))
    assert "is not the one it has" in device and "the key of watch-1" in host
    device, host = refused(Play(library, key="other"))
    assert "is not the one it has" in device and "is not the one it has" in host


def test_another_device_or_host_on_the_line_is_refused(library):
    device, host = refused(Play(library, host_of("other")))
    assert "does not know us, or expects another device" in device
    assert "no watch-1.public, or another peer belongs here" in host
    device, host = refused(Play(library, host_of(name="host-B")))
    assert "another host is on this line" in device and "does not know us" in host


def test_a_host_that_pairs_is_told(library):
    hand = Handshake(HOST, "host-A", SECRETS["host-A"])
    play = Play(library, SealedEnd(next(boot_ids), 0, hand))
    play.run(lambda: bool(play.device.trouble))
    assert "the other end is pairing" in play.device.trouble


def test_clear_text_is_refused_and_told(library):
    play = Play(library)
    lone = PacketEnd(next(boot_ids), play.now)
    for _ in range(2000):
        play.now += 1
        play.device.feed(lone.output(play.now), play.now)
        lone.feed(play.device.output(play.now), play.now)
    assert not play.device.joined and not lone.joined and play.device.events() == []
    assert "speaks clear text" in play.device.trouble
    assert play.device.counters["clear_refused"] > 0 and lone.counters["malformed"] > 0


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (1, "does not know us"), (2, "is not the one it has"), (3, "another version"),
        (4, "busy"), (5, "does not pair"), (6, ""), (0, ""), (255, ""),
    ],
)  # fmt: skip
def test_a_refusal_is_a_word_and_no_end(library, code, word):
    play = Play(library)
    play.device.feed(frame(bytes([0x14, REFUSE, code, 0])), play.now)
    assert word in play.device.trouble and bool(word) == bool(play.device.trouble)
    assert play.join() < 50 and not play.device.trouble
    play.device.feed(frame(bytes([0x14, REFUSE, code, 0])), play.now)
    play.exchange()


def test_a_hello_of_another_version_is_told_at_both_ends(library):
    play = Play(library)
    other = bytearray(HOST_HELLO)
    other[2:4] = b"\2\3"
    play.device.feed(frame(bytes(other)), play.now)
    assert "another version" in play.device.trouble
    said = bodies(play.device.output(play.now))
    assert b"\x14\x0f\3\7watch-1" in [body[:-4] for body in said]


def test_a_changed_hello_breaks_the_handshake(library):
    play = Play(library)

    def downgrade(data: bytes) -> bytes:
        found = [bytearray(body) for body in bodies(data)]
        for body in found:
            if body[:2] == b"\x14\0":
                body[3] = 9  # another largest version
        return b"".join(
            frame(bytes(body[:-4])) if body[0] == 0x14 else encode_body(bytes(body))
            for body in found
        )

    play.to_device = downgrade
    play.run(lambda: bool(play.device.trouble))
    play.pass_time(3000)
    assert not play.device.joined and not play.host.joined


def test_a_stranger_does_not_interrupt_a_session(library):
    """He knows all names and says HELLO as the host, but has not its key."""
    play = Play(library)
    play.join()
    draw = random.Random(3)
    for number in range(6000):
        if number % 100 == 0:
            hello = HOST_HELLO[:6] + draw.randbytes(16) + HOST_HELLO[22:]
            play.device.feed(frame(hello) + frame(b"\x14\2" + draw.randbytes(48)), play.now)
        play.step()
    assert [kind for kind, _ in play.events["device"] + play.events["host"]] == [JOINED, JOINED]
    play.exchange()


# ---- keys that are none ----

# Points of small order on the curve and its twist, whose product with every secret is zero (RFC
# 7748, 6.1), in all ways to write them, with and without the bit above.
P = 2**255 - 19
LOW = [0, 1, P - 1, P, P + 1]
LOW += [325606250916557431795983626356110631294008115727848805560023387167927233504]
LOW += [39382357235489614581723060781553021112529911719440698176882885853963445705823]
POINTS = [(x + high).to_bytes(32, "little") for x in LOW for high in (0, 1 << 255)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.hex()[:8] + point.hex()[-2:])
def test_a_point_of_low_order_is_no_key(library, point):
    # as the host's ephemeral key
    play = Play(library)
    play.device.feed(frame(HOST_HELLO), play.now)
    assert FIRST in stages(play.device.output(play.now))
    play.device.feed(frame(b"\x14\2" + point + bytes(16)), play.now)
    assert "is not the one it has" in play.device.trouble
    assert play.device.counters["handshakes"] == 0
    # as the host's key
    secret = SECRETS["watch-1"]
    device = Device(library, 1 << 32, 0, "watch-1", secret, "host-A", point)
    device.feed(frame(HOST_HELLO), 1)
    assert stages(device.output(1)) == [REFUSE] and "the key of the host" in device.trouble


def test_x25519_is_that_of_rfc_7748(library):
    def shared(secret: str, point: str) -> str:
        out = ctypes.create_string_buffer(32)
        library.seam_crypto_x25519(out, bytes.fromhex(secret), bytes.fromhex(point))
        return out.raw.hex()

    assert (
        shared(
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        )
        == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    )
    assert (
        shared(  # the point has its highest bit set, which is to be ignored
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        )
        == "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"
    )
    nine = "09".ljust(64, "0")
    k = u = nine
    for _ in range(1000):
        k, u = shared(k, u), k
    assert k == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_points_that_are_not_reduced_agree_with_another_implementation(library):
    """u >= p is taken modulo p (RFC 7748, 5)."""
    draw = random.Random(4)
    for x in (*range(P + 2, P + 19), 2**255 - 1, 2, 2**254):
        point, secret = x.to_bytes(32, "little"), draw.randbytes(32)
        out = ctypes.create_string_buffer(32)
        library.seam_crypto_x25519(out, secret, point)
        theirs = X25519PrivateKey.from_private_bytes(secret)
        peer = noise_module.X25519PublicKey.from_public_bytes(point)
        assert out.raw == theirs.exchange(peer)


# ---- random bytes, and any bytes ----


def test_without_random_bytes_nothing_begins(library):
    empty = True

    def draw(size: int) -> bytes:
        return b"" if empty else os.urandom(size)

    play = Play(library, draw=draw)
    said = b"".join(play.device.output(play.now + at) for at in range(0, 20_000, 50))
    assert said == b"" and "no random bytes" in play.device.trouble
    play.now += 20_000
    empty = False
    assert play.join() < 6000
    empty = True
    play.pass_time(3000)
    play.exchange()


def test_any_bytes_are_borne(library):
    draw = random.Random(5)
    play = Play(library)
    play.join()
    heads = [b"\x14\x00", b"\x14\x01\x00", b"\x14\x02", b"\x14\x03", b"\x14\x0f", b"\x18", b"\x12"]
    for _ in range(5000):
        noise = draw.choice(heads) + draw.randbytes(draw.randrange(300))
        play.device.feed(frame(noise) if draw.random() < 0.7 else encode_body(noise), play.now)
        play.device.feed(draw.randbytes(30), play.now)
        play.device.output(play.now)
    play.run(lambda: play.device.joined and play.host.joined)
    play.exchange()


@pytest.mark.parametrize("fails", [16, 32])
def test_without_one_of_its_random_numbers_it_only_waits(library, fails):
    """fails: the bytes of the one for a HELLO, or for a key."""
    empty = True

    def draw(size: int) -> bytes:
        return b"" if empty and size == fails else os.urandom(size)

    play = Play(library, draw=draw)
    for _ in range(12_000):
        play.step()
    assert FIRST not in stages(play.device.output(play.now))
    play.device.feed(frame(HOST_HELLO), play.now)
    assert FIRST not in stages(play.device.output(play.now))
    assert "no random bytes" in play.device.trouble and not play.device.joined
    empty = False
    assert play.join() < 7000
    play.exchange()


def test_a_hello_is_one_where_python_takes_it_for_one(library):
    draw = random.Random(6)
    found = [0, 0]
    for _ in range(5000):
        name = draw.choice(
            [b"host-A", b"n" * 63, b"n" * 64, "höst".encode(), "\U0001f600".encode()]
        )
        body = bytearray(HOST_HELLO[:22] + bytes([len(name)]) + name)
        if draw.random() < 0.7:
            body[draw.choice([0, 1, 2, 3, 4, 22, *range(23, len(body))])] = draw.choice(
                [0, 1, 2, 0x14, 6, 0x80, 0xC0, 0xE0, 0xED, 0xF0, 0xF4, 0xF5, draw.randrange(256)]
            )
        body = body[: draw.choice([len(body)] * 4 + [draw.randrange(len(body))])]
        size = ctypes.c_size_t(len(body))
        ours = library.seam_handshake_is_hello(bytes(body), size)
        assert ours == (handshake_module.read_hello(bytes(body)) is not None), body
        found[ours] += 1
    assert min(found) > 500


@pytest.mark.parametrize("hellos", [5, 1000])
def test_a_flood_of_hellos_is_answered_now_and_then(library, hellos):
    play = Play(library)
    play.device.output(play.now)
    other = bytearray(HOST_HELLO)
    other[2:4] = b"\2\3"
    for _ in range(hellos):
        play.device.feed(frame(bytes(other)), play.now)
    assert stages(play.device.output(play.now)) == [REFUSE] * 4
    play.join()
    play.exchange()


@pytest.mark.parametrize("name", ["", "a" * 64, "\ud800", "b\xff"])
def test_a_name_that_cannot_be_said_does_not_start(library, name):
    def start(own: bytes, host: bytes) -> int:
        made = Device.__new__(Device)
        made.__init__(library, 1 << 32, 0, own, bytes(32), host, bytes(32))
        return made.started

    raw = b"b\xff" if name == "b\xff" else name.encode("utf-8", "surrogatepass")
    assert start(raw, b"host-A") == -1 == start(b"watch-1", raw)
    assert start(b"watch-1", b"host-A") == 0


# ---- the same as in Python, byte by byte ----

TROUBLES = {  # words of what Python says, and of what C says
    "does not know us": "does not know us",
    "another version": "another version",
    "busy with another": "busy with another",
    "does not pair": "does not pair",
    "the other end is pairing": "the other end is pairing",
    "speaks clear text": "speaks clear text",
    "is not the one it has": "is not the one it has",
    "is there, but the key folder": "another host is on this line",
}


def is_same(ours: str, theirs: str) -> bool:
    found = [word for key, word in TROUBLES.items() if key in theirs]
    assert len(found) == bool(theirs)
    return found[0] in ours if found else not ours


def stir(draw: random.Random, last: list[bytes]) -> bytes:
    """What a bad line or a bad peer puts between."""
    name = draw.choice(
        [
            b"host-A",
            b"n" * 63,
            b"n" * 64,
            b"n" * 200,
            b"\xc3\x28abc",
            b"\xed\xa0\x80",
            "höst".encode(),
        ]
    )
    hello = bytearray(HOST_HELLO[:6] + draw.randbytes(16) + bytes([len(name)]) + name)
    if draw.random() < 0.3:
        hello[draw.randrange(2, len(hello))] ^= 1 << draw.randrange(8)
    second = b"\x14\2" + draw.randbytes(draw.choice([0, 31, 32, 48, 64, 250, 260]))
    packet = bytes([draw.choice([0x11, 0x12, 0x13, 0x21, 0x15])]) + draw.randbytes(30)
    sealed = b"\x18" + draw.randbytes(draw.choice([1, 18, 19, 40]))
    kinds = [
        frame(bytes(hello)), frame(second), frame(packet), encode_body(sealed),
        frame(bytes([0x14, REFUSE, draw.randrange(8), 0])),
        encode_body(draw.randbytes(draw.randrange(1, 6))),
        draw.randbytes(draw.randrange(1, 40)), draw.choice(last),
    ]  # fmt: skip
    return draw.choice(kinds)


@pytest.mark.parametrize("block", range(6))
def test_device_in_c_says_what_the_one_in_python_says(library, seeded, block):
    """Both are fed the same bytes at the same times and draw the same: all they do is equal."""
    handshakes = []
    for seed in range(35 * block, 35 * block + 35):
        draw = random.Random(seed)
        draws = {name: random.Random(seed + at) for at, name in enumerate("cph")}
        draws["c"].seed(seed)
        draws["p"].seed(seed)
        boot = next(boot_ids)
        first = draw.choice([0, 0, 2**16 - 3, 2**48 - 12])
        ours = Device(
            library, boot, 0, "watch-1", SECRETS["watch-1"], "host-A", PUBLIC["host-A"],
            first_number=first, draw=draws["c"].randbytes, rx_space=4096,
        )  # fmt: skip
        seeded.draw = draws["p"].randbytes
        known = {"host-A": PUBLIC["host-A"]}.get
        hand = Handshake(DEVICE, "watch-1", SECRETS["watch-1"], known=known, first_number=first)
        theirs = SealedEnd(boot, 0, hand, bytes_per_second=11520, rx_space=4096)
        seeded.draw = draws["h"].randbytes
        host = host_of(first_number=first)
        handshakes.append(compare(draw, seeded, draws, (ours, theirs, host)))
    assert sum(handshakes) >= 35


def compare(draw, seeded, draws, ends) -> int:
    """How many handshakes they finished."""
    ours, theirs, host = ends
    bad, now, last = BadLine(draw), 0, []
    noisy = draw.random() < 0.7
    for at in range(700):
        now += draw.choice([0, 1, 1, 5, 20, 60, 300 if at % 40 == 0 else 1])
        said = ours.output(now)
        seeded.draw = draws["p"].randbytes
        assert said == b"".join(iter(lambda now=now: theirs.output(now, 1), b"")), at
        if not theirs._seal or not theirs._seal.worn:  # then C has more patience
            assert ours.wait(now) == theirs.wait(now), at
        seeded.draw = draws["h"].randbytes
        if draw.random() < 0.002:
            host = host_of()
        host.feed(bad(said) if noisy else said, now)
        if host.joined and not host.busy:
            host.send(draw.randbytes(draw.randrange(3000)))
        host.events()
        came = host.output(now)
        last = [*last[-5:], came]
        came = (bad(came) if noisy else came) + (stir(draw, last) if draw.random() < 0.2 else b"")
        ours.feed(came, now)
        seeded.draw = draws["p"].randbytes
        theirs.feed(came, now)
        assert ours.events() == theirs.events(), at
        if draw.random() < 0.1:
            message = draw.randbytes(draw.randrange(3000))
            assert ours.send(message) == theirs.send(message)
        assert is_same(ours.trouble, theirs.trouble), (ours.trouble, theirs.trouble)
    counters = theirs.counters
    assert ours.counters == {name: counters[name] for name in ours.counters}
    return counters["handshakes"]
