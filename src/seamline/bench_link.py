"""`seamline bench link`: how much of a byte line is payload, how late a message comes, how soon an
end is back; and what a link costs its ends.

The ends are the product's own; the line is its fault model in virtual time, so a figure is the same
on every machine. What this machine's processor spends on a frame is measured beside it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import time
from itertools import product
from typing import Any

from .bench_footprint import LINKS, flash_rows, handshake_rows, memory_rows
from .events import json_emit
from .machine import describe_machine
from .runtime.faults import Faults
from .runtime.line_model import CLEAR, SEALED, Kind, World, utilisation
from .table import print_table

Row = dict[str, Any]

BAUDS = (115200, 921600, 3_000_000)
BERS = (0.0, 1e-6, 1e-5, 1e-4)
DELAY_MS = 1.0  # of the line, each way: drivers and USB
SIZE = 65536  # bytes of a message whose throughput counts
TOTAL = 1 << 20  # bytes of payload, at least
PROBE = 64  # bytes of a message whose way there and back counts
PROBES, RESETS = 20, 5


def run_bench_link(args: argparse.Namespace) -> int:
    """Prints a row for each rate, share of wrong bits and kind of end, and what an end costs."""
    command = shlex.join(args.command_line)
    document: dict[str, Any] = {"command": command, "machine": describe_machine()}
    if args.what in ("line", "both"):
        document |= _line(args)
    if args.what in ("footprint", "both"):
        document |= {
            "handshakes": handshake_rows(),
            "flash": flash_rows(),
            "memory": memory_rows(),
        }
    if args.format == "json":
        json_emit(document)
        return 0
    print(command)
    if "rows" in document:
        _print_line(document["rows"], document["costs"])
    if "flash" in document:
        _print_footprint(document)
    return 0


def _line(args: argparse.Namespace) -> dict[str, list[Row]]:
    kinds = {"clear": [CLEAR], "sealed": [SEALED], "both": [CLEAR, SEALED]}[args.ends]
    cases = product(kinds, args.baud or BAUDS, args.ber or BERS)
    rows = [row_of(kind, baud, ber, args.seed) for kind, baud, ber in cases]
    return {"rows": rows, "costs": [cost_of(kind) for kind in kinds]}


def row_of(kind: Kind, baud: int, ber: float, seed: int) -> Row:
    """utilisation: payload as a share of the line's bytes, 64 KiB messages one way. latency_ms: 64
    bytes there and 64 back, median. recovery_s: from an end's start, after a reset in the middle of
    a message, until a new message is through; median, and the worst of five.
    """
    line = Faults(baud=baud, ber=ber, delay_ms=DELAY_MS)
    world = World(kind, (line, line), seed, bytes_per_second=baud // 10).join()
    share = utilisation(world, SIZE, TOTAL // SIZE, baud / 10)
    counters = world.end(0).counters
    latency = _latency(World(kind, (line, line), seed, bytes_per_second=baud // 10).join())
    recovery = [_recovery(kind, line, seed * RESETS + i) for i in range(RESETS)]
    return {
        "link": "serial",
        "baud": baud,
        "ber": ber,
        "sealed": kind is SEALED,
        "utilisation": round(share, 4),
        "latency_ms": round(statistics.median(latency), 2),
        "recovery_s": round(statistics.median(recovery), 3),
        "recovery_worst_s": round(max(recovery), 3),
        "retransmits": counters["retransmits"],
        "payload_bytes": counters["mtu"],
    }


def _through(world: World, side: int, message: bytes) -> None:
    """One message from `side`, until the other end has it."""
    world.events[1 - side].clear()
    world.until(lambda: world.send(side, message))
    world.until(lambda: message in world.messages(1 - side))


def _latency(world: World) -> list[float]:
    found = []
    for number in range(PROBES):
        begin, message = world.now_us, bytes([number]) * PROBE
        _through(world, 0, message)
        _through(world, 1, message)
        found.append((world.now_us - begin) / 1000)
    return found


def _recovery(kind: Kind, line: Faults, seed: int) -> float:
    world = World(kind, (line, line), seed, bytes_per_second=line.baud // 10).join()
    _through(world, 1, b"before")
    world.send(0, bytes(SIZE))
    world.run(0.2 + 0.1 * (seed % RESETS))
    world.boot(1)
    begin = world.now_us
    world.until(lambda: world.end(1).joined and world.lost(0))
    _through(world, 1, b"behind it")
    return (world.now_us - begin) / 1e6


def cost_of(kind: Kind) -> Row:
    """Processor time of this machine in microseconds: a frame of 1 KiB made and read, and both ends
    of a handshake with the joining of the packets.
    """
    joins = []
    for seed in range(10):
        begin = time.process_time()
        world = World(kind, seed=seed).join()
        joins.append(time.process_time() - begin)
    world.send(0, bytes(TOTAL))
    before, begin = world.end(0).counters["packets_sent"], time.process_time()
    world.until(lambda: bool(world.messages(1)))
    spent, frames = time.process_time() - begin, world.end(0).counters["packets_sent"] - before
    return {
        "sealed": kind is SEALED,
        "frame_us": round(spent / frames * 1e6, 1),
        "join_us": round(min(joins) * 1e6),
    }


def _print_line(rows: list[Row], costs: list[Row]) -> None:
    print(f"messages of {SIZE >> 10} KiB one way, {DELAY_MS:.0f} ms delay each way, virtual time")
    head = ["ends", "baud", "wrong bits", "of the line", "there and back", "back after a reset"]
    head += ["worst", "sent again", "payload"]
    lines = [
        [
            "sealed" if row["sealed"] else "clear",
            str(row["baud"]),
            f"{row['ber']:.0e}" if row["ber"] else "0",
            f"{100 * row['utilisation']:.1f} %",
            f"{row['latency_ms']:.1f} ms",
            f"{row['recovery_s']:.2f} s",
            f"{row['recovery_worst_s']:.2f} s",
            str(row["retransmits"]),
            str(row["payload_bytes"]),
        ]
        for row in rows
    ]
    print_table(head, lines, 1)
    for cost in costs:
        kind = "sealed" if cost["sealed"] else "clear"
        print(
            f"{kind}: this machine spends {cost['frame_us']} us on a frame of 1 KiB, both ends and "
            f"the model of the line together, and {cost['join_us'] / 1000:.1f} ms until both have "
            "joined"
        )


def _print_footprint(document: dict[str, Any]) -> None:
    for row in document["handshakes"]:
        print(
            f"handshake {row['pattern']}: {row['messages']} messages, {row['bytes']} bytes on the "
            f"line, {row['ms']} ms of this machine's processor at each end"
        )
    for row in document["flash"]:
        ends = {None: "", False: ", clear", True: ", sealed"}[row.get("sealed")]
        if "note" in row:
            print(f"{row['target']}{ends}: not measured: {row['note']}")
            continue
        parts = ", ".join(f"{name} {part['flash']}" for name, part in row["parts"].items())
        print(
            f"{row['target']} -Os{ends}: {row['flash']} bytes of flash ({parts}), {row['ram']} of "
            "static RAM without the messages' buffers"
        )
    for row in document["memory"]:
        if "note" in row:
            print(f"device process, {row['link']}: not measured: {row['note']}")
            continue
        text = f"device process, {row['link']}: {row['process_mb']} MB resident"
        print(text + (f", {row['link_mb']} of them the link's" if row["link"] != LINKS[0] else ""))
