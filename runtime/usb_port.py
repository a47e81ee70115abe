"""Where a serial port is now: the path that was given, or wherever the USB device is that it was,
which keeps its serial number when it is plugged in again and its path changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

USB = "usb="  # `serial:usb=SERIALNUMBER:BAUD`


class Listed(Protocol):
    """A row of the system's table of ports (pyserial's ListPortInfo)."""

    device: str
    serial_number: str | None
    location: str | None  # of USB: bus and ports, then :configuration.interface
    vid: int | None
    pid: int | None


Table = Callable[[], Iterable[Listed]]


@dataclass(frozen=True)
class _Identity:
    """Of a USB serial port; what is None is not known and fits anything."""

    number: str
    vid: int | None = None
    pid: int | None = None
    interface: str | None = None  # a device may have several ports

    def fits(self, row: Listed) -> bool:
        return (
            row.serial_number == self.number
            and self.vid in (None, row.vid)
            and self.pid in (None, row.pid)
            and self.interface in (None, _interface(row))
        )


def _interface(row: Listed) -> str:
    return (row.location or "").partition(":")[2]


class Place:
    """target: a path, or `usb=SERIALNUMBER`. table: gives the ports there are."""

    def __init__(self, target: str, table: Table) -> None:
        self._table = table
        self._path = "" if target.startswith(USB) else target  # where it was last
        self._identity = _Identity(target.removeprefix(USB)) if not self._path else None

    def paths(self) -> list[str]:
        """Where it may be: one path if all is well, none, or several that nothing tells apart."""
        if self._identity is None:
            return [self._path]
        found = [row.device for row in self._table() if self._identity.fits(row)]
        if len(found) > 1 and any(_same(path, self._path) for path in found):
            return [self._path]
        return found

    def opened(self, path: str) -> None:
        """It was found there: what it is by its serial number, if it has one."""
        self._path = path
        for row in self._table():
            if row.serial_number and _same(row.device, path):
                self._identity = _Identity(row.serial_number, row.vid, row.pid, _interface(row))


def _same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def numbers(table: Table) -> str:
    """The USB serial numbers there are, in words."""
    found = sorted(f"{row.serial_number} at {row.device}" for row in table() if row.serial_number)
    return ", ".join(found[:12]) if found else "none"
