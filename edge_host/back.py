"""The back: the layers behind the seam in PyTorch, with their own optimiser.

All parameters lie in one flat tensor (each parameter is a view of it, and so is its gradient), so
one optimiser step is one call, and averaging backs or writing one down is a copy of one vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .optimizer import Optimizer, make_optimizer
from .weights import Weights

Array = NDArray[np.float32]


def score(logits: Tensor, labels: Tensor) -> tuple[int, float]:
    """(correct answers, sum of the losses) of logits [n, classes]."""
    loss = F.cross_entropy(logits, labels, reduction="sum").item()
    return int((logits.argmax(1) == labels).sum()), loss


class Back(Weights):
    """One back and its optimiser. The module given is taken over: its parameters move into the
    flat tensor.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Literal["adam", "sgd"] = "adam",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        exit_weights: Sequence[float] = (),
    ) -> None:
        """momentum is SGD's; Adam keeps its usual 0.9 and 0.999. exit_weights: of the losses of
        the exits a module has, which then gives a tuple of logits, and of its end; none: one exit.
        """
        self.module = module.train()
        self._weights = list(exit_weights) or [1.0]
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        flat = torch.cat([p.detach().reshape(-1) for _, p in named]) if named else torch.zeros(0)
        self._flat, self._gradient = flat, torch.zeros_like(flat)
        self._tensors = {}  # what is averaged: parameters, then running statistics
        first = 0
        for name, parameter in named:
            last = first + parameter.numel()
            parameter.data = flat[first:last].view(parameter.shape)
            parameter.grad = self._gradient[first:last].view(parameter.shape)
            self._tensors[name] = parameter.data
            first = last
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self._tensors.setdefault(name, tensor)
        self._statistics = len(self._tensors) > len(named)
        self._optimizer: Optimizer = make_optimizer(optimizer, flat.numel(), momentum, weight_decay)

    def share(
        self,
        flat: Tensor,
        gradient: Tensor,
        tensors: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        optimizer: Optimizer,
    ) -> None:
        """Makes this back one of several over the same memory. flat, gradient: [p] of its own
        parameters; tensors, gradients: views by name; optimizer: over `flat`.
        """
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                parameter.data, parameter.grad = tensors[name], gradients[name]
        for path, module in self.module.named_modules():
            for key, value in module.named_buffers(recurse=False):
                name = f"{path}.{key}" if path else key
                setattr(module, key, tensors.get(name, value))
        self._tensors = {name: tensors[name] for name in self._tensors}
        self._flat, self._gradient, self._optimizer = flat, gradient, optimizer

    def step(
        self, activation: Tensor, labels: Tensor, rate: float, need_gradient: bool = True
    ) -> tuple[Tensor | None, float]:
        """One forward, backward and update. activation: [n, ...] in torch layout; labels: int64
        [n].

        Returns the gradient of the mean loss with respect to the activation (None if not needed),
        and the mean loss of the network's end; with exits the gradient and the update are those of
        the weighted sum of all losses. A loss that is not finite changes nothing and comes back
        without a gradient.
        """
        activation = activation.detach()
        if self._statistics and not bool(torch.isfinite(activation).all()):
            return None, math.nan  # forward alone would spoil the running statistics
        if need_gradient:
            activation.requires_grad_()
        self._gradient.zero_()
        losses = [F.cross_entropy(logits, labels) for logits in self._logits(activation)]
        mean = losses[-1].item()
        if not all(math.isfinite(loss.item()) for loss in losses):
            return None, math.nan if math.isfinite(mean) else mean
        joint = losses[0]
        if len(losses) > 1:
            joint = torch.stack(losses).dot(torch.tensor(self._weights))
        joint.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step(self._flat, self._gradient, rate)
        return activation.grad, mean

    def evaluate(self, activation: Tensor, labels: Tensor) -> list[tuple[int, float]]:
        """(correct answers, sum of the losses) over a batch, of each exit and of the end."""
        return [score(logits, labels) for logits in self.logits(activation)]

    def logits(self, activation: Tensor) -> list[Tensor]:
        """Of each exit and of the end, [n, classes], as in use: nothing is learned."""
        self.module.eval()
        with torch.no_grad():
            found = self._logits(activation)
        self.module.train()
        return found

    def _logits(self, activation: Tensor) -> list[Tensor]:
        made = self.module(activation)
        return list(made) if isinstance(made, tuple) else [made]
