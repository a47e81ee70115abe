"""A zone in one process: what benchmarks train with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from seamline.edge_host.local_zone import LocalZone
from seamline.runtime.data import Data


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
