"""When exits answer: temperatures and thresholds on logits whose right answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from seamline.edge_host.calibrate_exits import (
    Calibration,
    apply_rules,
    calibrate_exits,
    entropies,
    fit_temperature,
    read_rules,
)
from seamline.runtime.data import Data, DataError, keep_apart
from seamline.runtime.errors import UserError

Array = NDArray[Any]


def drawn(seed: int, n: int, hardness: float) -> tuple[Array, Array]:
    """Logits whose softmax is the truth of the labels, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, hardness, (n, 4)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((n, 1)) > np.cumsum(shares, 1)).sum(1).clip(0, 3)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature: float) -> None:
    logits, labels = drawn(1, 20000, 2.0)
    assert fit_temperature(logits * np.float32(temperature), labels) == pytest.approx(
        temperature, rel=0.05
    )


def test_entropies() -> None:
    logits = np.array([[0, 0, 0, 0], [100, 0, 0, 0], [0, 0, -1e4, -1e4]], np.float32)
    np.testing.assert_allclose(entropies(logits), [math.log(4), 0, math.log(2)], atol=1e-6)
    np.testing.assert_allclose(entropies(logits, 1e6)[:2], math.log(4), atol=1e-3)


def answers(found: Calibration, exits: dict[str, Array], end: Array) -> Array:
    """What a chain with these rules says."""
    said = end.argmax(1)
    for rule in reversed(found.rules):
        sure = entropies(exits[rule.name], rule.temperature) <= rule.entropy
        said = np.where(sure, exits[rule.name].argmax(1), said)
    return said


@given(st.integers(0, 1000), st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.5]), st.booleans())
def test_no_more_right_answers_are_lost_than_allowed(
    seed: int, n: int, allowed: float, ties: bool
) -> None:
    end, labels = drawn(seed, n, 3.0)
    exits = {"a": drawn(seed + 1, n, 2.0)[0] + end / 2, "b": drawn(seed + 2, n, 1.0)[0] + end}
    if ties:
        exits = {name: np.round(logits) for name, logits in exits.items()}
    found = calibrate_exits(exits, end, labels, allowed)
    right = float((answers(found, exits, end) == labels).mean())
    assert right == pytest.approx(found.accuracy)
    assert found.end_accuracy == pytest.approx(float((end.argmax(1) == labels).mean()))
    assert found.accuracy >= found.end_accuracy - allowed - 1e-9
    again = apply_rules(found.rules, exits, end, labels)
    assert (again.accuracy, again.end_accuracy) == (found.accuracy, found.end_accuracy)
    assert again.shares == pytest.approx([rule.share for rule in found.rules])


def test_one_exit_takes_as_many_as_the_best_threshold_does() -> None:
    end, labels = drawn(5, 300, 4.0)
    exits = {"a": (drawn(6, 300, 2.0)[0] + end / 2).astype(np.float32)}
    found = calibrate_exits(exits, end, labels, 0.02)
    entropy = entropies(exits["a"], found.rules[0].temperature)
    best = 0.0
    for at in entropy:
        said = np.where(entropy <= at, exits["a"].argmax(1), end.argmax(1))
        if (said == labels).mean() >= found.end_accuracy - 0.02 - 1e-9:
            best = max(best, float((entropy <= at).mean()))
    assert found.rules[0].share == pytest.approx(best) and 0 < best < 1


def test_an_exit_that_is_always_right_takes_all_and_one_that_never_is_takes_none() -> None:
    end, labels = drawn(7, 50, 1.0)
    sure = np.eye(4, dtype=np.float32)[labels] * 5 + np.linspace(0, 1, 50, dtype="f4")[:, None]
    always = calibrate_exits({"a": sure}, end, labels, 0.0).rules[0]
    assert (always.share, always.accuracy) == (1.0, 1.0)
    good = np.eye(4, dtype=np.float32)[labels]
    never = calibrate_exits({"a": np.roll(good, 1, 1)}, good, labels, 0.0).rules[0]
    assert (never.share, never.entropy) == (0.0, -1.0)


def test_what_cannot_be_calibrated() -> None:
    end, labels = drawn(1, 5, 1.0)
    for exits, lasts, given_ in (
        ({"a": end[:0]}, end[:0], labels[:0]),
        ({"a": end * np.float32("nan")}, end, labels),
    ):
        with pytest.raises(UserError, match="cannot be calibrated"):
            calibrate_exits(exits, lasts, given_, 0.0)


def test_rules_are_read_as_they_were_written() -> None:
    end, labels = drawn(1, 50, 2.0)
    found = calibrate_exits({"a": end, "b": end}, end, labels, 0.1)
    document = json.loads(json.dumps(found.document()))
    assert read_rules(document, ["a", "b"]) == found.rules
    for damage in (
        lambda d: d["rules"].pop(),
        lambda d: d.pop("rules"),
        lambda d: d["rules"][0].update(temperature=0),
        lambda d: d["rules"][0].update(entropy="high"),
        lambda d: d["rules"][0].update(colour=1),
        lambda d: d.update(exits=2),
    ):
        other = json.loads(json.dumps(document))
        damage(other)
        with pytest.raises(UserError, match=r"exits\.json does not belong"):
            read_rules(other, ["a", "b"])


# ---- what is kept apart for it ----


def test_validation_samples_are_neither_trained_on_nor_tested_with() -> None:
    x = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)
    data = Data(x[:15], np.arange(15, dtype=np.int32), x[15:], np.arange(15, 20, dtype="i4"), 20)
    apart = keep_apart(data, 4, 7, "d0")
    assert len(apart.x_train) == 11 and len(apart.x_test) == 9
    assert np.array_equal(apart.x_test[:5], data.x_test)
    assert sorted([*apart.y_train, *apart.y_test[5:]]) == list(range(15))
    assert np.array_equal(apart.x_train[:, 0, 0, 0], apart.y_train)
    again, other = keep_apart(data, 4, 7, "d0"), keep_apart(data, 4, 7, "d1")
    assert np.array_equal(again.y_test, apart.y_test)
    assert not np.array_equal(other.y_test, apart.y_test)
    assert keep_apart(data, 0, 7, "d0") is data
    with pytest.raises(DataError, match="one at least must be left"):
        keep_apart(data, 15, 7, "d0")


@pytest.mark.parametrize(("mode", "seam"), [("split-v2", 1), ("split-v1", 2), ("local-loss", 2)])
def test_a_zone_calibrates_its_exits_at_the_end(
    world: Callable[..., Any], mode: str, seam: int
) -> None:
    here = world(
        mode, devices={"d0": 23, "d1": 17}, seam=seam, exits=(2,), cloud_rounds=12, validation=6,
        device_steps=3, exit_entropy=0.5 if mode == "local-loss" else 0.0,
    )  # fmt: skip
    here.run()
    document = json.loads((Path(here.job.out) / "zones" / "A" / "exits.json").read_text())
    assert here.cloud.report["metrics"]["exits"] == document
    (rule,) = document["rules"]
    assert rule["name"] == "at_2" and document["samples"] == 12
    assert document["accuracy"] >= document["end_accuracy"] - here.job.model.exit_loss
    assert document["tests"]["samples"] == 20 and 0 <= document["tests"]["shares"][0] <= 1
    found = here.named("evaluated")[-1]["devices"]
    assert {device["total"] for device in found.values()} == {10}
