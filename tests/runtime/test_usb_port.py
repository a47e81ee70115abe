"""A USB serial port is found again by its serial number: the table of ports is made up, the ports
are pseudo-terminals that are really closed and opened.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from seamline.kernels._link import JOINED, MESSAGE, PacketEnd
from seamline.runtime import serial_link
from seamline.runtime.config import is_line, make_job
from seamline.runtime.link import Link, LinkError, LinkLost, open_link
from seamline.runtime.serial_link import parse_address, port_path
from seamline.runtime.usb_port import Place
from serial.tools import list_ports

from seamline.cli import main

WITHIN_S = 15.0


@dataclass
class Row:
    """As pyserial lists a port."""

    device: str
    serial_number: str | None = "A1"
    location: str | None = "1-2:1.0"
    vid: int | None = 0x2341
    pid: int | None = 0x43


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    rows: list[Row] = []
    monkeypatch.setattr(list_ports, "comports", lambda: list(rows))
    monkeypatch.setattr(serial_link, "_FIRST_OPEN_S", 0.1)
    return rows


# ---- which port it is ----

MOVED = {
    "it stayed": ([Row("/dev/x0")], ["/dev/x0"]),
    "it moved": ([Row("/dev/x1")], ["/dev/x1"]),
    "it is away": ([], []),
    "another one has its path": ([Row("/dev/x0", "B2")], []),
    "one without a number has its path": ([Row("/dev/x0", None, None, None, None)], []),
    "another one has its path and it moved": (
        [Row("/dev/x0", "B2"), Row("/dev/x1")],
        ["/dev/x1"],
    ),
    "a port of another kind with that number": ([Row("/dev/x1", pid=0x44)], []),
    "its other interface": ([Row("/dev/x1", location="1-2:1.2")], []),
    "both its interfaces, in another socket": (
        [Row("/dev/x2", location="3-1:1.2"), Row("/dev/x1", location="3-1:1.0")],
        ["/dev/x1"],
    ),
    "a twin beside it": ([Row("/dev/x1"), Row("/dev/x0")], ["/dev/x0"]),
    "two twins, none where it was": ([Row("/dev/x1"), Row("/dev/x2")], ["/dev/x1", "/dev/x2"]),
}


@pytest.mark.parametrize("name", MOVED)
def test_after_it_was_opened_it_is_the_one_with_its_number(name: str) -> None:
    rows = [Row("/dev/x0"), Row("/dev/y", "C3")]
    place = Place("/dev/x0", lambda: rows)
    assert place.paths() == ["/dev/x0"]
    place.opened("/dev/x0")
    rows[:], wanted = MOVED[name]
    assert place.paths() == wanted


def test_a_port_without_a_number_is_the_one_at_its_path() -> None:
    rows = [Row("/dev/ttyS0", None, None, None, None)]
    place = Place("/dev/ttyS0", lambda: rows)
    place.opened("/dev/ttyS0")
    rows.clear()
    assert place.paths() == ["/dev/ttyS0"]


def test_a_link_to_the_port_is_the_port(tmp_path: Path) -> None:
    port, other, by_id = tmp_path / "ttyACM0", tmp_path / "ttyACM1", tmp_path / "by-id"
    port.touch()
    by_id.symlink_to(port)
    rows = [Row(str(port))]
    place = Place(str(by_id), lambda: rows)
    place.opened(str(by_id))
    rows[:] = [Row(str(other))]
    assert place.paths() == [str(other)]


def test_a_table_that_cannot_be_read_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyserial raises TypeError for a device that goes away while it looks."""

    def raises() -> list[Row]:
        raise TypeError("int() can't convert non-string with explicit base")

    monkeypatch.setattr(list_ports, "comports", raises)
    with pytest.raises(LinkError, match=r"\(there is none\)"):
        port_path("usb=A1")


# ---- addresses ----


def test_an_address_may_be_a_serial_number(tmp_path: Path) -> None:
    assert parse_address("serial:usb=FT9 X:Y:921600") == ("usb=FT9 X:Y", 921600)
    assert parse_address("serial:usb=A1") == ("usb=A1", 115200)
    assert is_line("serial:usb=A1:9600") and not is_line("serial:usb=:9600")
    with pytest.raises(LinkError, match="SERIALNUMBER"):
        parse_address("serial:usb=:9600")
    device = {"id": "d", "zone": "A", "link": "serial:usb=A1:9600", "host_link": "serial:h:9600"}
    zones = [{"name": "A", "address": "tcp://127.0.0.1:0"}]
    job = make_job({"zones": zones, "devices": [device]}, "job", tmp_path)
    assert job.devices[0].link == "serial:usb=A1:9600"
    assert job.devices[0].host_link == f"serial:{tmp_path}/h:9600"


def test_a_number_that_no_port_has_is_a_clear_error(table: list[Row]) -> None:
    table += [Row("/dev/ttyACM0", "B2"), Row("/dev/ttyS0", None)]
    with pytest.raises(LinkError) as error:
        open_link("serial:usb=A1:9600", name="watch-1", keys=None)
    assert error.value.exit_code == 4
    assert str(error.value) == (
        "no serial port has the USB serial number 'A1' (there is B2 at /dev/ttyACM0): plug it in, "
        "or look at the number"
    )


def test_a_number_that_two_ports_have_is_a_clear_error(table: list[Row]) -> None:
    table += [Row("/dev/ttyACM0"), Row("/dev/ttyACM1", location="1-2:1.2")]
    with pytest.raises(LinkError) as error:
        open_link("serial:usb=A1:9600", name="watch-1", keys=None)
    assert str(error.value) == (
        "2 serial ports have the USB serial number 'A1' (/dev/ttyACM0, /dev/ttyACM1): name the one "
        "by its path, serial:PATH:BAUD"
    )


def test_check_says_that_the_number_is_not_there(
    table: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(
        '[data]\nsource = "d.npz"\n[[zones]]\nname = "A"\naddress = "tcp://127.0.0.1:0"\n'
        '[[devices]]\nid = "d"\nzone = "A"\nlink = "serial:usb=A1:9600"\n'
        'host_link = "serial:usb=B2:9600"\n'
    )
    main(["check", str(tmp_path / "job.toml"), "--only", "d", "--insecure"])
    assert "no serial port has the USB serial number 'A1'" in capsys.readouterr().out


# ---- ports that really go away ----


class Far(threading.Thread):
    """The other end: an end of packets that is moved from one pseudo-terminal to the next."""

    def __init__(self, cleanup: ExitStack, folder: Path) -> None:
        super().__init__(name="far", daemon=True)
        self.folder, self.cleanup = folder, cleanup
        self.end = PacketEnd(1 << 40, self.now())
        self.master: int | None = None
        self.lock, self.over = threading.Lock(), threading.Event()
        self.heard: list[bytes] = []
        self.joins = 0
        cleanup.callback(self.leave)
        self.start()

    @staticmethod
    def now() -> int:
        return time.monotonic_ns() // 1_000_000

    def plug_in(self, name: str) -> str:
        """Where the new port is."""
        path = self.make(name)
        with self.lock:
            self.master = self.made
        return path

    def make(self, name: str) -> str:
        """A port at which nobody is."""
        self.made, slave = os.openpty()
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(os.ttyname(slave))
        self.cleanup.callback(os.close, slave)
        self.slave = slave
        return str(path)

    def pull_out(self) -> None:
        with self.lock:
            assert self.master is not None
            os.close(self.master)
            self.master = None

    def leave(self) -> None:
        self.over.set()
        self.join(5.0)
        if self.master is not None:
            os.close(self.master)

    def run(self) -> None:
        while not self.over.is_set():
            with self.lock:
                self._turn()
            time.sleep(0.001)

    def _turn(self) -> None:
        if self.master is None:
            self.end.output(self.now())
        else:
            if select.select([self.master], [], [], 0)[0]:
                with suppress(OSError):
                    self.end.feed(os.read(self.master, 4096), self.now())
            os.write(self.master, self.end.output(self.now()))
        for kind, data in self.end.events():
            self.joins += kind == JOINED
            if kind == MESSAGE and data is not None:
                self.heard.append(data)

    def wait_for(self, data: bytes, link: Link) -> None:
        until = time.monotonic() + WITHIN_S
        while data not in self.heard:
            assert time.monotonic() < until, self.end.counters
            with suppress(LinkLost):
                link.receive(0.01)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    with ExitStack() as cleanup:
        yield Far(cleanup, tmp_path)


def dial(far: Far, address: str) -> Link:
    link = open_link(address, name="watch-1", keys=None)
    far.cleanup.callback(link.close)
    return link


@pytest.mark.parametrize("by", ["path", "number"])
def test_a_device_that_comes_back_under_another_name_is_only_a_delay(
    far: Far, table: list[Row], by: str
) -> None:
    path = far.plug_in("ttyACM0")
    table.append(Row(path))
    link = dial(far, f"serial:{path}:921600" if by == "path" else "serial:usb=A1:921600")
    link.send(b"before")
    far.wait_for(b"before", link)
    far.pull_out()
    table.clear()
    link.send(b"while it is out")
    time.sleep(0.2)
    table.append(Row(far.plug_in("ttyACM1"), location="3-1:1.0"))
    far.wait_for(b"while it is out", link)
    assert far.joins == 1 and link.counters["losses"] == 0


def test_another_device_at_the_old_path_is_left_alone(far: Far, table: list[Row]) -> None:
    path = far.plug_in("ttyACM0")
    table.append(Row(path))
    link = dial(far, f"serial:{path}:921600")
    link.send(b"before")
    far.wait_for(b"before", link)
    table.clear()  # first: what is at the path from here on is not the device
    far.pull_out()
    table[:] = [Row(far.make("ttyACM0"), "B2")]
    stranger = far.made
    far.cleanup.callback(os.close, stranger)
    link.send(b"not for strangers")
    assert not select.select([stranger], [], [], 1.0)[0]
    table.append(Row(far.plug_in("ttyACM1")))
    far.wait_for(b"not for strangers", link)
    assert not select.select([stranger], [], [], 0)[0]
