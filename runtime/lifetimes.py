"""When the arrays of a front live: over its forward pass and, where it is trained, its backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arena import Buffer, round16

if TYPE_CHECKING:
    from .plan import LayerSpec, Shape

_NEEDS_INPUT = {"conv2d", "depthwise", "dense", "max_pool", "group_norm"}  # in backward
_IN_PLACE = {"relu", "flatten"}


@dataclass
class Lifetimes:
    """The arrays of these layers: values and gradients by tensor, what is saved by layer.

    element: bytes of one value or gradient. Arrays that share a place are one Buffer.
    """

    layers: Sequence[LayerSpec]
    shapes: list[Shape]  # of the tensors, 0 is the input
    batch: int
    element: int = 4
    values: list[Buffer] = field(init=False, default_factory=list)
    gradients: list[Buffer | None] = field(init=False, default_factory=list)
    saved: dict[int, Buffer] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Layer i runs forward at time i, backward at 2L - i; the output is taken at L."""
        count = len(self.layers)
        for tensor, shape in enumerate(self.shapes):
            size = round16(self.element * self.batch * math.prod(shape))
            made, readers = max(tensor - 1, 0), self.readers(tensor)
            value = Buffer(size, made, max([made, *readers]))
            gradient = Buffer(
                size, self.back_time(max(readers, default=count)), self.back_time(made)
            )
            if tensor == count:
                value.live(made, count)
            self.values.append(value)
            self.gradients.append(None if tensor == 0 else gradient)
        self._keep_for_backward()
        for i, layer in enumerate(self.layers):
            if self._may_share(i, layer):
                self._share(layer.input, i + 1)

    def back_time(self, layer: int) -> int:
        return 2 * len(self.layers) - layer

    def readers(self, tensor: int) -> list[int]:
        """Layers that read the tensor."""
        return [i for i, layer in enumerate(self.layers) if tensor in layer.inputs()]

    def buffers(self) -> list[Buffer]:
        """Every array once."""
        gradients = [g for g in self.gradients if g is not None]
        return list(dict.fromkeys([*self.values, *gradients, *self.saved.values()]))

    def _keep_for_backward(self) -> None:
        for i, layer in enumerate(self.layers):
            if layer.kind in _NEEDS_INPUT:
                self.values[layer.input].live(i, self.back_time(i))
            if layer.kind == "relu":
                self.values[i + 1].live(i, self.back_time(i))
            if layer.kind == "group_norm":
                size = round16(8 * self.batch * layer.groups)
                self.saved[i] = Buffer(size, i, self.back_time(i))

    def _may_share(self, index: int, layer: LayerSpec) -> bool:
        """May this layer write over its input? A flatten changes nothing there; a ReLU may not
        change what another ReLU has to look at again.
        """
        if layer.kind not in _IN_PLACE or layer.input == 0 or len(self.readers(layer.input)) > 1:
            return False
        return layer.kind == "flatten" or self.layers[layer.input - 1].kind not in _IN_PLACE

    def _share(self, first: int, second: int) -> None:
        value, gradient, above = self.values[first], self.gradients[first], self.gradients[second]
        value.live(self.values[second].start, self.values[second].end)
        self.values[second] = value
        if gradient is not None and above is not None:
            gradient.live(above.start, above.end)
            self.gradients[second] = gradient
