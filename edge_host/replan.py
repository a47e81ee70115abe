"""Which seams a zone may use, and who moves them: nobody, or a schedule."""

from __future__ import annotations

from collections.abc import Generator

from ..runtime.config import Job
from ..runtime.errors import UserError
from .exits import job_network
from .models import input_shape
from .moving import MakePlan, MovingTrainer, Wanted
from .split import Split, split
from .trainer import Trainer

EVERYBODY = "*"  # the device of a move that is for all


class Schedule:
    """Moves as the job file lists them; later ones count, of the same round the last."""

    def __init__(self, job: Job) -> None:
        self.moves = sorted(job.plan.moves, key=lambda move: move.round)

    def decide(
        self, trainer: MovingTrainer, members: list[str]
    ) -> Generator[None, None, dict[str, Wanted]]:
        yield from ()
        wanted = {}
        for move in self.moves:
            if move.round <= trainer.rounds_done + 1:
                place = trainer.seams.places[move.seam]
                for device in members if move.device == EVERYBODY else [move.device]:
                    wanted[device] = Wanted(place, f"planned for round {move.round}")
        return {device: want for device, want in wanted.items() if device in members}


def make_trainer(job: Job, zone: str, cut: Split, make_plan: MakePlan, now: float) -> Trainer:
    """The trainer that the job's `[plan]` asks for. Raises UserError (exit 5) for a seam that is
    none.
    """
    if job.plan.replan == "off":
        return Trainer(job, zone, cut, now)
    return MovingTrainer(job, zone, cuts_of(job, cut), make_plan, Schedule(job), now)


def cuts_of(job: Job, cut: Split) -> dict[int | str, Split]:
    """Every seam of the job, the first its own, with `cut`. Raises UserError (exit 5)."""
    cuts = {job.model.seam: cut}
    for move in job.plan.moves:
        if move.seam not in cuts:
            cuts[move.seam] = _cut(job, move.seam, f"plan.moves, round {move.round}")
    return cuts


def _cut(job: Job, seam: int | str, where: str) -> Split:
    model = job_network(job)
    try:
        cut = split(model, seam, input_shape(model))
    except UserError as error:
        raise UserError(f"{where}: {error}", error.exit_code) from error
    if cut.at_end:
        raise UserError(f"{where}: no layer is left behind the seam {seam!r}: move it forward", 5)
    return cut
