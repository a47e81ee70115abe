"""A message's header as SPEC.md defines it: the peer of kernels/core/message.c."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<HBBHHIIII")
MAGIC, VERSION, LONGEST = 0x4C53, 1, 16 << 20

Fields = tuple[int, int, int, int, int, bytes]


def encode(kind: int, session: int, round_: int, step: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(MAGIC, VERSION, kind, flags, 0, session, round_, step, len(body)) + body


def decode(data: bytes) -> Fields | None:
    """Kind, flags, session, round, step, body; None: refused."""
    if not HEADER.size <= len(data) <= LONGEST:
        return None
    magic, version, kind, flags, zero, session, round_, step, size = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if (magic, version, zero, size) != (MAGIC, VERSION, 0, len(body)):
        return None
    return kind, flags, session, round_, step, body
