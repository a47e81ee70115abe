"""Packets in virtual time: two ends and a bad line; every message arrives whole and in order, or
the loss is told.
"""

import random
import struct
import zlib
from collections.abc import Callable

import pytest
from seamline.kernels._link import (
    FULL,
    JOINED,
    MESSAGE,
    RESTARTED,
    SENT,
    SILENT,
    STUCK,
    FrameDecoder,
    PacketEnd,
    encode_frame,
)

LOST = (SILENT, RESTARTED, STUCK, FULL)
Harm = Callable[[random.Random, bytes], bytes]


class Held:
    """An end whose owner looks at its events only later."""

    def __init__(self, end: PacketEnd) -> None:
        self.end = end
        self.held = True

    def events(self) -> list[tuple[int, bytes | None]]:
        return [] if self.held else self.end.events()

    def __getattr__(self, name: str) -> object:
        return getattr(self.end, name)


class Pair:
    """Two ends on a line with a delay (ms) and a rate (bytes per ms), in virtual time; frames may
    be harmed.
    """

    def __init__(
        self,
        seed: int = 0,
        harm: Harm | None = None,
        delay: int = 2,
        rate: int = 100,
        **config: int,
    ):
        self.random = random.Random(seed)
        self.harm = harm
        self.delay, self.rate, self.config = delay, rate, config
        self.now = 0
        self.ends: list[PacketEnd | None] = [None, None]
        self.boots = 0
        self.line: list[list[tuple[int, bytes]]] = [[], []]  # towards end 0, 1: (arrives, bytes)
        self.free = [0, 0]
        self.wire = [0, 0]
        self.events: list[list[tuple[int, bytes | None]]] = [[], []]
        for side in (0, 1):
            self.boot(side)

    def boot(self, side: int) -> PacketEnd:
        self.boots += 1
        boot_id = self.boots << 32 | side << 16
        end = PacketEnd(boot_id, self.now, **self.config)
        self.ends[side] = end
        self.events[side] = []
        return end

    def send(self, side: int, message: bytes) -> bool:
        end = self.ends[side]
        return end is not None and end.send(message)

    def turn(self) -> None:
        """Everything due now is done; then time goes to the next thing that can happen."""
        for side in (0, 1):
            self.deliver(side)
        busy = True
        while busy:
            busy = self.flush(0) | self.flush(1)
        waits = [self.now + end.wait(self.now) for end in self.ends if end]
        waits += [line[0][0] for line in self.line if line]
        self.now = max(self.now + 1, min(waits, default=self.now + 1000))

    def deliver(self, side: int) -> None:
        line = self.line[side]
        while line and line[0][0] <= self.now:
            _, data = line.pop(0)
            end = self.ends[side]
            if end is not None:
                end.feed(data, self.now)
                self.events[side] += end.events()

    def flush(self, side: int) -> bool:
        end = self.ends[side]
        if end is None or self.free[side] > self.now:
            return False
        data = end.output(self.now, 1)
        self.events[side] += end.events()
        if not data:
            return False
        self.free[side] = max(self.now, self.free[side]) + len(data) // self.rate
        self.wire[side] += len(data)
        if self.harm is not None:
            data = self.harm(self.random, data)
        if data:
            self.line[1 - side].append((self.free[side] + self.delay, data))
        return True

    def until(self, done: Callable[[], bool], limit_ms: int = 60_000) -> int:
        """Runs until done(); fails after limit_ms of virtual time. Returns the milliseconds it
        took.
        """
        start = self.now
        while not done():
            assert self.now - start < limit_ms, f"a hang: {self.story()}"
            self.turn()
        return self.now - start

    def story(self) -> str:
        """What happened, without the messages' bytes."""
        kinds = [[kind for kind, _ in events][-20:] for events in self.events]
        return f"{kinds} {[end and end.counters for end in self.ends]}"

    def joined(self) -> "Pair":
        self.until(lambda: all(end is not None and end.joined for end in self.ends))
        return self

    def messages(self, side: int) -> list[bytes]:
        return [data for kind, data in self.events[side] if kind == MESSAGE and data is not None]


def loses(share: float) -> Harm:
    return lambda rng, data: b"" if rng.random() < share else data


def flips(rate: float) -> Harm:
    """Each bit with the probability `rate`."""

    def harm(rng: random.Random, data: bytes) -> bytes:
        hurt = bytearray(data)
        for _ in range(sum(rng.random() < rate * 8 * len(data) / 4 for _ in range(4))):
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
        return bytes(hurt)

    return harm


def repeats(rng: random.Random, data: bytes) -> bytes:
    return data * rng.choice((1, 1, 1, 2, 3))


def cuts(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


def noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(40)) + data if rng.random() < 0.15 else data


def drops_bytes(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        return data[:at] + data[at + rng.randrange(1, 30) :]
    return data


def everything(rng: random.Random, data: bytes) -> bytes:
    for harm in (loses(0.05), flips(1e-5), repeats, cuts, noise, drops_bytes):
        if data and rng.random() < 0.5:
            data = harm(rng, data)
    return data


HARMS = {
    "nothing": None,
    "5 % lost": loses(0.05),
    "30 % lost": loses(0.3),
    "bit flips": flips(2e-5),
    "repeats": repeats,
    "cuts": cuts,
    "noise": noise,
    "bytes dropped": drops_bytes,
    "everything": everything,
}
SIZES = (0, 1, 63, 64, 65, 1023, 1024, 1025, 5000, 20_000)


def talk(pair: Pair, rng: random.Random, count: int) -> None:
    """Both ends say `count` messages each; all arrive byte-exact and in order (the line is never
    dead for 2.75 s).
    """
    sizes = [[rng.choice(SIZES) for _ in range(count)] for _ in range(2)]
    said = [[rng.randbytes(size) for size in sizes[side]] for side in range(2)]
    at = [0, 0]

    def step() -> bool:
        for side in (0, 1):
            if at[side] < count and pair.send(side, said[side][at[side]]):
                at[side] += 1
        return all(len(pair.messages(1 - side)) >= count for side in (0, 1))

    pair.until(step, 600_000)
    for side in (0, 1):
        assert pair.messages(1 - side) == said[side]


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
@pytest.mark.parametrize("seed", range(25))
def test_every_message_arrives_whole_and_in_order(harm: Harm | None, seed: int) -> None:
    rng = random.Random(seed)
    config = {"mtu": rng.choice((64, 256, 1024)), "window": rng.choice((1, 2, 8, 32))}
    pair = Pair(
        seed, harm, delay=rng.choice((0, 2, 16)), rate=rng.choice((12, 100, 1000)), **config
    )
    talk(pair.joined(), rng, 6)
    for side in (0, 1):
        assert not any(kind in LOST for kind, _ in pair.events[side])


def body_of(side: int, life: int, number: int) -> bytes:
    """Message `number` of a life of an end: every byte can be checked."""
    rng = random.Random(f"{side} {life} {number}")
    return struct.pack("<BBI", side, life, number) + rng.randbytes(rng.choice(SIZES))


@pytest.mark.parametrize("seed", range(150))
def test_an_end_that_restarts_is_noticed_and_nothing_old_arrives(seed: int) -> None:
    """Restarts at random moments on a bad line: what arrives is whole, and never older than what
    came before.
    """
    rng = random.Random(seed)
    pair = Pair(seed, rng.choice((None, loses(0.1), everything)), window=rng.choice((1, 8)))
    life, said, last = [0, 0], [0, 0], [(-1, -1), (-1, -1)]

    def say(side: int) -> None:
        if pair.send(side, body_of(side, life[side], said[side])):
            said[side] += 1

    def hear(side: int) -> None:
        for data in pair.messages(side):
            speaker, born, number = struct.unpack_from("<BBI", data)
            assert speaker == 1 - side
            assert data == body_of(speaker, born, number)
            assert (born, number) > last[side]
            last[side] = (born, number)
        pair.events[side].clear()

    for _ in range(rng.randrange(2, 6)):
        stop = pair.now + rng.randrange(1, 4000)
        while pair.now < stop:
            for side in (0, 1):
                say(side)
            pair.turn()
            for side in (0, 1):
                hear(side)
        side = rng.randrange(2)
        life[side] += 1
        said[side] = 0
        last[side] = (-1, -1)
        pair.boot(side)
    pair.joined()
    talk_fresh(pair)


def talk_fresh(pair: Pair) -> None:
    """After all that, one message each way still goes through."""
    for side in (0, 1):
        body = b"fresh" + bytes([side]) * 3000

        def arrived(side: int = side, body: bytes = body) -> bool:
            pair.send(side, body)
            return body in pair.messages(1 - side)

        pair.until(arrived, 60_000)


def test_a_restart_is_told_as_lost_then_joined() -> None:
    pair = Pair().joined()
    pair.turn()
    pair.events[0].clear()
    pair.boot(1)
    took = pair.until(lambda: (JOINED, None) in pair.events[0] and (JOINED, None) in pair.events[1])
    assert pair.events[0] == [(RESTARTED, None), (JOINED, None)]
    assert pair.events[1] == [(JOINED, None)]
    assert took < 500


def test_a_silent_peer_is_lost_within_three_seconds_and_not_at_once() -> None:
    pair = Pair().joined()
    pair.until(lambda: pair.now > 10_000)
    assert not any(
        kind in LOST for kind, _ in pair.events[0]
    )  # pings alone keep an idle line alive
    pair.ends[1] = None
    start = pair.now
    pair.until(lambda: (SILENT, None) in pair.events[0])
    assert 1700 <= pair.now - start <= 3000


def test_a_message_that_came_before_a_restart_is_given_before_its_news() -> None:
    pair = Pair().joined()
    end = pair.ends[0]
    assert end is not None
    assert pair.send(1, b"last words")
    pair.turn()
    pair.events[0].clear()
    held = Held(end)
    pair.ends[0] = held  # type: ignore[assignment]
    pair.until(lambda: (SENT, None) in pair.events[1])
    pair.boot(1)
    pair.joined().turn()
    held.held = False
    pair.turn()
    pair.until(lambda: len(pair.events[0]) >= 3)
    assert pair.events[0] == [(MESSAGE, b"last words"), (RESTARTED, None), (JOINED, None)]


def test_a_lost_answer_to_a_restarted_end_costs_no_three_seconds() -> None:
    """The restarted end holds the connection, the other one still the old one: it is told again."""
    pair = Pair().joined()
    pair.boot(1)
    fresh, real = pair.ends[1], pair.flush
    assert fresh is not None
    deaf_until = [0]

    def deaf(side: int) -> bool:
        sent = real(side)
        if side == 1 and fresh.joined:
            deaf_until[0] = deaf_until[0] or pair.now + 50
            if pair.now < deaf_until[0]:
                pair.line[0].clear()
        return sent

    pair.flush = deaf  # type: ignore[method-assign]
    assert pair.until(lambda: (RESTARTED, None) in pair.events[0]) < 500
    assert deaf_until[0] > 0


def test_a_lost_packet_is_sent_again_as_soon_as_a_newer_one_is_acknowledged() -> None:
    count = 0

    def third(_: random.Random, data: bytes) -> bytes:
        nonlocal count
        count += len(data) > 1000
        return b"" if count == 3 and len(data) > 1000 else data

    pair = Pair(harm=third).joined()
    message = bytes(range(256)) * 80
    assert pair.send(0, message)
    pair.until(lambda: pair.messages(1) == [message])
    sender = pair.ends[0]
    assert sender is not None
    assert (sender.counters["retransmits"], sender.counters["timeouts"]) == (1, 0)


def test_one_way_silence_is_told_at_both_ends() -> None:
    pair = Pair().joined()
    for side in (0, 1):
        pair.events[side].clear()
    pair.harm = lambda rng, data: data
    real = pair.flush

    def deaf(side: int) -> bool:
        sent = real(side)
        pair.line[1].clear()  # nothing reaches end 1 any more
        return sent

    pair.flush = deaf  # type: ignore[method-assign]
    pair.until(lambda: all(any(k in LOST for k, _ in pair.events[s]) for s in (0, 1)), 8000)
    pair.flush = real  # type: ignore[method-assign]
    for side in (0, 1):
        pair.events[side].clear()
    pair.until(lambda: all((JOINED, None) in pair.events[s] for s in (0, 1)), 5000)
    talk_fresh(pair)


def test_packet_numbers_wrap() -> None:
    pair = Pair(3, loses(0.05), first_number=0xFFFD).joined()
    talk(pair, random.Random(3), 12)


def test_an_unacknowledged_message_ends_with_the_loss() -> None:
    pair = Pair().joined()
    assert pair.send(0, b"x" * 50_000)
    pair.ends[1] = None
    pair.until(lambda: (SILENT, None) in pair.events[0])
    end = pair.ends[0]
    assert end is not None and not end.busy and not end.joined
    assert (SENT, None) not in pair.events[0]
    assert not end.send(b"y")


def test_messages_of_an_old_connection_fit_no_new_one() -> None:
    """All bytes of a first life, played back into the second: nothing is taken from them and
    nothing is lost.
    """
    record: list[bytes] = []

    def keep(rng: random.Random, data: bytes) -> bytes:
        record.append(data)
        return data

    pair = Pair(harm=keep).joined()
    talk(pair, random.Random(1), 3)
    old, pair.harm = b"".join(record), None
    pair.boot(1)
    pair.joined().turn()
    pair.turn()
    before = [list(pair.events[side]) for side in (0, 1)]
    for side in (0, 1):
        pair.line[side].append((pair.now, old))
    pair.until(lambda: not any(pair.line), 1000)
    for side in (0, 1):
        assert pair.events[side] == before[side]
    talk_fresh(pair)


def test_a_loop_in_the_cable_joins_nobody() -> None:
    end = PacketEnd(1 << 32, 0)
    for now in range(0, 5000, 50):
        end.feed(end.output(now), now)
    assert not end.joined and end.events() == []
    assert end.counters["strays"] > 3


def test_a_message_longer_than_the_peer_takes_is_refused_at_once() -> None:
    pair = Pair(rx_space=4096).joined()
    with pytest.raises(ValueError, match="longer than the peer can take"):
        pair.send(0, bytes(4097))
    assert pair.send(0, bytes(4096))
    pair.until(lambda: pair.messages(1) == [bytes(4096)])


def test_a_receiver_that_does_not_take_its_message_stops_the_sender_and_then_lets_it_go() -> None:
    pair = Pair(rx_space=4096).joined()
    pair.turn()
    pair.turn()
    end = pair.ends[1]
    assert end is not None
    real, pair.events[1] = end, []

    slow = Held(real)
    pair.ends[1] = slow  # type: ignore[assignment]
    assert pair.send(0, b"one" * 500)
    pair.until(lambda: (SENT, None) in pair.events[0])
    assert pair.send(0, b"two" * 500)
    pair.until(lambda: pair.now > 20_000)  # far longer than the time a dead peer is given
    sender = pair.ends[0]
    assert sender is not None and sender.busy
    assert sender.counters["credit_stalls"] == 1
    assert sender.counters["packets_sent"] < 100
    slow.held = False
    pair.until(lambda: pair.messages(1) == [b"one" * 500, b"two" * 500], 3000)


def test_a_clean_paced_line_is_used_well_and_nothing_is_sent_twice() -> None:
    """115200 baud, told to the end: 1024 bytes last 91 ms, over the floor of the time-out."""
    pair = Pair(rate=12, delay=1, bytes_per_second=12_000).joined()
    message = random.Random(0).randbytes(100_000)
    assert pair.send(0, message)
    start = pair.wire[0]
    pair.until(lambda: pair.messages(1) == [message])
    assert pair.ends[0] is not None and pair.ends[0].counters["retransmits"] == 0
    assert len(message) / (pair.wire[0] - start) > 0.97
    assert (
        0 < pair.ends[0].counters["rtt_us"] < 20_000
    )  # from when a packet has left, not from when it began


@pytest.mark.parametrize("seed", range(40))
def test_packets_of_any_content_are_survived(seed: int) -> None:
    """Well-framed packets with random fields, some with the right tag: no crash, and the line still
    works.
    """
    rng = random.Random(seed)
    seen: list[bytes] = []

    def keep(_: random.Random, data: bytes) -> bytes:
        seen.append(data)
        return data

    pair = Pair(seed, keep).joined()
    talk(pair, rng, 3)
    real = [packet for data in seen for packet in FrameDecoder().feed(data)]
    for _ in range(300):
        packet = bytearray(rng.choice(real))
        for _ in range(rng.randrange(1, 6)):
            packet[rng.randrange(len(packet))] = rng.randrange(256)
        if rng.random() < 0.3:
            packet = packet[: rng.randrange(1, len(packet) + 1)]
        pair.line[rng.randrange(2)].append((pair.now, encode_frame(bytes(packet))))
        pair.send(rng.randrange(2), rng.randbytes(rng.randrange(30_000)))
        pair.turn()
    pair.line = [[], []]
    pair.until(lambda: pair.now > 20_000)
    pair.joined()
    for side in (0, 1):
        pair.events[side].clear()
    talk_fresh(pair)


def test_a_piece_that_does_not_fit_is_dropped_and_harms_no_message() -> None:
    """Each malformed piece has the right connection and message number; rx takes 4096 bytes."""
    seen: list[bytes] = []

    def keep(_: random.Random, data: bytes) -> bytes:
        seen.append(data)
        return data

    pair = Pair(harm=keep, rx_space=4096).joined()
    message = bytes(range(256)) * 16
    assert pair.send(0, message)
    while not any(len(data) > 1000 for data in seen):
        pair.turn()
    header = bytearray(FrameDecoder().feed(seen[-1])[0][:14])
    receiver = pair.ends[1]
    assert receiver is not None
    pair.line[1].clear()
    pieces = [
        (4096, 64, 0),
        (4032, 128, 0),
        (2**32 - 64, 64, 0),
        (32, 64, 0),
        (0, 63, 0),
        (0, 0, 0),
    ]
    for number, (offset, size, flags) in enumerate([*pieces, (8192, 1, 1), (4096, 1, 1)]):
        header[1] = flags
        struct.pack_into("<H", header, 2, 100 + number)
        struct.pack_into("<I", header, 10, offset)
        receiver.feed(encode_frame(bytes(header) + bytes(size)), pair.now)
        assert receiver.counters["malformed"] == number + 1, (offset, size, flags)
    pair.until(lambda: pair.messages(1) == [message])


def opening(own: int = 9 << 32, flags: int = 0, mtu: int = 1024, zero: int = 0) -> bytes:
    return struct.pack("<BBHQQHBBI", 0x11, flags, 1, own, 1 << 32, mtu, 8, zero, 4096)


OUTLAWS = {
    "nothing of another version": (b"\x20", "other_version"),
    "another version": (b"\x21" + opening()[1:], "other_version"),
    "an unknown type": (b"\x14" + opening()[1:], "malformed"),
    "an OPEN cut short": (opening()[:-1], "malformed"),
    "an OPEN with a flag": (opening(flags=0x10), "malformed"),
    "an OPEN with a reserved byte": (opening(zero=1), "malformed"),
    "an epoch of 16 bits": (opening(own=0xFFFF), "malformed"),
    "an mtu between units": (opening(mtu=100), "malformed"),
    "no mtu": (opening(mtu=0), "malformed"),
    "DATA of another channel": (b"\x12\x10" + bytes(12), "malformed"),
    "DATA that is longer than any": (b"\x12\x00" + bytes(12 + 1025), "malformed"),
    "an ACK that is the last": (b"\x13\x01" + bytes(22), "malformed"),
    "an ACK of another channel": (b"\x13\x12" + bytes(22), "malformed"),
}


@pytest.mark.parametrize(("packet", "counter"), OUTLAWS.values(), ids=OUTLAWS.keys())
def test_a_packet_that_does_not_fit_the_table_is_dropped(packet: bytes, counter: str) -> None:
    end = PacketEnd(1 << 32, 0)
    end.input_packet(packet, 0)
    assert end.counters[counter] == 1 and not end.joined
    end.input_packet(opening(), 0)
    assert end.joined


def test_a_packet_of_another_channel_is_no_sign_of_life() -> None:
    """It has the right connection, but all it could say is for a later version."""
    end = PacketEnd(1 << 32, 0)
    end.input_packet(opening(), 0)
    assert end.events() == [(JOINED, None)]
    tag = zlib.crc32(struct.pack("<QQ", 1 << 32, 9 << 32))
    data = struct.pack("<BBHIHI", 0x12, 1, 1, tag, 0, 0) + b"one"
    end.input_packet(data[:1] + b"\x11" + data[2:], 2749)
    end.output(2750)
    assert end.events() == [(SILENT, None)]


def test_figures_out_of_range_are_refused() -> None:
    for bad in ({"mtu": 100}, {"mtu": 2048}, {"window": 0}, {"window": 33}, {"rx_space": 10}):
        with pytest.raises(ValueError, match="out of range"):
            PacketEnd(1 << 32, 0, **bad)
    with pytest.raises(ValueError, match="out of range"):
        PacketEnd(1, 0)
