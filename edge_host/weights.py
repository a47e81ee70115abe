"""Weights with their optimiser, written down by name or as one vector, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .optimizer import Optimizer, load_state

Array = NDArray[np.float32]


class Weights:
    """Tensors by name, parameters and running statistics, that one optimiser moves."""

    _tensors: dict[str, Tensor]
    _optimizer: Optimizer

    # ---- the model part: named, in torch layout; or as one vector ----

    @property
    def names(self) -> list[str]:
        """Names in the whole network's state dict."""
        return list(self._tensors)

    def named(self) -> dict[str, Array]:
        """Copies of parameters and running statistics by name."""
        return {name: np.array(t.detach().numpy()) for name, t in self._tensors.items()}

    def load_named(self, state: Mapping[str, Array]) -> None:
        """Sets parameters and running statistics; the optimiser keeps what it has gathered."""
        for name, tensor in self._tensors.items():
            tensor.copy_(torch.from_numpy(np.array(state[name], np.float32)).view(tensor.shape))

    def vector(self) -> Array:
        """All of `named` as one flat f32 vector."""
        parts = [t.detach().numpy().ravel() for t in self._tensors.values()]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def load_vector(self, vector: Array) -> None:
        """Sets all of `named` from one flat vector."""
        first = 0
        for tensor in self._tensors.values():
            last = first + tensor.numel()
            tensor.copy_(torch.from_numpy(np.array(vector[first:last])).view(tensor.shape))
            first = last

    # ---- what the optimiser has gathered ----

    def optimizer_state(self) -> dict[str, NDArray[Any]]:
        """Copies of the optimiser's tensors by name."""
        return {name: np.array(t.numpy()) for name, t in self._optimizer.state.items()}

    def load_optimizer_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Sets what `optimizer_state` returned; an empty one forgets everything.

        Raises ValueError for the state of another optimiser or model.
        """
        load_state(self._optimizer, state)
