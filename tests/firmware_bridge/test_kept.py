"""What a board keeps is whole or not there, whenever its power goes (firmware_bridge/kept.c)."""

from __future__ import annotations

import ctypes
import random
import subprocess
from pathlib import Path

import pytest
from seamline.firmware_bridge import image

SPACE, PLACES = 512, 5
FRONT, KEYS = 0, 1
MOST = 0xFFFFFFFF
ANY = b""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("kept") / "kept.so"
    sources = [Path(__file__).with_name("kept.c"), image.HERE / "kept.c", image.CORE / "crc.c"]
    command = ["cc", "-std=c11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{image.HERE}", f"-I{image.CORE}", *map(str, sources), "-o", str(out)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(out))


class Flash:
    """A fresh one, erased or full of what was there before."""

    def __init__(self, library: ctypes.CDLL, content: bytes = b"\xff" * SPACE * PLACES) -> None:
        self.c = library
        self.c.wear(content)

    def save(self, what: int, number: int, data: bytes, operations: int = -1) -> bool:
        self.c.power(operations)
        done = self.c.save(what, number, data, len(data))
        self.c.power(-1)
        assert done >= 0, "a write twice without an erase, or out of its place"
        return bool(done)

    def find(self, what: int, most: int = MOST, prefix: bytes = ANY) -> tuple[int, bytes] | None:
        to, number = ctypes.create_string_buffer(SPACE), ctypes.c_uint32()
        size = self.c.find(what, most, prefix, len(prefix), to, ctypes.byref(number))
        assert size >= 0
        return (number.value, to.raw[:size]) if size else None


def content(number: int, size: int = 100) -> bytes:
    return random.Random(number).randbytes(size)


def test_the_newest_and_the_one_before_are_there(library):
    flash = Flash(library)
    for number in range(1, 8):
        assert flash.save(FRONT, number, content(number))
        assert flash.find(FRONT) == (number, content(number))
        if number > 1:
            assert flash.find(FRONT, number - 1) == (number - 1, content(number - 1))
    assert flash.find(KEYS) is None
    assert flash.find(FRONT, 4) is None  # older ones are not


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 200, SPACE - 32])
def test_any_size_comes_back(library, size):
    flash = Flash(library)
    assert flash.save(KEYS, 1, content(1, size))
    assert flash.find(KEYS) == (1, content(1, size))


def test_more_than_there_is_space_for_is_refused_and_harms_nothing(library):
    flash = Flash(library)
    assert flash.save(KEYS, 1, content(1))
    assert not flash.save(KEYS, 2, content(2, SPACE - 31))
    assert flash.find(KEYS) == (1, content(1))


@pytest.mark.parametrize(("what", "before"), [(FRONT, 2), (KEYS, 1)])
def test_power_lost_at_any_write_costs_at_most_what_was_being_written(library, what, before):
    """Then it is written anew, and that holds."""
    lost = 0
    for operations in range(40):
        flash = Flash(library)
        for number in range(1, 5):
            assert flash.save(what, number, content(number))
        done = flash.save(what, 5, content(5), operations)
        lost += not done
        newest = flash.find(what)
        assert newest == ((5, content(5)) if done else (4, content(4)))
        for back in range(1, before):
            assert flash.find(what, 4 - back) == (4 - back, content(4 - back))
        assert flash.save(what, 5, content(5, 77)) and flash.find(what) == (5, content(5, 77))
    assert 4 < lost < 40


def test_what_a_damaged_flash_holds_is_nothing(library):
    """No flip of a bit is taken for something that was kept, be it in the head or behind it."""
    flash, place = Flash(library), 3 * SPACE
    assert flash.save(KEYS, 1, content(1))
    library.cells.restype = ctypes.c_void_p
    cells = library.cells() + place
    sound = ctypes.string_at(cells, SPACE)
    for at in (*range(20), *range(32, 132)):
        for bit in range(8):
            ctypes.memset(cells + at, sound[at] ^ 1 << bit, 1)
            assert flash.find(KEYS) is None
        ctypes.memset(cells + at, sound[at], 1)
    assert flash.find(KEYS) == (1, content(1))


def test_of_another_job_is_not_found(library):
    flash = Flash(library)
    assert flash.save(FRONT, 3, b"seed and plan, then the rest")
    assert flash.find(FRONT, MOST, b"seed and plan") is not None
    assert flash.find(FRONT, MOST, b"seed and plum") is None
    assert flash.find(FRONT, 2, b"seed and plan") is None


def test_a_later_one_is_forgotten_when_an_earlier_one_is_kept(library):
    """A job that was put back learns other things than it had."""
    flash = Flash(library)
    for number in (4, 5, 6):
        assert flash.save(FRONT, number, content(number))
    assert flash.save(FRONT, 5, content(50))
    assert flash.find(FRONT) == (5, content(50)) and flash.find(FRONT, 4) == (4, content(4))
