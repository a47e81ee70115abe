"""Images for Cortex-M boards: compiled for a board, run on it in the emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UserError
from .monocypher import monocypher

HERE = Path(__file__).resolve().parent
CORE = HERE.parent / "kernels" / "core"
COMPILER = "arm-none-eabi-gcc"
EMULATOR = "qemu-system-arm"
PACKAGES = {COMPILER: "gcc-arm-none-eabi", EMULATOR: "qemu-system-arm"}

# What an image computes with: everything of the core but the byte line.
KERNEL_FILES = [
    *(CORE / f"{stem}.c" for stem in ("add", "activation", "conv", "crc", "dense", "depthwise")),
    *(CORE / f"{stem}.c" for stem in ("dispatch", "loss", "norm", "parcel", "pool", "round")),
    *(CORE / f"{stem}.c" for stem in ("sgd", "status", "walk")),
    *(CORE / f"parcel_{kind}.c" for kind in ("bits", "half", "sparse")),
    *sorted(CORE.glob("q8_*.c")),
    *sorted((CORE / "arch").glob("*.c")),
]
# What it talks over a sealed line with; sealing() adds the cryptography.
LINE_FILES = [
    *(CORE / f"{stem}.c" for stem in ("crc", "frame", "packet")),
    *sorted((CORE / "seal").glob("*.c")),
    HERE / "crypto.c",
]
BASE_FILES = [HERE / name for name in ("start.c", "semihost.c", "library.c", "tell.c")]

C_FLAGS = ["-std=c99", "-O2", "-mthumb", "-ffreestanding", "-fno-math-errno", "-ffp-contract=off"]
C_FLAGS += ["-fno-strict-aliasing", "-fwrapv", "-ffunction-sections", "-fdata-sections"]
C_FLAGS += ["-Wall", "-Wextra", "-Wconversion", "-Wmissing-prototypes", "-Werror"]
C_FLAGS += [f"-I{folder}" for folder in (CORE, HERE, HERE / "include")]
LINK_FLAGS = ["-nostdlib", "-Wl,--gc-sections", "-Wl,--fatal-warnings", f"-L{HERE}"]


@dataclass(frozen=True)
class Board:
    """machine: the emulator's name of it. arena: bytes an image may use for its arrays."""

    machine: str
    core: str
    flags: tuple[str, ...]
    source: str
    script: str
    arena: int
    variant: str


# No floats in Helium's vectors: they take tiny values as zero.
_FPU = ("-mfloat-abi=hard",)
BOARDS = {
    "an385": Board(
        "mps2-an385", "Cortex-M3", ("-mcpu=cortex-m3",), "mps2", "mps2", 3 << 20, "generic"
    ),
    "an386": Board(
        "mps2-an386",
        "Cortex-M4",
        ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", *_FPU),
        "mps2",
        "mps2",
        3 << 20,
        "m_dsp",
    ),
    "an500": Board(
        "mps2-an500",
        "Cortex-M7",
        ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16", *_FPU),
        "mps2",
        "mps2",
        3 << 20,
        "m_dsp",
    ),
    "an547": Board(
        "mps3-an547",
        "Cortex-M55",
        ("-mcpu=cortex-m55+nomve.fp", *_FPU),
        "an547",
        "an547",
        3 << 19,
        "m_mve",
    ),
}


def missing(tools: Sequence[str] = tuple(PACKAGES)) -> str | None:
    """One line about those of the tools that are not installed; None: all are."""
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if not lacking:
        return None
    packages = " ".join(PACKAGES[tool] for tool in lacking)
    return f"{' and '.join(lacking)} not found: apt-get install --no-install-recommends {packages}"


def need(tools: Sequence[str] = tuple(PACKAGES)) -> None:
    """Raises UserError (exit code 7): one of the tools is not installed."""
    lacking = missing(tools)
    if lacking is not None:
        raise UserError(lacking, 7)


def sealing() -> tuple[list[Path], list[str]]:
    """Files and flags of an image with a sealed line. Raises MonocypherError.

    Its hash in a loop is 13 KB smaller than unrolled, and a handshake hardly longer.
    """
    folder = monocypher()
    flags = [f"-I{CORE / 'seal'}", "-isystem", str(folder), "-Wno-conversion"]
    return [*LINE_FILES, folder / "monocypher.c"], [*flags, "-DBLAKE2_NO_UNROLLING"]


def build(
    board: Board, sources: Sequence[Path], out: Path, extra_flags: Sequence[str] = ()
) -> Path:
    """Compiles `sources` and the board's own files; returns the image.

    Raises RuntimeError with what the compiler said.
    """
    out.mkdir(parents=True, exist_ok=True)
    image = out / f"{board.machine}.elf"
    files = [*sources, *BASE_FILES, HERE / "boards" / f"{board.source}.c"]
    command = [COMPILER, *board.flags, *C_FLAGS, f"-DARENA_BYTES={board.arena}", *extra_flags]
    command += [*map(str, files), *LINK_FLAGS, "-T", str(HERE / "boards" / f"{board.script}.ld")]
    command += ["-lgcc", "-o", str(image)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        umask=0o077,  # it may hold a key
    )
    if done.returncode != 0:
        raise RuntimeError(f"{board.machine} does not build: {done.stderr.strip()}")
    return image


def emulator(board: Board, image: Path, arguments: Sequence[str] = ()) -> list[str]:
    """The command that runs an image, but for its line."""
    words = ",".join("arg=" + word.replace(",", ",,") for word in arguments)
    semihosting = "enable=on,target=native" + (f",{words}" if words else "")
    command = [EMULATOR, "-M", board.machine, "-kernel", str(image), "-display", "none"]
    command += ["-monitor", "none", "-semihosting-config", semihosting]
    if shutil.which("taskset"):  # the emulator is faster on one core
        command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
    return command


def run(
    board: Board,
    image: Path,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float = 60,
    options: Sequence[str] = (),
) -> str:
    """What the image printed. Its exit code must be 0.

    options: more for the emulator. Raises RuntimeError if the image fails or takes too long; the
    emulator is gone in any case.
    """
    command = emulator(board, image, arguments)
    try:
        done = subprocess.run(
            [*command, "-serial", "none", *options],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{board.machine} did not end within {timeout_s:g} s") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise RuntimeError(f"{board.machine} ended with {done.returncode}: {said}")
    return done.stdout + done.stderr


def sizes(image: Path) -> dict[str, int]:
    """Bytes of an image's sections: text, data, bss."""
    said = subprocess.run(
        ["arm-none-eabi-size", str(image)], capture_output=True, text=True, check=True
    ).stdout
    numbers = re.findall(r"\d+", said.splitlines()[1])
    return dict(zip(("text", "data", "bss"), map(int, numbers), strict=False))
