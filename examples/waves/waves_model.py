"""A model of your own: a function that returns an nn.Module, imported on the edge host only."""

from __future__ import annotations

from torch import nn


def network(classes: int = 3) -> nn.Module:
    """Takes windows [n, 2, 64] of two channels; `input_shape` says so, as no host sees a sample."""
    model = nn.Sequential(
        nn.Conv1d(2, 12, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv1d(12, 16, 5, stride=2, padding=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),  # seam = 2: everything up to here is on the device
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(64, classes),
    )
    model.input_shape = (2, 64)
    return model
