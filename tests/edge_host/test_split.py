"""Cutting: what runs on the device and what runs on the host is the network, for every seam;
errors name the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from seamline.edge_host.fold import fold_batch_norm
from seamline.edge_host.models import BUNDLED, input_shape, load_model
from seamline.edge_host.split import END, float_state, list_seams, load_state, split
from seamline.runtime.errors import UserError
from torch import Tensor, nn

Forward = Callable[..., NDArray[np.float32]]


class Functional(nn.Module):
    """Everything said with functions and methods instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding="same")
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.dense1 = nn.Linear(4 * 4 * 3, 10)
        self.dense2 = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.conv1(x))
        x = torch.relu(self.conv2(x) + x)
        x = F.avg_pool2d(F.max_pool2d(x, kernel_size=(1, 2), stride=(1, 2)), 2)
        x = F.dropout(x, 0.0).relu()
        x = x.view(x.size(0), -1)
        return self.dense2(F.relu(self.dense1(x), inplace=True))


class Mean(nn.Module):
    """Depthwise with a multiplier, global average by mean, in-place addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False
        )
        self.depth = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(2, 8)
        self.point = nn.Conv2d(8, 8, 1)
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depth(self.conv(x)))
        y = self.point(x)
        y += x
        return self.dense(y.mean((2, 3)))


def one_d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv1d(8, 8, 3, groups=8, padding="same"),
        nn.GroupNorm(4, 8),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 1),
        nn.AdaptiveAvgPool1d(3),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(18, 7),
        nn.ReLU(inplace=True),
        nn.Linear(7, 4),
    )


def dense_only() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(24, 9), nn.GroupNorm(3, 9), nn.ReLU6(), nn.Linear(9, 4)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (Functional, (3, 8, 12)),
    "mean": (Mean, (2, 9, 8)),
    "one_d": (one_d, (3, 25)),
    "dense_on_images": (dense_only, (2, 3, 4)),
    "dense_on_features": (lambda: dense_only()[1:], (24,)),
    "watch": (lambda: load_model("watch", {}, 0), (6, 1, 100)),
    "resnet8": (lambda: load_model("resnet8", {"size": 8, "width": 8}, 0), (3, 8, 8)),
    "dscnn": (lambda: load_model("dscnn", {"channels": 8}, 0), (1, 49, 10)),
}


def network(name: str) -> tuple[nn.Module, tuple[int, ...], Tensor]:
    """A network, one sample's shape, and a batch of 3."""
    make, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make(), shape, torch.randn(3, *shape)


def behind(model: nn.Module, shape: tuple[int, ...]) -> list[int | str]:
    """Every legal seam by number and by name, and the end."""
    seams = list_seams(model, shape)
    return [
        *[s.weighted for s in seams],
        *[s.name for s in seams if s.name in dict(model.named_modules())],
        END,
    ]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_front_on_the_device_and_back_on_the_host_are_the_network(
    name: str, on_device: Forward
) -> None:
    model, shape, x = network(name)
    with torch.no_grad():
        expected = model(x)
    for seam in behind(model, shape):
        cut = split(model, seam, shape)
        activation = on_device(cut, x)
        assert activation.shape == (3, *cut.shape), seam
        with torch.no_grad():
            there = cut.to_nchw(activation)
            assert there.shape == (3, *cut.torch_shape)
            torch.testing.assert_close(cut.back(there), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(cut.to_nhwc(there), activation)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_front_vector_and_its_names_are_inverse_and_both_parts_make_the_whole(
    name: str,
) -> None:
    model, shape, x = network(name)
    for seam in behind(model, shape):
        cut = split(model, seam, shape)
        whole = {key: value.numpy().copy() for key, value in float_state(model).items()}
        vector = cut.front_vector(whole)
        front = cut.front_state(vector)
        assert list(front) == cut.front_names
        back_names = set(float_state(cut.back))
        assert back_names | set(front) == set(whole) and not back_names & set(front)
        for key, value in front.items():
            np.testing.assert_array_equal(value, whole[key])
            assert value.shape == whole[key].shape
        merged = cut.merge({key: value * 2 for key, value in whole.items()})
        assert type(merged) is type(model)
        load_state(model, {key: value * 2 for key, value in whole.items()})
        with torch.no_grad():
            assert torch.equal(merged(x), model(x))
        load_state(model, whole)


def test_a_cut_leaves_the_given_model_alone() -> None:
    model, shape, _ = network("one_d")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cut = split(model, 2, shape)
    with torch.no_grad():
        for parameter in cut.model.parameters():
            parameter.zero_()
    assert model[1].inplace is True
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_norm_activation_and_pooling_go_with_the_layer_before_them_and_a_flatten_does_not() -> None:
    model, shape, _ = network("watch")
    cut = split(model, 3, shape)
    assert cut.seam == "6" and cut.shape == (1, 4, 32) and cut.torch_shape == (32, 1, 4)
    assert [layer.kind for layer in cut.front] == ["conv2d", "relu"] * 3 + ["average_pool"]
    assert split(model, "4", shape).front[-1].kind == "conv2d"


def test_a_seam_behind_a_flatten_carries_the_image_and_gives_the_back_what_torch_would(
    on_device: Forward,
) -> None:
    model, shape, x = network("one_d")
    cut = split(model, "7", shape)
    assert cut.shape == (1, 3, 6) and cut.torch_shape == (18,)
    with torch.no_grad():
        expected = model[:8](x)
    torch.testing.assert_close(cut.to_nchw(on_device(cut, x)), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_at_the_seam_comes_back_in_the_devices_layout() -> None:
    model, shape, _ = network("resnet8")
    cut = split(model, 1, shape)
    n = 2 * math.prod(cut.shape)
    activation = np.arange(n, dtype=np.float32).reshape(2, *cut.shape) / n
    tensor = cut.to_nchw(activation).requires_grad_()
    (tensor * torch.from_numpy(activation.transpose(0, 3, 1, 2).copy())).sum().backward()
    assert tensor.grad is not None
    np.testing.assert_array_equal(cut.to_nhwc(tensor.grad), activation)


def test_the_plan_layers_of_a_signal_have_height_one() -> None:
    model, shape, _ = network("one_d")
    first, _, depth, norm, pool = split(model, 2, shape).front
    assert (first.kind, first.kernel, first.stride, first.padding) == (
        "conv2d",
        (1, 5),
        (1, 2),
        ((0, 0), (2, 2)),
    )
    assert first.output_shape == (1, 13, 8)
    assert (depth.kind, depth.input, depth.padding) == ("depthwise", 2, ((0, 0), (1, 1)))
    assert (norm.kind, norm.groups) == ("group_norm", 4)
    assert (pool.kind, pool.kernel, pool.stride) == ("max_pool", (1, 2), (1, 2))


def test_seams_of_a_residual_network_are_listed_with_sizes() -> None:
    model = load_model("resnet8", {}, 0)
    seams = list_seams(model, input_shape(model))
    assert [s.weighted for s in seams] == [1, 3, 6, 9, 10]
    assert seams[1].name == "3.relu2" and seams[1].shape == (32, 32, 16)
    assert seams[1].values == 16384 and seams[1].parameters == 5184
    assert seams[-1].parameters == sum(p.numel() for p in model.parameters())


def sequential(*middle: nn.Module) -> nn.Module:
    """conv, relu, then `middle`, then flatten and dense over 4 channels of 6x6."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        *middle,
        nn.Flatten(),
        nn.LazyLinear(3),
    )


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.dense = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.conv(self.conv(x)).flatten(1))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(72, 72), nn.Linear(72, 72)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(1)))


DEEPEST_1 = "the deepest seam possible is 1 (1)"
ERRORS: dict[str, tuple[Callable[[], nn.Module], int | str, list[str]]] = {
    "an unknown layer": (
        lambda: sequential(nn.Tanh()),
        2,
        ["layer 2 (Tanh)", "no kernel", DEEPEST_1],
    ),
    "batch norm": (
        lambda: sequential(nn.BatchNorm2d(4)),
        "2",
        ["layer 2 (BatchNorm2d)", "use GroupNorm", "fold_batch_norm", DEEPEST_1],
    ),
    "dropout": (lambda: sequential(nn.Dropout(0.5)), END, ["2 (Dropout)", "set p = 0", DEEPEST_1]),
    "grouped convolution": (
        lambda: sequential(nn.Conv2d(4, 4, 3, groups=2)),
        2,
        ["2 groups", DEEPEST_1],
    ),
    "reflected padding": (
        lambda: sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        2,
        ["padding mode 'reflect'", DEEPEST_1],
    ),
    "ceil mode": (
        lambda: sequential(nn.MaxPool2d(4, ceil_mode=True)),
        2,
        ["2 (MaxPool2d)", "output (4, 2, 2)", DEEPEST_1],
    ),
    "averages over padding": (
        lambda: sequential(nn.AvgPool2d(3, padding=1)),
        2,
        ["count_include_pad=False", DEEPEST_1],
    ),
    "uneven adaptive pooling": (
        lambda: sequential(nn.AdaptiveAvgPool2d(4)),
        2,
        ["from 6 to 4", DEEPEST_1],
    ),
    "group norm without weights": (
        lambda: sequential(nn.GroupNorm(2, 4, affine=False)),
        2,
        ["affine=True"],
    ),
    "dense over the last dimension": (
        lambda: sequential(nn.Linear(6, 6)),
        2,
        ["flatten the sample", DEEPEST_1],
    ),
    "an unsupported first layer": (
        lambda: nn.Sequential(nn.Sigmoid(), sequential()),
        1,
        ["layer 0 (Sigmoid)", "no seam is possible in front of it"],
    ),
    "a function": (Branching, 1, ["cannot be traced", "depend on the data"]),
    "a layer called twice": (Shared, 1, ["conv shares its weights"]),
    "tied weights": (Tied, 1, ["b shares its weights"]),
    "tied weights in front": (Tied, 2, ["b (Linear)", "shared with another layer"]),
    "two outputs": (TwoOutputs, 1, ["more than one tensor"]),
    "an image as output": (lambda: nn.Conv2d(2, 2, 1), 1, ["must be [batch, classes]"]),
    "another input": (
        lambda: nn.Conv2d(5, 2, 1),
        1,
        ["does not accept a batch of shape (2, 2, 6, 6)"],
    ),
    "a seam beyond the model": (sequential, 9, ["only 2 weighted layers"]),
    "no layer on the device": (sequential, 0, ["at least one weighted layer"]),
    "true is no number": (sequential, True, ["at least one weighted layer"]),
    "a name that is not there": (sequential, "conv9", ["no module of that name", "0, 1, 2, 3"]),
    "a name in front of the first layer": (
        lambda: nn.Sequential(nn.ReLU(), sequential()),
        "0",
        ["at least one weighted layer"],
    ),
}


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_a_model_that_cannot_be_cut_there_is_one_clear_error(case: str) -> None:
    make, seam, words = ERRORS[case]
    model = make()
    if any(isinstance(module, nn.LazyLinear) for module in model.modules()):
        model(torch.zeros(2, 2, 6, 6))
    with pytest.raises(UserError) as caught:
        split(model, seam, (2, 6, 6))
    assert caught.value.exit_code == 5
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seam", "words"),
    [
        (2, "the seams around it are 1 (2) and 3 (3.relu2)"),
        ("3.norm1", "the seams around it are 1 (2) and 3 (3.relu2)"),
        ("4.shortcut", "the seams around it are 3 (3.relu2) and 6 (4.relu2)"),
    ],
)
def test_a_seam_inside_a_residual_block_names_the_seams_around_it(
    seam: int | str, words: str
) -> None:
    model = load_model("resnet8", {}, 0)
    with pytest.raises(UserError, match="inside a residual block") as caught:
        split(model, seam, input_shape(model))
    assert words in str(caught.value)


def test_a_whole_block_can_be_named_as_the_last_on_the_device() -> None:
    model = load_model("resnet8", {}, 0)
    assert split(model, "3", input_shape(model)).seam == "3.relu2"


def test_a_state_of_another_model_is_refused() -> None:
    model, shape, _ = network("watch")
    state = {key: value.numpy() for key, value in float_state(model).items()}
    cut = split(model, 2, shape)
    with pytest.raises(UserError, match=r"missing \['0\.bias'\]"):
        cut.merge({key: value for key, value in state.items() if key != "0.bias"})
    with pytest.raises(UserError, match=r"0\.bias has shape \(3,\)"):
        cut.merge({**state, "0.bias": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"expected \(2440,\), got \(2,\)"):
        cut.front_state(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"expected \[n, 1, 25, 24\]"):
        cut.to_nchw(np.zeros((2, 1, 25, 23), np.float32))


def test_folded_batch_norm_computes_the_same_and_can_be_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    for _ in range(3):
        model(torch.randn(8, 2, 6, 6))
    folded = fold_batch_norm(model)
    assert folded.training and isinstance(folded[1], nn.Identity)
    x = torch.randn(4, 2, 6, 6)
    torch.testing.assert_close(folded.eval()(x), model.eval()(x))
    assert [layer.kind for layer in split(folded, 2, (2, 6, 6)).front] == [
        "conv2d",
        "relu",
        "dense",
        "relu",
    ]


def test_all_bundled_models_can_be_on_the_device_whole() -> None:
    for name in BUNDLED:
        model = load_model(name, {}, 0)
        assert split(model, END, input_shape(model)).at_end
