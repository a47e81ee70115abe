"""The C core compiles under its strict rules, keeps to its memory and has one variable."""

import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "kernels" / "core"
SOURCES = sorted([*CORE.glob("*.c"), *CORE.glob("*/*.c")])
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Werror"
STRICT = f"-std=c99 {WARNINGS} -ffp-contract=off -fno-strict-aliasing -fwrapv".split()
COMPILER = shutil.which("cc") or "cc"


def compile_c(*args):
    done = subprocess.run([COMPILER, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_core_file_compiles_free_standing_without_a_warning(source, tmp_path):
    compile_c(*STRICT, "-O2", "-ffreestanding", "-c", source, "-o", tmp_path / "x.o")


def test_the_core_has_one_variable(tmp_path):
    objects = []
    for source in SOURCES:
        objects.append(tmp_path / f"{source.stem}.o")
        compile_c(*STRICT, "-O1", "-fno-pic", "-c", source, "-o", objects[-1])
    listed = subprocess.run(["nm", *map(str, objects)], capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in listed.stdout.splitlines() if " " in line]
    assert [name for kind, name in symbols if kind in "dDbBC"] == ["chosen"]


def sanitizer(tmp_path):
    """Flags of AddressSanitizer and UBSan where the compiler has their libraries."""
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    done = subprocess.run(
        [COMPILER, *flags, str(probe), "-o", str(tmp_path / "probe")],
        capture_output=True,
        check=False,
    )
    return flags if done.returncode == 0 else []


@pytest.mark.parametrize("name", ["memory", "memory_q8", "memory_q8_train"])
def test_kernels_keep_to_their_memory_and_agree_between_variants(name, tmp_path):
    program = tmp_path / name
    needed = "add activation conv crc dense depthwise dispatch loss norm parcel pool round sgd"
    files = [CORE / f"{stem}.c" for stem in f"{needed} status walk".split()]
    files += CORE.glob("parcel_*.c")
    files += [*CORE.glob("q8_*.c"), *CORE.glob("arch/*.c")]
    compile_c(
        *STRICT,
        "-O1",
        *sanitizer(tmp_path),
        f"-I{CORE}",
        Path(__file__).with_name(f"{name}.c"),
        *files,
        "-lm",
        "-o",
        program,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
