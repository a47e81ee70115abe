"""`seamline bench plan`: its document, what it holds plans against, what it emulates."""

from __future__ import annotations

import json
import math

import pytest
from seamline.edge_host.bench_exits import add_exits
from seamline.edge_host.measure import Setting, measure
from seamline.edge_host.models import load_model
from seamline.edge_host.partition import Scene, branch, cost
from seamline.edge_host.real_step import RealSteps, Stages
from seamline.runtime.faults import Faults
from seamline.runtime.profile import Link, Profile
from seamline.runtime.shaped_line import ShapedLine

from seamline import bench_deadline, bench_plan
from seamline.bench_deadline import DELAY_MS as DELAY
from seamline.bench_deadline import rates_of
from seamline.bench_plan import AVERAGED, DELAY_MS, seconds_of
from seamline.cli import main
from seamline.plan_link import Crossing, flat, send, slower

FIELDS = {"net", "bandwidth_bps", "seam", "exit", "codec", "chosen_ms", "best_ms", "predicted_ms"}


def profile_of(name: str) -> Profile:
    return measure(load_model(name, {}, 0), Setting(name, "d", "e", batch=2, repeat=1))


def test_the_document_has_the_fields_of_the_interface(capsys, monkeypatch) -> None:
    monkeypatch.setattr(bench_plan, "REALTIME_S", 0.0)
    monkeypatch.setattr(bench_plan, "SEARCHES", 1)
    monkeypatch.setattr(bench_deadline, "ASKED", 3)
    words = ["bench", "plan", "--net", "digits", "--bank", "4", "--repeat", "1"]
    assert main([*words, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {
        "machine",
        "command",
        "rows",
        "predictor",
        "neurosurgeon",
        "deadlines",
        "replan",
    } == set(document)
    rows = document["rows"]
    assert len(rows) == 2 * 2 * 8 and all(set(row) >= FIELDS for row in rows)
    assert all(row["best_ms"] <= row["chosen_ms"] for row in rows)
    assert all(row["ratio"] == pytest.approx(row["chosen_ms"] / row["best_ms"]) for row in rows)
    assert {row["layer"] for row in document["predictor"]} >= {"all"}
    assert 0 <= document["deadlines"][0]["hits"] <= 1
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "within 2 %" in said and "deadlines" in said


def test_an_unknown_network_is_refused(capsys) -> None:
    assert main(["bench", "plan", "--net", "none"]) == 2
    assert "there are watch" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["watch", "resnet8"])
def test_real_steps_send_what_the_plan_counts(name: str) -> None:
    profile = profile_of(name)
    for pass_ in ("training", "inference"):
        real = RealSteps(load_model(name, {}, 0), profile, pass_)
        assert {place.units for place in real.places if place.units} == {
            seam.units for seam in profile.seams
        }
        for place in real.places:
            stages = real.run(place)
            scene = Scene(profile, Link(1e6, 1e6), profile.codec(place.codec), pass_)
            counted = cost(scene, branch(profile), place.units)
            assert abs(stages.up - counted.bytes_up) <= 4
            assert abs(stages.down - counted.bytes_down) <= 8
            seam = next((s for s in profile.seams if s.units == place.units), None)
            if seam is not None and pass_ == "training":
                assert stages.shared == seam.weights_up


def test_nothing_is_waited_for_where_all_is_on_the_device() -> None:
    profile = profile_of("digits")
    real, waits = RealSteps(load_model("digits", {}, 0), profile, "training"), []
    whole = max(real.places, key=lambda place: place.units)
    real.run(whole, lambda size, down: waits.append((size, down)))
    assert waits == []
    real.run(real.places[0], lambda size, down: waits.append((size, down)))
    assert [down for _, down in waits] == [False, True]


def test_a_step_is_its_computing_and_what_its_bytes_take() -> None:
    rate = 1_000_000
    crossing = seconds_of(Stages(up=1000), rate)
    assert crossing == pytest.approx(8 * 1000 / rate + DELAY_MS / 1e3, rel=1e-3)
    assert seconds_of(Stages(0.05, 0.05, 0.2, 0.2, 0.1), rate, slow=10) == pytest.approx(4.2)
    shared = seconds_of(Stages(shared=5000), rate)
    assert shared == pytest.approx(2 * (8 * 5000 / rate + DELAY_MS / 1e3) / AVERAGED, rel=1e-3)


def test_the_line_waits_by_the_clock_as_long_as_by_its_own() -> None:
    way = Crossing(10_000_000, 1.0)
    assert way.seconds(0) == 0.0
    assert way.seconds(1250) == pytest.approx(0.002, rel=0.01)
    way.wait(256)
    way.wait(0)


def test_a_line_that_is_full_until_later_still_ends() -> None:
    line = ShapedLine(flat(50_000, 1.0), Faults())
    first = send(line, 4000, 10_000)
    assert send(line, 256, 20_000) > first  # begun while the first is under way


def test_a_long_message_shows_the_bandwidth_as_it_comes() -> None:
    line, come = ShapedLine(flat(80_000, DELAY), Faults()), []
    send(line, 4000, 0, pieces=come)
    assert sum(size for _, size in come) == 4000
    assert rates_of(come, 0, DELAY) == pytest.approx([80_000] * 3, rel=0.01)
    assert rates_of([(101_000, 1000)], 0, DELAY) == [80_000]  # a short one, too, has one


def test_a_slower_device_takes_longer_and_the_edge_host_does_not() -> None:
    profile = profile_of("digits")
    slowed = slower(profile, 100)
    for old, new in zip(profile.units, slowed.units, strict=True):
        assert old.device is not None and new.device is not None
        assert new.device.infer == pytest.approx(100 * old.device.infer)
        assert new.edge == old.edge
    assert slowed.codecs[1].device_pack == 100 * profile.codecs[1].device_pack


@pytest.mark.parametrize("name", ["watch", "digits", "resnet8", "dscnn"])
def test_every_bundled_network_gets_exits_that_can_be_run(name: str) -> None:
    profile = profile_of(name)
    branchy = add_exits(load_model(name, {}, 0), profile, Setting(name, "d", "e", 2, 1))
    assert branchy.profile.exits
    for found in branchy.profile.exits:
        own = branchy.profiles[found.name]
        for old, new in zip(profile.units[: found.behind + 1], own.units, strict=False):
            assert (old.kind, old.values, old.parameters) == (new.kind, new.values, new.parameters)
        assert math.isfinite(found.head.edge.infer) and found.head.device is not None
