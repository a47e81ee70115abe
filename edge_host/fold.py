"""Folds the trained statistics of batch norm into the layer before it."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` in which each batch norm right behind a convolution or dense layer is
    folded into it.

    Uses the running statistics, so fold a trained model; what it computes in eval mode stays the
    same. The batch norm becomes nn.Identity, all other names stay. A batch norm elsewhere is left
    alone.
    """
    folded = copy.deepcopy(model)
    was_training = folded.training
    folded.eval()
    modules = dict(folded.named_modules())
    for node in fx.Tracer().trace(folded).nodes:
        source = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _NORMS):
            continue
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        layer, norm = modules[str(source.target)], modules[str(node.target)]
        if norm.running_mean is None:
            continue
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            _replace(folded, str(source.target), fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear):
            _replace(folded, str(source.target), fuse_linear_bn_eval(layer, norm))
        else:
            continue
        _replace(folded, str(node.target), nn.Identity())
    return folded.train(was_training)


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts `new` where the module `name` was."""
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, new)
