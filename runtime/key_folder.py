"""A key folder after it was made: what is in it, a peer's key put in, one forgotten, an own one
replaced, and the allow list of a program that runs while that happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .keys import (
    Keys,
    check_name,
    fingerprint,
    key_error,
    new_secret,
    own_keys,
    public_of,
    read_key,
    sync_folder,
    write_public,
    write_secret,
)

_LOOK_S = 0.2  # between two looks at a folder, so that knocking strangers cost no disk


@dataclass(frozen=True)
class Entry:
    """own: its secret is here. public: in Z85, empty when `trouble` says why there is none."""

    name: str
    own: bool
    public: str
    trouble: str = ""


def list_keys(folder: str | Path) -> list[Entry]:
    """Every name in the folder, own ones first; a damaged file is an entry with its trouble.

    Raises UserError (exit code 3): no such folder.
    """
    folder = Path(folder)
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise key_error(f"cannot read the key folder {folder}: {error.strerror}") from error
    own = {path.stem for path in files if path.suffix == ".secret"}
    peers = {path.stem for path in files if path.suffix == ".public"} - own
    found = [_entry(folder, name, True) for name in sorted(own)]
    return found + [_entry(folder, name, False) for name in sorted(peers)]


def _entry(folder: Path, name: str, own: bool) -> Entry:
    try:
        if own:
            return Entry(name, own, own_keys(folder / f"{name}.secret")[1])
        return Entry(name, own, read_key(folder / f"{name}.public"))
    except UserError as error:
        return Entry(name, own, "", str(error))


def find_key(folder: str | Path, name: str) -> Entry:
    """Raises UserError (exit code 3): no such name there."""
    check_name(name)
    entries = list_keys(folder)
    for entry in entries:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in entries[:12]) or "no key"
    more = f" and {len(entries) - 12} more" if len(entries) > 12 else ""
    raise key_error(f"there is no key of {name!r} in {folder}; it has {names}{more}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One program at a time changes the keys of a folder. Raises UserError for what the disk
    refuses.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
    except OSError as error:
        raise key_error(f"cannot change the keys in {folder}: {error.strerror or error}") from error


def add_peer(folder: str | Path, name: str, public: str) -> bool:
    """Write NAME.public; False: it was there already, with this key.

    Raises UserError (exit code 3): the name has another key, or the key another name.
    """
    folder = Path(folder)
    check_name(name)
    with _alone(folder):
        wrong = clash(folder, name, public)
        if wrong:
            raise key_error(wrong)
        path = folder / f"{name}.public"
        if path.exists():
            return False
        write_public(path, public)
        return True


def clash(folder: str | Path, name: str, public: str) -> str:
    """Why `public` cannot be the key of `name` here; empty: it can."""
    folder = Path(folder)
    for entry in list_keys(folder):
        if entry.name == name and entry.own:
            return (
                f"{name} is a name of this machine ({folder} has {name}.secret); the other end "
                "needs its own"
            )
        if entry.name == name and entry.trouble:
            return entry.trouble
        if entry.name == name and entry.public != public:
            return (
                f"{name} has another key here ({fingerprint(entry.public)}) than the one it shows "
                f"now ({fingerprint(public)}): if it really has a new one, run "
                f"`seamline keys forget {folder} {name}` and pair again"
            )
        if entry.name != name and entry.public == public:
            return (
                f"{name} shows the key of {entry.name}: every name needs its own; run "
                f"`seamline keys forget {folder} {entry.name}` if that is its old name"
            )
    return ""


def forget_key(folder: str | Path, name: str, *, own: bool = False) -> Entry:
    """Remove a peer's NAME.public; with `own` also a secret of this machine. Returns what it was.

    Raises UserError (exit code 3): no such name, or an own secret without `own`.
    """
    folder = Path(folder)
    with _alone(folder):
        entry = find_key(folder, name)
        if entry.own and not own:
            raise key_error(
                f"{folder / name}.secret is the key of this machine: nobody can make it again; "
                "say --own to remove it all the same, or `seamline keys rotate` to replace it"
            )
        for suffix in ("secret", "public"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        sync_folder(folder)
    return entry


def rotate_key(folder: str | Path, name: str) -> tuple[str, str]:
    """A new key pair for a name whose secret is here; returns the public keys (old, new).

    At every moment the folder holds one whole secret. NAME.public follows a moment later; if we are
    killed in between, whoever reads the folder next writes it. Raises UserError (exit code 3): no
    secret of that name here.
    """
    folder = Path(folder)
    with _alone(folder):
        entry = find_key(folder, name)
        if not entry.own:
            raise key_error(
                f"{folder} has no {name}.secret: a key is replaced on the machine that holds its "
                "secret"
            )
        if entry.trouble:
            raise key_error(entry.trouble)
        secret = new_secret()
        public = public_of(secret)
        write_secret(folder / f"{name}.secret", secret, before=entry.public)
        write_public(folder / f"{name}.public", public, replace=True)
    return entry.public, public


class AllowList:
    """Who may come in: what load_keys has read, and what has changed in the folder since.

    Any thread may ask. A file that is damaged, or a key under two names, lets nobody in: at the
    start that is an error, but here others are being served.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._own, self._folder, self._clock = keys, keys.folder, clock
        self._keys = dict(keys.peers)
        self._names = {key: name for name, key in keys.peers.items()}
        self._seen: dict[str, tuple[int, int, int]] | None = None  # it may have changed since
        self._found: dict[str, str] = {}  # every key read, also one under two names
        self._next = clock()
        self._lock = threading.Lock()

    def key_of(self, name: str) -> str | None:
        """The public key of a name in Z85, as of the last look."""
        return self._keys.get(name)

    def name_of(self, public: str) -> str | None:
        """Whose key is this? Looks at the folder first."""
        self.look()
        return self._names.get(public)

    def look(self) -> None:
        """Take in what has changed, at most once in 0.2 s."""
        with self._lock:
            if self._folder is None or self._clock() < self._next:
                return
            self._next = self._clock() + _LOOK_S
            try:
                seen = _files(self._folder)
            except OSError:  # for example too many open files: no reason to send everyone away
                return
            if seen != self._seen:
                self._keys = self._read(self._folder, seen)
                self._names = {key: name for name, key in self._keys.items()}
                self._seen = seen

    def _read(self, folder: Path, files: dict[str, tuple[int, int, int]]) -> dict[str, str]:
        """Reads what is new or changed; of a thousand files that is mostly one."""
        before, self._found = self._found, {}
        for file, status in files.items():
            name = file.removesuffix(".public")
            if name == self._own.name:
                continue
            if self._seen is not None and self._seen.get(file) == status and name in before:
                self._found[name] = before[name]
                continue
            with contextlib.suppress(UserError):
                self._found[name] = read_key(folder / file)
        uses = Counter([self._own.public, *self._found.values()])
        return {name: key for name, key in self._found.items() if uses[key] == 1}


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of each public file what tells that it changed: time, size, inode. No folder: no file."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".public") and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found[entry.name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    except FileNotFoundError:
        return {}
    return found
