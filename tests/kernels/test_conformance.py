"""The C kernels, compiled for other machines and by other compilers, give the bytes of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import conformance
import pytest
from seamline.kernels import variants

HERE = Path(__file__).parent
RULES = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
RULES += ["-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv"]


ARM = "aarch64-linux-gnu-gcc"
ARM_PACKAGES = "qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
pytestmark = pytest.mark.timeout(600)  # compilers take long on a busy machine


@pytest.fixture(scope="module")
def cases():
    return conformance.cases(20)


@pytest.fixture(scope="module")
def case_file(cases, tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    path.write_bytes(conformance.encode(cases))
    return path


def compile_c(compiler: str, *arguments: str | Path) -> None:
    command = [compiler, *RULES, f"-I{conformance.CORE}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def build(compiler: str, folder: Path, *flags: str) -> Path:
    program = folder / "conformance"
    compile_c(compiler, *flags, *conformance.sources(), "-lm", "-o", program)
    return program


def run(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr + done.stdout[-500:]
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(shutil.which("cc") or "cc", tmp_path_factory.mktemp("host"), "-O1")


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


# ---- Other compilers and machines ----


def test_clang_makes_every_variant_with_the_same_bytes(needs, cases, case_file, tmp_path):
    needs("clang", packages="clang")
    said = run(build("clang", tmp_path, "-O1"), case_file)
    assert list(conformance.answers(said)) == variants()
    assert conformance.wrong_answers(said, cases) == []


@pytest.fixture(scope="module")
def arm_program(needs, tmp_path_factory):
    needs(ARM, "qemu-aarch64", packages=ARM_PACKAGES)
    return build(ARM, tmp_path_factory.mktemp("aarch64"), "-static")


@pytest.mark.parametrize(
    ("processor", "found"),
    [("cortex-a76", ["generic", "neon", "neon_dotprod"]), ("cortex-a72", ["generic", "neon"])],
)
def test_aarch64_has_its_variants_and_takes_the_best(arm_program, processor, found):
    best, *others = run("qemu-aarch64", "-cpu", processor, arm_program).split()
    assert best == found[-1]
    assert sorted([best, *others]) == found


@pytest.mark.parametrize("processor", ["cortex-a76", "cortex-a72"])
def test_aarch64_gives_the_bytes_of_this_machine(arm_program, processor, cases, case_file):
    said = run("qemu-aarch64", "-cpu", processor, arm_program, case_file)
    assert set(conformance.answers(said)) >= {"generic", "neon"}
    assert conformance.wrong_answers(said, cases) == []


def test_a_processor_without_byte_products_refuses_that_variant(arm_program, case_file):
    emulator = ("qemu-aarch64", "-cpu", "cortex-a72")
    said = run(*emulator, arm_program, case_file, "neon_dotprod", code=2)
    assert "neon_dotprod does not run here" in said


@pytest.fixture(scope="module")
def sanitized_core(needs, tmp_path_factory):
    """One object of all kernels for aarch64 that AddressSanitizer watches."""
    needs(ARM, "qemu-aarch64", packages=ARM_PACKAGES)
    folder = tmp_path_factory.mktemp("sanitized")
    objects = []
    for source in conformance.sources()[1:]:
        objects.append(folder / f"{source.parent.name}-{source.stem}.o")
        compile_c(ARM, "-O1", "-fsanitize=address", "-c", source, "-o", objects[-1])
    return objects


@pytest.mark.parametrize("name", ["memory", "memory_q8", "memory_q8_train"])
def test_aarch64_kernels_keep_to_their_memory(sanitized_core, name, tmp_path):
    program = tmp_path / name
    flags = ["-O1", "-fsanitize=address", "-static-libasan"]
    compile_c(ARM, *flags, HERE / f"{name}.c", *sanitized_core, "-lm", "-o", program)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # which asks for ptrace
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "cortex-a76", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
