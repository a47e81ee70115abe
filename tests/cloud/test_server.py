"""The cloud program over loopback, with keys: zones that speak the wire, come late, vanish, lie, or
come after the end."""

import socket
import threading
import time

import numpy as np
import pytest
from seamline.cloud import server
from seamline.cloud.aggregate import Update, aggregate, model_hash
from seamline.cloud.server import Cloud, run_cloud
from seamline.cloud.store import write_model
from seamline.runtime import message as wire
from seamline.runtime.config import CodecSection
from seamline.runtime.errors import UserError
from seamline.runtime.files import read_npz
from seamline.runtime.keys import load_keys, make_keys
from seamline.runtime.link import LinkLost, open_link
from seamline.runtime.message import Kind, Message

SAMPLES = {"A": 10, "B": 30}


def learned(zone, round_):
    return {"w": np.random.default_rng([ord(zone), round_]).normal(size=7).astype(np.float32)}


def wanted_hash(rounds, zones="AB"):
    model = {}
    for round_ in range(rounds):
        model = aggregate(model, {z: Update(SAMPLES[z], learned(z, round_)) for z in zones})
    return model_hash(model)


class Program:
    """run_cloud in a thread; its events and how it ended."""

    def __init__(self, job):
        self.events, self.news = [], threading.Condition()
        self.stop, self.result = threading.Event(), None
        self.thread = threading.Thread(target=self._run, args=(job,))
        self.thread.start()
        self.address = self.wait_for("listening")["address"]

    def _run(self, job):
        self.result = run_cloud(job, emit=self._emit, stop=self.stop)

    def _emit(self, event):
        with self.news:
            self.events.append(event)
            self.news.notify_all()

    def wait_for(self, name, **wanted):
        def found():
            return [e for e in self.events if e.items() >= {"event": name, **wanted}.items()]

        with self.news:
            assert self.news.wait_for(found, 10), f"no {name} {wanted} in {self.events}"
            return found()[0]

    def end(self):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


class Zone:
    """A zone that learns at once. Each step is one message to or from the cloud."""

    def __init__(self, job, address, name, key=None):
        key = f"host-{key or name}"
        self.name, self.job = name, job.name
        self.link = open_link(address, name=key, keys=load_keys(job.keys.folder, key))

    def say(self, kind, meta, arrays=None):
        body = wire.zone_body(meta, arrays or {})
        self.link.send(Message(kind, round=meta.get("round", 0), body=body).encode())

    def hello(self):
        self.say(Kind.ZONE_HELLO, {"zone": self.name, "job": self.job})

    def hear(self, kind):
        """The next message, which must be of that kind: (round, arrays)."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            data = self.link.receive(1.0)
            if data is not None:
                message = Message.decode(data)
                text = wire.read_error(message.body).text if message.kind == Kind.ERROR else ""
                assert message.kind == kind, text
                return message.round, text or wire.read_zone(message.body)[1]
        raise AssertionError(f"no {kind!r} in 10 s")

    def update(self, round_):
        meta = {"round": round_, "samples": SAMPLES[self.name], "metrics": {"loss": 0.5}}
        self.say(Kind.ZONE_UPDATE, meta, learned(self.name, round_))
        self.hear(Kind.ZONE_ACCEPTED)

    def report(self, round_):
        self.say(Kind.ZONE_REPORT, {"round": round_, "metrics": {"correct": 9}})


@pytest.fixture
def start():
    programs = []

    def starter(job):
        programs.append(Program(job))
        return programs[-1]

    yield starter
    for program in programs:
        program.end()


@pytest.fixture
def zone():
    zones = []

    def join(job, program, name, key=None):
        zones.append(Zone(job, program.address, name, key))
        zones[-1].hello()
        return zones[-1]

    yield join
    for each in zones:
        each.link.close()


@pytest.fixture
def job(make_job, tmp_path):
    job = make_job("AB", rounds=2, quorum=1.0)
    job.keys.folder = str(tmp_path / "keys")
    make_keys(job.keys.folder, ["cloud", "host-A", "host-B", "host-Q"])
    return job


def welcomed(*zones):
    for each in zones:
        each.hear(Kind.ZONE_WELCOME)
    return [each.hear(Kind.ZONE_ROUND) for each in zones]


def test_two_zones_train_to_the_end(job, start, zone, tmp_path):
    program = start(job)
    a, b = zone(job, program, "A"), zone(job, program, "B")
    assert welcomed(a, b) == [(0, {}), (0, {})]
    for round_ in range(2):
        b.update(round_)
        a.update(round_)
        kind = Kind.ZONE_ROUND if round_ == 0 else Kind.ZONE_DONE
        models = [each.hear(kind) for each in (a, b)]
        assert [number for number, _ in models] == [round_ + 1] * 2
        assert {model_hash(model) for _, model in models} == {wanted_hash(round_ + 1)}
    assert model_hash(read_npz(tmp_path / "out" / "model.npz")) == wanted_hash(2)
    a.report(2)
    b.report(2)
    assert program.wait_for("done")["hash"] == wanted_hash(2)
    program.thread.join(10)
    assert program.result == 0
    closed = program.wait_for("cloud_round", round=1)
    assert closed["zones"] == ["A", "B"] and closed["metrics"]["A"] == {"loss": 0.5}
    assert program.wait_for("zone_report", zone="B")["metrics"] == {"correct": 9}


def test_a_stopped_cloud_goes_on_from_where_it_was(job, start, zone):
    first = start(job)
    a, b = zone(job, first, "A"), zone(job, first, "B")
    welcomed(a, b)
    for each in (a, b):
        each.update(0)
    for each in (a, b):
        each.hear(Kind.ZONE_ROUND)
    a.update(1)  # accepted, so it must not be lost
    first.end()
    with pytest.raises(LinkLost):
        while True:
            a.link.receive(5.0)
    second = start(job)
    b = zone(job, second, "B")
    (round_, model), *_ = welcomed(b)
    assert round_ == 1 and model_hash(model) == wanted_hash(1)
    b.update(1)
    assert model_hash(b.hear(Kind.ZONE_DONE)[1]) == wanted_hash(2)


def test_a_vanished_zone_is_noticed(job, start, zone):
    program = start(job)
    a = zone(job, program, "A")
    welcomed(a)
    a.link.close()
    program.wait_for("zone_left", zone="A")
    a = zone(job, program, "A")
    welcomed(a)


def test_a_key_of_no_zone_and_a_false_name_get_a_clear_error(job, start, zone):
    program = start(job)
    stranger = zone(job, program, "Q")
    assert "no zone 'Q' in job 'job'; it has A, B" in stranger.hear(Kind.ERROR)[1]
    liar = zone(job, program, "B", key="A")
    assert "key of zone 'A' was used to join as zone 'B'" in liar.hear(Kind.ERROR)[1]
    assert not [e for e in program.events if e["event"] == "zone_joined"]


def test_started_after_the_end_it_answers_a_late_zone_and_ends(job, start, zone, monkeypatch):
    cloud = Cloud(job, lambda event: None, 0.0)
    for round_ in range(2):
        for name in "AB":
            meta = {"round": round_, "samples": SAMPLES[name], "metrics": {}}
            body = wire.zone_body(meta, learned(name, round_))
            cloud.receive(f"host-{name}", Message(Kind.ZONE_UPDATE, body=body).encode(), 0.0)
    for name in "AB":
        body = wire.zone_body({"round": 2, "metrics": {}}, {})
        cloud.receive(f"host-{name}", Message(Kind.ZONE_REPORT, body=body).encode(), 0.0)
    cloud.close()
    monkeypatch.setattr("seamline.cloud.rounds.LATE_S", 1.5)
    program = start(job)
    late = zone(job, program, "A")
    late.hear(Kind.ZONE_WELCOME)
    assert model_hash(late.hear(Kind.ZONE_DONE)[1]) == wanted_hash(2)
    assert program.wait_for("done")["hash"] == wanted_hash(2)
    program.thread.join(10)
    assert program.result == 0


@pytest.mark.parametrize(
    ("peer", "data", "text"),
    [
        ("host-A", b"not a message", ""),
        ("host-A", Message(Kind.ZONE_UPDATE, body=b"\xff\xff\xff\xff").encode(), "ZONE"),
        ("host-A", Message(Kind.ZONE_HELLO, body=wire.zone_body({}, {})[:-1]).encode(), "ZONE"),
        ("dA", Message(Kind.HELLO).encode(), "'dA' is no edge host"),
    ],
)
def test_bytes_that_make_no_sense_are_refused_and_change_nothing(job, peer, data, text):
    cloud = Cloud(job, lambda event: None, 0.0)
    try:
        cloud.receive(peer, data, 0.0)
        ((to, answer),) = cloud.outbox
        message = Message.decode(answer)
        assert to == peer and message.kind == Kind.ERROR
        assert text in wire.read_error(message.body).text
        sizes = {way: sum(rows.values()) for way, rows in cloud.ledger()["zones"].items()}
        assert sizes == {"up": len(data), "down": len(answer)}
        assert cloud.rounds.state.updates == {}
    finally:
        cloud.close()


@pytest.mark.parametrize("codec", ["f32", "int8"])
def test_the_ledger_has_every_byte_by_tensor_and_round(job, codec):
    job.codec = CodecSection(cloud=codec)
    events, up, down = [], 0, 0
    cloud = Cloud(job, events.append, 0.0)
    try:
        for round_ in range(job.train.cloud_rounds):
            for name in "AB":
                meta = {"round": round_, "samples": 1, "metrics": {}}
                body = wire.zone_body(meta, learned(name, round_))
                data = Message(Kind.ZONE_UPDATE, body=body).encode()
                up += len(data)
                cloud.receive(f"host-{name}", data, 0.0)
                down += sum(len(answer) for _, answer in cloud.outbox)
                cloud.outbox.clear()
        cloud.tell_bytes(job.train.cloud_rounds)
        total = cloud.ledger()["zones"]
        assert {way: sum(rows.values()) for way, rows in total.items()} == {"up": up, "down": down}
        told = [event["bytes"]["zones"] for event in events if event["event"] == "bytes"]
        assert len(told) == job.train.cloud_rounds + 1
        for way in ("up", "down"):
            assert set(total[way]) == {"w", "messages"}
            for what in total[way]:
                assert total[way][what] == sum(one[way].get(what, 0) for one in told)
        assert total["up"]["w"] == 2 * job.train.cloud_rounds * (20 + 7 * 4)
    finally:
        cloud.close()


def test_a_port_in_use_is_said_and_the_store_is_free_again(job):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        job.cloud.address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for _ in range(2):
            with pytest.raises(UserError) as caught:
                run_cloud(job, emit=lambda event: None)
            assert caught.value.exit_code == 4


def test_the_model_is_encoded_once_for_all_zones(job, monkeypatch):
    cloud = Cloud(job, lambda event: None, 0.0)
    try:
        for name in "AB":
            meta = {"zone": name, "job": job.name}
            hello = Message(Kind.ZONE_HELLO, body=wire.zone_body(meta, {})).encode()
            cloud.receive(f"host-{name}", hello, 0.0)
        calls = []
        encode = wire.zone_body
        monkeypatch.setattr(
            server.wire, "zone_body", lambda m, a, p: calls.append(len(a)) or encode(m, a, p)
        )
        for name in "AB":
            meta = {"round": 0, "samples": 1, "metrics": {}}
            body = encode(meta, learned(name, 0))
            cloud.receive(f"host-{name}", Message(Kind.ZONE_UPDATE, body=body).encode(), 0.0)
        assert calls == [0, 0, 1]  # two ACCEPTED, one model
    finally:
        cloud.close()


def test_a_job_begins_from_the_model_of_an_earlier_run(job, tmp_path):
    start, own = learned("A", 9), learned("B", 0)
    write_model(tmp_path / "model.npz", start)
    job.model.start = str(tmp_path / "model.npz")
    cloud = Cloud(job, lambda event: None, 0.0)
    try:
        for name in "AB":
            meta = {"zone": name, "job": job.name}
            cloud.receive(
                f"host-{name}", Message(Kind.ZONE_HELLO, body=wire.zone_body(meta, {})).encode(), 0
            )
        sent = [wire.read_zone(Message.decode(data).body)[1] for _, data in cloud.outbox]
        assert any(np.array_equal(arrays.get("w", 0), start["w"]) for arrays in sent)
        for name in "AB":
            meta = {"round": 0, "samples": 1, "metrics": {}}
            body = wire.zone_body(meta, own)
            cloud.receive(f"host-{name}", Message(Kind.ZONE_UPDATE, body=body).encode(), 0.0)
        assert np.array_equal(cloud.rounds.state.model["w"], start["w"] + own["w"])
    finally:
        cloud.close()
    (tmp_path / "model.npz").unlink()  # the store has a model of its own by now
    Cloud(job, lambda event: None, 0.0).close()


@pytest.mark.parametrize("content", [None, b"no arrays", {"w": np.float32([np.nan])}])
def test_a_model_to_begin_from_that_cannot_be_is_one_line(job, tmp_path, content):
    path = tmp_path / "start.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_model(path, content)
    job.model.start = str(path)
    for _ in range(2):
        with pytest.raises(UserError, match=r"model\.start .*start\.npz") as caught:
            Cloud(job, lambda event: None, 0.0)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
