"""Frames on a byte line: a table of named cases against a small reference, and noise that must not
harm.
"""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels._link import PACKET_MAX, FrameDecoder, encode_frame


def cobs(data: bytes) -> bytes:
    """The definition: each code is one more than the bytes up to the next zero, 255 for 254 bytes
    and no zero.
    """
    out = bytearray()
    blocks = data.split(b"\0")
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        full, rest = divmod(len(block), 254)
        for at in range(full):
            out += b"\xff" + block[at * 254 : at * 254 + 254]
        if rest or not (last and full):
            out += bytes([rest + 1]) + block[full * 254 :]
    return bytes(out)


def frame(packet: bytes) -> bytes:
    return cobs(packet + zlib.crc32(packet).to_bytes(4, "little")) + b"\0"


def ends_full() -> bytes:
    """A packet whose check has no zero in it and ends a full block of 254."""
    for last in range(1, 256):
        packet = b"\xff" * 249 + bytes([last])
        if 0 not in zlib.crc32(packet).to_bytes(4, "little"):
            return packet
    raise AssertionError("none found")


CASES = {
    "one zero": b"\0",
    "one byte": b"a",
    "all zeros": bytes(300),
    "no zero, 253": b"\x01" * 253,
    "no zero, 254": b"\x02" * 254,
    "no zero, 255": b"\x03" * 255,
    "a full block at the end": ends_full(),
    "a zero after a full block": b"\x04" * 254 + b"\0",
    "ends with zero": b"abc\0",
    "starts with zero": b"\0abc",
    "0xFF everywhere": b"\xff" * 600,
    "looks like a code": b"\xff" * 254 + b"\0" + b"\xff" * 254,
    "every byte": bytes(range(256)) * 4,
    "the longest": bytes(i * 7 % 256 for i in range(PACKET_MAX)),
}


@pytest.mark.parametrize("packet", CASES.values(), ids=CASES.keys())
def test_a_named_packet_has_the_reference_bytes_and_comes_back(packet: bytes) -> None:
    wire = encode_frame(packet)
    assert wire == frame(packet)
    assert wire.count(0) == 1
    assert FrameDecoder().feed(wire) == [packet]


@given(st.lists(st.binary(min_size=1, max_size=PACKET_MAX), max_size=5), st.data())
@settings(max_examples=150)
def test_any_packets_come_back_however_the_line_cuts_them(
    packets: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(encode_frame(packet) for packet in packets)
    assert wire == b"".join(frame(packet) for packet in packets)
    decoder, found, at = FrameDecoder(), [], 0
    while at < len(wire):
        size = data.draw(st.integers(1, 600))
        found += decoder.feed(wire[at : at + size])
        at += size
    assert found == packets


def test_the_overhead_is_bounded_on_any_data() -> None:
    for byte in (0, 1, 0x7E, 0xFF):
        wire = encode_frame(bytes([byte]) * PACKET_MAX)
        assert len(wire) <= PACKET_MAX + 4 + (PACKET_MAX + 4) // 254 + 2


@given(st.binary(max_size=3000))
@settings(max_examples=200)
def test_after_any_noise_the_next_frame_but_one_is_whole(noise: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(noise)
    assert decoder.feed(encode_frame(b"first") + encode_frame(b"second"))[-1:] == [b"second"]


@given(st.binary(min_size=1, max_size=500), st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=200)
def test_a_flipped_bit_never_gives_another_packet(packet: bytes, at: int, bit: int) -> None:
    wire = bytearray(encode_frame(packet))
    wire[at % len(wire)] ^= 1 << bit
    decoder = FrameDecoder()
    found = decoder.feed(bytes(wire) + b"\0")
    assert (
        found == []
    )  # a flip in the last zero joins the frame to the empty one behind it: damaged too
    assert decoder.counters["damaged"] >= 1
    assert decoder.feed(encode_frame(b"next")) == [b"next"]


DAMAGE = {
    "cut inside a block": lambda wire: wire[:5] + b"\0",
    "a byte dropped": lambda wire: wire[:3] + wire[4:],
    "a byte added": lambda wire: wire[:3] + b"x" + wire[3:],
    "two frames run together": lambda wire: wire[:-1] + wire,
    "only a check": lambda wire: cobs(zlib.crc32(b"").to_bytes(4, "little")) + b"\0",
    "shorter than a check": lambda wire: b"\x02a\0",
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_frame_is_counted_and_skipped(harm) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(harm(encode_frame(b"hello world"))) == []
    assert decoder.counters["damaged"] == 1
    assert decoder.feed(encode_frame(b"next")) == [b"next"]


def test_a_frame_too_long_is_skipped_to_the_next_zero() -> None:
    decoder = FrameDecoder(limit=100)
    assert decoder.feed(encode_frame(b"x" * 101) + encode_frame(b"y" * 100)) == [b"y" * 100]
    assert decoder.counters == {"frames": 1, "damaged": 0, "too_long": 1}


def test_zeros_in_a_row_are_no_frames_and_no_damage() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(bytes(10_000) + encode_frame(b"a")) == [b"a"]
    assert decoder.counters == {"frames": 1, "damaged": 0, "too_long": 0}


def test_an_empty_packet_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        encode_frame(b"")
    with pytest.raises(ValueError, match="expected 1 to"):
        FrameDecoder(limit=0)
