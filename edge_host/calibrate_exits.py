"""When an exit may answer: temperatures and thresholds from validation samples. Pure functions.

A threshold is the entropy, in nats, of softmax(logits / temperature) up to which an exit's answer
stands (BranchyNet, arXiv:1709.01686); the temperature is the one under which the softmax says best
how often it is right (arXiv:1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ..runtime.errors import UserError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Labels = NDArray[np.int64]

COLDEST, HOTTEST = 0.02, 50.0  # temperatures that are looked at
APART = 1e-5  # nats: entropies that a device in float32 tells apart
FORMAT = 1


@dataclass(frozen=True)
class ExitRule:
    """One exit, in the order in which they are asked. entropy: most it may have to answer, -1: it
    never does; share: of all validation samples that it answers; accuracy: on these, 0 if none.
    """

    name: str
    temperature: float
    entropy: float
    share: float
    accuracy: float


@dataclass(frozen=True)
class Outcome:
    """Accuracy with early answers, and of the end alone, on so many samples; shares: of them that
    each exit answers.
    """

    accuracy: float
    end_accuracy: float
    samples: int
    shares: list[float]


@dataclass(frozen=True)
class Calibration:
    """Rules of all exits; accuracy with them, and of the end alone, on so many samples. tests: on
    samples that the rules have not seen.
    """

    rules: list[ExitRule]
    accuracy: float
    end_accuracy: float
    samples: int
    tests: Outcome | None = None

    def document(self) -> dict[str, Any]:
        """What exits.json holds."""
        return {"exits": FORMAT, **asdict(self)}


def _log_shares(logits: F32, temperature: float) -> F64:
    z = logits.astype(np.float64) / temperature
    z -= z.max(1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)), np.float64)


def entropies(logits: F32, temperature: float = 1.0) -> F64:
    """Of softmax(logits [n, classes] / temperature), nats, [n]."""
    log_p = _log_shares(logits, temperature)
    return np.asarray(-(np.exp(log_p) * log_p).sum(1), np.float64)


def fit_temperature(logits: F32, labels: Labels) -> float:
    """The temperature with the least mean negative log likelihood of the labels [n]."""

    def loss(log_temperature: float) -> float:
        log_p = _log_shares(logits, math.exp(log_temperature))
        return float(-log_p[np.arange(len(labels)), labels].mean())

    ends = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(loss, bounds=ends, method="bounded")
    return float(math.exp(found.x))


def calibrate_exits(
    exits: Mapping[str, F32], end: F32, labels: Labels, allowed: float
) -> Calibration:
    """Rules under which early answers cost at most `allowed` of the share of right answers that
    the end alone gives on these samples. exits: logits [n, classes] by name, in the network's
    order; end: the end's.

    Exit after exit, from the first, each takes as many samples as that leaves room for: what is
    answered earlier saves more. Raises UserError: there are no samples, or logits are not finite.
    """
    n = len(labels)
    if n == 0 or not all(np.isfinite(one).all() for one in [*exits.values(), end]):
        raise UserError(
            "exits cannot be calibrated: no validation samples came (data.validation), or logits "
            "that are not finite"
        )
    end_right = end.argmax(1) == labels
    least = end_right.sum() - allowed * n - 1e-9
    open_ = np.ones(n, bool)  # not answered by an earlier exit
    right = end_right.copy()  # of the answer that each sample gets
    rules = []
    for name, logits in exits.items():
        temperature = fit_temperature(logits, labels)
        entropy = entropies(logits, temperature)
        own_right = logits.argmax(1) == labels
        at = _threshold(entropy, own_right, end_right, open_, right, least)
        mine = open_ & (entropy <= at)
        right[mine] = own_right[mine]
        open_ &= ~mine
        accuracy = float(own_right[mine].mean()) if mine.any() else 0.0
        rules.append(ExitRule(name, temperature, at, float(mine.mean()), accuracy))
    return Calibration(rules, float(right.mean()), float(end_right.mean()), n)


def apply_rules(
    rules: Sequence[ExitRule], exits: Mapping[str, F32], end: F32, labels: Labels
) -> Outcome:
    """What early answers come to on other samples; arguments as of `calibrate_exits`."""
    n = max(len(labels), 1)
    open_ = np.ones(len(labels), bool)
    end_right = end.argmax(1) == labels
    right, shares = end_right.copy(), []
    for rule in rules:
        mine = open_ & (entropies(exits[rule.name], rule.temperature) <= rule.entropy)
        right[mine] = exits[rule.name].argmax(1)[mine] == labels[mine]
        open_ &= ~mine
        shares.append(float(mine.sum() / n))
    return Outcome(float(right.sum() / n), float(end_right.sum() / n), len(labels), shares)


def _threshold(
    entropy: F64,
    own_right: NDArray[np.bool_],
    end_right: NDArray[np.bool_],
    open_: NDArray[np.bool_],
    right: NDArray[np.bool_],
    least: float,
) -> float:
    """The largest entropy up to which the exit may answer open samples so that at least `least`
    answers are right, the end having the others; half way to the next sample's. -1: none.
    """
    candidates = np.flatnonzero(open_)
    order = candidates[np.argsort(entropy[candidates], kind="stable")]
    change = own_right[order].astype(np.int64) - end_right[order]
    rights = right.sum() + np.cumsum(change)
    apart = np.append(np.diff(entropy[order]) > APART, True)  # a threshold fits in between
    good = np.flatnonzero((rights >= least) & apart)
    if not good.size:
        return -1.0
    last = int(good[-1])
    here = float(entropy[order[last]])
    following = float(entropy[order[last + 1]]) if last + 1 < len(order) else here + 1e-3
    return (here + following) / 2


def read_rules(document: Mapping[str, Any], names: Sequence[str]) -> list[ExitRule]:
    """The rules in an exits.json for these exits. Raises UserError (exit 3)."""
    try:
        rules = [ExitRule(**{**rule, "name": str(rule["name"])}) for rule in document["rules"]]
        numbers = [x for r in rules for x in (r.temperature, r.entropy)]
        fits = document["exits"] == FORMAT and all(math.isfinite(x) for x in numbers)
        if not fits or [r.name for r in rules] != list(names):
            raise ValueError(f"rules for {[r.name for r in rules]}, expected {list(names)}")
        if any(r.temperature <= 0 for r in rules):
            raise ValueError("a temperature that is not above 0")
        return rules
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"exits.json does not belong to this network: {error}", 3) from None
