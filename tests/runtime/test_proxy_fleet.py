"""The proxy for connections: many callers of one door, each on a line of its own; a fleet over
ZeroMQ with keys runs through it and recovers from a cut.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from seamline.runtime.faults import Faults
from seamline.runtime.keys import load_keys, make_keys
from seamline.runtime.link import LinkError, LinkLost, Received, open_link, open_listener
from seamline.runtime.link_proxy import run_link_proxy

DOOR = "listen://127.0.0.1:0"
WITHIN_S = 30.0  # far more than anything here takes; only a hang reaches it

Events = list[dict[str, Any]]


@contextmanager
def proxy(a: str, b: str, **settings: Any) -> Iterator[tuple[list[str], Events]]:
    """The addresses of both ends, and the events."""
    events: Events = []
    ready, stop = threading.Event(), threading.Event()

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        ready.set()

    thread = threading.Thread(
        target=run_link_proxy, args=([(a, b)], emit, stop), kwargs=settings, daemon=True
    )
    thread.start()
    try:
        assert ready.wait(5)
        yield events[0]["lines"][0], events
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def call(address: str) -> socket.socket:
    host, _, port = address.partition("://")[2].rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=WITHIN_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def read_exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        assert more, f"only {len(data)} of {size} bytes came"
        data += more
    return data


@contextmanager
def server(work: Callable[[socket.socket], None]) -> Iterator[str]:
    """Its address; `work` serves each caller in a thread of its own."""
    door = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve() -> None:
        while True:
            try:
                peer, _ = door.accept()
            except OSError:
                return
            peer.settimeout(WITHIN_S)
            threads.append(threading.Thread(target=work, args=(peer,)))
            threads[-1].start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"socket://127.0.0.1:{door.getsockname()[1]}"
    finally:
        door.shutdown(socket.SHUT_RDWR)
        door.close()
        thread.join(5)
        for one in threads:
            one.join(5)
            assert not one.is_alive()


def echo(peer: socket.socket) -> None:
    with peer:
        while data := peer.recv(65536):
            peer.sendall(data)


def test_each_caller_of_a_door_gets_a_connection_of_its_own() -> None:
    shape = Faults(delay_ms=2, jitter_ms=2, bandwidth=1_000_000)
    with server(echo) as target, proxy(DOOR, target, faults=shape) as ((door, _), events):
        peers = [call(door) for _ in range(8)]
        for number, peer in enumerate(peers):
            peer.sendall(bytes([number]) * 3000)
        peers[3].close()  # takes nothing from the others
        for number, peer in enumerate(peers):
            if number != 3:
                assert read_exactly(peer, 3000) == bytes([number]) * 3000
                peer.close()
    assert events[-1]["event"] == "done" and events[-1]["dropped"] == 0
    up = events[-1]["counters"][0]
    assert up["connections"] == 8 and up["bytes_in"] == 8 * 3000
    assert up["line"] == f"{door} -> {target}"


def test_a_stream_loses_nothing_when_its_reader_is_slow_and_may_end_one_way_first() -> None:
    """32 MiB, more than sockets hold, at a reader that begins late; then the answer to an end of
    file.
    """
    data = os.urandom(1 << 20) * 32
    begin = threading.Event()
    got = bytearray()

    def late(peer: socket.socket) -> None:
        with peer:
            assert begin.wait(WITHIN_S)
            while part := peer.recv(1 << 20):
                got.extend(part)
            peer.sendall(b"that was all")

    with server(late) as target, proxy(DOOR, target) as ((door, _), events):
        peer = call(door)
        sender = threading.Thread(
            target=lambda: (peer.sendall(data), peer.shutdown(socket.SHUT_WR))
        )
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()  # the proxy holds it up
        begin.set()
        assert read_exactly(peer, 12) == b"that was all" and not peer.recv(1)
        sender.join(WITHIN_S)
        peer.close()
    assert bytes(got) == data, f"{len(got)} of {len(data)} bytes came"
    assert events[-1]["dropped"] == 0


def test_a_target_that_is_not_there_hangs_up_on_the_caller_and_is_found_later() -> None:
    probe = socket.create_server(("127.0.0.1", 0))
    address = probe.getsockname()
    probe.close()
    with proxy(DOOR, f"socket://127.0.0.1:{address[1]}") as ((door, _), _events):
        with call(door) as peer:
            assert peer.recv(1) == b""
        with socket.create_server(address) as target, call(door) as peer:
            other, _ = target.accept()
            with other:
                other.settimeout(WITHIN_S)
                peer.sendall(b"now")
                assert read_exactly(other, 3) == b"now"


def test_callers_of_a_terminal_come_one_after_the_other(tmp_path: Path) -> None:
    with proxy(DOOR, str(tmp_path / "tty")) as ((door, path), _events):
        end = os.open(path, os.O_RDWR | os.O_NOCTTY)
        first, second = call(door), call(door)
        second.sendall(b"second")
        first.sendall(b"first!")
        for text in (b"first!", b"second"):
            assert select.select([end], [], [], WITHIN_S)[0]
            assert os.read(end, 100) == text
            if text == b"first!":
                first.close()
        os.write(end, b"hello")
        assert read_exactly(second, 5) == b"hello"
        second.close()
        os.close(end)


def test_two_doors_join_the_callers_of_one_to_those_of_the_other() -> None:
    with proxy(DOOR, DOOR) as ((a, b), _events):
        one, two = call(a), call(a)
        for peer, text in ((one, b"one"), (two, b"two")):
            other = call(b)
            peer.sendall(text)
            assert read_exactly(other, 3) == text
            other.close()
            peer.close()


def test_a_unix_socket_is_dialled_for_each_caller_and_one_that_is_not_there_hangs_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "door"
    with proxy(DOOR, f"unix:{path}") as ((door, _), _events):
        with call(door) as peer:
            assert peer.recv(1) == b""
        with socket.socket(socket.AF_UNIX) as target:
            target.bind(str(path))
            target.listen()
            for text in (b"one", b"two"):
                with call(door) as peer:
                    other, _ = target.accept()
                    with other:
                        peer.sendall(text)
                        assert read_exactly(other, 3) == text
                        other.sendall(text * 2)
                        assert read_exactly(peer, 6) == text * 2


def test_a_reset_is_no_end_of_the_proxy() -> None:
    with server(echo) as target, proxy(DOOR, target) as ((door, _), _events):
        rude = call(door)
        rude.sendall(b"x" * 1000)
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.close()  # sends a reset
        with call(door) as peer:
            peer.sendall(b"still there")
            assert read_exactly(peer, 11) == b"still there"


def test_what_was_said_before_a_reset_still_comes_over_a_slow_line() -> None:
    """The last word of a host that closes with something unread is a reset behind it."""
    come = threading.Event()

    def last_word(peer: socket.socket) -> None:
        with peer:
            peer.sendall(b"bye" * 100)
            assert come.wait(WITHIN_S)  # there is something, and it stays unread: a reset

    slow = Faults(bandwidth=2000, delay_ms=200)
    with (
        server(last_word) as target,
        proxy(DOOR, target, faults=slow) as ((door, _), _events),
        call(door) as peer,
    ):
        peer.sendall(b"x" * 10)
        assert peer.recv(1) == b"b"
        come.set()
        assert read_exactly(peer, 299) == (b"bye" * 100)[1:]
        assert peer.recv(1) == b""


def test_faults_are_drawn_by_seed_and_connection() -> None:
    """Which of 2000 bytes the first and the second caller lose, twice."""
    found = []
    for seed in (1, 1, 2):
        got: list[bytes] = []

        def keep(peer: socket.socket) -> None:
            with peer:
                got.append(b"".join(iter(lambda: peer.recv(65536), b"")))

        noise = Faults(drop=0.01)
        with server(keep) as target, proxy(DOOR, target, faults=noise, seed=seed) as ((door, _), _):
            for _ in range(2):
                with call(door) as peer:
                    peer.sendall(bytes(number % 251 for number in range(2000)))
                    peer.shutdown(socket.SHUT_WR)
                    assert peer.recv(1) == b""
        found.append(got)
    first, again, other = found
    assert first == again != other
    assert first[0] != first[1] and len(first[0]) < 2000


def test_a_cut_hangs_up_on_all_callers_and_the_door_stays_open() -> None:
    with server(echo) as target, proxy(DOOR, target, cuts=[1.5]) as ((door, _), events):
        peers = [call(door) for _ in range(3)]
        for peer in peers:
            peer.sendall(b"before")
            assert read_exactly(peer, 6) == b"before"
        for peer in peers:
            assert peer.recv(1) == b""
            peer.close()
        with call(door) as peer:
            peer.sendall(b"behind")
            assert read_exactly(peer, 6) == b"behind"
    assert events[-1]["counters"][0]["connections"] == 4


@pytest.mark.parametrize(
    ("end", "text", "code"),
    [
        ("listen://127.0.0.1:99999", "expected listen://HOST:PORT", 2),
        ("listen://127.0.0.1", "expected listen://HOST:PORT", 2),
        ("socket://127.0.0.1:0", "expected socket://HOST:PORT", 2),
        ("listen://192.0.2.1:0", "cannot listen on listen://192.0.2.1:0", 4),
        ("unix:/no/where", "cannot open unix:/no/where: No such file", 4),
    ],
)
def test_an_end_that_cannot_be_opened_is_a_clear_error_and_nothing_is_left(
    tmp_path: Path, end: str, text: str, code: int
) -> None:
    with pytest.raises(LinkError, match=text) as error:
        run_link_proxy([(str(tmp_path / "a"), end)])
    assert error.value.exit_code == code
    assert not (tmp_path / "a").is_symlink()


def test_a_door_that_is_taken_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LinkError, match=r"cannot listen on .*choose a free port"):
            run_link_proxy([(f"listen://127.0.0.1:{port}", "unix:/no/where")])


def test_a_fleet_with_keys_runs_through_a_shaped_line_and_recovers_from_a_cut(
    tmp_path: Path,
) -> None:
    """Three devices and a host: messages of 20 KB there and back byte for byte, with 5 ms delay, 4
    MB/s and lost segments; then all connections are cut, and devices and host go on by themselves.
    """
    names = ["watch-1", "watch-2", "watch-3"]
    make_keys(tmp_path, ["host-A", *names])
    host = load_keys(tmp_path, "host-A")
    listener = open_listener("tcp://127.0.0.1:*", {}, name="host-A", keys=host)
    target = listener.address().replace("tcp://", "socket://")
    shape = Faults(delay_ms=5, jitter_ms=2, bandwidth=4_000_000, loss=0.002)
    until = time.monotonic() + WITHIN_S
    with proxy(DOOR, target, faults=shape, seed=3, cuts=range(2, 30, 3)) as ((door, _), events):
        address = door.replace("listen://", "tcp://")
        links = {n: open_link(address, name=n, keys=load_keys(tmp_path, n)) for n in names}
        lost: set[str] = set()  # devices that lost the host
        trips = dict.fromkeys(names, 0)
        behind = dict.fromkeys(names, 0)  # trips after the cut
        for name, link in links.items():
            link.send(name.encode() * 3000)
        while min(behind.values()) < 3:
            assert time.monotonic() < until, (trips, behind, lost)
            for event in listener.poll(0.01):
                if isinstance(event, Received):
                    assert event.data == event.peer.encode() * 3000
                    listener.send(event.peer, event.data[::-1])
            for name, link in links.items():
                try:
                    data = link.receive(0.0)
                except LinkLost:
                    lost.add(name)
                    link.send(name.encode() * 3000)
                    continue
                if data is not None:
                    assert data == (name.encode() * 3000)[::-1]
                    trips[name] += 1
                    behind[name] += name in lost
                    link.send(name.encode() * 3000)
        assert lost == set(names) and min(trips.values()) > 3
        for link in links.values():
            link.close()
        listener.close()
    assert events[-1]["counters"][0]["connections"] >= 6
    assert events[-1]["counters"][0]["stalls"] > 0
