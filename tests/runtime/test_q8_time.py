"""Profiles of devices in int8: times of the int8 kernels, the int8 planner's memory, one codec."""

from __future__ import annotations

import msgspec
import pytest
from seamline.edge_host.measure import Setting, measure
from seamline.edge_host.models import input_shape, load_model
from seamline.edge_host.split import list_candidates
from seamline.runtime.budget import Choice, need
from seamline.runtime.profile import Profile, ProfileError, load_profile, save_profile
from seamline.runtime.q8_time import time_q8

from seamline.cli import main


@pytest.fixture(scope="module")
def watch() -> Profile:
    return measure(load_model("watch", {}, 0), Setting("watch", "d", "e", batch=4, repeat=1))


def test_a_front_takes_in_int8_what_its_units_take_together(watch: Profile) -> None:
    found = time_q8(watch, "pi", 1)
    assert (found.arithmetic, found.device, found.origin) == ("q8", "pi", "measured")
    for old, new in zip(watch.units, found.units, strict=True):
        assert new.device is not None and new.device != old.device and new.edge == old.edge
    whole = [unit.device for unit in found.units if unit.device is not None]
    assert sum(times.infer for times in whole) > 0 and sum(times.backward for times in whole) > 0


def test_memory_and_messages_are_those_of_the_int8_planner(watch: Profile) -> None:
    model, found = load_model("watch", {}, 0), time_q8(watch, "pi", 1)
    for candidate in list_candidates(model, input_shape(model)):
        seam = next(seam for seam in found.seams if seam.number == candidate.weighted)
        needs = need(candidate, Choice(4, "q8"))
        assert (seam.training_ram, seam.flash) == (needs.training_ram, needs.flash_bytes)
        assert (seam.weights_up, seam.weights_down) == (needs.weights_up, needs.weights_down)
    assert [codec.name for codec in found.codecs] == ["int8"]


def test_what_has_no_int8_or_no_layers_is_said(watch: Profile) -> None:
    normed = measure(load_model("resnet8", {}, 0), Setting("resnet8", "d", "e", batch=1, repeat=1))
    with pytest.raises(ProfileError, match=r"resnet8, seam 1, in int8: .*group_norm"):
        time_q8(normed, "pi", 1)
    units = [msgspec.structs.replace(unit, layers=0) for unit in watch.units]
    with pytest.raises(ProfileError, match="has no layers"):
        time_q8(msgspec.structs.replace(watch, units=tuple(units), layers=()), "pi", 1)


def test_the_command_times_a_device_in_int8(capsys, watch: Profile, tmp_path) -> None:
    kept, out = tmp_path / "watch.json", tmp_path / "q8.json"
    save_profile(watch, kept)
    words = ["profile", str(kept), "--dtype", "q8", "--repeat", "1", "--id", "pi"]
    assert main([*words, "--out", str(out)]) == 0
    assert "device pi (measured, q8)" in capsys.readouterr().out
    assert load_profile(out).arithmetic == "q8"
    assert main(["plan", "watch", "--profile", str(out), "--bandwidth", "100k"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mhz", "64"], "--mhz is a board's clock"),
        (["--bank", "--dtype", "q8"], "laws are of a machine's f32 kernels"),
        (["--board", "none"], "the emulator has an385"),
        (["--board", "an385", "--dtype", "f32"], "computes in int8 only"),
    ],
)
def test_options_that_exclude_one_another(
    capsys, watch: Profile, tmp_path, words: list[str], said: str
) -> None:
    save_profile(watch, tmp_path / "watch.json")
    assert main(["profile", str(tmp_path / "watch.json"), *words]) == 2
    assert said in capsys.readouterr().err
