"""A key folder that changes: a key is replaced in one step wherever it is cut short, peers come and
go, and a running program sees it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from seamline.runtime import key_folder
from seamline.runtime.errors import UserError
from seamline.runtime.key_folder import (
    AllowList,
    add_peer,
    find_key,
    forget_key,
    list_keys,
    rotate_key,
)
from seamline.runtime.keys import fingerprint, load_keys, make_keys, new_secret, public_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an edge host has: its own pair, the public keys of others."""
    make_keys(tmp_path, ["host-A", "watch-1", "watch-2"])
    for name in ("watch-1", "watch-2"):
        (tmp_path / f"{name}.secret").unlink()
    return tmp_path


def test_own_keys_are_listed_before_those_of_peers_and_a_damaged_file_hides_no_other(
    folder: Path,
) -> None:
    (folder / "watch-1.public").write_text("spoilt")
    entries = list_keys(folder)
    assert [(entry.name, entry.own) for entry in entries] == [
        ("host-A", True),
        ("watch-1", False),
        ("watch-2", False),
    ]
    assert "no key file" in entries[1].trouble and not entries[1].public
    assert entries[2].public == load_keys_of(folder, "watch-2")


def load_keys_of(folder: Path, name: str) -> str:
    return (folder / f"{name}.public").read_text().splitlines()[1]


def test_a_fingerprint_is_five_groups_and_differs_for_every_key() -> None:
    keys = [public_of(new_secret()) for _ in range(20)]
    marks = {fingerprint(key) for key in keys}
    assert len(marks) == 20
    assert all([len(group) for group in mark.split("-")] == [4] * 5 for mark in marks)
    assert fingerprint("0" * 40) == "TK32-OOUX-UGRQ-GFAG-W3AW"  # BLAKE2b of 32 zero bytes


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the key folder") as error:
        list_keys(tmp_path / "none")
    assert error.value.exit_code == 3
    with pytest.raises(UserError, match="cannot change the keys"):
        forget_key(tmp_path / "none", "a")


# ---- rotate ----


def test_a_new_key_takes_the_place_of_the_old_one(folder: Path) -> None:
    before = load_keys(folder, "host-A")
    old, new = rotate_key(folder, "host-A")
    after = load_keys(folder, "host-A")
    assert (old, new) == (before.public, after.public) and old != new
    assert after.secret != before.secret and after.peers == before.peers
    assert load_keys_of(folder, "host-A") == new
    assert stat.S_IMODE((folder / "host-A.secret").stat().st_mode) == 0o600
    assert before.secret not in (folder / "host-A.secret").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "host-A.public",
        "host-A.secret",
        "watch-1.public",
        "watch-2.public",
    ]


class Killed(BaseException):
    """Nobody may take this for an error and go on."""


def rotate_until(folder: Path, last: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Rotate, killed before step `last` that touches the disk. Did it come to its end?"""
    steps = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps > last:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "fchmod", "unlink", "link"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            rotate_key(folder, "host-A")
        except Killed:
            return False
    return True


def test_a_rotation_killed_at_any_step_leaves_one_whole_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that were not taken stay so: also drafts stay behind, as after a loss of power."""
    for last in range(30):
        before = load_keys(folder, "host-A")
        whole = rotate_until(folder, last, monkeypatch)
        written = load_keys_of(folder, "host-A")
        found = load_keys(folder, "host-A")
        assert public_of(found.secret) == found.public == load_keys_of(folder, "host-A")
        assert found.public == before.public or written in (before.public, found.public)
        assert stat.S_IMODE((folder / "host-A.secret").stat().st_mode) == 0o600
        assert {entry.name for entry in list_keys(folder)} == {"host-A", "watch-1", "watch-2"}
        if whole:
            assert last > 6  # two files, each written, made sure of, and put in its place
            return
    pytest.fail("the rotation never came to its end")


def test_only_the_machine_with_the_secret_can_rotate(folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no watch-1\.secret"):
        rotate_key(folder, "watch-1")
    with pytest.raises(UserError, match=r"no key of 'nobody'.*it has host-A, watch-1, watch-2"):
        rotate_key(folder, "nobody")
    (folder / "host-A.secret").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        rotate_key(folder, "host-A")


# ---- peers ----


def test_a_peer_is_added_once_and_never_overwritten(folder: Path) -> None:
    key, other = public_of(new_secret()), public_of(new_secret())
    assert add_peer(folder, "watch-3", key)
    assert not add_peer(folder, "watch-3", key)
    with pytest.raises(UserError, match=r"another key here.*seamline keys forget .* watch-3"):
        add_peer(folder, "watch-3", other)
    with pytest.raises(UserError, match="shows the key of watch-3"):
        add_peer(folder, "watch-4", key)
    with pytest.raises(UserError, match="a name of this machine"):
        add_peer(folder, "host-A", other)
    assert load_keys(folder, "host-A").peers["watch-3"] == key


def test_a_name_that_is_a_path_gets_no_file(folder: Path) -> None:
    for name in ("../x", ".x", "", "x\n"):
        with pytest.raises(UserError, match="cannot be the name"):
            add_peer(folder, name, public_of(new_secret()))
        with pytest.raises(UserError, match="cannot be the name"):
            find_key(folder, name)


def test_a_forgotten_peer_is_gone_and_an_own_secret_needs_to_be_meant(folder: Path) -> None:
    assert forget_key(folder, "watch-1").name == "watch-1"
    assert set(load_keys(folder, "host-A").peers) == {"watch-2"}
    with pytest.raises(UserError, match="nobody can make it again; say --own"):
        forget_key(folder, "host-A")
    assert load_keys(folder, "host-A")
    forget_key(folder, "host-A", own=True)
    assert [path.name for path in folder.iterdir()] == ["watch-2.public"]


def test_a_damaged_peer_can_be_forgotten(folder: Path) -> None:
    (folder / "watch-1.public").write_text("spoilt")
    forget_key(folder, "watch-1")
    assert set(load_keys(folder, "host-A").peers) == {"watch-2"}


# ---- the allow list of a running program ----


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_allow_list_takes_what_comes_and_drops_what_goes(folder: Path) -> None:
    clock = Clock()
    allowed = AllowList(load_keys(folder, "host-A"), clock)
    first, second = load_keys_of(folder, "watch-1"), public_of(new_secret())
    assert allowed.name_of(first) == "watch-1"
    forget_key(folder, "watch-1")
    add_peer(folder, "watch-3", second)
    assert allowed.name_of(first) == "watch-1"  # not looked at yet: at most one look in 0.2 s
    clock.now += 0.2
    assert allowed.name_of(first) is None and allowed.key_of("watch-1") is None
    assert allowed.name_of(second) == "watch-3" and allowed.key_of("watch-3") == second
    assert allowed.name_of(load_keys(folder, "host-A").public) is None


def test_a_copy_over_an_old_file_is_seen(folder: Path) -> None:
    """`cp` changes no folder, only the file."""
    clock = Clock()
    allowed = AllowList(load_keys(folder, "host-A"), clock)
    allowed.look()
    key = public_of(new_secret())
    (folder / "watch-1.public").write_text(f"# a longer comment than before, by hand\n{key}\n")
    clock.now += 0.2
    assert allowed.name_of(key) == "watch-1"


def test_of_many_keys_only_those_that_changed_are_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand devices are paired one after the other while the host runs."""
    clock = Clock()
    allowed = AllowList(load_keys(folder, "host-A"), clock)
    clock.now += 0.2
    allowed.look()
    read: list[str] = []
    real = key_folder.read_key

    def spy(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(key_folder, "read_key", spy)
    key, double = public_of(new_secret()), load_keys_of(folder, "watch-2")
    (folder / "watch-1.public").write_text(f"# changed\n{key}\n")
    (folder / "watch-3.public").write_text(f"{double}\n")
    clock.now += 0.2
    assert allowed.name_of(key) == "watch-1" and allowed.name_of(double) is None
    assert sorted(read) == ["watch-1.public", "watch-3.public"]
    (folder / "watch-3.public").unlink()
    clock.now += 0.2
    assert allowed.name_of(double) == "watch-2"  # not read again, and alone again
    assert len(read) == 2


def test_a_damaged_or_doubled_file_lets_nobody_in_and_keeps_nobody_out(folder: Path) -> None:
    clock = Clock()
    allowed = AllowList(load_keys(folder, "host-A"), clock)
    good = load_keys_of(folder, "watch-2")
    key, own = public_of(new_secret()), load_keys_of(folder, "host-A")
    (folder / "a.public").write_text(f"{key}\n")
    (folder / "b.public").write_text(f"{key}\n")
    (folder / "c.public").write_text(f"{own}\n")
    (folder / "watch-1.public").write_text("half a ke")
    clock.now += 0.2
    assert allowed.name_of(key) is None and allowed.name_of(own) is None
    assert allowed.name_of(good) == "watch-2"
    assert [allowed.key_of(name) for name in ("a", "b", "c", "watch-1")] == [None] * 4


def test_a_folder_that_cannot_be_read_for_once_sends_nobody_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    allowed = AllowList(load_keys(folder, "host-A"), clock)

    def refuse(_: Path) -> dict[str, tuple[int, int, int]]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(key_folder, "_files", refuse)
    clock.now += 0.2
    assert allowed.name_of(load_keys_of(folder, "watch-1")) == "watch-1"


def test_a_folder_that_is_gone_lets_nobody_in(folder: Path) -> None:
    clock = Clock()
    key = load_keys_of(folder, "watch-1")
    allowed = AllowList(load_keys(folder, "host-A"), clock)
    folder.rename(folder.with_name("elsewhere"))
    clock.now += 0.2
    assert allowed.name_of(key) is None
