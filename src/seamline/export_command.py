"""`seamline firmware export`: a front as C, for a project that has its own build."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import __version__
from .firmware_bridge.export import AnyFront, export_front, safe_name
from .firmware_bridge.packages import package
from .runtime.config import read_job
from .runtime.errors import UserError
from .runtime.files import read_npz
from .runtime.float_front import META, read_float_front
from .runtime.quantised import read_front

QUANTISED = "front-q8.npz"


def run_export(args: argparse.Namespace) -> int:
    """Writes the folder. Raises UserError."""
    wrong = safe_name(args.name)
    if wrong:
        raise UserError(f"--name: {wrong}")
    path = _front_path(args.front)
    made = export_front(_read(path), args.name, __version__)
    folder = Path(args.to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to {folder}: expected a new or empty folder; choose another name")
    files = package(made, args.as_, __version__)
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    document = {
        "folder": str(folder),
        "as": args.as_,
        "front": str(path),
        "dtype": made.dtype,
        "ram_bytes": made.ram,
        "constant_bytes": made.constants,
        "layers": made.kinds,
        "files": sorted(files),
    }
    if args.format == "json":
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        print(
            f"{folder}: {len(files)} files, {made.dtype}, {made.ram} bytes of RAM, "
            f"{made.constants} bytes of weights; start with {folder / 'README.md'}"
        )
    return 0


def _front_path(given: str) -> Path:
    """A front's file, or the one that `seamline quantize` left in a run's folder."""
    path = Path(given)
    if path.suffix == ".npz":
        return path
    folder = path if path.is_dir() else Path(read_job(given).out)
    found = folder / QUANTISED
    if not found.is_file():
        raise UserError(f"there is no {found}: `seamline quantize {given}` makes it", 3)
    return found


def _read(path: Path) -> AnyFront:
    """Raises FileError (exit code 3)."""
    try:
        meta = read_npz(path, [META])[META].tobytes()
    except (OSError, ValueError, KeyError, AttributeError, MemoryError):
        meta = b""  # what is wrong with it, the reader says
    return read_float_front(path) if b'"float_front"' in meta else read_front(path)
