"""Sealed frames: each opens once, a changed one never, whatever order the line leaves them in."""

from __future__ import annotations

import pytest
from seamline.runtime.seal import NUMBERS, Seal

KEYS = bytes(range(32)), bytes(range(32, 64))


def pair(first: int = 0) -> tuple[Seal, Seal]:
    return Seal(*KEYS, first), Seal(*KEYS[::-1], first)


@pytest.mark.parametrize("first", [0, 2**16 - 3, 2**32 - 3, NUMBERS - 200])
def test_packets_go_both_ways_through_every_wrap(first):
    a, b = pair(first)
    bodies = set()
    for number in range(200):
        packet = b"packet %d" % number
        for sender, receiver in ((a, b), (b, a)):
            body = sender.seal(packet)
            bodies.add(body)
            assert receiver.open(body) == packet
            assert len(body) == len(packet) + 19
    assert len(bodies) == 400  # never the same bytes, though the packets were
    assert a.counters == {"frames_forged": 0, "replayed": 0}


def test_a_repeat_is_dropped_and_counted_and_a_late_one_is_taken_once():
    a, b = pair(2**16 - 20)
    bodies = [a.seal(bytes([number])) for number in range(100)]
    for number in (0, 5, 3, 4, 99, 98, 40):
        assert b.open(bodies[number]) == bytes([number])
    for number in (0, 5, 99, 98, 40, 35):  # 35 is 64 behind the newest: nobody remembers
        assert b.open(bodies[number]) is None
    assert b.counters == {"frames_forged": 0, "replayed": 6}
    assert b.open(bodies[36]) == bytes([36])


def test_what_was_sealed_before_a_long_silence_opens_after_it():
    a, b = pair()
    for _ in range(30_000):
        body = a.seal(b"x")
    assert b.open(body) == b"x"


def test_a_changed_bit_is_a_forgery_and_harms_nothing():
    a, b = pair()
    body = a.seal(b"packet")
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= 4
        assert b.open(bytes(changed)) is None
    assert sum(b.counters.values()) == len(body)
    assert b.open(body) == b"packet"


def test_what_is_too_short_or_our_own_is_refused():
    a, b = pair()
    body = a.seal(b"p")
    for size in range(len(body)):
        assert b.open(body[:size]) is None
    assert a.open(body) is None  # sent back: the other direction has another key


def test_numbers_end_before_a_nonce_could_be_used_twice():
    a, b = pair(NUMBERS - 1)
    assert not a.worn and b.open(a.seal(b"the last")) == b"the last"
    assert a.worn
    with pytest.raises(OverflowError, match="a new handshake is due"):
        a.seal(b"one more")
    assert b.open(b"\x18\0\0" + bytes(20)) is None and b.counters["replayed"] == 1


def test_what_both_ends_know_is_proved_and_not_sent():
    a, b = pair()
    body = a.seal(b"packet", b"both")
    assert body[0] == 0x19 and len(body) == len(a.seal(b"packet"))
    for wrong in (b"", b"else"):
        assert b.open(body, wrong) is None
    assert b.open(b"\x18" + body[1:], b"both") is None
    assert not b.heard
    assert b.open(body, b"both") == b"packet" and b.heard
