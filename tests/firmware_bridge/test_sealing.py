"""The firmware's Noise and sealed frames in C, on Monocypher, against two other implementations."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection
from seamline.firmware_bridge.monocypher import MonocypherError, monocypher

CORE = Path(__file__).parents[2] / "kernels" / "core"
FLAGS = ["-std=c99", "-O1", "-g", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
KK, XXPSK3, XX = 0, 1, 2
NAMES = ["KK", "XXpsk3", "XX"]
TYPE, HEADER, TAG = 0x18, 3, 16
E_STATE, E_CHECK = -11, -6


class Config(ctypes.Structure):
    _fields_ = [
        ("prologue", ctypes.c_void_p), ("prologue_size", ctypes.c_size_t),
        ("secret", ctypes.c_void_p), ("ephemeral", ctypes.c_void_p), ("remote", ctypes.c_void_p),
        ("psk", ctypes.c_void_p), ("pattern", ctypes.c_int), ("initiator", ctypes.c_uint8),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = monocypher()
    out = tmp_path_factory.mktemp("seal") / "seal.so"
    seal = CORE / "seal"
    ours = [seal / "noise.c", seal / "seal.c", CORE.parents[1] / "firmware_bridge" / "crypto.c"]
    command = [shutil.which("gcc") or "cc", *FLAGS, f"-I{seal}", "-isystem", str(folder), "-o"]
    command += [str(out), *map(str, ours), "-Wno-conversion", str(folder / "monocypher.c")]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(out))
    for name in ("seam_noise_write", "seam_seal_write"):
        getattr(found, name).restype = ctypes.c_int64
    found.seam_seal_read.restype = ctypes.c_size_t
    return found


def public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


class Ours:
    """One end in C."""

    def __init__(self, library: ctypes.CDLL, pattern: int, initiator: bool, **keys: bytes) -> None:
        self.library, self.kept = library, []  # what C points into
        self.state = ctypes.create_string_buffer(1024)
        config = Config(pattern=pattern, initiator=initiator)
        for name, value in keys.items():
            buffer = ctypes.create_string_buffer(value, max(1, len(value)))
            self.kept.append(buffer)
            setattr(config, name, ctypes.addressof(buffer))
        config.prologue_size = len(keys["prologue"])
        self.started = library.seam_noise_start(self.state, ctypes.byref(config))

    def turn(self) -> int:
        return self.library.seam_noise_turn(self.state)

    def write(self) -> bytes:
        out = ctypes.create_string_buffer(96)
        size = self.library.seam_noise_write(self.state, out, len(out))
        assert size > 0
        return out.raw[:size]

    def read(self, message: bytes) -> int:
        return self.library.seam_noise_read(self.state, message, ctypes.c_size_t(len(message)))

    def keys(self) -> tuple[bytes, bytes]:
        first, second = (ctypes.create_string_buffer(32) for _ in range(2))
        self.library.seam_noise_split(self.state, first, second)
        return first.raw, second.raw


def both(
    library: ctypes.CDLL, pattern: int, initiator: bool, draw: random.Random
) -> tuple[Any, Any]:
    """An end in C, and the other in the package `noiseprotocol`."""
    ours, theirs, psk = draw.randbytes(32), draw.randbytes(32), draw.randbytes(32)
    prologue = draw.randbytes(draw.randrange(200))
    keys = {"prologue": prologue, "secret": ours, "ephemeral": draw.randbytes(32)}
    peer = NoiseConnection.from_name(f"Noise_{NAMES[pattern]}_25519_ChaChaPoly_BLAKE2b".encode())
    peer.set_prologue(prologue)
    if initiator:
        peer.set_as_responder()
    else:
        peer.set_as_initiator()
    peer.set_keypair_from_private_bytes(Keypair.STATIC, theirs)
    if pattern == KK:
        keys["remote"] = public_of(theirs)
        peer.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public_of(ours))
    if pattern == XXPSK3:
        keys["psk"] = psk
        peer.set_psks(psk)
    peer.start_handshake()
    end = Ours(library, pattern, initiator, **keys)
    assert end.started == 0
    return end, peer


@pytest.mark.parametrize("pattern", [KK, XXPSK3, XX], ids=NAMES)
@pytest.mark.parametrize("initiator", [True, False], ids=["initiator", "responder"])
def test_handshakes_meet_another_implementation(library, pattern, initiator):
    draw = random.Random(f"{pattern} {initiator}")
    for _ in range(10):
        end, peer = both(library, pattern, initiator, draw)
        while (turn := end.turn()) >= 0:
            if turn:
                peer.read_message(end.write())
            else:
                assert end.read(bytes(peer.write_message())) == 0
        assert peer.handshake_finished
        first, second = end.keys()
        theirs, ours = (second, first) if initiator else (first, second)
        nothing = bytes(12)
        assert (
            ChaCha20Poly1305(theirs).decrypt(nothing, bytes(peer.encrypt(b"hello")), b"")
            == b"hello"
        )
        assert peer.decrypt(ChaCha20Poly1305(ours).encrypt(nothing, b"hello", b"")) == b"hello"


@pytest.mark.parametrize("pattern", [KK, XXPSK3, XX], ids=NAMES)
def test_a_changed_message_is_refused(library, pattern):
    """Every bit of the first message where a key protects it, and every length."""
    draw = random.Random(pattern)
    end, peer = both(library, pattern, False, draw)
    whole = bytes(peer.write_message())
    refused = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        copy = ctypes.create_string_buffer(end.state.raw, len(end.state))
        refused += (
            library.seam_noise_read(copy, bytes(damaged), ctypes.c_size_t(len(whole))) == E_CHECK
        )
    # XX has no key yet: its first message is only noted.
    assert refused == (0 if pattern == XX else 8 * len(whole))
    for size in range(len(whole)):
        copy = ctypes.create_string_buffer(end.state.raw, len(end.state))
        assert library.seam_noise_read(copy, whole, ctypes.c_size_t(size)) == E_CHECK
    assert end.read(whole) == 0
    assert end.read(whole) == E_STATE


def test_a_point_of_low_order_is_refused(library):
    draw = random.Random(5)
    end, _ = both(library, XX, False, draw)
    assert end.read(bytes(32)) == 0  # noted; used only in the answer
    out = ctypes.create_string_buffer(96)
    assert library.seam_noise_write(end.state, out, ctypes.c_size_t(96)) == E_CHECK


def test_a_pattern_without_its_key_does_not_start(library):
    keys = {"prologue": b"", "secret": bytes(32), "ephemeral": bytes(32)}
    assert Ours(library, KK, True, **keys).started == -1
    assert Ours(library, XXPSK3, True, **keys).started == -1
    assert Ours(library, 3, True, **keys).started == -1


# ---- sealed frames ----


class Seal:
    """A seal in C."""

    def __init__(self, library: ctypes.CDLL, send: bytes, receive: bytes, first: int = 0) -> None:
        self.library, self.state = library, ctypes.create_string_buffer(256)
        library.seam_seal_start(self.state, send, receive, ctypes.c_uint64(first))

    def write(self, packet: bytes, known: bytes | None = None) -> bytes:
        out, size = ctypes.create_string_buffer(len(packet) + HEADER + TAG), len(packet)
        size = self.library.seam_seal_write(
            self.state, out, ctypes.c_size_t(len(out)), packet, ctypes.c_size_t(size), known
        )
        assert size == len(out)
        return out.raw

    def read(self, body: bytes, known: bytes | None = None) -> bytes | None:
        buffer = ctypes.create_string_buffer(body, max(1, len(body)))
        packet = ctypes.c_void_p()
        size = self.library.seam_seal_read(
            self.state, buffer, ctypes.c_size_t(len(body)), known, ctypes.byref(packet)
        )
        return ctypes.string_at(packet, size) if size else None


@pytest.mark.parametrize("first", [0, 2**16 - 3, 2**32 - 3, 2**40])
def test_frames_are_what_another_implementation_makes_of_them(library, first):
    draw = random.Random(first)
    key = draw.randbytes(32)
    ours, theirs = Seal(library, key, key, first), ChaCha20Poly1305(key)
    for number in range(first, first + 10):
        packet = draw.randbytes(draw.choice([1, 15, 16, 64, 1038]))
        head = bytes([TYPE]) + (number & 0xFFFF).to_bytes(2, "little")
        sealed = head + theirs.encrypt(bytes(4) + number.to_bytes(8, "little"), packet, head)
        assert ours.write(packet) == sealed
        assert ours.read(sealed) == packet
        assert ours.read(sealed) is None  # again: a replay


def test_what_both_ends_know_is_proved_and_not_sent(library):
    key, known = bytes(range(32)), b"both"
    sender, receiver = Seal(library, key, key), Seal(library, key, key)
    short = sender.write(b"a packet", known)
    head = short[:HEADER]
    assert head == b"\x19\0\0"
    assert short == head + ChaCha20Poly1305(key).encrypt(bytes(12), b"a packet", head + known)
    assert receiver.read(short) is None
    assert receiver.read(short, b"else") is None
    assert receiver.read(b"\x18" + short[1:]) is None
    assert receiver.read(short, known) == b"a packet"
    assert receiver.read(short, known) is None  # a replay


def test_frames_arrive_out_of_order_but_once(library):
    key = bytes(range(32))
    sender, receiver = Seal(library, key, key), Seal(library, key, key)
    frames = [sender.write(bytes([number])) for number in range(200)]
    draw = random.Random(1)
    arrived: list[int] = []
    for block in range(0, 200, 40):
        order = list(range(block, block + 40))
        draw.shuffle(order)
        for number in order + order:
            packet = receiver.read(frames[number])
            arrived += packet or b""
    assert sorted(arrived) == list(range(200))
    assert receiver.read(frames[0]) is None


def test_damaged_frames_are_dropped(library):
    key = bytes(range(32))
    whole = Seal(library, key, key).write(b"a packet")
    receiver = Seal(library, key, key)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert receiver.read(bytes(damaged)) is None
    for size in range(len(whole)):
        assert receiver.read(whole[:size]) is None
    assert receiver.read(whole) == b"a packet"
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(key).decrypt(bytes(12), whole[HEADER:], b"")


def test_a_key_is_used_up(library):
    seal = Seal(library, bytes(32), bytes(32), 2**48 - 1)
    seal.write(b"the last")
    out = ctypes.create_string_buffer(64)
    one, room = ctypes.c_size_t(1), ctypes.c_size_t(64)
    size = library.seam_seal_write(seal.state, out, room, b"x", one, None)
    assert size == -7


# ---- where Monocypher comes from ----


def test_another_file_than_the_pinned_release_is_refused(tmp_path):
    path = tmp_path / "pymonocypher-4.0.3.4.tar.gz"
    with pytest.raises(MonocypherError, match="cannot be used"):
        monocypher(path)
    path.write_bytes(b"something else")
    with pytest.raises(MonocypherError, match="its sha256 is"):
        monocypher(path)


def test_without_an_index_one_line_says_what_to_bring(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(MonocypherError, match="cannot fetch pymonocypher") as caught:
        monocypher()
    assert "\n" not in str(caught.value)
