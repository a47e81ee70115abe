"""Cuts a torch network at the seam: plan layers for the device, a torch module for the host."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ..runtime.budget import Candidate
from ..runtime.errors import UserError
from ..runtime.plan import LayerSpec
from .layers import SHAPE_KEY, Parameter, Shape, Unsupported, Walk, plan_shape, trace
from .models import CANNOT_CUT

Array = NDArray[np.float32]
State = dict[str, Array]
EXITS, SEAMS = "exits", "exit_seams"  # attributes of a model: its heads by key, their seams by key
END = "end"  # the seam behind the last layer: the whole network is on the device


@dataclass(frozen=True)
class Seam:
    """A place where the network can be cut. weighted: what to write as `seam` in the job file."""

    weighted: int
    name: str
    shape: Shape  # (h, w, c) of one sample's activation
    parameters: int  # floats in front

    @property
    def values(self) -> int:
        """Floats of one sample that cross the seam, each way."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Split:
    """A network cut in two. Both parts share the parameters of `model`, a copy of the network that
    was given.

    With an exit on the device `front` and `parameters` end with the exit's; what crosses the seam
    is what the first `exit_from` layers make. `exits`: keys of those the back has, in the order of
    its outputs, the network's own behind them; without any the back gives one tensor.
    """

    model: nn.Module
    front: list[LayerSpec]
    parameters: list[Parameter]  # of the front, in the plan's order
    back: nn.Module  # takes the activation in torch layout; nothing to do at the end: nn.Identity
    seam: str  # name of the last module on the device
    input_shape: Shape  # (h, w, c) of one sample
    shape: Shape  # (h, w, c) of one sample's activation
    torch_shape: tuple[int, ...]  # the same in torch layout: (C, H, W), (C, L) or (F,)
    classes: int  # logits of one sample
    exit_from: int = 0  # 0: the device has no exit
    exits: list[str] = field(default_factory=list)
    own_exit: str = ""  # key of the exit at the seam, wherever it is trained; none: empty

    @property
    def all_exits(self) -> list[str]:
        """Keys of the device's exit, if it has one, and of the back's."""
        return [self.own_exit, *self.exits] if self.exit_from else self.exits

    @property
    def head(self) -> nn.Module:
        """Of the exit at the seam."""
        found: nn.Module = getattr(self.model, EXITS)[self.own_exit]
        return found

    @property
    def front_names(self) -> list[str]:
        """Names in the state dict of the front's parameters, in the plan's order."""
        return [parameter.name for parameter in self.parameters]

    @property
    def at_end(self) -> bool:
        return isinstance(self.back, nn.Identity)

    def front_vector(self, state: Mapping[str, Tensor | Array]) -> Array:
        """The front's parameters as one flat f32 vector, plan layout (OHWI, 1HWC, dense over h, w,
        c).
        """
        parts = [p.to_plan(np.asarray(state[p.name], np.float32)) for p in self.parameters]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def front_state(self, vector: Array) -> State:
        """`front_vector` back to named arrays in torch layout. Raises ValueError for a wrong
        length.
        """
        expected = sum(parameter.size for parameter in self.parameters)
        if vector.shape != (expected,):
            raise ValueError(f"front vector: expected ({expected},), got {vector.shape}")
        state: State = {}
        first = 0
        for parameter in self.parameters:
            state[parameter.name] = parameter.to_torch(vector[first : first + parameter.size])
            first += parameter.size
        return state

    def to_nchw(self, activation: Array) -> Tensor:
        """An activation [n, h, w, c] from the device as the tensor [n, *torch_shape] the back
        takes.

        Images are only seen differently (torch's channels_last), no byte moves; torch's
        convolutions like it better.
        """
        h, w, c = self.shape
        if activation.shape[1:] != self.shape:
            raise ValueError(f"activation: expected [n, {h}, {w}, {c}], got {activation.shape}")
        moved = torch.from_numpy(activation).permute(0, 3, 1, 2)
        return moved.reshape(-1, *self.torch_shape)

    def to_nhwc(self, tensor: Tensor) -> Array:
        """A tensor [n, *torch_shape] as the array [n, h, w, c] the device knows."""
        h, w, c = self.shape
        return np.ascontiguousarray(
            tensor.detach().numpy().reshape(-1, c, h, w).transpose(0, 2, 3, 1)
        )

    def merge(self, state: Mapping[str, Array]) -> nn.Module:
        """A plain torch module, the one given to `split`, with the state (names of the whole
        network) loaded.
        """
        whole = copy.deepcopy(self.model)
        load_state(whole, state)
        return whole


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of everything in the state dict that is trained or averaged (counters are
    not).
    """
    return {name: t for name, t in model.state_dict().items() if t.is_floating_point()}


def load_state(model: nn.Module, state: Mapping[str, Array]) -> None:
    """Copies named arrays into the model. Raises UserError where a name or a size does not fit."""
    own = float_state(model)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise UserError(
            f"the state does not belong to this model: missing {missing[:3]}, "
            f"unknown {unknown[:3]}",
            CANNOT_CUT,
        )
    with torch.no_grad():
        for name, tensor in own.items():
            array = np.asarray(state[name], np.float32)
            if array.size != tensor.numel():
                raise UserError(
                    f"the state does not belong to this model: {name} has shape {array.shape}, "
                    f"the model's has {tuple(tensor.shape)}",
                    CANNOT_CUT,
                )
            tensor.copy_(torch.from_numpy(np.array(array)).view(tensor.shape))


class _Cuts:
    """A traced network, walked as far as a device can run it, and where it can be cut."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model = copy.deepcopy(model).float()
        for module in self.model.modules():  # in place would overwrite the activation received
            if isinstance(getattr(module, "inplace", None), bool):
                setattr(module, "inplace", False)  # noqa: B010 - no attribute of every module
        self.traced = trace(self.model, input_shape)
        nodes = list(self.traced.graph.nodes)
        self.input = next(node for node in nodes if node.op == "placeholder")
        self.output = nodes[-1].args[0]
        if not isinstance(self.output, fx.Node):
            raise UserError(
                "the model returns more than one tensor; exactly one is needed", CANNOT_CUT
            )
        logits = self.output.meta.get(SHAPE_KEY, ())
        if len(logits) != 1:
            raise UserError(
                f"the model's output must be [batch, classes], one sample's is {tuple(logits)}",
                CANNOT_CUT,
            )
        self.classes = int(logits[0])
        self.nodes = [node for node in nodes if node.op not in ("placeholder", "output")]
        try:
            shape = plan_shape(input_shape)
        except Unsupported as error:
            raise UserError(
                f"the model's input cannot be on a device: {error}", CANNOT_CUT
            ) from error
        self.walk = Walk(dict(self.traced.named_modules()), shape)
        self.walk.note_input(self.input)
        self.stop = len(self.nodes)  # index of the first node that a device cannot run
        self.reason = ""
        for index, node in enumerate(self.nodes):
            try:
                self.walk.visit(node)
            except Unsupported as error:
                self.stop, self.reason = index, str(error)
                break
        self.weighted = [i for i, n in enumerate(self.nodes) if n in self.walk.weighted]
        self.whole = self.stop == len(self.nodes)

    def legal(self, index: int) -> bool:
        """Does exactly one tensor, the output of node `index`, cross a cut behind that node?"""
        behind = set(self.nodes[index + 1 :])
        crossing = [
            node
            for node in [self.input, *self.nodes[: index + 1]]
            if any(user in behind or user.op == "output" for user in node.users)
        ]
        return crossing == [self.nodes[index]] and self.nodes[index] in self.walk.values

    def behind(self, count: int) -> int | None:
        """Index of the last node in front when `count` weighted layers are: norm, activation and
        pooling that follow go with them, a flatten only at the very end. None: no legal cut there.
        """
        first = self.weighted[count - 1]
        last = self.stop
        if count < len(self.weighted):
            last = self.weighted[count]
        if not (self.whole and count == len(self.weighted)):
            flatten = [i for i in range(first, last) if self.nodes[i] in self.walk.flattens]
            last = min([last, *flatten])
        return next((i for i in reversed(range(first, last)) if self.legal(i)), None)

    def name(self, index: int) -> str:
        node = self.nodes[index]
        if node.op == "call_module":
            return str(node.target)
        owners = node.meta.get("nn_module_stack") or {}
        inside = [owner for owner in owners if owner]
        return f"{inside[-1]}.{node.name}" if inside else node.name

    def seams(self) -> list[tuple[int, int]]:
        """(weighted layers in front, index of the last node) of every legal seam."""
        found = [(n, self.behind(n)) for n in range(1, len(self.weighted) + 1)]
        return [(n, index) for n, index in found if index is not None]

    def named(self, index: int) -> str:
        """A seam for a message: its number of weighted layers and its name."""
        count = sum(1 for i in self.weighted if i <= index)
        return f"{count} ({self.name(index)})"

    # ---- what can be wrong ----

    def unsupported(self) -> UserError:
        node = self.nodes[self.stop]
        kind = (
            type(self.walk.modules[str(node.target)]).__name__
            if node.op == "call_module"
            else getattr(node.target, "__name__", str(node.target))
        )
        legal = self.seams()
        deepest = (
            f"the deepest seam possible is {self.named(legal[-1][1])}"
            if legal
            else "no seam is possible in front of it"
        )
        return UserError(
            f"the layer {self.name(self.stop)} ({kind}) before the seam cannot run on a device: "
            f"{self.reason}; {deepest}",
            CANNOT_CUT,
        )

    def inside_block(self, seam: int | str, index: int) -> UserError:
        legal = [i for _, i in self.seams()]
        near = [i for i in legal if i < index][-1:] + [i for i in legal if i > index][:1]
        around = [self.named(i) for i in near]
        hint = (
            f"the seams around it are {' and '.join(around)}" if around else "no seam is possible"
        )
        return UserError(
            f"seam {seam!r} lies where more than one tensor crosses (inside a residual block); "
            f"{hint}",
            CANNOT_CUT,
        )

    def find(self, seam: int | str) -> int:
        """Index of the last node in front. Raises UserError (exit 5)."""
        if isinstance(seam, bool) or (isinstance(seam, int) and seam < 1):
            raise UserError(
                f"seam {seam!r}: at least one weighted layer must be on the device", CANNOT_CUT
            )
        if seam == END:
            return self._find_end()
        return self._find_count(seam) if isinstance(seam, int) else self._find_name(seam)

    def _find_end(self) -> int:
        if not self.whole:
            raise self.unsupported()
        last = len(self.nodes) - 1
        if not self.weighted or not self.legal(last):
            raise UserError(
                "the whole model cannot be on the device: it has no layer to train", CANNOT_CUT
            )
        return last

    def _find_count(self, count: int) -> int:
        if count > len(self.weighted):
            if not self.whole:
                raise self.unsupported()
            raise UserError(
                f"seam {count}: the model has only {len(self.weighted)} weighted layers", CANNOT_CUT
            )
        index = self.behind(count)
        if index is None:
            raise self.inside_block(count, self.weighted[count - 1])
        return index

    def _find_name(self, name: str) -> int:
        inside = [
            i
            for i, node in enumerate(self.nodes)
            if name in (node.meta.get("nn_module_stack") or {}) or self.name(i) == name
        ]
        if not inside:
            names = list(dict.fromkeys(self.name(i) for i in range(len(self.nodes))))
            raise UserError(
                f"seam {name!r}: the model runs no module of that name; it runs "
                f"{', '.join(names[:12])}",
                CANNOT_CUT,
            )
        index = inside[-1]
        if index >= self.stop:
            raise self.unsupported()
        if not any(i <= index for i in self.weighted):
            raise UserError(
                f"seam {name!r}: at least one weighted layer must be on the device", CANNOT_CUT
            )
        if not self.legal(index):
            raise self.inside_block(name, index)
        return index

    def exits(self) -> dict[str, int]:
        """Index of the node behind which each of the model's exits is, in the network's order."""
        seams = getattr(self.model, SEAMS, {})
        found = {key: self.find(seam) for key, seam in seams.items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def back(self, index: int, exits: Mapping[str, int]) -> nn.Module:
        """What runs behind node `index`, with the names of the whole network's state dict. exits:
        those it has; then it gives their logits and the network's, in order, else only these.
        """
        if index == len(self.nodes) - 1:
            return nn.Identity()
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {self.nodes[index]: graph.placeholder("activation")}
        for node in self.nodes[index + 1 :]:
            new = graph.node_copy(node, lambda old: copies[old])
            if new.target is operator.iadd:  # would write into the activation received
                new.target = operator.add
            if new.op == "call_method" and new.target == "view":  # activations are channels_last
                new.target = "reshape"
            if new.kwargs.get("inplace"):
                new.kwargs = {**new.kwargs, "inplace": False}
            copies[node] = new
        heads = [
            graph.call_module(f"{EXITS}.{key}", (copies[self.nodes[at]],))
            for key, at in exits.items()
        ]
        made = copies[self.output]
        graph.output((*heads, made) if heads else made)
        return fx.GraphModule(self.model, graph)


def exit_key(seam: int | str) -> str:
    """What the exit at `seam` is called in the state dict: `exits.KEY.`."""
    return f"at_{seam}".replace(".", "_")


def seam_shape(
    model: nn.Module, seam: int | str, input_shape: tuple[int, ...]
) -> tuple[tuple[int, ...], int]:
    """Shape of one sample at the seam, torch layout, and the network's classes. Raises UserError
    (exit 5) where no seam is.
    """
    cuts = _Cuts(model, input_shape)
    index = cuts.find(seam)
    if index == len(cuts.nodes) - 1:
        raise UserError(
            f"an exit at {seam!r} would lie behind the network's last layer; move it forward",
            CANNOT_CUT,
        )
    return tuple(cuts.nodes[index].meta[SHAPE_KEY]), cuts.classes


def _device_exit(cuts: _Cuts, key: str, index: int) -> tuple[list[LayerSpec], list[Parameter]]:
    """Layers and parameters of the exit behind node `index`, as they follow the front's."""
    layers = cuts.walk.sizes[cuts.nodes[index]][0]
    shape = tuple(cuts.nodes[index].meta[SHAPE_KEY])
    root = nn.Sequential(getattr(cuts.model, EXITS)[key])
    traced = trace(root, shape)
    walk = Walk(dict(traced.named_modules()), plan_shape(shape))
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            walk.note_input(node)
        elif node.op != "output":
            try:
                walk.visit(node)
            except Unsupported as error:
                raise UserError(
                    f"the exit's layer {node.name} cannot run on a device: {error}", CANNOT_CUT
                ) from error
    if not walk.layers:
        raise UserError("the exit at the seam has no layer that computes anything", CANNOT_CUT)
    moved = [
        replace(
            layer,
            input=layer.input + layers,
            second_input=None if layer.second_input is None else layer.second_input + layers,
        )
        for layer in walk.layers
    ]
    named = [replace(p, name=f"{EXITS}.{key}{p.name[1:]}") for p in walk.parameters]
    return moved, named


def split(
    model: nn.Module,
    seam: int | str,
    input_shape: tuple[int, ...],
    *,
    exit_on_device: bool = False,
) -> Split:
    """Cuts `model` behind `seam`; the model given is not changed.

    exit_on_device: the exit at the seam runs and is trained there (`with_exits` puts one there),
    not at the back.

    seam: number of weighted layers (convolution, dense) on the device, with the norm, activation
    and pooling behind the last of them; or the dotted name of the last module on the device; or
    "end". input_shape: one sample, torch layout. Raises UserError (exit 5) saying which layer is
    in the way and the nearest seams that are possible.
    """
    cuts = _Cuts(model, input_shape)
    index = cuts.find(seam)
    node = cuts.nodes[index]
    layers, parameters = cuts.walk.sizes[node]
    value = cuts.walk.values[node]
    _check_apart(cuts, index)
    if value.index != layers:  # a plan's output is the tensor its last layer writes
        raise cuts.inside_block(seam, index)
    exits = {key: at for key, at in cuts.exits().items() if at >= index}
    own = next((key for key, at in exits.items() if at == index), "")
    behind: tuple[list[LayerSpec], list[Parameter]] = ([], [])
    if exit_on_device:
        if not own:
            raise UserError(
                f"the device needs an exit at the seam {cuts.named(index)}: add it to the job's "
                "model.exits",
                CANNOT_CUT,
            )
        behind = _device_exit(cuts, own, index)
        exits.pop(own)
    return Split(
        model=cuts.model,
        front=cuts.walk.layers[:layers] + behind[0],
        parameters=cuts.walk.parameters[:parameters] + behind[1],
        back=cuts.back(index, exits),
        seam=cuts.name(index),
        input_shape=cuts.walk.input_shape,
        shape=value.shape,
        torch_shape=tuple(node.meta[SHAPE_KEY]),
        classes=cuts.classes,
        exit_from=layers if exit_on_device else 0,
        exits=list(exits),
        own_exit=own,
    )


def _check_apart(cuts: _Cuts, index: int) -> None:
    """No weight may be on both sides: they would be trained apart."""
    front = {id(p) for n in cuts.nodes[: index + 1] for p in _parameters(cuts, n)}
    for node in cuts.nodes[index + 1 :]:
        if any(id(p) in front for p in _parameters(cuts, node)):
            raise UserError(
                f"the layer {node.target} shares its weights with one in front of the seam",
                CANNOT_CUT,
            )


def _parameters(cuts: _Cuts, node: fx.Node) -> list[Any]:
    if node.op == "call_module":
        return list(cuts.walk.modules[str(node.target)].parameters())
    if node.op == "get_attr":
        owner: Any = cuts.traced
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return [owner]
    return []


def list_candidates(model: nn.Module, input_shape: tuple[int, ...]) -> list[Candidate]:
    """The front behind every legal seam, from the shallowest; empty if there is none.

    Raises UserError (exit 5) if the model cannot be traced or does not take that input.
    """
    cuts = _Cuts(model, input_shape)
    found = []
    for count, index in cuts.seams():
        node = cuts.nodes[index]
        layers = cuts.walk.sizes[node][0]
        if cuts.walk.values[node].index == layers:  # as `split` needs it
            front = cuts.walk.layers[:layers]
            whole = index == len(cuts.nodes) - 1
            found.append(Candidate(count, cuts.name(index), front, cuts.walk.input_shape, whole))
    return found


def list_seams(model: nn.Module, input_shape: tuple[int, ...]) -> list[Seam]:
    """Every legal seam by number of weighted layers, from the shallowest; empty if there is none.

    Raises UserError (exit 5) if the model cannot be traced or does not take that input.
    """
    cuts = _Cuts(model, input_shape)
    found = []
    for count, index in cuts.seams():
        node = cuts.nodes[index]
        parameters = cuts.walk.parameters[: cuts.walk.sizes[node][1]]
        shape = cuts.walk.values[node].shape
        found.append(Seam(count, cuts.name(index), shape, sum(p.size for p in parameters)))
    return found
