"""`seamline bench link`: what its rows hold, and that the bars are met."""

from __future__ import annotations

import json

import pytest

from seamline.cli import main

FIELDS = {"link", "baud", "ber", "sealed", "utilisation", "latency_ms", "recovery_s"}
BARS = {0.0: 0.95, 1e-6: 0.94, 1e-5: 0.85, 1e-4: 0.67}  # sealed; docs/bench.md says why not 0.7


def test_a_sealed_line_is_used_as_far_as_its_errors_let_it(capsys: pytest.CaptureFixture[str]):
    arguments = ["bench", "link", "--ends", "sealed", "--baud", "115200", "921600"]
    assert main([*arguments, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["rows"]) == 8
    for row in document["rows"]:
        assert set(row) >= FIELDS and row["sealed"]
        assert row["utilisation"] >= BARS[row["ber"]]
        assert 0 < row["recovery_s"] <= row["recovery_worst_s"] < 2.0
    assert document["costs"][0]["frame_us"] > 0


def test_the_same_seed_gives_the_same_table(capsys: pytest.CaptureFixture[str]):
    arguments = ["bench", "link", "--ends", "clear", "--baud", "921600", "--ber", "1e-4"]
    tables = []
    for seed in ("1", "1", "2"):
        assert main([*arguments, "--seed", seed]) == 0
        tables.append(capsys.readouterr().out.splitlines()[3])
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--baud", "9", "300 to 20000000"), ("--ber", "half", "0 to 0.001"), ("--ber", "1", "0.001")],
)
def test_a_bad_option_is_one_line(option, value, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "link", option, value])
    assert ended.value.code == 2 and words in capsys.readouterr().err
