"""A zone and the cloud with compressed models, message by message: both have the same bits whatever
is lost, late or begun anew."""

from __future__ import annotations

import json

import numpy as np
import pytest
from seamline.cloud.rounds import Close, Rounds, Send, State
from seamline.edge_host.uplink import Finish, Train, Uplink
from seamline.edge_host.zone_differences import ZoneDifferences
from seamline.runtime import message as wire
from seamline.runtime.config import (
    CodecSection,
    DeviceSection,
    Job,
    RoundSection,
    TrainSection,
    ZoneSection,
)
from seamline.runtime.differences import name_of
from seamline.runtime.errors import UserError
from seamline.runtime.message import Kind, Message

SHAPES = {"conv.weight": (6, 4, 5), "conv.bias": (6,), "dense.weight": (20, 12)}
Tensors = dict[str, np.ndarray]


def learned(zone: str, round_: int) -> Tensors:
    rng = np.random.default_rng([ord(zone), round_])
    return {n: rng.normal(0, 0.1, shape).astype(np.float32) for n, shape in SHAPES.items()}


class Pair:
    """A cloud and its zones; each step is one message there or back."""

    def __init__(self, codec: CodecSection, rounds: int = 6, zones: str = "AB") -> None:
        self.job = Job(
            zones=[ZoneSection(zone, "") for zone in zones],
            devices=[DeviceSection(f"d{zone}", zone) for zone in zones],
            train=TrainSection(cloud_rounds=rounds),
            round=RoundSection(quorum=0.5, deadline_s=10.0),
            codec=codec,
        )
        self.cloud = Rounds(self.job, State(), 0.0)
        self.zones: dict[str, Uplink] = {}
        self.ends: dict[str, ZoneDifferences] = {}
        self.bodies: dict[str, list[int]] = {zone: [] for zone in zones}
        self.orders: dict[str, Train | Finish] = {}
        self.down: list[tuple[str, bytes]] = []
        for zone in zones:
            self.begin(zone)

    def begin(self, zone: str, kept: dict | None = None) -> None:
        self.ends[zone] = ZoneDifferences(self.job.codec)
        if kept is not None:
            self.ends[zone].restore(kept)
        self.zones[zone] = Uplink(zone, self.job.name, 0.0, differences=self.ends[zone])

    def hello(self, zone: str) -> None:
        self.zones[zone].lost(0.0)
        self.zones[zone].tick(0.0)
        self.up(zone)

    def up(self, zone: str, now: float = 0.0) -> None:
        """All that a zone has said, to the cloud; what it answers waits in `down`."""
        for data in self.zones[zone].outbox:
            message = Message.decode(data)
            meta, arrays = wire.read_zone(message.body)
            self.carry(self.cloud.receive(zone, message.kind, meta, arrays, now))
        self.zones[zone].outbox.clear()

    def carry(self, effects) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                body = wire.zone_body(effect.meta, effect.arrays, effect.parcels)
                data = Message(effect.kind, round=effect.round, body=body).encode()
                self.down.append((effect.zone, data))
            assert not hasattr(effect, "text"), effect

    def deliver(self) -> None:
        """All that the cloud has said, and what zones say to that at once."""
        while self.down:
            zone, data = self.down.pop(0)
            self.bodies[zone].append(len(Message.decode(data).body))
            order = self.zones[zone].receive(data)
            if order is not None:
                self.orders[zone] = order
            self.up(zone)

    def train(self, zone: str, now: float = 0.0) -> None:
        order = self.orders.pop(zone)
        what = learned(zone, order.round)
        difference = what if order.state is None else {n: 0.1 * d for n, d in what.items()}
        self.zones[zone].update(order.round, 10, {}, difference)
        self.zones[zone].send_update(0.0)
        self.up(zone, now)

    def same(self) -> bool:
        mine = self.cloud._estimate
        return all(end.name == mine.name == name_of(end.model) for end in self.ends.values())


def started(codec: str = "int8", **more) -> Pair:
    pair = Pair(CodecSection(cloud=codec, **more))
    for zone in pair.zones:
        pair.hello(zone)
    pair.deliver()
    return pair


def round_of(pair: Pair) -> None:
    for zone in list(pair.orders):
        pair.train(zone)
    pair.deliver()


@pytest.mark.parametrize("codec", ["int8", "int4", "auto"])
def test_a_whole_job_ends_everywhere_with_the_same_model(codec: str) -> None:
    pair = started(codec)
    for _ in range(6):
        round_of(pair)
    assert pair.cloud.done and pair.same()
    assert all(isinstance(order, Finish) for order in pair.orders.values())
    for order in pair.orders.values():
        assert name_of(order.state) == name_of(pair.cloud.state.model)


def test_only_the_first_model_travels_whole() -> None:
    pair = started("int8")
    for _ in range(6):
        round_of(pair)
    values = sum(int(np.prod(shape)) for shape in SHAPES.values())
    for sizes in pair.bodies.values():
        models = [size for size in sizes if size > values]
        assert models[0] > 4 * values and len(models) == 6
        assert all(size < 2 * values for size in models[1:])


def test_a_zone_that_has_missed_a_round_gets_the_model_whole() -> None:
    pair = started()
    round_of(pair)
    pair.carry(pair.cloud.lost("B", "gone", 0.0))
    pair.train("A")
    pair.carry(pair.cloud.tick(100.0))
    pair.deliver()
    pair.train("A", 100.0)
    pair.carry(pair.cloud.tick(200.0))
    pair.deliver()
    before = pair.ends["B"].name
    pair.hello("B")
    pair.deliver()
    assert pair.same() and pair.ends["B"].name != before
    assert pair.bodies["B"][-1] > 4 * 300


def test_a_difference_to_a_model_that_was_lost_is_asked_for_whole() -> None:
    pair = started()
    round_of(pair)
    pair.train("A")
    pair.train("B")
    pair.down = [(zone, data) for zone, data in pair.down if zone != "B"]  # lost on the way
    pair.deliver()
    pair.train("A")
    pair.carry(pair.cloud.tick(100.0))
    pair.deliver()  # B hears of a difference to what it has not, says so, and is sent all
    assert pair.same() and pair.orders["B"].round == 3


def test_a_model_that_is_here_already_is_not_sent_again() -> None:
    pair = started()
    round_of(pair)
    pair.orders.clear()
    pair.zones["A"].training = None
    pair.hello("A")
    pair.deliver()
    assert pair.orders["A"].round == 1 and pair.bodies["A"][-1] < 300 and pair.same()


def test_zone_and_cloud_go_on_with_the_same_bits_after_a_restart() -> None:
    whole, broken = started("auto"), started("auto")
    for number in range(6):
        round_of(whole)
        kept = {zone: end.arrays() for zone, end in broken.ends.items()}
        state = broken.cloud.state
        if number % 2:
            fresh = State(state.round, state.model, {}, {}, state.sent, state.codecs)
            broken.cloud = Rounds(broken.job, fresh, 0.0)
        broken.orders.clear()
        for zone in "AB":
            broken.begin(zone, kept[zone])
            broken.hello(zone)
        broken.deliver()
        round_of(broken)
    assert broken.same() and whole.cloud._estimate.name == broken.cloud._estimate.name
    for zone in "AB":
        mine, theirs = (p.ends[zone].sender.unsent for p in (whole, broken))
        assert name_of(mine) == name_of(theirs)


def test_a_zone_of_another_life_of_the_cloud_gets_the_model_whole() -> None:
    old, new = started(), Pair(CodecSection(cloud="int8"), zones="AB")
    round_of(old)
    new.hello("B")
    new.deliver()
    new.train("B")
    new.carry(new.cloud.tick(100.0))
    new.deliver()
    new.begin("A", old.ends["A"].arrays())
    new.hello("A")
    new.deliver()
    assert new.same()


def message(meta: dict, arrays: Tensors | None = None) -> bytes:
    body = wire.zone_body({"round": 1, **meta}, arrays or {})
    return Message(Kind.ZONE_ROUND, round=1, body=body).encode()


WRONG = {
    "begins elsewhere": {"from": "f" * 32, "to": "e" * 32},
    "ends elsewhere": {"to": "e" * 32},
    "no name": {"to": 7},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_difference_that_does_not_fit_is_answered_with_hello_for_the_whole(case: str) -> None:
    pair = started()
    round_of(pair)
    zone, end = pair.zones["A"], pair.ends["A"]
    zone.training = None
    data = message({"from": end.name, **WRONG[case]}, learned("A", 3))
    assert zone.receive(data) is None
    (said,) = [Message.decode(d) for d in zone.outbox]
    assert said.kind == Kind.ZONE_HELLO and end.model == {}
    assert wire.read_zone(said.body)[0]["has"] == ""
    pair.up("A")
    pair.deliver()
    assert pair.same()


def test_a_whole_model_that_is_not_what_the_cloud_says_is_refused() -> None:
    pair = started()
    with pytest.raises(UserError, match="expected the model"):
        pair.zones["A"].receive(message({"to": "e" * 32}, learned("A", 3)))


def test_without_a_codec_nothing_on_the_wire_is_new() -> None:
    cloud = Rounds(Pair(CodecSection(), 2, "A").job, State(), 0.0)
    zone = Uplink("A", "job", 0.0)
    zone.tick(0.0)
    meta, _ = wire.read_zone(Message.decode(zone.outbox.pop()).body)
    assert set(meta) == {"zone", "job", "tensors", "shapes"}
    cloud.receive("A", Kind.ZONE_HELLO, meta, {}, 0.0)
    update = {"round": 0, "samples": 1, "metrics": {}}
    effects = cloud.receive("A", Kind.ZONE_UPDATE, update, learned("A", 0), 0.0)
    (order,) = [e for e in effects if isinstance(e, Send) and e.kind == Kind.ZONE_ROUND]
    assert order.meta == {"round": 1} and order.parcels is None
    (close,) = [e for e in effects if isinstance(e, Close)]
    assert close.sent == {} and close.codecs == {}


def test_what_a_zone_keeps_is_plain_arrays() -> None:
    pair = started("auto")
    for _ in range(3):
        round_of(pair)
    kept = pair.ends["A"].arrays()
    assert set(json.loads(kept["codecs"].tobytes())) == set(SHAPES)
    again = ZoneDifferences(pair.job.codec)
    again.restore(kept)
    assert again.name == pair.ends["A"].name
    with pytest.raises(KeyError):
        again.restore({})


def test_numbers_that_cannot_be_sent_end_training_with_a_word() -> None:
    pair = started()
    round_of(pair)
    worse = {n: np.full(shape, np.inf, np.float32) for n, shape in SHAPES.items()}
    with pytest.raises(UserError, match="training diverged"):
        pair.zones["A"].update(1, 10, {}, worse)
