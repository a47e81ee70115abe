"""`seamline bench plan`: plans beside the exhaustively measured optimum, the predictor's errors,
deadlines while the bandwidth changes, Neurosurgeon's claim, and the time to plan again."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from .bench_deadline import deadline_rows
from .edge_host.measure import Setting, measure
from .edge_host.models import BUNDLED, load_model
from .edge_host.partition import Pass, branch
from .edge_host.real_step import Model, Place, RealSteps, Stages
from .edge_host.search import Candidate, Wish, search
from .kernels.bench import interleave
from .machine import describe_machine
from .plan_link import Crossing, slower
from .runtime.errors import UserError
from .runtime.layer_bank import make_bank, time_bank
from .runtime.predictor import Predictor, fit, predict
from .runtime.profile import Link, Profile
from .table import print_table

Row = dict[str, Any]
RATES = (50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000)
DELAY_MS = 5.0  # each way
AVERAGED = 10  # steps between two averages of the fronts
BATCH = 8
PASSES: tuple[Pass, ...] = ("training", "inference")
BANK_REPEAT = 5
REALTIME_S = 1.0  # longest step that is run again over a link in real time
REALTIME_RUNS = 3
SEARCHES = 30


@dataclass(frozen=True)
class Net:
    """A network, what it takes here, and what it is predicted to take from the bank. slow: its
    device takes so many times longer than this machine, in the profiles as in what is measured."""

    name: str
    model: Model
    profile: Profile
    predicted: Profile
    slow: float = 1.0


def run_bench_plan(args: argparse.Namespace) -> int:
    """Measures and prints. Raises UserError (2)."""
    unknown = [name for name in args.net or () if name not in BUNDLED]
    if unknown:
        raise UserError(f"--net {unknown[0]}: there are {', '.join(BUNDLED)}")
    document: Row = {"machine": describe_machine(), "command": shlex.join(args.command_line)}
    try:
        document |= _document(args)
    finally:
        _progress("")
    if args.format == "json":
        sys.stdout.write(json.dumps(document) + "\n")
        return 0
    print(document["command"])
    _print(document)
    return 0


def _document(args: argparse.Namespace) -> Row:
    laws = fit(time_bank(make_bank(args.bank), BANK_REPEAT, _progress), "this machine")
    nets = [_net(name, laws, args) for name in args.net or BUNDLED]
    rows: list[Row] = []
    claims: list[Row] = []
    deadlines: list[Row] = []
    for net in nets:
        for pass_ in PASSES:
            _progress(f"{net.name}, {pass_}")
            real = RealSteps(net.model, net.profile, pass_)
            table = real.measure(args.repeat)
            for slow in _slows(args):
                there = _slowed(net, slow)
                rows += [_row(there, pass_, rate, table, real) for rate in RATES]
                if pass_ == "inference":
                    claims += [_claim(there, rate, table) for rate in RATES]
        _progress(f"{net.name}, deadlines")
        deadlines += deadline_rows(net.name, net.model, net.profile, args)
    return {
        "rows": rows,
        "predictor": [row for net in nets for row in _errors(net)],
        "neurosurgeon": claims,
        "deadlines": deadlines,
        "replan": [_replan(net, pass_) for net in nets for pass_ in PASSES],
    }


def _slows(args: argparse.Namespace) -> Sequence[float]:
    return (1.0, args.slow) if args.slow > 1 else (1.0,)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _net(name: str, laws: Predictor, args: argparse.Namespace) -> Net:
    model = load_model(name, {}, 0)
    setting = Setting(name, "this machine", "this machine", BATCH, args.repeat)
    profile = measure(model, setting, _progress)
    return Net(name, model, profile, predict(laws, profile))


def _slowed(net: Net, slow: float) -> Net:
    profiles = slower(net.profile, slow), slower(net.predicted, slow)
    return Net(net.name, net.model, *profiles, slow)


# ---- chosen against measured ----


def _wish(pass_: Pass) -> Wish:
    return Wish(pass_, averaged=(AVERAGED,))


def _place(profile: Profile, it: Candidate) -> Place:
    """What is run for a candidate: where nothing crosses, codecs are all the same."""
    seam = next(seam for seam in profile.seams if seam.units == it.cut)
    whole = it.cut == len(profile.units)
    return Place(it.cut, seam.number, profile.codecs[0].name if whole else it.codec)


def seconds_of(stages: Stages, rate: int, slow: float = 1.0) -> float:
    """A step as measured, its messages over the emulated line in that line's own time."""
    way = Crossing(rate, DELAY_MS)
    crossing = way.seconds(stages.up) + way.seconds(stages.down, down=True)
    shared = way.seconds(stages.shared) + way.seconds(stages.shared, down=True)
    return slow * stages.device + stages.edge + crossing + shared / AVERAGED


def _row(net: Net, pass_: Pass, rate: int, table: dict[Place, Stages], real: RealSteps) -> Row:
    link = Link(rate, rate, 2 * DELAY_MS / 1e3)
    found = search(net.profile, link, _wish(pass_)).best
    other = search(net.predicted, link, _wish(pass_)).best
    legal = {place: stages for place, stages in table.items() if place.units}
    totals = {place: seconds_of(stages, rate, net.slow) for place, stages in legal.items()}
    best = min(totals, key=lambda place: totals[place])
    chosen, predicted = _place(net.profile, found), _place(net.profile, other)
    row = {
        "net": net.name,
        "pass": pass_,
        "slow": net.slow,
        "bandwidth_bps": rate,
        "seam": chosen.number,
        "exit": found.exit,
        "codec": chosen.codec,
        "chosen_ms": 1e3 * totals[chosen],
        "best_ms": 1e3 * totals[best],
        "predicted_ms": 1e3 * found.seconds,
        "ratio": totals[chosen] / totals[best],
        "best_seam": best.number,
        "best_codec": best.codec,
        "from_predictor_seam": predicted.number,
        "from_predictor_codec": predicted.codec,
        "from_predictor_ms": 1e3 * totals[predicted],
        "from_predictor_ratio": totals[predicted] / totals[best],
        "wall_ms": None,
    }
    stages = legal[chosen]
    if stages.up and net.slow == 1 and totals[chosen] < REALTIME_S:
        row["wall_ms"] = 1e3 * _wall(real, chosen, rate, stages)
    return row


def _wall(real: RealSteps, place: Place, rate: int, stages: Stages) -> float:
    """The same step by the clock: its messages are held as long as the line holds them."""
    found = []
    for _ in range(REALTIME_RUNS):
        way = Crossing(rate, DELAY_MS)
        start = time.perf_counter()
        real.run(place, lambda size, down, way=way: way.wait(size, down=down))  # type: ignore[misc]
        found.append(time.perf_counter() - start)
    way = Crossing(rate, DELAY_MS)
    shared = way.seconds(stages.shared) + way.seconds(stages.shared, down=True)
    return min(found) + shared / AVERAGED


# ---- Neurosurgeon's claim ----


def _claim(net: Net, rate: int, table: dict[Place, Stages]) -> Row:
    """Latency of the plan beside the edge host alone, as raw samples reach it in the best codec,
    and beside the device alone."""
    link = Link(rate, rate, 2 * DELAY_MS / 1e3)
    profile = net.profile
    chosen = _place(profile, search(profile, link, _wish("inference")).best)
    totals = {place: seconds_of(stages, rate, net.slow) for place, stages in table.items()}
    cloud = min(seconds for place, seconds in totals.items() if not place.units)
    alone = [s for place, s in totals.items() if place.units == len(profile.units)]
    split = totals[chosen]
    either = min([cloud, split])
    return {
        "net": net.name,
        "bandwidth_bps": rate,
        "slow": net.slow,
        "seam": chosen.number,
        "chosen_ms": 1e3 * split,
        "cloud_only_ms": 1e3 * cloud,
        "device_only_ms": 1e3 * alone[0] if alone else None,
        "with_cloud_ms": 1e3 * either,
        "speedup": cloud / split,
        "speedup_with_cloud": cloud / either,
    }


# ---- the predictor, and the time to plan ----


def _errors(net: Net) -> list[Row]:
    """A row for each layer, and one for all: errors of what the bank predicts, as shares."""
    rows = []
    for real, guess in zip(net.profile.units, net.predicted.units, strict=True):
        if real.device is None or guess.device is None:
            continue
        row: Row = {"net": net.name, "layer": real.name}
        for what in ("infer", "forward", "backward"):
            measured, made = getattr(real.device, what), getattr(guess.device, what)
            row[f"{what}_us"] = 1e6 * measured
            row[f"{what}_error"] = made / measured - 1 if measured else 0.0
        rows.append(row)
    whole: Row = {"net": net.name, "layer": "all"}
    for what in ("infer", "forward", "backward"):
        total = sum(row[f"{what}_us"] for row in rows)
        made = sum(row[f"{what}_us"] * (1 + row[f"{what}_error"]) for row in rows)
        whole[f"{what}_us"], whole[f"{what}_error"] = total, made / total - 1
        whole[f"{what}_median_error"] = median(abs(row[f"{what}_error"]) for row in rows)
    return [*rows, whole]


def _replan(net: Net, pass_: Pass) -> Row:
    """Milliseconds of a search over all that may be chosen."""
    wish = replace(_wish(pass_), averaged=(1, 5, 10, 50), in_flight=(1, 2), deadline=100.0)
    link = Link(RATES[3], RATES[3], 2 * DELAY_MS / 1e3)
    looked = search(net.profile, link, wish).looked_at
    it = interleave({"": lambda: search(net.profile, link, wish)}, SEARCHES)[""]
    return {
        "net": net.name,
        "pass": pass_,
        "units": len(branch(net.profile).units),
        "candidates": looked,
        "replan_ms": it.us / 1e3,
        "replan_ms_median": it.us_median / 1e3,
    }


# ---- for people ----


def _print(document: Row) -> None:
    head = ["net", "pass", "seam", "codec", "slow", "bit/s", "chosen ms", "best ms", "ratio"]
    head += ["predicted ms", "wall ms", "predictor's"]
    print_table(head, [_cells(row) for row in document["rows"]], 4)
    print(_summary(document["rows"]))
    wholes = [row for row in document["predictor"] if row["layer"] == "all"]
    what = ("infer", "forward", "backward")
    lines = [
        [row["net"], *(f"{row[f'{w}_median_error']:.1%}" for w in what)]
        + [f"{row[f'{w}_error']:+.1%}" for w in what]
        for row in wholes
    ]
    print("\npredictor, from a bank of other layers: median layer, whole network")
    print_table(["net", *what, *(f"whole {w}" for w in what)], lines, 1)
    _print_claims(document["neurosurgeon"])
    print("\ndeadlines while the bandwidth changes")
    head = ["net", "slow", "deadline ms", "asked", "hits", "knowing all", "fixed", "deepest exit"]
    lines = [
        [row["net"], f"{row['slow']:g}", f"{row['deadline_ms']:.3g}", str(row["asked"])]
        + [f"{row[name]:.1%}" for name in ("hits", "hits_known", "hits_fixed", "deepest")]
        for row in document["deadlines"]
    ]
    print_table(head, lines, 1)
    print("\nplanning again")
    lines = [
        [
            row["net"],
            row["pass"],
            *(str(row[name]) for name in ("units", "candidates")),
            *(f"{row[name]:.2f}" for name in ("replan_ms", "replan_ms_median")),
        ]
        for row in document["replan"]
    ]
    print_table(["net", "pass", "units", "candidates", "least ms", "median ms"], lines, 2)


def _cells(row: Row) -> list[str]:
    times = [f"{row[name]:.4g}" for name in ("chosen_ms", "best_ms")]
    wall = "-" if row["wall_ms"] is None else f"{row['wall_ms']:.4g}"
    place = [row["net"], row["pass"], str(row["seam"]), row["codec"]]
    place += [f"{row['slow']:g}", f"{row['bandwidth_bps']:,}"]
    ends = [f"{row['ratio']:.3f}", f"{row['predicted_ms']:.4g}", wall]
    return [*place, *times, *ends, f"{row['from_predictor_ratio']:.3f}"]


def _summary(rows: list[Row]) -> str:
    said = []
    for what, name in (("measured profile", "ratio"), ("predictor's", "from_predictor_ratio")):
        within = sum(row[name] <= 1.02 for row in rows)
        worst = max(row[name] for row in rows) - 1
        said.append(f"{what}: within 2 % in {within} of {len(rows)}, worst {worst:.1%} slower")
    return "; ".join(said)


def _print_claims(rows: list[Row]) -> None:
    print("\nlatency against the edge host alone (Neurosurgeon: 3.1x mean, 40.7x max)")
    lines = []
    slow = max(row["slow"] for row in rows)
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [r["speedup_with_cloud"] for r in rows if (r["slow"], r["net"]) == (slow, net)]
        lines.append([net, f"{slow:g}", f"{mean(own):.1f}", f"{max(own):.1f}"])
    print_table(["net", "device slower by", "mean", "max"], lines, 1)
