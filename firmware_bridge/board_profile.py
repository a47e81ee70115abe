"""Profiles of microcontrollers: instructions on an emulated board, over a stated clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..runtime.errors import UserError
from ..runtime.networks import Network, Unit
from ..runtime.plan import PlanError
from ..runtime.profile import Profile, ProfileError, Times
from ..runtime.q8_time import Spent, in_q8, layers_of
from . import bench_step, image

F32_BOARDS = ("an386", "an500")  # those whose processor computes in floats


def profile_board(
    profile: Profile,
    board: str,
    mhz: float,
    dtype: str,
    progress: Callable[[str], None] = lambda text: None,
) -> Profile:
    """The profile with the board as the device: one training step of one sample is run in the
    emulator, each unit's instructions counted, and one of them taken to last one cycle of `mhz`
    MHz; a batch takes as many times longer. Packing is scaled as the layers are.

    Raises UserError (2, 7) for a board there is not and tools that are missing, ProfileError for
    a network that cannot be run there.
    """
    if board not in image.BOARDS:
        raise UserError(f"--board {board}: the emulator has {', '.join(image.BOARDS)}")
    if dtype == "f32" and board not in F32_BOARDS:
        raise UserError(f"--board {board} computes in int8 only: give --dtype q8")
    image.need()
    net = _network(profile)
    progress(f"{profile.model} on {board}, {dtype}")
    try:
        with tempfile.TemporaryDirectory(prefix="seamline-") as draft:
            case = bench_step.case_of(net, dtype)
            built = bench_step.build(image.BOARDS[board], dtype, Path(draft))
            found = bench_step.run(image.BOARDS[board], built, case, Path(draft))
    except (PlanError, ValueError, RuntimeError) as error:
        raise ProfileError(f"{profile.model} on {board}, {dtype}: {error}") from None
    update = found.update / max(sum(unit.parameters for unit in profile.units), 1)
    times = []
    for unit, (forward, backward) in zip(profile.units, found.passes, strict=False):
        learning = backward * profile.batch + update * unit.parameters
        counts = (forward, forward * profile.batch, learning)
        times.append(Times(*(count / (1e6 * mhz) for count in counts)))
    name = f"{image.BOARDS[board].core} ({board}) at {mhz:g} MHz"
    if dtype == "q8":
        return in_q8(profile, Spent(times, name))
    return _in_f32(profile, Spent(times, name))


def _network(profile: Profile) -> Network:
    """What devices run of it, all of it a front."""
    layers, shape = layers_of(profile)
    count = profile.seams[-1].units
    units, first = [], 0
    for unit in profile.units[:count]:
        units.append(Unit(unit.name, first, first + unit.layers))
        first += unit.layers
    return Network(profile.model, shape, layers[:first], units, first)


def _in_f32(profile: Profile, spent: Spent) -> Profile:
    here = sum(u.device.infer for u in profile.units[: len(spent.times)] if u.device is not None)
    factor = sum(times.infer for times in spent.times) / here if here else 1.0
    units = [
        msgspec.structs.replace(unit, device=spent.times[i] if i < len(spent.times) else None)
        for i, unit in enumerate(profile.units)
    ]
    codecs = [codec.on_device(factor) for codec in profile.codecs]
    return msgspec.structs.replace(
        profile,
        units=tuple(units),
        codecs=tuple(codecs),
        device=spent.device,
        origin="measured",
        arithmetic="f32",
    )
