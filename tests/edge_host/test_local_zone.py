"""A zone in one process: what benchmarks train with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from seamline.edge_host.local_zone import LocalZone
from seamline.runtime.data import Data


@pytest.mark.parametrize("arithmetic", ["f32", "q8"])
def test_the_ledger_has_every_byte_that_was_counted(
    world: Callable[..., Any], arithmetic: str
) -> None:
    linked = world(arithmetic=arithmetic, cloud_rounds=2)
    linked.run()
    data = {name: Data(*arrays, classes=3) for name, arrays in linked.data.items()}
    local = LocalZone(linked.job, "A", data)
    local.train()
    traffic, ledger = local.fleet.traffic.values(), local.fleet.ledger
    assert sum(ledger.total["up"].values()) == sum(one.up for one in traffic)
    assert sum(ledger.total["down"].values()) == sum(one.down for one in traffic)
    assert set(ledger.total["up"]) == {"activations", "fronts", "messages"}
    assert set(ledger.total["down"]) == {"gradients", "fronts", "plans", "messages"}
    assert all(count > 0 for way in ledger.total.values() for count in way.values())


@pytest.mark.parametrize("arithmetic", ["f32", "q8"])
def test_it_trains_as_a_zone_with_links(world: Callable[..., Any], arithmetic: str) -> None:
    """But for the last bits, where the cloud adds differences to its model."""
    linked = world(arithmetic=arithmetic, evaluate_every=0, cloud_rounds=3)
    linked.run()
    data = {name: Data(*arrays, classes=3) for name, arrays in linked.data.items()}
    local = LocalZone(linked.job, "A", data)
    accuracy = local.train()
    found = linked.named("evaluated")[-1]["devices"].values()
    assert accuracy == sum(d["correct"] for d in found) / sum(d["total"] for d in found)
    for device in linked.devices:
        ours, theirs = local.devices[device].session, linked.devices[device].session
        for name, array in ours.kept().items():
            np.testing.assert_allclose(array, theirs.kept()[name], rtol=1e-4, atol=1e-6)
