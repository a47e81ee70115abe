"""`seamline keys`: makes, lists, shows, forgets and replaces the keys of a job or a key folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from .runtime.config import CLOUD, Job, host_name, tier_names
from .runtime.errors import UserError
from .runtime.key_folder import Entry, find_key, forget_key, list_keys, rotate_key
from .runtime.keys import fingerprint, make_keys
from .table import print_table


def run_keys(args: argparse.Namespace, job: Job | None) -> int:
    """args.action: new, list, show, forget or rotate. job: None when args.where is a folder."""
    folder = Path(args.where if job is None else job.keys.folder)
    if args.action == "new":
        if job is None:
            raise UserError(f"{folder} is a folder: `seamline keys new` takes the job file (TOML)")
        return _new(args, job)
    actions: dict[str, Callable[[argparse.Namespace, Path, Job | None], int]] = {
        "list": _list,
        "show": _show,
        "forget": _forget,
        "rotate": _rotate,
    }
    return actions[args.action](args, folder, job)


def needs(job: Job) -> dict[str, list[str]]:
    """Of each tier: whose public files it must have."""
    zones = {
        host_name(z.name): [CLOUD, *(d.id for d in job.devices if d.zone == z.name)]
        for z in job.zones
    }
    devices = {d.id: [host_name(d.zone)] for d in job.devices}
    return {CLOUD: list(zones), **zones, **devices}


def _new(args: argparse.Namespace, job: Job) -> int:
    folder = job.keys.folder
    made = make_keys(folder, tier_names(job))
    needed = needs(job)
    lines = [f"made {len(made)} key pairs in {folder}"]
    lines.append("each machine needs its own .secret (mode 0600) and these .public files:")
    for name, peers in needed.items():
        lines.append(f"  {name}: {name}.secret, {', '.join(f'{p}.public' for p in (name, *peers))}")
    _say(args, {"folder": folder, "made": made, "needs": needed}, "\n".join(lines))
    return 0


def _list(args: argparse.Namespace, folder: Path, job: Job | None) -> int:
    entries = list_keys(folder)
    rows = [_row(entry, job) for entry in entries]
    if args.format == "json":
        _say(args, {"folder": str(folder), "rows": rows}, "")
    elif rows:
        lines = [[str(row[key]) for key in ("name", "fingerprint", "whose", "may")] for row in rows]
        print_table(["name", "fingerprint", "whose", "what it may do"], lines, 4)
    else:
        _say(args, {}, f"there is no key in {folder}: `seamline keys new JOB` makes those of a job")
    for entry in entries:
        if entry.trouble:
            raise UserError(entry.trouble, 3)
    return 0


def _row(entry: Entry, job: Job | None) -> dict[str, str]:
    row = {
        "name": entry.name,
        "fingerprint": fingerprint(entry.public) if entry.public else "damaged",
        "public": entry.public,
        "whose": "own" if entry.own else "peer",
        "may": _may(entry, job),
    }
    return {**row, "trouble": entry.trouble} if entry.trouble else row


def _may(entry: Entry, job: Job | None) -> str:
    if entry.trouble:
        return "nothing: its file is damaged"
    if entry.own:
        return f"this machine can be {entry.name}"
    if job is not None and entry.name not in tier_names(job):
        return "join whatever uses this folder, though this job does not name it: forget it?"
    return _may_join(entry, job)


def _may_join(entry: Entry, job: Job | None) -> str:
    if entry.name == CLOUD:
        return "be the cloud of an edge host here"
    if job is not None:
        zone = next((d.zone for d in job.devices if d.id == entry.name), None)
        if zone is not None:
            return f"join {host_name(zone)} as {entry.name}, by network or cable"
    if entry.name.startswith(host_name("")):
        return "be the edge host of a device here, join the cloud here"
    return f"join an edge host here as {entry.name}, by network or cable"


def _show(args: argparse.Namespace, folder: Path, job: Job | None) -> int:
    entry = find_key(folder, args.name)
    if entry.trouble:
        raise UserError(entry.trouble, 3)
    row = _row(entry, job)
    names = ("name", "public", "fingerprint", "whose", "may")
    _say(args, row, "\n".join(f"{name:<12} {row[name]}" for name in names))
    return 0


def _forget(args: argparse.Namespace, folder: Path, job: Job | None) -> int:
    entry = find_key(folder, args.name)
    mark = f" ({fingerprint(entry.public)})" if entry.public else ""
    if (args.own or not entry.own) and not args.yes:
        what = "the secret of this machine" if entry.own else "the peer"
        confirm(f"forget {what} {entry.name}{mark}?", "--yes forgets without asking")
    forget_key(folder, args.name, own=args.own)
    after = "its secret is gone" if entry.own else "it may not join from now on"
    _say(args, {"forgot": entry.name}, f"forgot {entry.name}{mark}: {after}")
    return 0


def _rotate(args: argparse.Namespace, folder: Path, job: Job | None) -> int:
    old, new = rotate_key(folder, args.name)
    here = {entry.name for entry in list_keys(folder) if entry.own}
    whom = needs(job).get(args.name) if job is not None else None
    if whom is None:
        whom = [entry.name for entry in list_keys(folder)]
    others = [name for name in whom if name not in here]
    told = {
        "name": args.name,
        "public": new,
        "fingerprint": fingerprint(new),
        "was": fingerprint(old),
        "needs": others,
    }
    file = folder / f"{args.name}.public"
    lines = [f"{args.name} has a new key: {fingerprint(new)} (it was {fingerprint(old)})"]
    if others:
        lines.append(f"copy {file} over the old one on the machine of: {', '.join(others)}")
    lines.append(f"start {args.name} again; until then it uses the old key")
    if not args.name.startswith((CLOUD, host_name(""))):
        lines.append("an edge host that is running takes the new key without a restart")
    else:
        lines.append("whoever joins it must start again, too, with the new .public in place")
    _say(args, told, "\n".join(lines))
    return 0


def has_terminal() -> bool:
    """Is there somebody who can answer?"""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str, otherwise: str) -> None:
    """Asks a person on the terminal. Raises UserError when there is none, or the answer is no."""
    if not has_terminal():
        raise UserError(f"{question} nobody can answer, standard input is no terminal; {otherwise}")
    sys.stderr.write(f"{question} Type yes or no: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("yes", "y"):
        raise UserError("nothing was changed: the answer was not yes")


def _say(args: argparse.Namespace, document: object, text: str) -> None:
    sys.stdout.write((json.dumps(document) if args.format == "json" else text) + "\n")
    sys.stdout.flush()
