"""Profiles of devices that train in int8: times of this machine's int8 kernels, and what a plan for
such a device has to know beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from ..kernels.bench import Prepared, Work, interleave
from ..kernels.front import Q8Front
from .budget import CODECS, Candidate, Choice, need
from .calibration import calibrate
from .networks import make_piece
from .plan import LayerSpec, PlanError, Shape
from .profile import Profile, ProfileError, Seam, Times, Unit
from .q8_parameters import blob_of
from .q8_plan import build_q8_plan
from .quantise import quantise

RATE, MOMENTUM, EXPONENT = 1e-6, 0.9, -12


@dataclass(frozen=True)
class Spent:
    """Of units: seconds of one sample's forward pass, of a batch's, of its backward."""

    times: list[Times]
    device: str


def time_q8(
    profile: Profile, device: str, repeat: int, progress: Callable[[str], None] = lambda text: None
) -> Profile:
    """The profile with this machine's int8 kernels as the device's: fronts up to each seam are
    timed whole, and what one takes beside the one before is shared among the units between by
    their multiply-adds. Needs no PyTorch.

    Raises ProfileError for one without layers or with layers that have no int8.
    """
    layers, shape = layers_of(profile)
    done: list[Times] = []
    before = Times(0, 0, 0)
    for seam in profile.seams:
        progress(f"seam {seam.number} in int8")
        count = sum(unit.layers for unit in profile.units[: seam.units])
        try:
            found = _front_times(layers[:count], shape, profile.batch, repeat)
        except (PlanError, ValueError) as error:
            raise ProfileError(f"{profile.model}, seam {seam.number}, in int8: {error}") from None
        units = profile.units[len(done) : seam.units]
        done += _shares(units, _beyond(found, before))
        before = Times(*map(max, _tuple(found), _tuple(before)))
    return in_q8(profile, Spent(done, device))


def layers_of(profile: Profile) -> tuple[list[LayerSpec], Shape]:
    """Those that devices run, and a sample's shape. Raises ProfileError where there are none."""
    if not profile.layers or profile.input_shape is None or not profile.seams:
        raise ProfileError(
            f"the profile of {profile.model} has no layers: make it with `seamline profile`"
        )
    return [layer.spec() for layer in profile.layers], profile.input_shape


def in_q8(profile: Profile, spent: Spent) -> Profile:
    """The profile with these times, int8 alone as codec, and the int8 planner's memory. Units
    behind the last that was timed no longer run on the device."""
    layers, shape = layers_of(profile)
    units = []
    for index, unit in enumerate(profile.units):
        times = spent.times[index] if index < len(spent.times) else None
        units.append(msgspec.structs.replace(unit, device=times))
    seams = [_seam(profile, seam, layers, shape) for seam in profile.seams]
    codecs = []
    for codec in profile.codecs:
        if codec.name in CODECS["q8"]:  # activations are int8 already: nothing is packed
            codecs.append(msgspec.structs.replace(codec, device_pack=0.0, device_unpack=0.0))
    return msgspec.structs.replace(
        profile,
        units=tuple(units),
        seams=tuple(seams),
        codecs=tuple(codecs),
        device=spent.device,
        origin="measured",
        arithmetic="q8",
    )


def _seam(profile: Profile, seam: Seam, layers: Sequence[LayerSpec], shape: Shape) -> Seam:
    count = sum(unit.layers for unit in profile.units[: seam.units])
    front = Candidate(seam.number, seam.name, tuple(layers[:count]), shape)
    try:
        trained = need(front, Choice(profile.batch, "q8"))
        alone = need(front, Choice(1, "q8"))
    except PlanError as error:
        raise ProfileError(f"{profile.model}, seam {seam.number}, in int8: {error}") from None
    return msgspec.structs.replace(
        seam,
        training_ram=trained.training_ram,
        inference_ram=alone.inference_ram,
        flash=trained.flash_bytes,
        weights_up=trained.weights_up,
        weights_down=trained.weights_down,
    )


def _front_times(layers: list[LayerSpec], shape: Shape, batch: int, repeat: int) -> Times:
    works: dict[str, Work | Prepared] = {}
    one, many = _front(layers, shape, 1), _front(layers, shape, batch)
    works["infer"] = lambda: one[0].forward(one[1])
    works["forward"] = lambda: many[0].forward(many[1])
    works["backward"] = Prepared(
        lambda: many[0].forward(many[1]),
        lambda: many[0].backward(many[2], EXPONENT, rate=RATE, momentum=MOMENTUM),
    )
    found = interleave(works, repeat)
    return Times(*(found[name].us / 1e6 for name in ("infer", "forward", "backward")))


def _front(
    layers: list[LayerSpec], shape: Shape, batch: int
) -> tuple[Q8Front, np.typing.NDArray[np.int8], np.typing.NDArray[np.int8]]:
    """A front, a batch for it, and a gradient of what it makes."""
    piece = make_piece(layers, shape, batch)
    made = quantise(
        layers, shape, piece.parameters, calibrate(layers, shape, piece.parameters, piece.x)
    )
    front = Q8Front(build_q8_plan([layer.spec for layer in made.layers], shape, batch))
    front.set(blob_of(made))
    dy = np.random.default_rng(0).integers(-127, 128, piece.dy.shape, dtype=np.int8)
    return front, made.quantise(piece.x), dy


def _tuple(times: Times) -> tuple[float, float, float]:
    return times.infer, times.forward, times.backward


def _beyond(times: Times, before: Times) -> Times:
    return Times(*(max(a - b, 0.0) for a, b in zip(_tuple(times), _tuple(before), strict=True)))


def _shares(units: Sequence[Unit], whole: Times) -> list[Times]:
    macs = [max(unit.macs, unit.values) for unit in units]
    return [Times(*(part * own / sum(macs) for part in _tuple(whole))) for own in macs]
