"""The handshake of a byte line (Noise KK, or XXpsk3 and XX to pair); bodies and time come in,
bodies go out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from .noise import NoiseError, NoiseState
from .seal import Seal

HANDSHAKE = 0x14  # first byte of a body
HELLO, FIRST, SECOND, THIRD, REFUSE = 0, 1, 2, 3, 15
KK, PSK, XX = 0, 1, 2  # patterns; KK is for ends that know each other's key
DEVICE, HOST = 0, 1
# Codes of a REFUSE; nobody says BUSY yet, but a host of many lines may.
UNKNOWN, OTHER_KEY, OTHER_VERSION, BUSY, NOT_PAIRING, IN_CLEAR = 1, 2, 3, 4, 5, 6

_VERSION = 1
_BODY_MAX, _NAME_MAX = 256, 63
_HELLO_HEAD = 23  # bytes before the name
_PROLOGUE = b"seamline line 1"
_NOISE = {KK: "KK", PSK: "XXpsk3", XX: "XX"}
_HELLO_MS, _REPEAT_MS, _SLOWEST_MS = 250, 200, 1000
_STUCK_MS = 5000
_ANSWERS_MOST = 4  # that wait to be sent
_AGAIN_MS = 1000  # the least between two new beginnings that others ask for
_PAIRING = "the other end is pairing: finish or stop `seamline pair` there, then start its host"
_DIFFERENT = "the secrets differ: both ends need the same --secret-file"
_WRONG_KEY = (
    "the key of {peer} in the key folder is not the one it has, or it has another one of ours: "
    "copy the .public files again, or pair anew"
)
_STRANGER = "{peer} is there, but the key folder has no {peer}.public, or another peer belongs here"
_CHANGED = "the handshake was changed on its way: try again, and look at the cable"
REASONS = {  # of a refusal, by its code, as they are counted
    UNKNOWN: "unknown_name",
    OTHER_KEY: "wrong_key",
    OTHER_VERSION: "other_version",
    NOT_PAIRING: "pairing",
    IN_CLEAR: "clear_text",
}
HINTS = {  # what a REFUSE, of which nothing is proved, lets us say
    UNKNOWN: "the other end does not know us, or has another one of us on this line: copy our "
    ".public file into its key folder (or `seamline pair`), and look at the ids",
    OTHER_KEY: _WRONG_KEY.format(peer="the other end"),
    OTHER_VERSION: "the other end speaks another version of the line: upgrade the older of the two",
    BUSY: "the other end is busy with another handshake: try again in a minute",
    NOT_PAIRING: "the other end runs, but it does not pair: stop it, start `seamline pair` there",
}


@dataclass(frozen=True)
class Hello:
    """What an end says first, in clear."""

    body: bytes
    role: int
    patterns: int
    name: str


def _is_other_version(body: bytes) -> bool:
    return len(body) > _HELLO_HEAD and not body[2] <= _VERSION <= body[3]


def read_hello(body: bytes) -> Hello | None:
    """None: no HELLO, or none of this version."""
    if not _HELLO_HEAD < len(body) <= _HELLO_HEAD + _NAME_MAX or body[:2] != bytes([HANDSHAKE, 0]):
        return None
    if not body[2] <= _VERSION <= body[3] or body[4] > HOST or body[22] != len(body) - _HELLO_HEAD:
        return None
    try:
        name = body[_HELLO_HEAD:].decode()
    except UnicodeDecodeError:
        return None
    return Hello(body, body[4], body[5], name)


class Handshake:
    """One end. role: DEVICE, which begins, or HOST. secret: our static key.

    known: the public key of who calls itself so, or None for a name that does not belong here; with
    it the pattern is KK. Without it two ends pair: by psk (32 bytes), or by a code that users
    compare. first_number: of sealed frames, for tests. elsewhere: is this the name of a peer that
    belongs on another line? `refused` counts why others were not accepted (REASONS).

    `established` is (seal, the peer's name, its public key, the handshake's hash) once we have
    nothing more to do; that the peer has come so far is proved by its first sealed frame, of which
    `confirmed` must be told. It stays until another handshake is established.
    """

    def __init__(
        self,
        role: int,
        name: str,
        secret: bytes,
        psk: bytes | None = None,
        known: Callable[[str], bytes | None] | None = None,
        first_number: int = 0,
        elsewhere: Callable[[str], bool] | None = None,
    ) -> None:
        self.established: tuple[Seal, str, bytes, bytes] | None = None
        self.trouble = ""
        self.refused: dict[str, int] = {}  # times, by reason
        self.called = ""  # the name of whom we refused last, as it was claimed
        self._role, self._name, self._secret, self._psk = role, name, secret, psk
        self._known, self._first_number = known, first_number
        self._elsewhere = elsewhere
        self._pattern = KK if known is not None else XX if psk is None else PSK
        self._answers: list[bytes] = []
        self._repeating, self._at, self._step, self._called = b"", 0, _HELLO_MS, -_AGAIN_MS
        self._begin(0)

    @property
    def is_device(self) -> bool:
        return self._role == DEVICE

    @property
    def pattern(self) -> int:
        return self._pattern

    @property
    def hello(self) -> bytes:
        """Our own, as it stands."""
        return self._hello

    def input(self, body: bytes, now_ms: int) -> None:
        """A body without its check, of which it is known that it holds."""
        if not 2 <= len(body) <= _BODY_MAX or body[0] != HANDSHAKE:
            return
        try:
            if body[1] == REFUSE:
                self._hear_refusal(body)
            elif body[1] == HELLO and _is_other_version(body):
                self.trouble = HINTS[OTHER_VERSION]
                self._refuse(OTHER_VERSION)
            elif self._role == DEVICE:
                self._device(body, now_ms)
            else:
                self._host(body, now_ms)
        except NoiseError:
            # Another message may have been one of another try.
            if body[1] == THIRD or self._pattern == KK:
                self.trouble = self._why_wrong()
                self._refuse(OTHER_KEY)
            self._begin(now_ms)
            self._at = now_ms + _SLOWEST_MS

    def restart(self, now_ms: int) -> None:
        """A device's: the way to the peer is lost, look for a new one. The old keys stay in use
        until it is found.
        """
        self._begin(now_ms)

    def call(self, now_ms: int) -> None:
        """A host's: somebody speaks under keys we do not have, or ours are used up. A device that
        hears a HELLO it does not know begins anew.
        """
        if not self._open:
            self._begin(now_ms)
        self._say_sometimes(self._hello, now_ms)

    def refuse_clear(self, now_ms: int) -> None:
        """Somebody speaks in clear."""
        self._count(IN_CLEAR)
        self._say_sometimes(self._refusal(IN_CLEAR), now_ms)

    def _say_sometimes(self, body: bytes, now_ms: int) -> None:
        if now_ms - self._called >= _AGAIN_MS:
            self._called = now_ms
            self._answer(body)

    def output(self, now_ms: int) -> bytes | None:
        """The next body to be sent now."""
        if self._answers:
            return self._answers.pop(0)
        if self._open and now_ms - self._moved >= _STUCK_MS:
            self._begin(now_ms)
        if not self._repeating or now_ms < self._at:
            return None
        self._at, self._step = now_ms + self._step, min(2 * self._step, _SLOWEST_MS)
        return self._repeating

    def wait(self, now_ms: int) -> int:
        """Milliseconds until `output` has something, at most."""
        if self._answers:
            return 0
        return max(0, self._at - now_ms) if self._repeating else _SLOWEST_MS

    def _answer(self, body: bytes) -> None:
        """Soon; a peer that asks faster than it reads is not answered every time."""
        if len(self._answers) < _ANSWERS_MOST:
            self._answers.append(body)

    def confirmed(self) -> None:
        """A sealed frame of the peer has verified: nothing needs to be repeated."""
        self._repeating = b""

    def _begin(self, now_ms: int) -> None:
        name = self._name.encode()
        head = [HANDSHAKE, HELLO, _VERSION, _VERSION, self._role, 1 << self._pattern]
        self._hello = bytes(head) + os.urandom(16) + bytes([len(name)]) + name
        self._theirs: Hello | None = None
        self._state: NoiseState | None = None
        self._first = self._second = b""
        self._moved, self._open = now_ms, True
        self._repeat(self._hello if self._role == DEVICE else b"", now_ms, _HELLO_MS)

    def _repeat(self, body: bytes, now_ms: int, step: int) -> None:
        self._repeating, self._at, self._step = body, now_ms, step

    def _refuse(self, code: int, name: str = "") -> None:
        self._count(code, name)
        self._answer(self._refusal(code))

    def _count(self, code: int, name: str = "") -> None:
        """name: claimed by whom we refuse; empty: as its HELLO said. Who asks is told no more than
        the code; we know whether its name belongs elsewhere.
        """
        name = name or (self._theirs.name if self._theirs is not None else "")
        self.called = name if name.isprintable() else ascii(name)
        reason = REASONS[code]
        if code == UNKNOWN and self._elsewhere is not None and self._elsewhere(name):
            reason = "other_device"
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _refusal(self, code: int) -> bytes:
        name = self._name.encode()
        return bytes([HANDSHAKE, REFUSE, code, len(name)]) + name

    def _hear_refusal(self, body: bytes) -> None:
        """Nobody has proved it: a word for a later error, no more."""
        code = body[2] if len(body) > 2 else 0
        if code == OTHER_KEY and self._psk is not None:
            self.trouble = _DIFFERENT
        else:
            self.trouble = HINTS.get(code, self.trouble)

    def _why_wrong(self) -> str:
        if self._pattern == KK:
            return _WRONG_KEY.format(peer=self._theirs.name if self._theirs else "the other end")
        return _CHANGED if self._psk is None else _DIFFERENT

    def _start(self, device: bytes, host: bytes) -> NoiseState | None:
        """Both HELLOs are part of what the handshake proves: none can be changed or replayed. None:
        there is no key of this peer.
        """
        assert self._theirs is not None
        remote = self._known(self._theirs.name) if self._known is not None else None
        if self._known is not None and remote is None:
            self.trouble = _STRANGER.format(peer=self._theirs.name)
            self._refuse(UNKNOWN)
            return None
        prologue = _PROLOGUE + bytes([self._pattern]) + device + host
        initiator = self._role == DEVICE
        pattern = _NOISE[self._pattern]
        return NoiseState(pattern, initiator, prologue, self._secret, remote, self._psk)

    def _finish(self) -> None:
        assert self._state is not None and self._theirs is not None
        public = self._state.remote_static
        assert public is not None
        to_host, to_device = self._state.split()
        keys = (to_host, to_device) if self._role == DEVICE else (to_device, to_host)
        seal, self._first_number = Seal(*keys, self._first_number), 0
        self.established = (seal, self._theirs.name, public, self._state.hash)
        self.trouble, self._open = "", False

    def _device(self, body: bytes, now_ms: int) -> None:
        if body[1] == HELLO:
            self._hear_host(body, now_ms)
        elif self._open and body[1] == SECOND and self._state is not None:
            self._state.read(body[2:])
            self._moved = now_ms
            if self._state.finished:
                self._repeating = b""
            else:
                third = bytes([HANDSHAKE, THIRD]) + self._state.write()
                self._repeat(third, now_ms, _REPEAT_MS)
            self._finish()

    def _hear_host(self, body: bytes, now_ms: int) -> None:
        hello = read_hello(body)
        if hello is None or hello.role != HOST:
            return
        if not hello.patterns >> self._pattern & 1:
            self.trouble = _PAIRING if self._pattern == KK else self.trouble
        elif not self._open:
            again = self._pattern == KK and now_ms - self._moved >= _AGAIN_MS
            if again and (self._theirs is None or hello.body != self._theirs.body):
                self._begin(now_ms)  # it has started anew and does not know our keys
        elif self._theirs is None:
            self._theirs = hello
            self._state = self._start(self._hello, hello.body)
            if self._state is None:
                self._theirs = None
                return
            self._moved = now_ms
            first = bytes([HANDSHAKE, FIRST, self._pattern]) + self._state.write()
            self._repeat(first, now_ms, _REPEAT_MS)

    def _host(self, body: bytes, now_ms: int) -> None:
        if body[1] == HELLO:
            self._answer_hello(body, now_ms)
        elif body[1] == FIRST and self._theirs is not None and body[2:3] == bytes([self._pattern]):
            if not self._first:
                self._hear_first(body, now_ms)
            if body == self._first:
                self._answer(self._second)
        elif body[1] == THIRD and self._second and self._state and not self._state.finished:
            self._state.read(body[2:])
            self._finish()

    def _hear_first(self, body: bytes, now_ms: int) -> None:
        assert self._theirs is not None
        state = self._state = self._start(self._theirs.body, self._hello)
        if state is None:
            return
        state.read(body[3:])
        self._second = bytes([HANDSHAKE, SECOND]) + state.write()
        self._first, self._moved = body, now_ms
        if state.finished:
            self._finish()

    def _answer_hello(self, body: bytes, now_ms: int) -> None:
        hello = read_hello(body)
        if hello is None or hello.role != DEVICE:
            return
        if not hello.patterns >> self._pattern & 1:
            self._answer(self._hello)  # it says what we would do
            if self._pattern == KK:
                self._refuse(NOT_PAIRING, hello.name)
            return
        if self._theirs is None or self._theirs.body != body:
            self._begin(now_ms)
            self._theirs = hello
        self._answer(self._hello)
