"""Which torch layers a device can run: walks a traced network and turns its nodes into plan
layers.

The walk stops at the first node a device cannot run and says why. Shapes: torch has (C, H, W), (C,
L) or (F,) for one sample, the plan has (h, w, c); a signal of length L is h = 1, features are h =
w = 1. A flatten moves no bytes on the device, so the dense layer behind it has its columns
reordered from (c, h, w) to (h, w, c) instead.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ..runtime.errors import UserError
from ..runtime.plan import LayerSpec
from .models import CANNOT_CUT

Shape = tuple[int, int, int]  # (h, w, c)
SHAPE_KEY = "seamline_shape"  # node.meta: one sample's shape, torch layout; absent: no tensor
WINDOW_MAX = 255  # kernel, stride, dilation and padding are single bytes in a plan


class Unsupported(Exception):
    """A node that a device cannot run; the text says why and what to do."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of the state dict and its place in the plan: reshaped to `view`, then axes
    permuted.
    """

    name: str
    shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def to_plan(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """value: `shape`, torch layout -> flat, plan layout."""
        return value.reshape(self.view).transpose(self.axes).ravel()

    def to_torch(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """flat: plan layout -> a new array of `shape`, torch layout."""
        permuted = flat.reshape([self.view[axis] for axis in self.axes])
        back = np.argsort(self.axes)
        return np.array(permuted.transpose(back).reshape(self.shape), dtype=np.float32, order="C")


@dataclass(frozen=True)
class Value:
    """A tensor of the plan (0 is the input) and how torch sees it."""

    index: int
    shape: Shape
    flat: bool = False  # torch sees it as (F,), in the order (c, h, w)


@dataclass
class Walk:
    """Plan layers so far. `values` maps each traced node that was understood to its tensor."""

    modules: dict[str, nn.Module]
    input_shape: Shape
    layers: list[LayerSpec] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    weighted: set[fx.Node] = field(default_factory=set)
    flattens: set[fx.Node] = field(default_factory=set)
    sizes: dict[fx.Node, tuple[int, int]] = field(default_factory=dict)  # layers, parameters so far
    used: set[int] = field(default_factory=set)  # ids of torch parameters that have a place

    def value(self, node: Any) -> Value:
        found = self.values.get(node) if isinstance(node, fx.Node) else None
        if found is None:
            raise Unsupported("it reads something that is not the output of a layer on the device")
        return found

    def note_input(self, node: fx.Node) -> None:
        self.values[node] = Value(0, self.input_shape)

    def add(self, kind: str, source: Value, shape: Shape, **options: Any) -> Value:
        """Appends a plan layer that reads `source`."""
        self.layers.append(LayerSpec(kind=kind, input=source.index, output_shape=shape, **options))
        return Value(len(self.layers), shape, source.flat and shape == source.shape)

    def take(self, name: str, tensor: Tensor, view: tuple[int, ...], axes: tuple[int, ...]) -> None:
        """Gives a torch parameter its place behind those already taken."""
        if id(tensor) in self.used:
            raise Unsupported("its weights are shared with another layer or it is called twice")
        self.used.add(id(tensor))
        self.parameters.append(Parameter(name, tuple(tensor.shape), view, axes))

    def take_vector(self, name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            self.take(name, tensor, tuple(tensor.shape), (0,))

    def visit(self, node: fx.Node) -> None:
        """Adds what `node` does. Raises Unsupported."""
        if SHAPE_KEY not in node.meta:  # x.size(0) and the like: only used by a view
            return
        layer = _as_module(node, self.modules)
        convert = _CONVERTERS.get(type(layer)) if layer is not None else None
        if convert is not None:
            name = str(node.target) if node.op == "call_module" else node.name
            value = convert(self, name, layer, self.value(_source(node)))
        elif isinstance(layer, nn.Flatten) or _is_flatten(node):
            value = self._flatten(node)
        elif _is_add(node):
            value = self._add(node)
        elif _is_mean(node):
            value = self._mean(node)
        else:
            raise Unsupported("devices have no kernel for it")
        self._check_shape(node, value)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            self.weighted.add(node)
        self.values[node] = value
        self.sizes[node] = (len(self.layers), len(self.parameters))

    def _add(self, node: fx.Node) -> Value:
        if len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1:
            raise Unsupported("only a plain sum of two tensors is supported")
        a, b = self.value(node.args[0]), self.value(node.args[1])
        if a.shape != b.shape or a.flat != b.flat:
            raise Unsupported(f"it adds tensors of different shapes, {a.shape} and {b.shape}")
        return self.add("add", a, a.shape, second_input=b.index)

    def _flatten(self, node: fx.Node) -> Value:
        source = self.value(_source(node))
        if node.meta[SHAPE_KEY] != (math.prod(source.shape),):
            raise Unsupported("a reshape is supported only where it flattens each sample")
        self.flattens.add(node)
        return Value(source.index, source.shape, flat=source.shape[:2] != (1, 1))

    def _mean(self, node: fx.Node) -> Value:
        """The mean over all pixels, written as x.mean((2, 3)), is global average pooling."""
        source = self.value(_source(node))
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        ndim = len(_source(node).meta[SHAPE_KEY]) + 1
        given = dims if isinstance(dims, (tuple, list)) else (dims,)
        if {d % ndim if isinstance(d, int) else None for d in given} != set(range(2, ndim)):
            raise Unsupported("a mean is supported only over all pixels (and not over channels)")
        _check_pooled(source)
        window = _window(source.shape[:2], source.shape[:2])
        return self.add("average_pool", source, (1, 1, source.shape[2]), **window)

    def _check_shape(self, node: fx.Node, value: Value) -> None:
        """What the plan computes must have the shape torch computed (ceil_mode, for one, has
        another).
        """
        wanted = node.meta[SHAPE_KEY]
        ours = (math.prod(value.shape),) if value.flat else value.shape
        if ours != (wanted if value.flat else plan_shape(wanted)):
            raise Unsupported(
                f"its output {tuple(wanted)} is not what a device would compute, {ours}"
            )


def plan_shape(shape: tuple[int, ...]) -> Shape:
    """Torch's shape of one sample -> (h, w, c)."""
    if len(shape) == 3:
        return (shape[1], shape[2], shape[0])
    if len(shape) == 2:
        return (1, shape[1], shape[0])
    if len(shape) == 1:
        return (1, 1, shape[0])
    raise Unsupported(f"a tensor with {len(shape)} dimensions per sample")


# ---- one converter per layer type; each returns the tensor its layer writes ----


def _window(
    kernel: Any, stride: Any, dilation: Any = 1, padding: Any = 0, *, one_d: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Kernel, stride, dilation, padding as (h, w) pairs. padding: pairs of (before, after) or
    torch's numbers.
    """

    def pair(value: Any, default: Any) -> tuple[Any, Any]:
        if one_d:
            return (default, value[0] if isinstance(value, (tuple, list)) else value)
        if isinstance(value, (tuple, list)):
            return (value[0], value[1] if len(value) > 1 else value[0])
        return (value, value)

    sizes = {
        "kernel": pair(kernel, 1),
        "stride": pair(kernel if stride is None or stride == [] else stride, 1),
        "dilation": pair(dilation, 1),
    }
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(sizes["kernel"], sizes["dilation"], strict=True)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(p, p) for p in pair(0 if padding == "valid" else padding, 0)]
    numbers = [*sizes["kernel"], *sizes["stride"], *sizes["dilation"], *pads[0], *pads[1]]
    if max(numbers) > WINDOW_MAX:
        raise Unsupported(f"kernel, stride, dilation and padding go up to {WINDOW_MAX}")
    return {**sizes, "padding": (pads[0], pads[1])}


def _window_shape(source: Value, window: dict[str, tuple[Any, Any]], channels: int) -> Shape:
    def size(axis: int) -> int:
        reach = window["dilation"][axis] * (window["kernel"][axis] - 1) + 1
        length = source.shape[axis] + sum(window["padding"][axis]) - reach
        return int(length // window["stride"][axis] + 1)

    return (size(0), size(1), channels)


def _conv(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    one_d = isinstance(layer, nn.Conv1d)
    if layer.padding_mode != "zeros":
        raise Unsupported(f"padding mode {layer.padding_mode!r}; only zeros are supported")
    depthwise = layer.groups > 1
    if depthwise and layer.groups != layer.in_channels:
        raise Unsupported(
            f"{layer.groups} groups; supported are 1 and, for a depthwise convolution, the number "
            "of input channels"
        )
    window = _window(layer.kernel_size, layer.stride, layer.dilation, layer.padding, one_d=one_d)
    out, per_group = layer.weight.shape[:2]
    view = (out, per_group, *window["kernel"])
    walk.take(f"{name}.weight", layer.weight, view, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    walk.take_vector(f"{name}.bias", layer.bias)
    shape = _window_shape(source, window, out)
    kind = "depthwise" if depthwise else "conv2d"
    return walk.add(kind, source, shape, has_bias=layer.bias is not None, **window)


def _linear(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    h, w, c = source.shape
    if not source.flat and h * w != 1:
        raise Unsupported(
            "a dense layer over the last dimension only; flatten the sample before it"
        )
    out = layer.out_features
    walk.take(f"{name}.weight", layer.weight, (out, c, h, w), (0, 2, 3, 1))
    walk.take_vector(f"{name}.bias", layer.bias)
    return walk.add("dense", source, (1, 1, out), has_bias=layer.bias is not None)


def _relu(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    ceiling = 6.0 if isinstance(layer, nn.ReLU6) else math.inf
    return walk.add("relu", source, source.shape, ceiling=ceiling)


def _same(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    return source


def _dropout(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    if layer.p != 0:
        raise Unsupported(f"dropout with p = {layer.p} does not run on devices; set p = 0")
    return source


def _check_pooled(source: Value) -> None:
    if source.flat:
        raise Unsupported("pooling over a flattened sample")


def _max_pool(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    if layer.return_indices:
        raise Unsupported("max pooling that also returns indices")
    _check_pooled(source)
    one_d = isinstance(layer, nn.MaxPool1d)
    window = _window(layer.kernel_size, layer.stride, layer.dilation, layer.padding, one_d=one_d)
    return walk.add("max_pool", source, _window_shape(source, window, source.shape[2]), **window)


def _average_pool(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    _check_pooled(source)
    one_d = isinstance(layer, nn.AvgPool1d)
    window = _window(layer.kernel_size, layer.stride, 1, layer.padding, one_d=one_d)
    if any(any(pads) for pads in window["padding"]) and layer.count_include_pad:
        raise Unsupported("average pooling that counts padding; set count_include_pad=False")
    if getattr(layer, "divisor_override", None) is not None:
        raise Unsupported("average pooling with its own divisor")
    return walk.add(
        "average_pool", source, _window_shape(source, window, source.shape[2]), **window
    )


def _adaptive_pool(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    if getattr(layer, "return_indices", False):
        raise Unsupported("max pooling that also returns indices")
    one_d = isinstance(layer, (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d))
    size = layer.output_size
    sizes = size if isinstance(size, (tuple, list)) else (size,) * (1 if one_d else 2)
    wanted = [1, *sizes] if one_d else list(sizes)
    _check_pooled(source)
    length = source.shape[:2]
    windows = [
        _regular_window(n, n if out is None else out) for n, out in zip(length, wanted, strict=True)
    ]
    kernel, stride = (tuple(pair) for pair in zip(*windows, strict=True))
    window = _window(kernel, stride)
    kind = (
        "max_pool"
        if isinstance(layer, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d))
        else "average_pool"
    )
    return walk.add(kind, source, _window_shape(source, window, source.shape[2]), **window)


def _regular_window(length: int, out: int) -> tuple[int, int]:
    """(kernel, stride) of adaptive pooling where all its windows have one size and one distance."""
    starts = [i * length // out for i in range(out)]
    sizes = {-(-(i + 1) * length // out) - start for i, start in enumerate(starts)}
    strides = {b - a for a, b in pairwise(starts)} or set(sizes)
    if len(sizes) != 1 or len(strides) != 1 or 0 in strides:
        raise Unsupported(
            f"adaptive pooling from {length} to {out} needs windows of different sizes; choose an "
            f"output that divides {length}"
        )
    return sizes.pop(), strides.pop()


def _group_norm(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    if not layer.affine:
        raise Unsupported("group norm without scale and shift; set affine=True")
    if source.flat and source.shape[:2] != (1, 1):
        raise Unsupported("group norm over a flattened sample")
    walk.take_vector(f"{name}.weight", layer.weight)
    walk.take_vector(f"{name}.bias", layer.bias)
    return walk.add("group_norm", source, source.shape, groups=layer.num_groups, epsilon=layer.eps)


def _batch_norm(walk: Walk, name: str, layer: Any, source: Value) -> Value:
    raise Unsupported(
        "batch statistics differ between devices and mean nothing at batch 1; use GroupNorm, or "
        "seamline.edge_host.fold_batch_norm(model) if the model is trained already"
    )


_CONVERTERS: dict[type[nn.Module], Callable[[Walk, str, Any, Value], Value]] = {
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.ReLU6: _relu,
    nn.Identity: _same,
    nn.Dropout: _dropout,
    nn.Dropout1d: _dropout,
    nn.Dropout2d: _dropout,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _average_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.AdaptiveMaxPool1d: _adaptive_pool,
    nn.AdaptiveMaxPool2d: _adaptive_pool,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
}

# ---- functions and methods that do what a module does ----


def _functional_max_pool(one_d: bool) -> Callable[..., nn.Module]:
    def make(
        kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **flags: Any
    ) -> nn.Module:
        kind = nn.MaxPool1d if one_d else nn.MaxPool2d
        return kind(kernel_size, stride, padding, dilation, **flags)

    return make


_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.relu: lambda inplace=False: nn.ReLU(),
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: lambda inplace=False: nn.ReLU6(),
    F.dropout: lambda p=0.5, training=True, inplace=False: nn.Dropout(p if training else 0.0),
    F.max_pool1d: _functional_max_pool(True),
    F.max_pool2d: _functional_max_pool(False),
    F.avg_pool1d: nn.AvgPool1d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}


def _as_module(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The module that does what this node does, or None."""
    if node.op == "call_module":
        return modules[str(node.target)]
    make = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if make is None:
        return None
    kwargs = {key: value for key, value in node.kwargs.items() if key != "input"}
    try:
        return make(*node.args[1:], **kwargs)
    except (TypeError, ValueError) as error:
        raise Unsupported(f"its arguments are not understood ({error})") from error


def _source(node: fx.Node) -> Any:
    """The tensor a one-input node reads."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _is_add(node: fx.Node) -> bool:
    functions = (operator.add, operator.iadd, torch.add)
    return (node.op == "call_function" and node.target in functions) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )


def _is_flatten(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target in (torch.flatten, torch.reshape)) or (
        node.op == "call_method" and node.target in ("flatten", "view", "reshape")
    )


def _is_mean(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target is torch.mean) or (
        node.op == "call_method" and node.target == "mean"
    )


# ---- tracing ----


class _Shapes(fx.Interpreter):
    """Runs a traced network once and notes each tensor's shape (one sample) on its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "get_attr":
            n.meta[SHAPE_KEY] = tuple(result.shape[1:])
        return result


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """`model` as a graph with the shape of every tensor noted. Raises UserError (exit 5) if that
    fails.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the user's own forward
        raise UserError(
            f"the model cannot be traced by torch.fx ({type(error).__name__}: "
            f"{_first_line(error)}); write its forward without branches or loops that depend on "
            "the data",
            CANNOT_CUT,
        ) from error
    traced = fx.GraphModule(model, graph)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise UserError(f"the model takes {len(inputs)} inputs; exactly one is needed", CANNOT_CUT)
    was_training = model.training
    traced.eval()
    try:
        with torch.no_grad():
            _Shapes(traced).run(torch.zeros(2, *input_shape))
    except Exception as error:  # the user's own layers may raise anything
        raise UserError(
            f"the model does not accept a batch of shape (2, {', '.join(map(str, input_shape))}): "
            f"{_first_line(error)}",
            CANNOT_CUT,
        ) from error
    finally:
        traced.train(was_training)
    return traced


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
