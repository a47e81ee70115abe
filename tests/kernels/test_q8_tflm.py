"""The int8 layers give the bytes of TensorFlow Lite Micro: live where it is installed, and kept."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
from seamline.kernels import choose_variant, q8, reference_q8, variants

HERE = Path(__file__).parent
VECTORS = np.load(HERE / "vectors" / "q8_forward.npz", allow_pickle=False)
KEPT = sorted({key.rsplit("/", 1)[0] for key in VECTORS.files if key.endswith("/y")})
LAYERS = sorted({key.split("/")[0] for key in KEPT})


def expect(name, arrays, how, want):
    """Every variant and the definition give these bytes."""
    results = {"definition": getattr(reference_q8, name)(**arrays, **how)}
    for variant in variants():
        choose_variant(variant)
        results[variant] = getattr(q8, name)(**arrays, **how)
    choose_variant()
    for who, got in results.items():
        what = f"{who}, {name} {how}, {[(key, value.shape) for key, value in arrays.items()]}"
        assert (got.dtype, got.shape) == (want.dtype, want.shape), what
        at = np.argwhere(got != want)[:3]
        assert got.tobytes() == want.tobytes(), f"{what}: differs at {at}"


@pytest.mark.parametrize("key", KEPT)
def test_the_kept_bytes_of_tflite_micro_come_out(key):
    start = f"{key}/array/"
    arrays = {k.removeprefix(start): VECTORS[k] for k in VECTORS.files if k.startswith(start)}
    expect(
        key.split("/")[0], arrays, ast.literal_eval(str(VECTORS[f"{key}/how"])), VECTORS[key + "/y"]
    )


@pytest.fixture(scope="module")
def models():
    """The module that runs TensorFlow Lite Micro; a machine that lacks it has the kept bytes."""
    pytest.importorskip("tflite_micro")
    return importlib.import_module("tflm_models")


@pytest.mark.parametrize("name", LAYERS)
def test_tflite_micro_gives_the_same_bytes_on_random_layers(name, models, rng):
    for _ in range(60):
        expect(*models.LAYERS[name](rng))


def test_tflite_micro_still_gives_the_kept_bytes(models):
    made = models.golden()
    assert sorted(made) == sorted(VECTORS.files)
    for key in made:
        assert made[key].tobytes() == VECTORS[key].tobytes(), key
