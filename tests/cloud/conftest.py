"""A small job for the tests of the cloud."""

from __future__ import annotations

from pathlib import Path

import pytest
from seamline.runtime.config import (
    CloudSection,
    DeviceSection,
    Job,
    RoundSection,
    TrainSection,
    ZoneSection,
)


@pytest.fixture
def make_job(tmp_path: Path):
    """A job of `zones`, with deadline 30 s, join wait 20 s and a quorum of a half unless said
    otherwise."""

    def make(
        zones: str = "ABC", rounds: int = 3, name: str = "job", seed: int = 0, **round_
    ) -> Job:
        return Job(
            zones=[ZoneSection(zone, "tcp://127.0.0.1:*") for zone in zones],
            devices=[DeviceSection(f"d{zone}", zone) for zone in zones],
            name=name,
            seed=seed,
            out=str(tmp_path / "out"),
            train=TrainSection(cloud_rounds=rounds),
            round=RoundSection(**{"deadline_s": 30.0, "join_wait_s": 20.0, **round_}),
            cloud=CloudSection("tcp://127.0.0.1:*"),
        )

    return make
