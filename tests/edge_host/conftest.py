"""What several tests of the edge host need: the device's front on an activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from seamline.edge_host.split import Split, float_state
from seamline.kernels.front import Front
from seamline.runtime.plan import build_plan
from torch import Tensor

torch.set_num_threads(1)


@pytest.fixture
def on_device() -> Callable[[Split, Tensor], NDArray[np.float32]]:
    """(cut, x [n, *input] in torch layout) -> what the front computes, [n, h, w, c], with the kernels."""

    def forward(cut: Split, x: Tensor) -> NDArray[np.float32]:
        h, w, c = cut.input_shape
        front = Front(build_plan(cut.front, cut.input_shape, len(x)))
        front.params[:] = cut.front_vector(float_state(cut.model))
        nhwc = x.numpy().reshape(len(x), c, h, w).transpose(0, 2, 3, 1)
        return np.array(front.forward(np.ascontiguousarray(nhwc)))

    return forward
