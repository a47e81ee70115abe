"""Boards from a folder: a user's own, and a real one that is never emulated."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from seamline.firmware_bridge import device, image, target
from seamline.firmware_bridge.emulator import Emulator
from seamline.runtime import message as wire
from seamline.runtime.config import read_job
from seamline.runtime.message import Kind, Message
from test_device import Line, plan_message, write_job

from seamline.cli import main

OWN = """
title = "My M4F board"
core = "cortex-m4f"
ram = 4194304
flash = 4194304
sources = ["mine.c", "mine_line.c"]
script = "mine.ld"
semihosting = true
emulator = "mps2-an386"
interrupts = 40
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: what the page about a new board asks for."""
    folder = tmp_path / "my-board"
    folder.mkdir()
    (folder / "board.toml").write_text(OWN)
    for name, copy in (
        ("mps2.c", "mine.c"),
        ("mps2_line.c", "mine_line.c"),
        ("mps2.ld", "mine.ld"),
    ):
        shutil.copy(target.FOLDERS / name, folder / copy)
    return folder


def build(tmp_path: Path, board: str, *more: str) -> tuple[int, Path, Path]:
    path, elf = write_job(tmp_path, arithmetic="q8", batch=2), tmp_path / "x.elf"
    words = [str(path), "--id", "d00", "--board", board, "--insecure", *more]
    return main(["firmware", "build", *words, "-o", str(elf)]), elf, path


def test_a_board_of_ones_own_is_built_weighed_and_run(tools, tmp_path, own, capsys):
    code, elf, path = build(tmp_path, str(own))
    assert code == 0 and "My M4F board" in capsys.readouterr().out
    assert main(["firmware", "size", str(elf)]) == 2
    assert "is for my-board, a board of your own: give its folder" in capsys.readouterr().err
    assert main(["firmware", "size", str(elf), "--board", "an386"]) == 3
    assert "is for my-board, not for an386" in capsys.readouterr().err
    assert main(["firmware", "size", str(elf), "--board", str(own)]) == 0
    job = read_job(path)
    with Emulator(device.target_of(elf, str(own)).board, elf) as emulator:
        line = Line(emulator.address)
        try:
            line.greeted(1)
            answer = line.ask(Message(Kind.PLAN, 1, body=plan_message(job)))
        finally:
            line.close()
    assert answer.kind == Kind.READY and wire.read_ready(answer.body).arena_bytes > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('core = "cortex-m4f"', 'core = "cortex-m4g"', "core 'cortex-m4g': there are cortex-m3,"),
        ('core = "cortex-m4f"', 'core = "cortex-m0"', "no BASEPRI"),
        ("ram = 4194304", "rom = 4194304", "`rom`"),
        ("ram = 4194304", "ram = -1", "ram -1: a number above 0"),
        ("ram = 4194304", "ram = 4096", "stack 8192: more than the ram of 4096"),
        ("ram = 4194304", 'ram = "much"', "Expected `int`"),
        ("interrupts = 40", "interrupts = ", "Invalid value"),
        ('script = "mine.ld"', 'script = "other.ld"', "there is no file other.ld"),
        ('sources = ["mine.c", "mine_line.c"]', "sources = []", "C files with the functions"),
        ("interrupts = 40", 'flash_command = "put it"', "it must name the image, {elf}"),
        ('"mine.c", ', "", "lacks board_clock, board_init"),
    ],
)
def test_what_is_wrong_in_a_folder_is_one_line(tools, tmp_path, own, capsys, old, new, said):
    assert old in OWN
    (own / "board.toml").write_text(OWN.replace(old, new))
    code, elf, _ = build(tmp_path, str(own))
    error = capsys.readouterr().err
    assert code == 3 and said in error and error.count("\n") == 1 and not elf.exists()


def test_a_folder_without_its_file_is_one_line(tools, tmp_path, capsys):
    code, _, _ = build(tmp_path, str(tmp_path))
    assert code == 3 and "has no board.toml" in capsys.readouterr().err


def test_flash_prints_the_probes_command_and_runs_it_when_told(
    tools, tmp_path, own, capsys, monkeypatch
):
    probe = tmp_path / "bin" / "my-probe"
    probe.parent.mkdir()
    probe.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/done\nexit 9\n')
    probe.chmod(probe.stat().st_mode | stat.S_IXUSR)
    (own / "board.toml").write_text(OWN + 'flash_command = "my-probe write --fast {elf}"\n')
    code, elf, _ = build(tmp_path, str(own))
    assert code == 0
    capsys.readouterr()
    words = ["firmware", "flash", str(elf), "--board", str(own)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"my-probe write --fast {elf}\n"
    assert not (tmp_path / "done").exists()
    assert main([*words, "--go"]) == 7
    assert "my-probe not found: install it" in capsys.readouterr().err
    monkeypatch.setenv("PATH", f"{probe.parent}:/usr/bin:/bin")
    assert main([*words, "--go"]) == 9
    assert (tmp_path / "done").read_text() == f"write --fast {elf}\n"


def test_an_emulated_board_has_nothing_to_flash(tools, tmp_path, capsys):
    code, elf, _ = build(tmp_path, "an386")
    assert code == 0
    capsys.readouterr()
    assert main(["firmware", "flash", str(elf)]) == 2
    assert "an386 has no flash_command: `seamline firmware run" in capsys.readouterr().err


def test_every_board_here_is_sound():
    assert set(target.names()) >= {*image.BOARDS, "lm3s6965evb", "nrf52840dk"}
    for name in target.names():
        found = target.find_target(name)
        assert found.name == name and all(path.is_file() for path in (*found.sources, found.script))
