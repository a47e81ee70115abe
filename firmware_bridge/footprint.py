"""What one end of a byte line takes of a Cortex-M4: code and static memory, part by part."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import image
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
_SECTION = re.compile(
    r"^ \.(text|rodata|data|bss)\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+)$", re.MULTILINE
)


def missing() -> str:
    """What to install before `footprint` can be asked; empty: nothing."""
    if shutil.which(image.COMPILER) is not None:
        return ""
    package = image.PACKAGES[image.COMPILER]
    return f"{image.COMPILER} not found: apt-get install --no-install-recommends {package}"


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
        return _weigh(_link(files, flags, roots, Path(draft)))


def _link(files: list[Path], flags: list[str], roots: tuple[str, ...], out: Path) -> str:
    """The linker's map."""
    objects = []
    for file in files:
        objects.append(out / f"{file.stem}.o")
        _run([image.COMPILER, *flags, "-c", str(file), "-o", str(objects[-1])])
    link = [image.COMPILER, *FLAGS, "-nostdlib", "-Wl,--gc-sections", f"-Wl,-e,{roots[0]}"]
    link += [f"-Wl,-u,{root}" for root in roots]
    link += [*map(str, objects), "-lgcc", f"-Wl,-Map={out / 'map'}", "-o", str(out / "line.elf")]
    _run(link)
    return (out / "map").read_text()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the line does not build for {TARGET}: {done.stderr.strip()}")


def _weigh(text: str) -> dict[str, dict[str, int]]:
    """The bytes of each part, from the linker's map behind its list of what was left out."""
    found: dict[str, dict[str, int]] = {}
    _, _, kept = text.partition("Linker script and memory map")
    whole = re.sub(r"^( \.\S+)\n +", r"\1 ", kept, flags=re.MULTILINE)  # long names have a line
    for kind, size, file in _SECTION.findall(whole):
        part = PARTS.get(Path(file).stem, LIBRARY)
        row = found.setdefault(part, {"flash": 0, "ram": 0})
        row["flash"] += int(size, 16) if kind != "bss" else 0
        row["ram"] += int(size, 16) if kind in ("data", "bss") else 0
    return {part: row for part, row in found.items() if any(row.values())}
