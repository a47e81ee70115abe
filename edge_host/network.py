"""The layers of a job's network, what each puts out, and on which side of the seam it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..runtime.config import Job
from .host import cut_model


def describe_network(job: Job) -> list[dict[str, Any]]:
    """A row a module, as executed: name, kind, shape [c, h, w] put out, parameters, side."""
    torch.set_num_threads(1)
    cut = cut_model(job)
    rows: list[dict[str, Any]] = []
    names = {module: name for name, module in cut.model.named_modules()}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        size = sum(parameter.numel() for parameter in module.parameters())
        kind = type(module).__name__
        shape = list(output.shape[1:])
        rows.append({"name": names[module], "kind": kind, "shape": shape, "parameters": size})

    leaves = [module for module in names if not list(module.children())]
    hooks = [module.register_forward_hook(note) for module in leaves]
    height, width, channels = cut.input_shape
    given = tuple(getattr(cut.model, "input_shape", (channels, height, width)))
    with torch.no_grad():
        cut.model.eval()(torch.zeros(1, *given))
    for hook in hooks:
        hook.remove()
    last = max(
        (i for i, row in enumerate(rows) if _inside(row["name"], cut.seam)), default=len(rows) - 1
    )
    for i, row in enumerate(rows):
        row["side"] = "device" if i <= last else "edge"
    return rows


def _inside(name: str, seam: str) -> bool:
    """Is the module `name` the module `seam`, or in it?"""
    return name == seam or name.startswith(f"{seam}.")
