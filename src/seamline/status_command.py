"""`seamline status`: what the links of running tiers do, from the files the tiers write."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .runtime.config import read_job
from .runtime.errors import UserError
from .runtime.status import DIED, ENDED, RUNNING, Row, Tier, read_status, running_folders
from .table import print_table

STALE_S = 5.0  # a tier that runs and has said nothing for so long is worth a word

HEAD = [
    "tier",
    "peer",
    "link",
    "state",
    "out",
    "in",
    "messages",
    "losses",
    "again",
    "CRC",
    "forged",
    "replayed",
    "stalls",
    "RTT",
    "goodput out",
    "in/s",
]


def run_status(args: argparse.Namespace) -> int:
    """args.where: folders of runs, or job files; none: of all tiers that run on this machine.

    Raises UserError: no such folder (2), a damaged file or no status there (3), nothing runs (6).
    """
    folders = [_folder(where) for where in args.where] or running_folders()
    tiers = [tier for folder in folders for tier in _read(folder)]
    damaged = [tier.trouble for tier in tiers if tier.trouble]
    if not any(tier.state == RUNNING for tier in tiers) and not damaged:
        raise UserError(_nothing(tiers, folders), 6)
    if args.format == "json":
        sys.stdout.write(json.dumps({"tiers": [_document(tier) for tier in tiers]}) + "\n")
    else:
        _show(tiers)
    sys.stdout.flush()
    if damaged:
        raise UserError(damaged[0], 3)
    return 0


def _folder(where: str) -> str:
    """The folder of a run, or of the run that a job file describes."""
    path = Path(where)
    if path.is_dir():
        return str(path)
    if not path.exists() and path.suffix != ".toml":
        raise UserError(f"there is no folder {where}: name the folder of a run, or its job file")
    return read_job(where).out


def _read(folder: str) -> list[Tier]:
    try:
        return read_status(folder)
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            text = f"no tier has told its status in {folder}: is it the folder of a run (`out`)?"
            raise UserError(text, 3) from None
        raise UserError(f"cannot read {error.filename}: {error.strerror}", 3) from None


def _nothing(tiers: list[Tier], folders: list[str]) -> str:
    if not folders:
        return "no tier of this user runs on this machine; name the folder of a run to see its last"
    last = ", ".join(f"{tier.name} {tier.state} {_age(tier.age_s)} ago" for tier in tiers)
    return f"nothing runs in {', '.join(folders)}: {last or 'no tier has told its status'}"


def _document(tier: Tier) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(vars(tier))
    return found


# ---- for people ----


def _show(tiers: list[Tier]) -> None:
    lines = [_line(tier, row) for tier in tiers for row in tier.peers]
    if lines:
        print_table(HEAD, lines, 4)
    rows = [row for tier in tiers for row in _ledger_lines(tier)]
    if rows:
        print()
        print_table(["tier", "hop", "what", "up", "down"], rows, 3)
        print()
    several = len({tier.folder for tier in tiers}) > 1
    for tier in tiers:
        if not tier.trouble:
            print(_words(tier) + (f" ({tier.folder})" if several else ""))
        for row in tier.peers:
            for reason, count in row.refused.items():
                print(f"  refused at {_safe(row.peer)}: {reason.replace('_', ' ')}, {count} times")


def _ledger_lines(tier: Tier) -> list[list[str]]:
    """Bytes of a tier's hops by what they carried; the largest first."""
    lines = []
    for hop, ways in tier.ledger.items():
        up, down = ways.get("up", {}), ways.get("down", {})
        sizes = {what: (up.get(what, 0), down.get(what, 0)) for what in {**up, **down}}
        for what in sorted(sizes, key=lambda name: (-sum(sizes[name]), name)):
            counts = [_bytes(count) for count in sizes[what]]
            lines.append([tier.name, _safe(hop), _safe(what), *counts])
    return lines


def _words(tier: Tier) -> str:
    if tier.state == ENDED:
        return f"{tier.name}: ended {_age(tier.age_s)} ago"
    if tier.state == DIED:
        return f"{tier.name}: died, its last word is {_age(tier.age_s)} old"
    text = f"{tier.name}: running, process {tier.pid}, told {_age(tier.age_s)} ago"
    if tier.age_s > STALE_S:
        text += ": it computes for long, is stopped, or cannot write"
    if tier.keys:
        text += f"; refused {tier.keys} keys on the network"
    return text


def _line(tier: Tier, row: Row) -> list[str]:
    state = row.state if tier.state == RUNNING else f"{row.state} ({tier.state})"
    return [
        tier.name,
        _safe(row.peer),
        _safe(row.link),
        _safe(state),
        _bytes(row.bytes_sent),
        _bytes(row.bytes_received),
        f"{row.messages_sent}/{row.messages_received}",
        str(row.losses),
        *map(
            _count,
            (
                row.retransmits,
                row.frames_damaged,
                row.frames_forged,
                row.replayed,
                row.credit_stalls,
            ),
        ),
        "-" if row.rtt_us is None else _trip(row.rtt_us),
        "-" if row.goodput_sent is None else f"{_bytes(row.goodput_sent)}/s",
        "-" if row.goodput_received is None else f"{_bytes(row.goodput_received)}/s",
    ]


def _safe(text: str) -> str:
    """A terminal obeys what is not printable."""
    return text if text.isprintable() else ascii(text)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _trip(us: int) -> str:
    return f"{us / 1000:.1f} ms" if us >= 100 else "<0.1 ms"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
