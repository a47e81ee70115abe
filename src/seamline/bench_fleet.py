"""`seamline bench fleet`: one edge host and as many as a thousand devices over ZeroMQ with CURVE.

The host's end is the product's: its listener with the gate for keys, its sessions. In place of
training it answers each activation with a gradient at once. The devices are the product's links,
each with a key of its own, many in a process; they say what a device says without computing it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .events import json_emit
from .kernels import parcel
from .kernels.front import Session
from .machine import describe_machine
from .runtime import message as wire
from .runtime.config import DeviceSection, Job, ZoneSection
from .runtime.ends import Ends
from .runtime.errors import UserError
from .runtime.keys import Keys, load_keys, make_keys, new_secret, public_of
from .runtime.link import LinkLost, Listener, Lost, open_listener
from .runtime.message import Kind, Message
from .table import print_table

if TYPE_CHECKING:
    from .edge_host.fleet import Fleet

Row = dict[str, Any]

ZONE, HOST = "A", "host-A"
DEVICES, QUICK = (10, 100, 1000), (10, 100)
UP, REPLIES = 10_000, (300, 10_000)  # bytes of a parcel: an activation, gradients
REPLY_MAX = 1 << 20
PROCESSES = 4  # of devices; one of them is killed, one stopped
WARM_S, IDLE_S = 0.5, 2.0
WITHIN_S = 60.0  # all must have joined, or be missed, by then


def run_bench_fleet(args: argparse.Namespace) -> int:
    """Prints a row for each number of devices and size of an answer."""
    counts = args.devices or (QUICK if args.quick else DEVICES)
    replies = args.reply or (REPLIES[1:] if args.quick else REPLIES)
    seconds = args.seconds or (1.0 if args.quick else 5.0)
    if min(counts) < PROCESSES:
        raise UserError(f"--devices {min(counts)}: expected at least {PROCESSES}", 2)
    if max(replies) > REPLY_MAX:
        raise UserError(f"--reply {max(replies)}: expected at most {REPLY_MAX} bytes", 2)
    rows = [measure(count, reply, seconds) for count in counts for reply in replies]
    command = shlex.join(args.command_line)
    if args.format == "json":
        json_emit({"machine": describe_machine(), "command": command, "rows": rows})
    else:
        _print(command, rows)
    return 0


def measure(devices: int, reply: int, seconds: float) -> Row:
    """One row, by a host in a process of its own: what it holds in memory is this fleet's.

    reply: bytes of a gradient; seconds: how long messages are counted. Raises UserError: too few
    open files are allowed, not all devices could join.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_host, args=(there, devices, reply, seconds))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        raise UserError("the host of the benchmark has died; its reason is above", 1) from None
    finally:
        process.join()
    if isinstance(found, UserError):
        raise found
    row: Row = found
    return row


# ---- the devices: one process of many ----


def _devices(pipe: Connection, address: str, keys: dict[str, Keys | None]) -> None:
    """Joins at the first word, sends its round trips (seconds, f8) at each other; ends with the
    pipe.
    """
    try:
        pipe.recv()
        ends = Ends(address, keys)
        try:
            _answer(pipe, ends)
        finally:
            ends.close()
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def _answer(pipe: Connection, ends: Ends) -> None:
    hellos = {name: Session(name, os.urandom(8), 100, 10).hello() for name in ends.links}
    labels = struct.pack("<Hxx16H", 16, *range(16))
    act = labels + parcel.pack(np.zeros(UP, np.float32), "int8")
    sent: dict[str, float] = {}
    trips: list[float] = []
    for name, hello in hellos.items():
        ends.send(name, hello)
    while True:
        if pipe.poll():
            pipe.recv()
            pipe.send_bytes(np.array(trips).tobytes())
            trips.clear()
        for name, data in ends.poll(0.05):
            if isinstance(data, LinkLost):
                ends.send(name, hellos[name])
                sent.pop(name, None)
                continue
            asked = Message.decode(data)
            if asked.kind == Kind.PLAN:
                ready = Message(Kind.READY, asked.session, body=struct.pack("<IIB3x", 0, 0, 0))
                ends.send(name, ready.encode())
            elif asked.kind in (Kind.STEP, Kind.GRAD):
                now = time.monotonic()
                if name in sent:
                    trips.append(now - sent[name])
                sent[name] = now
                step = asked.step + (asked.kind == Kind.GRAD)
                ends.send(name, Message(Kind.ACT, asked.session, 1, step, body=act).encode())


# ---- the host ----


def _host(pipe: Connection, devices: int, reply: int, seconds: float) -> None:
    """A row to the pipe, or the UserError that says why there is none."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            pipe.send(_measure(Path(folder), devices, reply, seconds))
    except UserError as error:
        pipe.send(UserError(str(error), error.exit_code))
    except KeyboardInterrupt:
        return


@dataclass
class _Served:
    """A listener, the sessions behind it, and what was counted."""

    listener: Listener
    fleet: Fleet
    grad: bytes
    joined: set[str] = field(default_factory=set)
    lost: dict[str, float] = field(default_factory=dict)  # when it was noticed
    counts: dict[str, int] = field(default_factory=dict)  # activations by device
    sent: int = 0  # bytes
    received: int = 0

    def until(self, done: Callable[[], bool], within: float) -> bool:
        """Serves until `done`, or for `within` seconds; True: it was done."""
        end = time.monotonic() + within
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            for event in self.listener.poll(min(left, 0.1)):
                if isinstance(event, Lost):
                    self.lost[event.peer] = time.monotonic()
                    self.fleet.lost(event.peer, event.reason)
                else:
                    self._take(event.peer, event.data)
        return True

    def _take(self, peer: str, data: bytes) -> None:
        from .edge_host.fleet import Answer, Joined

        self.received += len(data)
        for happening in self.fleet.receive(peer, data, time.monotonic()):
            if isinstance(happening, Joined):
                self.joined.add(peer)
            elif isinstance(happening, Answer):
                step = happening.message.step
                self.counts[peer] = self.counts.get(peer, 0) + 1
                self.fleet.send(peer, Message(Kind.GRAD, 0, 1, step, body=self.grad))
        self.send()

    def send(self) -> None:
        for peer, data in self.fleet.outbox:
            if self.listener.send(peer, data):
                self.sent += len(data)
        self.fleet.outbox.clear()


def _measure(folder: Path, devices: int, reply: int, seconds: float) -> Row:
    from .edge_host.fleet import Fleet
    from .edge_host.host import cut_model, make_plan

    host, own = _keys(folder, devices)
    job = Job([ZoneSection(ZONE, "")], [DeviceSection(name, ZONE) for name in own])
    fleet = Fleet(job, ZONE, make_plan(job, cut_model(job)))
    grad = wire.grad_body(0.05, 1.0, parcel.pack(np.zeros(reply, np.float32), "int8"))
    listener = open_listener("tcp://127.0.0.1:*", {}, name=HOST, keys=host)
    parts = [dict(list(own.items())[number::PROCESSES]) for number in range(PROCESSES)]
    context, crowds = get_context("spawn"), []
    try:
        for part in parts:
            here, there = context.Pipe()
            crowd = context.Process(
                target=_devices, args=(there, listener.address(), part), daemon=True
            )
            crowd.start()
            there.close()
            crowds.append((crowd, here))
        served = _Served(listener, fleet, grad)
        return _phases(served, crowds, parts, seconds)
    finally:
        for crowd, here in crowds:
            here.close()
            crowd.kill()
            crowd.join()
        listener.close()


def _keys(folder: Path, devices: int) -> tuple[Keys, dict[str, Keys | None]]:
    """The host's, from a key folder as large as the fleet, and those of the devices by name."""
    make_keys(folder, [HOST])
    secrets = {f"device-{number}": new_secret() for number in range(devices)}
    for name, secret in secrets.items():
        (folder / f"{name}.public").write_text(f"{public_of(secret)}\n")
    host = load_keys(folder, HOST)
    peers = {HOST: host.public}
    return host, {n: Keys(n, secret, public_of(secret), peers) for n, secret in secrets.items()}


def _phases(
    served: _Served, crowds: list[Any], parts: list[dict[str, Keys | None]], seconds: float
) -> Row:
    devices = sum(len(part) for part in parts)
    served.until(lambda: False, 2.0)  # until the processes of the devices have started
    rss, begin = _rss_kb(), time.monotonic()
    for _, pipe in crowds:
        pipe.send("join")
    if not served.until(lambda: len(served.joined) == devices, WITHIN_S):
        raise UserError(
            f"only {len(served.joined)} of {devices} devices joined in {WITHIN_S:.0f} s: try fewer",
            1,
        )
    row: Row = {"devices": devices, "joined_s": round(time.monotonic() - begin, 3)}
    row |= {"up_bytes": UP, "down_bytes": len(served.grad), **_idle(served)}
    row |= _traffic(served, crowds, seconds)
    row["kb_per_device"] = round((row["host_rss_mb"] * 1024 - rss) / devices, 1)
    row["lost"] = len(served.lost)  # by mistake
    row["killed_s"] = _noticed(served, crowds[0][0].pid, signal.SIGKILL, set(parts[0]))
    row["stopped_s"] = _noticed(served, crowds[1][0].pid, signal.SIGSTOP, set(parts[1]))
    return row


def _idle(served: _Served) -> Row:
    """What pings and heartbeats alone take, as a share of one core."""
    served.until(lambda: False, WARM_S)
    begin, cpu = time.monotonic(), time.process_time()
    served.until(lambda: False, IDLE_S)
    return {"idle_cpu": round((time.process_time() - cpu) / (time.monotonic() - begin), 4)}


def _traffic(served: _Served, crowds: list[Any], seconds: float) -> Row:
    """Every device always has one activation under way: what the host can serve, and how evenly."""
    for name in served.joined:
        body = wire.step_body(0.05, 0, 1, None)
        served.fleet.send(name, Message(Kind.STEP, 0, 1, 0, body=body))
    served.send()
    served.until(lambda: False, WARM_S)
    _round_trips(served, crowds)
    before, begin, cpu = dict(served.counts), time.monotonic(), time.process_time()
    crossed = served.sent + served.received
    served.until(lambda: False, seconds)
    spent, wall = time.process_time() - cpu, time.monotonic() - begin
    crossed, rss = served.sent + served.received - crossed, _rss_kb()
    found = [served.counts.get(name, 0) - before.get(name, 0) for name in sorted(served.joined)]
    total = sum(found)
    if total == 0:
        raise UserError("no message was served in the time that was measured", 1)
    trips = 1000 * _round_trips(served, crowds)
    p50, p99 = np.percentile(trips, [50, 99]) if len(trips) else (0.0, 0.0)
    return {
        "messages_per_s": round(total / wall),
        "bytes_per_s": round(crossed / wall),
        "least": min(found),
        "median": statistics.median(found),
        "most": max(found),
        "jain": round(total**2 / (len(found) * sum(count**2 for count in found)), 4),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "host_rss_mb": round(rss / 1024, 2),
        "cpu_us": round(spent / total * 1e6, 1),
    }


def _round_trips(served: _Served, crowds: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Seconds of every answer since the last call, as the devices saw them."""
    for _, pipe in crowds:
        pipe.send("tell")
    found = []
    for _, pipe in crowds:
        served.until(pipe.poll, WITHIN_S)
        found.append(np.frombuffer(pipe.recv_bytes()))
    return np.concatenate(found)


def _noticed(served: _Served, pid: int, how: signal.Signals, devices: set[str]) -> float | None:
    """Seconds until the last of these was missed, the others served meanwhile; None: it was not."""
    served.lost.clear()
    begin = time.monotonic()
    os.kill(pid, how)
    if not served.until(lambda: served.lost.keys() >= devices, 10.0):
        return None
    return round(max(served.lost[name] for name in devices) - begin, 2)


def _rss_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


# ---- the table ----


def _print(command: str, rows: list[Row]) -> None:
    machine = describe_machine()
    print(command)
    print(
        f"{machine['cpu']}, {machine['cores']} cores for host and devices, load {machine['load']}; "
        f"an activation of {UP / 1000:.0f} KB up, a gradient down, the next as soon as it is there"
    )
    head = ["devices", "down", "all joined", "served/s", "MB/s", "a device: least, median, most"]
    head += ["Jain", "p50", "p99", "host CPU", "idle", "KB/device", "killed", "stopped"]
    lines = [
        [
            str(row["devices"]),
            f"{row['down_bytes'] / 1000:.1f} KB",
            f"{row['joined_s']:.2f} s",
            str(row["messages_per_s"]),
            f"{row['bytes_per_s'] / 1e6:.0f}",
            f"{row['least']}, {row['median']:.0f}, {row['most']}",
            f"{row['jain']:.4f}",
            f"{row['p50_ms']:.1f} ms",
            f"{row['p99_ms']:.1f} ms",
            f"{row['cpu_us']:.0f} us",
            f"{100 * row['idle_cpu']:.1f} %",
            f"{row['kb_per_device']:.0f}",
            *(f"{row[k]:.2f} s" if row[k] is not None else "no" for k in ("killed_s", "stopped_s")),
        ]
        for row in rows
    ]
    print_table(head, lines, 0)
