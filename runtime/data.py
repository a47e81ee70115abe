"""Data sources: where a device's own samples come from. Read on the device, checked, never sent."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .files import read_npz

if TYPE_CHECKING:
    from .config import Job

BUNDLED = ("watch", "digits")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LABEL_MAX = 65535  # labels travel as u16
SIDE_MAX = 65535  # of a tensor in a plan
TRAIN_SHARE, TEST_SHARE = 0.75, 0.24  # of samples in order of time; a gap lies between


class DataError(UserError):
    """Data that is missing or cannot be used (exit code 3)."""

    def __init__(self, text: str, exit_code: int = 3) -> None:
        super().__init__(text, exit_code)


@dataclass(frozen=True)
class Data:
    """x: float32 [n, height, width, channels], finite (a time series has height 1);
    y: int32 [n] in 0..classes-1."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int32]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int32]
    classes: int


def check_source(source: str) -> str:
    """What is wrong with the text of a data source, "" if nothing. Opens and imports nothing."""
    if source in BUNDLED or source.endswith(".npz") or FUNCTION.fullmatch(source):
        return ""
    return (
        f"must be one of {', '.join(BUNDLED)}, the path of an .npz file, or package.module:function"
    )


def local_source(source: str, folder: Path) -> str:
    """The source with an .npz path made absolute; relative paths start at `folder`."""
    return absolute(source, folder) if source.endswith(".npz") else source


def absolute(path: str, folder: Path) -> str:
    """A path of a job file, made absolute: `~` is the user's home, `..` is resolved."""
    return os.path.normpath(folder / Path(path).expanduser())


def device_data(job: Job, device_id: str) -> Data:
    """The data of one device of the job; its own arguments for the source override the job's.
    What the job's `data.validation` keeps apart follows the test samples.

    Raises DataError; JobError if there is no such device.
    """
    from .config import find_device

    args = {**job.data.args, **find_device(job, device_id).data}
    data = load_data(job.data.source, device_id, args, job.seed)
    return keep_apart(data, job.data.validation, job.seed, device_id)


def keep_apart(data: Data, count: int, seed: int, device_id: str) -> Data:
    """`count` training samples, drawn at random by the seed and the device, put behind the test
    samples. Raises DataError: fewer than one would be left to train on.
    """
    if count == 0:
        return data
    if count >= len(data.x_train):
        raise DataError(
            f"data.validation = {count}: {device_id} has {len(data.x_train)} training samples; "
            "one at least must be left to train on"
        )
    order = np.random.default_rng([seed, crc32(device_id.encode())]).permutation(len(data.x_train))
    apart, left = np.sort(order[:count]), np.sort(order[count:])
    return replace(
        data,
        x_train=np.ascontiguousarray(data.x_train[left]),
        y_train=data.y_train[left],
        x_test=np.concatenate([data.x_test, data.x_train[apart]]),
        y_test=np.concatenate([data.y_test, data.y_train[apart]]),
    )


def load_data(source: str, device_id: str, args: Mapping[str, Any], job_seed: int = 0) -> Data:
    """The samples of one device, checked.

    source: a bundled name; an .npz (`{id}` in its path becomes `device_id`); or
    `package.module:function`, called with `args` (and with `seed` if it takes one). The
    function returns a Data, a dict or a tuple of the arrays x_train, y_train, x_test, y_test, or
    yields samples (x, y) in order of time, which are split 75 % / 24 %.
    x: [n, h, w, c], [n, time, channels] or [n, features], finite numbers; y: whole numbers from 0.
    Raises DataError naming source, array and index.
    """
    if wrong := check_source(source):
        raise DataError(f"data source {source!r} {wrong}", 2)
    if source in BUNDLED:
        from .bundled import load_bundled

        return checked(source, load_bundled(source, args))
    if source.endswith(".npz"):
        path = source.replace("{id}", device_id)
        return checked(path, _read_npz(Path(path), args))
    return checked(source, _call(source, args, job_seed))


# ---- sources of your own ----


def _read_npz(path: Path, args: Mapping[str, Any]) -> dict[str, Any]:
    if args:
        raise DataError(f"{path}: an .npz takes no arguments, found {', '.join(args)}", 2)
    try:
        found = read_npz(path, (*ARRAYS, "classes"))
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from None
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}: it must hold {', '.join(ARRAYS)}; "
            f"found {', '.join(found) or 'none of them'}"
        )
    return found


def _call(source: str, args: Mapping[str, Any], seed: int) -> Any:
    import inspect

    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's own code
        raise DataError(
            f"data source {source}: cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"data source {source}: {module_name} has no function {function_name}")
    try:
        if "seed" in inspect.signature(function).parameters and "seed" not in args:
            args = {**args, "seed": seed}
        found = function(**args)
        if isinstance(found, (Data, Mapping)) or (isinstance(found, tuple) and len(found) == 4):
            return found
        return split_by_time(*_gather(found))
    except UserError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise DataError(
            f"data source {source} with arguments {dict(args)} failed: "
            f"{type(error).__name__}: {error}"
        ) from error


def _gather(samples: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    xs, ys = [], []
    for number, sample in enumerate(samples):
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            raise ValueError(f"sample {number} is not a pair (x, y)")
        xs.append(np.asarray(sample[0]))
        ys.append(sample[1])
        if xs[-1].shape != xs[0].shape:
            raise ValueError(f"sample {number} has shape {xs[-1].shape}, the first {xs[0].shape}")
    if not xs:
        raise ValueError("it yielded no samples")
    return np.stack(xs), np.asarray(ys)


def split_by_time(x: NDArray[Any], y: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Samples in order of time: the first 75 % train, the last 24 % test; neighbours are apart."""
    train, test = int(len(x) * TRAIN_SHARE), len(x) - int(len(x) * TEST_SHARE)
    return {"x_train": x[:train], "y_train": y[:train], "x_test": x[test:], "y_test": y[test:]}


# ---- checks ----


def checked(source: str, found: Any) -> Data:
    """Data from what a source gave. Raises DataError naming source, array and index."""
    values = _as_mapping(source, found)
    x_train = _check_x(source, "x_train", values["x_train"])
    x_test = _check_x(source, "x_test", values["x_test"])
    if not len(x_train):
        raise DataError(f"{source}: x_train holds no samples")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{source}: a sample of x_test has shape {x_test.shape[1:]}, "
            f"one of x_train {x_train.shape[1:]}"
        )
    declared = values.get("classes")
    classes = LABEL_MAX + 1 if declared is None else _check_classes(source, declared)
    y_train = _check_y(source, "y_train", values["y_train"], len(x_train), classes)
    y_test = _check_y(source, "y_test", values["y_test"], len(x_test), classes)
    if declared is None:
        classes = int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1
    return Data(x_train, y_train, x_test, y_test, classes)


def _as_mapping(source: str, found: Any) -> Mapping[str, Any]:
    if isinstance(found, Data):
        return vars(found)
    if isinstance(found, tuple):
        return dict(zip(ARRAYS, found, strict=True))
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise DataError(f"{source} lacks {', '.join(missing)}; found {', '.join(map(str, found))}")
    mapping: Mapping[str, Any] = found
    return mapping


def _check_classes(source: str, value: Any) -> int:
    number = np.asarray(value)
    if (
        number.size != 1
        or number.dtype.kind not in "iu"
        or not 1 <= int(number.item()) <= LABEL_MAX + 1
    ):
        raise DataError(
            f"{source}: classes must be a whole number from 1 to {LABEL_MAX + 1}, found {value}"
        )
    return int(number.item())


def _check_x(source: str, name: str, value: Any) -> NDArray[np.float32]:
    x = np.asarray(value)
    if x.dtype.kind not in "fiu":
        raise DataError(f"{source}: {name} must hold numbers, found dtype {x.dtype}")
    if x.ndim not in (2, 3, 4):
        raise DataError(
            f"{source}: {name} must be [n, height, width, channels], [n, time, channels] or "
            f"[n, features], found shape {x.shape}"
        )
    if not all(1 <= side <= SIDE_MAX for side in x.shape[1:]):
        raise DataError(
            f"{source}: {name} has the shape {x.shape}; sides of 1 to {SIDE_MAX} are allowed"
        )
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    finite = np.isfinite(x)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{source}: {name}{list(index)} is {x[index]}; every value must be finite in float32"
        )
    ones = (1,) * (4 - x.ndim)
    return x.reshape(x.shape[0], *ones, *x.shape[1:])


def _check_y(source: str, name: str, value: Any, count: int, classes: int) -> NDArray[np.int32]:
    y = np.asarray(value)
    if y.shape != (count,):
        raise DataError(
            f"{source}: {name} must have the shape ({count},) of its samples, found {y.shape}"
        )
    if y.dtype.kind not in "iu" and count:
        raise DataError(f"{source}: {name} must hold whole numbers, found dtype {y.dtype}")
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(
            f"{source}: {name}[{index}] is {y[index]}; labels must be 0 to {classes - 1}"
        )
    return y.astype(np.int32)
