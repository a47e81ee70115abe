"""Every fault a link must survive, by name: each message arrives byte-exact or a typed loss is told
within T, and the line works again afterwards; never a hang.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from seamline.kernels._link import FULL, PacketEnd, encode_frame
from seamline.runtime.faults import Faults, Silence
from seamline.runtime.line_model import CLEAN, CLEAR, LOST, SEALED, Kind, World
from seamline.runtime.link import LinkError
from seamline.runtime.link_proxy import _plug, _unplug
from seamline.runtime.sealed_end import SealedEnd
from seamline.runtime.serial_link import SerialLine

KINDS = [CLEAR, SEALED]  # another kind of end joins the table here
LOSS_S = 3.0  # a dead peer is known in this time
SETTLE_S = 30.0  # after the fault is over, a message each way is through
Act = Callable[[World, random.Random], None]


@dataclass(frozen=True)
class Case:
    """A line that harms bytes for `seconds`, and what is done to it meanwhile."""

    faults: Faults = CLEAN
    act: Act | None = None
    seconds: float = 6.0
    loses: bool = False  # the connection must fall, and both ends that live are told
    first_number: int = 1


class Talk:
    """Both ends say messages all the time; whatever arrives is checked at once."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.said: list[list[bytes]] = [[], []]
        self.heard = [0, 0]  # how many of the other's messages each end has passed
        self.count = [0, 0]
        self.quiet = False
        world.owner = self.look

    def look(self) -> None:
        for side in (0, 1):
            for data in self.world.messages(side):
                self._check(side, data)
            self.world.told[side] |= self.world.lost(side)
            self.world.events[side].clear()
            if self.quiet:
                continue
            body = self.rng.randbytes(self.rng.choice((0, 1, 64, 999, 4096, 20_000)))
            if self.world.send(side, body):
                self.said[side].append(body)

    def _check(self, side: int, data: bytes) -> None:
        """It is one of the other's messages, none before the last one heard."""
        said = self.said[1 - side]
        assert data in said[self.heard[side] :], "a message that was not said, or said before"
        self.heard[side] = said.index(data, self.heard[side]) + 1
        self.count[side] += 1


def _deaf(side: int, seconds: float = 6.0) -> Act:
    def act(world: World, _: random.Random) -> None:
        world.harm(side, silence=(Silence(0.0),))
        world.run(seconds)
        world.harm(side, silence=())

    return act


def _stopped(world: World, _: random.Random) -> None:
    world.frozen[1] = True
    world.run(6.0)
    world.frozen[1] = False


def _crash(side: int) -> Act:
    def act(world: World, _: random.Random) -> None:
        world.ends[side] = None
        world.run(6.0)
        world.boot(side)

    return act


def _zeros(world: World, _: random.Random) -> None:
    for side in (0, 1):
        world.end(side).feed(bytes(100_000), world.now_ms)


def _cut_code(world: World, rng: random.Random) -> None:
    """A frame that ends inside a block, at each of its first bytes."""
    frame = encode_frame(rng.randbytes(300))
    for size in range(1, 60):
        for side in (0, 1):
            world.end(side).feed(frame[:size] + b"\0", world.now_ms)


def _lost_acks(world: World, _: random.Random) -> None:
    """End 0 hears nearly nothing, so it must ask and repeat; end 1 hears all."""
    world.harm(0, drop=0.02)
    world.run(10.0)
    world.harm(0, drop=0.0)


def _resets_while_joining(world: World, _: random.Random) -> None:
    """A device that starts anew after each of the first turns of joining."""
    for turns in range(25):
        world.boot(0)
        for _ in range(turns):
            world.turn(20_000)


def _resets_inside_messages(world: World, rng: random.Random) -> None:
    for _ in range(12):
        world.run(rng.uniform(0.05, 2.0))
        world.boot(rng.randrange(2))


def _other_version(world: World, rng: random.Random) -> None:
    for nibble in (0, 2, 15):
        packet = bytes([nibble << 4 | 1]) + rng.randbytes(27)
        for side in (0, 1):
            before = world.end(side).counters["other_version"]
            world.end(side).feed(b"\0" + encode_frame(packet), world.now_ms)
            assert world.end(side).counters["other_version"] == before + 1


def _wrong_baud(world: World, _: random.Random) -> None:
    world.faults(burst=0.5, burst_bytes=50)
    world.run(6.0)
    world.faults(burst=0.0)


SLOW = Faults(baud=115200, delay_ms=2)
CASES = {
    "nothing": Case(SLOW),
    "bit flips": Case(Faults(baud=921600, ber=1e-4)),
    "bursts": Case(Faults(baud=921600, burst=1e-4, burst_bytes=40)),
    "drops": Case(Faults(baud=921600, drop=5e-4)),
    "inserts": Case(Faults(baud=921600, insert=5e-4)),
    "duplicates": Case(Faults(baud=921600, duplicate=1e-3)),
    "truncation": Case(Faults(baud=921600, truncate=3e-4)),
    "garbage prefix": Case(Faults(baud=115200, garbage=5000)),
    "a cut inside a COBS code": Case(SLOW, _cut_code),
    "0x00 flood": Case(SLOW, _zeros),
    "lost acks": Case(Faults(baud=921600), _lost_acks),
    "silence to the device": Case(SLOW, _deaf(0), loses=True),
    "silence to the host": Case(SLOW, _deaf(1), loses=True),
    "half-open: a stopped process": Case(SLOW, _stopped, loses=True),
    "host crash": Case(SLOW, _crash(1), loses=True),
    "device crash": Case(SLOW, _crash(0), loses=True),
    "device reset at each step of joining": Case(SLOW, _resets_while_joining),
    "resets inside messages": Case(SLOW, _resets_inside_messages, loses=True),
    "another version": Case(SLOW, _other_version),
    "packet numbers wrap": Case(Faults(baud=921600, ber=1e-5), first_number=-3),
    "FIFO overrun": Case(Faults(baud=115200, fifo=700)),
    "wrong baud, garbage both ways": Case(SLOW, _wrong_baud, loses=True),
    "TCP: delay, jitter, stalls": Case(
        Faults(bandwidth=50_000, delay_ms=30, jitter_ms=20, loss=0.01)
    ),
    "all at once": Case(
        Faults(921600, 0, 0, 1e-5, 1e-5, 16, 1e-5, 1e-5, 1e-4, 1e-5, 100, 5, 5, 0.001)
    ),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_a_fault_harms_no_message_and_hangs_nothing(name: str, seed: int, kind: Kind) -> None:
    case, rng = CASES[name], random.Random(f"{name} {seed}")
    first = case.first_number % 2**kind.number_bits
    world = World(kind, (case.faults, case.faults), seed, first_number=first)
    talk = Talk(world, rng)
    world.join()
    world.run(rng.uniform(0.5, 3.0))
    world.told = [False, False]
    if case.act is not None:
        case.act(world, rng)
    if case.loses:
        assert any(world.told), "no loss was told"
    world.run(case.seconds)
    settle(world, talk)


def settle(world: World, talk: Talk) -> None:
    """Without faults, and after all that, messages go both ways at once."""
    world.faults(ber=0, burst=0, drop=0, insert=0, duplicate=0, truncate=0, loss=0, fifo=0)
    before = list(talk.count)
    world.until(lambda: all(n >= b + 3 for n, b in zip(talk.count, before, strict=True)), SETTLE_S)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("side", [0, 1])
def test_each_loss_is_told_in_time(side: int, kind: Kind) -> None:
    world = World(kind, (SLOW, SLOW)).join()
    world.run(5.0)
    world.ends[1 - side] = None
    world.events[side].clear()
    assert world.until(lambda: world.lost(side), LOSS_S + 0.1) <= LOSS_S


class Slow:
    """An end whose owner looks at its events `looks` times."""

    def __init__(self, end: PacketEnd | SealedEnd) -> None:
        self.end, self.looks = end, 0

    def events(self) -> list[tuple[int, bytes | None]]:
        self.looks -= 1
        return self.end.events() if self.looks >= 0 else []

    def __getattr__(self, name: str) -> object:
        return getattr(self.end, name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_credit_for_two_minutes_is_a_loss_with_its_own_reason(kind: Kind) -> None:
    """The peer lives and answers, but takes nothing for good: 120 s, as SPEC.md has it."""
    world = World(kind, (SLOW, SLOW), rx_space=4096).join()
    world.ends[1] = Slow(world.end(1))  # type: ignore[assignment]
    assert world.send(0, b"one" * 500)
    world.until(lambda: not world.end(0).busy)
    assert world.send(0, b"two" * 500)
    taken = world.until(lambda: world.lost(0), 125.0)
    assert 119.5 <= taken <= 121.0
    assert [event for event, _ in world.events[0] if event in LOST] == [FULL]
    assert world.end(0).counters["credit_stalls"] == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_stall_that_ends_in_time_does_not_count_for_the_next(kind: Kind) -> None:
    """Two stalls of 70 s, with a message taken between them, are no loss."""
    world = World(kind, (SLOW, SLOW), rx_space=4096).join()
    slow = Slow(world.end(1))
    world.ends[1] = slow  # type: ignore[assignment]
    for i in range(3):
        assert world.send(0, bytes([i]) * 500)
        if i:
            world.run(70.0)
            slow.looks = 1
        world.until(lambda: not world.end(0).busy)
    assert not world.lost(0) and world.end(0).counters["credit_stalls"] == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_credit_stuck_at_zero_is_asked_for_and_never_flooded(kind: Kind) -> None:
    """The receiver's owner takes nothing for 100 s: the sender waits, asks once a second or so, and
    goes on at once when there is room.
    """
    world = World(kind, (SLOW, SLOW), rx_space=4096).join()
    slow = Slow(world.end(1))
    world.ends[1] = slow  # type: ignore[assignment]
    assert world.send(0, b"one" * 500)
    world.until(lambda: not world.end(0).busy)
    assert world.send(0, b"two" * 500)
    world.run(2.0)
    before = world.wire[1]
    world.run(100.0)
    assert not world.lost(0) and world.end(0).busy
    assert world.wire[1] - before < 100 * 200  # bytes in 100 s
    slow.looks = 1 << 30
    assert world.until(lambda: world.messages(1) == [b"one" * 500, b"two" * 500]) < 3.0


def test_two_hosts_on_one_port_is_a_clear_error(tmp_path) -> None:
    plug = _plug(str(tmp_path / "port"))
    try:
        first = SerialLine(f"serial:{plug.path}", lambda: None, None)
        try:
            with pytest.raises(LinkError, match="in use by another program"):
                SerialLine(f"serial:{plug.path}", lambda: None, None)
        finally:
            first.close()
    finally:
        _unplug(plug)
