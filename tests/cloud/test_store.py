"""The store: what was promised survives kill -9, a full disk leaves the round before, and a wrong
store is refused."""

import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seamline.cloud.aggregate import Update, model_hash
from seamline.cloud.rounds import Close, Keep, Report
from seamline.cloud.store import Store, write_model
from seamline.runtime.errors import UserError
from seamline.runtime.files import npz_bytes


def model(*values):
    return {"layer.weight": np.array(values, np.float32), "file": np.ones((2, 1), np.float32)}


def close(round_, arrays):
    return Close(round_, arrays, model_hash(arrays), {}, 0.5)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out" / "cloud"


@pytest.fixture
def kept(make_job, folder):
    """A store with two rounds, an update of the third and a report."""
    store = Store(folder, make_job())
    for round_ in range(2):
        store.keep_update(Keep("A/1", round_, Update(5, model(round_), {"loss": 0.5})))
        store.keep_round(close(round_, model(1, round_)))
    store.keep_update(Keep("A/1", 2, Update(7, model(3), {"loss": 0.25})))
    store.keep_report(Report("B", {"correct": 9}))
    store.keep_zone("A/1")
    store.close()
    return folder


def test_what_was_kept_comes_back(make_job, kept):
    store = Store(kept, make_job())
    state = store.restore()
    store.close()
    assert state.round == 2 and model_hash(state.model) == model_hash(model(1, 1))
    assert state.updates["A/1"].samples == 7 and state.updates["A/1"].metrics == {"loss": 0.25}
    assert model_hash(state.updates["A/1"].arrays) == model_hash(model(3))
    assert state.reports == {"B": {"correct": 9}}


def test_only_the_files_that_count_stay(make_job, kept):
    (kept / "models" / ".after-000002.npz.new").write_bytes(b"half a file")
    store = Store(kept, make_job())
    store.restore()
    store.close()
    files = sorted(path.name for path in kept.glob("*/*"))
    assert files == ["000002-A%2F1.npz", "after-000000.npz", "after-000001.npz"]


def test_an_npz_is_the_same_bytes_each_time_and_plain_numpy_reads_it(tmp_path):
    assert npz_bytes(model(1)) == npz_bytes(dict(reversed(model(1).items())))
    write_model(tmp_path / "model.npz", model(1))
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert set(file.files) == {"layer.weight", "file"} and file["layer.weight"].tolist() == [1]


@pytest.mark.parametrize("codec", ["f32", "int8"])
def test_killed_at_any_step_it_holds_its_promises_and_ends_with_the_same_bits(tmp_path, codec):
    script = Path(__file__).with_name("kill_points.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), codec],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def foreign(folder):
    (folder / "store.db").unlink()
    with sqlite3.connect(folder / "store.db") as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    db.close()


def pragma(folder, text):
    with sqlite3.connect(folder / "store.db") as db:
        db.execute(f"PRAGMA {text}")
    db.close()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


# case: what is done to a good store, what the error says
SPOILED = [
    ("not a database", lambda f: (f / "store.db").write_bytes(b"x" * 5000), "no database"),
    ("another program's", foreign, "another program's"),
    ("a later format", lambda f: pragma(f, "user_version = 9"), "format 9"),
    (
        "a damaged model",
        lambda f: flip(f / "models/after-000001.npz"),
        "after-000001.npz cannot be read",
    ),
    (
        "a lost model",
        lambda f: (f / "models/after-000001.npz").unlink(),
        "after-000001.npz cannot be read",
    ),
    (
        "an exchanged model",
        lambda f: (f / "models/after-000001.npz").write_bytes(npz_bytes(model(9))),
        "not the one that was written",
    ),
    ("a damaged update", lambda f: flip(f / "updates/000002-A%2F1.npz"), "cannot be read"),
]


@pytest.mark.parametrize(("spoil", "text"), [s[1:] for s in SPOILED], ids=[s[0] for s in SPOILED])
def test_a_store_that_cannot_be_used_says_why_and_what_to_do(make_job, kept, spoil, text):
    spoil(kept)
    with pytest.raises(UserError) as caught:
        store = Store(kept, make_job())
        try:
            store.restore()
        finally:
            store.close()
    assert text in str(caught.value) and "remove the folder" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "b"}, {"zones": "AB"}, {"rounds": 9}])
def test_another_jobs_store_is_refused(make_job, kept, other):
    with pytest.raises(UserError, match=r"belongs to the job 'job'.*another `out`"):
        Store(kept, make_job(**other))


def test_other_addresses_and_deadlines_are_the_same_job(make_job, kept):
    job = make_job(deadline_s=1.0)
    job.zones[0].address = "tcp://10.0.0.1:5701"
    Store(kept, job).close()


def test_two_clouds_cannot_share_a_store(make_job, folder):
    store = Store(folder, make_job())
    with pytest.raises(UserError, match="another cloud is using"):
        Store(folder, make_job())
    store.close()
    Store(folder, make_job()).close()


def test_a_folder_that_cannot_be_made_is_said(make_job, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        Store(tmp_path / "out" / "cloud", make_job())


def test_a_full_disk_is_said_and_the_round_before_is_whole(make_job, kept):
    """A limit on the size of files stands for the full disk: the write fails half way in the same
    place."""
    store = Store(kept, make_job())
    big = {"layer.weight": np.zeros(100_000, np.float32)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"make room.*all rounds before are safe"):
            store.keep_round(close(2, big))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
        store.close()
    store = Store(kept, make_job())
    state = store.restore()
    assert state.round == 2 and model_hash(state.model) == model_hash(model(1, 1))
    store.keep_round(close(2, big))
    assert store.restore().round == 3
    store.close()
