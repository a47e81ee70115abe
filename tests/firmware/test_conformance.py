"""Every kernel on emulated Cortex-M boards gives the bytes of this machine."""

from __future__ import annotations

from pathlib import Path

import conformance
import pytest
from seamline.firmware_bridge import image

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cases():
    return conformance.cases(60)


def test_every_kernel_gives_this_machines_bytes(board, cases, tmp_path):
    path = tmp_path / "cases.bin"
    path.write_bytes(conformance.encode(cases))
    sources = [HERE / "cases.c", *conformance.sources()]
    built = image.build(board, sources, tmp_path, ["-DCONFORMANCE_BARE"])
    said = image.run(board, built, [str(path)])
    assert list(conformance.answers(said)) == [board.variant]
    assert conformance.wrong_answers(said, cases) == []
