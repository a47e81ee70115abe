"""Exported fronts: each kind of folder is built as far as this machine can, and gives the bytes
that the front gives in Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from seamline.firmware_bridge import image, objects
from seamline.firmware_bridge.export import export_front
from seamline.firmware_bridge.packages import package
from seamline.kernels.front import Front
from seamline.runtime.calibration import calibrate
from seamline.runtime.float_front import FloatFront, write_float_front
from seamline.runtime.networks import make_piece, network
from seamline.runtime.plan import LayerSpec, build_plan
from seamline.runtime.quantise import quantise
from seamline.runtime.quantised import run as run_q8
from seamline.runtime.quantised import write_front

from seamline.cli import main

ROOT = Path(__file__).parents[2]
DTYPES = ("q8", "f32")
STRICT = ["-Wall", "-Wextra", "-Werror"]
SAMPLES = 3

# Reads samples, writes what the front makes of each.
HOST_MAIN = """
#include <stdio.h>
#include "front.h"
int main(void) {
    while (fread(front_input(), sizeof *front_input(), FRONT_INPUTS, stdin) == FRONT_INPUTS)
        fwrite(front_run(), sizeof *front_run(), FRONT_OUTPUTS, stdout);
    return 0;
}
"""

# The same for int8 samples that come in float.
FLOAT_MAIN = """
#include <stdio.h>
#include "front.h"
int main(void) {
    static float x[FRONT_INPUTS];
    while (fread(x, sizeof *x, FRONT_INPUTS, stdin) == FRONT_INPUTS) {
        front_set(x);
        fwrite(front_input(), 1, FRONT_INPUTS, stdout);
    }
    return 0;
}
"""


def every_kind() -> tuple[list[LayerSpec], tuple[int, int, int]]:
    """A net of all layers that both int8 and float have."""
    same = ((1, 1), (1, 1))
    return [
        LayerSpec("conv2d", 0, (8, 6, 8), kernel=(3, 3), padding=same),
        LayerSpec("relu", 1, (8, 6, 8), ceiling=6.0),
        LayerSpec("depthwise", 2, (8, 6, 8), kernel=(3, 3), padding=same, has_bias=False),
        LayerSpec("add", 3, (8, 6, 8), second_input=2),
        LayerSpec("max_pool", 4, (4, 3, 8), kernel=(2, 2), stride=(2, 2)),
        LayerSpec("relu", 5, (4, 3, 8)),
        LayerSpec("average_pool", 6, (2, 3, 8), kernel=(2, 1), stride=(2, 1)),
        LayerSpec("flatten", 7, (1, 1, 48)),
        LayerSpec("dense", 8, (1, 1, 5)),
    ], (8, 6, 3)


def chain(net: str) -> tuple[list[LayerSpec], tuple[int, int, int]]:
    if net == "every":
        return every_kind()
    if net == "normed":
        layers, shape = every_kind()
        return [layers[0], LayerSpec("group_norm", 1, (8, 6, 8), groups=2)], shape
    whole = network(net)
    return whole.part(0, whole.front)


def made(net: str, dtype: str, folder: Path):
    """The front's file, samples, and what it makes of them, as bytes."""
    layers, shape = chain(net)
    piece = make_piece(layers, shape, SAMPLES)
    path = folder / f"{net}-{dtype}.npz"
    if dtype == "f32":
        front = Front(build_plan(layers, shape, SAMPLES))
        front.params[:] = piece.parameters
        write_float_front(path, FloatFront(layers, shape, piece.parameters))
        return path, piece.x, front.forward(piece.x)
    front = quantise(
        layers, shape, piece.parameters, calibrate(layers, shape, piece.parameters, piece.x)
    )
    write_front(path, front)
    x = front.quantise(piece.x)
    return path, x, run_q8(front, x)


def export(path: Path, to: Path, as_: str, *more: str) -> Path:
    assert main(["firmware", "export", str(path), "--to", str(to), "--as", as_, *more]) == 0
    return to


def sources(folder: Path) -> list[str]:
    return [str(p) for p in sorted(folder.rglob("*.c")) if p.name != "main.c"]


def cc(*words: object, compiler: str = "gcc") -> None:
    done = subprocess.run([compiler, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def host(needs) -> None:
    needs("gcc", packages="gcc")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("net", ["every", "kws", "watch"])
@pytest.mark.parametrize("options", [["-Os"], ["-O3", "-march=native", "-ffast-math"]], ids=str)
def test_a_folder_gives_pythons_bytes_whatever_the_projects_options(
    net, dtype, options, host, tmp_path
):
    if "-ffast-math" in options and dtype == "f32":
        options = ["-O3", "-march=native"]  # nothing can make floats right under that
    path, x, y = made(net, dtype, tmp_path)
    folder = export(path, tmp_path / "out", "c")
    (tmp_path / "host.c").write_text(HOST_MAIN)
    program = tmp_path / "program"
    cc(
        *options,
        *STRICT,
        f"-I{folder}",
        tmp_path / "host.c",
        *sources(folder),
        "-lm",
        "-o",
        program,
    )
    done = subprocess.run([program], input=x.tobytes(), capture_output=True, check=True)
    assert done.stdout == y.tobytes()
    check = tmp_path / "check"
    cc(*options, *STRICT, folder / "main.c", *sources(folder), "-lm", "-o", check)
    assert subprocess.run([check], check=False).returncode == 0


def test_group_norm_is_exported_in_float(host, tmp_path):
    layers, shape = chain("normed")
    front = FloatFront(layers, shape, make_piece(layers, shape, 1).parameters)
    for name, text in package(export_front(front, "front", "1.2.3"), "c", "1.2.3").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    cc(*STRICT, tmp_path / "main.c", *sources(tmp_path), "-lm", "-o", tmp_path / "check")
    assert subprocess.run([tmp_path / "check"], check=False).returncode == 0


def test_the_self_check_finds_other_bytes(host, tmp_path):
    path, _, _ = made("watch", "q8", tmp_path)
    folder = export(path, tmp_path / "out", "c")
    code = folder / "front.c"
    first = code.read_text().index("weights_0[")
    start = code.read_text().index("{", first) + 1
    code.write_text(code.read_text()[:start] + " 99 + " + code.read_text()[start:].lstrip())
    cc("-w", folder / "main.c", *sources(folder), "-o", tmp_path / "check")
    assert subprocess.run([tmp_path / "check"], check=False).returncode == 1


def test_samples_in_float_are_taken_as_python_takes_them(host, tmp_path):
    path, _, _ = made("every", "q8", tmp_path)
    layers, shape = every_kind()
    piece = make_piece(layers, shape, SAMPLES)
    ranges = calibrate(layers, shape, piece.parameters, piece.x)
    front = quantise(layers, shape, piece.parameters, ranges)
    halves = (np.arange(144) - 72.0) * 0.5 * front.scale(0)
    edges = [np.inf, -np.inf, 1e30, -1e30, 0.0, -0.0]
    x = np.stack([piece.x[0].ravel(), halves, np.resize(edges, 144)]).astype(np.float32)
    folder = export(path, tmp_path / "out", "c")
    (tmp_path / "host.c").write_text(FLOAT_MAIN)
    program = tmp_path / "program"
    cc("-Os", *STRICT, f"-I{folder}", tmp_path / "host.c", *sources(folder), "-o", program)
    done = subprocess.run([program], input=x.tobytes(), capture_output=True, check=True)
    assert done.stdout == front.quantise(x.reshape(SAMPLES, *shape)).tobytes()


def test_only_the_kernels_of_its_layers_are_there(tmp_path):
    path, _, _ = made("watch", "q8", tmp_path)
    names = {p.name for p in export(path, tmp_path / "out", "c").rglob("*.c")}
    assert names >= {"front.c", "q8_conv.c", "variant.c"}
    assert not names & {"q8_depthwise.c", "q8_pool.c", "q8_add.c", "plan.c", "generic.c"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folder_runs_on_boards(board, dtype, tmp_path):
    """The self check of main.c, its exit code handed over by the board's own files."""
    path, _, _ = made("kws", dtype, tmp_path)
    folder = export(path, tmp_path / "out", "c")
    if dtype == "f32" and board.core == "Cortex-M3":  # no FPU
        with pytest.raises(RuntimeError, match="needs an FPU: export the int8 front"):
            objects.compile_files(board, [folder / "front.c"], tmp_path / "o")
        return
    files = [*map(Path, sources(folder)), folder / "main.c"]
    compiled = objects.compile_files(board, [*files, *objects.base_files(board)], tmp_path / "o")
    linked = objects.link(board, compiled, tmp_path / "o")
    assert image.run(board, linked.image) == ""


# What the sketch has of the Arduino core and of its C library.
ARDUINO = """
struct Line {
    void begin(long);
    operator bool();
    void println(const char *);
    void println(unsigned long);
};
extern Line Serial;
unsigned long micros(void);
"""
STRING = """
#include <stddef.h>
extern "C" void *memcpy(void *, const void *, size_t);
extern "C" int memcmp(const void *, const void *, size_t);
"""


def test_the_arduino_library_is_one_of_c_and_cpp(tools, tmp_path):
    """As the IDE builds it: every file of src with -Os, the sketch as C++ beside the core's API."""
    path, _, _ = made("kws", "q8", tmp_path)
    folder = export(path, tmp_path / "out", "arduino")
    properties = dict(
        line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines()
    )
    needed = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category"}
    assert needed | {"url", "architectures"} <= set(properties)
    assert (folder / "src" / properties["includes"]).is_file()
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    (tmp_path / "string.h").write_text(STRING)
    [sketch] = folder.rglob("*.ino")
    cpu = ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-mthumb", "-Os", *STRICT]
    cc(*cpu, "-ffreestanding", "-x", "c++", "-std=gnu++11", f"-I{folder / 'src'}", f"-I{tmp_path}",
       "-include", "Arduino.h", "-c", sketch, "-o", tmp_path / "sketch.o",
       compiler="arm-none-eabi-g++")  # fmt: skip
    for number, source in enumerate(sources(folder)):
        cc(*cpu, f"-I{image.HERE / 'include'}", "-ffreestanding", "-c", source, "-o",
           tmp_path / f"{number}.o", compiler="arm-none-eabi-gcc")  # fmt: skip


def test_the_platformio_library_says_where_its_files_are(tmp_path):
    import json

    path, _, _ = made("watch", "q8", tmp_path)
    folder = export(path, tmp_path / "out", "platformio")
    document = json.loads((folder / "library.json").read_text())
    assert (folder / document["build"]["srcDir"] / document["headers"]).is_file()
    [example] = document["examples"]
    assert all((folder / example["base"] / name).is_file() for name in example["files"])
    assert document["version"].count(".") == 2 and document["license"] == "Apache-2.0"


# What a Zephyr build does with a module, as far as this one asks for it.
ZEPHYR = """
cmake_minimum_required(VERSION 3.20)
project(as_zephyr C)
set(CONFIG_SEAMLINE_FRONT y)
macro(zephyr_library_named name)
  set(ZEPHYR_CURRENT_LIBRARY ${{name}})
  add_library(${{name}} STATIC)
endmacro()
function(zephyr_library_sources)
  target_sources(${{ZEPHYR_CURRENT_LIBRARY}} PRIVATE ${{ARGN}})
endfunction()
function(zephyr_library_compile_options)
  target_compile_options(${{ZEPHYR_CURRENT_LIBRARY}} PRIVATE ${{ARGN}})
endfunction()
function(zephyr_include_directories)
  foreach(folder ${{ARGN}})
    target_include_directories(
      ${{ZEPHYR_CURRENT_LIBRARY}} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}}/${{folder}})
  endforeach()
endfunction()
add_subdirectory({module} module)
add_executable(check {module}/samples/selfcheck/src/main.c)
target_link_libraries(check seamline_front m)
"""


def test_the_zephyr_module_is_built_by_cmake(host, needs, tmp_path):
    needs("cmake", "make", packages="cmake make")
    path, _, _ = made("kws", "q8", tmp_path)
    folder = export(path, tmp_path / "out", "zephyr")
    assert "cmake: ." in (folder / "zephyr" / "module.yml").read_text()
    assert "config SEAMLINE_FRONT" in (folder / "Kconfig").read_text()
    (tmp_path / "CMakeLists.txt").write_text(ZEPHYR.format(module=folder))
    cc("-S", tmp_path, "-B", tmp_path / "b", compiler="cmake")
    cc("--build", tmp_path / "b", compiler="cmake")
    assert subprocess.run([tmp_path / "b" / "check"], check=False).returncode == 0


def test_the_license_is_that_of_the_project():
    assert (image.HERE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing.npz", "--to", "x"], 3, "there is no file nothing.npz"),
        (["{here}/bad.npz", "--to", "x"], 3, "is no quantised front"),
        (["{here}", "--to", "x"], 3, "`seamline quantize"),
        (["{here}/good.npz", "--to", "{here}"], 2, "expected a new or empty folder"),
        (["{here}/good.npz", "--to", "x", "--name", "Front!"], 2, "expected a small letter"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, words, tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes(b"PK?")
    made("watch", "q8", tmp_path)[0].rename(tmp_path / "good.npz")
    given = [word.replace("{here}", str(tmp_path)) for word in arguments]
    assert main(["firmware", "export", *given]) == code
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1
