"""Noise handshakes (revision 34): KK, XX and XXpsk3 over X25519, ChaCha20-Poly1305 and BLAKE2b."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_KEY, _TAG = 32, 16
PATTERNS = {
    "KK": (("e", "es", "ss"), ("e", "ee", "se")),
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
    "XXpsk3": (("e",), ("e", "ee", "s", "es"), ("s", "se", "psk")),
}


class NoiseError(Exception):
    """A message that this handshake cannot take: cut, changed, or made with another key."""


# The library's own hashes: hashlib would bring a second OpenSSL, 4 MB of a device's memory.
_BLAKE2B = hashes.BLAKE2b(64)


def _hash(data: bytes) -> bytes:
    digest = hashes.Hash(_BLAKE2B)
    digest.update(data)
    return digest.finalize()


def _hmac(key: bytes, data: bytes) -> bytes:
    digest = hmac.HMAC(key, _BLAKE2B)
    digest.update(data)
    return digest.finalize()


def _derive(chaining: bytes, material: bytes, count: int) -> list[bytes]:
    """HKDF of the specification, section 4.3."""
    key = _hmac(chaining, material)
    outputs: list[bytes] = []
    for number in range(1, count + 1):
        before = outputs[-1] if outputs else b""
        outputs.append(_hmac(key, before + bytes([number])))
    return outputs


class NoiseState:
    """One end of one handshake, until `finished`. After a NoiseError it is of no more use.

    pattern: KK, XX or XXpsk3. static, ephemeral: secret keys; remote: the peer's public key (KK
    only). psk: 32 bytes (XXpsk3 only). ephemeral: for test vectors alone.
    """

    def __init__(
        self,
        pattern: str,
        initiator: bool,
        prologue: bytes,
        static: bytes,
        remote: bytes | None = None,
        psk: bytes | None = None,
        ephemeral: bytes | None = None,
    ) -> None:
        if (pattern == "KK") != (remote is not None) or (pattern == "XXpsk3") != (psk is not None):
            raise ValueError(f"{pattern}: KK takes the peer's key, XXpsk3 a psk, XX neither")
        self._messages, self._at, self._initiator = PATTERNS[pattern], 0, initiator
        self._static = X25519PrivateKey.from_private_bytes(static)
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral) if ephemeral else None
        self._remote_static, self._remote_ephemeral, self._psk = remote, b"", psk
        self._hash = f"Noise_{pattern}_25519_ChaChaPoly_BLAKE2b".encode().ljust(64, b"\0")
        self._chaining, self._key, self._nonce = self._hash, b"", 0
        self._mix_hash(prologue)
        if remote is not None:
            own = self._static.public_key().public_bytes_raw()
            for public in (own, remote) if initiator else (remote, own):
                self._mix_hash(public)

    @property
    def finished(self) -> bool:
        return self._at == len(self._messages)

    @property
    def remote_static(self) -> bytes | None:
        """The peer's public key; None before it has said it."""
        return self._remote_static

    @property
    def hash(self) -> bytes:
        """64 bytes, the same at both ends of a finished handshake and of no other."""
        return self._hash

    def write(self, payload: bytes = b"") -> bytes:
        """Our next message."""
        out = b""
        for token in self._messages[self._at]:
            if token == "e":
                if self._ephemeral is None:
                    self._ephemeral = X25519PrivateKey.generate()
                public = self._ephemeral.public_key().public_bytes_raw()
                out += public
                self._mix_ephemeral(public)
            elif token == "s":
                out += self._encrypt(self._static.public_key().public_bytes_raw())
            else:
                self._mix_token(token)
        out += self._encrypt(payload)
        self._at += 1
        return out

    def read(self, message: bytes) -> bytes:
        """The payload of the peer's next message. Raises NoiseError."""
        for token in self._messages[self._at]:
            if token == "e":
                self._remote_ephemeral, message = self._cut(message, _KEY)
                self._mix_ephemeral(self._remote_ephemeral)
            elif token == "s":
                sealed, message = self._cut(message, _KEY + (_TAG if self._key else 0))
                self._remote_static = self._decrypt(sealed)
            else:
                self._mix_token(token)
        payload = self._decrypt(message)
        self._at += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The keys of the messages that follow: from the initiator, to it."""
        first, second = _derive(self._chaining, b"", 2)
        return first[:_KEY], second[:_KEY]

    @staticmethod
    def _cut(message: bytes, size: int) -> tuple[bytes, bytes]:
        if len(message) < size:
            raise NoiseError(f"a key needs {size} bytes, found {len(message)}")
        return message[:size], message[size:]

    def _mix_hash(self, data: bytes) -> None:
        self._hash = _hash(self._hash + data)

    def _mix_key(self, material: bytes) -> None:
        self._chaining, key = _derive(self._chaining, material, 2)
        self._key, self._nonce = key[:_KEY], 0

    def _mix_ephemeral(self, public: bytes) -> None:
        self._mix_hash(public)
        if self._psk is not None:
            self._mix_key(public)

    def _mix_token(self, token: str) -> None:
        """psk, or a Diffie-Hellman: the initiator's key is named first."""
        if token == "psk":
            assert self._psk is not None
            self._chaining, digest, key = _derive(self._chaining, self._psk, 3)
            self._mix_hash(digest)
            self._key, self._nonce = key[:_KEY], 0
            return
        ours, theirs = (0, 1) if self._initiator else (1, 0)
        secret = self._ephemeral if token[ours] == "e" else self._static
        public = self._remote_ephemeral if token[theirs] == "e" else self._remote_static
        assert secret is not None and public is not None
        try:
            self._mix_key(secret.exchange(X25519PublicKey.from_public_bytes(public)))
        except ValueError:  # a point of small order: the result would be the same for every key
            raise NoiseError("the peer's key is no key") from None

    def _encrypt(self, data: bytes) -> bytes:
        if self._key:
            data = ChaCha20Poly1305(self._key).encrypt(self._next_nonce(), data, self._hash)
        self._mix_hash(data)
        return data

    def _decrypt(self, data: bytes) -> bytes:
        plain = data
        if self._key:
            try:
                plain = ChaCha20Poly1305(self._key).decrypt(self._next_nonce(), data, self._hash)
            except InvalidTag:
                raise NoiseError("the message was changed, or made with another key") from None
        self._mix_hash(data)
        return plain

    def _next_nonce(self) -> bytes:
        self._nonce += 1
        return bytes(4) + (self._nonce - 1).to_bytes(8, "little")
