"""Kills a tier (SIGKILL) when a chosen message has passed, starts it again, and compares what the
job came to with an undisturbed run.

    python tests/fleet/kills.py --runs 200 --seed 1

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
WITHIN_S = 30.0  # of a run; only a hang reaches it
DEVICES = {"d0": "A", "d1": "A", "d2": "B"}
ZONES = ("A", "B")
SLOW_S = 8.0  # a run that took longer tells what it did
PINGS = (17, 18)
Way = tuple[str, str]  # who sends, who receives


@dataclass(frozen=True)
class Kind:
    """A sort of job. serial: a device whose line is serial."""

    mode: str = "split-v2"
    arithmetic: str = "f32"
    serial: str = ""


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
)


@dataclass(frozen=True)
class Kill:
    """`victim` is killed when message `number` (from 1) passes from way[0] to way[1]; lost: that
    message is not delivered. away_s: until it is started again."""

    victim: str
    way: Way
    number: int
    lost: bool
    away_s: float


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
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


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

Passing = Callable[[Way, bytes], Awaitable[bool]]  # a whole message; False: it is lost


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
            if not message or await passing(way, message):
                out(data)


class Cables:
    """All cables of a run; `close` cuts them."""

    def __init__(self, passing: Passing) -> None:
        self.passing = passing
        self.servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.writers: set[asyncio.StreamWriter] = set()

    async def network(self, client: str, server: str, port: int) -> int:
        """Carries what connects to the port returned on to `port`."""

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, other = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                writer.transport.abort()
                return
            self.writers |= {writer, other}
            up = self._carry(_zmtp_frames(reader), (client, server), other.write)
            down = self._carry(_zmtp_frames(there), (server, client), writer.write)
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for end in (writer, other):
                end.transport.abort()
                self.writers.discard(end)

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
                self.writers.add(writer)
                await asyncio.wait({self._carry(_line_frames(reader), (mine, other), onward)})
                writer.transport.abort()
                self.writers.discard(writer)

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
    kills: tuple[Kill, ...] = ()
    counts: Counter[Way] = field(default_factory=Counter)
    pids: dict[str, int] = field(default_factory=dict)
    fell: list[Kill] = field(default_factory=list)  # kills that happened
    again: set[asyncio.Task[None]] = field(default_factory=set)
    over: bool = False
    links: dict[str, str] = field(default_factory=dict)
    uplinks: dict[str, str] = field(default_factory=dict)

    async def go(self) -> Outcome:
        """Trains to the end. Raises AssertionError."""
        cables = Cables(self.passing)
        try:
            await self._lay(cables)
            for name in ("cloud", *(f"host-{zone}" for zone in ZONES), *DEVICES):
                await self.start(name)
            await asyncio.wait_for(self._over(), WITHIN_S)
        except asyncio.TimeoutError:
            raise AssertionError(f"not done in {WITHIN_S} s; {self.told()}") from None
        finally:
            self.over = True
            await asyncio.gather(*self.again)
            for pid in self.pids.values():
                await self.nursery.kill(pid)
            await cables.close()
        return outcome(self.folder / "out")

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
        lines += ["[model]", 'name = "watch"', "[train]", "edge_rounds = 3", "cloud_rounds = 3"]
        lines += ["device_steps = 2", "evaluate_every = 2", "batch = 8"]
        lines += [f'arithmetic = "{self.kind.arithmetic}"', "[round]", *ROUND]
        lines += ["[data]", f'source = "{self.folder.parent}/{{id}}.npz"']
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
                    lines += [f'link = "socket://127.0.0.1:{mine}"']
                    lines += [f'host_link = "socket://127.0.0.1:{other}"']
                else:
                    way = await cables.network(device, host, port)
                    self.links[device] = f"tcp://127.0.0.1:{way}"
        (self.folder / "job.toml").write_text("\n".join(lines))

    async def start(self, name: str) -> None:
        order = {"job": str(self.folder / "job.toml"), "log": str(self.folder / f"{name}.log")}
        if name == "cloud":
            order |= {"role": "cloud", "who": ""}
        elif name.startswith("host-"):
            order |= {"role": "host", "who": name[5:], "cloud": self.uplinks[name]}
        else:
            order |= {"role": "device", "who": name}
            if name in self.links:
                order["link"] = self.links[name]
        self.pids[name] = await self.nursery.start(**order)

    async def passing(self, way: Way, message: bytes) -> bool:
        """A message is on its way: counts it, and kills if it is time."""
        serial = self.kind.serial in way
        if not serial and len(message) > 3 and message[3] in PINGS:
            return True
        self.counts[way] += 1
        for kill in self.kills:
            if kill.way == way and kill.number == self.counts[way] and not self.over:
                if kill.victim in self.pids:
                    self.fell.append(kill)
                    await self.nursery.kill(self.pids[kill.victim])
                    task = asyncio.create_task(self._restart(kill))
                    self.again.add(task)
                return not kill.lost
        return True

    async def _restart(self, kill: Kill) -> None:
        await asyncio.sleep(kill.away_s)
        await self.start(kill.victim)

    def told(self) -> str:
        """The last events of every tier."""
        tails = []
        for log in sorted(self.folder.glob("*.log")):
            tails += [f"{log.stem}:", *(f"  {x[:300]}" for x in log.read_text().splitlines()[-4:])]
        return "\n".join([f"killed: {self.fell}", *tails])


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


def draw(dice: random.Random, kind: Kind, counts: Counter[Way], kills: int) -> tuple[Kill, ...]:
    """Kills at random points that an undisturbed run of these counts has."""
    names = ["cloud", *(f"host-{zone}" for zone in ZONES), *DEVICES]
    drawn = []
    for _ in range(kills):
        victim = dice.choice(names)
        way = dice.choice(sorted(way for way in counts if victim in way))
        number = dice.randint(1, counts[way])
        away = dice.choice((0.0, 0.05, 0.5))
        drawn.append(Kill(victim, way, number, dice.random() < 0.5, away))
    return tuple(drawn)


class Series:
    """Runs of all kinds, one after the other, against one undisturbed run of each kind."""

    def __init__(self, made: Nursery, folder: Path) -> None:
        self.nursery, self.folder = made, folder
        self.whole: dict[Kind, tuple[Outcome, Counter[Way]]] = {}
        for number, device in enumerate(DEVICES):
            write_waves(folder / f"{device}.npz", seed=number)

    async def _run(self, kind: Kind, kills: tuple[Kill, ...] = ()) -> tuple[Outcome, Run]:
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        run = Run(self.nursery, folder, kind, kills)
        return await run.go(), run

    async def undisturbed(self, kind: Kind) -> tuple[Outcome, Counter[Way]]:
        if kind not in self.whole:
            found, run = await self._run(kind)
            self.whole[kind] = found, run.counts
        return self.whole[kind]

    async def killed(self, seed: int, kinds: tuple[Kind, ...] = KINDS) -> Run:
        """One run with kills drawn from `seed`. Raises AssertionError where it came out other."""
        dice = random.Random(seed)
        kind = kinds[seed % len(kinds)]
        expected, counts = await self.undisturbed(kind)
        kills = draw(dice, kind, counts, 1 if dice.random() < 0.7 else 2)
        try:
            found, run = await self._run(kind, kills)
            other = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
            assert not other, f"other bits in {other}; {run.told()}"
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {kind}, {kills}: {error}") from None
        return run


async def series(runs: int, seed: int, folder: Path, kinds: tuple[Kind, ...]) -> int:
    failed, fell = 0, 0
    async with nursery() as made:
        line = Series(made, folder)
        for number in range(seed, seed + runs):
            began = time.monotonic()
            try:
                run = await line.killed(number, kinds)
                fell += len(run.fell)
                said = "same bits"
            except AssertionError as error:
                failed += 1
                said = f"FAILED\n{error}"
            seconds = time.monotonic() - began
            if seconds > SLOW_S and not said.startswith("F"):
                said += f"; slow: {run.told()}"
            print(f"{number} {seconds:.1f} s {said}", flush=True)
    print(f"{runs - failed} of {runs} runs gave the same bits; {fell} kills in those")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; one more each")
    parser.add_argument("--kind", type=int, help="of KINDS, alone")
    arguments = parser.parse_args()
    kinds = KINDS if arguments.kind is None else (KINDS[arguments.kind],)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(series(arguments.runs, arguments.seed, Path(folder), kinds))


if __name__ == "__main__":
    sys.exit(main())
