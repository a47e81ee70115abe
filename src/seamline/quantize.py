"""`seamline quantize`: a finished run's front in int8, how far it is from float, and its trace."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calibrate import Samples, each_of, local_data, measure, spaced, times
from .live import percent
from .runtime.calibration import F32, float_tensors
from .runtime.config import Job
from .runtime.errors import UserError
from .runtime.float_front import (
    FileError,
    FloatFront,
    Measured,
    joined_ranges,
    read_ranges,
    write_float_front,
)
from .runtime.plan import read_plan
from .runtime.q8_parameters import blob_of
from .runtime.q8_plan import build_q8_plan
from .runtime.quantised import (
    Deviation,
    QuantisedFront,
    compare,
    first_difference,
    fuse,
    read_front,
    run,
    run_layers,
    trace,
    trace_input,
    write_front,
)
from .table import print_table

if TYPE_CHECKING:
    from .edge_host.finished import Finished

TRACED = 4  # samples of a trace
CHUNK = 256  # samples that are evaluated at once
Document = dict[str, Any]


# ---- a run ----


def run_quantize(args: argparse.Namespace, job: Job, folder: Path) -> int:
    """Quantises what a run of `job` left in `folder`. Returns 1 if the trace differs from that of
    --against. Raises UserError."""
    from .edge_host.finished import load_finished
    from .runtime.quantise import quantise

    _check_options(args)
    seam = args.seam if args.seam is None or not args.seam.isdecimal() else int(args.seam)
    finished = load_finished(job, folder, seam)
    cut = finished.cut
    whole = FloatFront(cut.front, cut.input_shape, finished.parameters)
    fuse(whole.layers)  # says at once what int8 fronts do not have
    if args.float:
        return _write_float(args, whole)
    remote = [read_ranges(path) for path in args.ranges or []]
    data = {} if remote and not args.device else local_data(job, args.device, cut.input_shape)
    measured = remote or measure(args, whole, data, finished.source)
    ranges = joined_ranges(measured, whole)
    chain = (whole.layers, whole.input_shape, whole.parameters)
    front = quantise(*chain, ranges, per_tensor=args.per_tensor)
    document = _document(args, job, finished, front, measured)
    if data:
        held_out = _held_out(data, args.samples)
        floats = float_tensors(*chain, held_out)
        found = compare(front, floats, run_layers(front, front.quantise(held_out)))
        document["layers"] = [_row(deviation) for deviation in found]
        document["sqnr_db"] = _number(found[-1].sqnr_db)
        document["accuracy"] = _accuracy(finished, front, data)
    out = Path(args.out) if args.out else folder / "front-q8.npz"
    plan = build_q8_plan([one.spec for one in front.layers], front.input_shape, 1, training=False)
    as_bytes = {"plan": plan, "blob": blob_of(front)}
    write_front(out, front, **{name: np.frombuffer(b, np.uint8) for name, b in as_bytes.items()})
    document["arena_bytes"] = read_plan(plan).arena_bytes
    document["files"] = {"front": str(out)}
    code = _trace(args, front, document)
    if args.format == "json":
        _json(document)
    else:
        _print(args, document)
    return code


def _check_options(args: argparse.Namespace) -> None:
    """Options that would go unheard beside others."""
    if args.ranges and args.calibration:
        raise UserError("--calibration was chosen on the devices: it cannot go with --ranges")
    if args.ranges and args.compare and not args.device:
        raise UserError("--compare needs samples: --device ID names a device whose data is here")


def _write_float(args: argparse.Namespace, whole: FloatFront) -> int:
    """--float: what a device needs to calibrate without PyTorch."""
    write_float_front(Path(args.float), whole)
    if args.format == "json":
        _json({"files": {"float": args.float}, "parameters": len(whole.parameters)})
    else:
        print(f"{args.float}\nnext, on each device: `seamline calibrate {args.float} JOB --id ID`")
    return 0


def _held_out(data: Samples, count: int | None) -> F32:
    """Samples to compare with: held-out ones where there are any."""
    parts = [one.x_test if len(one.x_test) else one.x_train for one in data.values()]
    return np.concatenate([spaced(part, each_of(data, count)) for part in parts])


# ---- accuracy ----


@dataclass
class _Score:
    total: int = 0
    float_: int = 0
    q8: int = 0
    same: int = 0  # samples of which both say the same


def _accuracy(finished: Finished, front: QuantisedFront, data: Samples) -> Document | None:
    """On all held-out samples, the back in float; None: there are none, or the back is not here."""
    score = _Score()
    for x, y in _chunks(data):
        *_, float_out = float_tensors(
            finished.cut.front, finished.cut.input_shape, finished.parameters, x
        )
        q8_out = front.dequantise(len(front.layers), run(front, front.quantise(x)))
        answers = [finished.logits(out).argmax(axis=1) for out in (float_out, q8_out)]
        score.total += len(y)
        score.float_ += int(np.sum(answers[0] == y))
        score.q8 += int(np.sum(answers[1] == y))
        score.same += int(np.sum(answers[0] == answers[1]))
    if not score.total or not (finished.whole or finished.cut.at_end):
        return None
    return {
        "samples": score.total,
        "float": round(score.float_ / score.total, 5),
        "q8": round(score.q8 / score.total, 5),
        "same_answer": round(score.same / score.total, 5),
    }


def _chunks(data: Samples) -> Iterator[tuple[F32, NDArray[np.int32]]]:
    for one in data.values():
        for first in range(0, len(one.x_test), CHUNK):
            yield one.x_test[first : first + CHUNK], one.y_test[first : first + CHUNK]


# ---- a front that is quantised already ----


def run_quantised(args: argparse.Namespace, path: str) -> int:
    """The trace of a front that `seamline quantize` wrote; needs no torch and no data.

    Returns 1 if it differs from that of --against. Raises UserError.
    """
    options = (
        "calibration", "percentile", "samples", "seam", "device", "out", "float", "ranges",
    )  # fmt: skip
    given = [name for name in options if getattr(args, name) is not None]
    given += [name for name in ("per_tensor", "compare") if getattr(args, name)]
    if given:
        raise UserError(
            f"--{given[0].replace('_', '-')}: {path} is quantised already; its trace can be taken "
            "(--trace) and compared (--against)"
        )
    front = read_front(path)
    document: Document = {"front": path, "layers": len(front.layers), "files": {}}
    code = _trace(args, front, document)
    if args.format == "json":
        document.setdefault("trace", trace(front, trace_input(front, TRACED, args.seed)))
        _json(document)
    elif args.trace or args.against:
        _say_trace(args, document)
    else:
        print("\n".join(trace(front, trace_input(front, TRACED, args.seed))))
    return code


def _trace(args: argparse.Namespace, front: QuantisedFront, document: Document) -> int:
    """--trace and --against: 1 if the traces differ."""
    if not args.trace and not args.against:
        return 0
    theirs = _read_trace(args.against) if args.against else None
    lines = trace(front, trace_input(front, TRACED, args.seed))
    document["trace"] = lines
    if args.trace:
        Path(args.trace).write_text("\n".join(lines) + "\n", encoding="utf-8")
        document["files"]["trace"] = args.trace
    if theirs is None:
        return 0
    try:
        document["difference"] = first_difference(lines, theirs)
    except FileError as error:
        raise FileError(f"--against {args.against}: {error}") from None
    return 1 if document["difference"] else 0


def _read_trace(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"--against: there is no file {path}", 3) from None
    except UnicodeDecodeError:
        raise FileError(f"--against {path}: it is no trace, but bytes") from None


# ---- words and figures ----


def _document(
    args: argparse.Namespace,
    job: Job,
    finished: Finished,
    front: QuantisedFront,
    measured: list[Measured],
) -> Document:
    return {
        "model": job.model.name,
        "source": str(finished.source),
        "seam": finished.cut.seam,
        "whole": finished.cut.at_end,
        "calibration": {
            "method": ", ".join(sorted({one.method for one in measured})),
            "devices": [one.device for one in measured],
            "samples": sum(one.samples for one in measured),
        },
        "per_tensor": args.per_tensor,
        "parameters": len(finished.parameters),
        "float_bytes": 4 * len(finished.parameters),
        "q8_bytes": front.weight_bytes(),
        "sqnr_db": None,
        "layers": None,
        "accuracy": None,
        "note": _note(job),
    }


def _note(job: Job) -> str | None:
    if job.mode not in ("split-v3", "isolated"):
        return None
    return f"in {job.mode} the trained fronts stay on the devices: this one was never trained"


def _number(value: float) -> float | None:
    """JSON knows no infinity: None where int8 and float are equal (or there is no signal)."""
    return round(value, 3) if math.isfinite(value) else None


def _row(found: Deviation) -> Document:
    row: Document = {**vars(found), "sqnr_db": _number(found.sqnr_db)}
    return row | {"shape": list(found.shape), "worst_at": list(found.worst_at)}


def _json(document: Document) -> None:
    sys.stdout.write(json.dumps(document) + "\n")


def _print(args: argparse.Namespace, document: Document) -> None:
    used = document["calibration"]
    devices = used["devices"]
    who = ", ".join(devices[:3]) + (f" and {len(devices) - 3} more" if len(devices) > 3 else "")
    place = "whole network" if document["whole"] else f"front up to module {document['seam']}"
    print(
        f"{document['model']}: {place}, {document['parameters']} parameters; calibrated by "
        f"{used['method']} on {used['samples']} samples of {who}"
    )
    if args.compare:
        print_table(HEAD, [_cells(row) for row in document["layers"]], words=3)
    accuracy = document["accuracy"]
    if accuracy is not None:
        print(
            f"accuracy {percent(accuracy['float'])} in float, {percent(accuracy['q8'])} in int8, "
            f"on {accuracy['samples']} held-out samples; {percent(accuracy['same_answer'])} of "
            "the answers are the same"
        )
    size = f"{document['q8_bytes']} bytes instead of {document['float_bytes']}"
    if document["layers"] is not None:
        noise = document["sqnr_db"]
        said = "no noise" if noise is None else f"{noise:.1f} dB"
        print(f"signal over quantisation noise at the end: {said}")
    print(
        f"weights and biases: {size}; memory to infer one sample: {document['arena_bytes']} bytes"
    )
    print(document["files"]["front"])
    _say_trace(args, document)
    if document["note"]:
        sys.stderr.write(f"note: {document['note']}\n")


def _say_trace(args: argparse.Namespace, document: Document) -> None:
    if args.trace:
        print(args.trace)
    if args.against:
        difference = document["difference"]
        if difference:
            sys.stderr.write(f"the traces differ: {difference}\n")
        else:
            print(f"the trace is that of {args.against}")


HEAD = [
    "#", "made by", "shape", "scale", "zero", "SQNR dB", "worst", "float", "int8", "at", "cut off",
]  # fmt: skip


def _cells(row: Document) -> list[str]:
    noise = row["sqnr_db"]
    return [
        str(row["tensor"]),
        row["name"],
        times(tuple(row["shape"])),
        f"{row['scale']:.4g}",
        str(row["zero"]),
        "-" if noise is None else f"{noise:.1f}",
        f"{row['worst']:.3g}",
        f"{row['worst_float']:.3g}",
        f"{row['worst_q8']:.3g}",
        ",".join(str(i) for i in row["worst_at"]),
        f"{row['saturated']:.2%}",
    ]
