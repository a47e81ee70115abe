"""How much of a paced line is payload at four error rates, in virtual time; and that the packets'
size follows the line.
"""

import pytest
from seamline.runtime.faults import Faults
from seamline.runtime.line_model import World, utilisation

BARS = {0.0: 0.95, 1e-6: 0.94, 1e-5: 0.85, 1e-4: 0.70}


@pytest.mark.parametrize("baud", [115200, 921600])
@pytest.mark.parametrize("ber", BARS)
@pytest.mark.parametrize("size", [16384, 262144])
def test_a_paced_line_is_used(size: int, ber: float, baud: int) -> None:
    line = Faults(baud=baud, ber=ber, delay_ms=1)
    world = World(faults=(line, line), seed=1, bytes_per_second=baud // 10).join()
    share = utilisation(world, size, 2**20 // size, baud / 10)
    assert share >= BARS[ber]


def test_packets_shrink_on_a_bad_line_and_grow_back_on_a_clean_one() -> None:
    line = Faults(baud=921600, ber=1e-4, delay_ms=1)
    world = World(faults=(line, line), seed=1, bytes_per_second=92160).join()
    utilisation(world, 16384, 20, 92160)
    assert 64 <= world.end(0).counters["mtu"] <= 192
    world.faults(ber=0.0)
    utilisation(world, 16384, 30, 92160)
    assert world.end(0).counters["mtu"] == 1024
