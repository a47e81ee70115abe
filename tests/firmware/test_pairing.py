"""A board without built-in keys pairs over its UART as a Linux device does, and keeps the keys."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kills import free_port, write_waves
from seamline.edge_host.host import cut_model, make_plan
from seamline.firmware_bridge import device
from seamline.firmware_bridge.emulator import Emulator
from seamline.firmware_bridge.target import TARGETS, find_target
from seamline.kernels._link import FrameDecoder, encode_body
from seamline.runtime.config import read_job
from seamline.runtime.data import device_data
from seamline.runtime.handshake import HOST, Handshake
from seamline.runtime.key_folder import add_peer, clash, forget_key
from seamline.runtime.keys import fingerprint, load_keys, make_keys, raw_key
from seamline.runtime.pairing import OTHER_KEY, Pairing

from seamline.cli import main

WITHIN_S = 60.0  # far more than anything here takes; only a hang reaches it
SECRET, OTHER_SECRET = bytes(range(16)), bytes(16)
QUESTION = "Does the other end show the same code"
WAITING = "not paired: waiting for `seamline pair` at host-A"
JOB = """
out = "{folder}/out"
[model]
name = "watch"
[train]
arithmetic = "q8"
batch = 2
edge_rounds = 1
cloud_rounds = 3
[keys]
folder = "{folder}/keys"
[cloud]
address = "tcp://127.0.0.1:{ports[0]}"
[data]
source = "{folder}/{{id}}.npz"
[[zones]]
name = "A"
address = "tcp://127.0.0.1:{ports[1]}"
[[devices]]
id = "d00"
zone = "A"
{line}
"""


def write_job(folder: Path, port: int | None = None) -> Path:
    """A zone of one device, d00, on a board's line or (port: None) on the network."""
    address = f"socket://127.0.0.1:{port}"
    line = f'link = "{address}"\nhost_link = "{address}"' if port else ""
    folder.mkdir(parents=True, exist_ok=True)
    write_waves(folder / "d00.npz", seed=0, samples=9)
    own = ["cloud", "host-A"] if port else ["cloud", "host-A", "d00"]
    make_keys(folder / "keys", own)
    path = folder / "job.toml"
    ports = [free_port(), free_port()]
    path.write_text(JOB.format(folder=folder, ports=ports, line=line))
    return path


def write_secret(path: Path, secret: bytes) -> Path:
    path.write_text(secret.hex() + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


class Board:
    """An emulated one in its place: an image, a file for what it keeps, a port, a host's keys."""

    def __init__(self, folder: Path, name: str = "an386") -> None:
        self.folder, self.name, self.port = folder, name, free_port()
        self.job = write_job(folder, self.port)
        self.elf, self.kept = folder / "x.elf", folder / "x.elf.kept"
        self.lines: list[str] = []
        self.said = threading.Condition()

    def build(self, objects: Path, secret: bytes | None, own: tuple[Path, ...] = ()) -> Board:
        job = read_job(self.job)
        pairing = device.Pairing("host-A", secret)
        plan, data = make_plan(job, cut_model(job)), device_data(job, "d00")
        recipe = device.Recipe("d00", plan, data, keys=pairing)
        target = find_target(self.name)
        device.build(recipe, target, self.elf, objects / f"{self.name}-paired", own)
        return self

    def start(self, stack: ExitStack, *, keeps: bool = True) -> Emulator:
        """From a start on nothing but what is kept is known."""
        board = TARGETS[self.name].board
        kept = self.kept if keeps else None
        self.emulator = stack.enter_context(Emulator(board, self.elf, self.port, kept))
        self.lines = []
        reader = threading.Thread(target=self._read, args=[self.emulator, self.lines], daemon=True)
        reader.start()
        self.reader = reader
        return self.emulator

    def _read(self, emulator: Emulator, lines: list[str]) -> None:
        for line in emulator.said():
            with self.said:
                lines.append(line)
                self.said.notify_all()

    def says(self, word: str, times: int = 1) -> None:
        """Waits until so many lines have it."""
        with self.said:
            assert self.said.wait_for(lambda: self.count(word) >= times, WITHIN_S), self.lines

    def count(self, word: str) -> int:
        return sum(word in line for line in self.lines)

    def loses_power(self) -> None:
        self.emulator.process.kill()
        self.emulator.process.wait(WITHIN_S)
        self.reader.join(WITHIN_S)
        self.emulator.close()

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    def public(self) -> str:
        return load_keys(self.keys, "host-A").peers["d00"]

    def pair(self, secret: Path, *more: str) -> int:
        """`seamline pair` at the host, with a secret: its exit code."""
        words = ["pair", str(self.job), "--as", "host-A", "--with", "d00"]
        return main([*words, "--secret-file", str(secret), "--wait", "30", *more])


class HostEnd:
    """The host's end of a pairing as a program whose line can be cut: it keeps as the command."""

    def __init__(self, board: Board, secret: bytes | None, name: str = "host-A") -> None:
        self.folder, self.board, self.before = board.keys, board, board.count(QUESTION)
        make_keys(self.folder, [name])
        keys = load_keys(self.folder, name)
        self.came = 0
        self.line = socket.create_connection(("127.0.0.1", board.port))
        self.line.settimeout(0.01)
        self.pairing: Any = Pairing(keys, HOST, self.check, secret, self.now() + 30_000)

    @staticmethod
    def now() -> int:
        return time.monotonic_ns() // 1_000_000

    def check(self, name: str, public: str) -> tuple[int, str] | None:
        wrong = clash(self.folder, name, public)
        return (OTHER_KEY, wrong) if wrong else None

    def until(self, reached: Callable[[], bool]) -> None:
        """Talks until that, or the end of the pairing."""
        end = time.monotonic() + WITHIN_S
        while not self.pairing.over and not reached():
            assert time.monotonic() < end, "nothing comes of it"
            self.line.sendall(self.pairing.output(self.now()))
            try:
                data = self.line.recv(64)
            except TimeoutError:
                data = b""
            self.came += len(data)
            self.pairing.feed(data, self.now())
            if self.pairing.may_store:
                assert self.pairing.peer is not None
                add_peer(self.folder, self.pairing.peer.name, self.pairing.peer.public)
                self.pairing.has_stored(self.now())

    def asked(self) -> str:
        """The code, when people have to compare it at both ends."""
        self.until(lambda: self.pairing.asking and self.board.count(QUESTION) > self.before)
        assert self.pairing.peer is not None, self.pairing.trouble
        return self.pairing.peer.code

    def ended(self) -> str:
        """Its trouble, at the end; empty: none."""
        self.until(lambda: False)
        self.line.close()
        return self.pairing.trouble


# ---- pairs, and trains ----


def start(stack: ExitStack, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "seamline", *words, "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def trained(stack: ExitStack, job: Path, *more: tuple[str, ...]) -> list[str]:
    """The model after each round of a job."""
    cloud = start(stack, "cloud", str(job))
    others = [start(stack, "host", str(job), "--zone", "A")]
    others += [start(stack, *words) for words in more]
    said, errors = cloud.communicate(timeout=WITHIN_S)
    assert cloud.returncode == 0, errors
    for process in others:
        _, errors = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 0, errors
    found = [json.loads(line) for line in said.splitlines()]
    return [event["hash"] for event in found if "hash" in event]


@pytest.fixture(scope="module")
def linux(tools: None, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The models of the job whose device is a process of this machine."""
    job = write_job(tmp_path_factory.mktemp("linux"))
    with ExitStack() as made:
        return trained(made, job, ("device", str(job), "--id", "d00"))


@pytest.mark.parametrize("name", ["an547", "lm3s6965evb"])
def test_a_board_pairs_keeps_it_and_trains_with_the_bits_of_a_linux_device(
    tools, linux, objects, stack, tmp_path, capsys, name
):
    board = Board(tmp_path, name).build(objects, SECRET)
    board.start(stack)
    assert board.pair(write_secret(tmp_path / "secret", SECRET)) == 0
    board.says("paired with host-A")
    mark = fingerprint(board.public())
    assert f"host-A and d00 ({mark}) know each other's key" in capsys.readouterr().out
    board.loses_power()
    emulator = board.start(stack)  # and joins, with nobody to pair with
    models = trained(stack, board.job)
    assert emulator.wait(WITHIN_S) == 0
    board.reader.join(WITHIN_S)
    assert models == linux and len(models) > 3
    said = "\n".join(board.lines)
    assert "not paired" not in said
    used = re.search(r"stack: (\d+) bytes used", said)
    assert used is not None and int(used[1]) < TARGETS[name].stack * 3 // 4
    for path in (board.elf, board.kept):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_board_goes_straight_on_from_the_pairing_to_the_job(
    tools, linux, objects, stack, tmp_path
):
    """Without a reset, and on a board that keeps nothing, which it says once."""
    board = Board(tmp_path).build(objects, SECRET)
    emulator = board.start(stack, keeps=False)
    assert board.pair(write_secret(tmp_path / "secret", SECRET)) == 0
    assert trained(stack, board.job) == linux
    assert emulator.wait(WITHIN_S) == 0
    board.reader.join(WITHIN_S)
    nothing = "this board keeps nothing: a pairing lasts until it is reset"
    assert board.lines.count(nothing) == 1
    board.start(stack, keeps=False)
    board.says(WAITING)
    assert board.pair(tmp_path / "secret") == 3  # it has made a new key
    board.says("the host has another key of our name")
    assert main(["keys", "forget", str(board.job), "d00", "--yes"]) == 0
    assert board.pair(tmp_path / "secret") == 0


# ---- by a code ----


def code_of(board: Board) -> str:
    (line,) = [line for line in board.lines if line.startswith("code ")]
    return line.split()[1]


def test_people_compare_codes_at_a_board(tools, objects, stack, tmp_path):
    board = Board(tmp_path).build(objects, None)
    board.start(stack).answer("yes")  # before anything is asked: it counts for nothing
    host = HostEnd(board, None)
    code = host.asked()
    assert code_of(board) == code
    host.pairing.answer(True)
    quiet = host.now() + 1000
    host.until(lambda: host.now() > quiet)
    assert not host.pairing.stored  # one yes is not enough
    board.emulator.answer("yes")
    assert host.ended() == ""
    board.says("paired with host-A")
    own = load_keys(board.keys, "host-A").public
    assert f"this end   d00  {fingerprint(board.public())}" in board.lines
    assert f"other end  host-A  {fingerprint(own)}" in board.lines


@pytest.mark.parametrize("who", ["board", "host"])
def test_a_no_stores_nothing_and_the_next_pairing_works(tools, objects, stack, tmp_path, who):
    board = Board(tmp_path).build(objects, None)
    board.start(stack)
    host = HostEnd(board, None)
    host.asked()
    host.pairing.answer(who == "board")
    if who == "board":
        board.emulator.answer("no")
    trouble = host.ended()
    assert "did not confirm" in trouble
    board.says("not paired: " + ("our user" if who == "board" else "the user of the host"))
    assert not (board.keys / "d00.public").exists()
    again = HostEnd(board, None)
    again.asked()
    again.pairing.answer(True)
    board.emulator.answer("yes")
    assert again.ended() == ""
    board.says("paired with host-A")


def test_a_host_that_goes_while_it_is_asked_is_told_and_the_next_is_asked_anew(
    tools, objects, stack, tmp_path
):
    board = Board(tmp_path).build(objects, None)
    board.start(stack)
    host = HostEnd(board, None)
    host.asked()
    host.line.close()
    board.says("not paired: the host is gone")
    board.emulator.answer("yes")  # too late
    again = HostEnd(board, None)
    again.asked()
    again.pairing.answer(True)
    assert not again.pairing.stored
    board.emulator.answer("yes")
    assert again.ended() == ""


def test_the_command_line_asks_for_a_board(tools, stack, tmp_path, capsys):
    """`firmware build --pair`, `firmware run` and `pair`, with a person at each."""
    board = Board(tmp_path)
    words = ["--board", "an386", str(board.job), "--id", "d00", "-o", str(board.elf)]
    assert main(["firmware", "build", *words, "--pair"]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0] == f"{board.elf}: holds no key"
    assert last[1] == f"start it, then: seamline pair {board.job} --as host-A --with d00"
    commands = {
        "board": ["firmware", "run", str(board.elf), "--port", str(board.port)],
        "host": ["pair", str(board.job), "--as", "host-A", "--with", "d00"],
    }
    people = {}
    for who, command in commands.items():
        ours, terminal = pty.openpty()
        stack.callback(os.close, ours)
        process = subprocess.Popen(
            [sys.executable, "-m", "seamline", *command],
            stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        stack.callback(process.communicate)
        stack.callback(process.kill)
        people[who] = (ours, process, read_until(process, b"waiting"))
    codes = set()
    for ours, process, _ in people.values():
        seen = read_until(process, b"yes or no")
        codes |= set(re.findall(rb"^code +(\S+)$", seen, re.MULTILINE))
        os.write(ours, b"yes\n")
    assert len(codes) == 1
    read_until(people["board"][1], b"paired with host-A")
    assert people["host"][1].wait(WITHIN_S) == 0
    assert board.public()


def read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    assert process.stdout is not None
    seen = b""
    while word not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    return seen


# ---- what goes wrong ----


def test_a_wrong_secret_is_told_at_both_ends_and_the_right_one_pairs(
    tools, objects, stack, tmp_path, capsys
):
    board = Board(tmp_path).build(objects, SECRET)
    board.start(stack)
    for times in (1, 2):
        assert board.pair(write_secret(tmp_path / "wrong", OTHER_SECRET)) == 6
        assert "the secrets differ" in capsys.readouterr().err
        board.says("not paired: the secrets differ", times)
    assert not (board.keys / "d00.public").exists()
    assert board.pair(write_secret(tmp_path / "secret", SECRET)) == 0


def test_a_stranger_and_a_host_without_the_secret_are_refused(
    tools, objects, stack, tmp_path, capsys
):
    board = Board(tmp_path).build(objects, SECRET)
    board.start(stack)
    assert "does not expect host-B" in HostEnd(board, SECRET, "host-B").ended()
    board.says("not paired: it is another host than the one we expect")
    assert "one end has --secret-file" in HostEnd(board, None).ended()
    board.says("not paired: one end has a secret and the other has none")
    assert not (board.keys / "d00.public").exists()
    assert HostEnd(board, SECRET).ended() == ""


def test_power_lost_at_any_moment_of_a_pairing_leaves_a_board_that_pairs(
    tools, objects, stack, tmp_path
):
    """With the same key: the host may have kept it already, and it is never another one."""
    board = Board(tmp_path).build(objects, SECRET)
    for came in (1, 60, 120, 180, 200, 220, 240, 260, 300, 340):
        board.start(stack)
        host = HostEnd(board, SECRET)
        host.until(lambda host=host, came=came: host.came >= came)
        board.loses_power()
        host.line.close()
        board.start(stack)
        again = HostEnd(board, SECRET)
        assert again.ended() == "", came
        board.says("paired with host-A")
        board.loses_power()
        board.kept.unlink()
        forget_key(board.keys, "d00", own=False)


def test_a_host_that_forgot_a_board_pairs_again_without_a_reset(tools, objects, stack, tmp_path):
    board = Board(tmp_path).build(objects, SECRET)
    board.start(stack)
    secret = write_secret(tmp_path / "secret", SECRET)
    assert board.pair(secret) == 0
    before = board.public()
    assert main(["keys", "forget", str(board.job), "d00", "--yes"]) == 0
    assert board.pair(secret) == 0
    board.says("paired with host-A", times=2)
    assert board.public() == before


def test_a_host_that_does_not_know_a_board_is_told_once(tools, objects, stack, tmp_path):
    board = Board(tmp_path).build(objects, SECRET)
    board.start(stack)
    assert board.pair(write_secret(tmp_path / "secret", SECRET)) == 0
    own = raw_key(load_keys(board.keys, "host-A").secret)
    host = HostEnd(board, SECRET)
    host.pairing = Training(Handshake(HOST, "host-A", own, known=lambda name: None))
    started = host.now()
    host.until(lambda: host.now() > started + 3000)
    board.says("no host: the host does not know us")
    assert board.count("no host") == 1


class Training:
    """A host that runs its job, in place of a pairing."""

    over = may_store = False

    def __init__(self, handshake: Handshake) -> None:
        self.handshake, self.decoder = handshake, FrameDecoder(600, raw=True)

    def feed(self, data: bytes, now_ms: int) -> None:
        for body in self.decoder.feed(data):
            self.handshake.input(body[:-4], now_ms)

    def output(self, now_ms: int) -> bytes:
        out = b""
        while (body := self.handshake.output(now_ms)) is not None:
            out += encode_body(body + zlib.crc32(body).to_bytes(4, "little"))
        return out


FORGETS = """
#include "board.h"
/* A button that is held. */
int board_forget(void) {
    return 1;
}
"""


def test_a_host_with_another_key_is_refused_until_the_board_forgets(
    tools, objects, stack, tmp_path, capsys
):
    board = Board(tmp_path).build(objects, SECRET)
    secret = write_secret(tmp_path / "secret", SECRET)
    board.start(stack)
    assert board.pair(secret) == 0
    first = board.public()
    host = raw_key(load_keys(board.keys, "host-A").public)
    assert host in board.kept.read_bytes()
    for path in board.keys.glob("host-A.*"):
        path.unlink()
    assert board.pair(secret) == 6
    assert "d00 has another key for host-A" in capsys.readouterr().err
    board.says("we have another key of this host: forget it first")
    board.loses_power()
    forgets = tmp_path / "forgets.c"
    forgets.write_text(FORGETS)
    board.build(objects, SECRET, (forgets,)).start(stack)
    board.says("all keys are forgotten")
    board.says(WAITING)
    assert host not in board.kept.read_bytes()
    assert board.pair(secret) == 3
    assert "d00 has another key here" in capsys.readouterr().err
    assert main(["keys", "forget", str(board.job), "d00", "--yes"]) == 0
    assert board.pair(secret) == 0
    assert board.public() != first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--secret-file", "x"], "give --pair, too"),
        (["--pair", "--insecure"], "has no keys to pair for"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(tools, tmp_path, capsys, words, said):
    job = write_job(tmp_path, 5000)
    more = ["--board", "an386", str(job), "--id", "d00", "-o", str(tmp_path / "x.elf")]
    assert main(["firmware", "build", *more, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
