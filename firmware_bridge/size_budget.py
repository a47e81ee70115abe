"""What the core may take of each board, part by part: budget.toml, which a test holds it to.

Usage: python -m seamline.firmware_bridge.size_budget [--write]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import image, objects

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = image.HERE / "budget.toml"
KINDS = ("text", "data", "bss")
OTHER_COMPILER = 1.1  # another version of GCC makes other code: by so much it may be more
ROOM, WHOLE = 1.01, 16  # of a budget that is written anew: a hundredth, up to so many bytes

# By file, without its folder: what a part is made of.
PARTS = {
    "kernels in f32": (
        "activation", "add", "conv", "dense", "depthwise", "generic", "loss", "norm", "pool", "sgd",
        "walk",
    ),
    "int8 layers": (
        "q8_add", "q8_conv", "q8_depthwise", "q8_pool", "q8_quantise", "q8_softmax", "q8_generic",
        "q8_m_dsp", "q8_m_mve",
    ),
    "int8 training": (
        "q8_train", "q8_train_conv", "q8_train_depthwise", "q8_train_generic", "q8_train_m_dsp",
        "q8_update", "q8_update_float",
    ),
    "front in f32": ("front", "exit"),
    "front in int8": (
        "front_q8", "front_q8_backward", "front_q8_blob", "front_q8_forward", "front_q8_loss",
    ),
    "plans": ("plan",),
    "session": ("session", "message", "status", "dispatch"),
    "parcels": (
        *("parcel", "parcel_bits", "parcel_half", "parcel_sparse"),
        *("round", "codec_generic"),
    ),
    "byte line": ("frame", "packet", "crc"),
    "library": ("library", objects.LIBRARY),
}  # fmt: skip
PART_OF = {stem: part for part, stems in PARTS.items() for stem in stems}
ROOTS = ("init", "hello", "receive", "memory", "batch", "refuse")
LINE_ROOTS: tuple[str, ...] = (
    "packet_start",
    "packet_input",
    "packet_output",
    "packet_send",
    "packet_take",
)
LINE_ROOTS += ("packet_event", "packet_wait", "frame_decoder_start", "frame_decode", "frame_encode")
FILES = [
    *image.KERNEL_FILES,
    *(image.CORE / f"{stem}.c" for stem in ("plan", "exit", "front", "session", "message")),
    *(image.CORE / f"{stem}.c" for stem in ("frame", "packet")),
    *sorted(image.CORE.glob("front_q8*.c")),
    image.HERE / "library.c",
]

Sizes = dict[str, dict[str, int]]  # part -> text, data, bss


def measure(board: image.Board) -> Sizes:
    """Of what is linked where a session, both kinds of fronts and one line are called.

    Raises RuntimeError with what the compiler said.
    """
    roots = [f"seam_session_{name}" for name in ROOTS] + [f"seam_{name}" for name in LINE_ROOTS]
    flags = [f"-Wl,-u,{root}" for root in roots] + [f"-Wl,-e,{roots[0]}"]
    with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
        folder = Path(draft)
        linked = objects.link(board, objects.compile_files(board, FILES, folder), folder, flags)
    found: Sizes = {part: dict.fromkeys(KINDS, 0) for part in PARTS}
    for stem, row in linked.files.items():
        if stem not in PART_OF:
            raise RuntimeError(f"{stem}.c is in no part: add it to PARTS in size_budget.py")
        for kind in KINDS:
            found[PART_OF[stem]][kind] += row[kind]
    return found


def compiler() -> str:
    """Its version, as in "12.2"."""
    said = subprocess.run(
        [image.COMPILER, "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout
    return ".".join(said.strip().split(".")[:2])


def exceeded(name: str, found: Sizes, budget: dict[str, Any], version: str) -> list[str]:
    """A line for each figure that is over its budget, or that has none. name: of the board."""
    slack = 1.0 if version == budget["compiler"] else OTHER_COMPILER
    own = budget.get(name, {})
    lines = []
    for part, row in found.items():
        for kind in KINDS:
            most = int(own.get(part, {}).get(kind, -1) * slack)
            if row[kind] > most:
                lines.append(f"{name}, {part}, {kind}: expected at most {most}, got {row[kind]}")
    lines += [f"{name}, {part}: there is no such part" for part in own if part not in found]
    return lines


HOW = (
    "make it smaller; or, if it is worth its bytes, raise the figure in "
    "firmware_bridge/budget.toml (`python -m seamline.firmware_bridge.size_budget --write` writes "
    "all anew) and say why in the commit"
)


def read_budget() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _text(every: dict[str, Sizes]) -> str:
    """budget.toml."""
    lines = [
        "# Bytes that each part of the core may take on a board, at most (see size_budget.py).",
        f'compiler = "{compiler()}"',
    ]
    for name, sizes in every.items():
        lines += ["", f"[{name}]"]
        for part, row in sizes.items():
            figures = ", ".join(f"{kind} = {_roomy(row[kind])}" for kind in KINDS)
            lines.append(f'"{part}" = {{ {figures} }}')
    return "\n".join(lines) + "\n"


def _roomy(size: int) -> int:
    return -(-int(size * ROOM) // WHOLE) * WHOLE


def main(arguments: list[str]) -> None:
    """Prints what is over the budget, or writes the budget anew."""
    lacking = image.missing()
    if lacking:
        sys.exit(f"error: {lacking}")
    every = {name: measure(board) for name, board in image.BOARDS.items()}
    if arguments == ["--write"]:
        FILE.write_text(_text(every), encoding="utf-8")
        return
    version, budget = compiler(), read_budget()
    lines = [line for name in every for line in exceeded(name, every[name], budget, version)]
    for name, sizes in every.items():
        total = ", ".join(f"{sum(row[k] for row in sizes.values())} {k}" for k in KINDS)
        print(f"{name}: {total}")
    if lines:
        sys.exit("\n".join([*lines, HOW]))


if __name__ == "__main__":
    main(sys.argv[1:])
