"""A tier killed at any message, and started again, leaves no trace in the model (kills.py)."""

import asyncio
import threading

import pytest
from kills import KINDS, Series, nursery

RUNS = 34


class Loop:
    """An event loop in a thread, with one nursery for all tests."""

    def __init__(self, folder):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.nursery = nursery()
        self.series = Series(self.run(self.nursery.__aenter__()), folder)

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self):
        self.run(self.nursery.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    made = Loop(tmp_path_factory.mktemp("kills"))
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_killed_tier_changes_no_bit(line, seed):
    line.run(line.series.killed(seed))


def test_every_kind_of_job_is_killed():
    assert 2 * len(KINDS) <= RUNS
