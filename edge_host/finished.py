"""What a finished run left, cut again at its seam or another, to be looked into or quantised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..runtime.config import LOCAL_MODES, Job
from ..runtime.errors import UserError
from ..runtime.files import read_npz
from .checkpoint import load_checkpoint
from .exits import job_network
from .fold import fold_batch_norm
from .models import input_shape
from .split import END, Split, float_state, load_state, split

Array = NDArray[np.float32]
MISSING = 3  # exit code


@dataclass(frozen=True)
class Finished:
    """A trained network. cut: batch norm folded; parameters: of its front, flat, in plan order;
    source: the file it came from; whole: is the back trained too (of front.npz it is not)."""

    cut: Split
    parameters: Array
    source: Path
    whole: bool

    def logits(self, activation: Array) -> Array:
        """What the back makes of activations [n, h, w, c]: [n, classes]."""
        with torch.no_grad():
            made = self.cut.back(self.cut.to_nchw(np.ascontiguousarray(activation)))
            logits = made[-1] if isinstance(made, tuple) else made  # exits come first
        return np.asarray(logits.numpy(), np.float32)


def load_finished(job: Job, folder: Path, seam: int | str | None = None) -> Finished:
    """The network that a run of `job` left in `folder`: model.pt, else the cloud's model.npz, else
    front.npz. seam: where to cut instead of where the job says; "end" leaves no back.

    Raises UserError: exit 3 where no file is there or it is damaged or of another job, 5 where the
    network cannot be cut.
    """
    readers: dict[str, Callable[[Job, Path], nn.Module]] = {
        "model.pt": _checkpoint,
        "model.npz": _arrays,
        "front.npz": _front,
    }
    name = next((name for name in readers if (folder / name).is_file()), None)
    if name is None:
        raise UserError(
            f"{folder} holds no model.pt, model.npz or front.npz: train first (`seamline run JOB`)",
            MISSING,
        )
    torch.set_num_threads(1)
    model = readers[name](job, folder / name).eval()
    if seam is None:
        seam = END if job.mode in LOCAL_MODES else job.model.seam
    cut = split(fold_batch_norm(model), seam, input_shape(model))
    cut.back.eval()
    parameters = cut.front_vector(float_state(cut.model))
    if not np.isfinite(parameters).all():
        raise UserError(f"{folder / name} holds parameters that are not finite", MISSING)
    return Finished(cut, parameters, folder / name, name != "front.npz")


def _checkpoint(job: Job, path: Path) -> nn.Module:
    try:
        return load_checkpoint(path)
    except RuntimeError as error:  # torch's, for names and sizes that do not fit
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not belong to the model it names: {first}", MISSING) from None


def _arrays(job: Job, path: Path) -> nn.Module:
    model = job_network(job)
    load_state(model, _read(path))
    return model


def _front(job: Job, path: Path) -> nn.Module:
    """The seeded network with the trained front in it."""
    model = job_network(job)
    state: dict[str, Any] = {name: t.numpy() for name, t in float_state(model).items()}
    load_state(model, state | _read(path))
    return model


def _read(path: Path) -> dict[str, Array]:
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", MISSING) from None
