"""The bank of layers a predictor learns from, and how their work is counted."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from seamline.runtime.kernel_work import _spans, _spans_back, path, work
from seamline.runtime.layer_bank import KINDS, Drawn, make_bank, time_bank, unit_of
from seamline.runtime.networks import NETWORKS, network
from seamline.runtime.plan import LayerSpec, size_up
from seamline.runtime.profile import Times, Unit

ZERO = Times(0, 0, 0)


def one(kind: str, shape: tuple[int, int, int], out: int, *, inner: bool = True) -> Unit:
    made = (*shape[:2], out) if kind != "dense" else (1, 1, out)
    return unit_of([LayerSpec(kind, 0, made)], shape, ZERO, inner=inner)


def test_the_bank_is_the_same_for_the_same_seed_and_has_every_kind() -> None:
    bank = make_bank(10)
    assert bank == make_bank(10) and bank != make_bank(10, seed=1)
    kinds = Counter(it.layers[0].kind for it in bank)
    assert set(kinds) == set(KINDS) - {"pointwise", "narrow"}


def test_every_layer_of_the_bank_is_one_a_device_can_run() -> None:
    for it in make_bank(30):
        size_up(it.layers, it.shape, it.batch)
        assert math.prod(it.shape) <= 80_000


def test_none_of_its_layers_is_one_of_the_networks_it_predicts() -> None:
    """But for a few that any draw may hit: the smallest."""
    known = {
        (net.shapes[layer.input], layer.output_shape, layer.kernel, layer.stride)
        for net in map(network, NETWORKS)
        for layer in net.layers
        if layer.parameters(net.shapes[layer.input])
    }
    drawn = [
        (it.shape, it.layers[0].output_shape, it.layers[0].kernel, it.layers[0].stride)
        for it in make_bank(100)
    ]
    assert len(known & set(drawn)) <= 3


def test_layers_are_timed_with_both_passes() -> None:
    bank = [Drawn([LayerSpec("dense", 0, (1, 1, 4))], (1, 1, 8), 2, inner) for inner in (0, 1)]
    for sample, inner in zip(time_bank(bank, 1), (False, True), strict=True):
        assert min(sample.device.infer, sample.device.forward, sample.device.backward) > 0
        assert (0 not in sample.unit.inputs) == inner


@pytest.mark.parametrize(("n", "kernel", "stride"), [(10, 3, 1), (9, 3, 2), (49, 10, 2), (5, 5, 1)])
def test_taps_are_counted_once_from_either_side(n: int, kernel: int, stride: int) -> None:
    out = -(-n // stride)
    ahead, back = _spans(n, out, kernel, stride), _spans_back(n, out, kernel, stride)
    assert sum(count for count, _ in ahead) == out and sum(count for count, _ in back) == n
    assert sum(c * t for c, t in ahead) == sum(c * t for c, t in back)


def test_a_tile_of_eight_pixels_is_one_step_a_term() -> None:
    whole, more = (work(one("conv2d", (4, w, 20), 32), 1, "forward", 16) for w in (4, 6))
    assert 2 * 20 in whole  # two full tiles of one block of two vectors, 20 terms
    assert 3 * 20 in more
    few = work(one("dense", (1, 1, 20), 32), 1, "forward", 16)
    assert 2 * 20 in few and few.sum() < whole.sum()  # one pixel, two vectors


def test_a_first_layer_makes_no_gradient_of_its_input() -> None:
    for kind in ("conv2d", "dense"):
        inner, first = (
            work(one(kind, (1, 1, 64), 16, inner=i), 4, "backward", 16).sum() for i in (True, False)
        )
        assert first < inner


def test_paths_are_those_of_the_kernels() -> None:
    def conv(kernel: tuple[int, int], c: int, kind: str = "conv2d") -> Unit:
        layer = LayerSpec(kind, 0, (16, 16, 8), kernel=kernel)
        return unit_of([layer], (16, 16, c), ZERO, inner=True)

    assert path(conv((1, 1), 8), "backward") == "pointwise"
    assert path(conv((3, 3), 3), "forward") == "conv2d"
    assert path(conv((3, 3), 3), "backward") == "conv2d-narrow"
    assert path(conv((3, 3), 8), "backward") == "conv2d"
    assert path(conv((5, 5), 8, "depthwise"), "forward") == "depthwise-large"
