"""The C that reads bytes from outside against references written from SPEC.md: the same is taken
and refused, with the same fields, and the same bytes are written.

SEAMLINE_DIFFERENTIAL_RUNS sets the cases of each test (20,000; `make nightly` has a million).
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from zlib import crc32

import numpy as np
import pytest
import reference_frame
import reference_message
import reference_packet
import reference_parcel
import reference_plan
import seeds
from mutate import damaged
from reference_packet import ACK_NOW, LAST, Ack, Data, End, Open
from seamline.kernels import SeamError, choose_variant, parcel, variant, variants
from seamline.kernels import reference_parcel as definition
from seamline.kernels._link import (
    MESSAGE,
    PACKET_MAX,
    STUCK,
    FrameDecoder,
    PacketEnd,
    encode_body,
    encode_frame,
)
from seamline.kernels.front import check_plan, decode_message, encode_message
from seamline.runtime.plan import KINDS, read_plan

RUNS = int(os.environ.get("SEAMLINE_DIFFERENTIAL_RUNS", "20000"))
pytestmark = pytest.mark.timeout(max(120, RUNS))


def cases(name: str, share: float = 1.0) -> Iterator[random.Random]:
    """A source of chance a case, the same every time."""
    for number in range(int(RUNS * share)):
        yield random.Random(f"{name} {number}")


# ---- Frames ----


def lumpy(chance: random.Random, most: int) -> bytes:
    """Bytes with long runs without a zero, and runs of zeros."""
    out = b""
    while len(out) < most and chance.random() < 0.8:
        kind = chance.random()
        size = chance.choice((1, 2, 7, 252, 253, 254, 255, 508, chance.randrange(1, 300)))
        run = bytes(size) if kind < 0.2 else chance.randbytes(size)
        out += run if kind < 0.5 else run.replace(b"\0", b"\xff")
    return out[:most] or b"\0"


def test_frames_are_written_with_the_same_bytes() -> None:
    for chance in cases("encode"):
        packet = lumpy(chance, 1300)
        assert encode_frame(packet) == reference_frame.encode(packet)
        assert encode_body(packet) == reference_frame.encode_body(packet)


def stream(chance: random.Random, whole: list[bytes], limit: int) -> bytes:
    """Frames of any bytes, some about as long as the longest, and damage."""
    packets = [lumpy(chance, 400) for _ in range(3)]
    packets += [
        chance.randbytes(limit + chance.randint(-1, 5)) for _ in range(chance.choice((0, 2)))
    ]
    chance.shuffle(packets)
    frames = [reference_frame.encode(packet) for packet in packets]
    return damaged([*whole, b"".join(frames), b"".join(chance.choices(frames, k=5))], chance)


def test_a_damaged_stream_gives_the_same_packets_and_counts() -> None:
    whole = list(seeds.frames().values())
    for chance in cases("decode"):
        limit, raw = chance.choice((13, 17, 100, 300, PACKET_MAX)), chance.random() < 0.3
        line = stream(chance, whole, limit) + b"\0" + reference_frame.encode(b"in step again")
        decoder, found, at = FrameDecoder(limit, raw=raw), [], 0
        while at < len(line):
            size = chance.choice((1, 3, 64, 5000))
            found += decoder.feed(line[at : at + size])
            at += size
        expected, counters = reference_frame.decode(line, limit, raw=raw)
        assert found == expected
        assert decoder.counters == counters
        assert raw or found[-1] == b"in step again"


# ---- Packets ----


def conversation_packets() -> list[bytes]:
    """What the two ends of the seeds say to each other."""
    return reference_frame.decode(seeds.frames()["room"][1:] + b"\0", PACKET_MAX, raw=False)[0]


SAID = conversation_packets()


class Play:
    """An end in C and the reference, and a peer that says anything."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.now = chance, 0
        first = chance.choice((1, 1, 0xFFF0, 0x7FF0))
        figures = {"mtu": 64 * chance.choice((1, 3, 16)), "window": chance.choice((1, 8, 32))}
        space = chance.choice((64, 640, 5000, 100_000))
        boot = 7 << 32
        self.end = PacketEnd(boot, 0, rx_space=space, first_number=first, **figures)
        self.model = End(boot, space, first=first, **figures)
        self.model.number = first
        self.peer_epoch = chance.choice((1, 9)) << 32 | chance.randrange(3)
        self.number = chance.choice((1, 0xFFFA))
        self.message, self.offset = 0, 0
        self.heard: list[bytes] = chance.sample(SAID, 5)

    def run(self) -> None:
        self.say(self.opening(0))
        self.say(self.opening(self.model.offered))
        for _ in range(self.chance.randrange(60)):
            self.turn()

    def turn(self) -> None:
        what = self.chance.random()
        if what < 0.12:
            self.now += self.chance.choice((1, 9, 30, 200, 400))
        elif what < 0.22:
            message = self.chance.randbytes(self.chance.choice((0, 1, 64, 700, 2100)))
            self.events()  # an owner knows what became of its last message
            if len(message) <= self.model.longest:
                assert self.end.send(message) == self.model.send(message)
        elif what < 0.30:  # again what was said before, its echo, or a packet of the seeds
            self.say(self.tagged(self.chance.choice(self.heard)))
        else:
            packet = self.packet()
            harmed = self.chance.random() < 0.25
            self.say(damaged([packet, *self.heard[-3:]], self.chance) if harmed else packet)

    def tagged(self, packet: bytes) -> bytes:
        """As one of this connection, in half of all cases."""
        if len(packet) < 8 or packet[0] & 15 == 1 or self.chance.random() < 0.5:
            return packet
        return packet[:4] + self.model.connection.to_bytes(4, "little") + packet[8:]

    def packet(self) -> bytes:
        what = self.chance.random()
        if what < 0.1:
            return self.opening(self.chance.choice((0, 0, self.model.offered, self.model.epoch, 3)))
        return self.acknowledgement() if what < 0.4 else self.piece()

    def opening(self, answers: int) -> bytes:
        if self.chance.random() < 0.1:
            self.peer_epoch += 1 if self.chance.random() < 0.5 else 1 << 20
        first = self.number if not self.model.peer else self.chance.choice((1, 0xFFFF))
        mtu = self.chance.choice((64, 192, 1024, 2048))
        longest = self.chance.choice((0, 64, 700, 4000))
        return Open(first, self.peer_epoch, answers, mtu, 8, longest).bytes()

    def next_number(self) -> int:
        jump = self.chance.choice((1, 1, 1, 1, 2, 3, 31, 32, 33, 34, -1, -5, -40, 0))
        number = (self.number + jump) % 65536
        self.number = number if jump > 0 else self.number
        return number

    def flags(self, *any_of: int) -> int:
        return sum(flag for flag in any_of if self.chance.random() < 0.3)

    def piece(self) -> bytes:
        come = self.model.incoming
        unit = reference_packet.UNIT
        near = come.first_gap // unit * unit + unit * self.chance.choice((0, 0, 0, 1, 2, 16, 513))
        offset = self.chance.choice((near, near, near, 0, near + 1, come.space // unit * unit))
        size = self.chance.choice((64, 64, 128, 1024, 1, 70, 0))
        message = come.message + self.chance.choice((0, 0, 0, 0, 0, 0, 0, 1, -1, 3))
        if come.size is not None and self.chance.random() < 0.5:
            size = min(max(come.size - offset, 0), 1024)
        payload = self.chance.randbytes(size)
        flags = self.flags(LAST, ACK_NOW)
        tag = self.model.connection ^ (self.chance.random() < 0.03)
        return Data(flags, self.next_number(), tag, message % 65536, offset, payload).bytes()

    def acknowledgement(self) -> bytes:
        it = self.model
        message = (it.message + self.chance.choice((0, 0, 0, 1, 1, -1, 2))) % 65536
        offset = self.chance.choice((it.said, it.acked, 0, 64, it.said + 64))
        limit = self.chance.choice((0, 64, 4000, 0xFFFFFFFF))
        newest = (it.number - self.chance.choice((1, 1, 1, 2, 5, 0))) % 65536
        bitmap = self.chance.choice((0, 0xFFFFFFFF, self.chance.getrandbits(32)))
        flags, tag = self.flags(ACK_NOW), it.connection
        head = (flags, self.next_number(), tag, message, offset)
        return Ack(*head, limit, newest, bitmap).bytes()

    def say(self, packet: bytes) -> None:
        """A packet goes in, everything due comes out, and both agree on all of it."""
        self.end.input_packet(packet, self.now)
        self.model.take(packet, self.now)
        self.heard = [*self.heard[-20:], packet]
        self.counted(packet)
        if self.chance.random() < 0.8:  # else the owner is busy: a message stays where it is
            self.events()
        self.outputs()

    def counted(self, packet: bytes) -> None:
        counters = self.end.counters
        for name in ("other_version", "malformed", "strays", "duplicates"):
            assert counters[name] == self.model.counters[name], (name, packet.hex())
        assert self.end.joined == (self.model.peer != 0)
        assert self.end.busy == (self.model.sending is not None)

    def events(self) -> None:
        expected = sorted(self.model.events)
        told = self.end.events()
        if STUCK in [kind for kind, _ in told]:
            assert self.now >= 10_000
        whole = self.model.incoming.whole
        assert [data for kind, data in told if kind == MESSAGE] == [whole] * (whole is not None)
        assert sorted(kind for kind, _ in told if kind != MESSAGE) == expected
        self.model.events.clear()
        self.model.release()

    def outputs(self) -> None:
        self.model.silence(self.now)
        for _ in range(100):
            packet = self.end.output_packet(self.now)
            if not packet:
                break
            self.model.say(packet)
            self.heard = [*self.heard[-20:], packet]
        assert not self.model.ack_due, "an ACK is due at once"
        assert self.model.answer is None, "an OPEN is due at once"


def test_an_end_takes_refuses_and_answers_what_the_reference_does() -> None:
    for chance in cases("packets", 0.5):
        Play(chance).run()


# ---- Messages ----


def conversation() -> list[bytes]:
    """The messages of the seeds, one by one."""
    found = []
    for said in seeds.conversations().values():
        at = 0
        while at < len(said):
            size = int.from_bytes(said[at : at + 2], "little")
            found.append(said[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def test_headers_of_messages_are_read_and_written_alike() -> None:
    said, taken = conversation(), 0
    for chance in cases("messages"):
        data = bytearray(damaged(said, chance))
        if len(data) >= 24 and chance.random() < 0.5:
            data[20:24] = struct.pack("<I", len(data) - 24)
        expected = reference_message.decode(bytes(data))
        try:
            found = decode_message(bytes(data))
        except SeamError:
            assert expected is None, data.hex()
            continue
        assert expected is not None, data.hex()
        kind, flags, session, round_, step, body = found
        assert (kind, flags, session, round_, step, bytes(body)) == expected
        again = (kind, session, round_, step, flags, bytes(body))
        assert encode_message(*again) == reference_message.encode(*again) == data
        taken += 1
    assert RUNS // 10 < taken < RUNS


def test_the_longest_message_is_read_and_one_byte_more_is_not() -> None:
    longest = reference_message.encode(1, 2, 3, 4, 5, bytes((16 << 20) - 24))
    assert decode_message(longest)[0] == 1 and reference_message.decode(longest) is not None
    longer = reference_message.encode(1, 2, 3, 4, 5, bytes((16 << 20) - 23))
    assert reference_message.decode(longer) is None
    with pytest.raises(SeamError):
        decode_message(longer)


# ---- Parcels ----


@pytest.fixture
def any_variant() -> Iterator[Callable[[random.Random], None]]:
    """Draws one of the sets of micro-kernels this machine has."""
    before = variant()
    yield lambda chance: choose_variant(chance.choice(variants()))
    choose_variant(before)


def longer_parcels() -> list[bytes]:
    """Of so many values that every loop of every variant is in use."""
    rng = np.random.default_rng(5)
    values = [rng.standard_normal(size).astype(np.float32) for size in (64, 129, 300)]
    return [definition.pack(x, codec) for x in values for codec in parcel.CODECS]


TINY, HUGE = 2.0**-126, 3.4028235e38
SCALES = (1.0, TINY, TINY / 2, 0.0, -1.0, HUGE, HUGE / 256, HUGE / 16, HUGE / 15.9, float("nan"))
POINTS = (0, 7, 8, -8, -9, 127, 128, -128, -129, 1 << 31)


def headed(chance: random.Random) -> bytes:
    """A parcel whose header says something at or beside its bounds; of about the right length."""
    codec, ndim = chance.randint(0, 11), chance.choice((1, 2, 3, 4, 4, 0, 5))
    shape = [chance.choice((1, 1, 2, 3, 5, 0)) for _ in range(ndim)]
    known = codec <= definition.KEPT and ndim > 0 and 0 not in shape
    size = definition.payload_size(codec, tuple(shape)) if known else int(np.prod(shape))
    size += chance.choice((0, 0, 0, 0, -1, 1))
    head = (codec, chance.choice((0, 1, 2)), ndim, chance.choice((0, 0, 0, 1)), 9)
    scale = 1.0 if chance.random() < 0.3 else chance.choice(SCALES)
    point = 0 if chance.random() < 0.3 else chance.choice(POINTS) & 0xFFFFFFFF
    payload = bytes(max(size, 0)) if chance.random() < 0.5 else chance.randbytes(max(size, 0))
    return struct.pack(f"<BBBBIfI{ndim}I", *head, scale, point, *shape) + payload


def test_hostile_parcels_are_taken_and_refused_alike(any_variant) -> None:
    whole, taken = [*seeds.parcels().values(), *longer_parcels()], 0
    for chance in cases("parcels", 2):
        any_variant(chance)
        data = damaged(whole, chance) if chance.random() < 0.5 else headed(chance)
        expected = reference_parcel.unpack(data)
        try:
            values, end = parcel.unpack(data)
        except SeamError:
            assert expected is None, data.hex()
            continue
        assert expected is not None, data.hex()
        assert end == expected[1] and values.shape == expected[0].shape
        assert values.tobytes() == expected[0].tobytes(), data.hex()
        taken += 1
    assert RUNS // 5 < taken < 2 * RUNS


def test_the_largest_parcel_is_read_and_one_value_more_is_not() -> None:
    for count, fits in ((1 << 22, True), ((1 << 22) + 1, False)):
        data = struct.pack("<BBBBIfII", 2, 0, 1, 0, 0, 1.0, 0, count) + bytes((count + 1) // 2)
        assert (reference_parcel.unpack(data) is not None) == fits
        if fits:
            assert parcel.unpack(data)[0].size == count
        else:
            with pytest.raises(SeamError):
                parcel.unpack(data)


def values_of(chance: random.Random) -> np.ndarray:
    """Of any size, with the values that hurt: huge, tiny, equal, not finite."""
    shape = [chance.choice((1, 2, 3, 17)) for _ in range(chance.randint(1, 4))]
    rng = np.random.default_rng(chance.getrandbits(32))
    kind = chance.random()
    if kind < 0.3:
        found = rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
        return found if kind < 0.1 else np.where(np.isfinite(found), found, np.float32(0))
    scale = 10.0 ** chance.uniform(-44, 38)
    with np.errstate(over="ignore"):
        found = (rng.standard_normal(shape) * scale + chance.choice((0, scale))).astype(np.float32)
    return np.abs(found) if chance.random() < 0.2 else found


def test_parcels_are_packed_with_the_same_bytes(any_variant) -> None:
    refused = 0
    for chance in cases("pack"):
        any_variant(chance)
        how = (chance.choice(list(parcel.CODECS)), chance.choice(list(parcel.ROUNDINGS)))
        x, seed = values_of(chance), chance.getrandbits(32)
        try:
            expected = definition.pack(x, *how, seed)
        except ValueError:
            refused += 1
            with pytest.raises(SeamError):
                parcel.pack(x, *how, seed)
            continue
        assert parcel.pack(x, *how, seed) == expected
    assert 0 < refused < RUNS // 2


# ---- Plans ----


def sealed(data: bytes, chance: random.Random) -> bytes:
    """With a right checksum, most of the time: or no damage would come further."""
    if len(data) < 48 or chance.random() < 0.05:
        return data
    return data[:44] + struct.pack("<I", crc32(data[:44] + bytes(4) + data[48:])) + data[48:]


def judged(data: bytes) -> tuple[reference_plan.Plan | None, str]:
    try:
        return reference_plan.check(data), ""
    except reference_plan.Refused as error:
        return None, str(error)


def taken(data: bytes) -> bool:
    try:
        check_plan(data)
    except SeamError:
        return False
    return True


def test_plans_are_taken_and_refused_alike() -> None:
    whole, count = list(seeds.plans().values()), 0
    assert all(taken(data) for data in whole)
    for chance in cases("plans", 2):
        data = sealed(damaged(whole, chance), chance)
        plan, why = judged(data)
        if plan is None or plan.dtype == reference_plan.F32:
            assert taken(data) == (plan is not None), (why, data.hex())
        if plan is not None and taken(data):
            same_fields(data, plan)
            count += 1
    assert RUNS // 20 < count < 2 * RUNS


def test_what_is_wrong_in_any_plan_is_refused_in_one_of_int8() -> None:
    plans = [*seeds.q8_plans().values()]
    sizes = [48 + 68 * int.from_bytes(data[8:10], "little") + 20 for data in plans]
    whole = [data[:size] for data, size in zip(plans, sizes, strict=True)]
    assert all(taken(data) and judged(data)[0] is not None for data in whole)
    for chance in cases("q8 plans"):
        data = sealed(damaged(whole, chance), chance)
        plan, why = judged(data)
        assert plan is not None or not taken(data), (why, data.hex())
        if plan is not None and taken(data):
            same_fields(data, plan)


def misplaced(plan: bytes, chance: random.Random) -> bytes:
    """One array of a plan at or near the place of another; the arena has room for it."""
    layers, tensors = struct.unpack_from("<HH", plan, 8)
    places = [48 + 20 * i + field for i in range(tensors) for field in (8, 12)]
    places += [48 + 20 * tensors + 48 * i + 28 for i in range(layers)] + [28]
    data = bytearray(plan)
    struct.pack_into("<I", data, 24, 2 * struct.unpack_from("<I", plan, 24)[0])
    for _ in range(chance.choice((1, 1, 2))):
        source, at = chance.sample(places, 2)
        offset = struct.unpack_from("<I", data, source)[0] + chance.choice((0, 0, 16, -16, 64))
        if chance.random() < 0.1:
            offset = chance.randrange(struct.unpack_from("<I", plan, 24)[0])
        struct.pack_into("<I", data, at, offset & 0xFFFFFFFF)
    return sealed(bytes(data), chance)


def spread(plan: bytes) -> bytes:
    """The plan with room between all its arrays: no change of a size makes two of them overlap."""
    layers, tensors = struct.unpack_from("<HH", plan, 8)
    places = [48 + 20 * i + field for i in range(tensors) for field in (8, 12)]
    places += [48 + 20 * tensors + 48 * i + 28 for i in range(layers)] + [28]
    data = bytearray(plan)
    for number, at in enumerate(places, 2):
        if struct.unpack_from("<I", data, at)[0] != reference_plan.NONE:
            struct.pack_into("<I", data, at, number << 26)
    struct.pack_into("<I", data, 20, 1 << 22)  # parameters
    struct.pack_into("<I", data, 24, 0xFFFFFFF0)
    struct.pack_into("<I", data, 32, 1 << 26)
    return bytes(data)


# Widths of the fields of a header, a tensor, a layer.
HEADER = (4, 2, 1, 1, 2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4)
TENSOR = (2, 2, 2, 2, 4, 4, 4)
LAYER = (1, 1, 2, 2, 2, *[1] * 10, 2, 4, 4, 4, 4, 1, 4, 4, 3)
BOUNDS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 4096, 4097, 65535, 1 << 22, (1 << 22) + 1)
FLOATS = struct.pack("<5f", 0.0, -0.0, float("nan"), float("inf"), -1e-30)


def fielded(plan: bytes, chance: random.Random) -> bytes:
    """A field of a plan or two at or beside a bound; often with what depends on it set right."""
    layers, tensors = struct.unpack_from("<HH", plan, 8)
    data, at, fields = bytearray(plan), 0, []
    for width in (*HEADER, *TENSOR * tensors, *LAYER * layers):
        fields.append((at, width))
        at += width
    for _ in range(chance.choice((1, 1, 2))):
        at, width = chance.choice((chance.choice(fields), (12, 2), (20, 4)))
        now = int.from_bytes(data[at : at + width], "little")
        value = chance.choice((*BOUNDS, now + 1, now - 1, now * 2))
        data[at : at + width] = (value % 256**width).to_bytes(width, "little")
    if chance.random() < 0.15:  # ceiling, epsilon
        at, number = 48 + 20 * tensors + 48 * chance.randrange(layers) + 32, chance.randrange(5)
        data[at : at + 4] = FLOATS[4 * number : 4 * number + 4]
    if chance.random() < 0.7:
        settle(data, layers, tensors)
    return sealed(bytes(data), chance)


def settle(data: bytearray, layers: int, tensors: int) -> None:
    """Values of tensors and parameters of layers as their shapes say, where they can be said."""
    for at in range(48, 48 + 20 * tensors, 20):
        h, w, c = struct.unpack_from("<HHH", data, at)
        struct.pack_into("<I", data, at + 16, h * w * c % 2**32)
    for at in range(48 + 20 * tensors, 48 + 20 * tensors + 48 * layers, 48):
        source, _, made = struct.unpack_from("<HHH", data, at + 2)
        if source >= tensors or made >= tensors:
            continue
        c, values = (struct.unpack_from("<I", data, 48 + 20 * source + i)[0] for i in (4, 16))
        out, c = struct.unpack_from("<H", data, 48 + 20 * made + 4)[0], c & 0xFFFF
        taps, bias = data[at + 8] * data[at + 9], out * data[at + 36]
        count = {1: taps * c * out + bias, 2: taps * out + bias, 3: values * out + bias, 8: 2 * c}
        struct.pack_into("<I", data, at + 24, count.get(data[at], 0) % 2**32)


def test_fields_of_a_plan_at_their_bounds_are_taken_and_refused_alike() -> None:
    whole, count = [spread(plan) for plan in seeds.plans().values()], 0
    for chance in cases("fields", 2):
        data = fielded(chance.choice(whole), chance)
        plan, why = judged(data)
        if plan is None or plan.dtype == reference_plan.F32:
            assert taken(data) == (plan is not None), (why, data.hex())
            count += plan is not None
    assert RUNS // 10 < count < 2 * RUNS


def test_arrays_of_a_plan_that_share_memory_are_taken_and_refused_alike() -> None:
    whole = list(seeds.plans().values())
    for chance in cases("places"):
        data = misplaced(chance.choice(whole), chance)
        plan, why = judged(data)
        assert taken(data) == (plan is not None), (why, data.hex())


def same_fields(data: bytes, plan: reference_plan.Plan) -> None:
    """What the product's reader in Python says of it, too."""
    found = read_plan(data)
    assert [KINDS[kind] for kind in found.kinds] == [layer.kind for layer in plan.layers]
    assert found.shapes == [tensor.shape for tensor in plan.tensors]
    assert found.parameters == sum(layer.count for layer in plan.layers)
    assert (found.batch, found.arena_bytes) == (plan.batch, plan.arena)
    assert found.scratch_bytes == plan.scratch
