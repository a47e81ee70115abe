"""Inference over exits: what a device and its edge host answer is what the whole network says."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from seamline.edge_host.calibrate_exits import ExitRule, calibrate_exits
from seamline.edge_host.checkpoint import save_model
from seamline.edge_host.exits import load_network
from seamline.edge_host.infer import Service, StagedBack, make_service
from seamline.edge_host.models import input_shape
from seamline.edge_host.split import float_state, split
from seamline.runtime import infer_wire as bodies
from seamline.runtime.config import DeviceSection, Job, ModelSection, ZoneSection
from seamline.runtime.errors import UserError
from seamline.runtime.infer import HOST, Answer, DeviceFront, InferenceClient, statistics
from seamline.runtime.link import JOINED, LOST, Peer
from seamline.runtime.message import Kind, Message, ProtocolError
from seamline.runtime.plan import build_plan

NEVER, ALWAYS = -1.0, 1e9
F32 = NDArray[np.float32]
SAMPLES = 24


class Network:
    """The watch network with exits behind its second and third layer, cut at the second."""

    def __init__(self, own: float, behind: float, exits: bool = True) -> None:
        model = load_network("watch", {}, 3, [2, 3] if exits else []).eval()
        self.cut = split(model, 2, input_shape(model), exit_on_device=exits)
        rules = [ExitRule(key, 1.0, behind, 0, 0) for key in self.cut.exits]
        self.back = StagedBack(self.cut, rules)
        plan = build_plan(self.cut.front, self.cut.input_shape, 8, seam=self.cut.exit_from)
        vector = self.cut.front_vector(float_state(self.cut.model))
        front = bodies.FrontFile(0, 1.0, own, plan, vector).pack()
        self.service = Service(self.back, front, [*self.cut.exits, "end"])

    def samples(self) -> tuple[F32, torch.Tensor]:
        """[n, h, w, c] and torch layout."""
        rng = np.random.default_rng(0)
        x = rng.normal(0, 1, (SAMPLES, *self.cut.input_shape)).astype(np.float32)
        return x, torch.from_numpy(x.transpose(0, 3, 1, 2)).reshape(
            SAMPLES, *input_shape(self.cut.model)
        )


class Cable:
    """A link whose host is a Service in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.up = True
        self.waiting: deque[bytes] = deque()
        self.questions = 0
        self.counters: dict[str, int] = {}

    def peers(self) -> list[Peer]:
        return [Peer("host", "tcp", JOINED if self.up else LOST)]

    def send(self, data: bytes) -> None:
        self.questions += 1
        answer = self.service.receive(data) if self.up else None
        if answer is not None:
            self.waiting.append(answer)

    def receive(self, timeout: float) -> bytes | None:
        return self.waiting.popleft() if self.waiting else None

    def close(self) -> None:
        pass


def labels(answers: list[Answer]) -> list[int]:
    return [answer.label for answer in answers]


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    def make(network: Network, answer_s: float = 0.05) -> tuple[InferenceClient, Cable]:
        cable = Cable(network.service)
        return InferenceClient(cable, tmp_path / "d.front", answer_s=answer_s), cable

    return make


def test_unsure_exits_leave_the_answer_to_the_end(ask: Any) -> None:
    network = Network(NEVER, NEVER)
    client, _ = ask(network)
    x, same = network.samples()
    answers = client.infer(x)
    with torch.no_grad():
        assert labels(answers) == network.cut.model(same).argmax(1).tolist()
    assert {(a.place, a.exit) for a in answers} == {(HOST, 1)}
    assert network.service.counts == {"end": SAMPLES}


def test_an_exit_of_the_host_that_is_sure_saves_the_layers_behind_it(ask: Any) -> None:
    network = Network(NEVER, ALWAYS)
    client, _ = ask(network)
    x, _ = network.samples()
    ran: list[int] = []
    last = network.cut.back.get_submodule(str(network.back._end.target))
    last.register_forward_hook(lambda *_: ran.append(1))
    answers = client.infer(x)
    assert not ran
    assert {(a.place, a.exit) for a in answers} == {(HOST, 0)}
    with torch.no_grad():
        activation = DeviceFront(network.service.front).ask(x[:8])[2]
        exits = network.cut.back(network.cut.to_nchw(activation))[0]
    assert labels(answers)[:8] == exits.argmax(1).tolist()


def test_samples_leave_one_by_one(ask: Any) -> None:
    sure = Network(NEVER, NEVER)
    x, _ = sure.samples()
    own = DeviceFront(sure.service.front)
    crossing = np.concatenate([own.ask(x[i : i + 8])[2] for i in range(0, SAMPLES, 8)])
    with torch.no_grad():
        first, end = (t.numpy() for t in sure.cut.back(sure.cut.to_nchw(crossing)))
    p = np.exp(first - first.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1)
    network = Network(NEVER, float(np.median(entropy)))
    classes, places = network.back.answer(crossing)
    early = entropy <= np.median(entropy)
    assert 0 < early.sum() < SAMPLES and np.array_equal(places, np.where(early, 0, 1))
    assert np.array_equal(classes, np.where(early, first.argmax(1), end.argmax(1)))


def test_a_device_that_is_sure_asks_nobody(ask: Any) -> None:
    network = Network(ALWAYS, NEVER)
    client, cable = ask(network)
    client.start()
    before = cable.questions
    answers = client.infer(network.samples()[0])
    assert cable.questions == before
    assert {(a.place, a.alone) for a in answers} == {("device", False)}


def test_alone_the_exit_of_the_device_answers_even_after_a_restart(ask: Any) -> None:
    network = Network(NEVER, NEVER)
    client, cable = ask(network)
    x, _ = network.samples()
    client.start()
    again, cable = ask(network)
    cable.up = False
    answers = again.infer(x)
    assert all(a.alone and a.place == "device" for a in answers)
    guess = np.concatenate([again.own.ask(x[i : i + 8])[1] for i in range(0, SAMPLES, 8)])
    assert labels(answers) == guess.tolist()
    cable.up = True
    assert {a.place for a in again.infer(x)} == {HOST}


def test_alone_without_an_exit_nobody_can_answer(ask: Any) -> None:
    network = Network(NEVER, NEVER, exits=False)
    client, cable = ask(network)
    client.start()
    cable.up = False
    with pytest.raises(UserError, match="no exit that could"):
        client.infer(network.samples()[0])


def test_without_a_front_and_a_host_there_is_no_answer(ask: Any) -> None:
    client, cable = ask(Network(NEVER, NEVER))
    cable.up = False
    with pytest.raises(UserError, match="no front yet"):
        client.start(0.05)


def test_a_host_with_another_front_gives_it_and_is_asked_again(ask: Any) -> None:
    client, cable = ask(Network(NEVER, NEVER))
    client.start()
    other = Network(NEVER, ALWAYS)
    other.service.front = bodies.FrontFile(
        0, 2.0, NEVER, client.own.file.plan, client.own.file.parameters
    ).pack()
    cable.service = other.service
    answers = client.infer(other.samples()[0])
    assert {a.exit for a in answers} == {0}
    assert client.own.file.temperature == 2.0 and client.path.read_bytes() == other.service.front


def test_a_file_that_is_damaged(ask: Any) -> None:
    client, _ = ask(Network(NEVER, NEVER))
    client.start()
    data = bytearray(client.path.read_bytes())
    data[60] ^= 1
    client.path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        ask(Network(NEVER, NEVER))


@pytest.mark.parametrize("size", [0, 3, 8, 20, 30])
def test_a_front_that_was_cut_off(size: int) -> None:
    front = Network(NEVER, NEVER).service.front
    with pytest.raises(ProtocolError, match="FRONT"):
        bodies.read_front(front[:size])


def test_questions_that_do_not_add_up_get_an_error() -> None:
    service = Network(NEVER, NEVER).service
    tag = service.front[: bodies.TAG]
    wrong_shape = bodies.infer_body(tag, np.zeros((2, 1, 3, 1), np.float32), 0)
    for body in (b"", tag, wrong_shape, wrong_shape + b"\0", tag + b"\1\0\0\0"):
        answer = service.receive(Message(Kind.INFER, step=5, body=body).encode())
        assert answer is not None
        message = Message.decode(answer)
        assert message.kind == Kind.ERROR and message.step == 5
    assert service.receive(b"no message") is not None
    assert service.receive(Message(Kind.BYE).encode()) is None


def test_answers_that_do_not_add_up() -> None:
    good = bodies.answer_body(np.array([1, 2], np.int32), np.array([0, 1], np.int32))
    assert [list(part) for part in bodies.read_answer(good)] == [[1, 2], [0, 1]]
    for bad in (good[:-1], good + b"\0", b"", good[:3]):
        with pytest.raises(ProtocolError, match="ANSWER"):
            bodies.read_answer(bad)


def test_statistics_are_by_place() -> None:
    answers = [
        Answer(1, "device", -1, False, 0.001),
        Answer(2, "device", -1, True, 0.003),
        Answer(0, HOST, 1, False, 0.005),
    ]
    table = statistics(answers, [1, 1, 0])
    assert {name: row["samples"] for name, row in table.items()} == {
        "all": 3, "alone": 1, "device": 1, "host 1": 1,
    }  # fmt: skip
    assert table["alone"]["accuracy"] == 0 and table["all"]["median_ms"] == 3.0


def job_of(folder: Path, mode: str = "split-v2") -> Job:
    zones = [ZoneSection("A", "tcp://127.0.0.1:0")]
    devices = [DeviceSection("d", "A")]
    model = ModelSection("watch", seam=2, exits=[2, 3])
    return Job(mode=mode, out=str(folder), model=model, zones=zones, devices=devices)


def test_a_service_is_made_of_what_a_run_left(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    cut = Network(NEVER, NEVER).cut
    save_model(job, cut, {n: t.numpy() for n, t in float_state(cut.model).items()})
    unsure = make_service(job, "A", tmp_path)
    assert bodies.read_front(unsure.front).entropy == NEVER
    rng = np.random.default_rng(0)
    exits = {key: rng.normal(0, 1, (40, 7)).astype(np.float32) for key in ("at_2", "at_3")}
    end = rng.normal(0, 1, (40, 7)).astype(np.float32)
    found = calibrate_exits(exits, end, rng.integers(0, 7, 40), 0.9)
    path = tmp_path / "zones" / "A" / "exits.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found.document()))
    service = make_service(job, "A", tmp_path)
    own, behind = found.rules
    front = bodies.read_front(service.front)
    assert (front.temperature, front.entropy) == tuple(
        np.float32([own.temperature, own.entropy]).tolist()
    )
    assert service.back.rules == [behind] and service.names == ["at_3", "end"]
    path.write_text("[]")
    with pytest.raises(UserError, match=r"expected a JSON object"):
        make_service(job, "A", tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        make_service(job, "A", tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(UserError, match="a front only"):
        make_service(job, "A", tmp_path)


@pytest.mark.parametrize("mode", ["split-v3", "isolated", "federated"])
def test_modes_that_leave_nothing_to_serve(mode: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"in {mode}"):
        make_service(job_of(tmp_path, mode), "A", tmp_path)
