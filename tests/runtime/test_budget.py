"""What `seamline plan` says is what a plan, a session and messages really take."""

from __future__ import annotations

import numpy as np
import pytest
from seamline.kernels import parcel
from seamline.kernels.front import NOTHING, SEND, Session
from seamline.runtime import message as wire_format
from seamline.runtime.boards import BOARDS, Board, find_board
from seamline.runtime.budget import Candidate, Choice, need, wire
from seamline.runtime.errors import UserError
from seamline.runtime.fit import fits, least, ways
from seamline.runtime.message import Kind, Message
from seamline.runtime.networks import network
from seamline.runtime.plan import LayerSpec, PlanError, build_plan, read_plan, size_up
from seamline.runtime.q8_plan import build_q8_plan, size_up_q8, sums_of
from seamline.runtime.quantised import fuse
from seamline.runtime.recompute import choose

KB = 1024


def front(name: str) -> Candidate:
    net = network(name)
    return Candidate(0, "front", net.layers[: net.front], net.input_shape)


def whole(name: str) -> Candidate:
    net = network(name)
    return Candidate(0, "end", net.layers, net.input_shape)


def candidates(name: str) -> list[Candidate]:
    """Behind each unit of a chain."""
    net = network(name)
    return [
        Candidate(i, unit.name, net.layers[: unit.end], net.input_shape)
        for i, unit in enumerate(net.units, 1)
    ]


# ---- f32: against the plan, the session, the messages ----


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_sections_are_the_arena_of_the_plan(batch, recompute):
    it = front("kws")
    found = need(it, Choice(batch, recompute=recompute))
    again = choose(size_up(it.layers, it.input_shape, batch)) if recompute else ()
    plan = build_plan(it.layers, it.input_shape, batch, again=again)
    assert found.training_ram - found.training["session"] == read_plan(plan).arena_bytes
    assert found.flash == {"weights": 4 * read_plan(plan).parameters, "plan": len(plan)}
    assert found.again == tuple(sorted(again))
    assert found.training_bound <= found.training_ram


def answer_to_plan(plan: bytes, batch: int, codec: str, memory: int) -> Message:
    session = Session("d", b"bootboot", 9, 9, memory)
    session.hello()
    hello = Message(Kind.WELCOME, 7, 0, 0, 0, wire_format.welcome_body())
    assert session.receive(hello.encode()) == NOTHING
    number = parcel.CODECS[codec]
    settings = wire_format.Settings(1, batch, number, number, 1, 0.9, 0.0)
    body = wire_format.plan_body(settings, plan)
    assert session.receive(Message(Kind.PLAN, 7, 0, 0, 0, body).encode()) == SEND
    return Message.decode(session.answer())


@pytest.mark.parametrize("codec", ["f32", "int8", "int4"])
@pytest.mark.parametrize("name", ["watch", "vww"])
def test_a_session_takes_the_ram_that_is_said_and_not_a_byte_less(name, codec):
    it = front(name)
    ram = need(it, Choice(3, codec=codec)).training_ram
    plan = build_plan(it.layers, it.input_shape, 3)
    assert answer_to_plan(plan, 3, codec, ram).kind == Kind.READY
    assert answer_to_plan(plan, 3, codec, ram - 1).kind == Kind.ERROR


@pytest.mark.parametrize("codec", ["f32", "int8", "int4"])
def test_the_wire_is_as_long_as_the_messages(codec):
    it = front("watch")
    activation = parcel.pack(np.zeros((4, *it.shape), np.float32), codec)
    up = Message(Kind.ACT, 1, 0, 0, 0, bytes(4 + 2 * 4) + activation).encode()
    down = Message(Kind.GRAD, 1, 0, 0, 0, bytes(8) + activation).encode()
    assert (wire(it, 4, codec).up, wire(it, 4, codec).down) == (len(up), len(down))


@pytest.mark.parametrize(
    ("name", "macs"), [("kws", 2656768), ("ic", 12501632), ("vww", 7489664), ("ad", 264192)]
)
def test_the_multiply_adds_are_those_of_the_published_networks(name, macs):
    found = need(whole(name), Choice(2))
    assert found.forward_macs == 2 * macs
    first = network(name).layers[0]
    dx_of_first = first.multiply_adds(network(name).input_shape)
    assert found.step_macs == 2 * (3 * macs - dx_of_first)


# ---- q8: against the plan and the session, and the bars ----


def q8_plan(it: Candidate, choice: Choice) -> bytes:
    specs, sums = fuse(it.layers)[0], sums_of(recompute=choice.recompute)
    how = {"momentum": choice.momentum, "sums": sums}
    again = choose(size_up_q8(specs, it.input_shape, choice.batch, **how))
    again = again if choice.recompute else ()
    return build_q8_plan(specs, it.input_shape, choice.batch, again=again, **how)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("momentum", ["int8", "float", "none"])
@pytest.mark.parametrize("name", ["kws", "ic", "watch"])
def test_an_int8_session_takes_the_ram_that_is_said_and_not_a_byte_less(name, momentum, recompute):
    it = front(name)
    choice = Choice(2, "q8", recompute=recompute, momentum=momentum)
    plan, found = q8_plan(it, choice), need(it, choice)
    assert found.training_ram - found.training["session"] == read_plan(plan).arena_bytes
    assert found.flash["plan"] == len(plan)
    assert answer_to_plan(plan, 2, "int8", found.training_ram).kind == Kind.READY
    assert answer_to_plan(plan, 2, "int8", found.training_ram - 1).kind == Kind.ERROR


@pytest.mark.parametrize("name", ["kws", "ic", "vww", "ad"])
def test_an_int8_front_that_only_infers_takes_what_is_said(name):
    it = whole(name)
    specs = fuse(it.layers)[0]
    plan = build_q8_plan(specs, it.input_shape, 1, training=False)
    kept = size_up_q8(specs, it.input_shape, 1).base(training=False)
    assert read_plan(plan).arena_bytes - kept == need(it, Choice(1, "q8")).inference_ram


@pytest.mark.parametrize(
    ("name", "bar"), [("kws", 24.3 * KB), ("ic", 56.0 * KB), ("vww", 103.7 * KB), ("ad", 4.0 * KB)]
)
def test_int8_inference_takes_less_ram_than_tflite_micros_arena(name, bar):
    found = need(whole(name), Choice(1, "q8"))
    assert found.inference_ram < bar
    assert found.inference_bound == found.inference_ram


def test_the_two_block_front_of_kws_trains_in_int8_below_72_kb():
    found = need(front("kws"), Choice(1, "q8", recompute=True))
    assert found.training_ram < 72 * KB, "with all that a session keeps"


def test_momentum_of_an_int8_front_is_as_large_as_asked_for():
    it = front("kws")
    sizes = [need(it, Choice(1, "q8", momentum=m)).training["momentum"] for m in ("none", "int8")]
    assert sizes[0] == 0 < sizes[1] < need(it, Choice(1, "f32")).training["momentum"]


def test_group_norm_has_no_int8_front():
    layers = [LayerSpec("conv2d", 0, (4, 4, 8)), LayerSpec("group_norm", 1, (4, 4, 8), groups=2)]
    with pytest.raises(PlanError, match="group_norm"):
        need(Candidate(1, "norm", layers, (4, 4, 3)), Choice(1, "q8"))


# ---- boards ----


def board(ram: int, flash: int = 0) -> Board:
    return Board("test", "Test", "core", ram, flash)


def test_an_unknown_board_lists_the_known():
    with pytest.raises(UserError, match="no board 'uno'; there are nano33ble, stm32f4-discovery"):
        find_board("uno")
    assert find_board("nano33ble").ram == 256 * KB
    assert all(name == known.name for name, known in BOARDS.items())


def test_each_way_fits_and_no_way_changes_more_than_it_must():
    every = candidates("kws")
    choice = Choice(8)
    target = board(300_000)
    assert not fits(target, need(every[4], choice))
    found = ways(target, every, every[4], choice)
    assert found
    for way in found:
        assert way.need.training_ram == need(way.candidate, way.choice).training_ram <= target.ram
        assert (way.choice.batch < 8) == ("batch" in way.changed)
        assert way.choice.recompute == ("recompute" in way.changed)
        assert (way.choice.dtype == "q8") == ("q8" in way.changed)
        assert (way.candidate.weighted < 5) == ("seam" in way.changed)
        assert not any(set(other.changed) < set(way.changed) for other in found)


def test_a_smaller_batch_is_the_largest_that_fits():
    it = front("watch")
    target = board(need(it, Choice(11)).training_ram)
    (way,) = [w for w in ways(target, [it], it, Choice(64)) if w.changed == ("batch",)]
    assert fits(target, need(it, Choice(way.choice.batch)))
    assert not fits(target, need(it, Choice(way.choice.batch + 1)))
    assert way.choice.batch >= 11


def test_an_earlier_seam_is_the_deepest_that_fits():
    every = candidates("kws")
    target = board(need(every[2], Choice(1)).training_ram)
    (way,) = [w for w in ways(target, every, every[4], Choice(1)) if w.changed == ("seam",)]
    assert way.candidate is every[2]


def test_flash_counts_too():
    every = candidates("kws")
    found = need(every[4], Choice(1))
    assert fits(board(10**6, found.flash_bytes), found)
    assert not fits(board(10**6, found.flash_bytes - 1), found)
    small = ways(board(10**6, found.flash_bytes - 1), every, every[4], Choice(1))
    assert {way.changed for way in small} == {("q8",), ("seam",)}


def test_where_nothing_fits_the_least_is_known():
    every = candidates("kws")
    assert ways(board(1000), every, every[4], Choice(1)) == []
    best = least(every, Choice(1))
    assert best.candidate is every[0] and best.choice.dtype == "q8"
