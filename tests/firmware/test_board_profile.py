"""A profile of a microcontroller: instructions of an emulated board over a clock."""

from __future__ import annotations

import pytest
from seamline.edge_host.measure import Setting, measure
from seamline.edge_host.models import load_model
from seamline.firmware_bridge.board_profile import profile_board
from seamline.runtime.profile import Profile, Times, check_profile


@pytest.fixture(scope="module")
def watch() -> Profile:
    return measure(load_model("watch", {}, 0), Setting("watch", "d", "e", batch=4, repeat=1))


def times_of(profile: Profile) -> list[Times]:
    return [unit.device for unit in profile.units if unit.device is not None]


def test_a_board_takes_its_instructions_over_its_clock(tools: None, watch: Profile) -> None:
    slow, fast = (profile_board(watch, "an386", mhz, "q8") for mhz in (32, 64))
    assert slow.device == "Cortex-M4 (an386) at 32 MHz" and slow.arithmetic == "q8"
    for one, two in zip(times_of(slow), times_of(fast), strict=True):
        assert one.infer == pytest.approx(2 * two.infer, rel=1e-3)
        assert one.forward == pytest.approx(4 * one.infer)  # the batch
        assert one.backward > 0
    total = 32e6 * sum(times.infer for times in times_of(slow))
    assert 1e5 < total < 5e5  # instructions: 126,240 multiply-adds in int8
    check_profile(fast)


def test_a_board_with_floats_is_slower_in_them(tools: None, watch: Profile) -> None:
    floats = profile_board(watch, "an386", 64, "f32")
    int8 = profile_board(watch, "an386", 64, "q8")
    assert floats.arithmetic == "f32"
    assert sum(t.infer for t in times_of(floats)) > sum(t.infer for t in times_of(int8))
    assert floats.codecs[1].device_pack > watch.codecs[1].device_pack
