"""Exits: where they sit, what they are trained by, and devices that learn from their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seamline.edge_host.back import Back
from seamline.edge_host.exits import exit_head, job_network, load_network, with_exits
from seamline.edge_host.models import load_model, with_input_shape
from seamline.edge_host.split import Split, float_state, split
from seamline.edge_host.trainer import upload_steps
from seamline.kernels.front import Front
from seamline.runtime.config import TrainSection
from seamline.runtime.errors import UserError
from seamline.runtime.message import Flag, Kind
from seamline.runtime.plan import build_plan
from test_trainer import Plain
from torch import Tensor, nn

SMALL = {"channels": 2, "length": 32, "classes": 3}
SHAPE = (2, 1, 32)


def network(exits: Any = (1, 2)) -> nn.Module:
    return load_network("watch", SMALL, 0, exits)


def cut_at(seam: int, exits: Any = (1, 2), *, on_device: bool = False) -> Split:
    return split(network(exits), seam, SHAPE, exit_on_device=on_device)


X = torch.from_numpy(np.random.default_rng(1).normal(size=(5, *SHAPE)).astype(np.float32))
Y = torch.tensor([0, 2, 1, 1, 0])


def branches(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits of the exits at 1 and 2 and of the end, by hand."""
    layers = [m for name, m in model.named_children() if name != "exits"]
    first = layers[1](layers[0](x))
    second = layers[3](layers[2](first))
    end = second
    for layer in layers[4:]:
        end = layer(end)
    return [model.exits["at_1"](first), model.exits["at_2"](second), end]


# ---- declaring them ----


def test_exits_change_nothing_of_the_network_but_the_names_in_its_state() -> None:
    plain, model = load_model("watch", SMALL, 0), network()
    assert torch.equal(plain(X), model(X))
    names = [name for name in model.state_dict() if name.startswith("exits.")]
    assert [n.split(".")[1] for n in names] == ["at_1", "at_1", "at_2", "at_2"]
    assert [n for n in model.state_dict() if n not in names] == list(plain.state_dict())
    again, other = network(), network((2,))
    for name in names:
        assert torch.equal(model.state_dict()[name], again.state_dict()[name])
    assert torch.equal(
        model.state_dict()["exits.at_2.2.weight"], other.state_dict()["exits.at_2.2.weight"]
    )
    assert copy.deepcopy(model)(X).shape == (5, 3)


@pytest.mark.parametrize(
    ("shape", "features"),
    [((24, 1, 25), 24 * 5), ((24, 1, 13), 24), ((8, 4, 6), 8 * 4), ((6, 30), 30), ((9,), 9)],
)
def test_a_default_head_fits_what_is_there(shape: tuple[int, ...], features: int) -> None:
    head = exit_head(shape, 7)
    assert head(torch.zeros(3, *shape)).shape == (3, 7)
    assert next(iter(head.parameters())).shape == (7, features)


def test_a_head_of_ones_own() -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(24 * 8, 3))
    model = with_exits(load_model("watch", SMALL, 0), {2: head})
    cut = split(model, 2, SHAPE, exit_on_device=True)
    assert [layer.kind for layer in cut.front[cut.exit_from :]] == ["dense"]


def _bad(heads: dict[Any, nn.Module]) -> Callable[[], object]:
    return lambda: with_exits(load_model("watch", SMALL, 0), heads)


class Branching(nn.Module):
    """A head whose way depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :3] if x.sum() > 0 else x.mean((2, 3))[:, 1:4]


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "behind no layer": (_bad({7: nn.Flatten()}), "seam 7: the model has only 5 weighted layers"),
    "at no module": (_bad({"tail": nn.Flatten()}), "the model runs no module of that name"),
    "behind the last layer": (_bad({5: nn.Flatten()}), "behind the network's last layer"),
    "another input": (_bad({1: nn.Linear(5, 3)}), r"does not take what crosses there, \(2, 16"),
    "other classes": (
        _bad({1: nn.Sequential(nn.Flatten(), nn.Linear(256, 4))}),
        r"gives \(2, 4\) for two samples, expected \(2, 3\)",
    ),
    "twice": (lambda: with_exits(network(), {3: nn.Flatten()}), "has exits already"),
    "none": (_bad({}), "none were given"),
    "inside a block": (
        lambda: load_network("resnet8", {"size": 8, "width": 8}, 0, [2]),
        "inside a residual block",
    ),
    "none at the seam": (lambda: cut_at(3, on_device=True), r"needs an exit at the seam 3 \(6\)"),
    "no kernel for it": (
        lambda: split(
            with_exits(load_model("watch", SMALL, 0), {1: nn.Sequential(
                nn.Tanh(), nn.Flatten(), nn.Linear(256, 3))}), 1, SHAPE, exit_on_device=True),
        "the exit's layer _0_0 cannot run on a device",
    ),
    "not traced": (
        lambda: split(
            with_exits(load_model("watch", SMALL, 0), {1: Branching()}),
            1, SHAPE, exit_on_device=True),
        "cannot be traced",
    ),
    "no layer at all": (
        lambda: split(
            with_exits(
                with_input_shape(nn.Sequential(nn.Conv2d(2, 3, (1, 32)), nn.Flatten(),
                nn.Linear(3, 3)), SHAPE), {1: nn.Flatten()}), 1, SHAPE, exit_on_device=True),
        "no layer that computes anything",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "text"), BAD.values(), ids=BAD)
def test_an_exit_that_cannot_be(make: Callable[[], object], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        make()
    assert caught.value.exit_code == 5


# ---- cutting ----


def test_the_back_gives_every_exit_from_the_seam_on() -> None:
    model = network()
    for seam, exits in ((1, ["at_1", "at_2"]), (2, ["at_2"]), (3, [])):
        cut = cut_at(seam)
        assert cut.exits == exits and cut.all_exits == exits
        front = [m for name, m in model.named_children() if name != "exits"][: 2 * seam]
        made = cut.back(nn.Sequential(*front)(X))
        expected = branches(model, X)[3 - 1 - len(exits) :]
        for ours, theirs in zip(made if exits else [made], expected, strict=True):
            assert torch.equal(ours, theirs)


def test_an_exit_on_the_device_computes_what_torch_does() -> None:
    cut = cut_at(2, on_device=True)
    assert cut.exit_from == 4 and cut.exits == [] and cut.all_exits == ["at_2"]
    assert cut.front_names[-2:] == ["exits.at_2.2.weight", "exits.at_2.2.bias"]
    assert not any(name.startswith("exits") for name in Back(copy.deepcopy(cut.back)).names)
    front = Front(build_plan(cut.front, cut.input_shape, 5, seam=cut.exit_from))
    front.params[:] = cut.front_vector(float_state(cut.model))
    logits = front.forward(np.ascontiguousarray(X.numpy().transpose(0, 2, 3, 1)))
    _, expected, end = branches(network(), X)
    np.testing.assert_allclose(logits.reshape(5, 3), expected.detach(), atol=1e-5)
    np.testing.assert_allclose(
        cut.back(cut.to_nchw(front.crossing())).detach(), end.detach(), atol=1e-5
    )


# ---- joint loss ----


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.7, 0.0, 0.3]])
def test_the_gradient_is_that_of_the_weighted_sum_of_all_losses(weights: list[float]) -> None:
    model, cut = network(), cut_at(1)
    back = Back(copy.deepcopy(cut.back), "sgd", 0.0, exit_weights=weights)
    layers = [m for name, m in model.named_children() if name != "exits"]
    activation = layers[1](layers[0](X)).detach()
    gradient, loss = back.step(activation, Y, 0.1)
    losses = [F.cross_entropy(logits, Y) for logits in branches(model, X)]
    sum(w * one for w, one in zip(weights, losses, strict=True)).backward()
    assert loss == pytest.approx(losses[-1].item(), rel=1e-6)
    probe = activation.clone().requires_grad_()
    made = [model.exits["at_1"](probe)]
    second = layers[3](layers[2](probe))
    made += [model.exits["at_2"](second), nn.Sequential(*layers[4:])(second)]
    total = sum(w * F.cross_entropy(one, Y) for w, one in zip(weights, made, strict=True))
    np.testing.assert_allclose(gradient, torch.autograd.grad(total, probe)[0], atol=1e-6)
    for name, parameter in model.named_parameters():
        if name in back.names:
            moved = parameter - 0.1 * parameter.grad
            np.testing.assert_allclose(back.named()[name], moved.detach(), atol=1e-6)


def test_each_exit_is_scored() -> None:
    model, cut = network(), cut_at(1)
    back = Back(copy.deepcopy(cut.back), exit_weights=[1.0, 1.0, 1.0])
    layers = [m for name, m in model.named_children() if name != "exits"]
    found = back.evaluate(layers[1](layers[0](X)).detach(), Y)
    for (correct, loss), logits in zip(found, branches(model, X), strict=True):
        assert correct == int((logits.argmax(1) == Y).sum())
        assert loss == pytest.approx(F.cross_entropy(logits, Y, reduction="sum").item(), rel=1e-5)


def test_an_exit_whose_loss_is_not_finite_changes_nothing() -> None:
    back = Back(copy.deepcopy(cut_at(1).back), exit_weights=[1.0, 1.0, 1.0])
    before = back.vector()
    with torch.no_grad():
        back.module.exits.at_1[2].bias.fill_(float("inf"))
    spoilt = back.vector()
    gradient, loss = back.step(torch.ones(5, 16, 1, 16), Y, 0.1)
    assert gradient is None and not np.isfinite(loss)
    assert np.array_equal(back.vector(), spoilt, equal_nan=True)
    assert not np.array_equal(before, spoilt, equal_nan=True)


# ---- in a zone ----

DEVICES = {"d0": 23, "d1": 17}
ROUNDS = 20


def test_a_zone_trains_its_exits_and_says_how_good_each_is(world: Callable[..., Any]) -> None:
    here = world(devices=DEVICES, seam=1, exits=(1, 2), cloud_rounds=12)
    before = job_network(here.job).state_dict()
    here.run()
    found = here.named("evaluated")[-1]["devices"]
    assert set(found["d0"]["exits"]) == {"at_1", "at_2"}
    for name in ("exits.at_1.2.weight", "exits.at_2.2.weight"):
        assert not np.array_equal(here.cloud.model[name], before[name])
    right = sum(device["exits"]["at_2"]["correct"] for device in found.values())
    assert right > 0.5 * sum(device["total"] for device in found.values())


def test_an_exit_in_front_of_the_seam_is_trained_by_nobody(world: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="the exit at 1 lies in front of the seam 2"):
        world(seam=2, exits=(1, 2))


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (1, 3, [[0, 1, 2]] * 4),
        (2, 5, [[0, 2, 4]] * 4),
        (5, 5, [[0]] * 4),
        (6, 5, [[0], [], [0], []]),
        (3, 1, [[0], [], [], [0]]),
    ],
)
def test_which_batches_come_up(every: int, steps: int, expected: list[list[int]]) -> None:
    train = TrainSection(device_steps=steps, upload_every=every)
    assert [upload_steps(train, round_) for round_ in range(4)] == expected


@pytest.mark.parametrize("arithmetic", ["f32", "q8"])
@pytest.mark.parametrize(("every", "steps"), [(1, 3), (2, 5), (4, 2)])
def test_devices_learn_alone_and_send_no_more_than_asked(
    world: Callable[..., Any], every: int, steps: int, arithmetic: str
) -> None:
    here = world(
        "local-loss", devices=DEVICES, seam=2, exits=(2,), cloud_rounds=ROUNDS,
        device_steps=steps, upload_every=every, arithmetic=arithmetic, front_rate=0.02,
    )  # fmt: skip
    here.run()
    ups = [m for _, m in here.arrived if m.kind == Kind.ACT]
    rounds = ROUNDS * here.job.train.edge_rounds
    per_device = sum(len(upload_steps(here.job.train, r)) for r in range(rounds))
    assert len(ups) == 2 * per_device
    gradients = [m for _, m in here.sent if m.kind == Kind.GRAD]
    assert len(gradients) == len(ups) and all(len(m.body) == 12 for m in gradients)
    assert all(m.flags & Flag.LOCAL and m.flags & Flag.FROZEN for m in gradients)
    found = here.named("evaluated")[-1]["devices"]
    total = sum(device["total"] for device in found.values())
    assert sum(device["exits"]["at_2"]["correct"] for device in found.values()) > 0.6 * total
    assert sum(device["correct"] for device in found.values()) > 0.5 * total


def test_local_loss_gives_the_same_bits_whatever_the_timing(world: Callable[..., Any]) -> None:
    def once(seed: int) -> bytes:
        here = world(
            "local-loss", devices=DEVICES, seam=2, exits=(2,),
            device_steps=3, upload_every=2, seed=seed,
        )  # fmt: skip
        here.run()
        return bytes(here.fingerprint())

    assert once(1) == once(2)


def test_one_device_that_learns_alone_equals_plain_torch(world: Callable[..., Any]) -> None:
    """Its front and exit; the back, which sees each activation before the device's step."""
    here = world(
        "local-loss", devices={"d0": 23}, seam=2, exits=(2,), codec="f32",
        back_optimizer="sgd", front_rate=0.05, back_rate=0.02, momentum=0.9, device_steps=5,
        edge_rounds=2, cloud_rounds=2, upload_every=2, rate_decay="none",
    )  # fmt: skip
    here.run()
    model = job_network(here.job)
    layers = [m for name, m in model.named_children() if name != "exits"]
    front, tail = nn.Sequential(*layers[:4]), nn.Sequential(*layers[4:])
    own = torch.optim.SGD([*front.parameters(), *model.exits.parameters()], 0.05, momentum=0.9)
    edge = torch.optim.SGD(tail.parameters(), 0.02, momentum=0.9)
    batches = Plain(here, "d0", 1)
    for number in range(20):
        x, y = batches.batch(number)
        crossing = front(x)
        if number % 5 in (0, 2, 4):
            edge.zero_grad()
            F.cross_entropy(tail(crossing.detach()), y).backward()
            edge.step()
        own.zero_grad()
        F.cross_entropy(model.exits["at_2"](crossing), y).backward()
        own.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(here.cloud.model[name], parameter.detach(), atol=2e-5)


def test_a_sure_exit_answers_and_the_back_the_rest(world: Callable[..., Any]) -> None:
    """The same model, whatever the threshold: only who answers differs."""

    def run(entropy: float) -> tuple[bytes, dict[str, Any], int]:
        here = world(
            "local-loss", devices=DEVICES, seam=2, exits=(2,), device_steps=3, cloud_rounds=12,
            exit_entropy=entropy, name=f"at{entropy}", codec="f32",
        )  # fmt: skip
        here.run()
        results = sum(len(m.body) for _, m in here.arrived if m.kind == Kind.RESULT)
        return here.fingerprint(), here.named("evaluated")[-1]["devices"], results

    (model, never, most_bytes), (_, some, fewer), (_, always, fewest) = map(run, (0, 0.5, 9.0))
    assert "early" not in never["d0"]
    assert run(0.5)[0] == model
    for device, found in always.items():
        assert found["early"] == {"correct": found["correct"], "total": found["total"]}
        assert found["correct"] == never[device]["exits"]["at_2"]["correct"]
    answered = sum(found["early"]["total"] for found in some.values())
    assert 0 < answered < sum(found["total"] for found in some.values())
    assert fewest < fewer < most_bytes
