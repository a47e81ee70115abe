"""The front against torch, and plans from outside against everything they can get wrong."""

from __future__ import annotations

import struct
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.kernels import SeamError
from seamline.kernels.front import Front, check_plan
from seamline.runtime.plan import LayerSpec, PlanError, build_plan, read_plan

F = torch.nn.functional
PAD = ((1, 1), (1, 1))

RESIDUAL = [
    LayerSpec("conv2d", 0, (8, 8, 8), kernel=(3, 3), padding=PAD),
    LayerSpec("group_norm", 1, (8, 8, 8), groups=2),
    LayerSpec("relu", 2, (8, 8, 8)),
    LayerSpec("depthwise", 3, (8, 8, 8), kernel=(3, 3), padding=PAD),
    LayerSpec("conv2d", 4, (8, 8, 8), has_bias=False),
    LayerSpec("add", 5, (8, 8, 8), second_input=3),
    LayerSpec("relu", 6, (8, 8, 8), ceiling=6.0),
    LayerSpec("max_pool", 7, (4, 4, 8), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("average_pool", 8, (2, 2, 8), kernel=(2, 2), stride=(2, 2)),
    LayerSpec("flatten", 9, (1, 1, 32)),
    LayerSpec("dense", 10, (1, 1, 5)),
]


def filled(layers, shape, batch, seed=0):
    front = Front(build_plan(layers, shape, batch))
    rng = np.random.default_rng(seed)
    front.params[:] = rng.normal(0, 0.3, len(front.params)).astype(np.float32)
    return front, rng


def torch_residual(p, x):
    """The same network in torch, reading the plan's flat parameters."""
    at = 0

    def take(*shape):
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return p[at - size : at].reshape(shape)

    y = F.conv2d(x, take(8, 3, 3, 3).permute(0, 3, 1, 2), take(8), padding=1)
    y = F.relu(F.group_norm(y, 2, take(8), take(8)))
    z = F.conv2d(y, take(3, 3, 8).permute(2, 0, 1)[:, None], take(8), padding=1, groups=8)
    z = F.conv2d(z, take(8, 1, 1, 8).permute(0, 3, 1, 2)) + y
    z = F.avg_pool2d(F.max_pool2d(F.relu6(z), 2), 2)
    return F.linear(z.permute(0, 2, 3, 1).flatten(1), take(5, 32), take(5))


def test_a_residual_network_has_torchs_outputs_losses_and_gradients():
    front, rng = filled(RESIDUAL, (8, 8, 3), 4)
    for n in (4, 3):
        x = rng.normal(size=(n, 8, 8, 3)).astype(np.float32)
        labels = rng.integers(0, 5, n)
        y = front.forward(x)
        loss, _ = front.loss(labels)
        front.backward()
        p = torch.tensor(front.params.copy(), requires_grad=True)
        out = torch_residual(p, torch.tensor(x).permute(0, 3, 1, 2))
        want = F.cross_entropy(out, torch.tensor(labels))
        want.backward()
        np.testing.assert_allclose(y.reshape(n, 5), out.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert loss == pytest.approx(want.item(), rel=1e-5)
        np.testing.assert_allclose(front.gradients, p.grad.numpy(), rtol=2e-4, atol=2e-6)


def test_momentum_and_decay_follow_torchs_sgd():
    front, rng = filled(RESIDUAL, (8, 8, 3), 4)
    p = torch.tensor(front.params.copy(), requires_grad=True)
    sgd = torch.optim.SGD([p], 0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(10):
        x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
        labels = rng.integers(0, 5, 4)
        front.forward(x)
        front.loss(labels)
        front.backward()
        front.update(0.05, 0.9, 1e-3)
        sgd.zero_grad()
        F.cross_entropy(
            torch_residual(p, torch.tensor(x).permute(0, 3, 1, 2)), torch.tensor(labels)
        ).backward()
        sgd.step()
    np.testing.assert_allclose(front.params, p.detach().numpy(), rtol=2e-3, atol=2e-5)


def test_nothing_of_a_poisoned_arena_reaches_a_result():
    clean, rng = filled(RESIDUAL, (8, 8, 3), 4)
    dirty, _ = filled(RESIDUAL, (8, 8, 3), 4)
    dirty.arena[2 * ((4 * len(dirty.params) + 15) & ~15) :] = (
        0xFF  # all but weights and momentum: NaN
    )
    x = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    results = []
    for front in (clean, dirty):
        y = front.forward(x)
        front.loss(np.zeros(3))
        front.backward()
        results.append((y.tobytes(), front.gradients.tobytes()))
    assert results[0] == results[1]


def test_the_printed_ram_is_the_ram_used():
    plan = build_plan(RESIDUAL, (8, 8, 3), 4)
    front = Front(plan)
    assert sum(read_plan(plan).sections().values()) == front.arena_size == len(front.arena)


def test_the_arena_is_smaller_than_all_arrays_side_by_side():
    plan = read_plan(build_plan(RESIDUAL, (8, 8, 3), 4))
    apart = 2 * sum(4 * 4 * int(np.prod(shape)) for shape in plan.shapes)
    assert plan.sections()["activations"] < 0.75 * apart


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (LayerSpec("lstm", 0, (1, 1, 5)), "expected one of"),
        (LayerSpec("relu", 3, (8, 8, 3)), "not made before"),
        (LayerSpec("relu", 0, (8, 8, 4)), "shapes do not fit"),
        (LayerSpec("conv2d", 0, (9, 8, 4), kernel=(3, 3), padding=PAD), "shapes do not fit"),
        (LayerSpec("conv2d", 0, (8, 8, 4), kernel=(300, 3)), "up to 255"),
        (LayerSpec("add", 0, (8, 8, 3), second_input=None), "no plan a device accepts"),
        (LayerSpec("group_norm", 0, (8, 8, 3), groups=2), "shapes do not fit"),
    ],
)
def test_layers_that_fit_nowhere_are_refused_in_words(layer, words):
    with pytest.raises(PlanError, match=words):
        build_plan([layer], (8, 8, 3), 2)


def with_crc(plan: bytearray) -> bytes:
    plan[44:48] = bytes(4)
    plan[44:48] = struct.pack("<I", crc32(plan))
    return bytes(plan)


def test_a_flipped_bit_is_seen_by_the_checksum():
    plan = bytearray(build_plan(RESIDUAL, (8, 8, 3), 4))
    plan[100] ^= 4
    with pytest.raises(SeamError) as caught:
        check_plan(bytes(plan))
    assert caught.value.status == -6


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_a_hostile_plan_with_a_good_checksum_is_refused_or_runs_inside_its_arena(data):
    plan = bytearray(build_plan(RESIDUAL, (8, 8, 3), 2))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(plan) - 1))
        plan[at] = data.draw(st.integers(0, 255))
    hostile = with_crc(plan)
    try:
        front = Front(hostile)
    except SeamError:
        return
    front.forward(np.ones((1, *front.input_shape), np.float32))
    front.backward(np.ones((1, *front.output_shape), np.float32))
    front.update(0.1)


@pytest.mark.parametrize("cut", [0, 10, 47, 48, 300])
def test_a_plan_cut_short_is_refused(cut):
    with pytest.raises(SeamError):
        check_plan(build_plan(RESIDUAL, (8, 8, 3), 2)[:cut])
