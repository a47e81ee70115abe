"""Files written whole, by several programs at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seamline.runtime.files import npz_bytes, read_npz, write_whole

WRITER = """
import sys
from pathlib import Path
from seamline.runtime.files import write_whole
path, letter = Path(sys.argv[1]), sys.argv[2].encode()
sys.stdin.readline()
for _ in range(300):
    write_whole(path, letter * 100_000, sync=False)
"""


def test_programs_that_write_the_same_file_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    """Two edge hosts wrote model.pt over one draft: one renamed it away, the other ended with an
    error."""
    path = tmp_path / "model.pt"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), letter],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for letter in "AB"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, complaint = writer.communicate(timeout=60)
        assert writer.returncode == 0, complaint
    assert path.read_bytes() in (b"A" * 100_000, b"B" * 100_000)
    assert [child.name for child in tmp_path.iterdir()] == ["model.pt"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)  # a folder cannot be replaced by a file
    with pytest.raises(OSError):
        write_whole(path, b"new")
    assert [child.name for child in tmp_path.iterdir()] == ["folder"]


def test_an_npz_with_any_bit_wrong_is_refused_or_read(tmp_path: Path) -> None:
    """zipfile raises RuntimeError for a file that claims to be encrypted, NotImplementedError for
    one of an unknown compression, and more."""
    path = tmp_path / "one.npz"
    whole = npz_bytes({"a": np.arange(3, dtype=np.float32)})
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                read_npz(path)
            except ValueError:
                refused += 1
    assert refused > len(whole)


def test_what_is_no_npz_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError):
        read_npz(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(ValueError, match="one bare array"):
        read_npz(path.with_suffix(".npy"))
    np.savez(path, objects=np.array([{}], object))
    with pytest.raises(ValueError, match="holds Python objects"):
        read_npz(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="No data left"):
        read_npz(path)
