"""What the edge host keeps on disk: the zone after each cloud round, and the finished model.
Written whole, then renamed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..runtime.config import Job, job_digest
from ..runtime.errors import UserError
from ..runtime.files import npz_bytes, read_npz, write_whole
from .exits import load_network
from .split import Split
from .trainer import Trainer

Array = NDArray[np.float32]
META = "meta"  # name of the JSON in a zone's file


# ---- the zone between cloud rounds ----


@dataclass
class ZoneState:
    """A zone after a cloud round. next_round: the cloud round it can train now; update: body of
    the update of the round before, until it is known to be accepted; report: body of its last word,
    once there is nothing left to do but to say it; arrays: front, backs, optimisers, personal
    fronts.
    """

    next_round: int
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    update: bytes = b""
    report: bytes = b""


def zone_file(job: Job, zone: str) -> Path:
    return Path(job.out) / "zones" / zone / "state.npz"


def save_zone(job: Job, zone: str, state: ZoneState) -> None:
    """Durable when it returns."""
    meta = {"job": job_digest(job), "next_round": state.next_round}
    arrays: dict[str, NDArray[Any]] = {
        META: np.frombuffer(json.dumps(meta).encode(), np.uint8),
        "update": np.frombuffer(state.update, np.uint8),
        "report": np.frombuffer(state.report, np.uint8),
        **state.arrays,
    }
    write_whole(zone_file(job, zone), npz_bytes(arrays))


def load_zone(job: Job, zone: str) -> ZoneState | None:
    """The state this job left, or None: there is none, or it belongs to another job.

    Raises UserError (exit 3) for a file that cannot be read.
    """
    path = zone_file(job, zone)
    try:
        arrays = read_npz(path)
        meta = json.loads(arrays.pop(META).tobytes())
        update, report = (arrays.pop(name).tobytes() for name in ("update", "report"))
        if meta["job"] != job_digest(job):
            return None
        return ZoneState(int(meta["next_round"]), arrays, update, report)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it and the zone takes the cloud's model",
            3,
        ) from error


def trainer_arrays(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """All a trainer needs to go on as if nothing had happened."""
    arrays: dict[str, NDArray[Any]] = {"front": trainer.front}
    for name, back in trainer.backs.items():
        arrays[f"back/{name}"] = back.vector()
        for key, value in back.optimizer_state().items():
            arrays[f"optimizer/{name}/{key}"] = value
    for device, front in trainer.fronts.items():
        arrays[f"personal/{device}"] = front
    return arrays | trainer.wire_fronts.arrays() | trainer.more_arrays()


def restore_trainer(trainer: Trainer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """The inverse of `trainer_arrays`. Raises ValueError or KeyError where they do not fit."""
    if arrays["front"].shape != trainer.front.shape:
        raise ValueError(f"a front of {arrays['front'].size} parameters")
    trainer.front = arrays["front"].astype(np.float32)
    for name, back in trainer.backs.items():
        back.load_vector(arrays[f"back/{name}"])
        prefix = f"optimizer/{name}/"
        gathered = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        back.load_optimizer_state(gathered)
    trainer.restore_more(arrays)
    trainer.wire_fronts.restore(arrays)
    personal = "personal/"
    trainer.fronts = {
        name[len(personal) :]: np.array(array, np.float32)
        for name, array in arrays.items()
        if name.startswith(personal)
    }


# ---- the finished model ----


def save_model(job: Job, cut: Split, state: Mapping[str, Array]) -> Path:
    """Writes `<out>/model.pt` (back and front) and `<out>/front.npz`; returns the first."""
    folder = Path(job.out)
    checkpoint = {
        "state_dict": cut.merge(state).state_dict(),
        "model": job.model.name,
        "args": job.model.args,
        "exits": job.model.exits,
        "seam": cut.seam,
        "job": job.name,
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    path = folder / "model.pt"
    write_whole(path, buffer.getvalue())
    write_whole(folder / "front.npz", npz_bytes({name: state[name] for name in cut.front_names}))
    return path


def load_checkpoint(path: str | Path) -> nn.Module:
    """The trained network of a `model.pt` as one plain torch module, in eval mode.

    Nothing is unpickled but plain values and tensors; a model of your own must be importable by
    the name in the job. Raises UserError if the file is missing or is not such a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        name, args, state = checkpoint["model"], checkpoint["args"], checkpoint["state_dict"]
        exits = checkpoint.get("exits", [])
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}", 3) from error
    except Exception as error:  # torch.load raises many kinds for foreign bytes
        raise UserError(
            f"{path} is not a seamline checkpoint ({type(error).__name__})", 3
        ) from error
    model = load_network(name, args, 0, exits)
    model.load_state_dict(state)
    return model.eval()
