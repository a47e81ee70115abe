"""A device on an emulated board trains as a Linux device does: real edge host, real back, the same
bits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import free_port, write_waves
from seamline.edge_host.host import cut_model, make_plan
from seamline.firmware_bridge import device
from seamline.firmware_bridge.emulator import Emulator
from seamline.firmware_bridge.target import TARGETS, find_target
from seamline.kernels.front import SEND, TRAIN, Session
from seamline.kernels.parcel import pack
from seamline.runtime import message as wire
from seamline.runtime.config import Job, read_job
from seamline.runtime.data import Data, device_data
from seamline.runtime.device import BatchOrder
from seamline.runtime.errors import UserError
from seamline.runtime.keys import load_keys, make_keys, raw_key
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import read_plan
from seamline.runtime.serial_link import SerialLine

from seamline.cli import main

WITHIN_S = 60.0  # far more than anything here takes; only a hang reaches it
SAMPLES = 21  # not a multiple of a batch: batches reach into the next epoch
KINDS = {
    "q8": {"arithmetic": "q8", "batch": 8},
    "f32": {"arithmetic": "f32", "batch": 8, "wait": "all"},
    "small": {"arithmetic": "q8", "batch": 2},
}
# Every core in each arithmetic is in test_networks.py.
BOARDS = [("q8", "an385"), ("f32", "an500"), ("q8", "an547"), ("small", "lm3s6965evb")]


def write_job(folder: Path, line: str = "", **train: Any) -> Path:
    """A zone of one device, d00, on the network or on a line; with data and keys."""
    settings = {"edge_rounds": 1, "device_steps": 1, "cloud_rounds": 5, "evaluate_every": 2}
    wait = train.pop("wait", "quorum")
    settings |= train
    lines = [f'out = "{folder / "out"}"', "[model]", 'name = "watch"', "[train]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines += ["[round]", f'wait = "{wait}"', "[keys]", f'folder = "{folder / "keys"}"']
    lines += ["[cloud]", f'address = "tcp://127.0.0.1:{free_port()}"']
    lines += ["[data]", f'source = "{folder}/{{id}}.npz"']
    lines += ["[[zones]]", 'name = "A"', f'address = "tcp://127.0.0.1:{free_port()}"']
    lines += ["[[devices]]", 'id = "d00"', 'zone = "A"']
    lines += [f'link = "{line}"', f'host_link = "{line}"'] if line else []
    folder.mkdir(parents=True, exist_ok=True)
    write_waves(folder / "d00.npz", seed=0, samples=SAMPLES)
    make_keys(folder / "keys", ["cloud", "host-A", "d00"])
    path = folder / "job.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


class Tiers:
    """Processes of this test, and what they say; none outlives it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "seamline", *arguments, "--format", "json"]
        one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **one_core},
        )
        self.stack.callback(process.communicate)
        self.stack.callback(process.kill)
        return process


def events(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """All of a process that ends well."""
    said, errors = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in said.splitlines()]


def hashes(found: list[dict[str, Any]]) -> list[str]:
    """Of the whole model after each round; a round is one step."""
    return [event["hash"] for event in found if "hash" in event]


@pytest.fixture
def tiers() -> Iterator[Tiers]:
    with ExitStack() as stack:
        yield Tiers(stack)


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The models of a kind of job whose device is a process of this machine."""
    found: dict[str, list[str]] = {}

    def models(kind: str) -> list[str]:
        if kind not in found:
            path = write_job(tmp_path_factory.mktemp("linux"), **KINDS[kind])
            with ExitStack() as stack:
                started = Tiers(stack)
                cloud = started.start("cloud", str(path))
                started.start("host", str(path), "--zone", "A")
                started.start("device", str(path), "--id", "d00")
                found[kind] = hashes(events(cloud))
        return found[kind]

    return models


def recipe_of(job: Job, *, sealed: bool) -> device.Recipe:
    keys = None
    if sealed:
        own = load_keys(Path(job.keys.folder), "d00")
        keys = device.Keys(raw_key(own.secret), "host-A", raw_key(own.peers["host-A"]))
    plan = make_plan(job, cut_model(job))
    return device.Recipe("d00", plan, device_data(job, "d00"), keys=keys)


def build(job: Job, name: str, out: Path, objects: Path, *, sealed: bool) -> device.Sizes:
    kept = objects / f"{name}-{'sealed' if sealed else 'clear'}"
    return device.build(recipe_of(job, sealed=sealed), find_target(name), out, kept)


@pytest.mark.parametrize(("kind", "name"), BOARDS)
def test_a_board_trains_with_the_bits_of_a_linux_device(
    tools, linux, objects, tiers, tmp_path, kind, name
):
    port = free_port()
    path = write_job(tmp_path, f"socket://127.0.0.1:{port}", **KINDS[kind])
    built = build(read_job(path), name, tmp_path / "x.elf", objects, sealed=True)
    with Emulator(TARGETS[name].board, tmp_path / "x.elf", port) as emulator:
        cloud = tiers.start("cloud", str(path))
        host = events(tiers.start("host", str(path), "--zone", "A"))
        said = "\n".join(emulator.said())
        assert emulator.wait(WITHIN_S) == 0, said
    assert {e["link"] for e in host if e["event"] == "joined"} == {"serial"}
    assert not any(e["event"] == "left" for e in host)
    models = hashes(events(cloud))
    assert len(models) > 5 and models == linux(kind)
    used = re.search(r"stack: (\d+) bytes used", said)
    assert used is not None and int(used[1]) <= built.stack_most <= built.stack


def test_several_steps_of_a_round_in_clear_text(tools, objects, tiers, tmp_path):
    """More than one step in a round: gradient, activation, gradient, and so on."""
    train = {"arithmetic": "q8", "batch": 4, "device_steps": 3, "cloud_rounds": 2}
    models = []
    for where in ("board", "linux"):
        port = free_port()
        line = f"socket://127.0.0.1:{port}" if where == "board" else ""
        path = write_job(tmp_path / where, line, **train)
        with ExitStack() as stack:
            if line:
                elf = tmp_path / "x.elf"
                build(read_job(path), "an386", elf, objects, sealed=False)
                stack.enter_context(Emulator(TARGETS["an386"].board, elf, port))
            else:
                tiers.start("device", str(path), "--id", "d00", "--insecure")
            cloud = tiers.start("cloud", str(path), "--insecure")
            events(tiers.start("host", str(path), "--zone", "A", "--insecure"))
            models.append(hashes(events(cloud)))
    assert models[0] == models[1] and models[0]


class Lost(Exception):
    """The board was not heard for longer than a host waits."""


class Line:
    """The host's end of a board's line, by hand."""

    def __init__(self, address: str) -> None:
        self.rung = threading.Event()
        self.line = SerialLine(address, self.rung.set, None)

    def message(self) -> Message:
        while True:
            event = self.line.next_event(WITHIN_S)
            assert event is not None, "the board says nothing"
            if isinstance(event, bytes):
                return Message.decode(event)
            if event.lost:
                raise Lost(event.reason)

    def greeted(self, session: int) -> None:
        """Welcomes the board."""
        while self.message().kind != Kind.HELLO:
            pass
        self.say(Message(Kind.WELCOME, session, body=wire.welcome_body()))

    def say(self, message: Message) -> None:
        assert self.line.send(message.encode())

    def ask(self, message: Message) -> Message:
        self.say(message)
        return self.message()

    def close(self) -> None:
        self.line.close()


class LinuxLine:
    """The same for a session of this machine, with the samples of a device."""

    def __init__(self, session: Session, data: Data) -> None:
        self.session, self.data = session, data

    def greeted(self, session: int) -> None:
        self.session.hello()
        self.session.receive(Message(Kind.WELCOME, session, body=wire.welcome_body()).encode())

    def ask(self, message: Message) -> Message:
        session, action = self.session, self.session.receive(message.encode())
        if message.kind == Kind.STEP and message.round == 1:
            session.restore_momentum({})
        while action == TRAIN:
            order = BatchOrder(len(self.data.x_train), session.seed)
            chosen = order.indices(session.need_first, session.need_count)
            session.inputs[:] = self.data.x_train[chosen]
            session.labels[:] = self.data.y_train[chosen]
            action = session.batch()
        assert action == SEND
        return Message.decode(session.answer())

    def close(self) -> None:
        pass


def test_a_plan_that_needs_more_memory_than_was_built_in_is_refused(tools, objects, tmp_path):
    small = read_job(write_job(tmp_path / "small", arithmetic="q8", batch=2))
    large = read_job(write_job(tmp_path / "large", arithmetic="q8", batch=4))
    build(small, "an386", tmp_path / "x.elf", objects, sealed=False)
    answers = []
    with Emulator(TARGETS["an386"].board, tmp_path / "x.elf") as emulator:
        line = Line(emulator.address)
        try:
            for number, job in enumerate((large, small), 1):
                line.greeted(number)
                answers.append(line.ask(Message(Kind.PLAN, number, body=plan_message(job))))
        finally:
            line.close()
    assert [answer.kind for answer in answers] == [Kind.ERROR, Kind.READY]
    assert "memory" in wire.read_error(answers[0].body).text


def plan_message(job: Job) -> bytes:
    settings = wire.Settings(0, job.train.batch, 1, 1, rounding=1, momentum=0.9, decay=0.0)
    return wire.plan_body(settings, make_plan(job, cut_model(job)))


def trained_twice(open_line: Callable[[], Line | LinuxLine], job: Job) -> list[bytes]:
    """What a device answers: two steps, its host restarts and goes on, restarts and begins anew."""
    plan, random, answers = plan_message(job), np.random.default_rng(0), []
    start = random.normal(0, 0.1, read_plan(plan[24:]).parameters).astype(np.float32)
    for session, rounds in enumerate(((1, 2), (3, 4), (1, 2)), 1):
        line = open_line()
        try:
            line.greeted(session)
            answers.append(line.ask(Message(Kind.PLAN, session, body=plan)).body)
            weights = pack(start, "f32") if rounds[0] == 1 else b""
            for round_ in rounds:
                flags = Flag.WEIGHTS if weights else Flag(0)
                body = wire.step_body(0.1, round_, 1, weights)
                act = line.ask(Message(Kind.STEP, session, round_, 0, flags, body))
                assert act.kind == Kind.ACT
                gradient = random.normal(0, 1, (2, *read_plan(plan[24:]).shapes[-1]))
                body = wire.grad_body(0.1, 1.0, pack(gradient.astype(np.float32), "int8"))
                last = line.ask(Message(Kind.GRAD, session, round_, 0, Flag.LAST, body))
                assert last.kind == Kind.WEIGHTS
                answers += [act.body, last.body]
                weights = b""
        finally:
            line.close()
    return [bytes(answer) for answer in answers]


def test_what_a_board_has_learnt_outlives_its_host(tools, objects, tmp_path):
    """Front and momentum stay through a loss of the line, and go where the job begins anew."""
    job = read_job(write_job(tmp_path, arithmetic="f32", batch=2))
    build(job, "an386", tmp_path / "x.elf", objects, sealed=False)
    data = device_data(job, "d00")
    with Emulator(TARGETS["an386"].board, tmp_path / "x.elf") as emulator:
        board = trained_twice(lambda: Line(emulator.address), job)
    session = Session("d00", b"bootboot", len(data.x_train), len(data.x_test))
    here = trained_twice(lambda: LinuxLine(session, data), job)
    ready = [wire.read_ready(board.pop(at)) for at in (10, 5, 0)]
    assert [r.has_checkpoint for r in ready] == [True, True, False]
    assert [r.saved_round for r in ready] == [4, 2, 0]
    for at in (10, 5, 0):
        here.pop(at)
    assert board == here


def hook_of(data: Data) -> str:
    """A board_sample with these samples in its own hands."""
    x = np.concatenate([data.x_train, data.x_test]).reshape(-1, 600)
    y = np.concatenate([data.y_train, data.y_test])
    rows = ",\n".join("{" + ", ".join(f"{float(v).hex()}f" for v in row) + "}" for row in x)
    return f"""
#include <string.h>
#include "board.h"
static const float x[{len(x)}][600] = {{{rows}}};
static const int y[{len(y)}] = {{{", ".join(map(str, y))}}};
int board_sample(float *values, int32_t *label, int training, uint32_t number) {{
    const uint32_t row = training ? number : number + {len(data.x_train)}u;
    memcpy(values, x[row], sizeof x[row]);
    *label = y[row];
    return 1;
}}
"""


def test_a_sensor_gives_what_samples_in_the_image_give(tools, tmp_path, capsys):
    path = write_job(tmp_path, arithmetic="f32", batch=2)
    job = read_job(path)
    data = device_data(job, "d00")
    (tmp_path / "hook.c").write_text(hook_of(data))
    sensor = ["--sensor", str(tmp_path / "hook.c"), "--training", str(SAMPLES)]
    sensor += ["--tests", str(SAMPLES), "--range", "-1.9", "1.9"]
    answers = []
    for more in ([], sensor):
        words = [str(path), "--id", "d00", "--board", "an386", "--insecure", "--format", "json"]
        assert main(["firmware", "build", *words, *more]) == 0
        assert (json.loads(capsys.readouterr().out)["samples"] > 0) == (not more)
        elf = tmp_path / "out" / "firmware" / "d00-an386.elf"
        with Emulator(TARGETS["an386"].board, elf) as emulator:
            answers.append(trained_twice(lambda: Line(emulator.address), job))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("hook", "more", "code", "said"),
    [
        (None, [], 3, "there is no file"),
        ("int board_sample(void) {", [], 3, "hook.c:1:"),
        ("int sample;", [], 3, "has no function board_sample"),
        ("", ["--samples", "3"], 2, "leave --data, --samples out"),
        ("", ["--range", "2", "1"], 2, "--range 2.0 1.0: expected two numbers"),
        ("", ["--range", "nan", "1"], 2, "--range nan 1.0: expected two numbers"),
        ("", ["--training", "70000"], 3, "more than 65535 samples"),
    ],
)
def test_a_sensor_that_cannot_be_is_one_line(tools, tmp_path, capsys, hook, more, code, said):
    path = write_job(tmp_path, arithmetic="f32", batch=2)
    if hook is not None:
        (tmp_path / "hook.c").write_text(hook)
    words = [str(path), "--id", "d00", "--board", "an386", "--insecure"]
    words += ["--sensor", str(tmp_path / "hook.c"), "--training", "4", "--tests", "4"]
    assert main(["firmware", "build", *words, "--range", "-1", "1", *more]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--training", "4"], "--training is of samples that a --sensor takes"),
        (["--sensor", "hook.c", "--tests", "4"], "--sensor needs --training, --range, too"),
    ],
)
def test_half_of_a_sensor_is_refused(tools, tmp_path, capsys, more, said):
    words = [str(write_job(tmp_path)), "--id", "d00", "--board", "an386", "--insecure"]
    assert main(["firmware", "build", *words, *more]) == 2
    assert said in capsys.readouterr().err


SLOW = """
#include "board.h"
/* A sample takes longer than a silence that a host takes for a loss. */
int board_sample(float *values, int32_t *label, int training, uint32_t number) {
    const uint64_t until = board_millis() + 3500u;
    while (board_millis() < until) {
    }
    for (int i = 0; i < 600; i++)
        values[i] = (float)(number % 3u);
    *label = training;
    return 1;
}
"""


def test_a_board_that_computes_for_seconds_keeps_its_host(tools, objects, tmp_path):
    job, slow = read_job(write_job(tmp_path, arithmetic="f32", batch=2)), tmp_path / "slow.c"
    slow.write_text(SLOW)
    recipe, target = recipe_of(job, sealed=False), find_target("an386")
    device.build(recipe, target, tmp_path / "x.elf", objects / "an386-clear", [slow])
    weights = np.zeros(read_plan(recipe.plan).parameters, np.float32)

    def asked() -> Message:
        with Emulator(target.board, tmp_path / "x.elf") as emulator:
            line = Line(emulator.address)
            try:
                line.greeted(1)
                line.ask(Message(Kind.PLAN, 1, body=plan_message(job)))
                body = wire.step_body(0.1, 0, 1, pack(weights, "f32"))
                return line.ask(Message(Kind.STEP, 1, 1, 0, Flag.WEIGHTS, body))
            finally:
                line.close()

    act = None
    for _ in range(3):  # an emulator that gets no processor for seconds is silent, too
        with contextlib.suppress(Lost):
            act = asked()
            break
    assert act is not None and act.kind == Kind.ACT and act.body[4:8] == b"\1\0\1\0"


BUSY = """
#include "board.h"
/* Samples take their time, and say how often the watchdog was fed since the one before. */
static char fed[] = "fed 00 times\\n";
void board_watchdog(void) {
    if (fed[4] == '9' || fed[5]++ != '9')
        return;
    fed[5] = '0';
    fed[4]++;
}
int board_sample(float *values, int32_t *label, int training, uint32_t number) {
    const uint64_t until = board_millis() + 400u;
    while (board_millis() < until) {
    }
    board_print(fed);
    fed[4] = fed[5] = '0';
    for (int i = 0; i < 600; i++)
        values[i] = (float)(number % 3u);
    *label = training;
    return 1;
}
"""


def test_a_board_at_work_feeds_its_watchdog_and_lets_go_of_what_is_asked_again(
    tools, objects, tmp_path
):
    """A host asks again every 5 s and takes a device without room for lost after two minutes."""
    job, busy = read_job(write_job(tmp_path, arithmetic="f32", batch=2)), tmp_path / "busy.c"
    job.mode = "federated"
    busy.write_text(BUSY)
    recipe, target = recipe_of(job, sealed=False), find_target("an386")
    device.build(recipe, target, tmp_path / "x.elf", objects / "an386-clear", [busy])
    step = Message(Kind.STEP, 1, 1, 0, Flag.LOCAL, wire.step_body(0.1, 0, 3, b""))
    with Emulator(target.board, tmp_path / "x.elf") as emulator:
        line = Line(emulator.address)
        try:
            line.greeted(1)
            assert line.ask(Message(Kind.PLAN, 1, body=plan_message(job))).kind == Kind.READY
            for _ in range(3):
                line.say(step)
            learned = line.ask(step)
            assert (learned.kind, learned.round) == (Kind.WEIGHTS, 1)
            again = line.ask(Message(Kind.WEIGHTS_GET, 1, 7))  # no other answer comes before
            assert (again.kind, again.round) == (Kind.WEIGHTS, 7)
            line.say(Message(Kind.BYE, 1, body=wire.bye_body("the test is over")))
            said = list(emulator.said())
        finally:
            line.close()
    fed = [int(count) for count in re.findall(r"fed (\d+) times", "\n".join(said))]
    layers = len(read_plan(recipe.plan).shapes) - 1
    assert len(fed) == 6 and min(fed[2], fed[4]) >= 2 * layers  # forward and backward


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_what_a_session_asks_for_and_no_byte_more(tmp_path, kind):
    job = read_job(write_job(tmp_path, **KINDS[kind]))
    recipe = recipe_of(job, sealed=False)
    needs = device.memory_bytes(recipe)
    answers = []
    for limit in (needs, needs - 1):
        session = Session("d00", b"bootboot", 1, 1, memory_limit=limit)
        session.hello()
        session.receive(Message(Kind.WELCOME, 1, body=wire.welcome_body()).encode())
        session.receive(Message(Kind.PLAN, 1, body=plan_message(job)).encode())
        answers.append(session.answer()[3])
    assert answers == [Kind.READY, Kind.ERROR]


def test_a_board_that_is_too_small_is_said_in_bytes(tools, objects, tmp_path):
    job = read_job(write_job(tmp_path, arithmetic="q8", batch=16))
    with pytest.raises(UserError, match=r"lm3s6965evb does not fit: RAM lacks [\d,]+ bytes"):
        build(job, "lm3s6965evb", tmp_path / "x.elf", objects, sealed=True)
    assert not (tmp_path / "x.elf").exists()


def test_samples_of_another_shape_are_refused(tmp_path):
    recipe = recipe_of(read_job(write_job(tmp_path)), sealed=False)
    other = np.zeros((2, 1, 99, 6), np.float32), np.zeros(2, np.int32)
    wrong = Data(*other, *other, 3)
    with pytest.raises(UserError, match=r"shape \(1, 99, 6\), the front takes \(1, 100, 6\)"):
        device.build(device.Recipe("d00", recipe.plan, wrong), find_target("an386"), tmp_path / "x")


def test_the_command_line_builds_weighs_and_runs_an_image(tools, tmp_path, capsys):
    path, elf = write_job(tmp_path, arithmetic="q8", batch=2), tmp_path / "x.elf"
    words = ["--board", "an386", str(path), "--id", "d00", "--samples", "4"]
    assert main(["firmware", "build", *words, "-o", str(elf)]) == 0
    assert "holds the secret key of d00" in capsys.readouterr().out
    assert stat.S_IMODE(elf.stat().st_mode) == 0o600
    assert main(["firmware", "size", str(elf), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["board"] == "an386" and found["samples"] == 8 * (600 * 4 + 2)
    assert found["ram"] + found["stack"] <= found["ram_of"] and found["flash"] < 200_000
    command = [sys.executable, "-m", "seamline", "firmware", "run", str(elf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.fullmatch(r"socket://127\.0\.0\.1:\d+\n", process.stdout.readline())
        process.terminate()
        assert process.wait(WITHIN_S) == 130


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["size", "{job}"], 3, "is no image of a device: make one with"),
        (["run", "{job}"], 3, "is no image of a device: make one with"),
        (["run", "{job}.elf"], 3, "cannot be read: No such file"),
        (["build", "--board", "an1", "{job}", "--id", "d00", "-o", "x"], 2, "no board"),
        (["build", "--board", "an386", "{job}", "--id", "d9", "-o", "x"], 2, "no device"),
    ],
)
def test_mistakes_are_one_line(tools, tmp_path, capsys, words, code, said):
    job = write_job(tmp_path)
    assert main(["firmware", *(word.format(job=job) for word in words)]) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_missing_tools_are_one_line_with_the_package(tmp_path, capsys, monkeypatch):
    job = write_job(tmp_path)
    monkeypatch.setenv("PATH", "")
    words = ["--board", "an386", str(job), "--id", "d00", "-o", str(tmp_path / "x")]
    assert main(["firmware", "build", *words]) == 7
    assert capsys.readouterr().err == (
        "error: arm-none-eabi-gcc not found: "
        "apt-get install --no-install-recommends gcc-arm-none-eabi\n"
    )
