"""The edge host: cuts the network, holds the back in PyTorch, trains a zone."""

from .checkpoint import load_checkpoint
from .exits import exit_head, with_exits
from .fold import fold_batch_norm
from .models import load_model, with_input_shape
from .split import Split, list_seams, split

__all__ = [
    "Split",
    "exit_head",
    "fold_batch_norm",
    "list_seams",
    "load_checkpoint",
    "load_model",
    "split",
    "with_exits",
    "with_input_shape",
]
