"""The sum over zones: its value, its order, and layers that not every zone holds."""

import itertools

import numpy as np
from seamline.cloud.aggregate import Update, aggregate, model_hash


def f32(*values):
    return np.array(values, np.float32)


def test_the_model_moves_by_the_mean_of_differences_weighted_by_samples():
    updates = {"A": Update(1, {"w": f32(4, 0)}), "B": Update(3, {"w": f32(0, 8)})}
    assert aggregate({"w": f32(10, 20)}, updates)["w"].tolist() == [11, 26]


def test_the_order_of_arrival_does_not_change_a_bit():
    rng = np.random.default_rng(0)
    model = {"w": rng.normal(size=50).astype(np.float32)}
    updates = {
        zone: Update(7 + i, {"w": (rng.normal(size=50) * 10.0**i).astype(np.float32)})
        for i, zone in enumerate("ABCDE")
    }
    hashes = {
        model_hash(aggregate(model, dict(order)))
        for order in itertools.permutations(updates.items())
    }
    assert len(hashes) == 1


def test_sums_are_float64():
    """In float32 1e8 + 1 is 1e8, and the small zone's word would be lost."""
    updates = {z: Update(1, {"w": f32(v)}) for z, v in zip("ABC", (1e8, 3.0, -1e8), strict=True)}
    assert aggregate({"w": f32(0)}, updates)["w"].tolist() == [1.0]


def test_a_layer_is_averaged_over_those_who_hold_it_and_stays_if_nobody_does():
    model = {"w": f32(0), "only_b": f32(1), "nobody": f32(5)}
    updates = {"A": Update(1, {"w": f32(2)}), "B": Update(1, {"w": f32(4), "only_b": f32(6)})}
    new = aggregate(model, updates)
    assert {name: array.tolist() for name, array in new.items()} == {
        "w": [3],
        "only_b": [7],
        "nobody": [5],
    }


def test_without_a_model_differences_are_to_zero():
    updates = {"A": Update(1, {"w": f32(2)}), "B": Update(1, {"w": f32(4)})}
    new = aggregate({}, updates)
    assert new["w"].tolist() == [3] and new["w"].dtype == np.float32


def test_a_counter_is_the_first_zones():
    model = {"steps": np.array([5], np.int64)}
    updates = {z: Update(1, {"steps": np.array([n], np.int64)}) for z, n in (("B", 9), ("A", 2))}
    new = aggregate(model, updates)["steps"]
    assert new.tolist() == [7] and new.dtype == np.int64


def test_zones_without_samples_count_nothing_unless_all_have_none():
    w = {"A": {"w": f32(2)}, "B": {"w": f32(4)}}
    some = {"A": Update(5, w["A"]), "B": Update(0, w["B"])}
    none = {zone: Update(0, arrays) for zone, arrays in w.items()}
    assert aggregate({"w": f32(0)}, some)["w"].tolist() == [2]
    assert aggregate({"w": f32(0)}, none)["w"].tolist() == [3]


def test_a_hash_tells_values_names_shapes_and_types_apart():
    models = [
        {"w": f32(1, 2)},
        {"w": f32(1, 3)},
        {"v": f32(1, 2)},
        {"w": f32(1, 2).reshape(2, 1)},
        {"w": f32(1, 2).view(np.int32)},
        {"w": f32(0.0, 2)},
        {"w": f32(-0.0, 2)},
    ]
    assert len({model_hash(model) for model in models}) == len(models)
    assert model_hash({"a": f32(1), "b": f32(2)}) == model_hash({"b": f32(2), "a": f32(1)})
