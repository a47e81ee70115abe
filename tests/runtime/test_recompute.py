"""What is made again: a smaller arena, no more work than needed, and the very same bits."""

from __future__ import annotations

import numpy as np
import pytest
from seamline.kernels.front import Front
from seamline.runtime.networks import network
from seamline.runtime.plan import LayerSpec, PlanError, build_plan, lay_out, size_up
from seamline.runtime.recompute import choose, extra_multiply_adds


def front_of(name: str, batch: int):
    net = network(name)
    return size_up(net.layers[: net.front], net.input_shape, batch)


def whole(name: str, batch: int):
    net = network(name)
    return size_up(net.layers, net.input_shape, batch)


def arena(front, again=()):
    return lay_out(front, again=again).arena_bytes


@pytest.mark.parametrize(("name", "share"), [("kws", 0.8), ("ic", 0.92), ("vww", 0.85)])
def test_whole_networks_shrink(name, share):
    front = whole(name, 1)
    again = choose(front)
    assert arena(front, again) < share * arena(front)
    macs = sum(layer.multiply_adds(front.shapes[layer.input]) for layer in front.layers)
    assert 0 < extra_multiply_adds(front, again) < macs


def test_a_limit_that_is_held_already_makes_nothing_again():
    front = front_of("kws", 1)
    assert choose(front, arena(front)) == frozenset()


def test_a_limit_between_is_met_with_less_work_than_the_least_arena():
    front = whole("kws", 4)
    least = choose(front)
    limit = (arena(front) + arena(front, least)) // 2
    some = choose(front, limit)
    assert arena(front, some) <= limit
    assert 0 < extra_multiply_adds(front, some) < extra_multiply_adds(front, least)


def test_a_limit_out_of_reach_goes_as_far_as_it_can():
    front = whole("kws", 1)
    assert arena(front, choose(front, 1000)) == arena(front, choose(front))


def test_the_last_layer_is_never_made_again():
    layers = [LayerSpec("dense", 0, (1, 1, 4)), LayerSpec("dense", 1, (1, 1, 3))]
    with pytest.raises(PlanError, match="again: expected layers 0 to 0"):
        build_plan(layers, (1, 1, 5), 2, again=[1])


@pytest.mark.parametrize("name", ["kws", "ic", "watch"])
def test_five_training_steps_have_the_same_bits(name):
    net = network(name)
    front = whole(name, 2)
    again = choose(front)
    assert again
    runs = []
    for made in ((), again):
        device = Front(build_plan(net.layers, net.input_shape, 2, again=made))
        rng = np.random.default_rng(0)
        device.params[:] = rng.normal(0, 0.1, len(device.params)).astype(np.float32)
        device.arena[2 * ((4 * len(device.params) + 15) & ~15) :] = 0xFF  # NaN
        for _ in range(5):
            device.forward(rng.normal(size=(2, *net.input_shape)).astype(np.float32))
            device.loss(rng.integers(0, net.shapes[-1][2], 2))
            device.backward()
            device.update(0.01, 0.9, 1e-4)
        runs.append(device.params.tobytes())
    assert runs[0] == runs[1]
