"""`seamline bench fleet`: what its rows hold, and that every device was served and missed."""

from __future__ import annotations

import json

import pytest

from seamline.cli import main

FIELDS = {
    "devices",
    "joined_s",
    "messages_per_s",
    "bytes_per_s",
    "least",
    "median",
    "most",
    "jain",
    "p50_ms",
    "p99_ms",
    "cpu_us",
    "idle_cpu",
    "kb_per_device",
    "host_rss_mb",
}


def test_a_fleet_is_served_evenly_and_missed_when_it_is_killed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["bench", "fleet", "--devices", "40", "--reply", "300", "--seconds", "1"]
    assert main([*arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "command", "rows"}
    (row,) = document["rows"]
    assert set(row) >= FIELDS and row["devices"] == 40 and row["lost"] == 0
    assert 0 < row["least"] <= row["median"] <= row["most"]
    assert 0.5 < row["jain"] <= 1.0 and 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["killed_s"] is not None and row["stopped_s"] is not None


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--devices", "3", "at least 4"), ("--reply", "2000000", "at most 1048576")],
)
def test_a_bad_option_is_one_line(option, value, words, capsys):
    assert main(["bench", "fleet", option, value]) == 2
    assert words in capsys.readouterr().err
