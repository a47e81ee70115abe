"""ONNX Runtime as a peer in benchmarks: a plan's layers in float32 or int8 (QDQ: operators between
quantising and dequantising, which it fuses), one thread, inference only."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bench_q8 import Q8Layer, Q8Piece, Scale
from .runtime.networks import Piece
from .runtime.plan import LayerSpec, Shape

Work = Callable[[], object]
OPSET, IR = 21, 10


def onnx_work(piece: Piece, dtype: str = "f32") -> Work:
    """One call does one forward pass; input and output stay bound. dtype: f32 or q8. Raises
    ImportError, NotInQ8."""
    return _Bound(piece, dtype).run


def onnx_output(piece: Piece, dtype: str = "f32") -> NDArray[Any]:
    """What it computes, [batch, h, w, c]: to see that both do the same."""
    bound = _Bound(piece, dtype)
    bound.run()
    y = np.ascontiguousarray(np.transpose(bound.y, (0, 2, 3, 1)))
    return y if dtype == "f32" else (y ^ 128).view(np.int8)


class _Bound:
    """A session and the arrays it reads and writes, which it does not keep alive itself."""

    def __init__(self, piece: Piece, dtype: str) -> None:
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        q = Q8Piece(piece) if dtype == "q8" else None
        model = onnx_model(piece) if q is None else onnx_q8_model(q)
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        h, w, c = piece.layers[-1].output_shape
        x = piece.x if q is None else q.x.view(np.uint8) ^ np.uint8(128)
        self.x = np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2)))
        self.y = np.zeros((piece.batch, c, h, w), self.x.dtype)
        value = runtime.OrtValue.ortvalue_from_numpy
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("t0", value(self.x))
        self.binding.bind_ortvalue_output(f"t{len(piece.layers)}", value(self.y))

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)


def onnx_model(piece: Piece) -> bytes:
    """The layers as an ONNX model of tensors [n, c, h, w]. Raises ImportError."""
    onnx: Any = import_module("onnx")
    helper = onnx.helper
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    shapes = piece.shapes
    for index, (layer, own) in enumerate(zip(piece.layers, piece.weights(), strict=True)):
        names = [f"t{i}" for i in layer.inputs()]
        kind, values, attributes = _node(layer, shapes[layer.input], *own)
        names += [constant(f"c{index}_{i}", value) for i, value in enumerate(values)]
        out = f"t{index + 1}"
        if layer.kind == "dense":  # takes and gives matrices
            nodes.append(helper.make_node("Flatten", names[:1], [f"{out}_in"]))
            nodes.append(helper.make_node(kind, [f"{out}_in", *names[1:]], [f"{out}_out"]))
            kind, attributes = "Reshape", {}
            shape = np.array([-1, layer.output_shape[2], 1, 1], np.int64)
            names = [f"{out}_out", constant(f"{out}_shape", shape)]
            nodes[-1].attribute.append(helper.make_attribute("transB", 1))
        nodes.append(helper.make_node(kind, names, [out], **attributes))

    def tensor(index: int) -> Any:
        h, w, c = shapes[index]
        shape = [piece.batch, c, h, w]
        return helper.make_tensor_value_info(f"t{index}", onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(nodes, "piece", [tensor(0)], [tensor(len(shapes) - 1)], constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    found: bytes = model.SerializeToString()
    return found


def _node(
    layer: LayerSpec, shape: Shape, weight: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> tuple[str, list[NDArray[Any]], dict[str, Any]]:
    """Operator, constants behind its inputs, attributes. shape: of the first input, (h, w, c)."""
    (top, bottom), (left, right) = layer.padding
    window: dict[str, Any] = {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "pads": (top, left, bottom, right),
        "dilations": layer.dilation,
    }
    biases: list[NDArray[Any]] = [] if bias is None else [bias]
    if layer.kind == "conv2d":
        return "Conv", [np.transpose(weight, (0, 3, 1, 2)), *biases], window
    if layer.kind == "depthwise":
        weight = np.transpose(weight, (2, 0, 1))[:, None]
        return "Conv", [weight, *biases], {**window, "group": shape[2]}
    if layer.kind == "dense":
        weight = np.transpose(weight, (0, 3, 1, 2)).reshape(len(weight), -1)
        return "Gemm", [weight, *biases], {}
    if layer.kind == "group_norm":
        how = {"num_groups": layer.groups, "epsilon": layer.epsilon}
        return "GroupNormalization", [weight, *biases], how
    if layer.kind == "relu" and np.isfinite(layer.ceiling):
        bounds: list[NDArray[Any]] = [np.array(x, np.float32) for x in (0, layer.ceiling)]
        return "Clip", bounds, {}
    flat = np.array([-1, layer.output_shape[2], 1, 1], np.int64)
    plain: dict[str, tuple[str, list[NDArray[Any]], dict[str, Any]]] = {
        "max_pool": ("MaxPool", [], window),
        "average_pool": ("AveragePool", [], {**window, "count_include_pad": 0}),
        "flatten": ("Reshape", [flat], {}),
        "add": ("Add", [], {}),
        "relu": ("Relu", [], {}),
    }
    return plain[layer.kind]


# ---- int8: activations as uint8 (q + 128), which is its faster choice on x86 ----


class _Graph:
    """Nodes and constants of a model in QDQ form. Tensor i is "t{i}", dequantised "d{i}"."""

    def __init__(self, q: Q8Piece) -> None:
        self.onnx: Any = import_module("onnx")
        self.q = q
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        found = self.onnx.numpy_helper.from_array(np.array(value, order="C"), name)
        self.constants.append(found)
        return name

    def scale(self, scale: Scale) -> list[str]:
        zero = np.uint8(scale.zero + 128)
        return [self.constant(np.array(v)) for v in (np.float32(scale.scale), zero)]

    def dequantised(self, value: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """A constant; scale: one, or one for each place along axis 0."""
        scale = scale[0] if len(scale) == 1 else scale
        zero = np.zeros(scale.shape, value.dtype)
        inputs = [self.constant(v) for v in (value, np.asarray(scale, np.float32), zero)]
        axis = {"axis": 0} if scale.ndim else {}
        return self.node("DequantizeLinear", inputs, f"d_{inputs[0]}", **axis)

    def open(self, tensor: int) -> None:
        """t to d."""
        inputs = [f"t{tensor}", *self.scale(self.q.scales[tensor])]
        self.node("DequantizeLinear", inputs, f"d{tensor}")

    def layer(self, layer: Q8Layer) -> None:
        spec, out = layer.spec, layer.output
        inputs = [f"d{i}" for i in spec.inputs()]
        if layer.w is not None and layer.w_scale is not None and layer.bias is not None:
            w = layer.w
            if spec.kind == "dense":
                w = w.reshape(len(w), *self.q.shapes[spec.input])
            w = np.transpose(w, (3, 0, 1, 2) if spec.kind == "depthwise" else (0, 3, 1, 2))
            w = w.reshape(len(w), -1) if spec.kind == "dense" else w
            bias = np.float32(self.q.scales[spec.input].scale) * layer.w_scale
            inputs += [self.dequantised(w, layer.w_scale), self.dequantised(layer.bias, bias)]
        no_weight = np.zeros((1,) * (3 if spec.kind == "depthwise" else 4), np.float32)
        kind, values, attributes = _node(spec, self.q.shapes[spec.input], no_weight, None)
        if spec.kind == "dense":
            flat = self.node("Flatten", inputs[:1], f"f{out}")
            y = self.node("Gemm", [flat, *inputs[1:]], f"g{out}", transB=1)
            shape = self.constant(np.array([-1, spec.output_shape[2], 1, 1], np.int64))
            y = self.node("QuantizeLinear", [y, *self.scale(self.q.scales[out])], f"q{out}")
            self.node("Reshape", [y, shape], f"t{out}")
            return
        if spec.kind == "flatten":
            inputs += [self.constant(value) for value in values]
        if spec.kind == "average_pool":  # its int8 one does not know the word
            del attributes["dilations"]
        y = self.node(kind, inputs, f"y{out}", **attributes)
        self.node("QuantizeLinear", [y, *self.scale(self.q.scales[out])], f"t{out}")


def onnx_q8_model(q: Q8Piece) -> bytes:
    """The layers in int8; an activation is the least value of what it gives. Raises ImportError."""
    graph = _Graph(q)
    graph.open(0)
    for layer in q.layers:
        graph.layer(layer)
        graph.open(layer.output)
    graph.nodes.pop()  # nobody reads the output's
    last = q.layers[-1].output
    helper = graph.onnx.helper

    def tensor(index: int) -> Any:
        h, w, c = q.shapes[index]
        kind = graph.onnx.TensorProto.UINT8
        return helper.make_tensor_value_info(f"t{index}", kind, [q.piece.batch, c, h, w])

    made = helper.make_graph(graph.nodes, "piece", [tensor(0)], [tensor(last)], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    found: bytes = model.SerializeToString()
    return found
