"""Where bytes went: each message taken apart into what it carries, tensor by tensor."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

from ..kernels import SeamError, parcel
from .message import Body, Flag, Kind, Message

UP, DOWN = "up", "down"  # towards the cloud, away from it
AROUND = "messages"  # envelopes, labels, rates, JSON, and messages that carry nothing else
CARRIED = {  # kind: what, and the bytes of the body before it
    Kind.GRAD: ("gradients", 8),
    Kind.WEIGHTS: ("fronts", 8),
    Kind.STEP: ("fronts", 12),
    Kind.EVAL: ("fronts", 8),
    Kind.PLAN: ("plans", 24),
}
EXIT_LIMITS = 8  # bytes more in an EVAL with EXIT
ZONE_KINDS = (Kind.ZONE_ROUND, Kind.ZONE_UPDATE, Kind.ZONE_DONE)

Table = dict[str, dict[str, int]]  # way -> what -> bytes


@dataclass
class Ledger:
    """Bytes of whole messages on one hop since the start; `take` gives those since it was asked
    last."""

    total: Table = field(default_factory=lambda: {UP: {}, DOWN: {}})
    _new: Table = field(default_factory=lambda: {UP: {}, DOWN: {}})

    def count(self, way: str, message: Message | None, size: int) -> None:
        """A message of `size` bytes on the wire; None: bytes that are none."""
        parts = {} if message is None else carried(message)
        parts[AROUND] = parts.get(AROUND, 0) + size - sum(parts.values())
        for table in (self.total[way], self._new[way]):
            for what, bytes_ in parts.items():
                table[what] = table.get(what, 0) + bytes_

    def take(self) -> Table:
        new, self._new = self._new, {UP: {}, DOWN: {}}
        return new


def carried(message: Message) -> dict[str, int]:
    """Bytes in the body, by what they carry; a tensor of a zone by its name. What is left of the
    message is around them. Never raises: of a body that makes no sense nothing is known."""
    body = message.body
    if message.kind in ZONE_KINDS:
        return _tensors(body)
    if message.kind == Kind.ACT or (message.kind == Kind.RESULT and not message.flags & Flag.LOCAL):
        each = 4 if message.flags & Flag.EXIT else 2  # a label, and what an exit answers
        count = struct.unpack_from("<H", body)[0] if len(body) >= 4 else 0
        return _rest("activations", body, 4 + each * count)
    if message.kind in CARRIED:
        what, start = CARRIED[Kind(message.kind)]
        exit_ = message.kind == Kind.EVAL and message.flags & Flag.EXIT
        return _rest(what, body, start + (EXIT_LIMITS if exit_ else 0))
    return {}


def _rest(what: str, body: Body, start: int) -> dict[str, int]:
    return {what: len(body) - start} if len(body) > start else {}


def _tensors(body: Body) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        (size,) = struct.unpack_from("<I", body)
        names, at = json.loads(bytes(body[4 : 4 + size])).get("tensors", []), 4 + size
        for name in names:
            end = parcel.end(body, at)
            found[_row(str(name))], at = end - at, end
    except (SeamError, ValueError, AttributeError, TypeError, struct.error):
        pass  # it will be refused
    return found


def _row(tensor: str) -> str:
    """A tensor of that name is not what lies around tensors."""
    return f"{tensor} (tensor)" if tensor == AROUND else tensor


def add(one: Table, other: Table) -> Table:
    """Sums of both."""
    return {
        way: {
            what: one.get(way, {}).get(what, 0) + other.get(way, {}).get(what, 0)
            for what in sorted({*one.get(way, {}), *other.get(way, {})})
        }
        for way in (UP, DOWN)
    }
