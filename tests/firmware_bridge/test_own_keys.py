"""A board's keys are those of before, or the new ones whole, whenever its power goes
(firmware_bridge/own_keys.c).
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from seamline.firmware_bridge import image
from seamline.firmware_bridge.monocypher import monocypher

SIZE = 512 * 5
FIRST, SECOND, HOST_KEY, OTHER_KEY = (bytes([value]) * 32 for value in (1, 2, 3, 4))
OPERATIONS = 12  # more than a start and a pairing write and erase


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out, here = tmp_path_factory.mktemp("keys") / "keys.so", Path(__file__).parent
    sources = [here / "kept.c", here / "own_keys.c", image.HERE / "kept.c"]
    sources += [image.HERE / "own_keys.c", image.HERE / "crypto.c", image.CORE / "crc.c"]
    command = ["cc", "-std=c11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{path}" for path in (image.HERE, image.CORE, image.CORE / "seal")]
    command += ["-isystem", str(monocypher()), str(monocypher() / "monocypher.c")]
    subprocess.run([*command, *map(str, sources), "-o", str(out)], check=True)
    found = ctypes.CDLL(str(out))
    found.said.restype = ctypes.c_char_p
    found.cells.restype = ctypes.c_void_p
    return found


class Board:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.c = library
        self.c.wear(b"\xff" * SIZE)
        self.operations = -1

    def start(
        self, random: bytes, *, id: str = "d00", host: str = "host-A", forget: bool = False
    ) -> tuple[bytes, str, bytes]:
        """Its secret, its host (or nothing), the host's key."""
        self.c.use(id.encode(), host.encode(), random, forget)
        secret, name, key = (ctypes.create_string_buffer(64) for _ in range(3))
        self.c.power(self.operations)
        self.c.start(secret, name, key)
        return secret.raw[:32], name.value.decode(), key.raw[:32]

    def pair(self, key: bytes = HOST_KEY) -> bool:
        return bool(self.c.pair(b"host-A", key))

    def said(self) -> str:
        return self.c.said().decode()


def test_a_key_is_made_once_and_a_pairing_outlives_the_power(library):
    board = Board(library)
    assert board.start(FIRST)[:2] == (FIRST, "")
    assert board.start(SECOND)[:2] == (FIRST, "")
    assert board.pair()
    assert board.start(SECOND) == (FIRST, "host-A", HOST_KEY)
    assert board.said() == ""


def test_the_same_pairing_again_writes_nothing(library):
    board = Board(library)
    board.start(FIRST)
    assert board.pair()
    board.c.power(0)
    assert board.pair()
    assert not board.pair(OTHER_KEY)
    board.c.power(-1)
    assert board.start(SECOND) == (FIRST, "host-A", HOST_KEY)


def test_power_lost_at_any_write_leaves_whole_keys(library):
    """What the host knows, the public key, is another one only if none was kept before."""
    for operations in range(OPERATIONS):
        board = Board(library)
        board.operations = operations
        first = board.start(FIRST)
        told = board.said()
        assert first[:2] == (FIRST, "")
        paired = board.pair()
        board.operations = -1
        after = board.start(SECOND)
        assert after[0] == (SECOND if "cannot be kept" in told else FIRST)
        assert after[1:] == ("host-A", HOST_KEY) if paired else after[1] == ""
    assert paired


def test_power_lost_while_another_host_key_is_kept_leaves_one_of_both(library):
    seen = set()
    for operations in range(OPERATIONS):
        board = Board(library)
        board.start(FIRST)
        assert board.pair()
        board.c.power(operations)
        changed = board.pair(OTHER_KEY)
        board.operations = -1
        secret, host, key = board.start(SECOND)
        assert (secret, host, key) == (FIRST, "host-A", OTHER_KEY if changed else HOST_KEY)
        seen.add(key)
    assert seen == {HOST_KEY, OTHER_KEY}


def test_an_image_for_another_host_pairs_anew_with_the_same_key(library):
    board = Board(library)
    board.start(FIRST)
    assert board.pair()
    assert board.start(SECOND, host="host-B")[:2] == (FIRST, "")
    assert board.start(SECOND)[:2] == (FIRST, "host-A")


def test_an_image_for_another_device_has_another_key(library):
    board = Board(library)
    board.start(FIRST)
    assert board.pair()
    assert board.start(SECOND, id="d01")[:2] == (SECOND, "")
    assert board.start(FIRST, id="d0")[:2] == (FIRST, "")  # not what begins alike


def test_a_board_that_forgets_keeps_nothing_of_before(library):
    board = Board(library)
    board.start(FIRST)
    assert board.pair()
    assert board.start(SECOND, forget=True)[:2] == (SECOND, "")
    assert board.said() == "all keys are forgotten\n"
    cells = ctypes.string_at(library.cells(), SIZE)
    assert FIRST not in cells and HOST_KEY not in cells


@pytest.mark.parametrize("at", [*range(0, 20, 3), *range(32, 107, 5)])  # of the head, of the rest
def test_a_damaged_pairing_is_none_and_our_key_is_left(library, at):
    board = Board(library)
    board.start(FIRST)
    assert board.pair()
    cells = bytearray(ctypes.string_at(library.cells(), SIZE))
    place = next(n for n in range(3, 5) if HOST_KEY in cells[512 * n : 512 * (n + 1)])
    cells[512 * place + at] ^= 0x10
    library.wear(bytes(cells))
    assert board.start(SECOND) == (FIRST, "", bytes(32))
