"""What a wheel and a source distribution hold, and what a device has to install.

Nothing is compiled or fetched: `.ci/sizes.py` looks at what was really built.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest


@dataclass(frozen=True)
class Built:
    """Names of files; the compiled modules are not among those of the wheel."""

    wheel: list[str]
    sdist: list[str]
    metadata: str


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Runs setup.py up to what needs no compiler."""
    place = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(place)]
    command += ["sdist", "--dist-dir", str(place), "--formats", "gztar"]
    command += ["build_py", "--build-lib", str(place / "lib")]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lib = place / "lib"
    wheel = [str(path.relative_to(lib)) for path in lib.rglob("*") if path.is_file()]
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        sdist = [name.partition("/")[2] for name in file.getnames()]
    return Built(wheel, sdist, (place / "seamline.egg-info" / "PKG-INFO").read_text())


def compiled(sizes: ModuleType) -> list[str]:
    return [
        f"seamline/kernels/{module}.cpython-311-x86_64-linux-gnu.so" for module in sizes.MODULES
    ]


def test_the_wheel_holds_the_core_and_nothing_outside_of_seamline(
    built: Built, sizes: ModuleType
) -> None:
    assert sizes.wheel_faults(built.wheel + compiled(sizes)) == []
    assert not any(name.endswith((".pyx", ".so")) for name in built.wheel)


def test_the_wheel_holds_every_python_file_and_every_c_file(root: Path, built: Built) -> None:
    for part in ["kernels", "runtime", "edge_host", "cloud", "firmware_bridge"]:
        for path in (root / part).glob("*.py"):
            assert f"seamline/{part}/{path.name}" in built.wheel
    for path in (root / "src" / "seamline").glob("*.*"):
        assert f"seamline/{path.name}" in built.wheel
    for path in (root / "kernels" / "core").rglob("*.[ch]"):
        assert f"seamline/{path.relative_to(root)}" in built.wheel


def test_the_source_distribution_can_be_built_tested_and_checked(
    root: Path, built: Built, sizes: ModuleType
) -> None:
    assert sizes.sdist_faults(built.sdist) == []
    for name in [".ci/run", ".ci/tools", ".importlinter", ".clang-format", "DESIGN.md"]:
        assert name in built.sdist
    for path in (root / "tests").rglob("test_*.py"):
        assert str(path.relative_to(root)) in built.sdist


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["kernels/__init__.py"], "kernels/__init__.py is outside of seamline/"),
        (["seamline/tests/test_a.py"], "seamline/tests/test_a.py must not be installed"),
        ([], "seamline/kernels/core/seam.h is missing"),
        ([], "expected one compiled seamline.kernels._front, got []"),
    ],
)
def test_a_fault_of_a_wheel_is_named(sizes: ModuleType, names: list[str], fault: str) -> None:
    assert fault in sizes.wheel_faults(names)


def test_a_fault_of_a_source_distribution_is_named(sizes: ModuleType) -> None:
    faults = sizes.sdist_faults(["kernels/_core.c"])
    assert "kernels/_core.c is made by a build" in faults
    assert "kernels/_core.pyx is missing" in faults


def test_a_device_installs_five_packages_and_no_torch(built: Built) -> None:
    lines = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", built.metadata, re.MULTILINE)
    device = {
        name for name, rest in lines if "extra ==" not in rest and "python_version" not in rest
    }
    assert device == {"numpy", "pyzmq", "pyserial", "cryptography", "msgspec"}


@pytest.mark.parametrize("program", ["runtime.device", "cloud.server"])
def test_a_light_program_loads_no_torch_and_nothing_that_draws(program: str) -> None:
    code = f"import sys, seamline.{program}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert {"torch", "rich", "matplotlib", "jinja2", "scipy"}.isdisjoint(result.stdout.split())
