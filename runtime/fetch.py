"""A pinned file of the package index, fetched by pip and checked by its hash."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pinned:
    """A release and the hash of its file. kind: `whl`, or `tar.gz` for its source distribution."""

    requirement: str
    sha256: str
    kind: str = "whl"


class FetchError(Exception):
    """The index did not give the file; the text is pip's reason."""


def fetch(pinned: Pinned, folder: Path) -> Path:
    """The file, in `folder`. pip checks the hash, and `read_whole` again. Raises FetchError."""
    import subprocess

    wanted = folder / "wanted.txt"
    wanted.write_text(f"{pinned.requirement} --hash=sha256:{pinned.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-binary=:all:" if pinned.kind == "tar.gz" else "--only-binary=:all:"]
    command += ["--no-deps", "--require-hashes", "--retries", "2", "--timeout", "20"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    found = sorted(folder.glob(f"*.{pinned.kind}"))
    if done.returncode or len(found) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise FetchError((errors or lines or ["pip gave no file"])[-1])
    return found[0]


def read_whole(path: Path, pinned: Pinned) -> bytes:
    """The file's bytes. Raises OSError, and ValueError for another file than the pinned one."""
    import hashlib  # 4 MB of OpenSSL that a device with data at hand has no use for

    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != pinned.sha256:
        raise ValueError(
            f"it is not the file of {pinned.requirement}: its sha256 is {found[:16]}..., "
            f"expected {pinned.sha256[:16]}..."
        )
    return data
