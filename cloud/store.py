"""What the cloud keeps: SQLite for the registry of rounds, arrays as files written whole and renamed.

A round is durable when `save` returns: its arrays were synced and renamed before its row was committed. A process
killed at any point leaves the last committed round, whose file is then there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zipfile
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from .aggregate import Model
from .rounds import Finished

KEPT_FILES = 2  # model files of the latest rounds
SCHEMA = """
CREATE TABLE IF NOT EXISTS job (digest TEXT NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, file TEXT NOT NULL, hash TEXT NOT NULL,
    seconds REAL NOT NULL, metrics TEXT NOT NULL, made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
"""


def model_hash(model: Model) -> str:
    """sha256 over names, shapes and bytes in sorted order."""
    digest = hashlib.sha256()
    for name in sorted(model):
        digest.update(f"{name} {model[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(model[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def write_model(path: Path, model: Model) -> None:
    """An .npz, whole or not at all. Raises UserError when the disk does not take it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **model)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror}; earlier rounds are safe, free some space and start again", 3
        ) from error


def read_model(path: Path) -> Model:
    """Raises UserError if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; remove its folder to begin anew", 3) from error


class Store:
    """The cloud's folder. Raises UserError if it holds another job or is damaged."""

    def __init__(self, folder: Path, digest: str, name: str) -> None:
        self.folder = folder
        path = folder / "cloud.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            with self.db:
                self.db.executescript(SCHEMA)
                row = self.db.execute("SELECT digest, name FROM job").fetchone()
                if row is None:
                    self.db.execute("INSERT INTO job VALUES (?, ?)", (digest, name))
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cannot use the store {path}: {error}; remove {folder} to begin anew", 3) from error
        if row is not None and row[0] != digest:
            raise UserError(
                f"{folder} holds the rounds of another job ({row[1]}, or this one with other settings): "
                "choose another `out` or remove the folder",
                3,
            )

    def last(self) -> tuple[int, Model] | None:
        """(round, model) of the last durable round, or None. Raises UserError if its file is damaged."""
        row = self.db.execute(
            "SELECT round, file, hash FROM rounds ORDER BY round DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        path = self.folder / row[1]
        model = read_model(path)
        if model_hash(model) != row[2]:
            raise UserError(f"{path} is not what was written; remove {self.folder} to begin anew", 3)
        return int(row[0]), model

    def save(self, finished: Finished) -> str:
        """Makes a round durable; returns the model's hash."""
        name = f"round-{finished.round:06d}.npz"
        write_model(self.folder / name, finished.model)
        digest = model_hash(finished.model)
        row = (finished.round, name, digest, finished.seconds, json.dumps(finished.metrics))
        try:
            with self.db:
                self.db.execute(
                    "INSERT INTO rounds (round, file, hash, seconds, metrics) VALUES (?, ?, ?, ?, ?)", row
                )
        except sqlite3.Error as error:
            raise UserError(f"cannot write to {self.folder}: {error}; earlier rounds are safe", 3) from error
        for old in sorted(self.folder.glob("round-*.npz"))[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return digest

    def close(self) -> None:
        self.db.close()
