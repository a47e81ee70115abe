"""Where arrays go in an arena: each has a size and a life, and no two that live at once overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 16


def round16(size: int) -> int:
    """The next multiple of the alignment of every array in an arena."""
    return (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


@dataclass(eq=False)
class Buffer:
    """An array in the arena: bytes, and the first and last moment it must keep its values."""

    size: int
    start: int
    end: int
    offset: int = 0

    def live(self, start: int, end: int) -> None:
        """It is needed from `start` to `end` as well."""
        self.start, self.end = min(self.start, start), max(self.end, end)

    def meets(self, other: Buffer) -> bool:
        """Do both live at some moment?"""
        return other.start <= self.end and self.start <= other.end


def place(buffers: Iterable[Buffer], base: int) -> int:
    """Gives each buffer an offset from `base` on; returns the arena's end.

    Largest first, each at the lowest place free during its life.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.start)):
        buffer.offset = base
        for other in sorted(placed, key=lambda b: b.offset):
            if buffer.meets(other) and buffer.offset + buffer.size > other.offset:
                buffer.offset = max(buffer.offset, other.offset + other.size)
        placed.append(buffer)
    return max((b.offset + b.size for b in placed), default=base)
