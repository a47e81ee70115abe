"""Noise handshakes: byte for byte those of another implementation, and nothing changed is taken."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from seamline.runtime.noise import PATTERNS, NoiseError, NoiseState

# Made with noiseprotocol 0.3.1: static keys of bytes 1 and 2, ephemeral ones of bytes 3 and 4, psk
# of bytes 5, prologue and payloads as below.
VECTORS = {
    # pattern: (messages, hash, key from the initiator, key to it)
    "KK": (
        [
            "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22d5188b6364df8971"
            "6884a5a8d28da76f6e6e03bd28e721d426",
            "ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10bffa7d41771ea07e6"
            "42e6290eb1ab9cd51a3d817fda38e66f50",
        ],
        "a29ccdc8f7c19ad964e5b53a1f533150f9dfb96025770caed65dbbef5da36ee78d69956cd56805fa"
        "8d682bfac3c99722207af60297cecc053dfbdfe12de4e92c",
        "912a5ad2b175fc32e05f4025d2fc5fc07e43d0b5e62948b2b14f4eaddff35cfd",
        "5446bb369d9264f04f3c5dc2503344f692b2f61dd05b2f2699d077bc0cc1c741",
    ),
    "XX": (
        [
            "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef227061796c6f61642030",
            "ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10ba5e54d01ce8f2002"
            "c81fc8b2c23efdcf1a089a453fd78d9690d632e327df0931fe7d15303cdc8e54b8df14bd2a1e6b95"
            "2d5cec88181efe3a22c6fa32e99abd7b80a275d9cacaf9a835",
            "fece4f740e1c8bde579102f77ee2080fc34f25ba04ee6ef4d7c8ac3234465e8f4a0ee51bad507ab2"
            "3ba64c5ac7a2d699629f4ec344402ed352b548d35f6aa7e7de84970a8daad86b09",
        ],
        "be75c6b21dae7fd7b9336cf88c9de0827b1028746c6b75e603664f550c97a476d2cb959ab54aeb9b"
        "1e40b717eb246a7be4aef1ec915cf448effdc06deca76dce",
        "e1a9cdbd5eaac3bd3723b3cf6c31a93016987227de70f2e751a963fcfdc05229",
        "f970c8ac240720409fd02d1f71039905b5c1169e9ca0768eb4b8dd72b38c448a",
    ),
    "XXpsk3": (
        [
            "5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22a55ac18aa3697a47"
            "a48048512c62749325899bf47740f475fb",
            "ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10bebf3157ec944af66"
            "6a29aeefa2b9f3e3583e4e10f8c91f97760032427133e31c6629bf8e53ea24041e56b9d6bd0f38dc"
            "ddb7a5d1f9bc7bb9a6a5e77f8e34438d66162df8b6ddbe95b7",
            "eae022edf97cbe80818cb2cbe1d3b7e44a3c275535066ee631e34c42c0922d953eeac3dc75dc6aab"
            "967b57d1cd81bd88faed37fce5969e4aa654df6373d0456f6141553e1bb3c6cd6d",
        ],
        "83d10dc1af97b04bc22480f46b04b37abf912ed24bb3cc3f4d7639800571e2c67b1c68cb53dcd887"
        "af5410e5716907363767caed4b88deb740aa7135fbaf39ab",
        "572fb6c8a6d58c59cd1547f7088e27787e08f7b851d9b56ec0f5d1bfd93c7ae7",
        "9da4953c785738344d4eda2e5cb0769782e2f56e5792c34bf48fdbe0e4e8b66c",
    ),
}


def public(byte: int) -> bytes:
    return X25519PrivateKey.from_private_bytes(bytes([byte]) * 32).public_key().public_bytes_raw()


def ends(pattern: str, *, fixed: bool = True, **other: bytes) -> list[NoiseState]:
    """Initiator and responder; other: what the responder has instead."""
    found = []
    for initiator, own, peer in ((True, 1, 2), (False, 2, 1)):
        arguments = {
            "prologue": b"prologue",
            "static": bytes([own]) * 32,
            "remote": public(peer) if pattern == "KK" else None,
            "psk": b"\5" * 32 if pattern == "XXpsk3" else None,
            "ephemeral": bytes([own + 2]) * 32 if fixed else None,
        }
        if not initiator:
            arguments |= other
        found.append(NoiseState(pattern, initiator, **arguments))
    return found


def talk(writer: NoiseState, reader: NoiseState) -> list[str]:
    messages: list[str] = []
    while not writer.finished:
        payload = b"payload %d" % len(messages)
        message = writer.write(payload)
        assert reader.read(message) == payload
        messages.append(message.hex())
        writer, reader = reader, writer
    return messages


@pytest.mark.parametrize("pattern", VECTORS)
def test_every_byte_is_that_of_another_implementation(pattern):
    messages, digest, first, second = VECTORS[pattern]
    initiator, responder = ends(pattern)
    assert talk(initiator, responder) == messages
    for end in (initiator, responder):
        assert end.finished and end.hash.hex() == digest
        assert [key.hex() for key in end.split()] == [first, second]
    assert (initiator.remote_static, responder.remote_static) == (public(2), public(1))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_two_handshakes_have_a_hash_or_a_key_in_common(pattern):
    seen = set()
    for _ in range(3):
        initiator, responder = ends(pattern, fixed=False)
        talk(initiator, responder)
        assert initiator.hash == responder.hash and initiator.split() == responder.split()
        seen |= {initiator.hash, *initiator.split()}
    assert len(seen) == 9


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_changed_bit_anywhere_fails_before_the_end(pattern):
    """Of the clear keys of XX it is the next message, at the latest, that shows the change."""
    count = len(VECTORS[pattern][0])
    for number in range(count):
        size = len(VECTORS[pattern][0][number]) // 2
        for at in range(0, size, 7):
            writer, reader = ends(pattern)
            with pytest.raises(NoiseError):
                for step in range(count):
                    message = bytearray(writer.write(b"payload %d" % step))
                    if step == number:
                        message[at] ^= 1
                    reader.read(bytes(message))
                    writer, reader = reader, writer
                assert writer.split() == reader.split(), "it was taken, but the keys differ"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_cut_message_is_refused(pattern):
    for size in range(0, 40):
        writer, reader = ends(pattern)
        message = writer.write()
        if size < len(message):
            with pytest.raises(NoiseError):
                reader.read(message[:size])


OTHERS = {
    "another prologue": {"prologue": b"prologve"},
    "another key of the peer": {"remote": public(9)},
    "another static key": {"static": bytes([9]) * 32},
    "another secret": {"psk": bytes(32)},
}


@pytest.mark.parametrize(
    ("pattern", "other"),
    [
        ("KK", "another prologue"),
        ("KK", "another key of the peer"),
        ("KK", "another static key"),
        ("XX", "another prologue"),
        ("XXpsk3", "another prologue"),
        ("XXpsk3", "another secret"),
    ],
)
def test_ends_that_do_not_agree_do_not_finish(pattern, other):
    with pytest.raises(NoiseError):
        talk(*ends(pattern, **OTHERS[other]))


@pytest.mark.parametrize("low", [bytes(32), bytes([1]) + bytes(31)])
def test_a_key_of_small_order_is_refused(low):
    """With it the shared secret would be the same whatever our key is."""
    writer, reader = ends("XX")
    writer.write()
    reader.read(low)
    with pytest.raises(NoiseError, match="is no key"):
        reader.write()


def test_a_pattern_without_what_it_needs_is_our_own_mistake():
    for pattern, extra in (("KK", {}), ("XXpsk3", {}), ("XX", {"psk": bytes(32)})):
        with pytest.raises(ValueError, match="KK takes the peer's key"):
            NoiseState(pattern, True, b"", b"\1" * 32, **extra)
