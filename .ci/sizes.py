"""Checks what the built wheel and source distribution hold, and prints what the wheel weighs.

Usage: sizes.py FOLDER
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

WHEEL_MAX = 3_000_000  # bytes; the C core and its three faces are the most of it
MODULES = ("_core", "_front", "_link")
FIRMWARE = (
    "start.c",
    "device.c",
    "boards/mps2_line.c",
    "image.ld",
    "boards/mps2.ld",
    "boards/nrf52840dk/board.toml",
    "include/string.h",
    "LICENSE",
    "budget.toml",
)


def wheel_faults(names: list[str]) -> list[str]:
    """What is wrong with the list of files of a wheel."""
    faults = [f"{name} is outside of seamline/" for name in names if not _ours(name)]
    faults += [
        f"{name} must not be installed" for name in names if "/tests/" in name or "_cache" in name
    ]
    wanted = ["seamline/kernels/core/seam.h", "seamline/kernels/core/conv.c", "seamline/py.typed"]
    wanted += ["seamline/kernels/core/arch/generic.c", "seamline/kernels/_seam.pxd"]
    wanted += [f"seamline/firmware_bridge/{name}" for name in FIRMWARE]
    wanted += [f"seamline/kernels/{module}.pyi" for module in MODULES]
    faults += [f"{name} is missing" for name in wanted if name not in names]
    for module in MODULES:
        built = [
            n for n in names if n.startswith(f"seamline/kernels/{module}.") and n.endswith(".so")
        ]
        if len(built) != 1:
            faults.append(f"expected one compiled seamline.kernels.{module}, got {built}")
    return faults


def _ours(name: str) -> bool:
    top = name.partition("/")[0]
    return top == "seamline" or (top.startswith("seamline-") and top.endswith(".dist-info"))


def sdist_faults(names: list[str]) -> list[str]:
    """What is wrong with the files of a source distribution (paths below its top folder)."""
    wanted = [
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "SPEC.md",
    ]
    wanted += [
        "kernels/core/seam.h",
        "kernels/core/arch/generic.c",
        "kernels/_seam.pxd",
        "src/seamline/py.typed",
    ]
    wanted += [f"firmware_bridge/{name}" for name in FIRMWARE]
    wanted += [f"kernels/{module}.pyx" for module in MODULES]
    faults = [f"{name} is missing" for name in wanted if name not in names]
    made = [f"kernels/{module}.c" for module in MODULES]
    return faults + [
        f"{name} is made by a build" for name in names if name in made or name.endswith(".so")
    ]


def weigh(wheel: Path) -> None:
    """Prints the wheel's size, and the unpacked size of each part."""
    parts: Counter[str] = Counter()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(entry.filename)
            compiled = path.suffix == ".so"
            core = "core" in path.parts
            part = (
                path.name.split(".")[0]
                if compiled
                else "C core, sources"
                if core
                else path.parts[-2]
            )
            parts[part] += entry.file_size
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e3:.0f} kB, unpacked {sum(parts.values()) / 1e3:.0f} kB")
    for part, weight in parts.most_common():
        print(f"  {weight / 1e3:8.1f} kB  {part}")
    if size > WHEEL_MAX:
        sys.exit(f"error: the wheel is larger than {WHEEL_MAX} bytes")


def main(folder: Path) -> None:
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.exit(f"error: expected one wheel and one source distribution in {folder}")
    with zipfile.ZipFile(wheels[0]) as archive:
        faults = [f"wheel: {fault}" for fault in wheel_faults(archive.namelist())]
    with tarfile.open(sdists[0]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    faults += [f"source distribution: {fault}" for fault in sdist_faults(names)]
    if faults:
        sys.exit("\n".join(f"error: {fault}" for fault in faults))
    weigh(wheels[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
