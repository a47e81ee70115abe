"""A measured profile says of a network what its layers and the planners say."""

from __future__ import annotations

import math

import pytest
import torch
from seamline.edge_host.measure import Setting, measure
from seamline.edge_host.models import input_shape, load_model, with_input_shape
from seamline.edge_host.partition import branch
from seamline.edge_host.split import list_candidates
from seamline.runtime.budget import Choice, need
from seamline.runtime.profile import Profile
from torch import nn

ONE = Setting("net", "d", "e", batch=2, repeat=1)


def profile_of(name: str) -> Profile:
    return measure(load_model(name, {}, 0), Setting(name, "d", "e", batch=2, repeat=1))


@pytest.mark.parametrize("name", ["watch", "resnet8", "digits"])
def test_seams_and_parameters_are_the_planners(name: str) -> None:
    model, profile = load_model(name, {}, 0), profile_of(name)
    of = branch(profile)
    for candidate in list_candidates(model, input_shape(model)):
        seam = next(s for s in profile.seams if s.number == candidate.weighted)
        needs = need(candidate, Choice(2, "f32"))
        assert seam.training_ram == needs.training_ram
        assert seam.inference_ram == need(candidate, Choice(1, "f32")).inference_ram
        front = of.units[: seam.units]
        assert 4 * sum(unit.parameters for unit in front) == needs.flash["weights"]
        assert 2 * sum(unit.macs for unit in front) == needs.forward_macs
        assert of.values(seam.units) == math.prod(candidate.shape)
        if not candidate.whole:
            assert of.crossing(seam.units) == [seam.units]  # one tensor crosses a legal seam


def test_every_time_is_one_and_the_threads_stay() -> None:
    threads = torch.get_num_threads()
    for unit in profile_of("resnet8").units:
        assert unit.device is not None
        for times in (unit.device, unit.edge):
            assert min(times.infer, times.forward, times.backward) > 0
    assert torch.get_num_threads() == threads


def test_measuring_changes_no_weight() -> None:
    model = load_model("watch", {}, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, ONE)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


class Odd(nn.Module):
    """A residual block, then what no device has a kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.odd, self.last = nn.GELU(), nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.second(x)
        return self.last(torch.flatten(self.odd(x), 1))


def test_what_no_device_runs_is_the_edge_hosts_alone() -> None:
    profile = measure(with_input_shape(Odd(), (1, 6, 6)), ONE)
    kinds = [(unit.kind, unit.inputs, unit.device is None) for unit in profile.units]
    assert kinds[:3] == [
        ("conv2d", (0,), False),
        ("conv2d", (1,), False),
        ("add", tuple(sorted((1, 2), reverse=True)), False),
    ]
    assert all(only for *_, only in kinds[3:]) and len(kinds) > 3
    assert branch(profile).crossing(2) == [1, 2]
    assert [seam.units for seam in profile.seams] == [1, 3]
