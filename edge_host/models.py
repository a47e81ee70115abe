"""The bundled networks, and loading a user's own by `package.module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.errors import UserError

CANNOT_CUT = 5  # exit code: the model cannot be used there


def watch(channels: int = 6, length: int = 100, classes: int = 7) -> nn.Module:
    """1-D CNN for windows of a motion sensor: [N, channels, 1, length] -> [N, classes]; 10.7 k
    parameters.
    """

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, (1, 5), stride=(1, 2), padding=(0, 2))
        return [layer, nn.ReLU()]

    model = nn.Sequential(
        *conv(channels, 16),
        *conv(16, 24),
        *conv(24, 32),
        nn.AdaptiveAvgPool2d((1, 4)),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )
    return with_input_shape(model, (channels, 1, length))


def digits(size: int = 8, classes: int = 10) -> nn.Module:
    """CNN without norm for grey images [N, 1, size, size] -> [N, classes]; 6.3 k parameters."""
    side = -(-size // 4)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * side * side, classes),
    )
    return with_input_shape(model, (1, size, size))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the shortcut is a 1x1 convolution where the shape
    changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


def resnet8(channels: int = 3, size: int = 32, classes: int = 10, width: int = 16) -> nn.Module:
    """Small residual network for images [N, channels, size, size], with GroupNorm; size divisible
    by 4.
    """
    if size % 4:
        raise UserError(f"resnet8: size {size} is not divisible by 4")
    model = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        ResidualBlock(width, width, 1, 4),
        ResidualBlock(width, 2 * width, 2, 4),
        ResidualBlock(2 * width, 4 * width, 2, 4),
        nn.AvgPool2d(size // 4),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )
    return with_input_shape(model, (channels, size, size))


def dscnn(
    height: int = 49, width: int = 10, classes: int = 12, channels: int = 64, blocks: int = 4
) -> nn.Module:
    """Depthwise-separable CNN for speech features [N, 1, height, width] (keyword spotting)."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1)),
        nn.ReLU(),
    ]
    for _ in range(blocks):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return with_input_shape(nn.Sequential(*layers), (1, height, width))


BUNDLED: Mapping[str, Callable[..., nn.Module]] = {
    "watch": watch,
    "digits": digits,
    "resnet8": resnet8,
    "dscnn": dscnn,
}


def with_input_shape(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Notes the shape of one sample (torch layout, no batch) on the model, where `input_shape`
    finds it.
    """
    model.input_shape = shape  # type: ignore[assignment]
    return model


def input_shape(model: nn.Module) -> tuple[int, ...]:
    """Shape of one sample, torch layout without the batch: (C, H, W), (C, L) or (F,).

    The edge host never sees a sample, so the model must say it. Raises UserError if it does not.
    """
    shape: Any = getattr(model, "input_shape", None)
    if not isinstance(shape, (tuple, list)) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(
            "the model does not say what one sample looks like: set model.input_shape = "
            "(channels, height, width), (channels, length) or (features,) where it is made",
            CANNOT_CUT,
        )
    if not 1 <= len(shape) <= 3:
        raise UserError(f"model.input_shape {tuple(shape)} must have 1 to 3 dimensions", CANNOT_CUT)
    return tuple(shape)


def load_model(name: str, args: Mapping[str, Any], seed: int) -> nn.Module:
    """The network `name`: a bundled one or `package.module:function`, called with `args`.

    The same seed gives the same weights, whatever was drawn from torch's generator before; that
    generator is left as it was. Raises UserError if there is no such model, it cannot be imported,
    or it is not an nn.Module.
    """
    function = BUNDLED.get(name) or _imported(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = function(**args)
        except UserError:
            raise
        except Exception as error:  # the user's own code may raise anything
            raise UserError(
                f"model {name!r} with arguments {dict(args)} failed: "
                f"{type(error).__name__}: {error}",
                CANNOT_CUT,
            ) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model {name!r} returned a {type(model).__name__}; a torch.nn.Module is needed",
            CANNOT_CUT,
        )
    return model


def _imported(name: str) -> Callable[..., nn.Module]:
    """The function that `package.module:function` names. The working folder may hold the module."""
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise UserError(
            f"there is no bundled model {name!r}: use one of {', '.join(sorted(BUNDLED))} or "
            "package.module:function",
            CANNOT_CUT,
        )
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's own code
        raise UserError(
            f"model {name!r}: cannot import {module_name}: {type(error).__name__}: {error}",
            CANNOT_CUT,
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"model {name!r}: {module_name} has no function {function_name}", CANNOT_CUT
        )
    found: Callable[..., nn.Module] = function
    return found
