"""A trained fleet is asked, by real processes on loopback: with its edge host, and alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("mode", ["local-loss", "split-v2"])
def test_a_device_asks_its_host_and_then_answers_alone(
    mode: str, job: Callable[..., Path], start: Callable[..., Any]
) -> None:
    path = job(mode=mode, edge_rounds=2, cloud_rounds=2)
    text = path.read_text().replace("exits = []", "exits = [2]")
    path.write_text(text.replace("[data]", "[data]\nvalidation = 20"))
    tiers = [start("cloud", str(path)), start("host", str(path), "--zone", "A")]
    tiers += [start("device", str(path), "--id", f"d0{i}") for i in range(2)]
    for tier in tiers:
        assert tier.process.wait(90) == 0, tier.said()
    host = start("infer", str(path), "--zone", "A")
    host.wait_for(lambda e: e["event"] == "listening")

    def ask() -> dict[str, Any]:
        client = start("infer", str(path), "--id", "d00", "--samples", "20", "--batch", "5")
        told: dict[str, Any] = client.wait_for(lambda e: e["event"] == "inferred")
        assert client.process.wait(20) == 0
        return told

    found = ask()
    assert found["samples"] == found["exits"]["all"]["samples"] > 0
    assert "alone" not in found["exits"] and found["bytes_up"] > 0
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(20) == 130
    by_host = sum(row["samples"] for n, row in found["exits"].items() if n.startswith("host"))
    told = [event for event in host.events if event["event"] == "answered"]
    assert sum(told[-1]["exits"].values()) == by_host
    alone = ask()["exits"]
    assert set(alone) <= {"all", "alone", "device"}
    assert alone["all"]["samples"] == found["samples"]
    if by_host:
        assert alone["alone"]["samples"] == by_host
