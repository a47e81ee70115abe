"""Boards train the fronts of real networks: real edge host, real back, the bits of Linux devices in
every answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from board_zone import Heard, Zone, train
from seamline.runtime.message import read_exit_result

WATCH = {"shape": (100, 6), "model": {"name": "watch", "seam": 3}}  # convolutions 16, 24, 32
# The keyword network: a convolution and two depthwise-separable blocks.
KWS = {"shape": (49, 10, 1), "model": {"name": "dscnn", "seam": 5}}
STEPS = 3


def of(network: dict, arithmetic: str) -> Zone:
    """A round is one step: its WEIGHTS are what a device has learned by it."""
    return Zone(**network, train={"arithmetic": arithmetic, "batch": 2, "cloud_rounds": STEPS})


ZONES = {
    "watch-q8": of(WATCH, "q8"),
    "watch-f32": of(WATCH, "f32"),
    "kws-q8": of(KWS, "q8"),
    "kws-f32": of(KWS, "f32"),
}
BOARDS = {"q8": ("an385", "an386", "an500", "an547"), "f32": ("an386", "an500", "an547")}
CASES = [(kind, board) for kind in ZONES for board in BOARDS[kind.partition("-")[2]]]


@pytest.fixture(scope="module")
def linux(tmp_path_factory, objects) -> Callable[[str], Heard]:
    """What devices answer that are programs of this machine, by kind of zone."""
    found: dict[str, Heard] = {}

    def heard(kind: str) -> Heard:
        if kind not in found:
            found[kind] = train(tmp_path_factory.mktemp("linux"), ZONES[kind], {}, objects)
        return found[kind]

    return heard


def same(boards: Heard, linux: Heard) -> None:
    """All that was answered, named where it differs, and the models."""
    assert [answer[:4] for answer in boards.answers] == [answer[:4] for answer in linux.answers]
    pairs = zip(boards.answers, linux.answers, strict=True)
    assert [ours[:4] for ours, theirs in pairs if ours != theirs] == []
    assert boards.models == linux.models and len(set(linux.models)) > 1


@pytest.mark.parametrize(("kind", "board"), CASES)
def test_a_board_answers_with_the_bits_of_a_linux_device(
    tools, objects, linux, tmp_path, kind, board
):
    heard = train(tmp_path, ZONES[kind], {"d00": board}, objects)
    same(heard, linux(kind))
    weights = list(heard.of("WEIGHTS").values())
    assert len(weights) == STEPS == len(set(weights))


# The whole network on the board, the loss with it: three steps a round, labels stay there.
LOCAL = {"shape": (100, 6), "model": {"name": "watch"}, "mode": "federated"}
LOCAL_STEPS = {"batch": 2, "device_steps": 3, "cloud_rounds": 2, "evaluate_every": 1}
MIXED = {"q8": {"d00": "an385", "d01": "an386"}, "f32": {"d00": "an500"}}


@pytest.mark.parametrize("arithmetic", MIXED)
def test_a_board_with_the_loss_learns_what_a_linux_device_learns(
    tools, objects, tmp_path, arithmetic
):
    """A zone of two: boards among programs of this machine, and then none."""
    train_ = {"arithmetic": arithmetic, **LOCAL_STEPS}
    zone = Zone(**LOCAL, train=train_, devices=("d00", "d01"))
    linux = train(tmp_path / "linux", zone, {}, objects)
    boards = train(tmp_path / "boards", zone, MIXED[arithmetic], objects)
    same(boards, linux)
    assert boards.of("ACT") == {}
    results = boards.of("RESULT")
    assert len(results) == 2 * 2 * 2  # two evaluations, two devices, three samples in twos
    assert {len(body) for body in results.values()} == {12}


# An exit behind the seam: the board learns from it, sends every second batch's activation up, and
# answers what the exit is sure of.
EXIT = {"name": "watch", "seam": 2, "exits": [2], "exit_entropy": 1.2}
EXIT_STEPS = {"batch": 2, "device_steps": 3, "cloud_rounds": 3, "evaluate_every": 1}
EXIT_STEPS |= {"upload_every": 2, "front_rate": 0.3}
WITH_EXIT = {
    "q8": ({"d00": "an385", "d01": "an386"}, {"d00": "an500", "d01": "an547"}),
    "f32": ({"d00": "an386", "d01": "an500"},),
}


@pytest.mark.parametrize("arithmetic", WITH_EXIT)
def test_a_board_learns_from_its_exit_and_answers_early(tools, objects, tmp_path, arithmetic):
    """Every answer is a Linux device's, byte for byte."""
    zone = Zone(
        (100, 6),
        EXIT,
        {"arithmetic": arithmetic, **EXIT_STEPS},
        mode="local-loss",
        samples=5,
        devices=("d00", "d01"),
    )
    linux = train(tmp_path / "linux", zone, {}, objects)
    for number, boards in enumerate(WITH_EXIT[arithmetic]):
        heard = train(tmp_path / f"boards{number}", zone, boards, objects)
        same(heard, linux)
    assert len(linux.of("ACT")) == 3 * 2 * 2  # rounds, devices, of three steps the first and third
    found = [read_exit_result(body)[1] for body in linux.of("RESULT").values()]
    answers = np.concatenate(found)
    assert (answers < 0).any() and (answers >= 0).any()
