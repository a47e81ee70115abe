"""The pseudo-terminal cable: bytes go through unchanged, names are stable, and nothing is left
behind.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from seamline.runtime.faults import Faults
from seamline.runtime.link import LinkError
from seamline.runtime.link_proxy import run_link_proxy


@contextmanager
def cable(*pairs: tuple[Path, Path]) -> Iterator[list[dict]]:
    """A cable in a thread of this process."""
    events: list[dict] = []
    ready, stop = threading.Event(), threading.Event()

    def emit(event: dict) -> None:
        events.append(event)
        ready.set()

    text = [(str(a), str(b)) for a, b in pairs]
    thread = threading.Thread(target=run_link_proxy, args=(text, emit, stop))
    thread.start()
    try:
        assert ready.wait(5)
        yield events
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def read_exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        assert select.select([fd], [], [], 5)[0], f"only {len(data)} of {size} bytes came"
        data += os.read(fd, size - len(data))
    return data


def open_end(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def test_every_byte_value_goes_through_both_ways(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with cable((a, b)):
        one, two = open_end(a), open_end(b)
        for source, target in ((one, two), (two, one)):
            os.write(source, bytes(range(256)) * 4)
            assert read_exactly(target, 1024) == bytes(range(256)) * 4
        os.close(one)
        os.close(two)
    assert not a.is_symlink() and not b.is_symlink()


def test_pairs_in_one_process_are_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    with cable((paths[0], paths[1]), (paths[2], paths[3])):
        fds = [open_end(path) for path in paths]
        os.write(fds[0], b"first")
        os.write(fds[2], b"other")
        assert read_exactly(fds[1], 5) == b"first"
        assert read_exactly(fds[3], 5) == b"other"
        for fd in fds:
            os.close(fd)


def test_an_end_may_be_closed_and_opened_again(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with cable((a, b)):
        one = open_end(a)
        for text in (b"before", b"after!"):
            two = open_end(b)
            os.write(one, text)
            assert read_exactly(two, 6) == text
            os.close(two)
        os.close(one)


def test_an_end_nobody_reads_drops_what_is_too_much_and_stays_usable(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with cable((a, b)) as events:
        one, two = open_end(a), open_end(b)
        for _ in range(64):
            os.write(one, b"x" * 4096)  # 256 KiB; the cable holds 64
        os.write(two, b"back")
        assert read_exactly(one, 4) == b"back"
        kept = 0
        while select.select([two], [], [], 0.2)[0]:
            data = os.read(two, 65536)
            assert set(data) == {ord("x")}
            kept += len(data)
        os.write(one, b"again")
        assert read_exactly(two, 5) == b"again"
        os.close(one)
        os.close(two)
    assert events[-1]["event"] == "done" and events[-1]["dropped"] == 64 * 4096 - kept > 100_000


def test_a_link_left_by_a_killed_cable_is_replaced(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.symlink_to("/dev/pts/99999")
    with cable((a, b)):
        fd = open_end(a)
        assert tty.tcgetattr(fd)[3] & (tty.ECHO | tty.ICANON) == 0
        os.close(fd)


def test_a_path_that_is_taken_is_a_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(LinkError, match=r"cannot make the line .*/b: File exists"):
        run_link_proxy([(str(tmp_path / "a"), str(tmp_path / "b"))])
    assert (tmp_path / "b").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()
    with pytest.raises(LinkError, match="folder that exists"):
        run_link_proxy([(str(tmp_path / "no" / "a"), str(tmp_path / "c"))])


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_removes_its_links(tmp_path: Path, kind: signal.Signals) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    code = (
        "import sys; from seamline.runtime.link_proxy import run_link_proxy as run; "
        f"sys.exit(run([({str(a)!r}, {str(b)!r})], lambda e: print(e, flush=True)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"listening" in process.stdout.readline()
        assert a.is_symlink()
        process.send_signal(kind)
        assert process.wait(5) == 0
    assert not a.is_symlink() and not b.is_symlink()


def test_sockets_and_a_terminal_are_ends_too_and_the_counters_tell_what_was_done(
    tmp_path: Path,
) -> None:
    """A unix socket on one side, a terminal on the other, a tenth of all bytes lost."""
    events: list[dict] = []
    ready, stop = threading.Event(), threading.Event()

    def emit(event: dict) -> None:
        events.append(event)
        ready.set()

    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "door"))
    door.listen()
    pair = (f"unix:{tmp_path / 'door'}", str(tmp_path / "b"))
    thread = threading.Thread(
        target=run_link_proxy, args=([pair], emit, stop), kwargs={"faults": Faults(drop=0.1)}
    )
    thread.start()
    try:
        peer, _ = door.accept()
        assert ready.wait(5)
        end = open_end(tmp_path / "b")
        peer.sendall(b"x" * 1000)
        got = b""
        while select.select([end], [], [], 0.3)[0]:
            got += os.read(end, 4096)
        os.close(end)
        peer.close()  # a socket that hangs up ends the cable
        thread.join(5)
        assert not thread.is_alive()
    finally:
        stop.set()
        thread.join(5)
        door.close()
    there = events[-1]["counters"][0]
    assert 0 < there["dropped"] == 1000 - len(got) and there["bytes_in"] == 1000
    assert len(got) == there["bytes_out"]
