"""What is written is read back, and bytes that lie about their lengths are refused."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamline.kernels import SeamError
from seamline.runtime import message as wire
from seamline.runtime.message import Kind, Message, ProtocolError

READERS = [
    wire.read_hello,
    wire.read_ready,
    wire.read_act,
    wire.read_weights,
    wire.read_result,
    wire.read_error,
    wire.read_bye,
    wire.read_zone,
]


@given(
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 65535),
    st.binary(max_size=300),
)
def test_a_message_is_read_as_it_was_written(kind, session, round_, step, flags, body):
    message = Message(kind, session, round_, step, flags, body)
    back = Message.decode(message.encode())
    assert (back.kind, back.session, back.round, back.step, back.flags) == (
        kind,
        session,
        round_,
        step,
        flags,
    )
    assert bytes(back.body) == body


@pytest.mark.parametrize("length", [2**31, 2**32 - 1, 1000])
def test_an_impossible_length_is_an_error_not_an_allocation(length):
    data = bytearray(Message(Kind.STATS, body=b"{}").encode())
    data[20:24] = struct.pack("<I", length)
    with pytest.raises(SeamError, match="end before"):
        Message.decode(bytes(data))


def test_a_body_over_the_limit_is_not_sent():
    with pytest.raises(SeamError, match="over its limit"):
        Message(Kind.STATS, body=bytes((16 << 20) - 23)).encode()


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@given(body=st.binary(max_size=120))
def test_no_body_from_outside_breaks_a_reader(read, body):
    with contextlib.suppress(ProtocolError, SeamError):
        read(body)


def test_a_model_travels_whole():
    model = {"a.weight": np.ones((2, 3), np.float32), "b": np.array(4.0, np.float32)}
    meta, back = wire.read_zone(wire.zone_body({"round": 3}, model))
    assert meta["round"] == 3
    assert list(back) == list(model)
    for name, array in model.items():
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


@pytest.mark.parametrize(
    ("meta", "tail", "words"),
    [
        (b"[]", b"", "expected a JSON object"),
        (b"{", b"", "cannot be read"),
        (b'{"tensors": 3}', b"", "list of tensor names"),
        (b'{"tensors": [3], "shapes": {}}', b"", "expected|end before|bytes"),
        (b"{}", b"rest", "4 bytes follow"),
    ],
)
def test_a_zone_body_that_does_not_add_up_is_refused(meta, tail, words):
    with pytest.raises((ProtocolError, SeamError), match=words):
        wire.read_zone(struct.pack("<I", len(meta)) + meta + tail)
