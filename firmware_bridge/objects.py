"""Files compiled and linked for boards, and what each of them really takes of flash and RAM."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import image

# `.text.name` and its like, a file in brackets for a member of a library.
_SECTION = re.compile(
    r"^ \.(text|rodata|data|bss|noinit|vectors)\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+)$",
    re.MULTILINE,
)
_FLASH = {"text": "text", "rodata": "text", "vectors": "text", "data": "data"}
LIBRARY = "libgcc"


@dataclass(frozen=True)
class Linked:
    """An image and, by file (its stem), the bytes of text (constants too), data and bss in it. What
    lies in .noinit, an image's own large memory, is left out."""

    image: Path
    files: dict[str, dict[str, int]]

    def total(self, kind: str, without: Iterable[str] = ()) -> int:
        left_out = set(without)
        return sum(row[kind] for stem, row in self.files.items() if stem not in left_out)


class BuildError(RuntimeError):
    """said: by the compiler or the linker."""

    def __init__(self, what: str, said: str) -> None:
        super().__init__(f"{what} does not build: {said.strip()}")
        self.said = said


def run(command: Sequence[str], what: str, folder: Path | None = None) -> None:
    """A compiler or a linker, in `folder`. what: for the message. Raises BuildError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise BuildError(what, done.stderr)


def compile_each(
    files: Iterable[Path],
    flags: Sequence[str],
    out: Path,
    what: str,
    folder: Path | None = None,
) -> list[Path]:
    """Objects in `out`, one a file, named as it and its folder; those that are there already are
    taken as they are. The others as of `run`."""

    def one(file: Path) -> Path:
        made = out / file.parent.name / f"{file.stem}.o"
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            draft = made.with_suffix(".draft")
            run([image.COMPILER, *flags, "-c", str(file), "-o", str(draft)], what, folder)
            draft.replace(made)
        return made

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, files))


def compile_files(
    board: image.Board, files: Sequence[Path], out: Path, flags: Sequence[str] = ()
) -> list[Path]:
    """As compile_each, with the flags of a board that is measured in the emulator."""
    whole = [*board.flags, *image.C_FLAGS, f"-DARENA_BYTES={board.arena}", *flags]
    return compile_each(files, whole, out, board.machine)


def link(
    board: image.Board, objects: Sequence[Path], out: Path, flags: Sequence[str] = ()
) -> Linked:
    """The board's image of these objects. Raises BuildError."""
    made = out / f"{board.machine}.elf"
    script = image.HERE / "boards" / f"{board.script}.ld"
    command = [image.COMPILER, *board.flags, *image.C_FLAGS, *image.LINK_FLAGS, *flags]
    command += ["-T", str(script), *map(str, objects), "-lgcc", f"-Wl,-Map={made}.map"]
    run([*command, "-o", str(made)], board.machine)
    return Linked(made, weigh(Path(f"{made}.map").read_text(encoding="utf-8")))


def base_files(board: image.Board) -> list[Path]:
    """From reset to main, and what the emulator does for an image."""
    return [*image.BASE_FILES, image.HERE / "boards" / f"{board.source}.c"]


def scaffold(board: image.Board, own: Sequence[Path]) -> list[str]:
    """Stems of what is in an image only because it is measured in an emulator: its own files, and
    what reaches the emulator. start.c and the small library are a product's, too.
    """
    return [*(path.stem for path in own), "semihost", "tell", board.source]


def weigh(text: str) -> dict[str, dict[str, int]]:
    """By file, from a linker's map behind its list of what was left out."""
    found: dict[str, dict[str, int]] = {}
    _, _, kept = text.partition("Linker script and memory map")
    whole = re.sub(r"^( \.\S+)\n +", r"\1 ", kept, flags=re.MULTILINE)  # long names have a line
    for kind, size, file in _SECTION.findall(whole):
        if kind == "noinit":
            continue
        stem = LIBRARY if ".a(" in file else Path(file).stem
        row = found.setdefault(stem, {"text": 0, "data": 0, "bss": 0})
        row[_FLASH.get(kind, "bss")] += int(size, 16)
    return found
