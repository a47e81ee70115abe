"""Measures the benchmark networks and predicts each from the others: `python
tests/edge_host/time_predictor.py`; what docs/plan.md says of the predictor."""

from __future__ import annotations

from statistics import median

from seamline.edge_host.measure import unit_of
from seamline.runtime.layer_time import unit_times
from seamline.runtime.networks import NETWORKS, network
from seamline.runtime.predictor import fit, predict
from seamline.runtime.profile import Profile, Times, Unit

BATCHES = (4, 16)


def measured(name: str, batch: int) -> Profile:
    net = network(name)
    times = unit_times(net, net.units, batch, 7)
    units = [unit_of(net, unit, t, t) for unit, t in zip(net.units, times, strict=True)]
    return Profile(name, "this machine", "none", batch, 1, tuple(units))


def times_of(unit: Unit) -> Times:
    assert unit.device is not None
    return unit.device


def main() -> None:
    profiles = {(name, batch): measured(name, batch) for name in NETWORKS for batch in BATCHES}
    for held in NETWORKS:
        laws = fit([p for (name, _), p in profiles.items() if name != held], "this machine")
        real = profiles[held, BATCHES[-1]]
        both = list(zip(predict(laws, real).units, real.units, strict=True))
        for what in ("infer", "forward", "backward"):
            pairs = [(getattr(times_of(a), what), getattr(times_of(b), what)) for a, b in both]
            error = median(abs(a / b - 1) for a, b in pairs)
            whole = sum(a for a, _ in pairs) / sum(b for _, b in pairs) - 1
            print(f"{held} {what}: median of layers {error:.1%}, whole network {whole:+.1%}")


if __name__ == "__main__":
    main()
