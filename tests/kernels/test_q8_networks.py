"""Whole reference networks in int8 give TensorFlow Lite Micro's bytes: live and kept.

Run as a program it writes the golden vectors: python tests/kernels/test_q8_networks.py
"""

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from seamline.kernels import choose_variant, random_bits, reference_q8, variants
from seamline.runtime.networks import NETWORKS, make_piece, network

from seamline.bench_litert import litert_q8_model
from seamline.bench_q8 import Q8Piece, chain_of

VECTORS = Path(__file__).parent / "vectors" / "q8_networks.npz"


def quantised(name, batch=1):
    """With weights and inputs of counted bits: no library may change them."""
    net = network(name)
    piece = make_piece(net.layers, net.input_shape, batch)
    parameters = even(1, piece.parameters.size)
    at = 0
    for layer in net.layers:
        count, channels = layer.parameters(net.shapes[layer.input]), layer.output_shape[2]
        if count:
            terms = (count - channels) // channels
            parameters[at : at + count] *= np.float32(math.sqrt(6 / terms))
        at += count
    x = even(2, piece.x.size).reshape(piece.x.shape)
    return Q8Piece(replace(piece, parameters=parameters, x=x * np.float32(1.7)))


def even(seed, count):
    """float32 in [-1, 1)."""
    return (random_bits(seed, 0, 0, count) >> 8).astype(np.float32) * np.float32(2**-23) - 1


def some_inputs(q):
    """The input that the ranges come from, noise and extremes."""
    bits = random_bits(3, 0, 0, q.x.size)
    noise = (bits >> 24).astype(np.uint8).view(np.int8)
    ends = np.where(bits & 1, 127, -128).astype(np.int8)
    return [q.x, noise.reshape(q.x.shape), ends.reshape(q.x.shape)]


def tflite_micro(q, inputs):
    runtime = import_module("tflite_micro.python.tflite_micro").runtime
    schema = import_module("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    model = litert_q8_model(q, schema, exact=True)
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 20)
    found = []
    for x in inputs:
        interpreter.set_input(x, 0)
        interpreter.invoke()
        found.append(np.array(interpreter.get_output(0)).reshape(-1))
    return np.stack(found)


def every_variant(q, inputs):
    for variant in variants():
        choose_variant(variant)
        chain = chain_of(q)
        yield variant, np.stack([chain.forward(x).flatten() for x in inputs])
    choose_variant()


@pytest.mark.parametrize("name", NETWORKS)
def test_tflite_micro_gives_the_same_bytes_on_whole_networks(name):
    pytest.importorskip("tflite_micro")
    q = quantised(name)
    inputs = some_inputs(q)
    want = tflite_micro(q, inputs)
    assert want.astype(int).std() > 10  # not all at one end
    for variant, got in every_variant(q, inputs):
        assert got.tobytes() == want.tobytes(), f"{variant}: {np.argwhere(got != want)[:3]}"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_kept_outputs_of_whole_networks_come_out(name):
    vectors = np.load(VECTORS, allow_pickle=False)
    q = quantised(name)
    for variant, got in every_variant(q, some_inputs(q)):
        want = vectors[name]
        assert got.tobytes() == want.tobytes(), f"{variant}: {np.argwhere(got != want)[:3]}"


def test_a_batch_in_a_chain_is_its_samples_one_by_one():
    q = quantised("watch", 5)
    chain, one = chain_of(q), chain_of(quantised_alike(q))
    together = chain.forward(q.x).copy()
    for i in range(5):
        assert one.forward(q.x[i : i + 1]).tobytes() == together[i : i + 1].tobytes()


def quantised_alike(q):
    """The same weights and scales, batch 1."""
    small = Q8Piece(q.piece)
    small.piece = replace(q.piece, batch=1, x=q.piece.x[:1], dy=q.piece.dy[:1])
    return small


def test_a_chain_of_every_layer_equals_the_definition(rng):
    """Max pool and a clamped average, which the networks lack."""
    core = import_module("seamline.kernels._core")
    x = rng.integers(-128, 128, (2, 6, 6, 5)).astype(np.int8)
    chain = core.Q8Chain(x.shape)
    first = chain.max_pool2d(0, (2, 2), (2, 2), y_min=-100)
    second = chain.average_pool2d(first, (3, 3), (1, 1), ((1, 1), (1, 1)), y_max=30)
    chain.flatten(second)
    want = reference_q8.max_pool2d(x, (2, 2), y_min=-100)
    want = reference_q8.average_pool2d(want, (3, 3), (1, 1), ((1, 1), (1, 1)), y_max=30)
    assert chain.forward(x).tobytes() == want.tobytes()
    with pytest.raises(ValueError, match=r"expected shape \(2, 6, 6, 5\), got \(1, 6, 6, 5\)"):
        chain.forward(x[:1])
    with pytest.raises(ValueError, match="tensor: expected 0 to 3, got 9"):
        chain.flatten(9)


if __name__ == "__main__":
    outputs = {}
    for name in NETWORKS:
        piece = quantised(name)
        outputs[name] = tflite_micro(piece, some_inputs(piece))
    np.savez_compressed(VECTORS, **outputs)
    print(f"{VECTORS.stat().st_size} bytes in {VECTORS}")
