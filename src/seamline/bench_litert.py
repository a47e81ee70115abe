"""LiteRT as a peer in benchmarks: the same layers as a plan's, one thread, inference only.

Its own package has the schema of its models, so that they are written without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .runtime.networks import Piece, same
from .runtime.plan import LayerSpec, Shape

Work = Callable[[], object]
RESOLVERS = {
    "xnnpack": "BUILTIN",
    "ruy": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
RELU, RELU6 = 1, 3


class NotInLiteRT(Exception):
    """It has no such layer; the text says which."""


def litert_work(piece: Piece, resolver: str) -> Work:
    """One call does one forward pass; the input stays. resolver: a key of RESOLVERS.

    Raises ImportError, NotInLiteRT.
    """
    invoke: Work = _interpreter(piece, resolver).invoke
    return invoke


def litert_output(piece: Piece, resolver: str) -> NDArray[np.float32]:
    """What it computes, [batch, h, w, c]: to see that both do the same."""
    found = _interpreter(piece, resolver)
    found.invoke()
    y = found.get_tensor(found.get_output_details()[0]["index"])
    return np.array(y).reshape(piece.dy.shape)


def _interpreter(piece: Piece, resolver: str) -> Any:
    module: Any = import_module("ai_edge_litert.interpreter")
    found = module.Interpreter(
        model_content=litert_model(piece),
        num_threads=1,
        experimental_op_resolver_type=getattr(module.OpResolverType, RESOLVERS[resolver]),
    )
    found.allocate_tensors()
    found.set_tensor(found.get_input_details()[0]["index"], piece.x)
    return found


class _Model:
    """A model that grows by tensors and operators."""

    def __init__(self) -> None:
        self.schema: Any = import_module("ai_edge_litert.schema_py_generated")
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.codes: list[int] = []
        self.buffers = [self.schema.BufferT()]

    def tensor(self, shape: tuple[int, ...], value: NDArray[Any] | None = None) -> int:
        """A float32 tensor, or a constant of the value's type. Returns its number."""
        new = self.schema.TensorT()
        new.shape, new.name = list(shape), f"t{len(self.graph.tensors)}".encode()
        whole = value is not None and value.dtype == np.int32
        new.type = self.schema.TensorType.INT32 if whole else self.schema.TensorType.FLOAT32
        if value is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.buffers.append(buffer)
            new.buffer = len(self.buffers) - 1
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, options: Any = None) -> None:
        code = getattr(self.schema.BuiltinOperator, name)
        if code not in self.codes:
            self.codes.append(code)
        new = self.schema.OperatorT()
        new.opcodeIndex, new.inputs, new.outputs = self.codes.index(code), inputs, [output]
        if options is not None:
            new.builtinOptions = options
            kind = type(options).__name__.removesuffix("T")
            new.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
        self.graph.operators.append(new)

    def finish(self, first: int, last: int) -> bytes:
        builder = import_module("flatbuffers").Builder(1 << 16)
        model = self.schema.ModelT()
        model.version, model.description, model.buffers = 3, b"", self.buffers
        self.graph.inputs, self.graph.outputs = [first], [last]
        model.subgraphs, model.operatorCodes = [self.graph], []
        for code in self.codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode = code
            entry.deprecatedBuiltinCode = min(code, 127)
            entry.version = 1
            model.operatorCodes.append(entry)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def litert_model(piece: Piece) -> bytes:
    """The layers as a TensorFlow Lite model; an activation goes into the layer before it.

    Raises ImportError, NotInLiteRT.
    """
    model = _Model()
    places: dict[int, int] = {0: model.tensor((piece.batch, *piece.input_shape))}
    weights, shapes = piece.weights(), piece.shapes
    fused = _fused(piece.layers)
    for index, layer in enumerate(piece.layers):
        if index in fused.values():
            places[index + 1] = places[layer.input]
            continue
        out = model.tensor((piece.batch, *layer.output_shape))
        places[index + 1] = out
        inputs = [places[i] for i in layer.inputs()]
        activation = 0
        if index in fused:
            activation = _activation(piece.layers[fused[index]])
        _add(model, layer, shapes[layer.input], weights[index], inputs, out, activation)
    return model.finish(places[0], places[len(piece.layers)])


def _fused(layers: list[LayerSpec]) -> dict[int, int]:
    """Layer -> the activation behind it that nothing else goes around."""
    found = {}
    for index, layer in enumerate(layers):
        before = layer.input - 1
        readers = [other for other in layers if layer.input in other.inputs()]
        may = before >= 0 and layers[before].kind not in ("relu", "group_norm", "flatten")
        if layer.kind == "relu" and may and len(readers) == 1:
            found[before] = index
    return found


def _activation(layer: LayerSpec) -> int:
    if layer.ceiling == 6:
        return RELU6
    if np.isfinite(layer.ceiling):
        raise NotInLiteRT(f"no activation with ceiling {layer.ceiling:g}")
    return RELU


def _add(
    model: _Model,
    layer: LayerSpec,
    shape: Shape,
    own: tuple[NDArray[np.float32], NDArray[np.float32] | None],
    inputs: list[int],
    out: int,
    activation: int,
) -> None:
    weight, bias = own
    if layer.kind == "depthwise":
        weight = weight[None]
    elif layer.kind == "dense":
        weight = weight.reshape(len(weight), -1)
    elif layer.kind == "group_norm":
        raise NotInLiteRT("no group normalisation")
    if weight.size:
        zeros = np.zeros(layer.output_shape[2], np.float32)
        inputs = [*inputs, model.tensor(weight.shape, weight)]
        inputs.append(model.tensor(zeros.shape, zeros if bias is None else bias))
    if layer.kind == "relu":
        model.operator("RELU6" if _activation(layer) == RELU6 else "RELU", inputs, out)
    elif layer.kind == "flatten":
        new = np.array([-1, *layer.output_shape], np.int32)
        inputs.append(model.tensor(new.shape, new))
        model.operator("RESHAPE", inputs, out, model.schema.ReshapeOptionsT())
    else:
        name, options = _options(model.schema, layer, shape)
        options.fusedActivationFunction = activation
        model.operator(name, inputs, out, options)


def _options(schema: Any, layer: LayerSpec, shape: Shape) -> tuple[str, Any]:
    if layer.kind == "dense":
        options = schema.FullyConnectedOptionsT()
        return "FULLY_CONNECTED", options
    if layer.kind == "add":
        return "ADD", schema.AddOptionsT()
    if layer.kind in ("max_pool", "average_pool"):
        options = schema.Pool2DOptionsT()
        options.filterHeight, options.filterWidth = layer.kernel
        name = "MAX_POOL_2D" if layer.kind == "max_pool" else "AVERAGE_POOL_2D"
    elif layer.kind == "conv2d":
        options, name = schema.Conv2DOptionsT(), "CONV_2D"
        options.dilationHFactor, options.dilationWFactor = layer.dilation
    else:
        options, name = schema.DepthwiseConv2DOptionsT(), "DEPTHWISE_CONV_2D"
        options.depthMultiplier = layer.output_shape[2] // shape[2]
        options.dilationHFactor, options.dilationWFactor = layer.dilation
    options.strideH, options.strideW = layer.stride
    options.padding = _padding(schema, layer, shape)
    return name, options


def _padding(schema: Any, layer: LayerSpec, shape: Shape) -> int:
    """SAME or VALID, whichever gives the same output, and so the same work."""
    valid = []
    for axis in (0, 1):
        reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1
        stride, want = layer.stride[axis], layer.output_shape[axis]
        if (shape[axis] + sum(same(shape[axis], reach, stride)) - reach) // stride + 1 == want:
            valid.append((shape[axis] - reach) // stride + 1 == want)
        elif (shape[axis] - reach) // stride + 1 == want:
            return int(schema.Padding.VALID)
        else:
            raise NotInLiteRT(f"no padding that makes {layer.output_shape} of {shape}")
    return int(schema.Padding.VALID if all(valid) else schema.Padding.SAME)
