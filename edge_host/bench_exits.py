"""Two early exits for a bundled network, untrained: what a benchmark of latency needs of one."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace

import msgspec
from torch import nn

from ..runtime.profile import Exit, Profile, Times, Unit, check_profile
from .measure import Setting, measure
from .models import input_shape, with_input_shape
from .split import list_seams


@dataclass(frozen=True)
class Branchy:
    """profile: with exits. models, profiles: of what answers at each exit, by its name; "end" is
    the network."""

    profile: Profile
    models: dict[str, nn.Module]
    profiles: dict[str, Profile]


def add_exits(model: nn.Module, profile: Profile, setting: Setting) -> Branchy:
    """Heads (a mean over the map, a dense layer) behind a third and two thirds of the seams whose
    activation is still a map; each branch is measured as a network of its own. Raises
    ValueError for a model that is no chain of modules.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"expected nn.Sequential, got {type(model).__name__}")
    seams = [
        seam for seam in list_seams(model, input_shape(model)) if seam.shape[0] * seam.shape[1] > 1
    ]
    places = sorted({len(seams) // 3, 2 * len(seams) // 3})
    models: dict[str, nn.Module] = {"end": model}
    profiles, exits = {"end": profile}, []
    for number, place in enumerate(places, 1):
        seam = seams[min(place, len(seams) - 1)]
        count = 1 + int(seam.name.split(".")[0])
        body = [copy.deepcopy(child) for child in itertools.islice(model.children(), count)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(seam.shape[2], _classes(model))]
        name = f"exit{number}"
        models[name] = with_input_shape(nn.Sequential(*body, *head), input_shape(model))
        profiles[name] = measure(models[name], replace(setting, model=f"{setting.model}/{name}"))
        units = next(s.units for s in profile.seams if s.number == seam.weighted)
        exits.append(Exit(name, units - 1, _head(profiles[name].units[units:], units)))
    made = msgspec.structs.replace(profile, exits=tuple(exits))
    check_profile(made)
    return Branchy(made, models, profiles)


def _classes(model: nn.Module) -> int:
    return [child for child in model.modules() if isinstance(child, nn.Linear)][-1].out_features


def _head(units: tuple[Unit, ...], tensor: int) -> Unit:
    """All of a head as one unit."""
    devices = [unit.device for unit in units if unit.device is not None]
    return Unit(
        "head", "head", (tensor,), units[-1].values,
        sum(unit.parameters for unit in units), sum(unit.macs for unit in units),
        _sum([unit.edge for unit in units]),
        _sum(devices) if len(devices) == len(units) else None,
    )  # fmt: skip


def _sum(times: list[Times]) -> Times:
    return Times(
        sum(it.infer for it in times),
        sum(it.forward for it in times),
        sum(it.backward for it in times),
    )
