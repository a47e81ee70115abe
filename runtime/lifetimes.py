"""When the arrays of a front live: over its forward pass and, where it is trained, its backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arena import Buffer, round16

if TYPE_CHECKING:
    from .plan import LayerSpec, Shape

NEEDS_INPUT = frozenset({"conv2d", "depthwise", "dense", "max_pool", "group_norm"})  # in backward
NEEDS_OUTPUT = frozenset({"relu"})
IN_PLACE = frozenset({"relu", "flatten", "add"})  # may write over what they read

# "forward" or "backward" of a layer; "mask": its backward looks at what it made; "answer": a
# message takes what crosses the seam; "output": it and the last tensor are taken, or the last one's
# gradient given
Step = tuple[str, int]


@dataclass
class Lifetimes:
    """The arrays of these layers: values and gradients by tensor, what is saved by layer.

    element: bytes of one value or gradient. training: is there a backward pass? again: layers
    whose outputs are not kept for it but made a second time, as the C front does it: a run of such
    layers goes forward again before the layer behind the run goes backward (arXiv:1604.06174).
    in_place: kinds that may write over what they read; passes_gradient: kinds whose input's
    gradient may start where the output's lies; needs_output: kinds whose backward looks at what
    they made; masks: those of them that do so first, with nothing but the output's gradient beside.
    answer_bytes: of the message that takes away what crosses the seam, until its gradient comes.
    seam: the tensor that crosses it, where an exit lies behind; 0: the last one.
    Arrays that share a place are one Buffer.
    """

    layers: Sequence[LayerSpec]
    shapes: list[Shape]  # of the tensors, 0 is the input
    batch: int
    element: int = 4
    training: bool = True
    again: Collection[int] = ()
    in_place: Collection[str] = IN_PLACE
    passes_gradient: Collection[str] = IN_PLACE
    needs_output: Collection[str] = NEEDS_OUTPUT
    masks: Collection[str] = ()
    answer_bytes: int = 0
    seam: int = 0
    answer: Buffer | None = field(init=False, default=None)
    values: list[Buffer] = field(init=False, default_factory=list)
    gradients: list[Buffer | None] = field(init=False, default_factory=list)
    saved: dict[int, Buffer] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        masks = [i for i, layer in enumerate(self.layers) if layer.kind in self.masks]
        self.steps = schedule(
            len(self.layers),
            self.again,
            masks,
            training=self.training,
            answers=self.answer_bytes > 0,
        )
        self._live()
        for i, layer in enumerate(self.layers):
            if layer.kind in self.in_place:
                self._share_values(i, layer)
            if layer.kind in self.passes_gradient:
                self._share_gradients(i, layer)

    def readers(self, tensor: int) -> list[int]:
        """Layers that read the tensor."""
        return [i for i, layer in enumerate(self.layers) if tensor in layer.inputs()]

    def buffers(self) -> list[Buffer]:
        """Every array once."""
        gradients = [g for g in self.gradients if g is not None]
        answer = [] if self.answer is None else [self.answer]
        return list(dict.fromkeys([*self.values, *gradients, *self.saved.values(), *answer]))

    def scratch(
        self, forward: Callable[[int], int], backward: Callable[[int], int] | None = None
    ) -> list[Buffer]:
        """The scratch of each step of a layer. forward, backward: its bytes by layer."""
        sizes = {"forward": forward, "backward": backward or forward}
        steps = [(t, sizes[what](i)) for t, (what, i) in enumerate(self.steps) if what in sizes]
        return [Buffer(round16(size), [(t, t)]) for t, size in steps if size]

    def _live(self) -> None:
        """From each time something is written to the last time it is read before it is written
        again.
        """
        sizes = [round16(self.element * self.batch * math.prod(shape)) for shape in self.shapes]
        writes, reads = self._value_moments()
        self.values = [Buffer(size, _spans(writes[t], reads[t])) for t, size in enumerate(sizes)]
        self.gradients = [None] * len(sizes)
        if self.training:
            for t in range(1, len(sizes)):
                first = self._gradient_from(t)
                self.gradients[t] = Buffer(sizes[t], [(first, self._backward(t - 1))])
        if self.answer_bytes:
            at = self.steps.index(("answer", len(self.layers)))
            self.answer = Buffer(round16(self.answer_bytes), [(at, at)])
        for i, layer in enumerate(self.layers):
            if layer.kind == "group_norm":
                made = [t for t, step in enumerate(self.steps) if step == ("forward", i)]
                used = [self._backward(i)] if self.training else []
                size = round16(8 * self.batch * layer.groups)
                self.saved[i] = Buffer(size, _spans(made, used))

    def _value_moments(self) -> tuple[list[list[int]], list[list[int]]]:
        """When each tensor's values are written, and when they are read, ascending."""
        writes: list[list[int]] = [[] for _ in self.shapes]
        reads: list[list[int]] = [[] for _ in self.shapes]
        writes[0].append(0)
        for t, (what, i) in enumerate(self.steps):
            if what in ("answer", "output"):
                reads[i].append(t)
                if self.seam:
                    reads[self.seam].append(t)
                continue
            layer = self.layers[i]
            if what == "forward":
                writes[i + 1].append(t)
            if what == "forward" or (what == "backward" and layer.kind in NEEDS_INPUT):
                for tensor in layer.inputs():
                    reads[tensor].append(t)
            if what == ("mask" if layer.kind in self.masks else "backward"):
                reads[i + 1] += [t] * (layer.kind in self.needs_output)
        return writes, reads

    def _backward(self, layer: int) -> int:
        return self.steps.index(("backward", layer))

    def _gradient_from(self, tensor: int) -> int:
        """When the tensor's gradient begins: with its last reader, or where the output is taken."""
        if tensor == len(self.layers):
            return self.steps.index(("output", tensor))
        return self._backward(max(self.readers(tensor)))

    def _share_values(self, index: int, layer: LayerSpec) -> None:
        """The layer writes over an input that nobody reads later; a flatten changes nothing
        there.
        """
        moments = {t for t, step in enumerate(self.steps) if step == ("forward", index)}
        made = self.values[index + 1]
        for tensor in layer.inputs():
            taken = self.values[tensor]
            if layer.kind == "flatten" or all(
                d < a or b < c or (b == c and b in moments)
                for a, b in taken.spans
                for c, d in made.spans
            ):
                taken.spans += made.spans
                self.values[index + 1] = taken
                return

    def _share_gradients(self, index: int, layer: LayerSpec) -> None:
        """An input's gradient starts as the output's, if nothing was added to it before."""
        alone = [t for t in layer.inputs() if t and max(self.readers(t)) == index]
        if not self.training or not alone or len(set(layer.inputs())) < len(layer.inputs()):
            return
        if len(alone) == 2 and not self._may_share_all(index, *alone):
            alone = alone[::-1] if self._may_share_all(index, *alone[::-1]) else alone[:1]
        # the last one's array is the one that lower layers may have joined already
        shared = self.gradients[alone[-1]]
        for tensor in (index + 1, *alone[:-1]):
            other = self.gradients[tensor]
            if shared is not None and other is not None:
                shared.spans += other.spans
                self.gradients[tensor] = shared

    def _may_share_all(self, index: int, first: int, second: int) -> bool:
        """May both inputs of an addition have its output's gradient? Yes, if what made `first`
        has read it, and only read it, before anyone adds to the gradient of `second`.
        """
        maker = first - 1
        others = [r for r in self.readers(second) if r != index]
        return (
            self.readers(first) == [index]
            and self.layers[maker].kind not in self.passes_gradient
            and all(i < maker for i in (second - 1, *others))
        )


def schedule(
    layers: int,
    again: Collection[int] = (),
    masks: Collection[int] = (),
    *,
    training: bool = True,
    answers: bool = False,
) -> list[Step]:
    """What happens at moments 0, 1, 2...: forward, the output is taken, backward. masks: layers
    that begin backward with a mask. answers: does a message take the output first?
    """
    steps: list[Step] = [("forward", i) for i in range(layers)]
    if answers:
        steps.append(("answer", layers))
    steps.append(("output", layers))
    for i in reversed(range(layers if training else 0)):
        first = i
        while first > 0 and i not in again and first - 1 in again:
            first -= 1
        steps += [("forward", k) for k in range(first, i)]
        if i in masks:
            steps.append(("mask", i))
        steps.append(("backward", i))
    return steps


def _spans(writes: Sequence[int], reads: Iterable[int]) -> list[tuple[int, int]]:
    """Each write with the last read before the next write."""
    found = []
    used = list(reads)
    for k, first in enumerate(writes):
        until = writes[k + 1] if k + 1 < len(writes) else math.inf
        found.append((first, max([first, *(r for r in used if first <= r < until)])))
    return found
