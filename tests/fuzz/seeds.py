"""Writes the bytes the fuzzers start from: `seeds.py FOLDER` makes one folder for each target."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from seamline.kernels import parcel
from seamline.runtime.plan import LayerSpec, build_plan

SAME = ((1, 1), (1, 1))


def plans() -> dict[str, bytes]:
    """Small ones that have every kind of layer between them."""
    residual = [
        LayerSpec("conv2d", 0, (6, 6, 4), kernel=(3, 3), padding=SAME),
        LayerSpec("group_norm", 1, (6, 6, 4), groups=2),
        LayerSpec("relu", 2, (6, 6, 4)),
        LayerSpec("depthwise", 3, (6, 6, 4), kernel=(3, 3), padding=SAME),
        LayerSpec("add", 4, (6, 6, 4), second_input=3),
        LayerSpec("max_pool", 5, (3, 3, 4), kernel=(2, 2), stride=(2, 2)),
        LayerSpec("average_pool", 6, (1, 1, 4), kernel=(3, 3)),
        LayerSpec("flatten", 7, (1, 1, 4)),
        LayerSpec("dense", 8, (1, 1, 3)),
    ]
    strided = [
        LayerSpec("conv2d", 0, (1, 5, 3), kernel=(1, 5), stride=(1, 2), padding=((0, 0), (2, 2))),
        LayerSpec("relu", 1, (1, 5, 3), ceiling=6.0),
        LayerSpec("depthwise", 2, (1, 3, 6), kernel=(1, 2), dilation=(1, 2), has_bias=False),
    ]
    return {
        "residual": build_plan(residual, (6, 6, 2), 2),
        "strided": build_plan(strided, (1, 10, 2), 3),
        "dense": build_plan([LayerSpec("dense", 0, (1, 1, 5))], (1, 1, 7), 1),
    }


def parcels() -> dict[str, bytes]:
    x = np.linspace(-2, 3, 15, dtype=np.float32).reshape(1, 5, 3)
    return {
        f"{codec}-{rounding}": parcel.pack(x, codec, rounding=rounding, seed=7)
        for codec in parcel.CODECS
        for rounding in ("nearest", "stochastic")
    }


def main(folder: Path) -> None:
    for target, seeds in {"plan": plans(), "parcel": parcels()}.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
