"""Key files: a CURVE key pair for each name; the folder's public keys say who may join."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from .errors import UserError

_SIZE = 40  # characters of Z85 in a key of 32 bytes
_Z85 = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_NAME_MAX = 63  # bytes; SEAM_DEVICE_ID_MAX of the core


@dataclass(frozen=True)
class Keys:
    """name: our own. secret, public: our CURVE keys in Z85. peers: public key of every other name
    in the folder.
    """

    name: str
    secret: str = field(repr=False)
    public: str
    peers: dict[str, str]


def _error(text: str) -> UserError:
    return UserError(text, 3)


def _check_name(name: str) -> None:
    """A name is a file's stem and a peer's identity: short, printable, no path in it."""
    bad = (
        not name or len(name.encode()) > _NAME_MAX or name.startswith(".") or not name.isprintable()
    )
    if bad or "/" in name or "\\" in name:
        raise _error(
            f"{name!r} cannot be the name of a key: "
            f"use 1 to {_NAME_MAX} letters, digits, '-' or '_'"
        )


def _write(path: Path, text: str, mode: int) -> None:
    """A whole file or none; an existing one is never replaced (FileExistsError)."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, fails when the name is taken
    finally:
        os.unlink(draft)


def make_keys(folder: str | Path, names: list[str]) -> list[str]:
    """Make `NAME.secret` (0600) and `NAME.public` for the names that have no secret; returns those
    names.

    The folder is made with mode 0700. An existing key is never changed; a lost public file is
    written again from its secret. Raises UserError: a bad name, a folder that cannot be written.
    """
    folder = Path(folder)
    for name in names:
        _check_name(name)
    made = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in dict.fromkeys(names):
            secret_path = folder / f"{name}.secret"
            if secret_path.exists():
                secret = _read_secret(secret_path)
            else:
                secret = zmq.curve_keypair()[1].decode()
                text = (
                    f"# seamline secret key of {name}: never copy it to another machine\n{secret}\n"
                )
                _write(secret_path, text, 0o600)
                made.append(name)
            public_path = folder / f"{name}.public"
            if not public_path.exists():
                public = zmq.curve_public(secret.encode()).decode()
                _write(public_path, f"# seamline public key of {name}\n{public}\n", 0o644)
    except OSError as error:
        raise _error(f"cannot write keys in {folder}: {error.strerror or error}") from error
    return made


def _read_key(path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _error(f"cannot read the key file {path}: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if len(keys) != 1 or len(keys[0]) != _SIZE or not _Z85.issuperset(keys[0]):
        raise _error(
            f"{path} is no key file: expected one line of {_SIZE} characters after the comment; "
            "restore it, or delete it and make the key anew with `seamline keys new JOB`"
        )
    return keys[0]


def _read_secret(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _error(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise _error(f"{path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`")
    return _read_key(path)


def load_keys(folder: str | Path, name: str) -> Keys:
    """Our keys, and the public keys of all others in the folder (the allow list).

    Raises UserError (exit code 3), which says what to do: no key for this name, a secret that
    others can read, a damaged file, a public file that does not belong to our secret, one key under
    two names.
    """
    folder = Path(folder)
    _check_name(name)
    secret_path = folder / f"{name}.secret"
    if not secret_path.exists():
        raise _error(
            f"no key for {name!r} in {folder}: make it with `seamline keys new JOB`, or copy "
            f"{name}.secret and the other ends' .public files there"
        )
    secret = _read_secret(secret_path)
    public = zmq.curve_public(secret.encode()).decode()
    owners = {public: name}
    for path in sorted(folder.glob("*.public")):
        key = _read_key(path)
        if path.stem == name and key != public:
            raise _error(
                f"{path} does not belong to {secret_path}: delete it and run "
                "`seamline keys new JOB`"
            )
        if owners.setdefault(key, path.stem) != path.stem:
            raise _error(
                f"{path} holds the same key as {owners[key]}.public: every name needs its own"
            )
    peers = {owner: key for key, owner in owners.items() if owner != name}
    return Keys(name, secret, public, peers)
