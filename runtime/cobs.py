"""COBS alone, for frames that bring their own check; the packets' frames are made in C."""

from __future__ import annotations

_BLOCK = 254


def encode_body(body: bytes) -> bytes:
    """The bytes on the line for one body: COBS, then a zero."""
    out, code_at, after_full = bytearray([1]), 0, False
    for byte in body:
        after_full = False
        if byte:
            out.append(byte)
            out[code_at] += 1
            after_full = out[code_at] > _BLOCK
        if not byte or after_full:
            code_at = len(out)
            out.append(1)
    if after_full:  # its lone code would say nothing
        del out[-1]
    return bytes(out) + b"\0"


class BodyDecoder:
    """Bytes of a line in, bodies out; what is no COBS, or longer than `limit`, is skipped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit + limit // _BLOCK + 1  # of the encoded bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = (self._rest + data).split(b"\0")
        self._rest = rest[: self._limit + 1]  # one too long stays so
        found = [_decode(frame) for frame in whole if 0 < len(frame) <= self._limit]
        return [body for body in found if body]


def _decode(frame: bytes) -> bytes:
    """Empty when a block is cut."""
    out = bytearray()
    at = 0
    while at < len(frame):
        code = frame[at]
        if at + code > len(frame):
            return b""
        out += frame[at + 1 : at + code]
        at += code
        if code <= _BLOCK and at < len(frame):
            out.append(0)
    return bytes(out)
