"""The back is torch's own training in one flat tensor."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seamline.edge_host.back import Back
from torch import nn


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 5)
        )


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 4, 5, 5, generator=generator),
            torch.randint(0, 5, (8,), generator=generator),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_step_is_what_torch_does(name: str) -> None:
    plain = network()
    back = Back(copy.deepcopy(plain), name, momentum=0.9, weight_decay=0.01)  # type: ignore[arg-type]
    made = {
        "adam": lambda: torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=0.01),
        "sgd": lambda: torch.optim.SGD(
            plain.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01
        ),
    }[name]()
    for x, y in batches(10):
        given = x.clone().requires_grad_()
        made.zero_grad()
        expected = F.cross_entropy(plain(given), y)
        expected.backward()
        made.step()
        gradient, loss = back.step(x, y, 0.01)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert gradient is not None and given.grad is not None
        torch.testing.assert_close(gradient, given.grad, rtol=1e-4, atol=1e-6)
    for key, value in back.named().items():
        np.testing.assert_allclose(value, plain.state_dict()[key].numpy(), rtol=1e-4, atol=1e-5)


def test_without_a_gradient_to_return_the_back_learns_the_same() -> None:
    first, second = Back(network()), Back(network())
    for x, y in batches(3):
        first.step(x, y, 0.01)
        assert second.step(x, y, 0.01, need_gradient=False)[0] is None
    assert first.vector().tobytes() == second.vector().tobytes()


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_back_written_down_goes_on_with_the_same_bits(name: str) -> None:
    first, second = Back(network(), name), Back(network(), name)  # type: ignore[arg-type]
    for x, y in batches(3):
        first.step(x, y, 0.01)
    second.load_vector(first.vector())
    second.load_optimizer_state(first.optimizer_state())
    for x, y in batches(2):
        first.step(x, y, 0.01)
        second.step(x, y, 0.01)
    assert first.vector().tobytes() == second.vector().tobytes()


def test_named_and_vector_hold_the_running_statistics_and_no_counters() -> None:
    back = Back(network())
    assert "1.running_mean" in back.names and "1.num_batches_tracked" not in back.names
    state = {name: value + 1 for name, value in back.named().items()}
    back.load_named(state)
    for name, value in back.named().items():
        np.testing.assert_array_equal(value, state[name])
    assert back.vector().size == sum(value.size for value in state.values())


@pytest.mark.parametrize("model", [network(), nn.Sequential(nn.Flatten(), nn.Linear(100, 5))])
def test_a_loss_that_is_not_finite_changes_nothing(model: nn.Module) -> None:
    back = Back(model)
    before = back.named()
    x, y = batches(1)[0]
    gradient, loss = back.step(x * float("inf"), y, 0.01)
    assert gradient is None and not np.isfinite(loss)
    for name, value in before.items():
        np.testing.assert_array_equal(back.named()[name], value)
    assert all(not array.any() for array in back.optimizer_state().values())


def test_evaluate_counts_and_changes_nothing() -> None:
    back = Back(network())
    before = back.vector()
    x, y = batches(1)[0]
    ((correct, loss),) = back.evaluate(x, y)
    with torch.no_grad():
        logits = back.module.eval()(x)
    assert correct == int((logits.argmax(1) == y).sum())
    assert loss == pytest.approx(F.cross_entropy(logits, y, reduction="sum").item())
    assert back.vector().tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "state",
    [
        {"mean": np.zeros(7, np.float32)},
        {"momentum": np.zeros(461, np.float32)},
        {"steps": np.int64([1])},
    ],
)
def test_an_optimiser_state_of_another_model_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Back(network()).load_optimizer_state(state)


def test_a_forgotten_optimiser_begins_as_a_new_one() -> None:
    first, second = Back(network()), Back(network())
    for x, y in batches(2):
        first.step(x, y, 0.01)
    first.load_vector(second.vector())
    first.load_optimizer_state({})
    for x, y in batches(2):
        first.step(x, y, 0.01)
        second.step(x, y, 0.01)
    assert first.vector().tobytes() == second.vector().tobytes()


def test_an_edge_host_does_not_import_the_compiler_of_torch() -> None:
    code = (
        "import sys, torch; from seamline.edge_host.back import Back; from torch import nn;"
        "b = Back(nn.Linear(2, 2)); b.step(torch.zeros(1, 2), torch.zeros(1).long(), 0.1);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
