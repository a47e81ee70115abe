"""What would have to go for a front to fit a board: the smallest changes, each of them computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from .boards import Board
from .budget import Candidate, Choice, Need, need
from .plan import PlanError

CHANGES = ("batch", "recompute", "q8", "seam")


@dataclass(frozen=True)
class Way:
    """A front that fits, and what was changed for it: names of CHANGES."""

    changed: tuple[str, ...]
    candidate: Candidate
    choice: Choice
    need: Need


def fits(board: Board, found: Need) -> bool:
    """Is there room for its training? What the program itself takes is not known here."""
    return found.training_ram <= board.ram and (not board.flash or found.flash_bytes <= board.flash)


def ways(
    board: Board, candidates: Sequence[Candidate], candidate: Candidate, choice: Choice
) -> list[Way]:
    """The ways to make a front fit that change as little as possible: none of them still fits with
    one of its changes less. A batch is the largest that fits, a seam the deepest in front of the
    one asked for.
    """
    earlier = [c for c in reversed(candidates) if c.weighted < candidate.weighted]
    possible = [change for change in CHANGES if _possible(change, choice, earlier)]
    found: list[Way] = []
    for count in range(1, len(possible) + 1):
        for changed in combinations(possible, count):
            if any(set(way.changed) <= set(changed) for way in found):
                continue
            seams = earlier if "seam" in changed else [candidate]
            way = _first(board, seams, choice, changed)
            if way is not None:
                found.append(way)
    return found


def least(candidates: Sequence[Candidate], choice: Choice) -> Way:
    """The smallest need of all: the first seam, batch 1, whatever else makes it smaller."""
    every = [
        Way((), candidates[0], replace(choice, batch=1, dtype=dtype, recompute=recompute), found)
        for dtype in ("f32", "q8")
        for recompute in (False, True)
        if (
            found := _need(
                candidates[0], replace(choice, batch=1, dtype=dtype, recompute=recompute)
            )
        )
    ]
    return min(every, key=lambda way: way.need.training_ram)


def _possible(change: str, choice: Choice, earlier: Sequence[Candidate]) -> bool:
    return {
        "batch": choice.batch > 1,
        "recompute": not choice.recompute,
        "q8": choice.dtype != "q8",
        "seam": bool(earlier),
    }[change]


def _first(
    board: Board, seams: Sequence[Candidate], choice: Choice, changed: tuple[str, ...]
) -> Way | None:
    choice = replace(
        choice,
        recompute=choice.recompute or "recompute" in changed,
        dtype="q8" if "q8" in changed else choice.dtype,
    )
    for candidate in seams:
        for batch in _batches(board, candidate, choice) if "batch" in changed else [choice.batch]:
            tried = replace(choice, batch=batch)
            found = _need(candidate, tried)
            if found is not None and fits(board, found):
                return Way(changed, candidate, tried, found)
    return None


def _batches(board: Board, candidate: Candidate, choice: Choice) -> Iterator[int]:
    """The largest batch below the one asked for that fits, by halving the interval; if batch 1
    does not fit, none does.
    """

    def good(batch: int) -> bool:
        found = _need(candidate, replace(choice, batch=batch))
        return found is not None and fits(board, found)

    low, high = 1, choice.batch
    if not good(low):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    yield low


def _need(candidate: Candidate, choice: Choice) -> Need | None:
    """None where there is no such front (q8 has no group norm)."""
    try:
        return need(candidate, choice)
    except PlanError:
        return None
