"""The predictor: it finds laws that are there, is kept as JSON, and follows live steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from seamline.runtime.kernel_work import Which, work
from seamline.runtime.layer_bank import Sample, make_bank, unit_of
from seamline.runtime.networks import network
from seamline.runtime.plan import LayerSpec, Shape
from seamline.runtime.predictor import (
    Predictor,
    fit,
    load_predictor,
    predict,
    refine,
    save_predictor,
)
from seamline.runtime.profile import Features, Profile, ProfileError, Times, Unit

RATES = {"conv2d": 2e9, "depthwise": 5e8, "dense": 1e9}


def made(name: str, noise: float, seed: int, batch: int = 8) -> Profile:
    """A benchmark network on a device whose times follow a law: a call, MACs, values, noise."""
    random = np.random.default_rng(seed)
    net = network(name)
    units = []

    def seconds(kind: str, macs: float, values: float) -> float:
        law = 2e-6 + macs / RATES.get(kind, 1e9) + values * 1e-9
        return float(law * np.exp(random.normal(0, noise)))

    for index, unit in enumerate(net.units):
        layer, last = net.layers[unit.first], net.layers[unit.end - 1]
        shape = net.shapes[layer.input]
        macs, values = layer.multiply_adds(shape), math.prod(last.output_shape)
        times = Times(
            seconds(layer.kind, macs, values),
            seconds(layer.kind, batch * macs, batch * values),
            seconds(layer.kind, 2 * batch * macs, 2 * batch * values),
        )
        features = Features(shape, last.output_shape, layer.kernel, layer.stride)
        weights = layer.parameters(shape)
        units.append(
            Unit(unit.name, layer.kind, (index,), values, weights, macs, times, times, features)
        )
    return Profile(name, "board", "e", batch, 10, tuple(units))


def median_error(predictor: Predictor, profile: Profile) -> float:
    errors = []
    for unit, measured in zip(predict(predictor, profile).units, profile.units, strict=True):
        assert unit.device is not None and measured.device is not None
        errors.append(abs(unit.device.infer / measured.device.infer - 1))
        errors.append(abs(unit.device.forward / measured.device.forward - 1))
        errors.append(abs(unit.device.backward / measured.device.backward - 1))
    return float(np.median(errors))


@pytest.mark.parametrize("held", ["kws", "ic", "vww"])
def test_a_network_it_has_not_seen_is_predicted(held: str) -> None:
    names = [name for name in ("kws", "ic", "vww", "ad", "watch") if name != held]
    exact = fit([made(name, 0.0, i) for i, name in enumerate(names)], "board")
    assert median_error(exact, made(held, 0.0, 9)) < 0.01
    noisy = fit([made(name, 0.05, i) for i, name in enumerate(names)], "board")
    assert median_error(noisy, made(held, 0.0, 9)) < 0.05


@pytest.mark.parametrize("lanes", [4, 16])
def test_the_vectors_of_the_device_are_found_from_its_times(lanes: int) -> None:
    found = fit(bank_on(lambda unit, batch, which: steps(unit, batch, which, lanes)), "board")
    assert found.lanes == lanes


def test_what_laws_leave_over_is_said_by_neighbours() -> None:
    def seconds(unit: Unit, batch: int, which: Which) -> float:
        assert unit.features is not None
        wave = math.sin(math.log(unit.features.input[2]))  # of the channels: no law has that
        return steps(unit, batch, which, 16) * math.exp(0.25 * wave)

    samples = bank_on(seconds)
    found = fit(samples[: len(samples) * 4 // 5], "board")
    bare = tuple(msgspec.structs.replace(law, rest=None) for law in found.laws)
    plain = msgspec.structs.replace(found, laws=bare)

    def error(laws: Predictor) -> float:
        rest = samples[len(samples) * 4 // 5 :]
        return float(
            np.median(
                [abs(laws.times(s.unit, s.batch).forward / s.device.forward - 1) for s in rest]
            )
        )

    assert error(found) < 0.85 * error(plain)


def test_laws_with_other_terms_than_the_kernels_now_have_are_refused() -> None:
    predictor = fit(bank_on(lambda unit, batch, which: steps(unit, batch, which, 16)), "board")
    short = [msgspec.structs.replace(law, coefficients=(1.0,)) for law in predictor.laws]
    unit = make_unit("dense", (1, 1, 64), (1, 1, 8))
    with pytest.raises(ProfileError, match="fit a predictor anew"):
        msgspec.structs.replace(predictor, laws=tuple(short)).seconds(unit, 1, "forward")


def make_unit(kind: str, shape: Shape, out: Shape) -> Unit:
    layer = LayerSpec(kind, 0, out)
    return unit_of([layer], shape, Times(1.0, 1.0, 1.0), inner=True)


def steps(unit: Unit, batch: int, which: Which, lanes: int) -> float:
    """A call, and all amounts of work alike."""
    return 1e-6 + 1e-9 * float(work(unit, batch, which, lanes).sum())


def bank_on(seconds: Callable[[Unit, int, Which], float]) -> list[Sample]:
    """The bank's layers on a device that takes so long."""
    found = []
    for it in make_bank(40):
        unit = unit_of(it.layers, it.shape, Times(0, 0, 0), inner=it.inner)
        times = Times(
            seconds(unit, 1, "forward"),
            seconds(unit, it.batch, "forward"),
            seconds(unit, it.batch, "backward"),
        )
        found.append(Sample(unit, it.batch, times))
    return found


def test_no_time_is_predicted_below_zero() -> None:
    predictor = fit([made("watch", 0.3, 1), made("kws", 0.3, 2)], "board")
    assert min(c for law in predictor.laws for c in law.coefficients) >= 0
    assert max(c for law in predictor.laws for c in law.coefficients) > 0


def test_a_predicted_profile_says_so_and_keeps_what_a_device_cannot() -> None:
    profile = made("kws", 0.0, 1)
    predictor = fit([profile], "board")
    edge_only = msgspec.structs.replace(profile.units[-1], device=None)
    there = msgspec.structs.replace(profile, units=(*profile.units[:-1], edge_only))
    found = predict(predictor, there)
    assert (found.origin, found.device) == ("predicted", "board")
    assert found.units[-1].device is None


def test_live_steps_correct_it() -> None:
    profile = made("kws", 0.0, 1)
    predictor = fit([profile], "board")
    front = profile.units[:5]
    for _ in range(40):
        alone = sum(predictor.seconds(u, 8, w) for u in front for w in ("forward", "backward"))
        truth = 1.5 * alone / predictor.correction
        predictor = refine(predictor, front, 8, truth)
    assert predictor.correction == pytest.approx(1.5, rel=0.01)
    once = refine(predictor, front, 8, 100 * truth)
    assert once.correction / predictor.correction == pytest.approx(100**0.2, rel=0.01)
    with pytest.raises(ValueError, match="above 0"):
        refine(predictor, front, 8, 0.0)


def test_it_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    predictor = fit([made("ad", 0.1, 1)], "board")
    save_predictor(predictor, tmp_path / "p.json")
    assert load_predictor(tmp_path / "p.json") == predictor


def table(**changed: Any) -> dict[str, Any]:
    return {"scale": [1.0] * 7, "points": [[0.0] * 7], "weights": [0.1], **changed}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(format=1), "format"),
        (lambda d: d.update(laws=[]), "laws for all paths"),
        (lambda d: d["laws"][0].update(coefficients=[1.0]), "coefficients"),
        (lambda d: d["laws"][0]["coefficients"].__setitem__(0, -1.0), "coefficients"),
        (lambda d: d["laws"][0].update(rest=table(points=[])), "tables of a law"),
        (lambda d: d["laws"][0].update(rest=table(scale=[0.0] * 7)), "tables of a law"),
        (lambda d: d["laws"][0].update(rest=table(weights=[1.0, 2.0])), "tables of a law"),
        (lambda d: d["laws"][0].update(rest=table(points=[[1.0]])), "length 7"),
        (lambda d: d.update(lanes=0), "lanes"),
        (lambda d: d.update(correction=0), "correction"),
        (lambda d: d.update(extra=0), "extra"),
    ],
)
def test_every_field_is_checked(tmp_path: Path, change: Callable[[Any], object], text: str) -> None:
    path = tmp_path / "p.json"
    save_predictor(fit([made("ad", 0.1, 1)], "board"), path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ProfileError, match=text):
        load_predictor(path)


def test_what_was_never_measured_cannot_be_fitted(tmp_path: Path) -> None:
    profile = made("ad", 0.0, 1)
    bare = tuple(msgspec.structs.replace(unit, device=None) for unit in profile.units)
    with pytest.raises(ProfileError, match="measured on a device"):
        fit([msgspec.structs.replace(profile, units=bare)], "board")
    plain = msgspec.structs.replace(profile.units[0], features=None)
    with pytest.raises(ProfileError, match="measure anew"):
        fit([profile], "board").seconds(plain, 1, "forward")
    with pytest.raises(ProfileError, match="No such file"):
        load_predictor(tmp_path / "none.json")
