"""Frames of bodies that bring their own check."""

from __future__ import annotations

import random
import zlib

from hypothesis import given
from hypothesis import strategies as st
from seamline.kernels._link import FrameDecoder, encode_body, encode_frame

LIMIT = 600


def raw_decoder() -> FrameDecoder:
    return FrameDecoder(LIMIT, raw=True)


PACKETS = st.one_of(
    st.binary(min_size=1, max_size=LIMIT - 4),
    st.lists(st.sampled_from([0, 1, 255]), min_size=1, max_size=LIMIT - 4).map(bytes),
    st.integers(1, LIMIT - 4).map(lambda size: b"\1" * size),
)


@given(PACKETS)
def test_a_frame_is_that_of_the_core(packet):
    body = packet + zlib.crc32(packet).to_bytes(4, "little")
    assert encode_body(body) == encode_frame(packet)
    assert raw_decoder().feed(encode_frame(packet)) == [body]
    assert FrameDecoder().feed(encode_body(body)) == [packet]


@given(st.lists(PACKETS, max_size=5), st.integers(1, 50))
def test_bodies_come_out_however_the_line_cuts_them(packets, size):
    wire, decoder = b"\0".join(map(encode_body, packets)), raw_decoder()
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    assert [body for piece in pieces for body in decoder.feed(piece)] == packets


@given(st.binary(max_size=200))
def test_any_bytes_are_borne_and_what_follows_is_heard(noise):
    decoder = raw_decoder()
    decoder.feed(noise)
    assert decoder.feed(b"\0" + encode_body(b"body"))[-1] == b"body"


def test_a_body_that_is_too_long_is_skipped_whole():
    decoder = raw_decoder()
    wire = encode_body(b"\1" * LIMIT) + encode_body(b"\1" * (LIMIT + 4)) + encode_body(b"next")
    assert decoder.feed(wire) == [b"\1" * LIMIT, b"next"]


def test_a_flood_without_an_end_takes_no_memory():
    decoder, rng = raw_decoder(), random.Random(1)
    for _ in range(1000):
        flood = rng.randbytes(4096).replace(b"\0", b"\1")
        assert decoder.feed(flood) == []
    assert decoder.feed(b"\0" + encode_body(b"body")) == [b"body"]
