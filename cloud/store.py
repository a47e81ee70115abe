"""What the cloud keeps on disk: an SQLite registry of zones, rounds and metrics, and arrays in
files written whole.

`store.db` names every file that counts, with its hash; a file is complete on disk before its row
is, and a row before anybody is told. So after kill -9 or a power cut the last row is a whole round,
and files without a row are rubbish.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from ..runtime.config import Job, job_digest
from ..runtime.errors import UserError
from ..runtime.files import npz_bytes, read_npz, write_whole
from .aggregate import Array, Model, Update, model_hash
from .rounds import Close, Keep, Report, State

APPLICATION = 0x5345414C  # "SEAL" in the database's header
FORMAT = 2
MODELS_KEPT = 2  # the last ones
EXIT_STORE = 3

_TABLES = """
CREATE TABLE job (name TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE zones (zone TEXT PRIMARY KEY, first_seen REAL NOT NULL, last_seen REAL NOT NULL);
CREATE TABLE rounds (round INTEGER PRIMARY KEY, hash TEXT NOT NULL, seconds REAL NOT NULL);
CREATE TABLE updates (round INTEGER NOT NULL, zone TEXT NOT NULL, samples INTEGER NOT NULL,
    metrics TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (round, zone));
CREATE TABLE sent (round INTEGER PRIMARY KEY, hash TEXT NOT NULL, codecs TEXT NOT NULL);
CREATE TABLE reports (zone TEXT PRIMARY KEY, metrics TEXT NOT NULL);
"""


# ---- files ----


def write_model(path: Path, model: Mapping[str, Array]) -> None:
    """A model for people, written whole. Raises UserError."""
    try:
        write_whole(path, npz_bytes(model))
    except OSError as error:
        raise _cannot_write(path, error) from error


def read_model(path: Path) -> Model:
    """A model that a run has left, to begin from. Raises UserError (exit 3)."""
    try:
        model = read_npz(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"model.start {path} cannot be read: {reason}", EXIT_STORE) from None
    for name, array in model.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(
                f"model.start {path}: {name} is no array of finite numbers: give the model.npz "
                "that a run has left",
                EXIT_STORE,
            )
    return model


def _cannot_write(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"cannot write {path}: {reason}; make room or change `out` in the job file, then start "
        "the cloud again: all rounds before are safe",
        EXIT_STORE,
    )


# ---- the store ----


class Store:
    """One job's rounds. Open for one process at a time."""

    def __init__(self, folder: Path, job: Job) -> None:
        """Opens the store in `folder`, or makes one. Raises UserError (exit 3), which says what to
        do: a folder that cannot be written, another cloud at work, a damaged file, a store that is
        not ours or another job's."""
        self.folder = folder
        self._path = folder / "store.db"
        try:
            (folder / "models").mkdir(parents=True, exist_ok=True)
            (folder / "updates").mkdir(exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise _cannot_write(folder, error) from error
        self._db: sqlite3.Connection | None = None
        try:
            self._open(job)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._lock.close()

    def _take_lock(self) -> IO[bytes]:
        """Held until this process ends, however it ends."""
        lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(
                f"another cloud is using {self.folder}: stop it, or give this job another `out`",
                EXIT_STORE,
            ) from None
        return lock

    @property
    def db(self) -> sqlite3.Connection:
        assert self._db is not None, "the store is closed"
        return self._db

    # ---- opening ----

    def _open(self, job: Job) -> None:
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None)
            ours = self._pragma("application_id") == APPLICATION
            empty = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if not ours and not empty:
                raise self._foreign("it is another program's database")
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute("PRAGMA synchronous = FULL")  # a commit is on disk, not only in order
            if empty:
                self._make(job)
            self._check(job)
        except sqlite3.DatabaseError as error:
            # OperationalError: the disk or the folder; else: the bytes
            if isinstance(error, sqlite3.OperationalError):
                raise _cannot_write(self._path, error) from error
            raise self._foreign(f"it is damaged or no database: {error}") from error

    def _pragma(self, name: str) -> Any:
        return self.db.execute(f"PRAGMA {name}").fetchone()[0]

    def _make(self, job: Job) -> None:
        self.db.executescript(
            f"BEGIN; {_TABLES}"
            f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
        )
        self.db.execute("INSERT INTO job VALUES (?, ?)", (job.name, job_digest(job)))
        self.db.execute("COMMIT")

    def _check(self, job: Job) -> None:
        if self._pragma("user_version") != FORMAT:
            raise self._foreign(
                f"it has format {self._pragma('user_version')}, this version needs {FORMAT}"
            )
        if self._pragma("quick_check") != "ok":
            raise self._foreign("it is damaged")
        row = self.db.execute("SELECT name, digest FROM job").fetchone()
        if row is None or row[1] != job_digest(job):
            raise self._foreign(
                f"it belongs to the job {row[0] if row else ''!r} "
                "with other settings, seed, data or zones"
            )

    def _foreign(self, reason: str) -> UserError:
        return UserError(
            f"{self._path} cannot be used: {reason}; remove the folder {self.folder} to "
            "begin anew, or give this job another `out`",
            EXIT_STORE,
        )

    # ---- reading ----

    def restore(self) -> State:
        """The last durable round, the updates of the one after it, and the reports. Raises
        UserError for a damaged file."""
        state = State()
        rows = self.db.execute(
            "SELECT round, hash FROM rounds ORDER BY round DESC LIMIT 1"
        ).fetchall()
        for round_, digest in rows:
            state.round = round_ + 1
            state.model = self._read(self._model(round_), digest)
            self._restore_sent(state)
        rows = self.db.execute(
            "SELECT zone, samples, metrics, hash FROM updates WHERE round = ?", (state.round,)
        ).fetchall()
        for zone, samples, metrics, digest in rows:
            arrays = self._read(self._update(state.round, zone), digest)
            state.updates[zone] = Update(samples, arrays, json.loads(metrics))
        for zone, metrics in self.db.execute("SELECT zone, metrics FROM reports").fetchall():
            state.reports[zone] = json.loads(metrics)
        self._sweep(state.round, set(state.updates))
        return state

    def _restore_sent(self, state: State) -> None:
        rows = self.db.execute(
            "SELECT hash, codecs FROM sent WHERE round = ?", (state.round - 1,)
        ).fetchall()
        for digest, codecs in rows:
            state.sent = self._read(self._sent(state.round - 1), digest)
            state.codecs = json.loads(codecs)

    def _read(self, path: Path, digest: str) -> Model:
        try:
            arrays = read_npz(path)
        except (OSError, ValueError) as error:
            raise self._foreign(f"its file {path.name} cannot be read ({error})") from error
        if model_hash(arrays) != digest:
            raise self._foreign(f"its file {path.name} is not the one that was written")
        return arrays

    # ---- writing ----

    def keep_zone(self, zone: str) -> None:
        """A zone came."""
        now = time.time()
        with self._writing():
            self.db.execute(
                "INSERT INTO zones VALUES (?, ?, ?) ON CONFLICT (zone) DO UPDATE SET last_seen = ?",
                (zone, now, now, now),
            )

    def keep_update(self, keep: Keep) -> None:
        """Durable when it returns. Raises UserError."""
        update = keep.update
        with self._writing():
            write_whole(self._update(keep.round, keep.zone), npz_bytes(update.arrays))
            row = (keep.round, keep.zone, update.samples, json.dumps(update.metrics))
            self.db.execute(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?)", (*row, model_hash(update.arrays))
            )

    def keep_round(self, close: Close) -> None:
        """Durable when it returns; the updates it was made of are no longer needed. Raises
        UserError."""
        with self._writing():
            write_whole(self._model(close.round), npz_bytes(close.model))
            if close.sent:
                write_whole(self._sent(close.round), npz_bytes(close.sent))
            self.db.execute("BEGIN IMMEDIATE")
            if close.sent:
                row = (close.round, model_hash(close.sent), json.dumps(close.codecs))
                self.db.execute("INSERT INTO sent VALUES (?, ?, ?)", row)
            self.db.execute(
                "INSERT INTO rounds VALUES (?, ?, ?)", (close.round, close.hash, close.seconds)
            )
            self.db.execute("COMMIT")
        self._sweep(close.round + 1, set())

    def keep_report(self, report: Report) -> None:
        with self._writing():
            self.db.execute(
                "INSERT INTO reports VALUES (?, ?)", (report.zone, json.dumps(report.metrics))
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise _cannot_write(self.folder, error) from error

    def _model(self, round_: int) -> Path:
        return self.folder / "models" / f"after-{round_:06d}.npz"

    def _sent(self, round_: int) -> Path:
        return self.folder / "models" / f"sent-{round_:06d}.npz"

    def _update(self, round_: int, zone: str) -> Path:
        return self.folder / "updates" / f"{round_:06d}-{quote(zone, safe='')}.npz"

    def _sweep(self, round_: int, zones: set[str]) -> None:
        """Removes files that no longer count, or never did, when round `round_` is open with
        updates of `zones`."""
        kept = {
            self._model(round_ - 1 - age) for age in range(MODELS_KEPT) if round_ - 1 - age >= 0
        }
        kept |= {self._update(round_, zone) for zone in zones} | {self._sent(round_ - 1)}
        with self._writing():
            for folder in ("models", "updates"):
                for path in (self.folder / folder).iterdir():
                    if path not in kept:
                        path.unlink()
