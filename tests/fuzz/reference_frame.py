"""Frames as SPEC.md defines them, whole streams at a time: the peer of kernels/core/frame.c."""

from __future__ import annotations

from zlib import crc32

CHECK = 4


def cobs(data: bytes) -> bytes:
    """Blocks end at the zeros; 254 bytes without one are a block that stands for none."""
    out = bytearray()
    blocks = data.split(b"\0")
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        full, rest = divmod(len(block), 254)
        for at in range(full):
            out += b"\xff" + block[at * 254 : at * 254 + 254]
        if rest or not (last and full):
            out += bytes([rest + 1]) + block[full * 254 :]
    return bytes(out)


def encode(packet: bytes) -> bytes:
    return encode_body(packet + crc32(packet).to_bytes(CHECK, "little"))


def encode_body(body: bytes) -> bytes:
    return cobs(body) + b"\0"


def uncobs(chunk: bytes) -> tuple[bytes, bool]:
    """What the bytes between two zeros of the line say, and whether they end where a block does."""
    out, at = bytearray(), 0
    while at < len(chunk):
        code = chunk[at]
        block = chunk[at + 1 : at + code]
        out += block
        at += code
        if len(block) < code - 1:
            return bytes(out), False
        if code != 255 and at < len(chunk):
            out.append(0)
    return bytes(out), True


def decode(stream: bytes, limit: int, *, raw: bool) -> tuple[list[bytes], dict[str, int]]:
    """The packets (raw: bodies) of a stream that ends with a zero, and what was counted."""
    found: list[bytes] = []
    counters = {"frames": 0, "damaged": 0, "too_long": 0}
    space = limit if raw else limit + CHECK
    for chunk in stream.split(b"\0")[:-1]:
        if not chunk:
            continue
        body, whole = uncobs(chunk)
        if len(body) > space:
            counters["too_long"] += 1
            continue
        packet = body if raw else body[:-CHECK]
        right = raw or crc32(packet).to_bytes(CHECK, "little") == body[-CHECK:]
        if not (whole and packet and right):
            counters["damaged"] += 1
            continue
        counters["frames"] += 1
        found.append(packet)
    return found, counters
