"""Networks with exits: small heads behind a seam that answer early (BranchyNet, arXiv:1709.01686).

A head is no part of the network's own forward: `split` puts it where it is trained, on the edge
host, or on the device if that learns from its own loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from ..runtime.config import Job
from ..runtime.errors import UserError
from .models import CANNOT_CUT, input_shape, load_model
from .split import EXITS, SEAMS, Split, exit_key, seam_shape

SIGNAL_CELLS = 5  # a default head averages a signal over at most so many parts of its length
IMAGE_CELLS = 2  # and an image over so many parts of each side


class _Chain(nn.Sequential):
    """A sequence whose exits are no link of it."""

    def forward(self, input: Tensor) -> Tensor:
        for name, module in self._modules.items():
            if name != EXITS and module is not None:
                input = module(input)
        return input


def with_exits(model: nn.Module, heads: Mapping[int | str, nn.Module]) -> nn.Module:
    """Notes exits on `model`, which is returned, its forward unchanged.

    heads: by seam (as in the job file: number of weighted layers in front, or a module's name) a
    module that makes logits [n, classes] of what crosses that seam, torch layout. Their
    parameters are in the state dict under `exits.`. Raises UserError (exit 5): no such seam, a
    head that does not take what is there or gives other classes than the network.
    """
    if hasattr(model, EXITS) or not heads:
        raise UserError("the model has exits already, or none were given", CANNOT_CUT)
    for seam, head in heads.items():
        shape, classes = seam_shape(model, seam, input_shape(model))
        try:
            with torch.no_grad():
                made = tuple(head.eval()(torch.zeros(2, *shape)).shape)
        except Exception as error:  # the user's own layers may raise anything
            raise UserError(
                f"the exit at seam {seam!r} does not take what crosses there, (2, "
                f"{', '.join(map(str, shape))}): {str(error).splitlines()[0]}",
                CANNOT_CUT,
            ) from error
        if made != (2, classes):
            raise UserError(
                f"the exit at seam {seam!r} gives {made} for two samples, expected (2, {classes})",
                CANNOT_CUT,
            )
        head.train()
    if type(model).forward is nn.Sequential.forward:
        model.__class__ = _Chain
    setattr(model, EXITS, nn.ModuleDict({exit_key(seam): head for seam, head in heads.items()}))
    setattr(model, SEAMS, {exit_key(seam): seam for seam in heads})
    return model


def exit_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The head where none is given: average pooling over a few parts of each side, then a dense
    layer. shape: of one sample at the seam, torch layout (C, H, W), (C, L) or (F,).
    """
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], classes))
    most = SIGNAL_CELLS if len(shape) == 2 or 1 in shape[1:] else IMAGE_CELLS
    cells = [max(d for d in range(1, most + 1) if side % d == 0) for side in shape[1:]]
    parts = cells[0] * (cells[1] if len(cells) > 1 else 1)
    pool: nn.Module = (
        nn.AdaptiveAvgPool1d(cells[0])
        if len(cells) == 1
        else nn.AdaptiveAvgPool2d((cells[0], cells[1]))
    )
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(shape[0] * parts, classes))


def load_network(
    name: str, args: Mapping[str, Any], seed: int, exits: Sequence[int | str] = ()
) -> nn.Module:
    """`load_model`, with default heads at the seams `exits`. The same seed gives the same weights;
    an exit more changes none of the others'. Raises UserError.
    """
    model = load_model(name, args, seed)
    if not exits:
        return model
    heads = {}
    for seam in exits:
        shape, classes = seam_shape(model, seam, input_shape(model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed << 32 | crc32(exit_key(seam).encode()))
            heads[seam] = exit_head(shape, classes)
    return with_exits(model, heads)


def job_network(job: Job) -> nn.Module:
    """The job's network as it begins, with its exits. Raises UserError (exit 5)."""
    return load_network(job.model.name, job.model.args, job.seed, job.model.exits)


def check_exits(job: Job, cut: Split) -> None:
    """Raises UserError (exit 5) for an exit that nobody would train: one in front of the seam."""
    seams: Mapping[str, int | str] = getattr(cut.model, SEAMS, {})
    lost = [seam for key, seam in seams.items() if key not in {*cut.exits, cut.own_exit}]
    if lost:
        raise UserError(
            f"the exit at {lost[0]!r} lies in front of the seam {job.model.seam!r}, where nothing "
            "trains it: leave it out or move the seam",
            CANNOT_CUT,
        )


def exit_weights(job: Job, cut: Split) -> list[float]:
    """Of the losses of the back's exits and of its end; empty: it has no exits."""
    if not cut.exits:
        return []
    if not job.model.exit_weights:
        return [1.0] * (len(cut.exits) + 1)
    *own, end = job.model.exit_weights
    by_key = {exit_key(seam): w for seam, w in zip(job.model.exits, own, strict=True)}
    return [*(by_key.get(key, 1.0) for key in cut.exits), end]
