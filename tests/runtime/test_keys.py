"""Key files: private, never overwritten, and every damaged one is a clear error."""

import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from seamline.runtime.errors import UserError
from seamline.runtime.keys import key_text, load_keys, make_keys, new_secret, public_of, raw_key
from zmq.utils import z85


def test_made_keys_load_and_know_one_another(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert make_keys(folder, ["cloud", "host-A", "watch-1"]) == ["cloud", "host-A", "watch-1"]
    host, watch = load_keys(folder, "host-A"), load_keys(folder, "watch-1")
    assert host.peers == {"cloud": load_keys(folder, "cloud").public, "watch-1": watch.public}
    assert watch.peers["host-A"] == host.public
    assert host.secret not in repr(host)


def test_secrets_are_for_the_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    old = os.umask(0)
    try:
        make_keys(folder, ["a"])
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a.secret").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["a.public", "a.secret"]


def test_an_existing_key_is_never_changed(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a"])
    before = load_keys(tmp_path, "a")
    (tmp_path / "a.public").unlink()
    assert make_keys(tmp_path, ["a", "b"]) == ["b"]
    assert load_keys(tmp_path, "a").secret == before.secret
    assert load_keys(tmp_path, "b").peers == {"a": before.public}


def test_a_missing_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no key for 'a' in .*seamline keys new") as error:
        load_keys(tmp_path, "a")
    assert error.value.exit_code == 3


def test_a_secret_others_can_read_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a"])
    (tmp_path / "a.secret").chmod(0o640)
    with pytest.raises(UserError, match=r"mode 0640.*chmod 600"):
        load_keys(tmp_path, "a")


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment\n", "short\n", "x" * 39 + "~\n", "x" * 40 + "\n" + "y" * 40, "#" * 40],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    make_keys(tmp_path, ["a", "b"])
    (tmp_path / "b.public").write_text(text)
    with pytest.raises(UserError, match=r"b\.public is no key file"):
        load_keys(tmp_path, "a")


def test_bytes_that_are_no_text_are_a_clear_error(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a"])
    (tmp_path / "b.public").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the key file"):
        load_keys(tmp_path, "a")


def test_a_public_file_of_another_secret_is_noticed(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a", "b"])
    (tmp_path / "a.public").write_text((tmp_path / "b.public").read_text())
    with pytest.raises(UserError, match="does not belong"):
        load_keys(tmp_path, "a")


def test_one_key_under_two_names_is_refused(tmp_path: Path) -> None:
    make_keys(tmp_path, ["a", "b"])
    (tmp_path / "c.public").write_text((tmp_path / "b.public").read_text())
    with pytest.raises(UserError, match="same key"):
        load_keys(tmp_path, "a")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "x" * 64, "a\nb"])
def test_a_name_that_is_a_path_or_too_long_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name"):
        make_keys(tmp_path, [name])
    with pytest.raises(UserError, match="cannot be the name"):
        load_keys(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write keys in"):
        make_keys(tmp_path / "file" / "keys", ["a"])


def test_z85_is_zeromqs() -> None:
    assert key_text(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"  # of RFC 32
    chance = random.Random(1)
    for raw in (bytes(32), b"\xff" * 32, *(chance.randbytes(32) for _ in range(200))):
        assert key_text(raw) == z85.encode(raw).decode()
        assert raw_key(key_text(raw)) == raw


@pytest.mark.parametrize("text", ["0000", "000000", "000 0", "0000\u00e9", "%nSc1", "#####"])
def test_what_is_no_z85_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        raw_key(text)


DEVICE = """
import sys
import seamline.runtime.device
from seamline.runtime import bundled, keys, link
link.load_link(sys.argv[1])
print(keys.public_of(sys.argv[2]))
print(*sorted({"zmq", "cryptography", "_hashlib", "subprocess"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("address", "loaded"),
    [("tcp://127.0.0.1:5555", "zmq"), ("serial:/dev/ttyACM0:921600", "cryptography")],
)
def test_a_device_loads_one_library_of_cryptography(address: str, loaded: str) -> None:
    """Each takes megabytes; both say the same public key."""
    secret = new_secret()
    command = [sys.executable, "-c", DEVICE, address, secret]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [public_of(secret), loaded]
