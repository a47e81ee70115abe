"""The C kernels, compiled for other machines and by other compilers, give the bytes of this one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from seamline.kernels import variants

HERE = Path(__file__).parent
RULES = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
RULES += ["-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv"]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance", HERE / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module
    spec.loader.exec_module(module)
    return module


conformance = _load()


@pytest.fixture(scope="module")
def cases():
    return conformance.cases(20)


@pytest.fixture(scope="module")
def case_file(cases, tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    path.write_bytes(conformance.encode(cases))
    return path


def build(compiler: str, program: Path, *flags: str) -> Path:
    command = [compiler, *RULES, *flags, f"-I{conformance.CORE}", *map(str, conformance.sources())]
    done = subprocess.run(
        [*command, "-lm", "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(shutil.which("cc") or "cc", tmp_path_factory.mktemp("host") / "conformance")


def test_every_variant_of_this_machine_gives_its_bytes(program, cases, case_file):
    said = run(program, case_file)
    assert list(conformance.answers(said)) == variants()
    assert conformance.wrong_answers(said, cases) == []


def test_another_input_gives_other_bytes(program, cases, tmp_path):
    case = next(case for case in cases if case.name == "f32_add")
    data = bytearray(conformance.encode([case]))
    data[-4] ^= 1  # the last bit of the last float
    path = tmp_path / "cases.bin"
    path.write_bytes(data)
    assert len(conformance.wrong_answers(run(program, path), [case])) == len(variants())


def test_a_case_that_does_not_fit_its_kernel_is_reported(program, tmp_path):
    path = tmp_path / "cases.bin"
    made = [
        conformance.Case("f32_add", (1,), (), 0),
        conformance.Case("f32_nothing", (), (), 0),
    ]
    path.write_bytes(conformance.encode(made))
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = conformance.answers(done.stdout)
    assert set(said["generic"].values()) == {"has too few arrays"}
    assert said["none"] == {1: "is not known here"}
