"""LiteRT as a peer in benchmarks: a plan's layers in float32 or int8, one thread, inference only.

Its own package has the schema of its models, so that they are written without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bench_q8 import Q8Layer, Q8Piece, Scale, fused_activations
from .runtime.networks import Piece, same
from .runtime.plan import LayerSpec, Shape

Work = Callable[[], object]
RESOLVERS = {
    "xnnpack": "BUILTIN",
    "ruy": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
RELU, RELU6 = 1, 3
SCHEMA = "ai_edge_litert.schema_py_generated"


class NotInLiteRT(Exception):
    """It has no such layer; the text says which."""


def litert_work(piece: Piece, resolver: str, dtype: str = "f32") -> Work:
    """One call does one forward pass; the input stays. resolver: a key of RESOLVERS; dtype: f32
    or q8. Raises ImportError, NotInLiteRT, NotInQ8.
    """
    invoke: Work = _interpreter(piece, resolver, dtype).invoke
    return invoke


def litert_output(piece: Piece, resolver: str, dtype: str = "f32") -> NDArray[Any]:
    """What it computes, [batch, h, w, c]: to see that both do the same."""
    found = _interpreter(piece, resolver, dtype)
    found.invoke()
    y = found.get_tensor(found.get_output_details()[0]["index"])
    return np.array(y).reshape(piece.dy.shape)


def _interpreter(piece: Piece, resolver: str, dtype: str) -> Any:
    module: Any = import_module("ai_edge_litert.interpreter")
    q = Q8Piece(piece) if dtype == "q8" else None
    found = module.Interpreter(
        model_content=litert_model(piece) if q is None else litert_q8_model(q),
        num_threads=1,
        experimental_op_resolver_type=getattr(module.OpResolverType, RESOLVERS[resolver]),
    )
    found.allocate_tensors()
    found.set_tensor(found.get_input_details()[0]["index"], piece.x if q is None else q.x)
    return found


class _Model:
    """A model that grows by tensors and operators."""

    def __init__(self, schema: Any = None) -> None:
        self.schema: Any = schema or import_module(SCHEMA)
        self.graph = self.schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.codes: list[int] = []
        self.buffers = [self.schema.BufferT()]

    def tensor(
        self,
        shape: tuple[int, ...],
        value: NDArray[Any] | None = None,
        scale: NDArray[np.float32] | Scale | None = None,
        axis: int = 0,
    ) -> int:
        """A constant of the value's type, or a tensor: int8 with a Scale, else float32. scale of
        weights: one, or one for each place along `axis`. Returns its number."""
        new = self.schema.TensorT()
        new.shape, new.name = list(shape), f"t{len(self.graph.tensors)}".encode()
        dtype = "int8" if isinstance(scale, Scale) else "float32"
        dtype = dtype if value is None else str(value.dtype)
        new.type = getattr(self.schema.TensorType, dtype.upper())
        if scale is not None:
            new.quantization = self._quantisation(scale, axis)
        if value is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.buffers.append(buffer)
            new.buffer = len(self.buffers) - 1
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def _quantisation(self, scale: NDArray[np.float32] | Scale, axis: int) -> Any:
        found = self.schema.QuantizationParametersT()
        if isinstance(scale, Scale):
            found.scale, found.zeroPoint = [scale.scale], [scale.zero]
        else:
            found.scale, found.zeroPoint = [float(s) for s in scale], [0] * len(scale)
            found.quantizedDimension = axis
        return found

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
    fused = fused_activations(piece.layers)
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


def litert_q8_model(q: Q8Piece, schema: Any = None, exact: bool = False) -> bytes:
    """The same in int8. schema: the module that describes the format, LiteRT's own if None. exact:
    padding that TensorFlow does not know becomes a layer of its own, instead of other padding.

    Raises ImportError, NotInLiteRT.
    """
    model, shapes = _Model(schema), q.shapes
    places = {0: model.tensor((q.piece.batch, *q.piece.input_shape), None, q.scales[0])}
    for layer in q.layers:
        shape = (q.piece.batch, *layer.spec.output_shape)
        places[layer.output] = model.tensor(shape, None, q.scales[layer.output])
        _add_q8(model, q, layer, places, shapes[layer.spec.input], exact)
    return model.finish(places[0], places[q.layers[-1].output])


def _add_q8(
    model: _Model, q: Q8Piece, layer: Q8Layer, places: dict[int, int], shape: Shape, exact: bool
) -> None:
    spec, out = layer.spec, places[layer.output]
    inputs = [places[i] for i in spec.inputs()]
    if spec.kind == "flatten":
        new = np.array([-1, *spec.output_shape], np.int32)
        inputs.append(model.tensor(new.shape, new))
        model.operator("RESHAPE", inputs, out, model.schema.ReshapeOptionsT())
        return
    name, options = _options(model.schema, spec, shape)
    if exact and spec.kind in ("conv2d", "depthwise") and spec.padding != _tensorflow(spec, shape):
        inputs[0] = _pad(model, q, spec, inputs[0], shape)
        options.padding = model.schema.Padding.VALID
    if layer.activation is not None:
        options.fusedActivationFunction = _activation(layer.activation)
    if layer.w is not None and layer.w_scale is not None and layer.bias is not None:
        axis = 3 if spec.kind == "depthwise" else 0
        inputs.append(model.tensor(layer.w.shape, layer.w, layer.w_scale, axis))
        scale = (np.float32(q.scales[spec.input].scale) * layer.w_scale).astype(np.float32)
        inputs.append(model.tensor(layer.bias.shape, layer.bias, scale))
    model.operator(name, inputs, out, options)


def _tensorflow(layer: LayerSpec, shape: Shape) -> tuple[tuple[int, int], ...]:
    """The padding that SAME or VALID gives this layer."""
    if not any(map(any, layer.padding)):
        return ((0, 0), (0, 0))
    reach = [(k - 1) * d + 1 for k, d in zip(layer.kernel, layer.dilation, strict=True)]
    return tuple(same(shape[i], reach[i], layer.stride[i]) for i in range(2))


def _pad(model: _Model, q: Q8Piece, layer: LayerSpec, source: int, shape: Shape) -> int:
    table = np.array([(0, 0), *layer.padding, (0, 0)], np.int32)
    wide = (shape[0] + sum(layer.padding[0]), shape[1] + sum(layer.padding[1]), shape[2])
    found = model.tensor((q.piece.batch, *wide), None, q.scales[layer.input])
    inputs = [source, model.tensor(table.shape, table)]
    model.operator("PAD", inputs, found, model.schema.PadOptionsT())
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
