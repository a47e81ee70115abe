"""Pairing of a device in C with a host in Python, in virtual time."""

from __future__ import annotations

import ctypes
import hashlib
import random
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from c_device import PairingDevice, build
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from seamline.kernels._link import FrameDecoder, PacketEnd, encode_body
from seamline.runtime import handshake as handshake_module
from seamline.runtime import noise as noise_module
from seamline.runtime.handshake import DEVICE, HOST, Handshake
from seamline.runtime.keys import fingerprint, load_keys, make_keys, raw_key
from seamline.runtime.pairing import NOT_WRITTEN, OTHER_KEY, OTHER_NAME, Pairing

SECRET = bytes(range(16))
WAIT_MS = 60_000
BY_SECRET, BY_CODE = (SECRET, SECRET), (None, None)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("keys")
    make_keys(found, ["watch-1", "host-A"])
    return found


class Ends:
    """Both ends on a line that loses frames, and users who answer in time."""

    def __init__(self, library, folder, secrets=BY_SECRET, *, loss=0.0, seed=0, check=None, **how):
        self.now, self.random, self.loss = 0, random.Random(seed), loss
        self.keys = {name: load_keys(folder, name) for name in ("watch-1", "host-A")}
        self.device = PairingDevice(
            library, 0, "watch-1", raw_key(self.keys["watch-1"].secret), secrets[0], WAIT_MS, **how
        )
        self.host = Pairing(
            self.keys["host-A"], HOST, check or (lambda name, public: None), secrets[1], WAIT_MS
        )
        self.answers: dict[str, bool | None] = {"device": True, "host": True}
        self.written: tuple[str, str] | None = None
        self.codes: dict[str, str] = {}
        self.cut = False
        self.said = b""

    def run(self, until_ms: int = WAIT_MS + 10_000) -> None:
        while self.now < until_ms and not (self.device.over and self.host.over):
            self.step()
            waits = [end.wait(self.now) for end in (self.device, self.host) if not end.over]
            self.now += max(1, min([*waits, 10]))

    def step(self) -> None:
        for role, end, other in (
            ("device", self.device, self.host), ("host", self.host, self.device),
        ):  # fmt: skip
            if end.over:
                continue
            self.carry(end.output(self.now), other)
            if end.asking:
                self.codes[role] = end.code if role == "device" else end.peer.code
                if self.answers[role] is not None:
                    end.answer(self.answers[role])
        if self.host.may_store:
            self.write()

    def write(self) -> None:
        self.written = (self.host.peer.name, self.host.peer.public)
        self.host.has_stored(self.now)

    def carry(self, data: bytes, other: Pairing | PairingDevice) -> None:
        self.said += data
        for frame in data.split(b"\0")[:-1]:
            if not self.cut and self.random.random() >= self.loss and not other.over:
                other.feed(frame + b"\0", self.now)

    def assert_paired(self) -> None:
        assert (self.device.trouble, self.host.trouble) == ("", "")
        assert self.device.over and self.host.over
        assert self.device.stored == [("host-A", raw_key(self.keys["host-A"].public))]
        assert self.written == ("watch-1", self.keys["watch-1"].public)


@pytest.mark.parametrize("secrets", [BY_SECRET, BY_CODE], ids=["secret", "codes"])
@pytest.mark.parametrize("seed", range(12))
def test_a_device_and_a_host_pair_over_a_line_that_loses_frames(library, folder, secrets, seed):
    ends = Ends(library, folder, secrets, loss=0.2 if seed else 0.0, seed=seed)
    ends.run()
    ends.assert_paired()
    assert len(set(ends.codes.values())) == (0 if secrets is BY_SECRET else 1)
    assert len(ends.codes) == (0 if secrets is BY_SECRET else 2)


def test_a_secret_becomes_the_same_psk_in_c(library):
    draw = random.Random(1)
    for _ in range(20):
        secret, out = draw.randbytes(16), ctypes.create_string_buffer(32)
        library.seam_pairing_stretch(out, secret)
        assert out.raw == hashlib.blake2b(secret, digest_size=32, person=b"seamline pair").digest()


def test_a_key_has_the_same_fingerprint_in_c(library, folder):
    for name in ("watch-1", "host-A"):
        public, out = load_keys(folder, name).public, ctypes.create_string_buffer(25)
        library.seam_pairing_fingerprint(out, raw_key(public))
        assert out.value.decode() == fingerprint(public)


def test_nothing_is_stored_before_both_have_said_yes(library, folder):
    for waits in ("device", "host"):
        ends = Ends(library, folder, BY_CODE)
        ends.answers[waits] = None
        ends.run(20_000)
        assert ends.device.stored == [] and ends.written is None
        assert not ends.device.over and not ends.host.over
        ends.answers[waits] = True
        ends.run()
        ends.assert_paired()


def test_a_no_ends_both(library, folder):
    ends = Ends(library, folder, BY_CODE)
    ends.answers["device"] = False
    ends.run()
    assert ends.device.stored == [] and ends.written is None
    assert "our user did not confirm" in ends.device.trouble
    assert "watch-1 did not confirm" in ends.host.trouble
    ends = Ends(library, folder, BY_CODE)
    ends.answers["host"] = False
    ends.run()
    assert ends.device.stored == [] and ends.written is None
    assert "the user of the host did not confirm" in ends.device.trouble


def test_secrets_that_differ_are_told_at_both_ends_and_soon(library, folder):
    ends = Ends(library, folder, (SECRET, bytes(16)))
    ends.run()
    assert ends.now < 15_000 and ends.device.stored == [] and ends.written is None
    assert "the secrets differ" in ends.device.trouble and "secrets differ" in ends.host.trouble


@pytest.mark.parametrize("secrets", [(SECRET, None), (None, SECRET)])
def test_one_secret_only_is_told(library, folder, secrets):
    ends = Ends(library, folder, secrets)
    ends.run()
    assert ends.now < 15_000
    assert ends.device.trouble == "one end has a secret and the other has none"
    assert "one end has --secret-file" in ends.host.trouble


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (OTHER_KEY, "the host has another key of our name"),
        (OTHER_NAME, "the host expects another name"),
        (NOT_WRITTEN, "the host could not write our key"),
    ],
)
def test_why_the_host_says_no_is_told(library, folder, reason, word):
    ends = Ends(library, folder, check=lambda name, public: (reason, "no"))
    ends.run()
    assert word in ends.device.trouble and ends.device.stored == [] and ends.host.trouble == "no"


@pytest.mark.parametrize(
    ("wrong", "here", "there"),
    [
        ("OTHER_KEY", "we have another key of this host", "watch-1 has another key for host-A"),
        ("OTHER_NAME", "it is another host", "watch-1 does not expect host-A"),
    ],
)
def test_a_host_that_the_device_does_not_take_is_told_why(library, folder, wrong, here, there):
    ends = Ends(library, folder, wrong=wrong)
    ends.run()
    assert here in ends.device.trouble and there in ends.host.trouble
    assert ends.device.stored == [] and ends.written is None


def test_a_key_that_cannot_be_stored_is_told(library, folder):
    ends = Ends(library, folder, stores=False)
    ends.run()
    assert "could not be stored" in ends.device.trouble
    assert "watch-1 could not keep the key" in ends.host.trouble


@pytest.mark.parametrize("name", ["../host-A", ".host", "host\x1b[2J", "a\\b", "host-A\0"])
def test_a_name_that_is_no_name_of_a_key_is_not_stored(library, folder, name):
    ends = Ends(library, folder)
    secret = raw_key(ends.keys["host-A"].secret)
    psk = hashlib.blake2b(SECRET, digest_size=32, person=b"seamline pair").digest()
    ends.host._handshake = Handshake(HOST, name, secret, psk)
    ends.run()
    assert ends.device.stored == [] and "another host" in ends.device.trouble


@pytest.mark.parametrize("secrets", [BY_SECRET, BY_CODE], ids=["secret", "codes"])
def test_a_line_cut_at_any_time_ends_both_in_time(library, folder, secrets):
    """What one end stored may then be missing at the other, never a wrong key; nobody hangs."""
    for at in range(0, 1200, 40):
        ends = Ends(library, folder, secrets)
        ends.run(at)
        ends.cut = True
        ends.run()
        assert ends.device.over and ends.host.over
        assert ends.device.stored in ([], [("host-A", raw_key(ends.keys["host-A"].public))])
        if not ends.device.trouble:
            assert ends.device.stored


@pytest.mark.parametrize("secrets", [BY_SECRET, BY_CODE], ids=["secret", "codes"])
def test_a_changed_hello_pairs_nobody(library, folder, secrets):
    for changed in ("device", "host"):
        ends = Ends(library, folder, secrets)
        carry, victim = ends.carry, ends.device if changed == "host" else ends.host

        def change(data, other, carry=carry, victim=victim):
            if other is victim:
                found = FrameDecoder(600, raw=True).feed(data)
                data = b"".join(encode_body(rewrite(body)) for body in found)
            carry(data, other)

        ends.carry = change
        ends.run()
        assert ends.device.stored == [] and ends.written is None
        assert ends.device.trouble and ends.host.trouble


def rewrite(body: bytes) -> bytes:
    """Other random bytes in a HELLO."""
    if body[:2] != b"\x14\0":
        return body
    body = body[:10] + bytes([body[10] ^ 0x55]) + body[11:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_nobody_a_loop_another_device_and_clear_text_are_told(library, folder):
    def alone(answer) -> str:
        ends = Ends(library, folder)
        while not ends.device.over:
            ends.device.feed(answer(ends.device.output(ends.now), ends.now), ends.now)
            ends.now += 10
        return ends.device.trouble

    assert "nobody answered" in alone(lambda data, now: b"")
    assert "sends back what we send" in alone(lambda data, now: data)
    other = Ends(library, folder).device
    assert "a device, too" in alone(lambda data, now: other.output(now))
    clear = PacketEnd(1 << 32, 0)
    assert "speaks clear text" in alone(lambda data, now: clear.output(now))
    secret = bytes(range(32))
    known = Handshake(HOST, "host-A", secret, known=lambda name: secret)

    def training(data: bytes, now: int) -> bytes:
        for body in FrameDecoder(600, raw=True).feed(data):
            known.input(body[:-4], now)
        said = b""
        while (body := known.output(now)) is not None:
            said += encode_body(body + zlib.crc32(body).to_bytes(4, "little"))
        return said

    assert "does not pair" in alone(training)


def test_any_bytes_are_borne_while_pairing(library, folder):
    draw = random.Random(7)
    ends = Ends(library, folder, BY_CODE)
    ends.answers["host"] = None
    ends.run(3000)
    heads = [b"\x14\x00", b"\x14\x02", b"\x14\x0f", b"\x18", b"\x12", b"\x18\x02\x00"]
    for _ in range(2000):
        noise = draw.choice(heads) + draw.randbytes(draw.randrange(300))
        checked = noise + zlib.crc32(noise).to_bytes(4, "little")
        ends.device.feed(encode_body(draw.choice([noise, checked])), ends.now)
    ends.answers["host"] = True
    ends.run()
    ends.assert_paired()


# ---- the same as in Python, byte by byte ----

TROUBLES = {  # words of what Python says, and of what C says
    "nobody answered": "nobody answered",
    "speaks clear text": "speaks clear text",
    "sends back what we send": "sends back what we send",
    "is a device, too": "a device, too",
    "one end has --secret-file": "one end has a secret",
    "does not pair": "does not pair",
    "the secrets differ": "the secrets differ",
    "another version": "another version",
    "busy with another": "busy with another",
    "does not know us": "does not know us",
    "is not the one it has": "is not the one it has",
    "you did not confirm": "our user did not confirm",
    "host-A did not confirm": "the user of the host did not confirm",
    "has another key for": "the host has another key",
    "does not expect": "the host expects another name",
    "could not keep the key": "the host could not write",
    "is gone": "the host is gone",
}


def is_same(ours: str, theirs: str) -> bool:
    found = [word for key, word in TROUBLES.items() if key in theirs]
    assert len(found) == bool(theirs), theirs
    return found[0] in ours if found else not ours


def stir(draw: random.Random, own: bytes) -> bytes:
    """What a bad line or a bad peer puts between."""
    role, patterns = draw.choice([0, 1, 1, 1, 2]), draw.choice([1, 2, 4, 7])
    name = b"n" * draw.choice([6, 63, 64, 200])
    hello = b"\x14\0\1\1" + bytes([role, patterns]) + draw.randbytes(16) + bytes([len(name)]) + name
    refusal = bytes([0x14, 15, draw.randrange(8), 0])
    second = b"\x14\2" + draw.randbytes(draw.choice([0, 96, 97]))
    packet = bytes([draw.choice([0x11, 0x12, 0x13, 0x21, 0x15])]) + draw.randbytes(30)
    body = draw.choice([hello, refusal, second, packet, draw.randbytes(draw.randrange(1, 250))])
    sealed = encode_body(b"\x18" + draw.randbytes(draw.choice([1, 18, 19, 22, 40])))
    checked = encode_body(body + zlib.crc32(body).to_bytes(4, "little"))
    return draw.choice([checked, checked, sealed, own, encode_body(body)])


class Twins:
    """A device in C and one in Python that are fed the same and draw the same, and a host."""

    def __init__(self, library, folder, patch, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.randoms = {name: random.Random(at) for name, at in zip("cph", (1, 1, 2), strict=True)}
        self.turn = "p"
        self.patch(patch)
        own = {name: load_keys(folder, name) for name in ("watch-1", "host-A")}
        secret = draw.choice([SECRET, None])
        theirs = draw.choice([secret, secret, secret, secret, SECRET, None, bytes(16)])
        self.device = PairingDevice(
            library, 0, "watch-1", raw_key(own["watch-1"].secret), secret, 20_000,
            draw=self.randoms["c"].randbytes,
        )  # fmt: skip
        self.twin = Pairing(own["watch-1"], DEVICE, lambda *_: None, secret, 20_000)
        self.turn = "h"
        check = draw.choice([None, None, None, (OTHER_KEY, "no")])
        self.host = Pairing(own["host-A"], HOST, lambda *_: check, theirs, 20_000)
        self.loss, self.noise = draw.choice([0, 0.1, 0.4]), draw.choice([0, 0, 0.02, 0.2])
        self.cut_at = draw.choice([10**6, 10**6, draw.randrange(3000)])
        self.answers = {who: draw.choice([True, True, False]) for who in ("device", "host")}
        self.stored = 0

    def patch(self, patch) -> None:
        twins = self

        class Keys:
            from_private_bytes = X25519PrivateKey.from_private_bytes

            @staticmethod
            def generate():
                return X25519PrivateKey.from_private_bytes(draw(32))

        def draw(size: int) -> bytes:
            return twins.randoms[twins.turn].randbytes(size)

        patch.setattr(handshake_module, "os", SimpleNamespace(urandom=draw))
        patch.setattr(noise_module, "X25519PrivateKey", Keys)

    def line(self, data: bytes, now: int) -> bytes:
        kept = b""
        for frame in data.split(b"\0")[:-1]:
            if now < self.cut_at and self.draw.random() >= self.loss:
                kept += frame + b"\0"
        return kept

    def store(self, now: int) -> None:
        """In C it is done inside."""
        if self.twin.may_store:
            self.twin.has_stored(now)
            self.stored += 1

    def step(self, now: int) -> None:
        self.store(now)
        said = self.device.output(now)
        self.turn = "p"
        assert said == b"".join(iter(lambda: self.twin.output(now), b"")), now
        assert self.device.over == self.twin.over and self.device.asking == self.twin.asking
        if not self.device.over:
            assert self.device.wait(now) == self.twin.wait(now)
        self.turn = "h"
        self.host.feed(self.line(said, now), now)
        if self.host.asking and now > 2000:
            self.host.answer(self.answers["host"])
        if self.host.may_store:
            self.host.has_stored(now)
        came = self.line(self.host.output(now), now)
        if self.draw.random() < self.noise:
            came += stir(self.draw, said)
        if self.host._seal is not None and self.draw.random() < self.noise / 4:
            odd = bytes([self.draw.choice([0x15, 0x15, 0x12]), *self.draw.choices(range(6), k=2)])
            came += encode_body(self.host._seal.seal(odd))
        self.both(came, now)

    def both(self, came: bytes, now: int) -> None:
        self.device.feed(came, now)
        self.turn = "p"
        self.twin.feed(came, now)
        self.store(now)
        if self.device.asking and now > 2500:
            assert self.device.code == self.twin.peer.code
            for end in (self.device, self.twin):
                end.answer(self.answers["device"])
        assert is_same(self.device.trouble, self.twin.trouble), (now, self.device.trouble)


@pytest.mark.parametrize("block", range(4))
def test_pairing_in_c_says_what_the_one_in_python_says(library, folder, monkeypatch, block):
    stored, troubles = 0, set()
    for seed in range(50 * block, 50 * block + 50):
        twins = Twins(library, folder, monkeypatch, seed)
        now = 0
        while not (twins.device.over and twins.twin.over):
            now += twins.draw.choice([1, 10, 50])
            twins.step(now)
            assert now < 40_000
        assert len(twins.device.stored) == twins.stored
        stored += twins.stored
        troubles.add(twins.device.trouble)
    assert stored >= 10 and len(troubles) >= 5
