"""Data sources: shapes, checks, the time split, and the one pickle, read with care. No network."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from seamline.runtime import bundled
from seamline.runtime.config import make_job
from seamline.runtime.data import Data, DataError, device_data, load_data

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays(**changes):
    good = {
        "x_train": RNG.normal(size=(8, 10, 3)),
        "y_train": np.arange(8) % 4,
        "x_test": RNG.normal(size=(4, 10, 3)),
        "y_test": np.arange(4),
    }
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


@pytest.fixture
def npz(tmp_path):
    def write(name="d.npz", **changes):
        np.savez(tmp_path / name, **arrays(**changes))
        return str(tmp_path / name)

    return write


# ---- .npz ----


def test_an_npz_of_time_series_becomes_rows_of_height_one(npz):
    data = load_data(npz(), "d", {})
    assert data.x_train.shape == (8, 1, 10, 3)
    assert data.x_train.dtype == np.float32
    assert data.y_test.dtype == np.int32
    assert data.classes == 4


@pytest.mark.parametrize(("shape", "full"), [((5,), (1, 1, 5)), ((4, 6, 2), (4, 6, 2))])
def test_features_and_images_are_taken_too(npz, shape, full):
    path = npz(x_train=np.zeros((8, *shape), np.uint8), x_test=np.zeros((4, *shape), np.uint8))
    assert load_data(path, "d", {}).x_train.shape == (8, *full)


def test_the_devices_id_stands_in_the_path(npz, tmp_path):
    npz("d7.npz")
    assert load_data(str(tmp_path / "{id}.npz"), "d7", {}).classes == 4


def with_value(value):
    x = RNG.normal(size=(8, 10, 3))
    x[5, 2, 1] = value
    return x


BAD = {
    "nan": ({"x_train": with_value(np.nan)}, r"x_train\[5, 2, 1\] is nan"),
    "inf": ({"x_test": with_value(-np.inf)[:6], "y_test": np.zeros(6, int)}, r"x_test.* is -inf"),
    "too large for float32": ({"x_train": with_value(1e300)}, r"x_train\[5, 2, 1\] is inf"),
    "text": ({"x_train": np.full((8, 10, 3), "a")}, "x_train must hold numbers"),
    "one dimension": ({"x_train": np.zeros(8)}, r"x_train must be .* found shape \(8,\)"),
    "no channels": ({"x_train": np.zeros((8, 10, 0))}, "sides of 1 to"),
    "no samples": ({"x_train": np.zeros((0, 10, 3)), "y_train": np.zeros(0)}, "no samples"),
    "other test shape": ({"x_test": np.zeros((4, 9, 3))}, "a sample of x_test has shape"),
    "labels too few": ({"y_train": np.arange(7)}, r"y_train must have the shape \(8,\)"),
    "labels not whole": ({"y_test": np.arange(4) / 2}, "y_test must hold whole numbers"),
    "label below 0": ({"y_test": np.array([0, 1, -1, 2])}, r"y_test\[2\] is -1"),
    "label too large": ({"classes": 3}, r"y_train\[3\] is 3; labels must be 0 to 2"),
    "classes not a number": ({"classes": np.array("x")}, "classes must be a whole number"),
    "array missing": ({"y_test": None}, "lacks y_test"),
    "objects": ({"x_train": np.array([{}] * 8)}, "Python objects"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_name_source_array_and_index(npz, case):
    changes, said = BAD[case]
    path = npz(**changes)
    with pytest.raises(DataError, match=said) as caught:
        load_data(path, "d", {})
    assert path in str(caught.value)
    assert caught.value.exit_code == 3


def test_files_that_are_no_npz_are_data_errors(tmp_path):
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04rest")
    for name in ("bare", "text", "cut", "missing"):
        with pytest.raises(DataError, match=name):
            load_data(str(tmp_path / f"{name}.npz"), "d", {})


def test_an_npz_takes_no_arguments(npz):
    with pytest.raises(DataError, match="takes no arguments, found person"):
        load_data(npz(), "d", {"person": 1})


# ---- functions ----


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + text)
        return f"{name}:samples"

    return write


def test_a_function_that_yields_samples_is_split_by_time(module):
    source = module(
        "own_a",
        "def samples(scale):\n for i in range(100): yield np.full((5, 2), i * scale), i % 3\n",
    )
    data = load_data(source, "d", {"scale": 2})
    assert (data.x_train.shape, data.x_test.shape) == ((75, 1, 5, 2), (24, 1, 5, 2))
    assert data.x_train.max() < data.x_test.min()
    assert data.classes == 3


@pytest.mark.parametrize("form", ["a", "tuple(a.values())", "data.Data(**a, classes=2)"])
def test_a_function_may_return_all_four_arrays(module, form):
    source = module(
        f"own_b{len(form)}",
        "from seamline.runtime import data\n"
        "def samples(seed):\n"
        " a = {'x_train': np.full((4, 3), seed), 'y_train': np.zeros(4, int),\n"
        "      'x_test': np.ones((2, 3)), 'y_test': np.ones(2, int)}\n"
        f" return {form}\n",
    )
    data = load_data(source, "d", {}, job_seed=9)
    assert isinstance(data, Data)
    assert data.x_train[0, 0, 0, 0] == 9
    assert data.classes == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def other(): pass", "has no function samples"),
        ("raise RuntimeError('no sensor')", "cannot import .*no sensor"),
        ("def samples(): 1 / 0", "failed: ZeroDivisionError"),
        ("def samples(): yield 3", "sample 0 is not a pair"),
        ("def samples(): return iter(())", "yielded no samples"),
        ("def samples():\n yield np.zeros(3), 0\n yield np.zeros(4), 0", "sample 1 has shape"),
        ("def samples(): return {'x_train': 1}", "lacks y_train"),
    ],
)
def test_a_wrong_function_is_a_data_error(module, body, said):
    source = module(f"own_c{abs(hash(body))}", body)
    with pytest.raises(DataError, match=said):
        load_data(source, "d", {})


# ---- the watch data ----


def recording(length, label):
    """Six channels that count time, so that each sample says where it comes from."""
    return np.repeat(np.arange(length)[:, None] + 10_000.0 * label, 6, axis=1)


def watch_table():
    x = [recording(950 + 10 * i, i % 7) for i in range(20)]
    return {
        "X": x,
        "y": np.arange(20) % 7,
        "subject": np.arange(20) % 10 + 1,
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
    }


def npy(table) -> bytes:
    box = np.empty((), object)
    box[()] = table
    file = io.BytesIO()
    np.save(file, box, allow_pickle=True)
    return file.getvalue()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel like the real one, small; its checksum is made the expected one."""

    def write(member: bytes, name: str = bundled.WATCH_MEMBER) -> Path:
        path = tmp_path / "small-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, member)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pinned = bundled.Pinned("seglearn==1.2.5", digest)
        monkeypatch.setattr(bundled, "WATCH", pinned)
        return path

    return write


def test_windows_of_a_recording_share_no_instant_between_train_and_test():
    for length in range(100, 1500, 37):
        parts = bundled.cut_recording(recording(length, 0))
        train, test = (set(parts[name][..., 0].ravel()) for name in ("train", "test"))
        assert not train & test
        assert max(train, default=0) < 0.75 * length
        begin = int(0.76 * length)
        assert min(test, default=begin) == begin


def test_windows_are_two_seconds_every_second_with_the_gyroscope_scaled():
    parts = bundled.cut_recording(recording(1000, 0))
    assert parts["train"].shape == (14, 1, 100, 6)  # starts 0, 50, .. 650
    assert parts["test"].shape == (3, 1, 100, 6)  # starts 760, 810, 860
    assert (parts["train"][1, 0, 0] == [50, 50, 50, 12.5, 12.5, 12.5]).all()
    assert parts["test"][0, 0, 0, 0] == 760


def test_a_wheel_brought_by_hand_is_converted_into_the_cache(wheel):
    folder = bundled.get_watch(wheel(npy(watch_table())))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"person-{person}.npz" for person in range(1, 11)
    )
    one, everyone = (
        load_data("watch", "d", {"person": 3}),
        load_data("watch", "d", {"person": "all"}),
    )
    assert len(everyone.x_train) > 8 * len(one.x_train)
    assert one.classes == 7
    assert bundled.is_here("watch")
    assert bundled.get_watch() == folder  # nothing to fetch


def test_each_person_has_only_its_own_recordings(wheel):
    bundled.get_watch(wheel(npy(watch_table())))
    for person in range(1, 11):
        own = {(person - 1) % 7, (person + 9) % 7}
        data = load_data("watch", "d", {"person": person})
        assert set(data.y_train) | set(data.y_test) == own
        assert set((data.x_train[..., 0] // 10_000).ravel()) == own


def test_a_wrong_checksum_is_refused(wheel):
    path = wheel(npy(watch_table()))
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DataError, match="its sha256 is"):
        bundled.get_watch(path)


@pytest.mark.parametrize(
    "content", [b"not an npy", npy(3), npy({"X": []}), npy(watch_table())[:900]]
)
def test_a_member_that_is_something_else_is_refused(wheel, content):
    with pytest.raises(DataError, match="not what it should be"):
        bundled.get_watch(wheel(content))


def test_a_wheel_without_the_member_is_refused(wheel):
    with pytest.raises(DataError, match="holds no seglearn"):
        bundled.get_watch(wheel(b"", name="other"))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_runs_nothing(wheel, tmp_path):
    target = tmp_path / "ran"
    member = npy(Hostile(target))
    np.load(io.BytesIO(member), allow_pickle=True)  # read without care it does what it threatens
    target.rmdir()
    with pytest.raises(DataError, match=r"asks for posix\.mkdir"):
        bundled.get_watch(wheel(member))
    assert not target.exists()


@pytest.mark.parametrize(
    "name", [("builtins", "eval"), ("numpy", "save"), ("numpy.testing", "run")]
)
def test_other_names_are_refused_even_of_numpy(name):
    code = b"c" + name[0].encode() + b"\n" + name[1].encode() + b"\n."
    file = io.BytesIO(npy(0).split(b"\n", 1)[0] + b"\n" + code)
    with pytest.raises(DataError, match="asks for"):
        bundled.read_pickled_npy(file)


def test_missing_watch_data_says_how_to_bring_it():
    with pytest.raises(DataError, match=r"seamline data get watch.*--from FILE\.whl") as caught:
        load_data("watch", "d", {"person": 1})
    assert "\n" not in str(caught.value)


def test_without_an_index_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        DataError, match=r"cannot fetch seglearn==1\.2\.5.*--from FILE\.whl"
    ) as caught:
        bundled.get_watch()
    assert "\n" not in str(caught.value)


def test_a_damaged_cache_is_noticed_and_made_anew(wheel):
    path = wheel(npy(watch_table()))
    folder = bundled.get_watch(path)
    (folder / "person-4.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"person-4\.npz is damaged"):
        load_data("watch", "d", {"person": 4})
    bundled.get_watch(path)
    load_data("watch", "d", {"person": 4})


@pytest.mark.parametrize("person", [0, 11, "1", True, None, 1.0])
def test_an_unknown_person_is_refused(person):
    with pytest.raises(DataError, match="person must be 1 to 10"):
        load_data("watch", "d", {"person": person})


def test_an_unknown_argument_is_refused():
    with pytest.raises(DataError, match="knows no argument 'persn'"):
        load_data("watch", "d", {"persn": 1})


def test_a_devices_arguments_override_the_jobs(wheel):
    bundled.get_watch(wheel(npy(watch_table())))
    zone = {"name": "A", "address": "tcp://127.0.0.1:1"}
    devices = [{"id": "a", "zone": "A"}, {"id": "b", "zone": "A", "data": {"person": 2}}]
    values = {
        "zones": [zone],
        "devices": devices,
        "data": {"source": "watch", "args": {"person": 1}},
    }
    job = make_job(values, "job", Path("/"))
    assert set(device_data(job, "a").y_train) == {0, 3}
    assert set(device_data(job, "b").y_train) == {1, 4}


def test_loading_one_person_leaves_room_for_the_rest_of_a_device(wheel):
    bundled.get_watch(wheel(npy(watch_table())))
    code = (
        "from seamline.runtime import config, data\n"
        "data.load_data('watch', 'd', {'person': 1})\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert int(done.stdout) < 38_000  # kB, of the 45 MB a device may take
