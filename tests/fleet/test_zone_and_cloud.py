"""The cloud's rounds against the edge host's uplink in virtual time, over a line that loses
messages and with restarts: both ends keep the same protocol."""

import random

import numpy as np
import pytest
from seamline.cloud.aggregate import Update, aggregate, model_hash
from seamline.cloud.server import Cloud
from seamline.edge_host.uplink import Finish, Train, Uplink, report_body
from seamline.runtime.config import Job, RoundSection, TrainSection, ZoneSection

ROUNDS = 4


def learned(zone, round_):
    return {"w": np.random.default_rng([ord(zone), round_]).normal(size=5).astype(np.float32)}


class Zone:
    """A zone around an uplink: trains at once, keeps its update as a disk would."""

    def __init__(self, name, now):
        self.name, self.kept, self.trained, self.final = name, None, [], None
        self.uplink = Uplink(name, "job", now)

    def restart(self, now):
        self.uplink = Uplink(self.name, "job", now, self.kept)

    def receive(self, data, now):
        order = self.uplink.receive(data)
        if isinstance(order, Train):
            self.trained.append(order.round)
            body = self.uplink.update(order.round, 5, {}, learned(self.name, order.round))
            self.kept = (order.round, body)
            self.uplink.send_update(now)
        elif isinstance(order, Finish):
            self.final = model_hash(order.state)
            self.uplink.report(order.rounds, report_body(order.rounds, {}))


@pytest.mark.parametrize("seed", range(12))
def test_losses_and_restarts_of_both_ends_leave_the_bits_alone(tmp_path, seed):
    dice = random.Random(seed)
    job = Job(
        zones=[ZoneSection("A", ""), ZoneSection("B", "")],
        devices=[],
        out=str(tmp_path),
        train=TrainSection(cloud_rounds=ROUNDS),
        round=RoundSection(quorum=1.0),
    )
    now = 0.0
    zones = {name: Zone(name, now) for name in "AB"}
    cloud = Cloud(job, lambda event: None, now)
    try:
        while not all(
            zone.final and name in cloud.rounds.state.reports for name, zone in zones.items()
        ):
            now += 1.0
            assert now < 2000, "stuck"
            if dice.random() < 0.05:
                cloud.close()
                cloud = Cloud(job, lambda event: None, now)
                for zone in zones.values():
                    zone.uplink.lost(now)
            for name, zone in zones.items():
                if dice.random() < 0.05:
                    cloud.lost(f"host-{name}", "restart", now)
                    zone.restart(now)
                exchange(cloud, zone, dice, now)
    finally:
        cloud.close()
    model = {}
    for round_ in range(ROUNDS):
        model = aggregate(model, {name: Update(5, learned(name, round_)) for name in zones})
    assert {zone.final for zone in zones.values()} == {model_hash(model)}
    for zone in zones.values():
        assert zone.trained == list(range(ROUNDS)), "a round was trained twice"


def exchange(cloud, zone, dice, now):
    """What zone and cloud have to say to each other; when the line breaks, all on it is lost and
    both hear of it."""
    zone.uplink.tick(now)
    for data in zone.uplink.outbox:
        cloud.receive(f"host-{zone.name}", data, now)
    zone.uplink.outbox.clear()
    mine = [data for to, data in cloud.outbox if to == f"host-{zone.name}"]
    cloud.outbox = [(to, data) for to, data in cloud.outbox if to != f"host-{zone.name}"]
    for data in mine:
        if dice.random() < 0.1:
            cloud.lost(f"host-{zone.name}", "broken", now)
            zone.uplink.lost(now)
            zone.uplink.outbox.clear()
            return
        zone.receive(data, now)
