"""The bundled networks and loading a user's own."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from seamline.edge_host.models import BUNDLED, input_shape, load_model, with_input_shape
from seamline.runtime.errors import UserError
from torch import nn


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_a_bundled_model_takes_the_input_it_names(name: str) -> None:
    model = load_model(name, {}, 0)
    with torch.no_grad():
        assert model(torch.zeros(2, *input_shape(model))).ndim == 2


def test_the_watch_model_has_the_size_the_documents_say() -> None:
    model = load_model("watch", {}, 0)
    assert sum(p.numel() for p in model.parameters()) == 10_671
    assert input_shape(model) == (6, 1, 100)


def test_arguments_reach_the_model() -> None:
    model = load_model("watch", {"channels": 3, "classes": 5}, 0)
    assert model(torch.zeros(1, 3, 1, 100)).shape == (1, 5)


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = load_model("resnet8", {}, 7)
    assert torch.equal(torch.rand(3), expected)
    second = load_model("resnet8", {}, 7)
    other = load_model("resnet8", {}, 8)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A user's module `their_models`."""
    module = types.ModuleType("their_models")
    monkeypatch.setitem(sys.modules, "their_models", module)
    return module


def test_a_users_own_function_is_called_with_the_arguments(own: types.ModuleType) -> None:
    own.make = lambda width: with_input_shape(nn.Sequential(nn.Linear(4, width)), (4,))
    model = load_model("their_models:make", {"width": 3}, 0)
    assert model(torch.zeros(1, 4)).shape == (1, 3)


def test_a_model_file_in_the_working_folder_is_found(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "near_models.py"  # type: ignore[operator]
    path.write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    assert isinstance(load_model("near_models:net", {}, 0), nn.Linear)
    sys.modules.pop("near_models")


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("nope", {}, "there is no bundled model 'nope': use one of digits, dscnn, resnet8, watch"),
        ("no_such_module:f", {}, "cannot import no_such_module"),
        ("their_models:", {}, "package.module:function"),
        ("their_models:absent", {}, "has no function absent"),
        ("their_models:number", {}, "has no function number"),
        ("their_models:raises", {}, "ZeroDivisionError"),
        ("their_models:text", {}, "returned a str"),
        ("watch", {"colour": 1}, "colour"),
        ("resnet8", {"size": 30}, "not divisible by 4"),
    ],
)
def test_a_wrong_name_or_function_is_one_clear_error(
    own: types.ModuleType, name: str, args: dict[str, int], words: str
) -> None:
    own.number = 3
    own.raises = lambda: 1 / 0
    own.text = lambda: "no model"
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        load_model(name, args, 0)


def test_a_model_that_does_not_say_its_input_is_an_error() -> None:
    with pytest.raises(UserError, match=r"set model\.input_shape"):
        input_shape(nn.Linear(2, 2))
    with pytest.raises(UserError, match="1 to 3 dimensions"):
        input_shape(with_input_shape(nn.Linear(2, 2), (1, 2, 3, 4)))
