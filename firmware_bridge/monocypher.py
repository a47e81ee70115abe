"""Monocypher, the cryptography of an image: the two files of a pinned release."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

from ..runtime.bundled import cache_folder
from ..runtime.errors import UserError
from ..runtime.fetch import FetchError, Pinned, fetch, read_whole
from ..runtime.files import write_whole

# Monocypher 4.0.3 (CC0 or BSD-2-Clause), unchanged, in the sources of its Python binding.
RELEASE = Pinned(
    "pymonocypher==4.0.3.4",
    "5e56e3d3eb770a53e0b9f6274146663c11a11f3d0de5cd48e3be0428d1b07a4a",
    "tar.gz",
)
FILES = ("monocypher.c", "monocypher.h")
MISSING = 7  # exit code


class MonocypherError(UserError):
    """Monocypher is not here and cannot be fetched (exit code 7)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, MISSING)


def monocypher(archive: Path | None = None) -> Path:
    """The folder that holds monocypher.c and monocypher.h; fetched once, then in the user's cache.

    archive: the release's file brought by hand, instead of the network. Raises MonocypherError.
    """
    folder = cache_folder() / "monocypher-4.0.3"
    if archive is None and all((folder / name).exists() for name in FILES):
        return folder
    if archive is not None:
        return _keep(folder, archive)
    with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
        try:
            return _keep(folder, fetch(RELEASE, Path(draft)))
        except FetchError as error:
            raise MonocypherError(
                f"cannot fetch {RELEASE.requirement} (Monocypher, the cryptography of an image) "
                f"from the package index: {error}; without a network, bring the file of `pip "
                f"download --no-deps --no-binary :all: {RELEASE.requirement}`"
            ) from None


def _keep(folder: Path, archive: Path) -> Path:
    try:
        data = read_whole(archive, RELEASE)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for name in FILES:
                member = tar.extractfile(f"pymonocypher-4.0.3.4/{name}")
                assert member is not None  # the hash says that it is a file there
                write_whole(folder / name, member.read())
    except (OSError, ValueError) as error:
        raise MonocypherError(f"{archive} cannot be used: {error}") from None
    return folder


def main() -> int:
    """Say where Monocypher is, for builds; returns an exit code."""
    try:
        print(monocypher())
    except MonocypherError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
