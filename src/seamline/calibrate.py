"""Calibration with a device's own samples; `seamline calibrate`: without PyTorch, on the device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .runtime.calibration import F32, METHODS, PERCENTILE, calibrate, observer
from .runtime.config import Job, find_device
from .runtime.errors import UserError
from .runtime.float_front import FloatFront, Measured, read_float_front, write_ranges
from .runtime.plan import Shape

if TYPE_CHECKING:
    from .runtime.data import Data

SAMPLES = 256  # of all devices together
Samples = Mapping[str, "Data"]  # by device


def run_calibrate(args: argparse.Namespace, job: Job) -> int:
    """Measures the front that the host wrote on one device's samples, writes the ranges."""
    find_device(job, args.id)
    front = read_float_front(args.front)
    data = local_data(job, [args.id], front.input_shape)
    found = measure(args, front, data, args.front)[0]
    out = Path(args.out or f"{args.id}-ranges.npz")
    write_ranges(out, found)
    if args.format == "json":
        document = {
            "device": found.device,
            "method": found.method,
            "samples": found.samples,
            "lo": found.ranges.lo.tolist(),
            "hi": found.ranges.hi.tolist(),
            "file": str(out),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        print(
            f"{found.device}: {len(found.ranges.lo)} ranges by {found.method} of {found.samples} "
            f"samples, which stay here\n{out}"
        )
    return 0


def measure(
    args: argparse.Namespace, front: FloatFront, data: Samples, source: str | Path
) -> list[Measured]:
    """Ranges on each device's samples, by the options --calibration, --percentile, --samples: an
    equal share of each device. source: where the front comes from, for the error."""
    method = args.calibration or METHODS[0]
    percentile = args.percentile or PERCENTILE
    observe = observer(method, percentile)
    name = f"{method} {percentile:g}" if method == "percentile" else method
    found = []
    for device, one in data.items():
        x = spaced(one.x_train, each_of(data, args.samples))
        try:
            ranges = calibrate(front.layers, front.input_shape, front.parameters, x, observe)
        except ValueError as error:  # a network that gives infinity for a sample
            raise UserError(f"{source} cannot be calibrated: {error}", 3) from None
        found.append(Measured(ranges, front.digest(), device, name, len(x)))
    return found


def local_data(job: Job, names: list[str] | None, shape: Shape) -> dict[str, Data]:
    """Of the devices named, or of all. Raises UserError if data is missing or of another shape."""
    from .runtime.data import device_data

    found = {}
    for name in names or [device.id for device in job.devices]:
        find_device(job, name)
        try:
            data = device_data(job, name)
        except UserError as error:
            hint = "" if names else "; --device ID names those whose data is here"
            raise UserError(f"{name}: {error}{hint}", error.exit_code) from error
        if data.x_train.shape[1:] != shape:
            raise UserError(
                f"{name}: the model takes samples of {times(shape)}, its data has "
                f"{times(data.x_train.shape[1:])} (height x width x channels)",
                3,
            )
        found[name] = data
    return found


def each_of(data: Samples, count: int | None) -> int:
    """Samples of one device, at least one."""
    return -(-(count or SAMPLES) // len(data))


def spaced(x: F32, count: int) -> F32:
    """Up to `count` of the samples, evenly spaced, so that a recording is seen from end to end."""
    chosen = np.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)
    return np.ascontiguousarray(x[chosen])


def times(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
