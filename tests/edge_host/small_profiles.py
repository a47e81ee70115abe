"""Random small profiles for the tests of planners: chains and residual networks, with exits."""

from __future__ import annotations

import numpy as np
from seamline.runtime.profile import Codec, Energy, Exit, Link, Profile, Times, Unit

CODECS = (
    Codec("f32", 50, 32),
    Codec("int8", 50, 8, 2e-9, 1e-9, 1e-9, 2e-9),
    Codec("int4", 50, 4, 4e-9, 3e-9, 2e-9, 2e-9),
)


def _times(random: np.random.Generator, scale: float, batch: int) -> Times:
    infer, forward, backward = random.uniform(0.1, 2.0, 3) * scale
    return Times(infer, forward * batch, backward * batch)


def make_unit(random: np.random.Generator, index: int, inputs: tuple[int, ...], batch: int) -> Unit:
    return Unit(
        name=f"u{index}",
        kind="add" if len(inputs) > 1 else "conv2d",
        inputs=inputs,
        values=int(random.integers(1, 2000)),
        parameters=int(random.integers(0, 5000)),
        macs=int(random.integers(0, 100_000)),
        edge=_times(random, 2e-4, batch),
        device=_times(random, 2e-3, batch),
    )


def make_profile(
    seed: int,
    *,
    residual: bool = False,
    exits: int = 0,
    units: int | None = None,
    able: bool = True,
) -> Profile:
    """able: the device has kernels for every unit; else for some of the first."""
    random = np.random.default_rng(seed)
    count = units or int(random.integers(2, 9))
    batch = int(random.integers(1, 9))
    made = []
    for index in range(count):
        inputs: tuple[int, ...] = (index,)
        if residual and index > 1 and random.random() < 0.5:
            inputs = (index, int(random.integers(0, index)))
        made.append(make_unit(random, index, inputs, batch))
    if not able:
        stop = int(random.integers(1, count + 1))
        made = [_unable(unit) if i >= stop else unit for i, unit in enumerate(made)]
    places = random.choice(count, min(exits, count), replace=False) if exits else []
    heads = [
        Exit(f"exit{place}", int(place), make_unit(random, 90 + place, (int(place) + 1,), batch))
        for place in sorted(places)
    ]
    return Profile(
        model="random",
        device="d",
        edge="e",
        batch=batch,
        input_values=int(random.integers(1, 3000)),
        units=tuple(made),
        exits=tuple(heads),
        codecs=CODECS,
        energy=Energy(*random.uniform(1e-10, 1e-8, 3), random.uniform(0, 1.0)),
    )


def _unable(unit: Unit) -> Unit:
    return Unit(
        unit.name, unit.kind, unit.inputs, unit.values, unit.parameters, unit.macs, unit.edge
    )


def make_link(seed: int) -> Link:
    random = np.random.default_rng(seed + 10_000)
    up, down = 10 ** random.uniform(4, 7.5, 2)
    return Link(up, down, random.uniform(0, 0.05), random.uniform(0, 0.2))
