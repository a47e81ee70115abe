"""Sealed packets of a byte line: ChaCha20-Poly1305 under a number that is never used twice."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SEALED = 0x18  # first byte of a sealed body
SEALED_SHORT = 0x19  # of one without the bytes that both ends know
_HEAD, _TAG = 3, 16
_WINDOW = 64
NUMBERS = 1 << 48  # an end that has used so many begins a new handshake


class Seal:
    """Both directions of one connection. first_number: of what is sent and received, for tests."""

    def __init__(self, send_key: bytes, receive_key: bytes, first_number: int = 0) -> None:
        self._send, self._receive = ChaCha20Poly1305(send_key), ChaCha20Poly1305(receive_key)
        self._number, self._largest = first_number, first_number - 1
        self._heard = False
        self._seen = 0  # bit i: number largest - i was received
        self.counters = {"frames_forged": 0, "replayed": 0}

    @property
    def worn(self) -> bool:
        """Is it time for a new handshake?"""
        return self._number >= NUMBERS

    @property
    def heard(self) -> bool:
        """Has the peer proved that it has these keys?"""
        return self._heard

    def seal(self, packet: bytes, known: bytes = b"") -> bytes:
        """0x18 | u16 number | ciphertext | tag. known: what both ends know, bound to the packet and
        not sent; then the first byte is 0x19. OverflowError once the seal is `worn`.
        """
        if self.worn:
            raise OverflowError("every number of this key is used: a new handshake is due")
        kind = SEALED_SHORT if known else SEALED
        head = bytes([kind]) + (self._number & 0xFFFF).to_bytes(2, "little")
        nonce = _nonce(self._number)
        self._number += 1
        return head + self._send.encrypt(nonce, packet, head + known)

    def open(self, body: bytes, known: bytes = b"") -> bytes | None:
        """The packet; None: a repeat or a forgery, which is counted. known: of 0x19."""
        if len(body) <= _HEAD + _TAG or body[0] not in (SEALED, SEALED_SHORT):
            self.counters["frames_forged"] += 1
            return None
        head = body[:_HEAD]
        number = self._whole_number(int.from_bytes(head[1:], "little"))
        age = self._largest - number
        if not 0 <= number < NUMBERS or age >= _WINDOW or (age >= 0 and self._seen >> age & 1):
            self.counters["replayed"] += 1
            return None
        proven = head + known if body[0] == SEALED_SHORT else head
        try:
            packet = self._receive.decrypt(_nonce(number), body[_HEAD:], proven)
        except InvalidTag:
            self.counters["frames_forged"] += 1
            return None
        if age < 0:
            self._seen, self._largest = self._seen << -age & ((1 << _WINDOW) - 1), number
            age = 0
        self._seen |= 1 << age
        self._heard = True
        return packet

    def _whole_number(self, low: int) -> int:
        """The number with these 16 low bits that is nearest to the one we expect."""
        expected = self._largest + 1
        return expected + ((low - expected + 0x8000) & 0xFFFF) - 0x8000


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")
