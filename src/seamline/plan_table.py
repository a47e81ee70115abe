"""`seamline plan`: what a front takes on a device, and what would have to go for it to fit."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .edge_host.models import CANNOT_CUT, input_shape, load_model
from .edge_host.split import END, list_candidates
from .machine import describe_machine
from .runtime.boards import Board, find_board
from .runtime.budget import (
    CODECS,
    DTYPES,
    Candidate,
    Choice,
    Dtype,
    Need,
    Wire,
    need,
    wire,
)
from .runtime.errors import UserError
from .runtime.fit import Way, fits, least, ways
from .runtime.plan import BATCH_MAX, PlanError
from .runtime.q8_plan import Momentum
from .table import print_table

if TYPE_CHECKING:
    from .runtime.config import Job


@dataclass(frozen=True)
class Question:
    """What is asked: a model or a job's, with the options that override the job's."""

    model: str
    args: dict[str, Any]
    seed: int
    seam: str | None
    batch: int
    dtypes: tuple[Dtype, ...]
    recompute: bool
    momentum: Momentum
    codec: str
    board: Board | None

    def choice(self, dtype: Dtype) -> Choice:
        return Choice(self.batch, dtype, self.recompute, self.momentum, self.codec)


@dataclass(frozen=True)
class Row:
    """One seam in one arithmetic. need None: there is no such front, and why."""

    candidate: Candidate
    choice: Choice
    need: Need | None
    why: str
    wires: dict[str, Wire]  # of a training step, by codec


def run_plan(args: argparse.Namespace, job: Job | None) -> int:
    """Prints the table or the JSON document. Raises UserError (2, 5)."""
    asked = _question(args, job)
    model = load_model(asked.model, asked.args, asked.seed)
    candidates = list_candidates(model, input_shape(model))
    if not candidates:
        raise UserError(f"{asked.model}: no layer of this model can be on a device", CANNOT_CUT)
    chosen = candidates if asked.seam is None else [_find(candidates, asked.seam)]
    rows = [_row(candidate, asked.choice(dtype)) for candidate in chosen for dtype in asked.dtypes]
    if args.format == "json":
        document = {
            "machine": describe_machine(),
            "command": " ".join(args.command_line),
            "rows": [_as_json(row, asked.board, candidates) for row in rows],
        }
        sys.stdout.write(json.dumps(document) + "\n")
    elif asked.seam is None:
        _overview(asked, rows)
    else:
        _detail(asked, rows, candidates)
    return 0


def _question(args: argparse.Namespace, job: Job | None) -> Question:
    batch = args.batch or (job.train.batch if job else 1)
    if batch > BATCH_MAX:
        raise UserError(f"--batch: 1 to {BATCH_MAX} samples are allowed, got {batch}")
    return Question(
        model=job.model.name if job else args.model,
        args=job.model.args if job else {},
        seed=job.seed if job else 0,
        seam=args.seam,
        batch=batch,
        dtypes=(args.dtype,) if args.dtype else DTYPES,
        recompute=args.recompute or bool(job and job.train.recompute),
        momentum=args.momentum or (job.train.q8_momentum if job else "int8"),
        codec=job.codec.up if job else "int8",
        board=find_board(args.board) if args.board else None,
    )


def _find(candidates: Sequence[Candidate], seam: str) -> Candidate:
    """By the number of weighted layers, the name of the last module, or "end"."""
    for candidate in candidates:
        if seam == str(candidate.weighted) or (seam == END and candidate.whole):
            return candidate
    for candidate in candidates:
        if seam == candidate.name:
            return candidate
    legal = ", ".join(f"{c.weighted} ({c.name})" for c in candidates)
    raise UserError(f"there is no seam {seam!r}; legal are {legal}", CANNOT_CUT)


def _row(candidate: Candidate, choice: Choice) -> Row:
    wires = {c: wire(candidate, choice.batch, c) for c in CODECS[choice.dtype]}
    try:
        return Row(candidate, choice, need(candidate, choice), "", wires)
    except PlanError as error:
        return Row(candidate, choice, None, str(error), wires)


# ---- JSON ----


def _as_json(row: Row, board: Board | None, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """One row; fields that could not be computed are left out, `note` says why."""
    found: dict[str, Any] = {
        "seam": row.candidate.weighted,
        "behind": row.candidate.name,
        "values": math.prod(row.candidate.shape),
        "batch": row.choice.batch,
        "dtype": row.choice.dtype,
        "bytes_up": {codec: sent.up for codec, sent in row.wires.items()},
        "bytes_down": {codec: sent.down for codec, sent in row.wires.items()},
    }
    if row.need is None:
        return {**found, "note": row.why}
    it = row.need
    found |= {
        "training_ram": it.training_ram,
        "training_sections": it.training,
        "training_bound": it.training_bound,
        "inference_ram": it.inference_ram,
        "inference_sections": it.inference,
        "inference_bound": it.inference_bound,
        "flash": it.flash_bytes,
        "flash_sections": it.flash,
        "forward_macs": it.forward_macs,
        "step_macs": it.step_macs,
        "made_again": list(it.again),
        "weights_up": it.weights_up,
        "weights_down": it.weights_down,
    }
    if board is not None:
        found |= {"board": board.name, "board_ram": board.ram, "board_flash": board.flash}
        found["fits"] = fits(board, it)
        if not found["fits"]:
            found["ways"] = [_way_json(way) for way in ways(board, candidates, *_asked(row))]
    return found


def _asked(row: Row) -> tuple[Candidate, Choice]:
    return row.candidate, row.choice


def _way_json(way: Way) -> dict[str, Any]:
    return {
        "changed": list(way.changed),
        "seam": way.candidate.weighted,
        "batch": way.choice.batch,
        "dtype": way.choice.dtype,
        "recompute": way.choice.recompute,
        "training_ram": way.need.training_ram,
        "flash": way.need.flash_bytes,
        "step_macs": way.need.step_macs,
    }


# ---- text ----


def _overview(asked: Question, rows: Sequence[Row]) -> None:
    """A line for each seam and arithmetic."""
    codecs = CODECS["f32"]
    head = ["seam", "behind", "dtype", "training", "bound", "inference", "flash", "MACs", "a step"]
    head += [f"{codec} up/down" for codec in codecs] + ["fits"] * bool(asked.board)
    lines = []
    for row in rows:
        it = row.need
        numbers = ["-"] * 6
        if it is not None:
            ram = it.training_ram, it.training_bound, it.inference_ram
            work = it.forward_macs, it.step_macs
            numbers = [f"{number:,}" for number in (*ram, it.flash_bytes, *work)]
        line = [str(row.candidate.weighted), row.candidate.name, row.choice.dtype, *numbers]
        line += [_updown(row.wires.get(codec)) for codec in codecs]
        if asked.board:
            line.append("yes" if it is not None and fits(asked.board, it) else "no")
        lines.append(line)
    print(f"{asked.model}, batch {asked.batch}: bytes of RAM and flash, and on the wire in a step")
    print_table(head, lines, 3)
    for why in dict.fromkeys(row.why for row in rows if row.why):
        print(f"no q8: {why}")
    if asked.board:
        print(_board_line(asked.board))


def _updown(sent: Wire | None) -> str:
    return "-" if sent is None else f"{sent.up:,}/{sent.down:,}"


def _board_line(board: Board) -> str:
    flash = f"{board.flash:,} of flash" if board.flash else "a file system"
    return f"{board.title} ({board.core}): {board.ram:,} bytes of RAM, {flash}"


def _detail(asked: Question, rows: Sequence[Row], candidates: Sequence[Candidate]) -> None:
    """RAM by section, then flash, work, wire, and the board."""
    at = rows[0].candidate
    shape = " x ".join(map(str, at.shape))
    what = f"seam {at.weighted} (behind {at.name}, {shape} values cross)"
    print(f"{asked.model}, {what}, batch {asked.batch}")
    known = [(row, row.need) for row in rows if row.need is not None]
    if known:
        kinds = [row.choice.dtype for row, _ in known]
        head = ["RAM", *(f"{k} {what}" for k in kinds for what in ("training", "inference"))]
        print_table(head, list(_sections([found for _, found in known])), 1)
    for row in rows:
        if row.need is None:
            print(f"no {row.choice.dtype}: {row.why}")
        else:
            _print_sent(row.choice.dtype, row.wires, row.need)
    if asked.board is not None:
        print(_board_line(asked.board))
        for row, found in known:
            print(*_verdict(asked.board, row, found, candidates), sep="\n")


def _print_sent(dtype: Dtype, wires: dict[str, Wire], found: Need) -> None:
    for codec, sent in wires.items():
        print(f"{dtype}, {codec}: a step sends {sent.up:,} bytes up, {sent.down:,} down")
    up, down = found.weights_up, found.weights_down
    print(f"{dtype}: a round sends weights, {up:,} bytes up, {down:,} down")


def _sections(known: Sequence[Need]) -> Iterator[list[str]]:
    def line(name: str, of: Callable[[Need], Sequence[int | None]]) -> list[str]:
        cells = [number for found in known for number in of(found)]
        return [name, *("" if number is None else f"{number:,}" for number in cells)]

    def section(name: str) -> list[str]:
        return line(name, lambda found: (found.training[name], found.inference.get(name)))

    def flash(name: str) -> list[str]:
        return line(f"flash: {name}", lambda found: (found.flash[name],) * 2)

    yield from (section(name) for name in known[0].training)
    yield line("total", lambda found: (found.training_ram, found.inference_ram))
    yield line("lower bound", lambda found: (found.training_bound, found.inference_bound))
    yield from (flash(name) for name in known[0].flash)
    yield line("multiply-adds", lambda found: (found.step_macs, found.forward_macs))


def _verdict(board: Board, row: Row, found: Need, candidates: Sequence[Candidate]) -> Iterator[str]:
    dtype = row.choice.dtype
    if fits(board, found):
        spare = board.ram - found.training_ram
        yield f"{dtype} fits: {spare:,} bytes are left for program and stack"
        return
    over = [f"{found.training_ram - board.ram:,} bytes of RAM"] * (found.training_ram > board.ram)
    if board.flash and found.flash_bytes > board.flash:
        over.append(f"{found.flash_bytes - board.flash:,} bytes of flash")
    yield f"{dtype} does not fit: {' and '.join(over)} too much; it would fit with"
    good = ways(board, candidates, *_asked(row))
    for way in good:
        ram = way.need.training_ram
        left = f"{ram:,} bytes of RAM ({board.ram - ram:,} left)"
        yield f"  {_told(way)}: {left}, {way.need.step_macs:,} multiply-adds a step"
    if not good:
        best = least(candidates, row.choice)
        yield f"  nothing: the least is {best.need.training_ram:,} bytes, {_told(best, all_=True)}"


def _told(way: Way, *, all_: bool = False) -> str:
    words = {
        "seam": f"seam {way.candidate.weighted} ({way.candidate.name})",
        "batch": f"batch {way.choice.batch}",
        "q8": "q8" if way.choice.dtype == "q8" else "f32",
        "recompute": "--recompute" if way.choice.recompute else "",
    }
    return ", ".join(word for key, word in words.items() if word and (all_ or key in way.changed))
