"""Boards that a device's image can be built for: those that are here, and a user's own folder."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..runtime import boards
from ..runtime.errors import UserError
from . import image
from .image import HERE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = HERE / "boards"
FILE = "board.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
ELF = "{elf}"  # in a flash command: the image's path

_FPU = "-mfloat-abi=hard"
CORES = {
    "cortex-m3": ("Cortex-M3", ("-mcpu=cortex-m3",)),
    "cortex-m4": ("Cortex-M4", ("-mcpu=cortex-m4",)),
    "cortex-m4f": ("Cortex-M4F", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", _FPU)),
    "cortex-m7": ("Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", _FPU)),
    "cortex-m33": ("Cortex-M33", ("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", _FPU)),
    "cortex-m55": ("Cortex-M55", ("-mcpu=cortex-m55+nomve.fp", _FPU)),
}
WITHOUT_BASEPRI = {"cortex-m0", "cortex-m0+", "cortex-m0plus", "cortex-m1", "cortex-m23"}


@dataclass(frozen=True)
class Target:
    """A board a device can be built for. sources: its hooks; stack: bytes of RAM that must be left
    for it; optimise: what the compiler is asked for; semihosting: console, files and exit are the
    emulator's or the probe's; flash: a probe's command.
    """

    name: str
    board: image.Board
    chip: boards.Board
    sources: tuple[Path, ...]
    script: Path
    stack: int = 8192
    optimise: str = "-O2"
    interrupts: int = 48
    semihosting: bool = True
    flash: tuple[str, ...] = ()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """board.toml"""

    title: str
    core: str
    ram: int
    flash: int
    sources: list[str]
    script: str
    stack: int = 8192
    optimise: str = "-O2"
    interrupts: int = 48
    semihosting: bool = False
    emulator: str = ""
    flash_command: str = ""


def _emulated(name: str, chip: str, board: image.Board, stack: int, optimise: str) -> Target:
    sources = tuple(FOLDERS / f"{board.source}{part}.c" for part in ("", "_line"))
    script = FOLDERS / f"{board.script}.ld"
    return Target(name, board, boards.BOARDS[chip], sources, script, stack, optimise)


TARGETS = {
    **{
        name: _emulated(name, board.machine, board, 8192, "-O2")
        for name, board in image.BOARDS.items()
    },
    "lm3s6965evb": _emulated(
        "lm3s6965evb",
        "lm3s6965evb",
        image.Board(
            "lm3s6965evb", "Cortex-M3", ("-mcpu=cortex-m3",), "lm3s6965", "lm3s6965", 0, "generic"
        ),
        6144,
        "-Os",
    ),
}


def find_target(name: str) -> Target:
    """A board by its name, or by the path of a folder with a board.toml. Raises UserError: there is
    none (exit 2), or something is wrong in its file (exit 3)."""
    if name in TARGETS:
        return TARGETS[name]
    here = FOLDERS / name
    if NAME.fullmatch(name) and (here / FILE).is_file():
        return read_target(here)
    if (Path(name) / FILE).is_file():
        return read_target(Path(name))
    if "/" in name or Path(name).is_dir():
        raise UserError(f"{name} has no {FILE}: docs/firmware.md says what goes in", 3)
    raise UserError(f"there is no board {name!r} to build for; there are {', '.join(names())}, "
                    f"and folders with a {FILE}")  # fmt: skip


def names() -> list[str]:
    """Of all boards that are here."""
    return [*TARGETS, *sorted(path.parent.name for path in FOLDERS.glob(f"*/{FILE}"))]


def read_target(folder: Path) -> Target:
    """Raises UserError (exit 3), one line: file, key, what is wrong."""
    path = folder.resolve() / FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        found = msgspec.convert(values, _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}", 3) from None
    name = path.parent.name
    for problem in _problems(found, path.parent):
        raise UserError(f"{path}: {problem}", 3)
    core, flags = CORES[found.core]
    return Target(
        name,
        image.Board(found.emulator, core, flags, "", "", 0, ""),
        boards.Board(name, found.title, core, found.ram, found.flash),
        tuple(path.parent / source for source in found.sources),
        path.parent / found.script,
        found.stack,
        found.optimise,
        found.interrupts,
        found.semihosting,
        tuple(shlex.split(found.flash_command)),
    )


def _problems(found: _File, folder: Path) -> Iterator[str]:
    if not NAME.fullmatch(folder.name):
        yield f"the folder's name is the board's: small letters, digits and -, not {folder.name}"
    if found.core in WITHOUT_BASEPRI:
        yield f"core {found.core}: it cannot hold back the line's interrupt alone (no BASEPRI)"
    if found.core not in CORES:
        yield f"core {found.core!r}: there are {', '.join(CORES)}"
    for key in ("ram", "flash", "stack", "interrupts"):
        if not 0 < getattr(found, key) < 1 << 31:
            yield f"{key} {getattr(found, key)}: a number above 0 is needed"
    if found.stack >= found.ram:
        yield f"stack {found.stack}: more than the ram of {found.ram}"
    if not found.sources:
        yield "sources: the C files with the functions of board.h are needed"
    for name in (*found.sources, found.script):
        if not (folder / name).is_file():
            yield f"there is no file {name} beside it"
    if found.flash_command and ELF not in found.flash_command:
        yield f"flash_command: it must name the image, {ELF}"
