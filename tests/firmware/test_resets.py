"""A board that loses its power at any moment, and comes back, leaves no trace in the model."""

import asyncio

from kills import BOARDS, Series, nursery

RUNS = 2  # of those that `make kill-test` makes


def test_a_board_without_power_for_a_moment_changes_no_bit(tools, tmp_path):
    async def runs():
        async with nursery() as made:
            line = Series(made, tmp_path)
            return [await line.killed(seed, BOARDS) for seed in range(RUNS)]

    for run in asyncio.run(runs()):
        assert any(run.kind.serial in fault.victims for fault in run.fell)
