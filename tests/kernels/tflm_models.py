"""Random int8 layers, and what TensorFlow Lite Micro computes for them: models of one operator.

Run as a program it writes the golden vectors: python tests/kernels/tflm_models.py
Needs the PyPI distribution tflite-micro; the vectors are for machines that lack it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from seamline.kernels import q8
from tflite_micro.python.tflite_micro import runtime
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

VECTORS = Path(__file__).parent / "vectors" / "q8_forward.npz"
ROUNDS = 4  # cases of each layer in the golden vectors
NONE, RELU, RELU6 = 0, 1, 3
TYPES = {"int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}
TYPES["float32"] = schema.TensorType.FLOAT32
Case = tuple[str, dict[str, np.ndarray], dict[str, Any], np.ndarray]


# ---- Models ----


def tensor(model: Any, data: Any, scale: Any = None, zero: int = 0, axis: int = 0) -> int:
    """Adds a tensor: an array is a constant, a pair (shape, dtype) is computed. Its number."""
    new = schema.TensorT()
    constant = isinstance(data, np.ndarray)
    shape, dtype = (data.shape, data.dtype) if constant else data
    new.shape, new.type = list(shape), TYPES[str(np.dtype(dtype))]
    new.name = b"t"
    if scale is not None:
        quantisation = schema.QuantizationParametersT()
        quantisation.scale = [float(s) for s in np.atleast_1d(scale)]
        quantisation.zeroPoint = [int(zero)] * len(quantisation.scale)
        quantisation.quantizedDimension = axis
        new.quantization = quantisation
    if constant:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        model.buffers.append(buffer)
        new.buffer = len(model.buffers) - 1
    graph = model.subgraphs[0]
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def empty_model() -> Any:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b""
    model.buffers, model.operatorCodes, model.subgraphs = [schema.BufferT()], [], [graph]
    graph.tensors, graph.operators = [], []
    return model


def run(
    model: Any, name: str, options: Any, inputs: list[int], output: int, values: list[np.ndarray]
) -> np.ndarray:
    """One operator on its computed inputs, the first of `inputs`, through the interpreter."""
    code, operator, graph = schema.OperatorCodeT(), schema.OperatorT(), model.subgraphs[0]
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
    if options is not None:
        kind = type(options).__name__[:-1]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = options
    model.operatorCodes = [code]
    graph.operators = [operator]
    graph.inputs, graph.outputs = inputs[: len(values)], [output]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    interpreter = runtime.Interpreter.from_bytes(bytes(builder.Output()), arena_size=1 << 20)
    for i, value in enumerate(values):
        interpreter.set_input(value, i)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


def set_fields(options: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        if not hasattr(options, name):
            raise AttributeError(f"{type(options).__name__} has no {name}")
        setattr(options, name, value)
    return options


# ---- Random layers ----


def some_int8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


def some_weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def some_scale(rng: np.random.Generator, low: float = -8, high: float = 0) -> np.float32:
    return np.float32(2.0 ** rng.uniform(low, high))


def clamp_of(activation: int, scale: np.float32, zero: int) -> dict[str, int]:
    """A fused activation in int8: its bounds are quantised with float32 rounded half away."""
    if activation == NONE:
        return {}
    low = max(-128, zero)
    top = 127 if activation == RELU else min(127, zero + int(np.floor(np.float32(6) / scale + 0.5)))
    return {"y_min": min(low, 127), "y_max": top}


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many outputs as strides begin, the odd tap of padding at the end."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def some_window(rng: np.random.Generator, dilated: bool) -> dict[str, Any]:
    while True:
        size = tuple(int(v) for v in rng.integers(1, 12, 2))
        kernel = tuple(int(v) for v in rng.integers(1, 5, 2))
        stride = tuple(int(v) for v in rng.integers(1, 4, 2))
        wide = dilated and rng.random() < 0.4
        dilation = tuple(int(v) for v in rng.integers(1, 3 if wide else 2, 2))
        same = bool(rng.random() < 0.6)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        if same or (reach[0] <= size[0] and reach[1] <= size[1]):
            pads = [(0, 0)] * 2
            if same:
                axes = zip(size, kernel, stride, dilation, strict=True)
                pads = [same_padding(*axis) for axis in axes]
            return {
                "size": size,
                "kernel": kernel,
                "stride": stride,
                "dilation": dilation,
                "padding": tuple(pads),
                "code": schema.Padding.SAME if same else schema.Padding.VALID,
            }


def output_shape(n: int, window: dict[str, Any], channels: int) -> tuple[int, ...]:
    sizes = []
    for d in range(2):
        reach = (window["kernel"][d] - 1) * window["dilation"][d] + 1
        sizes.append((window["size"][d] + sum(window["padding"][d]) - reach) // window["stride"][d])
    return n, sizes[0] + 1, sizes[1] + 1, channels


def some_sums(
    rng: np.random.Generator, w: np.ndarray, terms: int, channels: int, axis: int, one: bool
) -> dict[str, Any]:
    """Scales, zero points and a bias such that outputs spread over int8."""
    x_scale = some_scale(rng)
    w_scale = np.array([some_scale(rng, -9, -5) for _ in range(1 if one else channels)])
    x_zero, y_zero = (int(v) for v in rng.integers(-128, 128, 2))
    y_scale = np.float32(x_scale * w_scale.max() * np.sqrt(terms) * 73 * rng.uniform(0.5, 2))
    bias = rng.integers(-3000, 3000, channels).astype(np.int32) if rng.random() < 0.8 else None
    product = (
        (x_scale * w_scale).astype(np.float64)  # TensorFlow Lite: in float32
        if one
        else x_scale.astype(np.float64) * w_scale
    )
    multiplier, shift = q8.multiplier_of(product / np.float64(y_scale))
    activation = int(rng.choice([NONE, NONE, RELU, RELU6]))
    how = {"x_zero": x_zero, "y_zero": y_zero} | clamp_of(activation, y_scale, y_zero)
    return {
        "x_scale": x_scale,
        "w_scale": w_scale,
        "y_scale": y_scale,
        "bias": bias,
        "activation": activation,
        "arrays": {"multiplier": multiplier, "shift": shift},
        "how": how,
        "axis": axis,
        "w": w,
    }


def run_sums(name: str, options: Any, x: np.ndarray, y: tuple[int, ...], sums: Any) -> np.ndarray:
    model, how = empty_model(), sums["how"]
    inputs = [tensor(model, (x.shape, "int8"), sums["x_scale"], how["x_zero"])]
    inputs.append(tensor(model, sums["w"], sums["w_scale"], axis=sums["axis"]))
    if sums["bias"] is not None:
        scale = sums["x_scale"] * sums["w_scale"]
        inputs.append(tensor(model, sums["bias"], scale))
    output = tensor(model, (y, "int8"), sums["y_scale"], how["y_zero"])
    set_fields(options, fusedActivationFunction=sums["activation"])
    return run(model, name, options, inputs, output, [x])


def case_of(name: str, x: np.ndarray, sums: Any, y: np.ndarray, **more: Any) -> Case:
    arrays = {"x": x, "w": sums["w"], **sums["arrays"]}
    if sums["bias"] is not None:
        arrays["bias"] = sums["bias"]
    return name, arrays, sums["how"] | more, y


def window_fields(window: dict[str, Any]) -> dict[str, Any]:
    return {
        "padding": window["code"],
        "strideH": window["stride"][0],
        "strideW": window["stride"][1],
    }


def conv2d(rng: np.random.Generator) -> Case:
    window, groups = some_window(rng, dilated=True), int(rng.choice([1, 1, 1, 2, 3]))
    n, each_in, each_out = (int(v) for v in rng.integers(1, [3, 20, 20]))
    x = some_int8(rng, n, *window["size"], each_in * groups)
    w = some_weights(rng, each_out * groups, *window["kernel"], each_in)
    sums = some_sums(rng, w, w[0].size, len(w), 0, one=False)
    options = set_fields(
        schema.Conv2DOptionsT(),
        **window_fields(window),
        dilationHFactor=window["dilation"][0],
        dilationWFactor=window["dilation"][1],
    )
    y = run_sums("CONV_2D", options, x, output_shape(n, window, len(w)), sums)
    more = {key: window[key] for key in ("stride", "padding", "dilation")}
    return case_of("conv2d", x, sums, y, groups=groups, **more)


def depthwise_conv2d(rng: np.random.Generator) -> Case:
    window, many = some_window(rng, dilated=True), int(rng.choice([1, 1, 1, 2, 5]))
    n, channels = (int(v) for v in rng.integers(1, [3, 40]))
    x = some_int8(rng, n, *window["size"], channels)
    w = some_weights(rng, 1, *window["kernel"], channels * many)
    sums = some_sums(rng, w, w[..., 0].size, channels * many, 3, one=False)
    options = set_fields(
        schema.DepthwiseConv2DOptionsT(),
        **window_fields(window),
        depthMultiplier=many,
        dilationHFactor=window["dilation"][0],
        dilationWFactor=window["dilation"][1],
    )
    y = run_sums("DEPTHWISE_CONV_2D", options, x, output_shape(n, window, channels * many), sums)
    more = {key: window[key] for key in ("stride", "padding", "dilation")}
    return case_of("depthwise_conv2d", x, sums, y, **more)


def dense(rng: np.random.Generator) -> Case:
    n, wide, out = (int(v) for v in rng.integers(1, [6, 150, 40]))
    x, w = some_int8(rng, n, wide), some_weights(rng, out, wide)
    sums = some_sums(rng, w, wide, out, 0, one=bool(rng.random() < 0.5))
    y = run_sums("FULLY_CONNECTED", schema.FullyConnectedOptionsT(), x, (n, out), sums)
    return case_of("dense", x, sums, y)


def pool(rng: np.random.Generator, name: str, operator: str) -> Case:
    window = some_window(rng, dilated=False)
    n, channels = (int(v) for v in rng.integers(1, [3, 80]))
    x, scale, zero = some_int8(rng, n, *window["size"], channels), some_scale(rng), 0
    zero = int(rng.integers(-128, 128))
    activation = int(rng.choice([NONE, NONE, RELU, RELU6]))
    model = empty_model()
    inputs = [tensor(model, (x.shape, "int8"), scale, zero)]
    output = tensor(model, (output_shape(n, window, channels), "int8"), scale, zero)
    options = set_fields(
        schema.Pool2DOptionsT(),
        **window_fields(window),
        filterHeight=window["kernel"][0],
        filterWidth=window["kernel"][1],
        fusedActivationFunction=activation,
    )
    y = run(model, operator, options, inputs, output, [x])
    how = {key: window[key] for key in ("kernel", "stride", "padding")}
    return name, {"x": x}, how | clamp_of(activation, scale, zero), y


def max_pool2d(rng: np.random.Generator) -> Case:
    return pool(rng, "max_pool2d", "MAX_POOL_2D")


def average_pool2d(rng: np.random.Generator) -> Case:
    return pool(rng, "average_pool2d", "AVERAGE_POOL_2D")


def add(rng: np.random.Generator) -> Case:
    shape = tuple(int(v) for v in rng.integers(1, 9, 4))
    a, b = some_int8(rng, *shape), some_int8(rng, *shape)
    scales = [some_scale(rng, -6, -2), some_scale(rng, -6, -2), some_scale(rng, -6, 0)]
    zeros = [int(v) for v in rng.integers(-128, 128, 3)]
    activation = int(rng.choice([NONE, NONE, RELU, RELU6]))
    model = empty_model()
    places = [tensor(model, (shape, "int8"), s, z) for s, z in zip(scales, zeros, strict=True)]
    options = set_fields(
        schema.AddOptionsT(), fusedActivationFunction=activation, potScaleInt16=False
    )
    y = run(model, "ADD", options, places[:2], places[2], [a, b])
    how = q8.sum_scaling(*(float(s) for s in scales))
    how |= {f"{name}_zero": zero for name, zero in zip("aby", zeros, strict=True)}
    return "add", {"a": a, "b": b}, how | clamp_of(activation, scales[2], zeros[2]), y


def pad(rng: np.random.Generator) -> Case:
    x = some_int8(rng, *(int(v) for v in rng.integers(1, 7, 4)))
    pads, zero = rng.integers(0, 4, (2, 2)), int(rng.integers(-128, 128))
    table = np.array([[0, 0], *pads.tolist(), [0, 0]], np.int32)
    shape = tuple(int(v) for v in np.array(x.shape) + table.sum(axis=1))
    model = empty_model()
    inputs = [tensor(model, (x.shape, "int8"), 0.5, zero), tensor(model, table)]
    output = tensor(model, (shape, "int8"), 0.5, zero)
    y = run(model, "PAD", schema.PadOptionsT(), inputs, output, [x])
    return "pad", {"x": x}, {"padding": tuple(map(tuple, pads.tolist())), "zero": zero}, y


def softmax(rng: np.random.Generator) -> Case:
    rows, classes = int(rng.integers(1, 6)), int(rng.integers(1, 60))
    x, scale, beta = some_int8(rng, rows, classes), some_scale(rng, -12, 1), rng.uniform(0.5, 2)
    model = empty_model()
    inputs = [tensor(model, (x.shape, "int8"), scale, int(rng.integers(-128, 128)))]
    output = tensor(model, (x.shape, "int8"), 1 / 256, -128)
    y = run(model, "SOFTMAX", set_fields(schema.SoftmaxOptionsT(), beta=beta), inputs, output, [x])
    return "softmax", {"x": x}, q8.softmax_scaling(float(scale), float(np.float32(beta))), y


def quantise(rng: np.random.Generator) -> Case:
    scale, zero = some_scale(rng), int(rng.integers(-128, 128))
    x = (rng.standard_normal((5, 40)) * 80).astype(np.float32) * scale
    x[0] = (rng.integers(-300, 300, 40) / np.float32(2)).astype(np.float32) * scale  # halves
    model = empty_model()
    inputs = [tensor(model, (x.shape, "float32"))]
    output = tensor(model, (x.shape, "int8"), scale, zero)
    y = run(model, "QUANTIZE", schema.QuantizeOptionsT(), inputs, output, [x])
    return "quantise", {"x": x}, {"scale": float(scale), "zero": zero}, y


def dequantise(rng: np.random.Generator) -> Case:
    scale, zero, q = some_scale(rng), int(rng.integers(-128, 128)), some_int8(rng, 7, 30)
    model = empty_model()
    inputs = [tensor(model, (q.shape, "int8"), scale, zero)]
    output = tensor(model, (q.shape, "float32"))
    y = run(model, "DEQUANTIZE", schema.DequantizeOptionsT(), inputs, output, [q])
    return "dequantise", {"q": q}, {"scale": float(scale), "zero": zero}, y


def requantise(rng: np.random.Generator) -> Case:
    x, x_scale, y_scale = some_int8(rng, 9, 23), some_scale(rng), some_scale(rng)
    x_zero, y_zero = (int(v) for v in rng.integers(-128, 128, 2))
    model = empty_model()
    inputs = [tensor(model, (x.shape, "int8"), x_scale, x_zero)]
    output = tensor(model, (x.shape, "int8"), y_scale, y_zero)
    y = run(model, "QUANTIZE", schema.QuantizeOptionsT(), inputs, output, [x])
    multiplier, shift = q8.multiplier_of(float(x_scale) / float(y_scale))
    arrays = {"x": x, "multiplier": multiplier, "shift": shift}
    return "requantise", arrays, {"x_zero": x_zero, "y_zero": y_zero}, y


LAYERS = {
    layer.__name__: layer
    for layer in (
        conv2d,
        depthwise_conv2d,
        dense,
        max_pool2d,
        average_pool2d,
        pad,
        add,
        softmax,
        quantise,
        dequantise,
        requantise,
    )
}


# ---- Golden vectors ----


def golden() -> dict[str, np.ndarray]:
    """Cases by "number/name/argument"; the arguments that are no arrays are a Python literal."""
    found = {}
    for index, (name, layer) in enumerate(LAYERS.items()):
        rng = np.random.default_rng(index)
        for number in range(ROUNDS):
            _, arrays, how, y = layer(rng)
            key = f"{name}/{number}"
            found |= {f"{key}/array/{part}": value for part, value in arrays.items()}
            found |= {f"{key}/how": np.array(repr(how)), f"{key}/y": y}
    return found


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    np.savez_compressed(VECTORS, **golden())
    print(f"{VECTORS.stat().st_size} bytes in {VECTORS}")
