"""The bad line: repeatable whatever the pieces, paced to the byte, and each fault does what it
says.
"""

import random

import pytest
from seamline.runtime.faults import FaultLine, Faults, Silence

ALL = dict.fromkeys(("ber", "burst", "drop", "insert", "duplicate", "truncate", "loss"), 0.002)


def carried(faults: Faults, data: bytes, sizes: random.Random, seed: int = 5) -> bytes:
    line, at = FaultLine(faults, seed), 0
    while at < len(data):
        size = sizes.randrange(1, 3000)
        line.push(data[at : at + size], 0)
        at += size
    return line.pop(10**15)


@pytest.mark.parametrize("name", [*ALL, "all"])
def test_the_same_seed_harms_the_same_bytes_however_they_are_handed_over(name: str) -> None:
    faults = Faults(**(ALL if name == "all" else {name: ALL[name]}))
    data = random.Random(1).randbytes(50_000)
    first = carried(faults, data, random.Random(2))
    assert first == carried(faults, data, random.Random(3))
    assert (first == data) == (name == "loss")
    if name != "loss":
        assert first != carried(faults, data, random.Random(2), seed=6)


def test_a_paced_line_carries_its_rate_and_a_full_fifo_overruns() -> None:
    line = FaultLine(Faults(baud=921600))
    now = 0
    while now < 2_000_000:
        line.push(bytes(line.room(now)), now)
        line.pop(now)
        now += 5_000
    assert line.counters.bytes_out == pytest.approx(2 * 92160, rel=0.01)
    line = FaultLine(Faults(baud=115200, fifo=100))
    line.push(bytes(130), 0)
    assert (line.counters.overrun, len(line.pop(10**7))) == (30, 100)


def test_silence_delay_and_garbage() -> None:
    line = FaultLine(Faults(silence=(Silence(1, 2, "b"),), delay_ms=3, garbage=7))
    line.push(b"x", 0)
    assert line.pop(2_999) == b"" and line.due() == 3_000
    assert len(line.pop(3_000)) == 8
    line.push(b"lost", 1_500_000)
    line.push(b"there", 2_000_000)
    assert line.pop(10**7) == b"there"


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"ber": 1.0}, "ber 1.0"),
        ({"drop": -0.1}, "drop -0.1"),
        ({"fifo": 10}, "paced"),
        ({"baud": 9600, "bandwidth": 10}, "give one"),
        ({"silence": (Silence(3, 2),)}, "start before stop"),
    ],
)
def test_wrong_figures_are_refused(bad: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Faults(**bad)
