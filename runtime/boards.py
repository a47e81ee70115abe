"""Boards whose memory a front has to fit: what `seamline plan --board` knows."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UserError

KB, MB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Board:
    """ram, flash: bytes the chip has; flash 0: a file system, so no limit worth counting."""

    name: str
    title: str
    core: str
    ram: int
    flash: int


_ALL = (
    Board("nano33ble", "Arduino Nano 33 BLE", "Cortex-M4F", 256 * KB, 1 * MB),
    Board("stm32f4-discovery", "STM32F4 Discovery", "Cortex-M4F", 192 * KB, 1 * MB),
    Board("stm32f746-discovery", "STM32F746 Discovery", "Cortex-M7", 320 * KB, 1 * MB),
    Board("bluepill", "STM32F103 Blue Pill", "Cortex-M3", 20 * KB, 64 * KB),
    Board("pico", "Raspberry Pi Pico", "Cortex-M0+", 264 * KB, 2 * MB),
    Board("pi-zero-2", "Raspberry Pi Zero 2 W", "Cortex-A53", 512 * MB, 0),
    Board("lm3s6965evb", "Stellaris LM3S6965 (QEMU)", "Cortex-M3", 64 * KB, 256 * KB),
    Board("mps2-an385", "MPS2 AN385 (QEMU)", "Cortex-M3", 4 * MB, 4 * MB),
    Board("mps2-an386", "MPS2 AN386 (QEMU)", "Cortex-M4F", 4 * MB, 4 * MB),
    Board("mps2-an500", "MPS2 AN500 (QEMU)", "Cortex-M7", 4 * MB, 4 * MB),
    Board("mps3-an547", "MPS3 AN547 (QEMU)", "Cortex-M55", 2 * MB, 512 * KB),
)
BOARDS = {board.name: board for board in _ALL}


def find_board(name: str) -> Board:
    """Raises UserError (exit 2) that lists the boards."""
    if name not in BOARDS:
        raise UserError(f"there is no board {name!r}; there are {', '.join(BOARDS)}")
    return BOARDS[name]
