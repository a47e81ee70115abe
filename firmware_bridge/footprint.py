"""What one end of a byte line takes of a Cortex-M4: code and static memory, part by part."""

from __future__ import annotations

import tempfile
from pathlib import Path

from . import image, objects
from .monocypher import FILES, monocypher

TARGET = "Cortex-M4"
FLAGS = ["-mcpu=cortex-m4", "-mthumb", "-Os", "-std=c99", "-ffreestanding", "-fno-strict-aliasing"]
FLAGS += ["-fwrapv", "-ffunction-sections", "-fdata-sections"]
FLAGS += ["-DBLAKE2_NO_UNROLLING"]  # Monocypher's own choice: 13 KB less of a hash that few use
ROOTS: tuple[str, ...] = ("line_take", "line_say", "line_send", "line_wait", "line_start")
SEALED_ROOTS = ("line_handshake", "line_hear", "line_answer")
# By file, what a part of the table is made of.
PARTS = {
    "frame": "frames",
    "crc": "frames",
    "packet": "packets",
    "seal": "sealed frames",
    "noise": "handshake",
    "crypto": "handshake",
    "monocypher": "Monocypher",
    "line": "owner",
}
LIBRARY = "libgcc, memcpy"


def footprint(*, sealed: bool) -> dict[str, dict[str, int]]:
    """By part: `flash` (code, constants) and `ram` (static) in bytes of what is really linked.

    Raises MonocypherError (sealed, and it cannot be fetched), RuntimeError with what the compiler
    said.
    """
    core, here = image.CORE, image.HERE
    files = [here / "line.c", core / "frame.c", core / "packet.c", core / "crc.c"]
    files.append(here / "library.c")
    flags = [*FLAGS, f"-I{core}", f"-I{here / 'include'}"]
    roots = ROOTS
    if sealed:
        folder = monocypher()
        files += [core / "seal" / "seal.c", core / "seal" / "noise.c", here / "crypto.c"]
        files.append(folder / FILES[0])
        flags += ["-DSEALED", f"-I{core / 'seal'}", f"-I{folder}"]
        roots += SEALED_ROOTS
    with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
        return _parts(_link(files, flags, roots, Path(draft)))


def _link(files: list[Path], flags: list[str], roots: tuple[str, ...], out: Path) -> str:
    """The linker's map."""
    what = f"the line for {TARGET}"
    made = objects.compile_each(files, flags, out, what)
    link = [image.COMPILER, *FLAGS, "-nostdlib", "-Wl,--gc-sections", f"-Wl,-e,{roots[0]}"]
    link += [f"-Wl,-u,{root}" for root in roots]
    link += [*map(str, made), "-lgcc", f"-Wl,-Map={out / 'map'}", "-o", str(out / "line.elf")]
    objects.run(link, what)
    return (out / "map").read_text(encoding="utf-8")


def _parts(text: str) -> dict[str, dict[str, int]]:
    """The bytes of each part, from the linker's map."""
    found: dict[str, dict[str, int]] = {}
    for stem, sizes in objects.weigh(text).items():
        row = found.setdefault(PARTS.get(stem, LIBRARY), {"flash": 0, "ram": 0})
        row["flash"] += sizes["text"] + sizes["data"]
        row["ram"] += sizes["data"] + sizes["bss"]
    return {part: row for part, row in found.items() if any(row.values())}
