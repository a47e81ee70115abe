"""Damage for the differential tests: seeded, and the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence

EDGES = (0, 1, 2, 3, 4, 63, 64, 127, 128, 253, 254, 255, 256, 1024, 32767, 32768, 65535, 65536)
EDGES_WIDE = (*EDGES, 1 << 22, (1 << 22) + 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def damaged(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the seeds with some damage, now and then with none."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 8))):
        chance.choice(WAYS)(data, seeds, chance)
    return bytes(data)


def _flip(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 9)) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice(
            (0, 1, 2, 254, 255, chance.randrange(256))
        )


def _number(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    """A length field: any two or four bytes, in the first ones more often."""
    width = chance.choice((2, 4))
    if len(data) < width:
        return
    last = len(data) - width
    at = chance.randint(0, chance.choice((min(last, 47), last)))
    now = int.from_bytes(data[at : at + width], "little")
    near = now + chance.choice((-16, -4, -1, 1, 4, 16, 64))
    value = chance.choice((chance.choice(EDGES_WIDE), near, len(data), now * 2))
    data[at : at + width] = (value % 256**width).to_bytes(width, "little")


def _copy(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    """Four bytes of one place at another: an offset that is somebody else's."""
    if len(data) >= 8:
        source, at = (4 * chance.randrange(len(data) // 4) for _ in range(2))
        data[at : at + 4] = data[source : source + 4]


def _cut(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    del data[chance.randint(0, len(data)) :]


def _drop(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    del data[at : at + chance.randint(1, 9)]


def _insert(data: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    at, size = chance.randint(0, len(data)), chance.choice((1, 2, 4, 64, 300))
    data[at:at] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))


def _splice(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    """The head of one seed and the tail of another."""
    other = chance.choice(seeds)
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


WAYS = (_flip, _flip, _byte, _byte, _number, _number, _copy, _cut, _drop, _insert, _splice)
