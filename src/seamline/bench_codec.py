"""Codecs in `seamline bench kernels`: packing and unpacking beside a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import parcel, q8, variant
from .kernels.bench import Roofline, Work, interleave

Row = dict[str, Any]
CODEC = "codec"  # the name of these rows' network
VALUES = (2**14, 2**20)  # in a tensor: one that a device's cache holds, one that none does
SCALE, ZERO = 0.05, 3


@dataclass(frozen=True)
class Task:
    """size: bytes read and written."""

    layer: str
    pass_: str
    dtype: str
    size: int
    work: Work


def codec_rows(repeat: int, roofline: Roofline) -> Iterator[Row]:
    """A row for each task, beside a copy of as many bytes."""
    for count in VALUES:
        for task in _tasks(count):
            yield _measure(task, repeat, roofline)


def _tasks(count: int) -> Iterator[Task]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(count).astype(np.float32)
    q = rng.integers(-128, 128, count).astype(np.int8)
    layer = f"{count // 1024}k"
    for codec, size in (("f32", 8 * count), ("int8", 5 * count), ("int4", 9 * count // 2)):
        data = parcel.pack(x, codec)
        yield Task(layer, "pack", codec, size, _packing(x, codec, "nearest"))
        if codec != "f32":
            drawn = _packing(x, codec, "stochastic")
            yield Task(layer, "pack-stochastic", codec, size, drawn)
        yield Task(layer, "unpack", codec, size, _unpacking(data))
    yield Task(
        layer,
        "quantise",
        "int8",
        5 * count,
        lambda: q8.quantise(x, SCALE, ZERO),
    )
    yield Task(
        layer,
        "dequantise",
        "int8",
        5 * count,
        lambda: q8.dequantise(q, SCALE, ZERO),
    )


def _packing(x: NDArray[np.float32], codec: str, rounding: str) -> Work:
    return lambda: parcel.pack(x, codec, rounding, 7)


def _unpacking(data: bytes) -> Work:
    return lambda: parcel.unpack(data)


def _measure(task: Task, repeat: int, roofline: Roofline) -> Row:
    target, source = np.ones((2, task.size // 2), np.uint8)
    times = interleave({"": task.work, "copy": lambda: np.copyto(target, source)}, repeat)
    own, theirs = times[""], times["copy"]
    return {
        "net": CODEC,
        "layer": task.layer,
        "pass": task.pass_,
        "dtype": task.dtype,
        "variant": variant(),
        "batch": 1,
        "us": round(own.us, 2),
        "us_median": round(own.us_median, 2),
        "noise": round(own.noise, 3),
        "gmacs": 0.0,
        "roofline": round(task.size / roofline.bandwidth(task.size) * 1e6 / own.us, 3),
        "peer": "copy",
        "peer_us": round(theirs.us, 2),
        "peer_us_median": round(theirs.us_median, 2),
        "ratio": round(theirs.us / own.us, 3),
    }
