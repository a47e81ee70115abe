"""`seamline bench kernels`: our kernels beside those that a user would pick instead, per layer and
per network, against what the machine can do; and what a device can train per second."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .bench_codec import CODEC, codec_rows
from .bench_q8 import MOMENTUM, RATE, Q8Piece, Q8Training, chain_of
from .kernels import parcel, variant
from .kernels.bench import Prepared, Roofline, Timing, Work, interleave, measure_roofline
from .machine import describe_machine, package_version
from .runtime.config import Job
from .runtime.errors import UserError
from .runtime.layer_time import front_of
from .runtime.networks import (
    NETWORKS,
    PASSES,
    Network,
    Piece,
    costs,
    make_piece,
    network,
    units_of,
)
from .table import print_table

Row = dict[str, Any]
DTYPES = ("f32", "q8")
SLOWER = 0.15  # a row this much slower than before, beyond the noise of both, is a regression
STEP = {"rate": RATE, "momentum": MOMENTUM}
OWN_F32 = "seamline f32"  # the peer of a q8 front that trains
INSTALL = "not installed: pip install 'seamline[bench]'"


def run_bench_kernels(args: argparse.Namespace, job: Job | None) -> int:
    """Measures, prints, compares; returns 1 if a row has become slower. job: of --job."""
    unknown = [name for name in args.net or [] if name not in (*NETWORKS, CODEC)]
    if unknown:
        raise UserError(f"--net {unknown[0]}: there are {', '.join((*NETWORKS, CODEC))}")
    old = _read_old(args.compare) if args.compare else None
    speed = ""
    if job is None:
        passes, dtypes = args.passes or PASSES, args.dtypes or DTYPES
        names = [name for name in args.net or NETWORKS if name != CODEC]
        items = list(_items(names, passes, args.batch, dtypes))
    else:
        items = list(_job_items(job, args.passes or PASSES, args.batch))
    roofline = measure_roofline()
    rows: list[Row] = []
    for number, item in enumerate(items, 1):
        _progress(f"{number}/{len(items)} {item.net} {item.layer} {item.pass_}")
        rows += _measure(item, args.repeat, roofline)
    if _wants_codecs(args):
        _progress("codecs")
        rows += codec_rows(args.repeat, roofline)
    if job is not None:
        speed = _training_speed(job, items, args.repeat, rows)
    _progress("")
    slower = _compare(rows, old["rows"]) if old is not None else []
    command = " ".join(args.command_line)
    machine = describe_machine() | {
        **{name: package_version(name) for name in ("onnxruntime", "ai-edge-litert")},
        "peak_gmacs": round(roofline.macs / 1e9, 1),
        "peak_gmacs_q8": round(roofline.macs_q8 / 1e9, 1),
        "copy_gb_s": {str(size): round(rate / 1e9, 1) for size, rate in roofline.copies},
    }
    if args.format == "json":
        document = {"machine": machine, "command": command, "rows": rows}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print(machine, command, rows)
        if speed:
            print(speed)
    if old is not None:
        _report(slower, old["machine"], machine)
    return 1 if slower else 0


def _wants_codecs(args: argparse.Namespace) -> bool:
    """Named, or nothing is chosen at all."""
    return CODEC in (args.net or ()) or not (
        args.net or args.job or args.passes or args.dtypes or args.batch
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# ---- what is measured ----


@dataclass(frozen=True)
class Item:
    """layer: a unit's name, "front" or "all". dtype: f32 or q8."""

    net: str
    layer: str
    pass_: str
    piece: Piece
    dtype: str = "f32"


def _items(
    names: Sequence[str], passes: Sequence[str], batch: int | None, dtypes: Sequence[str]
) -> Iterator[Item]:
    for name in names:
        net = network(name)
        for dtype in DTYPES:
            for pass_ in PASSES:
                if dtype in dtypes and pass_ in passes:
                    for item in _net_items(net, pass_, batch):
                        if dtype == "f32" or pass_ == "forward" or item.layer == "front":
                            yield replace(item, dtype=dtype)


def _net_items(net: Network, pass_: str, batch: int | None) -> Iterator[Item]:
    """The whole network, the usual front, and (but for a step) each layer."""
    usual = (1,) if pass_ == "forward" else (1, 16)
    for size in usual if batch is None else (batch,):
        for layer, end in (("all", len(net.layers)), ("front", net.front)):
            layers, shape = net.part(0, end)
            yield Item(net.name, layer, pass_, make_piece(layers, shape, size))
    if pass_ != "step":
        for unit in net.units:
            layers, shape = net.part(unit.first, unit.end)
            piece = make_piece(layers, shape, batch or 1, inner=unit.first > 0)
            yield Item(net.name, unit.name, pass_, piece)


def _job_items(job: Job, passes: Sequence[str], batch: int | None) -> Iterator[Item]:
    """The front of a job, last its step. Raises UserError (exit 7) without PyTorch."""
    if find_spec("torch") is None:
        text = "'seamline bench kernels --job' needs PyTorch to cut the model: "
        raise UserError(text + "pip install 'seamline[edge]'", 7)
    from .edge_host.host import cut_model

    cut = cut_model(job)
    size = batch or job.train.batch
    net = Network(job.model.name, cut.input_shape, cut.front, units_of(cut.front), len(cut.front))
    for pass_ in PASSES:
        if pass_ in passes and pass_ != "step":
            yield Item(net.name, "front", pass_, make_piece(cut.front, cut.input_shape, size))
            for unit in net.units:
                layers, shape = net.part(unit.first, unit.end)
                piece = make_piece(layers, shape, size, inner=unit.first > 0)
                yield Item(net.name, unit.name, pass_, piece)
    whole = make_piece(cut.front, cut.input_shape, size)
    if job.train.arithmetic == "q8":
        for pass_ in PASSES:
            if pass_ in passes and pass_ != "step":
                yield Item(net.name, "front", pass_, whole, "q8")
        yield Item(net.name, "front", "step", whole, "q8")
    yield Item(net.name, "front", "step", whole)


def _ours(item: Item) -> Work | Prepared:
    """The pass as a device runs it: a plan in an arena, inputs copied in, the output out. int8: a
    chain with packed weights, inputs copied in."""
    piece, pass_ = item.piece, item.pass_
    if item.dtype == "q8" and pass_ != "forward":
        training = Q8Training(piece)
        if pass_ == "step":
            return training.step
        return Prepared(training.forward, training.backward)
    if item.dtype == "q8":
        quantised = Q8Piece(piece)
        chain, x8 = chain_of(quantised), quantised.x
        return lambda: chain.forward(x8)
    if pass_ == "step":
        return _step(piece)
    front, x, dy = front_of(piece, backward=pass_ != "forward"), piece.x, piece.dy
    if pass_ == "forward":
        return lambda: front.forward(x)
    return Prepared(lambda: front.forward(x), lambda: front.backward(dy))


def _step(piece: Piece) -> Work:
    front, x, dy = front_of(piece), piece.x, piece.dy

    def step() -> None:
        front.forward(x)
        front.backward(dy)
        front.update(**STEP)

    return step


# ---- peers ----


@dataclass(frozen=True)
class Peer:
    """Somebody else's kernels. needs: modules; passes, dtypes: what it can do; layers: also layer
    by layer. make raises whatever theirs raises."""

    name: str
    needs: tuple[str, ...]
    passes: tuple[str, ...]
    layers: bool
    make: Callable[[Item], Work | Prepared]
    dtypes: tuple[str, ...] = DTYPES

    def has(self, item: Item) -> bool:
        whole = item.layer in ("all", "front")
        return item.pass_ in self.passes and item.dtype in self.dtypes and (self.layers or whole)


def _torch(item: Item) -> Work:
    from .edge_host.bench_peer import torch_work

    return torch_work(item.piece, item.pass_)


def _onnx(item: Item) -> Work:
    from .bench_onnx import onnx_work

    return onnx_work(item.piece, item.dtype)


def _litert(resolver: str) -> Callable[[Item], Work]:
    def make(item: Item) -> Work:
        from .bench_litert import litert_work

        return litert_work(item.piece, resolver, item.dtype)

    return make


def _own_f32(item: Item) -> Work | Prepared:
    """The same pass in f32; beside a backward in int8, which updates as well, with the update."""
    if item.pass_ != "backward":
        return _ours(replace(item, dtype="f32"))
    piece = item.piece
    front = front_of(piece)

    def back() -> None:
        front.backward(piece.dy)
        front.update(**STEP)

    return Prepared(lambda: front.forward(piece.x), back)


LITERT = ("ai_edge_litert", "flatbuffers")
PEERS = (
    Peer("torch", ("torch",), PASSES, True, _torch, ("f32",)),
    Peer("onnxruntime", ("onnxruntime", "onnx"), ("forward",), True, _onnx),
    Peer("litert-xnnpack", LITERT, ("forward",), True, _litert("xnnpack")),
    Peer("litert-ruy", LITERT, ("forward",), True, _litert("ruy")),
    Peer("litert-reference", LITERT, ("forward",), False, _litert("reference")),
    Peer(OWN_F32, (), PASSES, False, _own_f32, ("q8",)),
)


def _peer_work(peer: Peer, item: Item) -> Work | Prepared | str:
    """The peer's work, or why there is none."""
    missing = [name for name in peer.needs if find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} {INSTALL}"
    try:
        return peer.make(item)
    except Exception as error:  # a peer may fail in any way; its row says how
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


# ---- rows ----


def _measure(item: Item, repeat: int, roofline: Roofline) -> list[Row]:
    """A row for each peer that does such a pass, there or not."""
    made = {peer.name: _peer_work(peer, item) for peer in PEERS if peer.has(item)}
    works = {name: work for name, work in made.items() if not isinstance(work, str)}
    times = interleave({"": _ours(item), **works}, repeat)
    parts = costs(item.piece, item.pass_)
    least = sum(roofline.least_us(cost.macs, cost.size, item.dtype) for cost in parts)
    own = _own(item, times[""], sum(cost.macs for cost in parts), least)
    rows = []
    for name, work in made.items():
        row = {**own, "peer": name, "peer_us": None, "peer_us_median": None, "ratio": None}
        if isinstance(work, str):
            row["note"] = work
        else:
            theirs = times[name]
            row["peer_us"] = round(theirs.us, 2)
            row["peer_us_median"] = round(theirs.us_median, 2)
            row["ratio"] = round(theirs.us / times[""].us, 3)
        rows.append(row)
    return rows


def _own(item: Item, time: Timing, macs: int, least_us: float) -> Row:
    return {
        "net": item.net,
        "layer": item.layer,
        "pass": item.pass_,
        "dtype": item.dtype,
        "variant": variant(),
        "batch": item.piece.batch,
        "us": round(time.us, 2),
        "us_median": round(time.us_median, 2),
        "noise": round(time.noise, 3),
        "gmacs": round(macs / time.us / 1e3, 2),
        "roofline": round(least_us / time.us, 3),
    }


def _training_speed(job: Job, items: Sequence[Item], repeat: int, rows: list[Row]) -> str:
    """One line: how many samples a second of the job this device can train, in each arithmetic of
    the steps; also in their rows, as samples_per_s. Packing of what crosses the seam is counted,
    the link is not."""
    steps = {item.dtype: item for item in items if item.layer == "front" and item.pass_ == "step"}
    piece = items[-1].piece
    split = job.mode not in ("federated", "isolated")
    works = {
        dtype: _with_packing(job, item) if split else _work(item) for dtype, item in steps.items()
    }
    times = interleave(works, repeat)
    speeds = {dtype: round(piece.batch / time.us * 1e6) for dtype, time in times.items()}
    for row in rows:
        if row["layer"] == "front" and row["pass"] == "step":
            row["samples_per_s"] = speeds[row["dtype"]]
    crossing = f"{job.codec.up} up and {job.codec.down} down packed" if split else "nothing crosses"
    each = " or ".join(
        f"{speeds[dtype]} samples/s in {dtype} ({time.us:.0f} us a step)"
        for dtype, time in times.items()
    )
    return (
        f"this device can train {each}: {job.model.name}, {len(piece.parameters)} "
        f"parameters in front, batch {piece.batch} "
        f"({crossing}, one thread, {variant()} kernels, without the link)"
    )


def _work(item: Item) -> Work:
    """A step, which needs nothing before it."""
    return Q8Training(item.piece).step if item.dtype == "q8" else _step(item.piece)


def _with_packing(job: Job, item: Item) -> Work:
    """A step, with packing of what goes up and unpacking of what comes down."""
    step, up = _work(item), item.piece.dy
    down = parcel.pack(up, job.codec.down)

    def whole() -> None:
        step()
        parcel.pack(up, job.codec.up)
        parcel.unpack(down)

    return whole


# ---- against an older run ----


def _read_old(path: str) -> Row:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = "`seamline bench kernels --format json > FILE` makes one"
        raise UserError(f"--compare: no file {path}; {text}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--compare: {path} is not JSON: {error}") from None
    try:
        for row in document["rows"]:
            _key(row)
            float(row["us"])
        return {"rows": document["rows"], "machine": dict(document["machine"])}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"--compare: {path} is not what `seamline bench kernels --format json` prints"
        ) from None


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("net", "layer", "pass", "dtype", "batch"))


def _compare(rows: list[Row], old: list[Row]) -> list[Row]:
    """Adds old_us and slower to the rows; returns one row of each thing that became slower."""
    before = {_key(row): row for row in old}
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        was = before.get(_key(row))
        if was is None:
            continue
        noise = float(row["noise"]) + float(was.get("noise", 0.0))
        row["old_us"] = was["us"]
        row["slower"] = row["us"] > float(was["us"]) * (1 + SLOWER + noise)
        if row["slower"]:
            found.setdefault(_key(row), row)
    return list(found.values())


def _report(slower: list[Row], old: Row, new: Row) -> None:
    """To standard error: the document has standard output for itself."""
    say = sys.stderr.write
    if (old.get("cpu"), old.get("cores")) != (new["cpu"], new["cores"]):
        say(f"note: the old run was on another machine: {old.get('cpu')}\n")
    for row in slower:
        what = f"{row['net']} {row['layer']} {row['pass']} {row['dtype']} batch {row['batch']}"
        change = row["us"] / row["old_us"] - 1
        say(f"slower: {what}: {row['old_us']} -> {row['us']} us ({change:+.0%})\n")
    say(f"{len(slower)} slower by more than {SLOWER:.0%} beyond the noise\n")


# ---- the table ----


def _print(machine: Row, command: str, rows: list[Row]) -> None:
    measured: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        measured.setdefault(_key(row), []).append(row)
    peers = ["copy", *(p.name for p in PEERS)]
    peers = [p for p in peers if any(r["peer"] == p and r["peer_us"] for r in rows)]
    head = ["net", "layer", "pass", "dtype", "batch", "us", "median", "GMAC/s", "roofline"]
    lines = []
    for same in measured.values():
        row = same[0]
        line = [str(row[k]) for k in ("net", "layer", "pass", "dtype", "batch")]
        line += [
            f"{row['us']:.1f}",
            f"{row['us_median']:.1f}",
            f"{row['gmacs']:.1f}" if row["gmacs"] else "",
        ]
        line.append(f"{row['roofline']:.0%}")
        against = {r["peer"]: f"{r['peer_us']:.1f} ({r['ratio']:.1f}x)" for r in same if r["ratio"]}
        lines.append([*line, *(against.get(peer, "") for peer in peers)])
    print(command)
    print(
        f"{machine['cpu']}, one thread, {machine['kernels']} kernels, peak "
        f"{machine['peak_gmacs']} GMAC/s, in int8 {machine['peak_gmacs_q8']}, load "
        f"{machine['load']}; us: the least of the samples; "
        "(8.0x): we are eight times faster"
    )
    print_table([*head, *peers], lines, words=4)
    for peer in PEERS:
        notes = {row["note"] for row in rows if row["peer"] == peer.name and "note" in row}
        for note in sorted(notes):
            print(f"no {peer.name}: {note}")
