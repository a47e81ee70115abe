"""A front as C for somebody else's project: its layers as calls of the kernels they need, weights
as constants, one static array for what is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.front import Front
from ..runtime.float_front import FloatFront
from ..runtime.plan import LayerSpec, Layout, Shape, build_plan, lay_out, size_up
from ..runtime.q8_parameters import SUM_INTEGERS
from ..runtime.q8_plan import size_up_q8
from ..runtime.quantised import QuantisedFront, QuantisedLayer
from ..runtime.quantised import run as run_q8
from . import image

AnyFront = QuantisedFront | FloatFront
Files = dict[str, str]  # path in the folder -> text

# The core's files that each kind of layer calls, and what all need.
NEEDS = {
    "q8": {
        "": ("arch/q8_generic", "arch/q8_m_dsp", "arch/q8_m_mve"),
        "conv2d": ("q8_conv", "walk"),
        "depthwise": ("q8_depthwise", "walk"),
        "dense": ("q8_conv", "walk"),
        "max_pool": ("q8_pool", "walk"),
        "average_pool": ("q8_pool", "walk"),
        "add": ("q8_add",),
        "relu": (),
        "flatten": (),
    },
    "f32": {
        "": ("arch/generic",),
        "conv2d": ("conv", "walk"),
        "depthwise": ("depthwise", "walk"),
        "dense": ("dense", "conv", "walk"),
        "relu": ("activation",),
        "max_pool": ("pool", "walk"),
        "average_pool": ("pool", "walk"),
        "add": ("add",),
        "group_norm": ("norm",),
        "flatten": (),
    },
}
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)

# What these files count on, whatever options the project around them has.
_OPTIONS = """\
/* Copied from seamline {version}, Apache License 2.0. The bytes of its results count on these. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("O2", "fp-contract=off", "wrapv", "no-strict-aliasing")
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
"""
_VARIANT = {
    "q8": """\
/* The best int8 kernels of what this is compiled for. */
#include "arch/arch.h"

#if defined(SEAM_M_MVE)
#define BEST seam_q8_kernels_m_mve
#elif defined(SEAM_M_DSP)
#define BEST seam_q8_kernels_m_dsp
#else
#define BEST seam_q8_kernels_generic
#endif

static const seam_kernels kernels = {.name = "exported", .q8 = &BEST};

const seam_kernels *seam_kernels_now(void) {
    return &kernels;
}
""",
    "f32": """\
/* The kernels in plain C. */
#include "arch/arch.h"

const seam_kernels *seam_kernels_now(void) {
    return &seam_kernels_generic;
}
""",
}


@dataclass(frozen=True)
class Exported:
    """files: path -> text, `src` and `example` of them are in subfolders of those names for what
    packs them. ram, constants: bytes of the array it computes in, and of weights and figures."""

    name: str
    dtype: str
    source: Files  # NAME.c, NAME.h, core/..
    sample: str  # a header: one sample and what must come out
    ram: int
    constants: int
    in_shape: Shape
    out_shape: Shape
    kinds: list[str]


def export_front(front: AnyFront, name: str, version: str) -> Exported:
    """A front as C. name: what its functions begin with, a word of C."""
    writer = _Q8(front, name) if isinstance(front, QuantisedFront) else _F32(front, name)
    source = {f"{name}.c": writer.code(), f"{name}.h": writer.header()}
    kinds = sorted({spec.kind for spec in writer.specs})
    source |= _core(writer.dtype, kinds, version)
    return Exported(
        name,
        writer.dtype,
        source,
        writer.sample(),
        writer.memory,
        writer.constants,
        writer.shapes[0],
        writer.shapes[-1],
        kinds,
    )


def _core(dtype: str, kinds: Iterable[str], version: str) -> Files:
    """The core's files, with the headers they include."""
    stems = dict.fromkeys(stem for kind in ("", *kinds) for stem in NEEDS[dtype][kind])
    options = _OPTIONS.format(version=version)
    files: Files = {"core/variant.c": options + _VARIANT[dtype]}
    waiting = [f"{stem}.c" for stem in stems] + ["arch/arch.h", "seam.h"]
    while waiting:
        path = waiting.pop()
        if f"core/{path}" in files:
            continue
        text = (image.CORE / path).read_text(encoding="utf-8")
        folder = (image.CORE / path).parent
        for included in _INCLUDE.findall(text):
            waiting.append(str((folder / included).resolve().relative_to(image.CORE.resolve())))
        if path == "arch/generic.c":
            text = "#define SEAM_FORWARD_F32 /* nothing but what a forward pass calls */\n" + text
        files[f"core/{path}"] = options + text if path.endswith(".c") else text
    return dict(sorted(files.items()))


# ---- C text ----


def _rows(words: Sequence[str]) -> str:
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line])


def _array(kind: str, name: str, values: NDArray[np.generic]) -> str:
    """A constant array. Floats in hexadecimal: exact."""
    flat = values.ravel()
    if flat.dtype == np.float32:
        words = [_float(float(value)) for value in flat]
    else:
        words = [_integer(int(value)) for value in flat]
    return f"static const {kind} {name}[{len(words)}] = {{\n{_rows(words)}\n}};\n"


def _integer(value: int) -> str:
    return "-2147483647 - 1" if value == -(2**31) else str(value)


def _float(value: float) -> str:
    return "__builtin_inff()" if math.isinf(value) else f"{value.hex()}f"


def _struct(kind: str, name: str, values: Sequence[int | str]) -> str:
    return f"static const {kind} {name} = {{\n{_rows([str(v) for v in values])}\n}};\n"


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


class _Writer:
    """What int8 and float share. element: the C type of a value."""

    dtype = ""
    element = ""
    note = ""

    def __init__(self, specs: Sequence[LayerSpec], input_shape: Shape, name: str) -> None:
        self.specs, self.name = list(specs), name
        self.shapes: list[Shape] = [input_shape, *(spec.output_shape for spec in specs)]
        self.constants = 0
        it = self.layout()
        base = it.front.base(training=False)
        self.offsets = [value.offset - base for value in it.lives.values]
        self.saved = {i: saved.offset - base for i, saved in it.lives.saved.items()}
        self.scratch = it.scratch_at - base
        self.memory = it.arena_bytes - base

    def layout(self) -> Layout:
        raise AssertionError

    # ---- the three files ----

    def header(self) -> str:
        raise AssertionError

    def code(self) -> str:
        """NAME.c."""
        data, calls = [], []
        for index, spec in enumerate(self.specs):
            shapes = f"{_times(self.shapes[spec.input])} -> {_times(spec.output_shape)}"
            data.append(f"/* {index}: {spec.kind}, {shapes} */\n")
            made, call = self.layer(index, spec)
            data += made
            calls += [f"    {line}" for line in call]
            calls.append(f"    {self.name.upper()}_LAYER({index});")
        return _CODE.format(
            name=self.name,
            upper=self.name.upper(),
            element=self.element,
            helpers="".join(self.helpers()),
            data="\n".join(data),
            calls="\n".join(calls),
            input=self.offsets[0],
            output=self.offsets[-1],
            guard=self.guard(),
        )

    def guard(self) -> str:
        return ""

    def helpers(self) -> Iterator[str]:
        """Static functions that layers call."""
        return iter(())

    def layer(self, index: int, spec: LayerSpec) -> tuple[list[str], list[str]]:
        """Its constants, and the statements that compute it."""
        raise AssertionError

    def sample(self) -> str:
        """One sample and what must come out."""
        x, y = self.example()
        return _SAMPLE.format(
            name=self.name,
            x=_array(self.element, f"{self.name}_sample", x),
            y=_array(self.element, f"{self.name}_expected", y),
        )

    def example(self) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        raise AssertionError

    # ---- parts of a layer ----

    def add(self, kind: str, name: str, values: NDArray[np.generic]) -> str:
        self.constants += values.nbytes
        return _array(kind, name, values)

    def window(self, index: int, spec: LayerSpec) -> str:
        shape = self.shapes[spec.input]
        made = [*spec.output_shape]
        window: list[int] = [*spec.window]
        if spec.kind == "dense":
            shape, made, window = (1, 1, math.prod(shape)), [1, 1, made[2]], [1] * 6 + [0] * 4
        self.constants += 4 * 17
        return _struct("seam_window", f"window_{index}", [1, *shape, *made, *window])

    def at(self, tensor: int) -> str:
        return f"at({self.offsets[tensor]})"

    def count(self, tensor: int) -> int:
        return math.prod(self.shapes[tensor])


class _Q8(_Writer):
    dtype, element = "q8", "int8_t"

    def __init__(self, front: QuantisedFront, name: str) -> None:
        self.front = front
        super().__init__([layer.spec for layer in front.layers], front.input_shape, name)

    def layout(self) -> Layout:
        return lay_out(size_up_q8(self.specs_of(), self.front.input_shape, 1), training=False)

    def specs_of(self) -> list[LayerSpec]:
        return [layer.spec for layer in self.front.layers]

    def header(self) -> str:
        last = len(self.specs)
        return _HEADER_Q8.format(
            name=self.name,
            upper=self.name.upper(),
            inputs=self.count(0),
            outputs=self.count(last),
            in_shape=_times(self.shapes[0]),
            out_shape=_times(self.shapes[-1]),
            memory=self.memory,
            in_scale=_float(self.front.scale(0)),
            in_zero=self.front.zero(0),
            out_scale=_float(self.front.scale(last)),
            out_zero=self.front.zero(last),
        )

    def helpers(self) -> Iterator[str]:
        yield _QUANTISE.format(name=self.name, upper=self.name.upper())
        if any(spec.kind == "relu" for spec in self.specs):
            yield _CLAMP

    def layer(self, index: int, spec: LayerSpec) -> tuple[list[str], list[str]]:
        layer = self.front.layers[index]
        x, y = self.at(spec.input), self.at(index + 1)
        low, high = layer.y_min, layer.y_max
        if layer.weights is not None:
            return self._weighted(index, layer, x, y)
        if spec.kind == "add":
            second = spec.inputs()[1]
            zeros = [self.front.zero(t) for t in (spec.input, second, index + 1)]
            self.constants += 44
            values = [*(layer.sum[name] for name in SUM_INTEGERS), *zeros, low, high]
            data = [_struct("seam_q8_sum", f"sum_{index}", values)]
            other = self.at(second)
            return data, [f"seam_q8_add({y}, {x}, {other}, &sum_{index}, {self.count(index + 1)});"]
        if spec.kind in ("max_pool", "average_pool"):
            call = f"seam_q8_{spec.kind}2d({y}, {x}, &window_{index}, {low}, {high});"
            return [self.window(index, spec)], [call]
        if spec.kind == "relu":
            return [], [f"clamp({y}, {x}, {low}, {high}, {self.count(index + 1)});"]
        return [], [] if x == y else [f"memcpy({y}, {x}, {self.count(index + 1)});"]

    def _weighted(
        self, index: int, layer: QuantisedLayer, x: str, y: str
    ) -> tuple[list[str], list[str]]:
        spec = layer.spec
        assert layer.weights is not None
        assert layer.multiplier is not None and layer.shift is not None
        data = [self.add("int8_t", f"weights_{index}", layer.weights)]
        bias = "NULL"
        if layer.bias is not None:
            bias = f"bias_{index}"
            data.append(self.add("int32_t", bias, layer.bias))
        data.append(self.add("int32_t", f"multiplier_{index}", layer.multiplier))
        data.append(self.add("int32_t", f"shift_{index}", layer.shift))
        figures = [layer.multiplier.size, self.front.zero(spec.input), self.front.zero(index + 1)]
        names = [f"multiplier_{index}", f"shift_{index}"]
        values: list[int | str] = [*names, *figures, layer.y_min, layer.y_max]
        data += [_struct("seam_q8_scaling", f"scaling_{index}", values), self.window(index, spec)]
        self.constants += 28
        arguments = f"{y}, {x}, weights_{index}, {bias}, &scaling_{index}, &window_{index}"
        if spec.kind == "depthwise":
            return data, [f"seam_q8_depthwise({arguments});"]
        rest = f", {spec.groups}, NULL, at({self.scratch})"
        return data, [f"seam_q8_conv2d({arguments}{rest});"]

    def example(self) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        random = np.random.default_rng(1)
        x = random.integers(-128, 128, (1, *self.shapes[0])).astype(np.int8)
        return x, run_q8(self.front, x)


class _F32(_Writer):
    dtype, element = "f32", "float"

    def __init__(self, front: FloatFront, name: str) -> None:
        self.front, self.taken = front, 0
        super().__init__(front.layers, front.input_shape, name)

    def layout(self) -> Layout:
        return lay_out(size_up(self.front.layers, self.front.input_shape, 1), training=False)

    def header(self) -> str:
        return _HEADER_F32.format(
            name=self.name,
            upper=self.name.upper(),
            inputs=self.count(0),
            outputs=self.count(len(self.specs)),
            in_shape=_times(self.shapes[0]),
            out_shape=_times(self.shapes[-1]),
            memory=self.memory,
        )

    def guard(self) -> str:
        return _NEEDS_FPU

    def parameters(self, index: int, spec: LayerSpec) -> tuple[list[str], str]:
        """Weights and bias as constants; arguments of a call."""
        shape = self.shapes[spec.input]
        count, channels = spec.parameters(shape), spec.output_shape[2]
        flat = self.front.parameters[self.taken : self.taken + count]
        self.taken += count
        tail = channels if spec.kind == "group_norm" or spec.has_bias else 0
        data = [self.add("float", f"weights_{index}", flat[: count - tail])]
        if not tail:
            return data, f"weights_{index}, NULL"
        data.append(self.add("float", f"bias_{index}", flat[count - tail :]))
        return data, f"weights_{index}, bias_{index}"

    def layer(self, index: int, spec: LayerSpec) -> tuple[list[str], list[str]]:
        x, y, size = self.at(spec.input), self.at(index + 1), self.count(index + 1)
        data: list[str] = []
        if spec.kind in ("conv2d", "depthwise"):
            data, weights = self.parameters(index, spec)
            data.append(self.window(index, spec))
            call = (
                f"seam_f32_{spec.kind}({y}, {x}, {weights}, &window_{index}, at({self.scratch}));"
            )
        elif spec.kind == "dense":
            data, weights = self.parameters(index, spec)
            sizes = f"1, {self.count(spec.input)}, {spec.output_shape[2]}"
            call = f"seam_f32_dense({y}, {x}, {weights}, {sizes}, at({self.scratch}));"
        elif spec.kind == "group_norm":
            data, weights = self.parameters(index, spec)
            height, width, channels = self.shapes[spec.input]
            sizes = f"1, {height * width}, {channels}, {spec.groups}, {_float32(spec.epsilon)}"
            call = f"seam_f32_group_norm({y}, at({self.saved[index]}), {x}, {weights}, {sizes});"
        elif spec.kind in ("max_pool", "average_pool"):
            data = [self.window(index, spec)]
            call = f"seam_f32_{spec.kind}2d({y}, {x}, &window_{index});"
        elif spec.kind == "relu":
            call = f"seam_f32_relu({y}, {x}, {_float32(spec.ceiling)}, {size});"
        elif spec.kind == "add":
            call = f"seam_f32_add({y}, {x}, {self.at(spec.inputs()[1])}, {size});"
        elif x == y:
            return [], []
        else:
            call = f"memcpy({y}, {x}, {size} * sizeof(float));"
        return data, [call]

    def example(self) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        x = np.random.default_rng(1).normal(0, 1, (1, *self.shapes[0])).astype(np.float32)
        front = Front(build_plan(self.front.layers, self.front.input_shape, 1))
        front.params[:] = self.front.parameters
        return x, front.forward(x)


def _float32(value: float) -> str:
    return _float(float(np.float32(value)))


_HEADER_Q8 = """\
/* A front in int8: a sample goes in, one forward pass, its result comes out. Made by seamline. */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_INPUTS {inputs} /* values of a sample, {in_shape} (height, width, channels) */
#define {upper}_OUTPUTS {outputs} /* {out_shape} */
#define {upper}_MEMORY {memory} /* bytes of RAM, static */
/* A value q stands for (q - zero) * scale. */
#define {upper}_IN_SCALE {in_scale}
#define {upper}_IN_ZERO ({in_zero})
#define {upper}_OUT_SCALE {out_scale}
#define {upper}_OUT_ZERO ({out_zero})

/* Where a sample goes, before each pass: the pass writes over it. */
int8_t *{name}_input(void);
/* The same for a sample in float, [{upper}_INPUTS]. */
void {name}_set(const float *x);
/* One pass; what it gives stays until the next sample. */
const int8_t *{name}_run(void);

#ifdef __cplusplus
}}
#endif

#endif
"""

_HEADER_F32 = """\
/* A front in float: a sample goes in, one forward pass, its result comes out. Made by seamline. */
#ifndef {upper}_H
#define {upper}_H

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_INPUTS {inputs} /* values of a sample, {in_shape} (height, width, channels) */
#define {upper}_OUTPUTS {outputs} /* {out_shape} */
#define {upper}_MEMORY {memory} /* bytes of RAM, static */

/* Where a sample goes, before each pass: the pass writes over it. */
float *{name}_input(void);
/* One pass; what it gives stays until the next sample. */
const float *{name}_run(void);

#ifdef __cplusplus
}}
#endif

#endif
"""

_CODE = """\
/* The layers of a front, their weights, and where each works. Made by seamline. */
#include "{name}.h"

#include <string.h>

#include "core/seam.h"
{guard}
/* Called after each layer, to measure it. */
#ifndef {upper}_LAYER
#define {upper}_LAYER(index)
#endif

static uint8_t memory[{upper}_MEMORY] __attribute__((aligned(16)));

static void *at(uint32_t offset) {{
    return memory + offset;
}}

{data}
{element} *{name}_input(void) {{
    return at({input});
}}
{helpers}
const {element} *{name}_run(void) {{
{calls}
    return at({output});
}}
"""

_QUANTISE = """
/* To the nearest step, halves away from zero; NaN is the least value. */
void {name}_set(const float *x) {{
    int8_t *q = {name}_input();
    for (uint32_t i = 0; i < {upper}_INPUTS; i++) {{
        float t = x[i] / {upper}_IN_SCALE;
        t = t > -512.0f ? t : -512.0f;
        t = t < 512.0f ? t : 512.0f;
        const int32_t whole = (int32_t)t;
        const float rest = t - (float)whole;
        const int32_t value = whole + (int32_t)(rest + rest) + {upper}_IN_ZERO;
        q[i] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }}
}}
"""

_CLAMP = """
static void clamp(int8_t *y, const int8_t *x, int32_t least, int32_t most, size_t count) {
    for (size_t i = 0; i < count; i++)
        y[i] = (int8_t)(x[i] < least ? least : x[i] > most ? most : x[i]);
}
"""

_NEEDS_FPU = """
#if defined(__arm__) && !defined(__ARM_FP)
#error "a front in float needs an FPU: export the int8 front that `seamline quantize` makes"
#endif
"""

_SAMPLE = """\
/* A sample, and what {name}_run() must make of it, byte for byte. */
{x}
{y}"""


def safe_name(text: str) -> str | None:
    """What is wrong with a name for C; None: nothing."""
    if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", text):
        return None
    return f"expected a small letter, then small letters, digits or _ (32 at most), got {text!r}"
