"""Random windows and arrays for the tests of the kernels, and the driver of hostile bytes."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seamline.kernels import choose_variant, variant, variants

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "kernels" / "core"


@pytest.fixture(params=variants())
def each_variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with every set of micro-kernels this machine has."""
    before = variant()
    choose_variant(request.param)
    yield request.param
    choose_variant(before)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Seeded by the name of the test, so that a failure repeats."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """float32 of a shape, some of it zero and some tiny (sums must not lose signs or denormals)."""

    def make(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape).astype(np.float32)
        x[rng.random(shape) < 0.05] = 0
        x[rng.random(shape) < 0.02] *= np.float32(1e-38)
        return x

    return make


@pytest.fixture
def window(rng: np.random.Generator) -> Callable[..., tuple[tuple[int, ...], dict[str, Any]]]:
    """A random input shape (n, h, w, c) and the arguments of a window that fits it."""

    def make(most_channels: int = 20) -> tuple[tuple[int, ...], dict[str, Any]]:
        while True:
            n, c = int(rng.integers(1, 5)), int(rng.integers(1, most_channels + 1))
            h = 1 if rng.random() < 0.3 else int(rng.integers(1, 9))
            w = int(rng.integers(1, 14))
            kernel = (1 if h == 1 else int(rng.integers(1, 5)), int(rng.integers(1, 6)))
            stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
            dilation = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
            pads = [int(v) for v in rng.integers(0, 4, 4)]
            reach_h = (kernel[0] - 1) * dilation[0] + 1
            reach_w = (kernel[1] - 1) * dilation[1] + 1
            if h + pads[0] + pads[1] < reach_h or w + pads[2] + pads[3] < reach_w:
                continue
            padding = ((pads[0], pads[1]), (pads[2], pads[3]))
            shape = (n, h, w, c)
            return shape, {
                "kernel": kernel,
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
            }

    return make


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs hostile conversations with memory of exact bounds, under sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler is not None
    path = tmp_path_factory.mktemp("hostile") / "driver"
    files = [*CORE.glob("*.c"), *(CORE / "arch").glob("*.c"), HERE / "hostile.c"]
    command = [compiler, "-std=c11", "-O1", "-g", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", "-ffp-contract=off", f"-I{CORE}", "-o", str(path)]
    subprocess.run([*command, *map(str, files), "-lm"], check=True)
    return path
