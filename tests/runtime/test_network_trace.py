"""Traces: what a file may say, what it must not, the names, and a schedule that is exact."""

import random
from itertools import pairwise

import pytest
from seamline.runtime.faults import GRAIN, Faults
from seamline.runtime.network_trace import (
    NAMES,
    Schedule,
    Step,
    TraceError,
    make_trace,
    named_trace,
    parse_trace,
    read_trace,
    read_traces,
)
from seamline.runtime.shaped_line import ShapedLine

from seamline.cli import main

HEAD = "seconds,up_bits_per_s,down_bits_per_s,delay_ms,loss\n"
TWO = make_trace("two", [Step(0, 8_000, 80_000), Step(2_000_000, 800, 16_000, 30.0)])


def test_a_file_is_read_with_columns_in_any_order_and_comments() -> None:
    text = "# measured\nup_bits_per_s, seconds, down_bits_per_s\n1000,0,2000\n\n500.4,1.5,9\n"
    assert parse_trace(text, "t.csv") == make_trace(
        "t.csv", [Step(0, 1000, 2000), Step(1_500_000, 500, 9)]
    )


def test_the_last_step_lasts_as_long_as_the_one_before_it() -> None:
    assert TWO.length_us == 4_000_000
    assert make_trace("one", [Step(0, 1, 1)]).length_us == 1_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.csv is empty"),
        (HEAD, "t.csv has no line below seconds,up"),
        ("seconds,up,down_bits_per_s\n", "line 1: unknown column 'up'; there are seconds"),
        ("seconds,up_bits_per_s\n", "line 1: column down_bits_per_s is missing"),
        ("seconds,seconds\n", "line 1: column seconds is there twice"),
        (HEAD + "0,1,1,0,0\n1,x,1,0,0\n", "line 3: up_bits_per_s 'x' is not a number"),
        (HEAD + "0,1,nan,0,0\n", "line 2: down_bits_per_s 'nan' is not a number"),
        (HEAD + "0,1,1,-2,0\n", "line 2: delay_ms -2 is negative"),
        (HEAD + "0,1,1,0,0\n\n# a note\n9,0,1,0,0\n", "line 5: up_bits_per_s 0 carries nothing"),
        (HEAD + "0,1,0.2,0,0\n", "line 2: down_bits_per_s 0.2 carries nothing"),
        (HEAD + "0,1,1,0,0\n5,1,1,0,0\n5,1,1,0,0\n", "line 4: 5 seconds is not after 5 of"),
        (HEAD + "0,1,1,0,0\n5,1,1,0,0\n2,1,1,0,0\n", "line 4: 2 seconds is not after 5 of"),
        (HEAD + "3,1,1,0,0\n", "line 2: the first line must be at 0 seconds"),
        (HEAD + "0,1,1,0,1\n", r"line 2: loss 1 is too much; at most 0\.9"),
        (HEAD + "0,1e11,1,0,0\n", r"line 2: up_bits_per_s 1e11 is too much"),
        (HEAD + "0,1,1,0\n", "line 2: expected 5 values, found 4"),
        (HEAD + "0,1,1,0,0,0\n", "line 2: expected 5 values, found 6"),
    ],
)
def test_a_line_that_cannot_be_is_named(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said) as caught:
        parse_trace(text, "t.csv")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_a_network_that_is_no_name_and_no_file_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(TraceError, match="there is no network '5g': name one of good, 3g"):
        read_trace("5g")
    (tmp_path / "t.csv").write_bytes(b"seconds\xff")
    with pytest.raises(TraceError, match="byte 7 is not UTF-8"):
        read_trace(str(tmp_path / "t.csv"))
    with pytest.raises(TraceError, match="cannot be read: Is a directory"):
        read_trace(str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_the_same_trace_every_time(name: str) -> None:
    trace = named_trace(name)
    assert trace == named_trace(name) == read_trace(name)
    assert trace.slowest > 0 and trace.longest_delay_ms < 1000
    drawn = trace != named_trace(name, seed=1)
    assert drawn == (name in ("3g", "lora-ish"))


def test_a_schedule_is_exact_over_a_million_laps() -> None:
    """capacity and moment are each other's inverse, lap after lap."""
    draw, schedule = random.Random(7), Schedule(TWO, "up")
    lap = 8_000 * 2_000_000 + 800 * 2_000_000
    assert schedule.capacity(10**6 * TWO.length_us) == 10**6 * lap
    for _ in range(2000):
        at = draw.randrange(10**6 * TWO.length_us)
        assert schedule.moment(schedule.capacity(at)) == at
        units = draw.randrange(10**6 * lap)
        first = schedule.moment(units)
        assert schedule.capacity(first) >= units
        assert first == 0 or schedule.capacity(first - 1) < units


# ---- a line that follows it, in virtual time ----


def full(line: ShapedLine, until_us: int, every_us: int = 10_000) -> list[tuple[int, int]]:
    """(time, bytes that had arrived) of a line that always gets what it has room for."""
    seen, arrived = [], 0
    for now in range(0, until_us + 1, every_us):
        arrived += len(line.pop(now))
        seen.append((now, arrived))
        if room := line.room(now):
            line.push(bytes(room), now)
    return seen


@pytest.mark.parametrize(("to", "way"), [("b", "up"), ("a", "down")])
def test_exactly_the_bytes_of_the_trace_have_come_by_each_moment(to: str, way: str) -> None:
    """Whole grains that the schedule has room for; ten laps, so that a drift would show."""
    trace = make_trace("t", [Step(0, 80_000, 200_000), Step(2_000_000, 8_000, 31_000)])
    schedule = Schedule(trace, way)
    for now, arrived in full(ShapedLine(trace, Faults(), to=to), 40_000_000):
        could = schedule.capacity(now) // schedule.UNITS_PER_BYTE
        assert arrived == could // GRAIN * GRAIN, now


def test_how_the_bytes_were_handed_over_changes_nothing() -> None:
    """All at once, or in pieces of a grain while the line is busy: the same moments."""
    data, found = bytes(range(256)) * 16, []
    for size in (len(data), GRAIN):
        line = ShapedLine(TWO, Faults())
        for at in range(0, len(data), size):
            line.push(data[at : at + size], 1000)
        found.append(line.arrivals(10**9))
    assert found[0] == found[1]
    assert b"".join(piece for _, piece in found[0]) == data


def test_the_delay_is_that_of_the_moment_a_byte_leaves_and_nothing_overtakes() -> None:
    trace = make_trace("t", [Step(0, 8_000_000, 1, 100.0), Step(1_000_000, 8_000_000, 1, 5.0)])
    line = ShapedLine(trace, Faults())
    line.push(b"a", 999_990)
    line.push(b"b", 1_000_000)
    line.push(b"c", 1_500_000)
    assert line.arrivals(10**9) == [(1_099_991, b"a"), (1_099_991, b"b"), (1_505_001, b"c")]


def test_loss_is_a_stall_and_no_byte_is_missing() -> None:
    """About a tenth of 1000 segments, only in the step that has loss; the same by
    the seed.
    """
    trace = make_trace(
        "t", [Step(0, 11_680_000, 1), Step(1_000_000, 11_680_000, 1, 10.0, loss=0.1)]
    )
    found = []
    for seed in (1, 1, 2):
        line = ShapedLine(trace, Faults(), seed)
        line.push(bytes(1000 * 1460), 0)
        assert line.counters.stalls == 0
        line.push(bytes(range(250)) * 5840, 1_000_000)
        assert 60 < line.counters.stalls < 140
        got = line.arrivals(10**9)
        assert b"".join(piece for _, piece in got)[1_460_000:] == bytes(range(250)) * 5840
        late = [at - before for (before, _), (at, _) in pairwise(got)]
        assert max(late) > 190_000  # stalls that meet are one
        found.append(got)
    assert found[0] == found[1] != found[2]


def test_faults_beside_a_trace_strike_but_must_not_pace() -> None:
    line = ShapedLine(TWO, Faults(drop=0.5), seed=3)
    line.push(bytes(2000), 0)
    assert 800 < line.counters.dropped < 1200
    for wrong in (Faults(bandwidth=5), Faults(delay_ms=1), Faults(loss=0.1)):
        with pytest.raises(ValueError, match="a trace gives rate, delay and loss"):
            ShapedLine(TWO, wrong)


def test_what_left_in_each_step_and_how_long_bytes_were_under_way_is_counted() -> None:
    line = ShapedLine(make_trace("t", [Step(0, 8_000, 1), Step(2_000_000, 4_000, 1)]), Faults())
    full(line, 3_000_000)
    assert line.left == [7 * GRAIN, 4 * GRAIN]  # 2000 and 500 bytes, and what waits
    line = ShapedLine(make_trace("t", [Step(0, 8_000, 8_000, 10.0)]), Faults())
    line.push(bytes(100), 0)
    assert line.busy_until(50_000) == 50_000
    line.pop(110_000)
    assert line.busy_until(900_000) == line.busy_us == 110_000


# ---- the proxy's command line ----

LINE = ["link-proxy", "--line", "listen://127.0.0.1:0", "unix:/no/where"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trace", "5g"], "there is no network '5g'"),
        (["--trace", "good"] * 2, "--trace is there 2 times: give it once for all lines"),
        (["--trace", "good", "--bandwidth", "9"], "a trace gives rate, delay and loss: leave out"),
    ],
)
def test_a_proxy_that_cannot_follow_says_so_in_one_line(more, said, capsys) -> None:
    assert main([*LINE, *more]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_traces_are_for_all_lines_or_one_each_and_none_is_none() -> None:
    assert read_traces([], 2) == [None, None]
    assert read_traces(["none", "step"], 2) == [None, named_trace("step")]
    first, second = read_traces(["3g"], 2, seed=5)
    assert (first, second) == (named_trace("3g", 5), named_trace("3g", 6))
