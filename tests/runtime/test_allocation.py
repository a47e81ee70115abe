"""Layer-wise codecs against every choice there is, and what budgets refuse."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.runtime.allocation import (
    NoAllocation,
    Option,
    least_bytes,
    least_error,
    measure_options,
    uniform,
)

CODECS = ("f32", "int8", "int4", "int2")


def random_options(seed: int) -> dict[str, list[Option]]:
    random = np.random.default_rng(seed)
    made = {}
    for layer in range(int(random.integers(1, 7))):
        count, size = float(random.exponential(1)), int(random.integers(10, 3000))
        made[f"l{layer}"] = [
            Option(codec, size * bits // 8 + 16, error * count)
            for codec, bits, error in zip(
                CODECS, (32, 8, 4, 2), (0, *np.sort(random.uniform(0.001, 1, 3))), strict=True
            )
        ]
    return made


def every(options: dict[str, list[Option]]) -> list[tuple[int, float]]:
    return [
        (sum(o.size for o in chosen), math.sqrt(sum(o.error**2 for o in chosen)))
        for chosen in product(*options.values())
    ]


def test_the_fewest_bytes_at_an_error_are_the_fewest_of_all_choices() -> None:
    smaller = 0
    for seed in range(200):
        options = random_options(seed)
        alpha = (0.5, 1.0, 1.5)[seed % 3]
        usual = uniform(options, "int4")
        found = least_bytes(options, "int4", alpha)
        good = [size for size, error in every(options) if error <= alpha * usual.error + 1e-12]
        assert found.size == min(good)
        assert found.error <= alpha * usual.error * (1 + 1e-9)
        if alpha >= 1:
            assert found.size <= usual.size
            smaller += found.size < usual.size
    assert smaller > 20


def test_the_least_error_in_so_many_bytes_is_the_least_of_all_choices() -> None:
    for seed in range(200):
        options = random_options(seed)
        all_of_them = sorted(every(options))
        most = all_of_them[len(all_of_them) // 2][0]
        found = least_error(options, most)
        assert found.error == pytest.approx(min(e for size, e in all_of_them if size <= most))
        assert found.size <= most


def test_real_parcels_are_measured_and_layers_differ() -> None:
    random = np.random.default_rng(1)
    tensors = {
        "large and quiet": random.normal(0, 0.001, 20_000).astype(np.float32),
        "small and loud": random.normal(0, 1, 200).astype(np.float32),
    }
    options = measure_options(tensors)
    assert [o.size for o in options["small and loud"]] == [
        len(parcel.pack(tensors["small and loud"], codec)) for codec in parcel.CODECS
    ]
    assert options["small and loud"][0].error == 0
    usual, found = uniform(options, "int8"), least_bytes(options, "int8")
    assert found.codecs == {"large and quiet": "int4", "small and loud": "f16"}
    assert found.size < 0.6 * usual.size and found.error <= usual.error


def test_a_network_of_thirty_layers_is_solved() -> None:
    random = np.random.default_rng(2)
    options = measure_options(
        {
            f"l{i}": random.normal(0, 10 ** random.uniform(-3, 0), int(n)).astype(np.float32)
            for i, n in enumerate(random.integers(100, 20_000, 30))
        }
    )
    found, usual = least_bytes(options, "int8"), uniform(options, "int8")
    assert found.size < usual.size and found.error <= usual.error * (1 + 1e-9)


def test_budgets_that_cannot_be_kept_say_the_least() -> None:
    options = {"a": [Option("int8", 100, 0.5), Option("int4", 60, 0.9)]}
    with pytest.raises(NoAllocation, match=r"the least possible is 0\.5"):
        least_bytes(options, "int8", 0.5)
    with pytest.raises(NoAllocation, match="fewest possible are 60"):
        least_error(options, 59)
    with pytest.raises(KeyError, match="expected one of int8, int4"):
        uniform(options, "f32")
    with pytest.raises(ValueError, match="at least 0"):
        least_bytes(options, "int8", -1)
