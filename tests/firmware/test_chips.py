"""Boards that one can buy: the line driver of a real chip runs in the emulator, images for the
hardware are whole and ask for no debugger."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_zone import Zone, train, write_job
from seamline.edge_host.host import cut_model, make_plan
from seamline.firmware_bridge import device, target
from seamline.firmware_bridge.emulator import Emulator
from seamline.runtime.config import read_job
from seamline.runtime.data import device_data
from seamline.runtime.errors import UserError

from seamline.cli import main

WATCH_SEAMS = {"q8": 3, "f32": 2}  # what 128 KB of RAM are enough for
HARDWARE = [name for name in target.names() if not target.find_target(name).board.machine]
RAM = 0x20000000  # of both
SEMIHOSTING = "bkpt\t0x00ab"


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arithmetic", ["q8", "f32"])
def test_a_chip_of_st_trains_over_its_own_uart_with_the_bits_of_linux_devices(
    tools, objects, tmp_path, arithmetic
):
    model = {"name": "watch", "seam": WATCH_SEAMS[arithmetic]}
    train_ = {"arithmetic": arithmetic, "batch": 2, "cloud_rounds": 3}
    zone = Zone((100, 6), model, train_)
    linux = train(tmp_path / "linux", zone, {}, objects)
    chip = train(tmp_path / "chip", zone, {"d00": "netduinoplus2"}, objects)
    assert chip.answers == linux.answers
    assert chip.models == linux.models and len(set(linux.models)) > 1


HELD = """#include "board.h"
#include "line_service.h"

void board_watchdog(void) {
    line_lock();
    for (const uint64_t until = board_millis() + 20u; board_millis() < until;) {
    }
    line_unlock();
}
"""


@pytest.mark.parametrize("name", ["an386", "lm3s6965evb", "netduinoplus2"])  # a UART each
def test_a_full_ring_holds_its_uart_back_and_loses_nothing(
    tools, objects, tmp_path, monkeypatch, name
):
    """An interrupt that goes on asking while nobody takes the byte would stop the clock."""
    hook, build = tmp_path / "hook.c", device.build
    hook.write_text(HELD)

    def with_hook(*arguments: Any) -> device.Sizes:
        return build(*arguments, [hook])

    zone = Zone((100, 6), {"name": "watch"}, {"arithmetic": "q8", "batch": 2, "cloud_rounds": 2})
    linux = train(tmp_path / "linux", zone, {}, objects)
    monkeypatch.setattr(device, "build", with_hook)
    assert train(tmp_path / "board", zone, {"d00": name}, objects).answers == linux.answers


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> device.Recipe:
    """A device in clear text, with samples, that every board has room for."""
    zone = Zone((100, 6), {"name": "watch"}, {"arithmetic": "q8", "batch": 2})
    job = read_job(write_job(tmp_path_factory.mktemp("recipe"), zone, {}))
    return device.Recipe("d00", make_plan(job, cut_model(job)), device_data(job, "d00"))


@pytest.fixture(scope="module", params=HARDWARE)
def image(request, tools, recipe, objects, tmp_path_factory) -> tuple[target.Target, Path]:
    board = target.find_target(request.param)
    elf = tmp_path_factory.mktemp("chip") / "x.elf"
    pairs = replace(recipe, keys=device.Pairing("host-A"))  # with all that a board may keep
    device.build(pairs, board, elf, objects / f"{request.param}-pairs")
    return board, elf


def test_an_image_for_hardware_begins_with_its_table_of_vectors(image):
    board, elf = image
    symbols = {row[-1]: int(row[0], 16) for row in
               map(str.split, ask("arm-none-eabi-nm", str(elf)).splitlines())}  # fmt: skip
    flat = elf.with_suffix(".bin")
    ask("arm-none-eabi-objcopy", "-O", "binary", str(elf), str(flat))
    words = struct.unpack_from(f"<{16 + board.interrupts}I", flat.read_bytes())
    code = symbols["vectors"]
    assert words[0] == RAM + board.chip.ram
    assert words[1] == symbols["image_reset"] | 1
    assert words[14:16] == (symbols["image_pend"] | 1, symbols["image_tick"] | 1)
    assert set(words[16:]) == {symbols["image_interrupt"] | 1}
    assert symbols["image_interrupt"] != symbols["image_fault"]  # it has a UART
    assert flat.stat().st_size <= board.chip.flash and code % 512 == 0


def test_no_section_of_an_image_for_hardware_lies_outside_its_memory(image):
    board, elf = image
    rows = ask("arm-none-eabi-readelf", "-lW", str(elf)).splitlines()
    loads = [row.split() for row in rows if row.split()[:1] == ["LOAD"]]
    flash = min(int(row[3], 16) for row in loads)
    for _, _, virtual, physical, in_file, in_memory, *_ in loads:
        assert flash <= int(physical, 16)
        if int(in_file, 16):
            assert int(physical, 16) + int(in_file, 16) <= flash + board.chip.flash
        end = int(virtual, 16) + int(in_memory, 16)
        assert end <= flash + board.chip.flash or RAM < end <= RAM + board.chip.ram


def test_an_image_for_hardware_never_asks_a_debugger(image, recipe, objects, tmp_path):
    """Without one that would be a fault; an image for the emulator shows what is looked for."""
    _, elf = image
    assert SEMIHOSTING not in ask("arm-none-eabi-objdump", "-d", str(elf)).lower()
    emulated = tmp_path / "emulated.elf"
    device.build(recipe, target.find_target("an386"), emulated, objects / "an386-clear")
    assert SEMIHOSTING in ask("arm-none-eabi-objdump", "-d", str(emulated)).lower()


BROKEN = """#include "board.h"

__attribute__((noinline)) static void broken(void) {
    __asm volatile("udf #0");
}

void board_watchdog(void) {
    broken();
    __asm volatile("");
}
"""


@pytest.mark.parametrize("name", [n for n in target.names() if target.find_target(n).board.machine])
def test_a_hook_that_faults_is_named_by_its_address(tools, recipe, objects, tmp_path, capsys, name):
    hook, elf = tmp_path / "hook.c", tmp_path / "x.elf"
    hook.write_text(BROKEN)
    device.build(recipe, target.find_target(name), elf, objects / f"{name}-clear", [hook])
    assert main(["firmware", "run", str(elf)]) == 1
    said = capsys.readouterr()
    found = re.search(r"^fault at ([0-9a-f]{8}), called from ([0-9a-f]{8})$", said.out, re.M)
    assert found is not None, said.out
    where = [ask("arm-none-eabi-addr2line", "-f", "-e", str(elf), at) for at in found.groups()]
    assert [lines.splitlines()[0] for lines in where] == ["broken", "board_watchdog"]
    assert said.err == "error: the image ended with 255; above is what it said\n"


def test_an_image_that_ends_before_it_is_looked_at_says_what_it_said(tools, recipe, tmp_path):
    """Not that the emulator did not start: that is for a port that somebody has."""
    hook, elf = tmp_path / "hook.c", tmp_path / "x.elf"
    hook.write_text(BROKEN)
    device.build(recipe, target.find_target("an386"), elf, None, [hook])
    emulator = Emulator(target.find_target("an386").board, elf)
    emulator.process.wait(20)
    with emulator:
        assert any(line.startswith("fault at ") for line in emulator.said())
        assert emulator.wait(1) == 255
    with socket.create_server(("127.0.0.1", 0)) as taken:
        held = Emulator(target.find_target("an386").board, elf, taken.getsockname()[1])
        held.process.wait(20)
        with pytest.raises(UserError, match="does not start with port"):
            held.__enter__()
