"""Kills a tier (SIGKILL) when a chosen message has passed, starts it again, and compares what the
job came to with an undisturbed run.

    python tests/fleet/kills.py --runs 200 --seed 1
    python tests/fleet/kills.py --boards --runs 50       boards that lose their power, sealed lines
    python tests/fleet/kills.py --resume 10      how long a device is away that is started at once

Between the tiers stand cables: they carry ZeroMQ's frames (in clear text) and the frames of a
serial line one by one, so a kill falls between two messages, the last of them lost or delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from seamline.edge_host.host import cut_model, make_plan
from seamline.firmware_bridge import device as images
from seamline.firmware_bridge import emulator
from seamline.firmware_bridge.target import TARGETS, find_target
from seamline.runtime.config import host_name, read_job
from seamline.runtime.data import device_data
from seamline.runtime.keys import load_keys, make_keys, raw_key

HERE = Path(__file__).parent
WITHIN_S = 30.0  # of a run; only a hang reaches it
DEVICES = {"d0": "A", "d1": "A", "d2": "B"}
ZONES = ("A", "B")
SLOW_S = 8.0  # a run that took longer tells what it did
PINGS = (17, 18)
Way = tuple[str, str]  # who sends, who receives


@dataclass(frozen=True)
class Kind:
    """A sort of job. serial: a device whose line is serial. board: that device is an emulated board
    of this name, and all lines are sealed. moves: seams move, at the beginning of a cloud round and
    within one."""

    mode: str = "split-v2"
    arithmetic: str = "f32"
    serial: str = ""
    q8_momentum: str = "int8"
    board: str = ""
    cloud: str = "f32"  # codec of the models between zones and cloud
    moves: bool = False


KINDS = (
    Kind(),
    Kind("split-v1"),
    Kind("split-v3"),
    Kind("federated"),
    Kind("isolated"),
    Kind(arithmetic="q8"),
    Kind("split-v3", "q8"),
    Kind(serial="d1"),
    Kind("split-v3", "q8", serial="d0"),
    Kind(arithmetic="q8", serial="d2", q8_momentum="float"),
    Kind("local-loss"),
    Kind("local-loss", "q8", serial="d1"),
    Kind(cloud="int8"),
    Kind("split-v1", cloud="auto"),
    Kind(moves=True),
    Kind("split-v1", serial="d1", moves=True),
    Kind(arithmetic="q8", moves=True),
)

MOVES = ((2, "d0", 1), (4, "*", 3), (6, "d1", 2), (7, "d2", 1))  # round, device, seam

BOARDS = (
    Kind(serial="d0", board="an386"),
    Kind(arithmetic="q8", serial="d1", board="an385"),
    Kind("split-v3", "q8", serial="d0", board="an500"),
    Kind("federated", "q8", serial="d2", board="an547"),
    Kind(arithmetic="q8", serial="d2", board="an386", q8_momentum="float"),
    Kind("split-v3", serial="d1", board="an500"),
    Kind("local-loss", "q8", serial="d0", board="an386"),
)


@dataclass(frozen=True)
class Fault:
    """When message `number` (from 1) passes from way[0] to way[1], it arrives `copies` times (0: it
    is lost), and before that the victims are killed. late_s: how long after the message they are
    killed. away_s: until they are started again. cut: the cable is pulled, and put back at once.
    """

    way: Way
    number: int
    copies: int
    victims: tuple[str, ...] = ()
    away_s: float = 0.0
    cut: bool = False
    late_s: float = 0.0


def write_waves(path: Path, seed: int, samples: int = 96) -> None:
    """Three classes of noisy waves shaped like the watch data: x [n, 100, 6]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 2 * samples)
    t = np.arange(100)[None, :, None] / 100
    phase = rng.uniform(0, 2 * np.pi, (2 * samples, 1, 6))
    x = np.sin(2 * np.pi * (2 + 3 * y[:, None, None]) * t + phase)
    x = (x + rng.normal(0, 0.2, x.shape)).astype(np.float32)
    half = slice(0, samples), slice(samples, None)
    np.savez(path, x_train=x[half[0]], y_train=y[half[0]], x_test=x[half[1]], y_test=y[half[1]])


def free_port() -> int:
    """Below those that the system gives away by itself."""
    while True:
        port = random.SystemRandom().randrange(10000, 30000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


# ---- the nursery ----


class Nursery:
    """The process that forks tiers, and what it says of them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.codes: dict[int, int] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            async with self._news:
                if "started" in said:
                    self._started.put_nowait(said["started"])
                elif "ended" in said:
                    self.codes[said["ended"]] = said["code"]
                self._news.notify_all()

    async def start(self, **order: Any) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._started.get()

    async def ended(self, pid: int) -> int:
        """Waits for a process; its exit code."""
        async with self._news:
            await self._news.wait_for(lambda: pid in self.codes)
        return self.codes[pid]

    async def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # ended, and not told yet
            if pid not in self.codes:
                os.kill(pid, signal.SIGKILL)
        await self.ended(pid)


@contextlib.asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "nursery.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    made = Nursery(process)
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await made._reader


# ---- cables ----

Passing = Callable[[Way, bytes], Awaitable[int]]  # a whole message; how often it arrives


async def _zmtp_frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """(bytes as they came, message or b"") of one direction of a ZeroMQ connection."""
    for size in (10, 1, 53):  # the greeting: each part waits for the other side's
        yield await reader.readexactly(size), b""
    while True:
        head = await reader.readexactly(2)
        if head[0] & 2:
            head += await reader.readexactly(7)
        size = int.from_bytes(head[1:], "big")
        body = await reader.readexactly(size)
        yield head + body, b"" if head[0] & 4 else body


async def _line_frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    while True:
        frame = await reader.readuntil(b"\0")
        yield frame, frame


async def _pump(
    frames: AsyncIterator[tuple[bytes, bytes]],
    way: Way,
    out: Callable[[bytes], None],
    passing: Passing,
) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        async for data, message in frames:
            for _ in range(await passing(way, message) if message else 1):
                out(data)


class Cables:
    """All cables of a run; `close` cuts them."""

    def __init__(self, passing: Passing) -> None:
        self.passing = passing
        self.servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: dict[asyncio.StreamWriter, frozenset[str]] = {}  # and whom they join

    def cut(self, way: Way) -> None:
        for writer, ends in self.writers.items():
            if ends == frozenset(way):
                writer.transport.abort()

    async def network(self, client: str, server: str, port: int) -> int:
        """Carries what connects to the port returned on to `port`."""

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, other = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                writer.transport.abort()
                return
            self.writers |= dict.fromkeys((writer, other), frozenset((client, server)))
            up = self._carry(_zmtp_frames(reader), (client, server), other.write)
            down = self._carry(_zmtp_frames(there), (server, client), writer.write)
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for end in (writer, other):
                end.transport.abort()
                self.writers.pop(end, None)

        return await self._serve(joined)

    async def serial(self, device: str, host: str) -> tuple[int, int]:
        """A line: the ports for the device's end and the host's."""
        ends: dict[str, asyncio.StreamWriter] = {}

        def end(mine: str, other: str) -> Callable[..., Awaitable[None]]:
            def onward(data: bytes) -> None:
                if other in ends and not ends[other].is_closing():
                    ends[other].write(data)

            async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                ends[mine] = writer
                self.writers[writer] = frozenset((mine, other))
                await asyncio.wait({self._carry(_line_frames(reader), (mine, other), onward)})
                writer.transport.abort()
                self.writers.pop(writer, None)

            return joined

        return await self._serve(end(device, host)), await self._serve(end(host, device))

    def _carry(self, frames: Any, way: Way, out: Callable[[bytes], None]) -> asyncio.Task[None]:
        task = asyncio.create_task(_pump(frames, way, out, self.passing))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _serve(self, joined: Callable[..., Awaitable[None]]) -> int:
        server = await asyncio.start_server(joined, "127.0.0.1", 0, limit=1 << 20)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self.servers:
            server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


# ---- one run ----


@dataclass
class Run:
    """A job in a folder of its own. counts: messages that passed, by way."""

    nursery: Nursery
    folder: Path
    kind: Kind
    faults: tuple[Fault, ...] = ()
    rounds: tuple[int, int] = (3, 3)  # edge rounds in a cloud round, cloud rounds
    counts: Counter[Way] = field(default_factory=Counter)
    pids: dict[str, int] = field(default_factory=dict)
    fell: list[Fault] = field(default_factory=list)  # those that happened
    again: set[asyncio.Task[None]] = field(default_factory=set)
    over: bool = False
    cables: Cables | None = None
    links: dict[str, str] = field(default_factory=dict)
    uplinks: dict[str, str] = field(default_factory=dict)
    board_port: int = 0

    async def go(self) -> Outcome:
        """Trains to the end. Raises AssertionError."""
        cables = self.cables = Cables(self.passing)
        try:
            await self._lay(cables)
            for name in ("cloud", *(f"host-{zone}" for zone in ZONES), *DEVICES):
                await self.start(name)
            await asyncio.wait_for(self._over(), self.within_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"not done in {self.within_s} s; {self.told()}") from None
        finally:
            self.over = True
            await asyncio.gather(*self.again)
            for pid in self.pids.values():
                await self.nursery.kill(pid)
            await cables.close()
        return outcome(self.folder / "out")

    @property
    def within_s(self) -> float:
        return (4.0 if self.kind.board else 1.0) * WITHIN_S

    async def _over(self) -> None:
        """Until cloud and edge hosts have ended; one that ends with an error is a failure."""
        while True:
            codes = {name: self.nursery.codes.get(pid) for name, pid in self.pids.items()}
            for name, code in codes.items():
                assert code in (None, 0, -9), f"{name} ended with {code}; {self.told()}"
            if all(codes[name] == 0 for name in ("cloud", *(f"host-{zone}" for zone in ZONES))):
                return
            await asyncio.sleep(0.02)

    async def _lay(self, cables: Cables) -> None:
        cloud = free_port()
        lines = [f'mode = "{self.kind.mode}"', f'out = "{self.folder / "out"}"', "seed = 5"]
        alone = self.kind.mode == "local-loss"
        lines += ["[model]", 'name = "watch"', f"exits = {[2] if alone else []}"]
        lines += ["[train]", f"edge_rounds = {self.rounds[0]}", f"upload_every = {1 + alone}"]
        lines += [f"cloud_rounds = {self.rounds[1]}"]
        lines += ["device_steps = 2", "evaluate_every = 2"]
        lines += [f"batch = {4 if self.kind.board else 8}"]
        lines += [f'arithmetic = "{self.kind.arithmetic}"']
        lines += [f'q8_momentum = "{self.kind.q8_momentum}"', "[round]", *ROUND]
        lines += ["[codec]", f'cloud = "{self.kind.cloud}"']
        lines += ["[keys]", f'folder = "{self.folder.parent / "keys"}"']
        if self.kind.moves:
            lines += ["[plan]", 'replan = "schedule"']
            for round_, device, seam in MOVES:
                lines += ["[[plan.moves]]", f"round = {round_}", f'device = "{device}"']
                lines += [f"seam = {seam}"]
        few = "few-" if self.kind.board else ""
        lines += ["[data]", f'source = "{self.folder.parent}/{few}{{id}}.npz"']
        lines += ["[cloud]", f'address = "tcp://127.0.0.1:{cloud}"']
        for zone in ZONES:
            port = free_port()
            lines += ["[[zones]]", f'name = "{zone}"', f'address = "tcp://127.0.0.1:{port}"']
            host = f"host-{zone}"
            self.uplinks[host] = f"tcp://127.0.0.1:{await cables.network(host, 'cloud', cloud)}"
            for device in (d for d, z in DEVICES.items() if z == zone):
                lines += ["[[devices]]", f'id = "{device}"', f'zone = "{zone}"']
                if device == self.kind.serial:
                    mine, other = await cables.serial(device, host)
                    self.board_port = mine
                    lines += [f'link = "socket://127.0.0.1:{mine}"']
                    lines += [f'host_link = "socket://127.0.0.1:{other}"']
                else:
                    way = await cables.network(device, host, port)
                    self.links[device] = f"tcp://127.0.0.1:{way}"
        (self.folder / "job.toml").write_text("\n".join(lines))
        if self.kind.board:
            build(self.kind, self.folder)

    def _board(self) -> list[str]:
        """The command of the emulated board."""
        where = f"host=127.0.0.1,port={self.board_port},server=off,reconnect=1"
        target = TARGETS[self.kind.board]
        return emulator.command(
            target.board, elf_of(self.kind, self.folder), where, self.folder / "board.kept"
        )

    async def start(self, name: str) -> None:
        order: dict[str, Any] = {"log": str(self.folder / f"{name}.log")}
        order |= {"job": str(self.folder / "job.toml"), "insecure": not self.kind.board}
        if self.kind.board and name == self.kind.serial:
            order |= {"role": "board", "words": self._board()}
        elif name == "cloud":
            order |= {"role": "cloud", "who": ""}
        elif name.startswith("host-"):
            order |= {"role": "host", "who": name[5:], "cloud": self.uplinks[name]}
        else:
            order |= {"role": "device", "who": name}
            if name in self.links:
                order["link"] = self.links[name]
        self.pids[name] = await self.nursery.start(**order)

    async def passing(self, way: Way, message: bytes) -> int:
        """A message is on its way: counts it, and does what is to happen with it."""
        serial = self.kind.serial in way
        if not serial and len(message) > 3 and message[3] in PINGS:
            return 1
        self.counts[way] += 1
        here = (self.counts[way], way)
        for fault in self.faults:
            if (fault.number, fault.way) == here and not self.over:
                self.fell.append(fault)
                if fault.late_s:
                    self.again.add(asyncio.create_task(self._kill_later(fault)))
                else:
                    await self._kill(fault)
                if fault.cut and self.cables is not None:
                    self.cables.cut(way)
                return fault.copies
        return 1

    async def _kill_later(self, fault: Fault) -> None:
        await asyncio.sleep(fault.late_s)
        if not self.over:
            await self._kill(fault)

    async def _kill(self, fault: Fault) -> None:
        for victim in (v for v in fault.victims if v in self.pids):
            await self.nursery.kill(self.pids[victim])
            self.again.add(asyncio.create_task(self._restart(victim, fault.away_s)))

    async def _restart(self, name: str, away_s: float) -> None:
        await asyncio.sleep(away_s)
        await self.start(name)

    def told(self) -> str:
        """The last events of every tier."""
        tails = []
        for log in sorted(self.folder.glob("*.log")):
            tails += [f"{log.stem}:", *(f"  {x[:300]}" for x in log.read_text().splitlines()[-4:])]
        return "\n".join([f"happened: {self.fell}", *tails])


ROUND = ('wait = "all"', "join_wait_s = 20.0")


Outcome = dict[str, str]


def outcome(out: Path) -> Outcome:
    """Of the final model, of what every zone has learned, of every cloud round and of what was
    measured at the end: a name and a digest, or the value.
    """
    found: Outcome = {}
    for path in (out / "model.npz", *sorted(out.glob("zones/*/state.npz"))):
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                if name in ("meta", "update", "report"):  # they hold counters of bytes
                    continue
                digest = hashlib.sha256(arrays[name].tobytes()).hexdigest()
                found[f"{path.parent.name} {name}"] = digest
    base = sqlite3.connect(out / "cloud" / "store.db")
    for round_, digest in base.execute("SELECT round, hash FROM rounds"):
        found[f"cloud round {round_}"] = digest
    for zone, metrics in base.execute("SELECT zone, metrics FROM reports"):
        found[f"report of {zone}"] = str(json.loads(metrics)["evaluated"])
    base.close()
    return found


NAMES = ("cloud", *(f"host-{zone}" for zone in ZONES), *DEVICES)


def draw(dice: random.Random, counts: Counter[Way]) -> tuple[Fault, ...]:
    """Faults at random messages that an undisturbed run of these counts has: mostly one tier
    killed, or two; sometimes many at once, or a cable is cut as well, or messages arrive twice or
    never.
    """
    sorts = {"one": 35, "two": 20, "many": 15, "twice": 15, "cut": 10, "never": 5}
    (sort,) = dice.choices(list(sorts), list(sorts.values()))
    faults = [_kill(dice, counts, sort == "many") for _ in range(2 if sort == "two" else 1)]
    for _ in range(3 if sort == "twice" else 0):
        way = dice.choice(sorted(counts))
        faults.append(Fault(way, dice.randint(1, counts[way]), 2))
    if sort in ("never", "cut"):
        way = dice.choice(sorted(counts))
        faults.append(Fault(way, dice.randint(1, counts[way]), 0, cut=sort == "cut"))
    return tuple(faults)


def _kill(dice: random.Random, counts: Counter[Way], many: bool) -> Fault:
    victim = dice.choice(NAMES)
    way = dice.choice(sorted(way for way in counts if victim in way))
    others = dice.sample(NAMES, dice.randint(1, len(NAMES))) if many else []
    victims = tuple(sorted({victim, *others}))
    number, copies = dice.randint(1, counts[way]), dice.randint(0, 1)
    return Fault(way, number, copies, victims, dice.choice((0.0, 0.05, 0.5)))


def draw_losses(dice: random.Random, counts: Counter[Way], board: str) -> tuple[Fault, ...]:
    """A board that loses its power three times: at a message of its line or while it computes; in
    every fourth run another tier is killed as well."""
    ways = sorted(way for way in counts if board in way)
    faults = []
    for _ in range(3):
        way = dice.choice(ways)
        late_s = dice.choice((0.0, dice.uniform(0.0, 0.3)))
        number, copies = dice.randint(1, counts[way]), dice.randint(0, 1)
        faults.append(Fault(way, number, copies, (board,), dice.choice((0.0, 0.3)), False, late_s))
    return tuple(faults if dice.random() < 0.75 else [*faults, _kill(dice, counts, False)])


def elf_of(kind: Kind, folder: Path) -> Path:
    """The image of a kind's board, beside the folder of a run."""
    return folder.parent / f"{'-'.join(map(str, astuple(kind)))}.elf"


def build(kind: Kind, folder: Path) -> None:
    """Makes the image for the job in `folder`, unless it is there: runs differ in their lines."""
    elf = elf_of(kind, folder)
    if elf.exists():
        return
    job = read_job(str(folder / "job.toml"))
    own = load_keys(Path(job.keys.folder), kind.serial)
    host = host_name(DEVICES[kind.serial])
    recipe = images.Recipe(
        kind.serial,
        make_plan(job, cut_model(job)),
        device_data(job, kind.serial),
        keys=images.Keys(raw_key(own.secret), host, raw_key(own.peers[host])),
    )
    images.build(recipe, find_target(kind.board), elf, folder.parent / kind.board)


class Series:
    """Runs of all kinds, one after the other, against one undisturbed run of each kind."""

    def __init__(self, made: Nursery, folder: Path) -> None:
        self.nursery, self.folder = made, folder
        self.whole: dict[Kind, tuple[Outcome, Counter[Way]]] = {}
        for number, device in enumerate(DEVICES):
            write_waves(folder / f"{device}.npz", seed=number)
            write_waves(folder / f"few-{device}.npz", seed=number, samples=18)
        make_keys(folder / "keys", NAMES)

    def clear(self) -> Path:
        """An empty folder for a run."""
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    async def _run(self, kind: Kind, faults: tuple[Fault, ...] = ()) -> tuple[Outcome, Run]:
        run = Run(self.nursery, self.clear(), kind, faults)
        return await run.go(), run

    async def undisturbed(self, kind: Kind) -> tuple[Outcome, Counter[Way]]:
        if kind not in self.whole:
            found, run = await self._run(kind)
            self.whole[kind] = found, run.counts
        return self.whole[kind]

    async def killed(self, seed: int, kinds: tuple[Kind, ...] = KINDS) -> Run:
        """One run with faults drawn from `seed`. Raises AssertionError if it came out other."""
        dice = random.Random(seed)
        kind = kinds[seed % len(kinds)]
        expected, counts = await self.undisturbed(kind)
        faults = draw_losses(dice, counts, kind.serial) if kind.board else draw(dice, counts)
        try:
            found, run = await self._run(kind, faults)
            other = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
            assert not other, f"other bits in {other}; {run.told()}"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {kind}, {faults}: {error}") from None
        return run


async def resume(times: int, folder: Path) -> int:
    """Kills a device that is a process as a user starts it, and starts it again, in the middle of
    cloud rounds of ten edge rounds; prints the seconds until it is back at its round and step.
    """
    for kind in (Kind(), Kind(serial="d0"), Kind("split-v3", "q8", serial="d0")):
        async with nursery() as made:
            series = Series(made, folder)
            run = Run(made, series.clear(), kind, rounds=(10, 100000))
            cables = Cables(run.passing)
            await run._lay(cables)
            for name in NAMES:
                if name != "d0":
                    await run.start(name)
            device = await _real_device(run)
            took = []
            for _ in range(times):
                await asyncio.sleep(2.0)
                device.kill()
                began = time.monotonic()
                device = await _real_device(run)
                took.append(await _resumed(run, began))
            device.kill()
            await device.wait()
            await cables.close()
        took.sort()
        print(f"{kind}: back in {took[len(took) // 2]:.2f} s, at most {took[-1]:.2f} s")
    return 0


async def _real_device(run: Run) -> asyncio.subprocess.Process:
    words = ["device", str(run.folder / "job.toml"), "--id", "d0", "--insecure"]
    words += ["--link", run.links["d0"]] if "d0" in run.links else []
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "seamline", *words), stdout=asyncio.subprocess.DEVNULL
    )


async def _resumed(run: Run, began: float) -> float:
    """Seconds from `began` until the edge host has the device where it was, or, between two cloud
    rounds, until it has it.
    """
    while time.monotonic() < began + WITHIN_S:
        events = [json.loads(x) for x in (run.folder / "host-A.log").read_text().splitlines()]
        back = [e for e in events if e["at"] > began and e.get("device") == "d0"]
        at = {event["event"]: float(event["at"]) for event in reversed(back)}
        joined = at.get("joined", time.monotonic())
        if "resumed" in at or time.monotonic() > joined + 1.0:
            return at.get("resumed", joined) - began
        await asyncio.sleep(0.05)
    raise AssertionError(f"not back in {WITHIN_S} s; {run.told()}")


async def series(runs: int, seed: int, folder: Path, kinds: tuple[Kind, ...]) -> int:
    failed, fell = 0, 0
    async with nursery() as made:
        line = Series(made, folder)
        for number in range(seed, seed + runs):
            began = time.monotonic()
            try:
                run = await line.killed(number, kinds)
                fell += sum(len(fault.victims) for fault in run.fell)
                said = "same bits"
            except AssertionError as error:
                failed += 1
                said = f"FAILED\n{error}"
            seconds = time.monotonic() - began
            if seconds > SLOW_S * (4 if kinds == BOARDS else 1) and not said.startswith("F"):
                said += f"; slow: {run.told()}"
            print(f"{number} {seconds:.1f} s {said}", flush=True)
    print(f"{runs - failed} of {runs} runs gave the same bits; {fell} tiers were killed in those")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; one more each")
    parser.add_argument("--kind", type=int, help="one alone, by its place")
    parser.add_argument("--boards", action="store_true", help="the kinds of BOARDS, not of KINDS")
    parser.add_argument("--resume", type=int, metavar="TIMES", help="measure, do not compare")
    arguments = parser.parse_args()
    kinds = BOARDS if arguments.boards else KINDS
    kinds = kinds if arguments.kind is None else (kinds[arguments.kind],)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.resume:
            return asyncio.run(resume(arguments.resume, Path(folder)))
        return asyncio.run(series(arguments.runs, arguments.seed, Path(folder), kinds))


if __name__ == "__main__":
    sys.exit(main())
