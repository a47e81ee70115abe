"""The handshake of a pairing on a byte line (Noise XXpsk3 or XX); bodies and time come in, bodies
go out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .noise import NoiseError, NoiseState
from .seal import Seal

HANDSHAKE = 0x14  # first byte of a body
HELLO, FIRST, SECOND, THIRD, REFUSE = 0, 1, 2, 3, 15
PSK, XX = 1, 2  # patterns; 0 is KK, for who knows the other already
DEVICE, HOST = 0, 1
OTHER_KEY, OTHER_VERSION, NOT_PAIRING = 2, 3, 5  # codes of a REFUSE

_VERSION = 1
_BODY_MAX, _NAME_MAX = 256, 63
_HELLO_HEAD = 23  # bytes before the name
_PROLOGUE = b"seamline line 1"
_NOISE = {PSK: "XXpsk3", XX: "XX"}
_HELLO_MS, _REPEAT_MS, _SLOWEST_MS = 250, 200, 1000
_STUCK_MS = 5000
_DIFFERENT = "the secrets differ: both ends need the same --secret-file"
_CHANGED = "the handshake was changed on its way: try again, and look at the cable"
HINTS = {  # what a REFUSE, of which nothing is proved, lets us say
    OTHER_VERSION: "the other end speaks another version of the line: upgrade the older of the two",
    NOT_PAIRING: "the other end runs, but it does not pair: stop it, start `seamline pair` there",
}


@dataclass(frozen=True)
class Hello:
    """What an end says first, in clear."""

    body: bytes
    role: int
    patterns: int
    name: str


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


class PairHandshake:
    """One end. role: DEVICE, which begins, or HOST. secret: our static key; psk: 32 bytes or None.

    `established` is (seal, the peer's name, its public key, the handshake's hash) once we have
    nothing more to do; that the peer has come so far is proved by its first sealed frame, of which
    `confirmed` must be told.
    """

    def __init__(self, role: int, name: str, secret: bytes, psk: bytes | None) -> None:
        self.established: tuple[Seal, str, bytes, bytes] | None = None
        self.trouble = ""
        self._role, self._name, self._secret, self._psk = role, name, secret, psk
        self._pattern = XX if psk is None else PSK
        self._answers: list[bytes] = []
        self._repeating, self._at, self._step = b"", 0, _HELLO_MS
        self._begin(0)

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
            elif self._role == DEVICE:
                self._device(body, now_ms)
            else:
                self._host(body, now_ms)
        except NoiseError:
            if body[1] == THIRD:  # of other messages it may have been one of another try
                self.trouble = _CHANGED if self._psk is None else _DIFFERENT
                self._answers.append(self._refusal(OTHER_KEY))
            self._begin(now_ms)

    def output(self, now_ms: int) -> bytes | None:
        """The next body to be sent now."""
        if self._answers:
            return self._answers.pop(0)
        if self.established is None and now_ms - self._moved >= _STUCK_MS:
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
        self._moved = now_ms
        self._repeat(self._hello if self._role == DEVICE else b"", now_ms, _HELLO_MS)

    def _repeat(self, body: bytes, now_ms: int, step: int) -> None:
        self._repeating, self._at, self._step = body, now_ms, step

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

    def _start(self, device: bytes, host: bytes) -> NoiseState:
        """Both HELLOs are part of what the handshake proves: none can be changed or replayed."""
        prologue = _PROLOGUE + bytes([self._pattern]) + device + host
        initiator = self._role == DEVICE
        pattern = _NOISE[self._pattern]
        return NoiseState(pattern, initiator, prologue, self._secret, psk=self._psk)

    def _finish(self) -> None:
        assert self._state is not None and self._theirs is not None
        public = self._state.remote_static
        assert public is not None
        to_host, to_device = self._state.split()
        keys = (to_host, to_device) if self._role == DEVICE else (to_device, to_host)
        self.established = (Seal(*keys), self._theirs.name, public, self._state.hash)
        self.trouble = ""

    def _device(self, body: bytes, now_ms: int) -> None:
        if self.established is not None:
            return
        if body[1] == HELLO and self._theirs is None:
            hello = read_hello(body)
            if hello is None or hello.role != HOST or not hello.patterns >> self._pattern & 1:
                return
            self._theirs, self._moved = hello, now_ms
            self._state = self._start(self._hello, hello.body)
            first = bytes([HANDSHAKE, FIRST, self._pattern]) + self._state.write()
            self._repeat(first, now_ms, _REPEAT_MS)
        elif body[1] == SECOND and self._state is not None:
            self._state.read(body[2:])
            third = bytes([HANDSHAKE, THIRD]) + self._state.write()
            self._moved = now_ms
            self._repeat(third, now_ms, _REPEAT_MS)
            self._finish()

    def _host(self, body: bytes, now_ms: int) -> None:
        if body[1] == HELLO:
            self._answer_hello(body, now_ms)
        elif body[1] == FIRST and self._theirs is not None and body[2:3] == bytes([self._pattern]):
            if not self._first:
                self._state = self._start(self._theirs.body, self._hello)
                self._state.read(body[3:])
                self._second = bytes([HANDSHAKE, SECOND]) + self._state.write()
                self._first, self._moved = body, now_ms
            if body == self._first:
                self._answers.append(self._second)
        elif body[1] == THIRD and self._second and self._state and not self._state.finished:
            self._state.read(body[2:])
            self._finish()

    def _answer_hello(self, body: bytes, now_ms: int) -> None:
        hello = read_hello(body)
        if hello is None or hello.role != DEVICE:
            return
        if not hello.patterns >> self._pattern & 1:
            self._answers.append(self._hello)  # it says what we would do
            return
        if self._theirs is None or self._theirs.body != body:
            self._begin(now_ms)
            self._theirs = hello
        self._answers.append(self._hello)
