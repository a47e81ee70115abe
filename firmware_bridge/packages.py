"""The folders that an exported front can be: plain C, an Arduino or PlatformIO library, a Zephyr
module."""

from __future__ import annotations

import json
from collections.abc import Callable

from . import image
from .export import Exported, Files

LICENSE = "LICENSE"
HOMEPAGE = "https://www.apache.org/licenses/LICENSE-2.0"
SELF_CHECK = "selfcheck"

_CHECK = """\
/* One sample through the front: 0 if it makes the bytes that it makes in Python. */
#include <string.h>

#include "{name}.h"
#include "{name}_sample.h"

int main(void) {{
    memcpy({name}_input(), {name}_sample, sizeof {name}_sample);
    return memcmp({name}_run(), {name}_expected, sizeof {name}_expected) != 0;
}}
"""

_SKETCH = """\
// One sample through the front: says whether it makes the bytes that it makes in Python.
#include <string.h>

#include <{name}.h>
#include "{name}_sample.h"

void setup() {{
    Serial.begin(115200);
    while (!Serial) {{
    }}
    memcpy({name}_input(), {name}_sample, sizeof {name}_sample);
    const unsigned long start = micros();
    const void *made = {name}_run();
    const unsigned long taken = micros() - start;
    const int other = memcmp(made, {name}_expected, sizeof {name}_expected);
    Serial.println(other ? "other bytes" : "same bytes");
    Serial.println(taken);
}}

void loop() {{
}}
"""

_ZEPHYR = """\
# The front as a library of a Zephyr build.
if(CONFIG_SEAMLINE_{upper})
  zephyr_library_named(seamline_{name})
  zephyr_library_sources(
{sources}
  )
  zephyr_library_compile_options(-ffp-contract=off -fwrapv -fno-strict-aliasing)
  zephyr_include_directories(src)
endif()
"""

_KCONFIG = """\
config SEAMLINE_{upper}
\tbool "The front {name}, made by seamline"
\tdefault y
\thelp
\t  {inputs} values in, {outputs} out; {ram} bytes of static RAM, {constants} bytes of weights.
"""

_SAMPLE_CMAKE = """\
cmake_minimum_required(VERSION 3.20.0)
list(APPEND ZEPHYR_EXTRA_MODULES ${{CMAKE_CURRENT_SOURCE_DIR}}/../..)
find_package(Zephyr REQUIRED HINTS $ENV{{ZEPHYR_BASE}})
project(seamline_{name}_selfcheck)
target_sources(app PRIVATE src/main.c)
"""

_HOW = {
    "c": """\
Add `{name}.c` and all of `core/` to your sources; include `{name}.h`. No include path, option or
library is needed (a front in float wants `-lm` off an FPU). `main.c` is an example:

    arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -Os -ffunction-sections -fdata-sections \\
        -Wl,--gc-sections --specs=nosys.specs *.c core/*.c core/arch/*.c -o {name}.elf
""",
    "arduino": """\
Copy this folder into the `libraries` folder of your sketchbook (or zip it: Sketch, Include Library,
Add .ZIP Library), then open File, Examples, {title}, selfcheck. In a sketch: `#include <{name}.h>`.
""",
    "platformio": """\
Copy this folder into `lib/` of your project, then `#include <{name}.h>`; `examples/selfcheck` is a
whole program.
""",
    "zephyr": """\
A module: name this folder in `ZEPHYR_EXTRA_MODULES` (or in your west manifest), set
`CONFIG_SEAMLINE_{upper}=y` (the default), include `{name}.h`. A whole program:

    west build -b BOARD samples/selfcheck
""",
}

_README = """\
# {title}

A front of a neural network, made by seamline {version}: {shape_in} in ({what}), {shape_out} out. It
computes exactly what it computes on a Linux device, byte for byte.

{how}
- RAM: {ram} bytes, static; and about 2 KB of stack.
- Weights and figures: {constants} bytes, constant (they stay in flash). Code: see `core/`; only the
  kernels of its layers are here ({kinds}).
- On a Cortex-M with DSP instructions or Helium (M4, M7, M33, M55) the int8 layers use them.
- Not to be called from two threads at once: it works in one static array.
- Two exported fronts in one program share `core/`: keep one copy of each file of it.

`{name}_input()` gives where a sample goes, `{name}_run()` makes a pass and gives where its result
is; `{name}.h` says the rest.

License: Apache 2.0 (LICENSE) for all files here but the weights in `{name}.c`, which are yours.
"""


def package(made: Exported, as_: str, version: str) -> Files:
    """The whole folder. as_: a key of PACKAGES."""
    files = PACKAGES[as_](made, version)
    how = _HOW[as_].format(name=made.name, title=_title(made), upper=made.name.upper())
    files["README.md"] = _README.format(
        title=_title(made),
        version=version,
        shape_in="x".join(map(str, made.in_shape)),
        shape_out="x".join(map(str, made.out_shape)),
        what="int8" if made.dtype == "q8" else "float",
        how=how,
        ram=made.ram,
        constants=made.constants,
        kinds=", ".join(made.kinds),
        name=made.name,
    )
    files[LICENSE] = (image.HERE / LICENSE).read_text(encoding="utf-8")
    return files


def _title(made: Exported) -> str:
    return f"seamline_{made.name}"


def _plain(made: Exported, version: str) -> Files:
    check = {"main.c": _CHECK.format(name=made.name), f"{made.name}_sample.h": made.sample}
    return {**made.source, **check}


def _library(made: Exported) -> Files:
    files = {f"src/{path}": text for path, text in made.source.items()}
    example = f"examples/{SELF_CHECK}"
    files[f"{example}/{SELF_CHECK}.ino"] = _SKETCH.format(name=made.name)
    files[f"{example}/{made.name}_sample.h"] = made.sample
    return files


def _about(made: Exported) -> str:
    what = "int8" if made.dtype == "q8" else "float"
    return f"A front of a neural network in {what}, made by seamline."


def _arduino(made: Exported, version: str) -> Files:
    properties = {
        "name": _title(made),
        "version": _three(version),
        "author": "seamline",
        "maintainer": "seamline",
        "sentence": _about(made),
        "paragraph": "One forward pass, byte for byte what it is on Linux.",
        "category": "Data Processing",
        "url": HOMEPAGE,
        "architectures": "*",
        "includes": f"{made.name}.h",
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    return {**_library(made), "library.properties": text}


def _platformio(made: Exported, version: str) -> Files:
    files = _library(made)
    example = f"examples/{SELF_CHECK}"
    sketch = files.pop(f"{example}/{SELF_CHECK}.ino")
    files[f"{example}/main.cpp"] = "#include <Arduino.h>\n\n" + sketch
    document = {
        "name": _title(made),
        "version": _three(version),
        "description": _about(made),
        "license": "Apache-2.0",
        "frameworks": "*",
        "platforms": "*",
        "headers": f"{made.name}.h",
        "build": {"srcDir": "src", "includeDir": "src"},
        "examples": [
            {"name": SELF_CHECK, "base": example, "files": ["main.cpp", f"{made.name}_sample.h"]}
        ],
    }
    return {**files, "library.json": json.dumps(document, indent=2) + "\n"}


def _three(version: str) -> str:
    """Three numbers: what these libraries take as a version."""
    numbers = [part for part in version.split(".") if part.isdecimal()]
    return ".".join([*numbers, "0", "0", "0"][:3])


def _zephyr(made: Exported, version: str) -> Files:
    files = {f"src/{path}": text for path, text in made.source.items()}
    sources = "\n".join(f"    {path}" for path in files if path.endswith(".c"))
    words = {**vars(made), "upper": made.name.upper()}
    words |= {"inputs": _product(made.in_shape), "outputs": _product(made.out_shape)}
    files["zephyr/module.yml"] = f"name: {_title(made)}\nbuild:\n  cmake: .\n  kconfig: Kconfig\n"
    files["CMakeLists.txt"] = _ZEPHYR.format(name=made.name, upper=words["upper"], sources=sources)
    files["Kconfig"] = _KCONFIG.format(**words)
    sample = f"samples/{SELF_CHECK}"
    files[f"{sample}/CMakeLists.txt"] = _SAMPLE_CMAKE.format(name=made.name)
    files[f"{sample}/prj.conf"] = f"CONFIG_SEAMLINE_{words['upper']}=y\n"
    files[f"{sample}/src/main.c"] = _CHECK.format(name=made.name)
    files[f"{sample}/src/{made.name}_sample.h"] = made.sample
    return files


def _product(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


PACKAGES: dict[str, Callable[[Exported, str], Files]] = {
    "c": _plain,
    "arduino": _arduino,
    "platformio": _platformio,
    "zephyr": _zephyr,
}
