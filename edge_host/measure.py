"""Measures a profile: a network's units, what each takes on the kernels and in PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ..runtime.budget import Choice, need
from ..runtime.layer_time import codec_profiles, unit_times
from ..runtime.networks import Network, Unit, units_of
from ..runtime.plan import PlanError
from ..runtime.profile import (
    Features,
    Layer,
    Link,
    Profile,
    Seam,
    Times,
    check_profile,
)
from ..runtime.profile import Unit as UnitProfile
from .back import Back
from .layers import SHAPE_KEY
from .models import input_shape
from .split import _Cuts, list_candidates, split

Say = Callable[[str], None]
RATE = 1e-6  # too small for the numbers to run away


@dataclass(frozen=True)
class Setting:
    """How and for whom it is measured. ram, flash: of the device, 0 where not known."""

    model: str
    device: str
    edge: str
    batch: int
    repeat: int = 15
    recompute: bool = False
    codec: str = "int8"
    link: Link | None = None
    ram: int = 0
    flash: int = 0


@dataclass(frozen=True)
class _Behind:
    """A node that no device runs: a unit of its own. inputs: plan tensors below `layers + 1`, then
    one number for each such node."""

    node: fx.Node
    inputs: tuple[int, ...]


def measure(model: nn.Module, setting: Setting, say: Say = lambda text: None) -> Profile:
    """Times every unit of `model` on this machine, on both sides, in one thread as an edge host
    has. Raises UserError (exit 5) for a model that cannot be traced.
    """
    cuts = _Cuts(model, input_shape(model))
    layers = cuts.walk.layers[: _layers_of(cuts)]
    behind = list(_behind(cuts, len(layers)))
    wanted = {tensor for unit in behind for tensor in unit.inputs if tensor <= len(layers)}
    shared = units_of(layers, wanted)
    net = Network(setting.model, cuts.walk.input_shape, layers, shared, len(layers))
    device = unit_times(net, shared, setting.batch, setting.repeat, say)
    say("the edge host's")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        edge = _edge_times(cuts, shared, len(layers), setting)
        edge = _as_one(model, shared, edge, setting)
    finally:
        torch.set_num_threads(threads)
    units = [
        unit_of(net, unit, times, edge[i])
        for i, (unit, times) in enumerate(zip(shared, device, strict=True))
    ]
    for i, found in enumerate(behind):
        units.append(_edge_only(found, shared, len(layers), edge[len(shared) + i]))
    say("the codecs")
    profile = Profile(
        setting.model, setting.device, setting.edge, setting.batch, math.prod(net.input_shape),
        tuple(units), _seams(model, shared, setting), (), codec_profiles(setting.repeat),
        setting.link, ram=setting.ram, flash=setting.flash, origin="measured",
        answer_bytes=48 + 4 * cuts.classes, input_shape=net.input_shape,
        layers=tuple(map(Layer.of, layers)),
    )  # fmt: skip
    check_profile(profile)
    return profile


def _layers_of(cuts: _Cuts) -> int:
    """Plan layers of what a device can run."""
    before = [node for node in cuts.nodes[: cuts.stop] if node in cuts.walk.sizes]
    return cuts.walk.sizes[before[-1]][0] if before else 0


def _behind(cuts: _Cuts, layers: int) -> Iterator[_Behind]:
    tensors = {node: value.index for node, value in cuts.walk.values.items()}
    number = layers
    for node in cuts.nodes[cuts.stop :]:
        inputs = tuple(tensors[a] for a in node.all_input_nodes if a in tensors)
        if SHAPE_KEY in node.meta and inputs:
            number += 1
            tensors[node] = number
            yield _Behind(node, inputs)


def unit_of(net: Network, unit: Unit, device: Times, edge: Times) -> UnitProfile:
    """A unit that both sides can run, with its times on each."""
    ends = {part.end: i + 1 for i, part in enumerate(net.units)} | {0: 0}
    layers = net.layers[unit.first : unit.end]
    inputs = {ends[t] for layer in layers for t in layer.inputs() if t <= unit.first}
    shapes, first, last = net.shapes, layers[0], layers[-1]
    return UnitProfile(
        unit.name,
        first.kind,
        tuple(sorted(inputs, reverse=True)),
        math.prod(last.output_shape),
        sum(layer.parameters(shapes[layer.input]) for layer in layers),
        sum(layer.multiply_adds(shapes[layer.input]) for layer in layers),
        edge,
        device,
        Features(shapes[first.input], last.output_shape, first.kernel, first.stride),
        len(layers),
    )


def _edge_only(found: _Behind, shared: list[Unit], layers: int, edge: Times) -> UnitProfile:
    ends = {unit.end: i + 1 for i, unit in enumerate(shared)} | {0: 0}
    inputs = {ends[t] if t <= layers else len(shared) + t - layers for t in found.inputs}
    values = math.prod(found.node.meta[SHAPE_KEY]) or 1
    return UnitProfile(
        str(found.node.name), str(found.node.op), tuple(sorted(inputs, reverse=True)), values,
        0, 0, edge,
    )  # fmt: skip


def _seams(model: nn.Module, shared: list[Unit], setting: Setting) -> tuple[Seam, ...]:
    """What the planners say of each seam. One without a plan is left out."""
    ends = {unit.end: i + 1 for i, unit in enumerate(shared)}
    choice = Choice(setting.batch, "f32", setting.recompute, codec=setting.codec)
    seams = []
    for candidate in list_candidates(model, input_shape(model)):
        try:
            found = need(candidate, choice)
        except PlanError:
            continue
        alone = need(candidate, replace(choice, batch=1)).inference_ram
        units = ends.get(len(candidate.layers))
        if units is not None:
            sizes = (found.training_ram, alone, found.flash_bytes)
            sent = (found.weights_up, found.weights_down)
            seams.append(Seam(units, candidate.weighted, candidate.name, *sizes, *sent))
    return tuple(seams)


# ---- PyTorch ----


class _Timer(fx.Interpreter):
    """Runs a traced network node by node; seconds[node]: forward and backward of the last run.
    training: with gradients; else none are prepared."""

    def __init__(self, module: fx.GraphModule, *, training: bool) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.training = training
        self.seconds: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op in ("placeholder", "output", "get_attr"):
            return getattr(self, n.op)(n.target, args, kwargs)
        args, kwargs = fx.node.map_aggregate((args, kwargs), self._leaf)
        start = time.perf_counter()
        made = getattr(self, n.op)(n.target, args, kwargs)
        middle = time.perf_counter()
        _learn(made, [a for a in args if isinstance(a, Tensor)], self._parameters(n))
        self.seconds[n] = (middle - start, time.perf_counter() - middle)
        return made

    def _leaf(self, given: Any) -> Any:
        """A tensor of a node before, in the order that a device's activations come in (where
        nothing is gained by it, PyTorch does not keep it), as an input whose gradient is wanted."""
        if isinstance(given, Tensor) and given.dim() == 4:
            given = given.contiguous(memory_format=torch.channels_last)
        if self.training and isinstance(given, Tensor) and given.is_floating_point():
            return given.detach().requires_grad_()
        return given

    def _parameters(self, n: fx.Node) -> list[nn.Parameter]:
        return list(self.fetch_attr(str(n.target)).parameters()) if n.op == "call_module" else []


def _learn(made: Any, inputs: list[Tensor], parameters: list[nn.Parameter]) -> None:
    """Gradients of inputs and parameters, and a step too small to change anything."""
    if not isinstance(made, Tensor) or made.grad_fn is None:
        return
    wanted = [*(t for t in inputs if t.requires_grad), *parameters]
    gradients = torch.autograd.grad(made, wanted, torch.ones_like(made), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients[-len(parameters) :], strict=False):
            if gradient is not None:
                parameter.add_(gradient, alpha=-1e-30)


def _edge_times(cuts: _Cuts, shared: list[Unit], layers: int, setting: Setting) -> list[Times]:
    """Of the units devices share, then of each node behind; the least of `repeat` runs."""
    module = fx.GraphModule(cuts.model, cuts.traced.graph)
    shape = input_shape(cuts.model)
    places = _places(cuts, shared, layers)
    count = len(shared) + len(list(_behind(cuts, layers)))
    best = [[math.inf] * 3 for _ in range(count)]
    for batch, training in ((1, False), (setting.batch, True)):
        timer = _Timer(module, training=training)
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
        for _ in range(setting.repeat + 1):  # the first warms up
            with torch.set_grad_enabled(training):
                timer.run(x)
            sums = [[0.0, 0.0] for _ in range(count)]
            for node, at in places.items():
                for i, seconds in enumerate(timer.seconds.get(node, (0.0, 0.0))):
                    sums[at][i] += seconds
            for old, (forward, backward) in zip(best, sums, strict=True):
                if training:
                    old[1], old[2] = min(old[1], forward), min(old[2], backward)
                else:
                    old[0] = min(old[0], forward)
    best[-1][2] += _loss_seconds(cuts.classes, setting)
    return [Times(*times) for times in best]


def _as_one(
    model: nn.Module, shared: list[Unit], edge: list[Times], setting: Setting
) -> list[Times]:
    """The units' times, scaled so that those behind the first seam take together what the back
    takes as one: PyTorch is called more often where each is timed alone."""
    first = next(iter(list_candidates(model, input_shape(model))), None)
    if first is None or first.whole:
        return edge
    cut = split(model, first.weighted, input_shape(model))
    back, alone = Back(cut.back, "sgd"), cut.back
    taken = {size: cut.to_nchw(_ones(size, cut.shape)) for size in (1, setting.batch)}
    labels = torch.zeros(setting.batch, dtype=torch.int64)
    step = _seconds(lambda: back.step(taken[setting.batch], labels, RATE), setting.repeat)
    alone.eval()
    with torch.no_grad():
        infer = _seconds(lambda: alone(taken[1]), setting.repeat)
    at = sum(unit.end <= len(first.layers) for unit in shared)
    training = step / sum(times.training for times in edge[at:])
    inferring = infer / sum(times.infer for times in edge[at:])
    return [
        Times(it.infer * inferring, it.forward * training, it.backward * training) for it in edge
    ]


def _ones(batch: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.ones((batch, *shape), np.float32)


def _seconds(work: Callable[[], object], repeat: int) -> float:
    """The least of `repeat` runs after one that warms up."""
    best = math.inf
    for turn in range(repeat + 1):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start) if turn else best
    return best


def _loss_seconds(classes: int, setting: Setting) -> float:
    """Of what a step on the edge host has beside its units: the loss, and the optimiser's call."""
    back = Back(nn.Identity(), "sgd")
    logits, labels = torch.zeros(setting.batch, classes), torch.zeros(setting.batch).long()
    return _seconds(lambda: back.step(logits, labels, RATE), setting.repeat)


def _places(cuts: _Cuts, shared: list[Unit], layers: int) -> dict[fx.Node, int]:
    """The unit of each node that is timed."""
    of_layer = {i: at for at, unit in enumerate(shared) for i in range(unit.first, unit.end)}
    places = {}
    for node in cuts.nodes[: cuts.stop]:
        made = cuts.walk.values.get(node)
        if made is not None and made.index:
            places[node] = of_layer[made.index - 1]
    for i, found in enumerate(_behind(cuts, layers)):
        places[found.node] = len(shared) + i
    return places
