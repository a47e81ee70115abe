"""Files that are whole or not there: arrays as bytes, and writing that no crash cuts in half."""

from __future__ import annotations

import fcntl
import io
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz that is the same bytes for the same arrays; any name is allowed (np.savez takes some
    for arguments)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(
                    file, np.asarray(arrays[name], order="C"), allow_pickle=False
                )
    return buffer.getvalue()


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz, or those of them in `names`.

    Raises OSError where there is no file to read, and ValueError for one that is no .npz, is
    damaged, holds Python objects or more than fits into memory.
    """
    with open(path, "rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it is one bare array")
            return {name: arrays[name] for name in arrays.files if names is None or name in names}
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for wrong bytes
            objects = "allow_pickle" in str(error)
            raise ValueError("it holds Python objects" if objects else str(error)) from error


def write_whole(path: Path, data: bytes, *, sync: bool = True, mode: int = 0o666) -> None:
    """The file is either the old one or the new one; with sync also when the power goes. Makes the
    folder. mode: of the file, less the umask. Several programs may write the same file at once.
    Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with _alone(draft, mode) as file:
        try:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    if not sync:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the new name may be lost with the power
    finally:
        os.close(folder)


@contextmanager
def _alone(draft: Path, mode: int) -> Iterator[IO[bytes]]:
    """The empty file `draft`, which no other program writes or renames meanwhile: it waits. What a
    crash left there is used again."""
    while True:
        with open(draft, "ab", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, draft):  # renamed by the program that we waited for
                continue
            file.truncate(0)
            yield file
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
