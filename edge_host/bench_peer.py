"""PyTorch as a peer in benchmarks: the layers of a plan, one thread, its fastest settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..runtime.networks import Piece
from ..runtime.plan import LayerSpec, Pair, Shape

Work = Callable[[], object]
Op = Callable[..., Tensor]
FORMATS = (torch.contiguous_format, torch.channels_last)


class Chain(nn.Module):
    """The layers of a piece on images in torch's layout, [n, c, h, w]."""

    def __init__(self, piece: Piece) -> None:
        super().__init__()
        self.values = nn.ParameterList()
        self.ops: list[tuple[Op, tuple[int, ...]]] = []
        shapes = piece.shapes
        for layer, (weight, bias) in zip(piece.layers, piece.weights(), strict=True):
            shape = shapes[layer.input]
            own = [] if weight.size == 0 else [_to_torch(layer, weight)]
            own += [] if bias is None else [torch.from_numpy(bias.copy())]
            parameters = [nn.Parameter(value) for value in own]
            self.values.extend(parameters)
            self.ops.append((_op(layer, shape, parameters), layer.inputs()))

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, c, h, w]; returns [n, c', h', w'], flat behind a dense layer."""
        tensors = [x]
        for op, inputs in self.ops:
            tensors.append(op(*[tensors[i] for i in inputs]))
        return tensors[-1]


def _to_torch(layer: LayerSpec, weight: NDArray[np.float32]) -> Tensor:
    if layer.kind == "depthwise":
        weight = np.transpose(weight, (2, 0, 1))[:, None]
    elif layer.kind in ("conv2d", "dense"):
        weight = np.transpose(weight, (0, 3, 1, 2))
    if layer.kind == "dense":
        weight = weight.reshape(len(weight), -1)
    return torch.from_numpy(np.ascontiguousarray(weight).copy())


def _op(layer: LayerSpec, shape: Shape, own: list[nn.Parameter]) -> Op:
    """The layer as a function of its inputs. shape: of the first, (h, w, c)."""
    weight: Any = own[0] if own else None
    bias: Any = own[1] if len(own) > 1 else None
    if layer.kind in ("conv2d", "depthwise"):
        pads = [_symmetric(layer, shape, axis) for axis in (0, 1)]
        groups = shape[2] if layer.kind == "depthwise" else 1
        how = (layer.stride, pads, layer.dilation, groups)
        return lambda x: functional.conv2d(x, weight, bias, *how)
    if layer.kind == "dense":
        return lambda x: functional.linear(x.flatten(1), weight, bias)
    return _plain_op(layer, shape, weight, bias)


def _plain_op(layer: LayerSpec, shape: Shape, weight: Any, bias: Any) -> Op:
    """What is no product."""
    if layer.kind == "group_norm":
        return lambda x: functional.group_norm(x, layer.groups, weight, bias, layer.epsilon)
    plain: dict[str, Op] = {
        "relu": functional.relu6 if layer.ceiling == 6 else functional.relu,
        "add": torch.add,
        "flatten": lambda x: x.flatten(1)[:, :, None, None],
    }
    if layer.kind in plain:
        return plain[layer.kind]
    pads = [_symmetric(layer, shape, axis) for axis in (0, 1)]
    how = (layer.kernel, layer.stride, pads)
    if layer.kind == "max_pool":
        return lambda x: functional.max_pool2d(x, *how, layer.dilation)
    return lambda x: functional.avg_pool2d(x, *how, count_include_pad=False)


def _symmetric(layer: LayerSpec, shape: Shape, axis: int) -> int:
    """Torch pads both sides alike: the padding that gives the same output, and so the same work."""
    pair: Pair = layer.padding[axis]
    reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1
    for pad in sorted({*pair, max(pair)}):
        if (shape[axis] + 2 * pad - reach) // layer.stride[axis] + 1 == layer.output_shape[axis]:
            return pad
    raise ValueError(f"{layer.kind}: no padding of both sides gives {layer.output_shape}")


def torch_output(piece: Piece) -> NDArray[np.float32]:
    """What torch computes, [batch, h, w, c]: to see that both do the same."""
    with torch.inference_mode():
        y = Chain(piece)(_nchw(piece.x))
    y = y.reshape(*y.shape, *[1] * (4 - y.ndim))
    return np.ascontiguousarray(y.permute(0, 2, 3, 1).numpy())


def torch_work(piece: Piece, pass_: str) -> Work:
    """One call does one pass: forward, backward (gradients, from a graph that is kept) or step
    (forward, backward, SGD with momentum). In the memory format that is faster here."""
    torch.set_num_threads(1)
    works = [_work(piece, pass_, format_) for format_ in FORMATS]
    return min(works, key=_tried)


def _tried(work: Work) -> float:
    """Seconds of the best of a few calls."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _nchw(x: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2))))


def _work(piece: Piece, pass_: str, format_: torch.memory_format) -> Work:
    chain: Any = Chain(piece).to(memory_format=format_)  # type: ignore[call-overload]
    x = _nchw(piece.x).to(memory_format=format_)
    if pass_ == "forward":

        def forward() -> Tensor:
            with torch.inference_mode():
                found: Tensor = chain(x)
            return found

        return forward
    x.requires_grad_(piece.inner)
    y = chain(x)
    dy = _nchw(piece.dy).reshape(y.shape)
    if y.ndim == 4:
        dy = dy.to(memory_format=format_)
    if pass_ == "backward":
        wanted = [*chain.parameters(), *([x] if piece.inner else [])]
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)
    optimizer = _sgd(list(chain.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        chain(x).backward(dy)
        optimizer.step()

    return step


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    try:
        return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, fused=True)
    except (RuntimeError, TypeError):  # before torch 2.4, or not on this processor
        return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)
