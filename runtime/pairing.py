"""Pairing over a byte line: after the handshake both ends agree that each keeps the other's public
key; bytes and time come in, bytes go out.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..kernels._link import FrameDecoder, encode_body
from .handshake import (
    HANDSHAKE,
    HINTS,
    NOT_PAIRING,
    PSK,
    XX,
    Handshake,
    Hello,
    read_hello,
)
from .keys import Keys, check_private, key_error, key_text, raw_key, short_code, write_file
from .seal import SEALED, Seal

ASKING, YES, STORED, NO = range(4)  # what an end says of itself
STOPPED, OTHER_KEY, OTHER_NAME, NOT_WRITTEN = range(1, 5)  # why it says NO
PAIR = 0x15  # first byte of the packet that says so, inside the seal

_SECRET_BYTES = 16
_SAY_MS = 250
_GONE_MS = 5000  # without a sealed frame of the other end
_HINT_MS = 2500  # how long something must look wrong to be believed
_LAST_MS = 3000  # how long we wait to hear that the other end has stored, too
_FAREWELLS = 4  # the last word is said so often: a line may lose it
_FAREWELL_MS = 50
_BODY_MAX = 512
_ROLES = ("a device", "an edge host")
_NOBODY = "nobody answered: start `seamline pair` at the other end, too; check cable, port and baud"
_CLEAR = "the other end runs and speaks clear text: stop it there and start `seamline pair`"

_WHY_NOT = {
    STOPPED: "{peer} did not confirm: start again at both ends, compare the codes and answer yes",
    OTHER_KEY: "{peer} has another key for {own}: run `seamline keys forget FOLDER {own}` there, "
    "if the new one is right, and pair again",
    OTHER_NAME: "{peer} does not expect {own} there: check --as here, and --with and the job there",
    NOT_WRITTEN: "{peer} could not keep the key: its error says why; then pair again",
}


@dataclass(frozen=True)
class Peer:
    """public: in Z85. code: equal at both ends if nobody is between them."""

    name: str
    public: str
    code: str


# ---- the secret of a label ----


def make_secret_file(path: Path) -> None:
    """Write a new secret of 128 bits, mode 0600. Raises UserError (exit code 3): the file is there
    already, or cannot be written.
    """
    digits = os.urandom(_SECRET_BYTES).hex()
    groups = "-".join(digits[at : at + 4] for at in range(0, len(digits), 4))
    text = f"# seamline pairing secret: keep it as private as a key\n{groups}\n"
    try:
        write_file(path, text, 0o600)
    except FileExistsError:
        raise key_error(
            f"{path} is there already and is not replaced: choose another name, or remove it"
        ) from None
    except OSError as error:
        raise key_error(f"cannot write {path}: {error.strerror}") from error


def read_secret_file(path: Path) -> bytes:
    """The 16 bytes of a secret file. Raises UserError (exit code 3), which shows none of it."""
    check_private(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    digits = "".join(line for line in lines if not line.startswith("#"))
    digits = digits.translate(str.maketrans("", "", " \t-:"))
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise key_error(
            f"{path} is no secret file: expected {2 * _SECRET_BYTES} hex digits (groups are fine), "
            f"found {len(digits)} characters; make one with `seamline pair --new-secret FILE`"
        )
    return secret


def _stretch(secret: bytes) -> bytes:
    """16 bytes as the 32 that Noise takes."""
    return hashlib.blake2b(secret, digest_size=32, person=b"seamline pair").digest()


# ---- the agreement ----


class Pairing:
    """One end. `check(name, public)`: why this peer cannot be taken, (reason, text), or None.

    The owner moves bytes (`feed`, `output`, `wait`), asks its user while `asking` and tells
    `answer`, writes the key when `may_store` and tells `stored`; then `over`, with `trouble` (and
    `exit_code`) or without.
    """

    def __init__(
        self,
        keys: Keys,
        role: int,
        check: Callable[[str, str], tuple[int, str] | None],
        secret: bytes | None,
        until_ms: int,
    ) -> None:
        self.peer: Peer | None = None
        self.trouble, self.exit_code = "", 0
        self._own, self._check, self._secret = keys.name, check, secret is not None
        psk = None if secret is None else _stretch(secret)
        self._handshake = Handshake(role, keys.name, raw_key(keys.secret), psk)
        self._seal: Seal | None = None
        self._decoder = FrameDecoder(_BODY_MAX, raw=True)
        self._answer, self._reason, self._theirs = ASKING, 0, ASKING
        self._until, self._say_at, self._stored_at = until_ms, 0, 0
        self._role, self._hint = role, ""
        self._hint_since = self._hint_at = 0
        self._done = False
        self._farewells = 0

    # -- for the owner --

    @property
    def asking(self) -> bool:
        """Has the user to compare the code now?"""
        return self.peer is not None and self._answer == ASKING and not self._ended

    @property
    def may_store(self) -> bool:
        """Do both ends want it, and have we not written the key yet?"""
        return self._answer == YES and self._theirs in (YES, STORED) and not self._ended

    @property
    def stored(self) -> bool:
        return self._answer == STORED

    @property
    def confirmed(self) -> bool:
        """Has the other end said that it has written our key?"""
        return self._theirs == STORED

    @property
    def over(self) -> bool:
        return self._ended and self._farewells == 0

    def answer(self, yes: bool) -> None:
        """What the user said of the code."""
        if yes:
            self._answer, self._say_at = YES, 0
        else:
            self.stop("you did not confirm the code: nothing was written")

    def has_stored(self, now_ms: int) -> None:
        self._answer, self._stored_at, self._say_at = STORED, now_ms, 0

    def stop(self, text: str, *, exit_code: int = 6, reason: int = STOPPED) -> None:
        """End it from here; the other end is told why."""
        if not self._ended:
            self.trouble, self.exit_code = text, exit_code
            self._answer, self._reason, self._say_at = NO, reason, 0
            self._farewells = _FAREWELLS if self._seal is not None else 0

    def hung_up(self) -> None:
        """The line is gone for good. Whoever has stored has heard that the other end wants it."""
        if not self._ended and self.stored:
            self._done = True
        self.stop("the line hung up: is the cable still there?", exit_code=4)
        self._farewells = 0

    def feed(self, data: bytes, now_ms: int) -> None:
        for body in self._decoder.feed(data):
            self._take(body, now_ms)
        self._look(now_ms)

    def output(self, now_ms: int) -> bytes:
        """Whole frames to be sent now."""
        self._look(now_ms)
        out = []
        while not self._ended and (body := self._handshake.output(now_ms)) is not None:
            out.append(encode_body(body + zlib.crc32(body).to_bytes(4, "little")))
        if self._seal is not None and now_ms >= self._say_at and not self.over:
            body = self._seal.seal(bytes([PAIR, self._answer, self._reason]))
            out.append(encode_body(body))
            self._say_at = now_ms + (_FAREWELL_MS if self._ended else _SAY_MS)
            self._farewells = max(0, self._farewells - 1)
        return b"".join(out)

    def wait(self, now_ms: int) -> int:
        """Milliseconds until `output` has something new, at most."""
        times = [self._until - now_ms, _SAY_MS]
        if self._seal is not None:
            times.append(self._say_at - now_ms)
        if not self._ended:
            times.append(self._handshake.wait(now_ms))
        return max(0, min(times))

    # -- inside --

    @property
    def _ended(self) -> bool:
        return self._done or bool(self.trouble)

    def _take(self, body: bytes, now_ms: int) -> None:
        if self._ended:
            return
        if body[0] != SEALED:
            if len(body) > 4 and zlib.crc32(body[:-4]) == int.from_bytes(body[-4:], "little"):
                self._hear(body[:-4], now_ms)
        elif self._seal is not None:
            packet = self._seal.open(body)
            if packet is not None and len(packet) == 3 and packet[0] == PAIR:
                self._handshake.confirmed()
                self._until = now_ms + _GONE_MS
                self._meet()
                self._hear_answer(packet[1], packet[2])

    def _hear(self, body: bytes, now_ms: int) -> None:
        if body[0] != HANDSHAKE:
            self._suspect(_CLEAR, now_ms)
            return
        hello = read_hello(body)
        if hello is not None:
            wrong = self._look_at(hello)
            self._suspect(wrong, now_ms)
            if not wrong and self._hint != self._handshake.trouble:
                self._hint = ""
        self._handshake.input(body, now_ms)
        found = self._handshake.established
        if found is None or found[0] is self._seal:
            return
        self._seal, self._say_at = found[0], 0
        if self.peer is not None:
            self.stop(f"{self.peer.name} has started again: start here again, too")

    def _look_at(self, hello: Hello) -> str:
        """What in a HELLO of the other end will let us pair with nobody; empty: nothing. It is not
        proved, so it only serves to end a vain wait with a better word.
        """
        if hello.body == self._handshake.hello:
            return "the line sends back what we send: are both its ends in the same plug?"
        if hello.role == self._role:
            return f"the other end is {_ROLES[self._role]}, too: one end must be `--as host-..`"
        if hello.patterns >> self._handshake.pattern & 1:
            return ""
        if hello.patterns >> PSK & 1 or hello.patterns >> XX & 1:
            return "one end has --secret-file and the other has not: give it to both, or to none"
        return HINTS[NOT_PAIRING]

    def _suspect(self, text: str, now_ms: int) -> None:
        """Something that looks wrong from here; when it stays so, waiting on is vain. Once is not
        enough: it may be what another program has left in a buffer.
        """
        if not text:
            return
        if text != self._hint or now_ms - self._hint_at > _HINT_MS:
            self._hint, self._hint_since = text, now_ms
        self._hint_at = now_ms

    def _is_vain(self, now_ms: int) -> bool:
        """Has it looked wrong for long? The other end may have seen it earlier, and be gone."""
        seen = self._hint_at - self._hint_since
        return seen >= _HINT_MS // 3 and now_ms - self._hint_since >= _HINT_MS

    def _meet(self) -> None:
        """A sealed frame has proved that the other end has finished the same handshake: only now it
        is somebody (of two secrets that differ, the device does not know before).
        """
        found = self._handshake.established
        if self.peer is not None or found is None:
            return
        _, name, public, digest = found
        self.peer = Peer(name, key_text(public), short_code(digest))
        wrong = self._check(self.peer.name, self.peer.public)
        if wrong is not None:
            self.stop(wrong[1], exit_code=3 if wrong[0] == OTHER_KEY else 6, reason=wrong[0])
        elif self._secret:
            self._answer, self._say_at = YES, 0

    def _hear_answer(self, answer: int, reason: int) -> None:
        if self.peer is None or self._ended:
            return
        if answer == NO:
            text = _WHY_NOT.get(reason, _WHY_NOT[STOPPED])
            self.trouble, self.exit_code = text.format(peer=self.peer.name, own=self._own), 6
        elif answer > self._theirs and answer < NO:
            self._theirs = answer

    def _look(self, now_ms: int) -> None:
        """What only time, or both answers together, decide."""
        if self._ended:
            return
        late = now_ms - self._stored_at >= _LAST_MS
        if self.stored and (self._theirs == STORED or late):
            self._done, self._say_at, self._farewells = True, 0, _FAREWELLS
        elif now_ms >= self._until:
            self._give_up()
        elif self.peer is None:
            self._suspect(self._handshake.trouble, now_ms)
            if self._is_vain(now_ms):
                self._give_up()

    def _give_up(self) -> None:
        if self.peer is not None:
            text = f"{self.peer.name} is gone: start again at both ends"
        else:
            text = self._hint or _NOBODY
        self.trouble, self.exit_code = text, 6
