"""The edge host: cuts the network, holds the back in PyTorch, trains a zone."""

from .checkpoint import load_checkpoint
from .models import load_model
from .split import Split, list_seams, split

__all__ = ["Split", "list_seams", "load_checkpoint", "load_model", "split"]
