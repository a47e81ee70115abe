"""Bundled data sets: fetched once from a pinned package, converted, kept in the user's cache."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .data import ARRAYS, BUNDLED, TRAIN_SHARE, DataError, split_by_time
from .fetch import FetchError, Pinned, fetch, read_whole
from .files import npz_bytes, read_npz, write_whole

Arrays = dict[str, NDArray[Any]]


WATCH = Pinned(
    "seglearn==1.2.5", "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
)
WATCH_MEMBER = "seglearn/data/watch_dataset.npy"
BRING = (
    f"without a network, bring the file of `pip download --no-deps {WATCH.requirement}` "
    "and run `seamline data get watch --from FILE.whl`"
)
WATCH_NOTE = (
    "smartwatch motion of 10 people doing 7 shoulder exercises, 6 channels at 50 Hz. "
    "Licence: BSD-3-Clause (seglearn). Cite: D. Burns, C. Whyne, Seglearn, arXiv:1802.01489."
)
DIGITS_NOTE = (
    "1797 handwritten digits of 8x8 pixels, inside scikit-learn. Licence: CC BY 4.0. "
    "Cite: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998."
)
NOTES = {"watch": WATCH_NOTE, "digits": DIGITS_NOTE}
PEOPLE = range(1, 11)
WATCH_CLASSES, DIGITS_CLASSES = 7, 10
WINDOW, HOP = 100, 50  # samples: 2 s and 1 s
TEST_BEGIN = 0.76  # share of a recording, in time; a gap lies between train and test
GYROSCOPE_SCALE = 0.25  # brings rad/s to the range of the accelerometer's g
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]  # acceleration, then angular velocity
GYROSCOPE = slice(3, 6)


def cache_folder() -> Path:
    """`seamline` in the user's cache folder (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "seamline"


def watch_folder() -> Path:
    return cache_folder() / "watch-1"


def is_here(name: str) -> bool:
    """Can the set be loaded now, without a network?"""
    if name == "watch":
        return all(_person_file(person).exists() for person in PEOPLE)
    from importlib.util import find_spec

    return find_spec("sklearn") is not None


def load_bundled(name: str, args: Mapping[str, Any]) -> Arrays:
    """watch: person = 1..10 or "all". digits: part = 1..parts, of `parts` (default: 1 of 1).

    Raises DataError.
    """
    if name == "watch":
        return _load_watch(**_only(name, args, person="all"))
    return _load_digits(**_only(name, args, part=1, parts=1))


def _only(source: str, args: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    unknown = [name for name in args if name not in defaults]
    if unknown:
        raise DataError(
            f"data source {source} knows no argument {unknown[0]!r}; it takes "
            f"{', '.join(defaults)}",
            2,
        )
    return {**defaults, **args}


def _is_count(value: Any, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= high


# ---- digits ----


def _load_digits(part: Any, parts: Any) -> Arrays:
    if not _is_count(parts, 100) or not _is_count(part, parts):
        raise DataError(
            "data source digits: part must be 1 to parts (at most 100), "
            f"found part {part!r} of {parts!r}",
            2,
        )
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError(
            "data source digits needs scikit-learn: pip install scikit-learn", 7
        ) from None
    x, y = load_digits(return_X_y=True)
    own = slice((part - 1) * len(x) // parts, part * len(x) // parts)
    arrays = split_by_time((x[own] / 16).astype(np.float32).reshape(-1, 8, 8, 1), y[own])
    return {**arrays, "classes": np.array(DIGITS_CLASSES)}


# ---- watch: loading ----


def _person_file(person: int) -> Path:
    return watch_folder() / f"person-{person}.npz"


def _load_watch(person: Any) -> Arrays:
    if person == "all":
        everyone = [_load_person(number) for number in PEOPLE]
        arrays = {name: np.concatenate([one[name] for one in everyone]) for name in ARRAYS}
    elif _is_count(person, PEOPLE[-1]):
        arrays = _load_person(person)
    else:
        raise DataError(f'data source watch: person must be 1 to 10 or "all", found {person!r}', 2)
    return {**arrays, "classes": np.array(WATCH_CLASSES)}


def _load_person(person: int) -> Arrays:
    path = _person_file(person)
    try:
        found = read_npz(path)
        return {name: found[name] for name in ARRAYS}
    except FileNotFoundError:
        raise DataError(
            f"the watch data is not on this machine ({path} is missing): "
            f"run `seamline data get watch`; {BRING}"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is damaged ({error}): run `seamline data get watch` to make it anew"
        ) from None


# ---- watch: fetching and converting ----


def get_watch(wheel: Path | None = None) -> Path:
    """Fetches the watch data unless it is here and whole; returns its folder.

    wheel: a file brought by hand, instead of the network.
    Raises DataError: no network, a wrong checksum, a file that is not what it should be.
    """
    if wheel is None and _is_whole():
        return watch_folder()
    if wheel is not None:
        people = convert_watch(read_member(wheel, WATCH, WATCH_MEMBER))
    else:
        with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
            people = convert_watch(read_member(_download(Path(folder)), WATCH, WATCH_MEMBER))
    return _keep(people)


def _is_whole() -> bool:
    try:
        _load_watch("all")
    except DataError:
        return False
    return True


def _download(folder: Path) -> Path:
    try:
        return fetch(WATCH, folder)
    except FetchError as error:
        raise DataError(
            f"cannot fetch {WATCH.requirement} (the watch data, 11 MB) from the package index: "
            f"{error}; {BRING}"
        ) from None


def read_member(path: Path, pinned: Pinned, member: str) -> bytes:
    """The bytes of `member` in the wheel at `path`; raises DataError for a wrong checksum."""
    try:
        data = read_whole(path, pinned)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be used: {error}") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(member)
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise DataError(f"{path} holds no {member}: {error}") from None


def read_pickled_npy(file: IO[bytes]) -> Any:
    """What an .npy of pickled objects holds; raises DataError for names that are not numpy's."""
    import pickle

    reconstruct = np.ndarray(0).__reduce__()[0]  # wherever this numpy keeps it
    names = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("_codecs", "encode"): _latin1,  # how protocol 2 writes the bytes of an array
    }

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in names:
                raise DataError(
                    f"the watch data asks for {module}.{name}: this is not the file it should be"
                )
            return names[module, name]

    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return Restricted(file).load()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"the watch data asks for the encoding {encoding!r}")
    return text.encode("latin1")


def convert_watch(npy: bytes) -> dict[int, Arrays]:
    """Windows of every person, in ARRAYS: x [n, 1, 100, 6] float32, y [n] int32."""
    import pickle

    try:
        table = read_pickled_npy(io.BytesIO(npy)).item()
        if list(table["X_labels"]) != CHANNELS:
            raise ValueError(f"channels {table['X_labels']}")
        parts: dict[int, dict[str, list[Any]]] = {}
        for recording, label, person in zip(table["X"], table["y"], table["subject"], strict=True):
            own = parts.setdefault(int(person), {name: [] for name in ARRAYS})
            for name, windows in cut_recording(np.asarray(recording)).items():
                own[f"x_{name}"].append(windows)
                own[f"y_{name}"].append(np.full(len(windows), label, np.int32))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(f"the watch data is not what it should be: {error}") from error
    return {
        person: {name: np.concatenate(arrays) for name, arrays in own.items()}
        for person, own in sorted(parts.items())
    }


def cut_recording(recording: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Windows [n, 1, 100, 6] of a recording [time, 6]: train from its first 75 %, test from 76 %
    of it on, so that no instant is in both."""
    signal = recording.astype(np.float32)
    signal[:, GYROSCOPE] *= GYROSCOPE_SCALE
    end, begin = int(len(signal) * TRAIN_SHARE), int(len(signal) * TEST_BEGIN)
    ranges = {
        "train": range(0, end - WINDOW + 1, HOP),
        "test": range(begin, len(signal) - WINDOW + 1, HOP),
    }
    return {
        name: np.array([signal[i : i + WINDOW] for i in starts], np.float32).reshape(
            -1, 1, WINDOW, 6
        )
        for name, starts in ranges.items()
    }


def _keep(people: Mapping[int, Arrays]) -> Path:
    folder = watch_folder()
    try:
        for person, arrays in people.items():
            write_whole(_person_file(person), npz_bytes(arrays))
    except OSError as error:
        raise DataError(f"cannot write to the cache {folder}: {error.strerror or error}") from None
    return folder


def list_bundled() -> list[dict[str, Any]]:
    """name, note and whether it is here, of each bundled set."""
    return [{"name": name, "here": is_here(name), "about": NOTES[name]} for name in BUNDLED]
