"""`seamline plan --bandwidth`: a table of candidates, the best and why, latency by bandwidth."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .edge_host.partition import (
    BreakEven,
    NoPlan,
    Scene,
    branch,
    break_even,
    edgent,
    legal_cuts,
    neurosurgeon,
    seam_of,
)
from .edge_host.search import Candidate, Found, Wish, search
from .machine import describe_machine
from .runtime.boards import find_board
from .runtime.errors import UserError
from .runtime.profile import Link, Profile, load_profile
from .table import print_table

if TYPE_CHECKING:
    from .runtime.config import Job

RATES = tuple(10 ** (3.5 + step / 8) for step in range(37))  # bits a second, to 100 Mbit/s
REPEAT = 7  # samples of a time, where nothing is measured yet
SHOWN = 12
SUFFIX = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Answer:
    """What was found, at which link, and what split learning sends beside federated learning."""

    profile: Profile
    link: Link
    wish: Wish
    found: Found
    even: BreakEven


def run_choice(args: argparse.Namespace, job: Job | None) -> int:
    """Prints the table or the JSON document; writes the page. Raises UserError (2, 3, 5)."""
    profile = _profile(args, job)
    answer = _answer(args, job, profile, _link(args, profile))
    if args.out:
        from .plan_page import render

        curves = latency_by_rate(answer)
        Path(args.out).write_text(render(answer, curves, explain(answer)), encoding="utf-8")
    if args.format == "json":
        sys.stdout.write(json.dumps(_document(args, answer)) + "\n")
        return 0
    _print(answer)
    if args.out:
        print(f"latency against bandwidth: {args.out}")
    return 0


def _profile(args: argparse.Namespace, job: Job | None) -> Profile:
    if args.profile is None:
        from .profile_command import measure_here

        return measure_here(args.model, job, args.batch, None, REPEAT)
    profile = load_profile(Path(args.profile))
    wanted = job.model.name if job else args.model
    if profile.model != wanted:
        raise UserError(f"--profile {args.profile}: it is of {profile.model}, not of {wanted}")
    return profile


def _link(args: argparse.Namespace, profile: Profile) -> Link:
    """Raises UserError (exit 2) for what is no bandwidth."""
    rates = [_rate(part) for part in args.bandwidth.split("/")]
    if len(rates) > 2:
        raise UserError(f"--bandwidth: expected UP or UP/DOWN, got {args.bandwidth!r}")
    known = profile.link
    trip = known.round_trip if known and args.round_trip is None else (args.round_trip or 0) / 1e3
    loss = known.loss if known and args.loss is None else args.loss or 0.0
    if not (0 <= trip < math.inf and 0 <= loss < 1):
        raise UserError("--round-trip is at least 0 ms, --loss at least 0 and below 1")
    return Link(rates[0], rates[-1], trip, loss)


def _rate(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text)
    if found is None:
        raise UserError(f"--bandwidth: expected bits a second like 250k or 1M, got {text!r}")
    return float(found[1]) * SUFFIX[found[2]]


def _answer(args: argparse.Namespace, job: Job | None, profile: Profile, link: Link) -> Answer:
    board = find_board(args.board) if args.board else None
    wish = Wish(
        pass_=args.pass_ or "training",
        goal=args.goal,
        deadline=args.deadline / 1e3 if args.deadline is not None else None,
        exits=tuple(args.exit) if args.exit else None,
        codecs=tuple(args.codec) if args.codec else None,
        modes=tuple(args.mode or ["split"]),
        averaged=tuple(args.averaged or [job.train.device_steps if job else 1]),
        uploads=tuple(args.uploads or [1]),
        floor=_floor(profile, args.floor),
        ram=board.ram if board else None,
        flash=board.flash if board else None,
    )
    found = search(profile, link, wish, SHOWN)
    devices = args.devices or (max(1, len(job.devices)) if job else 1)
    best = found.best
    steps = best.interval if best.mode == "split" else 1
    samples = args.samples or devices * profile.batch * steps
    even = break_even(profile, best.cut, samples, devices, best.exit)
    return Answer(profile, link, wish, found, even)


def _floor(profile: Profile, number: int) -> int:
    """Units in front of the least seam allowed."""
    units = [seam.units for seam in profile.seams if seam.number >= number]
    if not profile.seams:
        unable = profile.units[branch(profile).runnable :]
        raise NoPlan(
            f"{profile.model} has no legal seam: "
            + (f"devices have no kernel for {unable[0].name}" if unable else "none has a plan")
        )
    if not units:
        deepest = max((seam.number for seam in profile.seams), default=0)
        raise NoPlan(f"{profile.model}: no legal seam from {number} on; the deepest is {deepest}")
    return min(units)


# ---- the chosen one, in words ----


def explain(answer: Answer) -> list[str]:
    """Why the best is the best, what bounds it, what it would cost without each limit, and the
    classic choices beside it."""
    best, wish = answer.found.best, answer.wish
    value = _goal(wish, best)
    said = [f"chosen: {_what(answer.profile, best)}: {value}, most of it {best.bound}"]
    others = answer.found.others[1:]
    if others:
        said.append(f"next best: {_what(answer.profile, others[0])}: {_goal(wish, others[0])}")
    for name, without in answer.found.limits.items():
        unit = f"{1e3 * without:.3g} ms" if wish.goal == "time" else f"{without:.3g} J"
        said.append(f"the limit of {name} costs: without it {unit}")
    for name, count in answer.found.refused.items():
        if count:
            said.append(f"{count} candidates do not keep the limit of {name}")
    said += _classics(answer)
    if wish.pass_ == "training" and answer.even.cut_values:
        said.append(answer.even.text())
    return said


def _what(profile: Profile, it: Candidate) -> str:
    of = branch(profile, it.exit)
    seam = seam_of(profile, of, it.cut)
    place = f"seam {seam.number} (behind {seam.name})" if seam else f"{it.cut} units on the device"
    how = "alone, loss at its exit" if it.mode == "local" else it.codec
    if it.mode == "split" and not it.stages[1]:
        how = "nothing crosses in a step"
    exit_ = "" if it.exit == "end" else f", exit {it.exit}"
    return f"{place}{exit_}, {how}"


def _goal(wish: Wish, it: Candidate) -> str:
    return f"{1e3 * it.seconds:.3g} ms" if wish.goal == "time" else f"{it.joules:.3g} J"


def _classics(answer: Answer) -> list[str]:
    """What Neurosurgeon and Edgent would do with the chosen codec, limits of memory aside."""
    best, wish, said = answer.found.best, answer.wish, []
    codec = answer.profile.codec(best.codec)
    scene = Scene(answer.profile, answer.link, codec, wish.pass_, wish.load)
    of = branch(answer.profile, best.exit)
    try:
        one = neurosurgeon(scene, of, wish.goal, legal_cuts(answer.profile, of, wish.floor))
        said.append(
            f"Neurosurgeon, {codec.name}: {one.cut} units on the device, "
            f"{1e3 * one.cost.seconds:.3g} ms (knows no averaging of fronts)"
        )
        if wish.deadline is not None:
            two = edgent(scene, wish.deadline, wish.exits, wish.floor)
            said.append(
                f"Edgent: exit {two.exit}, {two.cut} units, {1e3 * two.cost.seconds:.3g} ms"
            )
    except NoPlan as error:
        said.append(str(error))
    return said


def _print(answer: Answer) -> None:
    wish, link = answer.wish, answer.link
    unit = "a step" if wish.pass_ == "training" else "an inference"
    print(
        f"{answer.profile.model}, {answer.profile.origin} on {answer.profile.device}, "
        f"{link.up:g}/{link.down:g} bit/s, round trip {1e3 * link.round_trip:g} ms, {unit}, "
        f"batch {answer.profile.batch if wish.pass_ == 'training' else 1}"
    )
    head = ["seam", "exit", "mode", "codec", "every", "ms", "device", "up", "edge", "down"]
    head += ["trip", "average", "RAM", "flash", "bytes up", "bytes down"]
    head += ["J"] * (answer.profile.energy is not None)
    lines = [_line(answer.profile, it) for it in answer.found.others]
    print_table(head, lines, 4)
    print(f"{answer.found.looked_at:,} candidates looked at")
    for said in explain(answer):
        print(said)


def _line(profile: Profile, it: Candidate) -> list[str]:
    seam = seam_of(profile, branch(profile, it.exit), it.cut)
    codec = it.codec if it.stages[1] or it.mode == "local" else "-"
    line = [str(seam.number) if seam else f"({it.cut})", it.exit, it.mode, codec, str(it.interval)]
    line += [f"{1e3 * seconds:.3g}" for seconds in (it.seconds, *it.stages, it.averaging)]
    line += [f"{size:,.0f}" for size in (it.ram, it.flash, it.bytes_up, it.bytes_down)]
    return line + [f"{it.joules:.3g}"] * (profile.energy is not None)


# ---- JSON ----


def _document(args: argparse.Namespace, answer: Answer) -> dict[str, Any]:
    """Rows as `seamline bench plan` has them, where they mean the same."""
    return {
        "machine": describe_machine(),
        "command": " ".join(args.command_line),
        "rows": [_row(answer, it) for it in answer.found.others],
        "chosen": _row(answer, answer.found.best),
        "why": explain(answer),
        "break_even": {"split": answer.even.split, "federated": answer.even.federated},
    }


def _row(answer: Answer, it: Candidate) -> dict[str, Any]:
    seam = seam_of(answer.profile, branch(answer.profile, it.exit), it.cut)
    row = {
        "net": answer.profile.model,
        "bandwidth_bps": answer.link.up,
        "seam": seam.number if seam else None,
        "units": it.cut,
        "exit": it.exit,
        "mode": it.mode,
        "codec": it.codec,
        "interval": it.interval,
        "predicted_ms": 1e3 * it.seconds,
        "stages_ms": [1e3 * stage for stage in it.stages],
        "averaging_ms": 1e3 * it.averaging,
        "bound": it.bound,
        "ram_bytes": it.ram,
        "flash_bytes": it.flash,
        "bytes_up": it.bytes_up,
        "bytes_down": it.bytes_down,
    }
    return row | ({} if math.isnan(it.joules) else {"joules": it.joules})


# ---- latency against bandwidth ----


def latency_by_rate(answer: Answer) -> dict[str, list[tuple[float, float]]]:
    """(bits a second up, milliseconds) of each seam with the codec that is best there, and of
    what is chosen at each rate ("chosen"). Up and down scale alike; the deadline is left out, the
    memory is not."""
    ratio = answer.link.down / answer.link.up if answer.link.up > 0 else 1.0
    wish = replace(answer.wish, deadline=None, goal="time")
    curves: dict[str, list[tuple[float, float]]] = {}
    for rate in RATES:
        link = Link(rate, rate * ratio, answer.link.round_trip, answer.link.loss)
        try:
            found = search(answer.profile, link, wish, 10_000)
        except NoPlan:
            continue
        curves.setdefault("chosen", []).append((rate, 1e3 * found.best.seconds))
        seen: set[str] = set()
        for it in found.others:
            name = _short(answer.profile, it)
            if name not in seen:
                seen.add(name)
                curves.setdefault(name, []).append((rate, 1e3 * it.seconds))
    return curves


def _short(profile: Profile, it: Candidate) -> str:
    seam = seam_of(profile, branch(profile, it.exit), it.cut)
    place = f"seam {seam.number}" if seam else f"{it.cut} units"
    exit_ = "" if it.exit == "end" else f", {it.exit}"
    return f"{place}{exit_}" + (", alone" if it.mode == "local" else "")
