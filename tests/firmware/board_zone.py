"""A zone whose devices are emulated boards, or programs of this machine: what each has answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kills import free_port
from seamline.cloud.server import run_cloud
from seamline.edge_host.host import Host, cut_model, make_plan, run_host
from seamline.firmware_bridge import device
from seamline.firmware_bridge.emulator import Emulator
from seamline.firmware_bridge.target import find_target
from seamline.runtime.config import Job, read_job
from seamline.runtime.data import device_data
from seamline.runtime.device import run_device
from seamline.runtime.keys import load_keys, make_keys, raw_key
from seamline.runtime.message import Kind, Message

WITHIN_S = 100.0  # far more than anything here takes; only a hang reaches it
Answer = tuple[str, int, int, str, bytes]  # device, round, step, kind, body
WORK = (Kind.ACT, Kind.WEIGHTS, Kind.RESULT, Kind.ERROR)


@dataclass(frozen=True)
class Zone:
    """A job. model, train: of the job file; shape: of a sample; samples: of a device, to train and
    to test."""

    shape: tuple[int, ...]
    model: dict[str, Any]
    train: dict[str, Any]
    mode: str = "split-v2"
    samples: int = 3  # not a multiple of a batch: batches reach into the next epoch
    devices: Sequence[str] = ("d00",)


@dataclass
class Heard:
    """Hashes of the whole model after each cloud round, and what the devices answered, in an order
    of its own: theirs is left to chance."""

    models: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)  # by the boards

    def of(self, kind: str) -> dict[tuple[str, int, int], bytes]:
        """Bodies of the answers of a kind by device, round and step."""
        return {(d, r, s): body for d, r, s, k, body in self.answers if k == kind}


def write_samples(path: Path, seed: int, shape: tuple[int, ...], samples: int) -> None:
    """Three classes that differ in where the first axis is loud: like a spectrogram's bands."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 2 * samples)
    x = rng.normal(0, 0.3, (2 * samples, *shape)).astype(np.float32)
    along = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) / shape[0]
    for i, label in enumerate(y):
        x[i] += np.exp(-((along - 0.2 - 0.3 * label) ** 2) / 0.02)
    train, test = slice(0, samples), slice(samples, None)
    np.savez(path, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


def write_job(folder: Path, zone: Zone, boards: Mapping[str, str]) -> Path:
    """The job, its data and its keys."""
    train = {"edge_rounds": 1, "device_steps": 1, "evaluate_every": 0, **zone.train}
    lines = [f'out = "{folder / "out"}"', f'mode = "{zone.mode}"', "[model]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in zone.model.items()]
    lines += ["[train]", *(f"{key} = {json.dumps(value)}" for key, value in train.items())]
    lines += ["[round]", f"deadline_s = {WITHIN_S}", f"join_wait_s = {WITHIN_S}", "quorum = 1.0"]
    lines += ["[keys]", f'folder = "{folder / "keys"}"']
    lines += ["[cloud]", f'address = "tcp://127.0.0.1:{free_port()}"']
    lines += ["[data]", f'source = "{folder}/{{id}}.npz"']
    lines += ["[[zones]]", 'name = "A"', f'address = "tcp://127.0.0.1:{free_port()}"']
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(zone.devices):
        lines += ["[[devices]]", f'id = "{name}"', 'zone = "A"']
        line = f"socket://127.0.0.1:{free_port()}"
        lines += [f'link = "{line}"', f'host_link = "{line}"'] if name in boards else []
        write_samples(folder / f"{name}.npz", number, zone.shape, zone.samples)
    make_keys(folder / "keys", ["cloud", "host-A", *zone.devices])
    path = folder / "job.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def build(job: Job, name: str, board: str, out: Path, objects: Path) -> None:
    """A device's image for a board, sealed."""
    own = load_keys(Path(job.keys.folder), name)
    keys = device.Keys(raw_key(own.secret), "host-A", raw_key(own.peers["host-A"]))
    recipe = device.Recipe(name, make_plan(job, cut_model(job)), device_data(job, name), keys=keys)
    device.build(recipe, find_target(board), out, objects / f"{board}-sealed")


class Threads:
    """Programs of a job in threads of this process; what one raises is raised at the end."""

    def __init__(self) -> None:
        self.running: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, program: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                program()
            except BaseException as error:
                self.errors.append(error)

        self.running.append(threading.Thread(target=run, daemon=True))
        self.running[-1].start()

    def end(self) -> None:
        for thread in self.running:
            thread.join(WITHIN_S)
        if self.errors:
            raise self.errors[0]
        assert not any(thread.is_alive() for thread in self.running), "a program hangs"


@contextmanager
def listening(answers: list[Answer]) -> Iterator[None]:
    """Notes what an edge host of this process hears from its devices."""
    take = Host.from_device

    def note(host: Host, peer: str, data: bytes, now: float) -> None:
        message = Message.decode(data)
        if message.kind in WORK:
            kind = Kind(message.kind).name
            answers.append((peer, message.round, message.step, kind, bytes(message.body)))
        take(host, peer, data, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Host, "from_device", note)
        yield


def train(folder: Path, zone: Zone, boards: Mapping[str, str], objects: Path) -> Heard:
    """Runs the job. boards: of those devices that are not programs of this machine; objects: what
    images have in common. Nothing of it outlives this.
    """
    job = read_job(write_job(folder, zone, boards))
    heard, threads = Heard(), Threads()

    def hear(event: dict[str, Any]) -> None:
        assert event["event"] not in ("left", "late"), event
        if "hash" in event:
            heard.models.append(event["hash"])

    with ExitStack() as stack:
        emulators: dict[str, Emulator] = {}
        for section in job.devices:
            name = section.id
            if name not in boards:
                threads.start(lambda name=name: run_device(job, name, emit=lambda event: None))
                continue
            elf, port = folder / f"{name}.elf", int(section.link.rpartition(":")[2])
            build(job, name, boards[name], elf, objects)
            board = find_target(boards[name]).board
            emulators[name] = stack.enter_context(Emulator(board, elf, port))
        threads.start(lambda: run_cloud(job, emit=hear))
        with listening(heard.answers):
            stop = threading.Event()
            guard = threading.Timer(WITHIN_S, stop.set)
            guard.start()
            run_host(job, "A", emit=hear, stop=stop)
            guard.cancel()
            assert not stop.is_set(), "the job hangs"
        threads.end()
        for name, emulator in emulators.items():
            heard.said[name] = "\n".join(emulator.said())
            assert emulator.wait(WITHIN_S) == 0, heard.said[name]
            assert device.sizes(folder / f"{name}.elf").text > 0  # it has left its own file alone
    heard.answers = sorted(set(heard.answers))  # what is asked again is answered again
    return heard
