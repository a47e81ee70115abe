"""Files between the host that has the network and the device that has the samples."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seamline.runtime.calibration import Ranges, calibrate
from seamline.runtime.files import npz_bytes
from seamline.runtime.float_front import (
    FileError,
    FloatFront,
    Measured,
    describe_spec,
    joined_ranges,
    read_float_front,
    read_ranges,
    write_float_front,
    write_ranges,
)
from seamline.runtime.networks import NETWORKS, make_piece, network
from seamline.runtime.plan import LayerSpec


def front_of(name: str) -> tuple[FloatFront, np.ndarray]:
    net = network(name)
    piece = make_piece(net.layers, net.input_shape, 2)
    return FloatFront(net.layers, net.input_shape, piece.parameters), piece.x


def measured(front: FloatFront, x: np.ndarray, device: str = "one") -> Measured:
    ranges = calibrate(front.layers, front.input_shape, front.parameters, x)
    return Measured(ranges, front.digest(), device, "minmax", len(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_front_comes_back_as_it_was(name, tmp_path):
    front, _ = front_of(name)
    write_float_front(tmp_path / "front.npz", front)
    again = read_float_front(tmp_path / "front.npz")
    assert (again.layers, again.input_shape) == (front.layers, front.input_shape)
    assert np.array_equal(again.parameters, front.parameters)
    assert again.digest() == front.digest()


@pytest.mark.parametrize("ceiling", [6.0, float("inf")])
def test_a_layer_keeps_its_ceiling_or_that_it_has_none(ceiling):
    spec = LayerSpec("relu", 0, (1, 2, 3), ceiling=ceiling)
    text = json.dumps(describe_spec(spec))
    assert "Infinity" not in text
    assert msgspec.json.decode(text, type=LayerSpec) == spec


def test_ranges_come_back_as_they_were_and_hold_no_sample(tmp_path):
    front, x = front_of("watch")
    found = measured(front, x)
    path = tmp_path / "ranges.npz"
    write_ranges(path, found)
    again = read_ranges(path)
    assert dataclasses.replace(again, ranges=found.ranges) == found
    assert np.array_equal(again.ranges.lo, found.ranges.lo)
    assert np.array_equal(again.ranges.hi, found.ranges.hi)
    with np.load(path) as file:
        assert {name: file[name].shape for name in ("lo", "hi")} == {"lo": (11,), "hi": (11,)}
        assert sorted(file.files) == ["hi", "lo", "meta"]


def test_ranges_are_joined_only_for_the_front_they_were_taken_with():
    front, x = front_of("watch")
    one, two = measured(front, x), measured(front, 3 * x, "two")
    both = joined_ranges([one, two], front)
    assert np.array_equal(both.hi, np.maximum(one.ranges.hi, two.ranges.hi))
    trained_on = dataclasses.replace(front, parameters=front.parameters * 2)
    with pytest.raises(FileError, match="ranges of one are of another front"):
        joined_ranges([one], trained_on)


def changed(path, change, **arrays) -> None:
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    meta = json.loads(found["meta"].tobytes())
    change(meta)
    found |= {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays}
    path.write_bytes(npz_bytes(found))


F32 = np.float32
DAMAGE = {
    # name: (which file, what is done to its JSON, arrays replaced, words)
    "a later format": ("front", lambda m: m.update(float_front=2), {}, "expected format 1"),
    "too few parameters": ("front", lambda m: None, {"parameters": np.ones(3, F32)}, "got .3,"),
    "parameters in double": ("front", lambda m: None, {"parameters": np.ones(3)}, "float32"),
    "a layer of no kind": (
        "front", lambda m: m["layers"][0].update(kind="gru"), {}, "damaged: layer 0",
    ),
    "a text for a number": (
        "front", lambda m: m["layers"][0].update(groups="two"), {}, "Expected `int`",
    ),
    "ranges of a later format": ("ranges", lambda m: m.update(ranges=9), {}, "expected format 1"),
    "ranges of another length": ("ranges", lambda m: None, {"hi": np.ones(3, F32)}, "hi: expected"),
    "ranges without zero": ("ranges", lambda m: None, {"lo": np.ones(11, F32)}, "lo <= 0 <= hi"),
    "ranges without end": (
        "ranges", lambda m: None, {"hi": np.full(11, np.inf, F32)}, "lo <= 0 <= hi",
    ),
    "a front for ranges": ("ranges", lambda m: m.update(layers=[]), {}, "layers"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_one_clear_error(tmp_path, case):
    which, change, arrays, words = case
    front, x = front_of("watch")
    write_float_front(tmp_path / "front", front)
    write_ranges(tmp_path / "ranges", measured(front, x))
    changed(tmp_path / which, change, **arrays)
    with pytest.raises(FileError, match=words):
        {"front": read_float_front, "ranges": read_ranges}[which](tmp_path / which)


@given(st.data())
@settings(max_examples=40)
def test_files_with_wrong_bytes_are_refused_or_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    front, x = front_of("watch")
    write_float_front(folder / "front", front)
    write_ranges(folder / "ranges", measured(front, x))
    for name, read in (("front", read_float_front), ("ranges", read_ranges)):
        whole = bytearray((folder / name).read_bytes())
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(whole)
        with suppress(FileError):
            read(folder / name)


def test_a_range_is_two_numbers():
    assert [field.name for field in dataclasses.fields(Ranges)] == ["lo", "hi"]
