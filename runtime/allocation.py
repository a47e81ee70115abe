"""Which codec for which layer: an exact knapsack over measured sizes and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import parcel
from .errors import UserError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class NoAllocation(UserError):
    """No choice of codecs keeps the budget (exit code 2); the text has the least possible."""


@dataclass(frozen=True)
class Option:
    """A codec for one tensor: bytes of its parcel, and ||C(g) - g|| as measured."""

    codec: str
    size: int
    error: float


@dataclass(frozen=True)
class Allocation:
    """The codec of each tensor. error: of all together, the root of the sum of squares."""

    codecs: dict[str, str]
    size: int
    error: float


Options = Mapping[str, Sequence[Option]]


def measure_options(
    tensors: Mapping[str, NDArray[np.float32]], codecs: Sequence[str] = tuple(parcel.CODECS)
) -> dict[str, list[Option]]:
    """Sizes and errors of real parcels of these tensors (gradients, or differences of weights that
    were gathered), rounded to nearest. Raises what `parcel.pack` raises.
    """
    found: dict[str, list[Option]] = {}
    for name, tensor in tensors.items():
        found[name] = []
        for codec in codecs:
            data = parcel.pack(tensor, codec)
            off = parcel.unpack(data)[0].astype(np.float64) - tensor
            found[name].append(Option(codec, len(data), float(np.linalg.norm(off))))
    return found


def uniform(options: Options, codec: str) -> Allocation:
    """The same codec for every tensor. Raises KeyError if one cannot take it."""
    chosen = {}
    for name, offered in options.items():
        by_codec = {option.codec: option for option in offered}
        if codec not in by_codec:
            raise KeyError(f"{name}: expected one of {', '.join(by_codec)}, got {codec!r}")
        chosen[name] = by_codec[codec]
    return _made(chosen)


def least_bytes(options: Options, default: str, alpha: float = 1.0) -> Allocation:
    """The fewest bytes whose error is at most alpha times that of `default` everywhere. With
    alpha >= 1 it is never larger than that.

    Exact, by dynamic programming over tensors: of all ways to choose for those before, only the
    ones that no other beats in both bytes and error are kept, those beyond the budget dropped.
    Raises NoAllocation with the least error possible, ValueError for alpha below 0.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha: expected at least 0, got {alpha}")
    usual = uniform(options, default)
    most = (alpha * usual.error) ** 2 * (1 + 1e-12)
    chosen = _front(options, most_error=most, most_bytes=usual.size if alpha >= 1 else None)
    if chosen is None:
        least = math.sqrt(sum(min(o.error**2 for o in offered) for offered in options.values()))
        raise NoAllocation(
            f"an error of {alpha * usual.error:.4g} cannot be kept: the least possible is "
            f"{least:.4g}; allow more, or better codecs"
        )
    return _made({name: options[name][at] for name, at in zip(options, chosen[0], strict=True)})


def least_error(options: Options, most_bytes: int) -> Allocation:
    """The dual: the least error in at most so many bytes, of equals the fewest bytes. Exact, as
    `least_bytes`. Raises NoAllocation with the fewest bytes possible."""
    chosen = _front(options, most_error=math.inf, most_bytes=most_bytes)
    if chosen is None:
        least = sum(min(o.size for o in offered) for offered in options.values())
        raise NoAllocation(
            f"{most_bytes:,} bytes a round are too few: the fewest possible are {least:,}"
        )
    return _made({name: options[name][at] for name, at in zip(options, chosen[-1], strict=True)})


def _front(
    options: Options, *, most_error: float, most_bytes: int | None
) -> list[list[int]] | None:
    """The first (fewest bytes) and last (least error) of all choices that nothing beats, as the
    number of an option for each tensor; None where no choice keeps both budgets.
    """
    left_error = _least_behind([[o.error**2 for o in offered] for offered in options.values()])
    left_bytes = _least_behind([[float(o.size) for o in offered] for offered in options.values()])
    sizes, errors = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[I64, I64]] = []  # where each kept choice came from, and its option
    for number, offered in enumerate(options.values()):
        made_sizes = sizes[:, None] + np.array([o.size for o in offered], np.int64)
        made_errors = errors[:, None] + np.array([o.error**2 for o in offered])
        good = made_errors + left_error[number + 1] <= most_error
        if most_bytes is not None:
            good &= made_sizes + left_bytes[number + 1] <= most_bytes
        at = np.flatnonzero(good)
        if not len(at):
            return None
        order = at[np.lexsort((made_errors.ravel()[at], made_sizes.ravel()[at]))]
        best = np.minimum.accumulate(made_errors.ravel()[order])
        kept = order[np.concatenate([[True], best[1:] < best[:-1]])]
        sizes, errors = made_sizes.ravel()[kept], made_errors.ravel()[kept]
        before, option = np.divmod(kept, len(offered))
        steps.append((before, option))
    return [_walk_back(steps, 0), _walk_back(steps, len(sizes) - 1)]


def _least_behind(values: Sequence[Sequence[float]]) -> list[float]:
    """What all tensors from each on take at least; last 0."""
    least = [0.0]
    for offered in reversed(values):
        least.append(least[-1] + min(offered))
    return least[::-1]


def _walk_back(steps: Sequence[tuple[I64, I64]], at: int) -> list[int]:
    chosen = []
    for before, option in reversed(steps):
        chosen.append(int(option[at]))
        at = int(before[at])
    return chosen[::-1]


def _made(chosen: Mapping[str, Option]) -> Allocation:
    return Allocation(
        {name: option.codec for name, option in chosen.items()},
        sum(option.size for option in chosen.values()),
        math.sqrt(sum(option.error**2 for option in chosen.values())),
    )
