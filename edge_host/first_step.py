"""What an edge host gives a device for the first step of a job: parameters, and a gradient."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..kernels.front import Front, Q8Front
from ..runtime.config import Job
from ..runtime.errors import UserError
from ..runtime.q8_parameters import blob_of
from .back import Back
from .q8_front import quantise_gradient
from .q8_fronts import Q8Fronts
from .split import Split, float_state

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Start:
    """Parameters of round 1, as the front takes them; scale, zero: of an int8 front's output."""

    parameters: bytes
    q8: bool
    scale: float = 1.0
    zero: int = 0


def start_of(job: Job, cut: Split, device: str, x_train: F32) -> Start:
    """What the device gets with the first STEP of a job. x_train: its samples."""
    vector = cut.front_vector(float_state(cut.model))
    if job.train.arithmetic != "q8":
        return Start(vector.tobytes(), False)
    fronts = Q8Fronts(job, cut)
    fronts.joined(device, (float(x_train.min()), float(x_train.max())))
    fronts.begin(lambda owner: vector)
    fronts.weights(device, vector, True, 1)
    sent = fronts.front(device).sent
    return Start(blob_of(sent), True, float(sent.scales[-1]), int(sent.zeros[-1]))


def gradient_of(
    cut: Split, plan: bytes, start: Start, x: F32, labels: NDArray[np.int32]
) -> tuple[F32 | NDArray[np.int8], int]:
    """Of the mean loss with respect to what the front makes of x [n, h, w, c], by the job's back:
    float32 [n, h', w', c'] and 0; of an int8 front int8 and its exponent.

    Raises UserError if the loss is not finite.
    """
    if start.q8:
        front = Q8Front(plan)
        front.set(start.parameters)
        wide = front.forward(x).astype(np.float64)
        activation = ((wide - start.zero) * start.scale).astype(np.float32)
    else:
        float_front = Front(plan)
        float_front.params[:] = np.frombuffer(start.parameters, np.float32)
        activation = float_front.forward(x)
    back = Back(copy.deepcopy(cut.back), "sgd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of what a back draws
        targets = torch.from_numpy(labels.astype(np.int64))
        gradient, loss = back.step(cut.to_nchw(activation), targets, 0.0)
    if gradient is None:
        raise UserError(f"the loss of the first step is {loss}: look at the device's samples", 3)
    dy = np.ascontiguousarray(cut.to_nhwc(gradient), np.float32)
    return quantise_gradient(dy, start.scale, "nearest", 0) if start.q8 else (dy, 0)
