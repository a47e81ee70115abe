"""Key files: a CURVE key pair for each name; the folder's public keys say who may join."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError

_SIZE = 40  # characters of Z85 in a key of 32 bytes
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_NUMBERS = {character: number for number, character in enumerate(_Z85)}
_BEFORE = "# before: "  # in a secret file: the public key of the secret it has replaced
_NAME_MAX = 63  # bytes; SEAM_DEVICE_ID_MAX of the core


@dataclass(frozen=True)
class Keys:
    """name: our own. secret, public: our CURVE keys in Z85. peers: public key of every other name
    in the folder. folder: where they were read.
    """

    name: str
    secret: str = field(repr=False)
    public: str
    peers: dict[str, str]
    folder: Path | None = None


def key_error(text: str) -> UserError:
    return UserError(text, 3)


def check_name(name: str) -> None:
    """A name is a file's stem and a peer's identity: short, printable, no path in it."""
    bad = (
        not name or len(name.encode()) > _NAME_MAX or name.startswith(".") or not name.isprintable()
    )
    if bad or "/" in name or "\\" in name:
        raise key_error(
            f"{name!r} cannot be the name of a key: "
            f"use 1 to {_NAME_MAX} letters, digits, '-' or '_'"
        )


def new_secret() -> str:
    """A secret key that nobody has, in Z85."""
    import zmq

    return zmq.curve_keypair()[1].decode()


def public_of(secret: str) -> str:
    """The public key of a secret one. Two libraries can tell, each takes megabytes of a device: the
    one that its link has loaded does (`link.load_link`).
    """
    if "zmq" not in sys.modules and "cryptography" in sys.modules:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        key = X25519PrivateKey.from_private_bytes(raw_key(secret))
        return key_text(key.public_key().public_bytes_raw())
    import zmq

    return zmq.curve_public(secret.encode()).decode()


def raw_key(key: str) -> bytes:
    """The bytes of a key in Z85 (ZeroMQ's RFC 32): five characters say four bytes, as one number.

    Raises ValueError or OverflowError for other text.
    """
    numbers = [_NUMBERS.get(character, -1) for character in key]
    if len(key) % 5 or -1 in numbers:
        raise ValueError(f"expected Z85 in groups of five characters, got {len(key)} characters")
    out = b""
    for at in range(0, len(numbers), 5):
        value = 0
        for number in numbers[at : at + 5]:
            value = 85 * value + number
        out += value.to_bytes(4, "big")
    return out


def key_text(raw: bytes) -> str:
    """Bytes of a key, a multiple of four, in Z85."""
    text = ""
    for at in range(0, len(raw), 4):
        value = int.from_bytes(raw[at : at + 4], "big")
        text += "".join(_Z85[value // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return text


def short_code(data: bytes) -> str:
    """100 bits of BLAKE2b in Base32, in groups: a key's fingerprint, the code of a pairing."""
    import base64
    import hashlib  # OpenSSL, which a device that only trains has no use for

    text = base64.b32encode(hashlib.blake2b(data).digest()).decode()
    return "-".join(text[at : at + 4] for at in range(0, 20, 4))


def fingerprint(public: str) -> str:
    """What people compare instead of a key in Z85."""
    return short_code(raw_key(public))


def sync_folder(folder: Path) -> None:
    """Names that were made, replaced or removed stay so through a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, text: str, mode: int, *, replace: bool = False) -> None:
    """A whole file or none. An existing one is replaced in one step, or, without `replace`, is an
    error (FileExistsError).
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(draft, path)
        else:
            os.link(draft, path)  # unlike a rename, fails when the name is taken
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    sync_folder(path.parent)


def write_secret(path: Path, secret: str, before: str = "") -> None:
    """before: the public key that this secret's takes the place of; load_keys mends with it what a
    rotation that was cut short has left.
    """
    text = f"# seamline secret key of {path.stem}: never copy it to another machine\n"
    if before:
        text += f"{_BEFORE}{before}\n"
    write_file(path, f"{text}{secret}\n", 0o600, replace=bool(before))


def write_public(path: Path, public: str, *, replace: bool = False) -> None:
    text = f"# seamline public key of {path.stem}\n{public}\n"
    write_file(path, text, 0o644, replace=replace)


def make_keys(folder: str | Path, names: list[str]) -> list[str]:
    """Make `NAME.secret` (0600) and `NAME.public` for the names that have no secret; returns those
    names.

    The folder is made with mode 0700. An existing key is never changed; a lost public file is
    written again from its secret. Raises UserError: a bad name, a folder that cannot be written.
    """
    folder = Path(folder)
    for name in names:
        check_name(name)
    made = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in dict.fromkeys(names):
            secret_path = folder / f"{name}.secret"
            if secret_path.exists():
                secret = read_secret(secret_path)
            else:
                secret = new_secret()
                write_secret(secret_path, secret)
                made.append(name)
            public_path = folder / f"{name}.public"
            if not public_path.exists():
                write_public(public_path, public_of(secret))
    except OSError as error:
        raise key_error(f"cannot write keys in {folder}: {error.strerror or error}") from error
    return made


def _is_key(text: str) -> bool:
    try:
        return len(text) == _SIZE and len(raw_key(text)) == 32
    except (ValueError, OverflowError):  # five characters of Z85 may say more than four bytes hold
        return False


def read_key(path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise key_error(f"cannot read the key file {path}: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("# ")]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise key_error(
            f"{path} is no key file: expected one line of {_SIZE} characters after the comment; "
            "restore it, or delete it and make the key anew with `seamline keys new JOB`"
        )
    return keys[0]


def check_private(path: Path) -> None:
    """Raises UserError (exit code 3) for a file that others can read, or that is not there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise key_error(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise key_error(f"{path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`")


def read_secret(path: Path) -> str:
    check_private(path)
    return read_key(path)


def _is_before(secret_path: Path, key: str) -> bool:
    """Is `key` the public key that the secret in this file has taken the place of?"""
    try:
        return f"{_BEFORE}{key}" in secret_path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return False


def own_keys(secret_path: Path) -> tuple[str, str]:
    """(secret, public) of a name whose secret is here.

    A public file that a rotation cut short has left behind is written anew. Raises UserError: a
    damaged file, a public file that does not belong to the secret.
    """
    public_path = secret_path.with_name(f"{secret_path.name.removesuffix('.secret')}.public")
    secret = ""
    while True:
        seen, secret = secret, read_secret(secret_path)
        public = public_of(secret)
        if not public_path.exists() or (written := read_key(public_path)) == public:
            return secret, public
        if _is_before(secret_path, written):
            with contextlib.suppress(OSError):  # a folder we may not write: the secret is enough
                write_public(public_path, public, replace=True)
            return secret, public
        if secret == seen:  # else it was being replaced just now
            raise key_error(
                f"{public_path} does not belong to {secret_path}: delete it and run "
                "`seamline keys new JOB`"
            )


def load_keys(folder: str | Path, name: str) -> Keys:
    """Our keys, and the public keys of all others in the folder (the allow list).

    Raises UserError (exit code 3), which says what to do: no key for this name, a secret that
    others can read, a damaged file, a public file that does not belong to our secret, one key under
    two names.
    """
    folder = Path(folder)
    check_name(name)
    secret_path = folder / f"{name}.secret"
    if not secret_path.exists():
        raise key_error(
            f"no key for {name!r} in {folder}: make it with `seamline keys new JOB`, or copy "
            f"{name}.secret and the other ends' .public files there"
        )
    secret, public = own_keys(secret_path)
    owners = {public: name}
    for path in sorted(folder.glob("*.public")):
        if path.stem == name:
            continue
        key = read_key(path)
        if owners.setdefault(key, path.stem) != path.stem:
            raise key_error(
                f"{path} holds the same key as {owners[key]}.public: every name needs its own"
            )
    peers = {owner: key for key, owner in owners.items() if owner != name}
    return Keys(name, secret, public, peers, folder)
