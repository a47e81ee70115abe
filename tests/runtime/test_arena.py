"""Placement: what lives at once lies apart, no bound is undercut, few buffers lie best."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.runtime.arena import Buffer, bound, place
from seamline.runtime.networks import network
from seamline.runtime.plan import build_plan, read_plan, size_up

spans = st.tuples(st.integers(0, 9), st.integers(0, 5)).map(lambda s: (s[0], s[0] + s[1]))
buffers = st.builds(
    lambda size, spans: Buffer(16 * size, spans),
    st.integers(1, 12),
    st.lists(spans, min_size=1, max_size=2),
)


def apart(found: list[Buffer]) -> bool:
    """Does no buffer overlap another that lives at the same moment?"""
    return all(
        a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
        for a, b in combinations(found, 2)
        if a.meets(b)
    )


def largest_first(found: list[Buffer]) -> int:
    """The first planner's arena: largest first, each at the lowest place free during its life."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(found, key=lambda b: (-b.size, b.start)):
        at = 0
        for offset, other in sorted(placed, key=lambda p: p[0]):
            if buffer.meets(other) and at + buffer.size > offset:
                at = max(at, offset + other.size)
        placed.append((at, buffer))
    return max(offset + b.size for offset, b in placed)


def best_of_all(found: list[Buffer]) -> int:
    """The smallest arena there is: some order of ascending offsets pushes it down to this."""
    best = sum(b.size for b in found)
    for order in permutations(found):
        offsets: dict[Buffer, int] = {}
        for b in order:
            below = [offsets[o] + o.size for o in offsets if o.meets(b)]
            offsets[b] = max(below, default=0)
        best = min(best, max(offsets[b] + b.size for b in order))
    return best


@settings(max_examples=300)
@given(st.lists(buffers, min_size=1, max_size=24), st.integers(0, 4))
def test_what_lives_at_once_lies_apart_above_the_base_and_never_worse_than_largest_first(
    found, base
):
    end = place(found, 16 * base)
    assert apart(found)
    assert all(b.offset >= 16 * base and b.offset % 16 == 0 for b in found)
    assert end == max(b.offset + b.size for b in found)
    assert bound(found, 16 * base) <= end <= 16 * base + largest_first(found)


@settings(max_examples=100)
@given(st.lists(buffers, min_size=1, max_size=6))
def test_few_buffers_lie_as_well_as_in_the_best_of_all_orders(found):
    assert place(found, 0) == best_of_all(found)


def test_a_buffer_whose_life_has_a_pause_lets_another_live_in_it():
    found = [Buffer(64, [(0, 1), (4, 5)]), Buffer(64, [(2, 3)])]
    assert place(found, 0) == 64


def test_the_bound_counts_spans_of_one_buffer_that_meet_only_once():
    assert bound([Buffer(64, [(0, 2), (2, 3), (1, 1)]), Buffer(32, [(3, 4)])], 16) == 16 + 96


def test_scratch_lies_at_the_base_and_only_what_meets_it_gives_way():
    scratch = [Buffer(64, [(0, 0)]), Buffer(32, [(2, 2)])]
    found = [Buffer(16, [(1, 1)]), Buffer(16, [(0, 1)]), Buffer(48, [(1, 2)])]
    assert place(found, 32, scratch) == 32 + 96
    assert [b.offset for b in scratch] == [32, 32]
    assert found[1].offset >= 32 + 64 and found[2].offset >= 32 + 32 and found[0].offset == 32
    assert apart(found)


def test_the_same_buffers_get_the_same_places_every_time():
    def once():
        found = [Buffer(16 * (1 + i * 7 % 5), [(i % 6, i % 6 + i % 4)]) for i in range(20)]
        place(found, 0)
        return [b.offset for b in found]

    assert once() == once()


# Arenas of the first planner at batch 1 and 16, in bytes: whole fronts of the benchmarked networks.
FIRST = {
    ("kws", 1): 504560,
    ("kws", 16): 3413952,
    ("ic", 1): 410304,
    ("ic", 16): 5509824,
    ("vww", 1): 645184,
    ("vww", 16): 10045504,
    ("ad", 1): 1517056,
    ("ad", 16): 1578496,
    ("watch", 1): 50848,
    ("watch", 16): 218848,
}


@pytest.mark.parametrize(("name", "batch"), FIRST)
def test_no_front_takes_more_than_with_the_first_planner(name, batch):
    net = network(name)
    layers = net.layers[: net.front]
    plan = read_plan(build_plan(layers, net.input_shape, batch))
    assert size_up(layers, net.input_shape, batch).bound() <= plan.arena_bytes <= FIRST[name, batch]


def test_a_residual_sum_takes_no_place_of_its_own():
    net = network("ic")
    lives = size_up(net.layers[:7], net.input_shape, 1).lives()
    assert lives.values[6] is lives.values[5]  # the sum lies over the second convolution's output
    gradients = lives.gradients
    assert gradients[7] is gradients[6] is gradients[5] is gradients[2]
