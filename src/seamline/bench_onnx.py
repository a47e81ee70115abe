"""ONNX Runtime as a peer in benchmarks: the same layers as a plan's, one thread, inference only."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .runtime.networks import Piece
from .runtime.plan import LayerSpec, Shape

Work = Callable[[], object]
OPSET, IR = 21, 10


def onnx_work(piece: Piece, pass_: str) -> Work:
    """One call does one forward pass; input and output stay bound. Raises ImportError."""
    return _Bound(piece).run


def onnx_output(piece: Piece) -> NDArray[np.float32]:
    """What it computes, [batch, h, w, c]: to see that both do the same."""
    bound = _Bound(piece)
    bound.run()
    return np.ascontiguousarray(np.transpose(bound.y, (0, 2, 3, 1)))


class _Bound:
    """A session and the arrays it reads and writes, which it does not keep alive itself."""

    def __init__(self, piece: Piece) -> None:
        runtime: Any = import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = runtime.InferenceSession(
            onnx_model(piece), options, providers=["CPUExecutionProvider"]
        )
        h, w, c = piece.layers[-1].output_shape
        self.x = np.ascontiguousarray(np.transpose(piece.x, (0, 3, 1, 2)))
        self.y = np.zeros((piece.batch, c, h, w), np.float32)
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
