"""A stateful search over two ends in virtual time: any order of messages, faults, restarts and
pauses; whatever arrives was said, in order, and after all of it the line works.

SEAMLINE_LINK_RUNS sets the number of runs (500; `make nightly` has 10,000).
"""

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from seamline.runtime.faults import Faults, Silence
from seamline.runtime.line_model import CLEAR, World

RUNS = int(os.environ.get("SEAMLINE_LINK_RUNS", "500"))
SIDES = st.integers(0, 1)
HARM = dict.fromkeys(("burst", "drop", "duplicate", "insert", "truncate"), 1e-3) | {"ber": 3e-4}
QUIET = dict.fromkeys(HARM, 0.0)


class LinkMachine(RuleBasedStateMachine):
    """World with an owner at each end that checks every message."""

    kind = CLEAR

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        baud=st.sampled_from((9600, 115200, 921600)),
        mtu=st.sampled_from((64, 192, 1024)),
        window=st.sampled_from((1, 2, 8, 32)),
        first=st.sampled_from((1, -3)),
    )
    def start(self, seed: int, baud: int, mtu: int, window: int, first: int) -> None:
        line = Faults(baud=baud, delay_ms=1)
        self.world = World(
            self.kind,
            (line, line),
            seed,
            mtu=mtu,
            window=window,
            bytes_per_second=baud // 10,
            first_number=first % 2**self.kind.number_bits,
        )
        self.random = random.Random(seed)
        self.said: list[list[bytes]] = [[], []]
        self.heard = [0, 0]
        self.world.owner = self.look

    def look(self) -> None:
        for side in (0, 1):
            for data in self.world.messages(side):
                said = self.said[1 - side]
                assert data in said[self.heard[side] :], "not said, or said before"
                self.heard[side] = said.index(data, self.heard[side]) + 1
            self.world.events[side].clear()

    @rule(side=SIDES, size=st.sampled_from((9, 64, 65, 1000, 5000)))
    def say(self, side: int, size: int) -> None:
        body = self.random.randbytes(size)
        if self.world.send(side, body):
            self.said[side].append(body)

    @rule(seconds=st.sampled_from((0.001, 0.01, 0.1, 0.5, 4.0)))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(side=SIDES, name=st.sampled_from(sorted(HARM)))
    def harm(self, side: int, name: str) -> None:
        self.world.harm(side, **{name: HARM[name]})

    @rule(side=SIDES)
    def silence(self, side: int) -> None:
        self.world.harm(side, silence=(Silence(0.0),))

    @rule()
    def mend(self) -> None:
        self.world.faults(**QUIET, silence=())

    @rule(side=SIDES)
    def restart(self, side: int) -> None:
        self.look()
        self.world.boot(side)

    @rule(side=SIDES)
    def stop(self, side: int) -> None:
        self.world.frozen[side] = not self.world.frozen[side]

    @rule(side=SIDES, size=st.sampled_from((1, 30, 2000)))
    def noise(self, side: int, size: int) -> None:
        self.world.lines[side].push(self.random.randbytes(size), self.world.now_us)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def wait_is_finite(self) -> None:
        for end in self.world.ends:
            assert end is not None and end.wait(self.world.now_ms) <= 2750

    def teardown(self) -> None:
        """The faults are over: a message each way is through in half a minute."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.faults(**QUIET, silence=())
        world.frozen = [False, False]
        before = list(self.heard)

        def through() -> bool:
            for side in (0, 1):
                self.say(side, 100)
            return self.heard[0] > before[0] and self.heard[1] > before[1]

        world.until(through, 60.0)


TestLink = LinkMachine.TestCase
TestLink.settings = settings(
    max_examples=RUNS,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
