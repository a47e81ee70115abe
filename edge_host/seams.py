"""One network cut at several seams at once: every back is the end of the same weights.

Parameters lie in one flat tensor in the order in which seams pass them, so what is behind a seam is
the end of it, and each parameter has one value and one state of the optimiser, whatever the number
of seams. A part is what lies between two neighbouring seams.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.calibration import WEIGHTED
from ..runtime.config import Job
from .back import Back
from .exits import exit_weights
from .optimizer import Adam, Optimizer, Sgd
from .split import Split, float_state
from .weights import Weights

Array = NDArray[np.float32]
State = dict[str, Array]
MOVED_STEPS = 1000  # Adam's count for what comes from a device: its moments begin without a bias


class Seams:
    """Cuts of one network, the shallowest first; a place is an index into them."""

    def __init__(self, cuts: Mapping[int | str, Split]) -> None:
        """cuts: by what was asked for; of seams that are the same, the first is kept."""
        found = {cut.seam: cut for cut in reversed(list(cuts.values()))}
        self.cuts = sorted(found.values(), key=lambda cut: len(cut.front))
        names = [cut.seam for cut in self.cuts]
        self.places = {seam: names.index(cut.seam) for seam, cut in cuts.items()}
        self.parts = self._parts()

    def _parts(self) -> list[list[str]]:
        """Names of parameters: in front of the first seam, between two, behind the last."""
        parts = [list(dict.fromkeys(self.cuts[0].front_names))]
        for before, cut in zip(self.cuts, self.cuts[1:], strict=False):
            front = set(cut.front_names)
            parts.append([n for n, _ in before.back.named_parameters() if n in front])
        behind = self.cuts[-1].back.named_parameters()
        return [*parts, [name for name, p in behind if p.requires_grad]]

    def number(self, place: int) -> int:
        """Weighted layers in front: what to write as `seam` in a job file."""
        return sum(layer.kind in WEIGHTED for layer in self.cuts[place].front)


class Whole(Weights):
    """All weights of the network with the backs behind each seam, and what optimisers gather."""

    _optimizer: _Sgd | _Adam

    def __init__(self, job: Job, seams: Seams) -> None:
        train = job.train
        self.job, self.seams = job, seams
        state = float_state(seams.cuts[0].model)
        order = [name for part in seams.parts for name in part]
        self._flat = torch.cat([state[name].detach().reshape(-1) for name in order])
        self._gradient = torch.zeros_like(self._flat)
        self._tensors = {}
        self._gradients: dict[str, Tensor] = {}
        self._range: dict[str, tuple[int, int]] = {}
        first = 0
        for name in order:
            last = first + state[name].numel()
            self._range[name] = first, last
            self._tensors[name] = self._flat[first:last].view(state[name].shape)
            self._gradients[name] = self._gradient[first:last].view(state[name].shape)
            first = last
        for name, tensor in state.items():
            if name not in self._tensors:
                self._tensors[name] = tensor.detach().clone()
        sizes = [sum(state[name].numel() for name in part) for part in seams.parts]
        self._bounds = [0, *np.cumsum(sizes).tolist()]
        kind = _Adam if train.back_optimizer == "adam" else _Sgd
        self._optimizer = kind(self._bounds, train.momentum, train.weight_decay)
        self._backs: dict[int, Back] = {}

    def back(self, place: int) -> Back:
        """The back behind a seam: the same object each time."""
        if place not in self._backs:
            cut, train = self.seams.cuts[place], self.job.train
            back = Back(
                copy.deepcopy(cut.back),
                train.back_optimizer,
                train.momentum,
                train.weight_decay,
                exit_weights(self.job, cut),
            )
            first = self._bounds[place + 1]
            own = self._optimizer.behind(place + 1)
            flat, gradient = self._flat[first:], self._gradient[first:]
            back.share(flat, gradient, self._tensors, self._gradients, own)
            self._backs[place] = back
        return self._backs[place]

    def front(self, place: int) -> Array:
        """The front of a seam as it is now, plan order."""
        return self.seams.cuts[place].front_vector(self._tensors)

    def part(self, number: int) -> slice:
        return slice(self._bounds[number], self._bounds[number + 1])

    @property
    def values(self) -> Array:
        """All parameters, [p]: a view, to be read and written."""
        values: Array = self._flat.numpy()
        return values

    def put(self, values: Mapping[str, Array], into: Array) -> None:
        """Named arrays at their places of a flat one."""
        for name, value in values.items():
            first, last = self._range[name]
            into[first:last] = value.ravel()

    def named_part(self, number: int, flat: Array) -> State:
        """The arrays of a part, out of a flat one."""
        found = {}
        for name in self.seams.parts[number]:
            first, last = self._range[name]
            found[name] = flat[first:last].reshape(self._tensors[name].shape).copy()
        return found

    # ---- momentum, in the devices' measure ----

    def velocity(self) -> Array:
        """What a device would have as momentum where the back's optimiser is now, [p]; a copy."""
        return self._optimizer.velocity()

    def set_velocity(self, part: int, values: Array, known: bool) -> None:
        """A part comes to the back with this momentum. values: [p], of which the part is taken;
        known: the part has been trained here, for other devices.
        """
        self._optimizer.set_velocity(part, values, known)


class _Sgd(Sgd):
    """SGD with momentum over all parts: the devices' own, so momentum crosses as it is."""

    def __init__(self, bounds: list[int], momentum: float, weight_decay: float) -> None:
        super().__init__(bounds[-1], momentum, weight_decay)
        self.bounds = bounds

    def behind(self, part: int) -> Optimizer:
        """The optimiser of the parts from `part` on."""
        own = Sgd(0, self.momentum, self.weight_decay)
        own.state = {"momentum": self.state["momentum"][self.bounds[part] :]}
        return own

    def velocity(self) -> Array:
        return np.array(self.state["momentum"].numpy())

    def set_velocity(self, part: int, values: Array, known: bool) -> None:
        first, last = self.bounds[part], self.bounds[part + 1]
        self.state["momentum"][first:last] = torch.from_numpy(values[first:last])


class _Adam(Adam):
    """Adam over all parts, with a count of steps for each: they are not trained equally often."""

    def __init__(self, bounds: list[int], momentum: float, weight_decay: float) -> None:
        super().__init__(bounds[-1], weight_decay)
        self.bounds, self.share = bounds, 1 - momentum  # of a steady gradient in a velocity
        self.state["steps"] = torch.zeros(len(bounds) - 1, dtype=torch.int64)

    def behind(self, part: int) -> Optimizer:
        """The optimiser of the parts from `part` on."""
        return _AdamBehind(self, part)

    def velocity(self) -> Array:
        velocity: Array = (self.state["mean"] / self.share).numpy()
        return velocity

    def set_velocity(self, part: int, values: Array, known: bool) -> None:
        first, last = self.bounds[part], self.bounds[part + 1]
        mean = torch.from_numpy(values[first:last]) * self.share
        self.state["mean"][first:last] = mean
        if not known:  # SGD has no second moment: the least that the first allows, and old
            self.state["square"][first:last] = mean * mean
            self.state["steps"][part] = MOVED_STEPS


class _AdamBehind:
    """Adam from one part on. Neighbours with the same count go in one call: with one seam for all,
    that is what the back's own Adam does, to the same bits.
    """

    def __init__(self, whole: _Adam, part: int) -> None:
        self.whole, self.part = whole, part
        self.state: dict[str, Tensor] = {}  # it is the whole's

    def step(self, parameters: Tensor, gradient: Tensor, rate: float) -> None:
        bounds, state = self.whole.bounds, self.whole.state
        counts = state["steps"]
        begin = self.part
        while begin < len(counts):
            end = begin + 1
            while end < len(counts) and counts[end] == counts[begin]:
                end += 1
            first, last = bounds[begin], bounds[end]
            here = slice(first - bounds[self.part], last - bounds[self.part])
            if first < last:
                own = Adam(0, self.whole.weight_decay)
                own.state = {n: state[n][first:last] for n in ("mean", "square")}
                own.state["steps"] = counts[begin : begin + 1].clone()
                own.step(parameters[here], gradient[here], rate)
            counts[begin:end] += 1
            begin = end
