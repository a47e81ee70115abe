"""`seamline profile`: times a network's layers on the kernels and in PyTorch, and keeps that."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .machine import describe_machine
from .runtime.boards import find_board
from .runtime.errors import UserError
from .runtime.layer_bank import make_bank, time_bank
from .runtime.layer_time import time_again
from .runtime.predictor import Predictor, fit, load_predictor, predict, save_predictor
from .runtime.profile import Profile, load_profile, save_profile
from .runtime.q8_time import time_q8
from .table import print_table

if TYPE_CHECKING:
    from .runtime.config import DeviceSection, Job

BATCH = 16  # where no job says
MHZ = 64.0  # of a board
BANK_REPEAT = 5  # samples of a time


def run_profile(args: argparse.Namespace, job: Job | None) -> int:
    """Measures, then writes --out or prints. Raises UserError (2, 5)."""
    _check(args)
    predictor = _predictor(args)
    if args.model.endswith(".json"):
        profile = _again(args)
    else:
        profile = measure_here(args.model, job, args.batch, args.id, args.repeat)
    if predictor is not None:
        profile = predict(predictor, profile)
    elif args.board:
        from .firmware_bridge.board_profile import profile_board

        mhz, dtype = args.mhz or MHZ, args.dtype or "q8"
        profile = profile_board(profile, args.board, mhz, dtype, _progress)
    elif args.dtype == "q8":
        profile = time_q8(profile, profile.device, args.repeat, _progress)
    _progress("")
    if args.out:
        save_profile(profile, Path(args.out))
    if args.format == "json":
        document = {
            "machine": describe_machine(),
            "command": " ".join(args.command_line),
            "rows": msgspec.to_builtins(profile.units),
            "profile": msgspec.to_builtins(profile),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print(profile, args.out)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for options that exclude one another."""
    if args.mhz and not args.board:
        raise UserError("--mhz is a board's clock: give --board as well")
    if (args.like or args.bank or args.predictor) and (args.board or args.dtype == "q8"):
        raise UserError("laws are of a machine's f32 kernels: leave out --board and --dtype q8")


def _again(args: argparse.Namespace) -> Profile:
    """A profile that was made elsewhere, its device's times anew from this machine."""
    if args.batch:
        raise UserError("--batch: a profile has its own; leave it out")
    kept = load_profile(Path(args.model))
    if args.board:
        return kept
    profile = time_again(kept, args.id or _machine(), args.repeat, _progress)
    _progress("")
    return profile


def _machine() -> str:
    return str(describe_machine()["cpu"])[:200] or "this machine"


def _predictor(args: argparse.Namespace) -> Predictor | None:
    """Fitted to what --like names and --bank measures (and kept), or the one that is kept. None:
    times are measured."""
    if not (args.like or args.bank):
        return load_predictor(Path(args.predictor)) if args.predictor else None
    profiles = [load_profile(Path(name)) for name in args.like or ()]
    samples = []
    if args.bank:
        samples = time_bank(make_bank(args.bank), BANK_REPEAT, _progress)
        _progress("")
    device = args.id or (profiles[0].device if profiles else _machine())
    found = fit([*profiles, *samples], device)
    if args.predictor:
        save_predictor(found, Path(args.predictor))
    return found


def measure_here(
    name: str, job: Job | None, batch: int | None, device: str | None, repeat: int
) -> Profile:
    """The profile of a model (or a job's) on this machine, one thread on each side. device: id in
    the job, whose board says what RAM and flash it has."""
    from .edge_host.measure import Setting, measure
    from .edge_host.models import load_model

    section = _device(job, device) if job and device else None
    board = find_board(section.board) if section and section.board in _boards() else None
    setting = Setting(
        model=job.model.name if job else name,
        device=device or _machine(),
        edge=_machine(),
        batch=batch or (job.train.batch if job else BATCH),
        repeat=repeat,
        recompute=bool(job and job.train.recompute),
        codec=job.codec.up if job else "int8",
        ram=board.ram if board else 0,
        flash=board.flash if board else 0,
    )
    model = load_model(setting.model, job.model.args if job else {}, job.seed if job else 0)
    profile = measure(model, setting, _progress)
    _progress("")
    return profile


def _boards() -> set[str]:
    from .runtime.boards import BOARDS

    return set(BOARDS)


def _device(job: Job, device: str) -> DeviceSection:
    for section in job.devices:
        if section.id == device:
            return section
    known = ", ".join(section.id for section in job.devices[:12])
    raise UserError(f"--id {device}: the job has no such device; it has {known}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{'timing ' if text else ''}{text}")
        sys.stderr.flush()


def _print(profile: Profile, out: str | None) -> None:
    head = ["unit", "kind", "values", "parameters", "MACs"]
    head += [f"{side} {what}" for side in ("device", "edge") for what in ("infer", "fwd", "bwd")]
    lines = []
    for unit in profile.units:
        line = [unit.name, unit.kind, f"{unit.values:,}", f"{unit.parameters:,}", f"{unit.macs:,}"]
        for times in (unit.device, unit.edge):
            each = (times.infer, times.forward, times.backward) if times else ()
            line += [f"{1e6 * seconds:.1f}" for seconds in each] or ["-"] * 3
        lines.append(line)
    print(f"{profile.model}: microseconds; one sample, and a batch of {profile.batch}")
    print_table(head, lines, 2)
    device = f"{profile.device} ({profile.origin}, {profile.arithmetic})"
    print(f"device {device}, edge host {profile.edge}, {len(profile.seams)} legal seams")
    if out:
        print(f"kept in {out}: `seamline plan {profile.model} --profile {out} --bandwidth 1M`")
