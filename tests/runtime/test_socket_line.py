"""A byte line over TCP (`socket://`) from end to end, sealed; and a peer that never has room."""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from seamline.kernels._link import PacketEnd
from seamline.runtime import serial_link
from seamline.runtime.keys import Keys, load_keys, make_keys
from seamline.runtime.link import (
    Link,
    LinkError,
    LinkLost,
    Listener,
    Lost,
    Received,
    open_link,
    open_listener,
)
from seamline.runtime.serial_link import SerialLine

WITHIN_S = 20.0


class Hub(threading.Thread):
    """Two that connect hear each other's bytes until one hangs up; then the next two."""

    def __init__(self) -> None:
        super().__init__(name="hub", daemon=True)
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"socket://127.0.0.1:{self.door.getsockname()[1]}"
        self.over, self.cut = threading.Event(), threading.Event()
        self.passed = bytearray()
        self.pairs = 0
        self.harm: Callable[[bytes], bytes] = lambda data: data
        self.start()

    def run(self) -> None:
        waiting: list[socket.socket] = []
        while not self.over.is_set():
            if select.select([self.door], [], [], 0.02)[0]:
                waiting.append(self.door.accept()[0])
            if len(waiting) == 2:
                self.pairs += 1
                self.carry(*waiting)
                waiting = []
        for peer in (*waiting, self.door):
            peer.close()

    def carry(self, a: socket.socket, b: socket.socket) -> None:
        other = {a: b, b: a}
        with a, b, suppress(OSError):
            while not self.over.is_set() and not self.cut.is_set():
                for peer in select.select([a, b], [], [], 0.02)[0]:
                    data = peer.recv(4096)
                    if not data:
                        return
                    self.passed += data
                    other[peer].sendall(self.harm(data))
        self.cut.clear()

    def leave(self) -> None:
        self.over.set()
        self.join(5.0)
        assert not self.is_alive()


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Everything entered here is closed, and no thread or descriptor of ours stays."""
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        yield stack
    threads = [thread.name for thread in threading.enumerate()]
    assert [name for name in threads if name.startswith("seamline")] == []
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def hub(cleanup: ExitStack) -> Hub:
    found = Hub()
    cleanup.callback(found.leave)
    return found


@pytest.fixture
def ends(cleanup: ExitStack, hub: Hub, tmp_path: Path) -> tuple[Listener, Link]:
    """A host and a device with keys, both of which connect to the hub."""
    make_keys(tmp_path, ["host-A", "watch-1"])
    keys: dict[str, Keys] = {name: load_keys(tmp_path, name) for name in ("host-A", "watch-1")}
    lines = {"watch-1": hub.address}
    listener = open_listener("", lines, name="host-A", keys=keys["host-A"])
    cleanup.callback(listener.close)
    link = open_link(hub.address, name="watch-1", keys=keys["watch-1"], host="host-A")
    cleanup.callback(link.close)
    return listener, link


def hear(listener: Listener) -> list[Received | Lost]:
    until = time.monotonic() + WITHIN_S
    found: list[Received | Lost] = []
    while not any(isinstance(event, Received) for event in found):
        assert time.monotonic() < until, "it never came"
        found += listener.poll(0.1)
    return found


def test_sealed_messages_go_both_ways_byte_for_byte(ends: tuple[Listener, Link], hub: Hub) -> None:
    listener, link = ends
    data = random.Random(0).randbytes(300_000)
    link.send(data)
    assert hear(listener) == [Received("watch-1", data)]
    assert listener.send("watch-1", data[::-1])
    assert link.receive(WITHIN_S) == data[::-1]
    assert data[:64] not in hub.passed and data[::-1][:64] not in hub.passed
    assert link.counters["handshakes"] == listener.peers()[0].counters["handshakes"] == 1
    (device,), (host,) = listener.peers(), link.peers()
    assert (device.name, device.link, device.state) == ("watch-1", "serial", "joined")
    assert (host.name, host.link, host.state) == ("host-A", "serial", "joined")
    assert device.counters["payload_received"] == len(data) == host.counters["payload_received"]


def test_a_connection_that_breaks_is_made_anew_and_nothing_is_lost(
    ends: tuple[Listener, Link], hub: Hub
) -> None:
    listener, link = ends
    link.send(b"before")
    assert hear(listener) == [Received("watch-1", b"before")]
    hub.cut.set()
    link.send(b"while it is cut")
    assert hear(listener) == [Received("watch-1", b"while it is cut")]
    assert listener.send("watch-1", b"back")
    assert link.receive(WITHIN_S) == b"back"
    assert hub.pairs >= 2 and link.counters["losses"] == 0


def test_bytes_changed_on_the_way_are_thrown_out_and_counted(
    ends: tuple[Listener, Link], hub: Hub
) -> None:
    listener, link = ends
    link.send(b"before")
    hear(listener)
    rng = random.Random(1)

    def flip(data: bytes) -> bytes:
        at = rng.randrange(len(data))
        wrong = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        return wrong if rng.random() < 0.2 else data

    hub.harm = flip
    data = rng.randbytes(200_000)
    link.send(data)
    assert hear(listener)[-1] == Received("watch-1", data)
    counters = listener.peers()[0].counters
    assert counters["frames_forged"] + counters["frames_damaged"] > 0
    assert link.counters["retransmits"] > 0


def test_a_socket_nobody_listens_at_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_link, "_FIRST_OPEN_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"socket://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(LinkError, match=f"cannot connect to {address}: .*; start the other end"):
        open_link(address, name="watch-1", keys=None)


# ---- a peer without room ----


class Full:
    """A peer on a pseudo-terminal that takes no message, in a time that the test makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cleanup: ExitStack) -> None:
        self.ahead_ms = 0
        monkeypatch.setattr(SerialLine, "_now", staticmethod(self.now))
        self.master, slave = os.openpty()
        cleanup.callback(os.close, self.master)
        cleanup.callback(os.close, slave)
        self.link = open_link(f"serial:{os.ttyname(slave)}:921600", name="watch-1", keys=None)
        cleanup.callback(self.link.close)
        self.end = PacketEnd(1 << 40, self.now())

    def now(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self.ahead_ms

    def turn(self, over: Callable[[], bool]) -> None:
        """Bytes both ways until it is over; no time passes but the clock's own."""
        until = time.monotonic() + WITHIN_S
        while not over():
            assert time.monotonic() < until, (self.end.counters, self.link.counters)
            os.write(self.master, self.end.output(self.now()))
            if select.select([self.master], [], [], 0.002)[0]:
                self.end.feed(os.read(self.master, 4096), self.now())

    def second(self) -> None:
        """The clock goes on by a second, in which each hears the other."""
        heard = self.end.counters["packets_received"], self.link.counters["packets_received"]
        self.ahead_ms += 1000
        self.link._line._wake.ring()  # type: ignore[attr-defined]
        self.turn(
            lambda: (
                self.end.counters["packets_received"] > heard[0]
                and self.link.counters["packets_received"] > heard[1]
            )
        )


def test_a_peer_without_room_for_two_minutes_is_a_typed_loss(
    monkeypatch: pytest.MonkeyPatch, cleanup: ExitStack
) -> None:
    full = Full(monkeypatch, cleanup)
    link = full.link
    for data in (b"one", b"two"):  # the first is there, but is not taken
        link.send(data)
    full.turn(lambda: link.counters["credit_stalls"] == 1)
    for _ in range(118):
        full.second()
    assert link.receive(0) is None and link.peers()[0].state == "joined"
    with pytest.raises(LinkLost, match="has taken no message for 120 s, though it answers"):
        for _ in range(6):
            full.second()
            link.receive(0)
    assert link.peers()[0].reason.endswith("though it answers")
