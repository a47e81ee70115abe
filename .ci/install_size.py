"""Prints what the distributions in this environment weigh on disk, pip's own aside.

Usage: install_size.py LIMIT_MB
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

TOOLS = {"pip", "setuptools", "wheel"}


def size_of(distribution: Distribution) -> int:
    """Bytes of the files that a distribution put into the environment, byte code included."""
    paths = [Path(str(file.locate())) for file in distribution.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())


def main(limit_mb: float) -> None:
    sizes = {d.metadata["Name"]: size_of(d) for d in distributions()}
    sizes = {name: size for name, size in sizes.items() if name.lower() not in TOOLS}
    total = sum(sizes.values()) / 1e6
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    print(
        f"{total:.1f} MB installed: "
        + ", ".join(f"{name} {size / 1e6:.1f}" for name, size in largest)
    )
    if total > limit_mb:
        sys.exit(f"error: a device may take {limit_mb:g} MB")


if __name__ == "__main__":
    main(float(sys.argv[1]))
