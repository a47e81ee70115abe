"""Measures the benchmark networks and a bank of layers, interleaved, and predicts each network from
the others, from the bank and from both: `python tests/edge_host/time_predictor.py [layers of a
kind]`; what docs/plan.md says of the predictor."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from statistics import median

import msgspec
from seamline.edge_host.measure import unit_of
from seamline.runtime.layer_bank import USUAL, Drawn, Sample, make_bank, time_bank
from seamline.runtime.networks import NETWORKS, network
from seamline.runtime.predictor import Predictor, fit, refine
from seamline.runtime.profile import Times

BATCHES = (4, 16)
PASSES = ("infer", "forward", "backward")
LIVE = 20  # steps of the usual front
Truth = dict[tuple[str, int], list[Sample]]  # by network and batch


def measure_all(count: int) -> tuple[Truth, Truth, list[Sample]]:
    """Networks, networks once more, bank; in one shuffled run."""
    asked: list[tuple[tuple[str, int, int] | None, Drawn]] = [(None, it) for it in make_bank(count)]
    for name in NETWORKS:
        net = network(name)
        for batch in BATCHES:
            for unit in net.units:
                layers, shape = net.part(unit.first, unit.end)
                it = Drawn(layers, shape, batch, unit.first > 0)
                asked += [((name, batch, turn), it) for turn in range(2)]
    order = list(range(len(asked)))
    random.Random(1).shuffle(order)
    timed = dict(zip(order, time_bank([asked[i][1] for i in order], 5), strict=True))
    found: tuple[Truth, Truth] = ({}, {})
    bank = [timed[i] for i, (key, _) in enumerate(asked) if key is None]
    at = {(name, b, t): 0 for name in NETWORKS for b in BATCHES for t in range(2)}
    for i, (key, _) in enumerate(asked):
        if key is not None:
            name, batch, turn = key
            net = network(name)
            unit, times = net.units[at[key]], timed[i].device
            at[key] += 1
            sample = Sample(unit_of(net, unit, times, times), batch, times)
            found[turn].setdefault((name, batch), []).append(sample)
    return *found, bank


def pairs(laws: Predictor | list[Sample], real: list[Sample]) -> list[tuple[Times, Times]]:
    if isinstance(laws, Predictor):
        return [(laws.times(sample.unit, sample.batch), sample.device) for sample in real]
    return [(a.device, b.device) for a, b in zip(laws, real, strict=True)]


def text(both: list[tuple[Times, Times]]) -> str:
    """By pass the median error of a layer and that of the whole network; the median of all."""
    parts, every = [], []
    for what in PASSES:
        each = [(getattr(a, what), getattr(b, what)) for a, b in both]
        off = [abs(a / b - 1) for a, b in each]
        whole = sum(a for a, _ in each) / sum(b for _, b in each) - 1
        every += off
        parts.append(f"{what} {median(off):.1%} (whole {whole:+.1%})")
    return f"{', '.join(parts)}; all passes {median(every):.1%}"


def live(laws: Predictor, name: str, real: list[Sample]) -> str:
    """The front's step before and after live steps have corrected the laws."""
    net = network(name)
    front = real[: sum(unit.end <= net.front for unit in net.units)]
    truth = sum(sample.device.training for sample in front)
    units, said = [sample.unit for sample in front], []
    for steps in (0, LIVE):
        for _ in range(steps):
            laws = refine(laws, units, real[0].batch, truth)
        made = sum(laws.times(unit, real[0].batch).training for unit in units)
        said.append(f"{made / truth - 1:+.1%}")
    return f"its front's step {said[0]}, after {LIVE} live steps {said[1]}"


def main() -> None:
    truth, again, bank = measure_all(int(sys.argv[1]) if len(sys.argv) > 1 else USUAL)
    ways: dict[str, Callable[[str], Sequence[Sample]]] = {
        "other networks": lambda held: [
            sample for (name, _), found in truth.items() if name != held for sample in found
        ],
        "bank": lambda held: bank,
        "both": lambda held: [*bank, *ways["other networks"](held)],
    }
    for held in NETWORKS:
        real = truth[held, BATCHES[-1]]
        print(f"{held}, measured twice: {text(pairs(again[held, BATCHES[-1]], real))}")
        for way, of in ways.items():
            laws = fit(of(held), "this machine")
            bare = [msgspec.structs.replace(law, rest=None) for law in laws.laws]
            plain = msgspec.structs.replace(laws, laws=tuple(bare))
            print(f"{held}, {way}, laws alone: {text(pairs(plain, real))}")
            print(f"{held}, {way}, and neighbours: {text(pairs(laws, real))}")
        print(f"{held}, {live(laws, held, real)} ({laws.lanes} lanes)")


if __name__ == "__main__":
    main()
