"""Every kernel on emulated Cortex-M boards gives the bytes of this machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from seamline.firmware_bridge import image

HERE = Path(__file__).parent


def _load() -> ModuleType:
    path = HERE.parent / "kernels" / "conformance.py"
    spec = importlib.util.spec_from_file_location("conformance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module
    spec.loader.exec_module(module)
    return module


conformance = _load()


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
