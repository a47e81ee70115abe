"""Which layers to make a second time instead of keeping them for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable

from .plan import Front, lay_out

Again = frozenset[int]
NOTHING: Again = frozenset()
CANDIDATES = 8  # that are placed


def choose(front: Front, limit: int | None = None) -> Again:
    """The layers whose outputs are made again so that the arena shrinks to `limit` bytes with as
    few multiply-adds as possible; without a limit as far as it goes. What does not reach the limit
    goes as far as it can.

    Segments between what is kept, as in arXiv:1604.06174, then one group of layers more or less as
    long as that is better: by the bound, and of the best few by their placement.
    """
    target = limit or 0

    def cost(again: Again) -> tuple[int, int]:
        arena = lay_out(front, again=again).arena_bytes
        return max(arena, target), extra_multiply_adds(front, again)

    found = min([NOTHING, *_search(front, target)[:CANDIDATES]], key=cost)
    arena, _ = cost(found)
    if arena > target and limit is not None:  # the bound may be held, the placement is not
        tighter = _search(front, limit - (arena - limit))
        found = min([found, *tighter[:CANDIDATES]], key=cost)
    return found


def extra_multiply_adds(front: Front, again: Iterable[int]) -> int:
    """What these layers cost a training step a second time, whole batch."""
    return front.batch * sum(
        front.layers[i].multiply_adds(front.shapes[front.layers[i].input]) for i in again
    )


def _groups(front: Front) -> list[Again]:
    """Layers from behind one tensor that is kept for the backward pass up to the next."""
    lives = front.lives()
    output = len(front.layers)  # the moment it is taken
    groups: list[Again] = []
    current: list[int] = []
    for i in range(len(front.layers) - 1):
        if i + 1 == front.seam:  # its output is kept
            groups.append(frozenset(current))
            current = []
            continue
        current.append(i)
        if any(first <= i + 1 and last > output for first, last in lives.values[i + 1].spans):
            groups.append(frozenset(current))
            current = []
    return groups


def _search(front: Front, target: int) -> list[Again]:
    """What was tried, best first by the bound (not below the target) and by multiply-adds."""
    groups = _groups(front)
    known: dict[Again, tuple[int, int]] = {}

    def cost(again: Again) -> tuple[int, int]:
        if again not in known:
            size = max(front.bound(again=again), target)
            known[again] = (size, extra_multiply_adds(front, again))
        return known[again]

    segments = [
        NOTHING.union(*(g for i, g in enumerate(groups) if (i + 1) % size))
        for size in range(1, len(groups) + 2)
    ]
    best = min(segments, key=cost)
    while True:
        better = min((best ^ group for group in groups), key=cost, default=best)
        if cost(better) >= cost(best):
            return sorted(known, key=lambda again: (known[again], sorted(again)))
        best = better
