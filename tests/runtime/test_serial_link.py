"""Serial links over the pseudo-terminal cable: whole messages through restarts, noise, hang-ups and
stopped ends.
"""

import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cables import Cable
from seamline.kernels._link import PacketEnd
from seamline.runtime import serial_link
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

WITHIN_S = 15.0


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Everything entered here is closed, and no thread or descriptor of ours stays."""
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        yield stack
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith("seamline")
    ] == []
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def cable(cleanup: ExitStack, tmp_path: Path) -> Cable:
    found = Cable(tmp_path)
    cleanup.callback(found.pull_out)
    return found


def listen(cleanup: ExitStack, lines: dict[str, str]) -> Listener:
    listener = open_listener("", lines, name="host-A", keys=None)
    cleanup.callback(listener.close)
    return listener


def dial(cleanup: ExitStack, address: str) -> Link:
    link = open_link(address, name="watch-1", keys=None)
    cleanup.callback(link.close)
    return link


def wait_for(
    listener: Listener, wanted: Callable[[Received | Lost], bool]
) -> list[Received | Lost]:
    found: list[Received | Lost] = []
    until = time.monotonic() + WITHIN_S
    while not any(wanted(event) for event in found):
        assert time.monotonic() < until, "it never came"
        found += listener.poll(0.5)
    return found


def is_received(event: Received | Lost) -> bool:
    return isinstance(event, Received)


def is_lost(event: Received | Lost) -> bool:
    return isinstance(event, Lost)


def lost_reason(link: Link) -> str:
    until = time.monotonic() + WITHIN_S
    with pytest.raises(LinkLost) as error:
        while time.monotonic() < until:
            link.receive(0.5)
    return error.value.reason


def test_a_megabyte_goes_both_ways_byte_for_byte(cable: Cable, cleanup: ExitStack) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    link = dial(cleanup, cable.address_b)
    data = random.Random(0).randbytes(1 << 20)
    link.send(data)
    assert wait_for(listener, is_received) == [Received("watch-1", data)]
    assert listener.send("watch-1", data[::-1])
    assert link.receive(WITHIN_S) == data[::-1]
    assert listener.link_kind("watch-1") == "serial"
    assert listener.address() == ""
    assert link.counters["bytes_sent"] == link.counters["bytes_received"] == 1 << 20


def test_messages_of_both_directions_at_once_keep_their_order(
    cable: Cable, cleanup: ExitStack
) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    link = dial(cleanup, cable.address_b)
    link.send(b"hello")
    wait_for(listener, is_received)
    up = [random.Random(i).randbytes(i * 97) for i in range(40)]
    for data in up:
        link.send(data)
        assert listener.send("watch-1", data[::-1])
    heard: list[bytes] = []
    while len(heard) < len(up):
        heard += [e.data for e in wait_for(listener, is_received) if isinstance(e, Received)]
    assert heard == up
    assert [link.receive(WITHIN_S) for _ in up] == [data[::-1] for data in up]


def test_the_network_and_two_lines_share_one_poll(cleanup: ExitStack, tmp_path: Path) -> None:
    cables = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cables.append(Cable(tmp_path / name))
        cleanup.callback(cables[-1].pull_out)
    lines = {f"watch-{i}": cable.address_a for i, cable in enumerate(cables)}
    listener = open_listener("tcp://127.0.0.1:*", lines, name="host-A", keys=None)
    cleanup.callback(listener.close)
    links = {f"watch-{i}": dial(cleanup, cable.address_b) for i, cable in enumerate(cables)}
    links["watch-9"] = open_link(listener.address(), name="watch-9", keys=None)
    cleanup.callback(links["watch-9"].close)
    thief = open_link(
        listener.address(), name="watch-0", keys=None
    )  # a name that belongs to a cable
    cleanup.callback(thief.close)
    thief.send(b"I am watch-0")
    for name, link in links.items():
        link.send(name.encode())
    heard: dict[str, bytes] = {}
    while len(heard) < 3:
        heard |= {
            e.peer: e.data for e in wait_for(listener, is_received) if isinstance(e, Received)
        }
    assert heard == {name: name.encode() for name in links}
    for name, link in links.items():
        assert listener.send(name, b"for " + name.encode())
        assert link.receive(WITHIN_S) == b"for " + name.encode()


def test_noise_on_the_line_harms_no_message(cable: Cable, cleanup: ExitStack) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    link = dial(cleanup, cable.address_b)
    intruder = os.open(cable.b, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    cleanup.callback(os.close, intruder)
    rng = random.Random(5)
    for i in range(30):
        data = rng.randbytes(20_000)
        link.send(data)
        with suppress(BlockingIOError):  # the line is full of our own message
            os.write(intruder, rng.randbytes(rng.randrange(1, 200)))
        assert wait_for(listener, is_received) == [Received("watch-1", data)], i
    assert listener.counters["watch-1"]["frames_damaged"] > 0


DEVICE = """
import sys
from seamline.runtime.link import LinkLost, open_link
link = open_link(sys.argv[1], name="watch-1", keys=None)
link.send(b"hello")
while True:
    try:
        data = link.receive(60)
    except LinkLost:
        link.send(b"hello again")
        continue
    if data is not None:
        link.send(data)
"""


def start_device(cleanup: ExitStack, address: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", DEVICE, address])
    cleanup.callback(process.wait)
    cleanup.callback(process.kill)
    return process


def test_a_killed_device_is_lost_in_time_and_a_new_one_joins(
    cable: Cable, cleanup: ExitStack
) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    process = start_device(cleanup, cable.address_b)
    wait_for(listener, is_received)
    assert listener.send("watch-1", bytes(500_000))  # it dies in the middle of a message
    process.kill()
    start = time.monotonic()
    assert wait_for(listener, is_lost) == [
        Lost("watch-1", f"nothing was heard from {cable.a} for 2.75 s")
    ]
    assert time.monotonic() - start < 3.0
    start_device(cleanup, cable.address_b)
    assert wait_for(listener, is_received) == [Received("watch-1", b"hello")]
    assert listener.send("watch-1", b"echo")
    assert wait_for(listener, is_received) == [Received("watch-1", b"echo")]


def test_a_device_restarted_at_once_is_a_loss_and_a_join(cable: Cable, cleanup: ExitStack) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    process = start_device(cleanup, cable.address_b)
    wait_for(listener, is_received)
    process.kill()
    process.wait()
    start_device(cleanup, cable.address_b)
    found = wait_for(listener, is_received)
    assert found == [Lost("watch-1", "the other end started again"), Received("watch-1", b"hello")]


def test_a_stopped_device_is_lost_in_time_and_comes_back(cable: Cable, cleanup: ExitStack) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    process = start_device(cleanup, cable.address_b)
    wait_for(listener, is_received)
    process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    wait_for(listener, is_lost)
    assert time.monotonic() - start < 3.0
    assert not listener.send("watch-1", b"gone")
    process.send_signal(signal.SIGCONT)
    assert wait_for(listener, is_received)[-1] == Received("watch-1", b"hello again")


def test_a_host_that_goes_is_told_and_its_successor_found(cable: Cable, cleanup: ExitStack) -> None:
    first = open_listener("", {"watch-1": cable.address_a}, name="host-A", keys=None)
    link = dial(cleanup, cable.address_b)
    link.send(b"hello")
    wait_for(first, is_received)
    assert first.send("watch-1", b"last words")
    first.close()
    assert link.receive(WITHIN_S) == b"last words"
    start = time.monotonic()
    assert "for 2.75 s" in lost_reason(link)
    assert time.monotonic() - start < 3.0
    link.send(b"hello again")
    second = listen(cleanup, {"watch-1": cable.address_a})
    assert wait_for(second, is_received) == [Received("watch-1", b"hello again")]


def test_a_message_said_again_before_there_is_a_host_arrives_once(
    cable: Cable, cleanup: ExitStack
) -> None:
    link = dial(cleanup, cable.address_b)
    for data in (b"hello", b"hello", b"hello", b"end"):
        link.send(data)
    listener = listen(cleanup, {"watch-1": cable.address_a})
    found = wait_for(listener, lambda event: event == Received("watch-1", b"end"))
    assert found == [Received("watch-1", b"hello"), Received("watch-1", b"end")]


def test_a_cable_pulled_and_plugged_again_is_only_a_delay(cable: Cable, cleanup: ExitStack) -> None:
    listener = listen(cleanup, {"watch-1": cable.address_a})
    link = dial(cleanup, cable.address_b)
    link.send(b"before")
    wait_for(listener, is_received)
    cable.pull_out()
    link.send(b"while it is out")
    until = time.monotonic() + WITHIN_S
    while not (listener.peers()[0].state == link.peers()[0].state == "unplugged"):
        assert time.monotonic() < until
        assert listener.poll(0.05) == []
    cable.plug_in()
    assert wait_for(listener, is_received) == [Received("watch-1", b"while it is out")]


def test_liveness_goes_on_while_the_program_computes(cable: Cable, cleanup: ExitStack) -> None:
    """Neither end looks at its link for 3.5 s; the lines' own threads kept the connection."""
    listener = listen(cleanup, {"watch-1": cable.address_a})
    link = dial(cleanup, cable.address_b)
    link.send(b"one")
    wait_for(listener, is_received)
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        sum(range(10_000))
    link.send(b"two")
    assert wait_for(listener, is_received) == [Received("watch-1", b"two")]


def test_a_line_that_takes_no_byte_any_more_is_a_loss_and_no_hang(cleanup: ExitStack) -> None:
    """The other end joins, then reads nothing more, and the driver's buffer is full."""
    master, slave = os.openpty()
    cleanup.callback(os.close, master)
    cleanup.callback(os.close, slave)
    link = dial(cleanup, f"serial:{os.ttyname(slave)}:921600")
    peer = PacketEnd(1 << 40, 0, window=32)
    start = time.monotonic()
    while not peer.joined or link.counters["joins"] == 0:
        now = int((time.monotonic() - start) * 1000)
        if select.select([master], [], [], 0.01)[0]:
            peer.feed(os.read(master, 4096), now)
        os.write(master, peer.output(now))
    noise = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(noise, bytes(4096))
    os.close(noise)
    link.send(bytes(1 << 20))
    start = time.monotonic()
    assert "for 2.75 s" in lost_reason(link)
    assert time.monotonic() - start < 4.5


def test_nobody_at_the_other_end_is_told_after_the_join_time(
    cable: Cable, cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_link, "JOIN_TIMEOUT", 0.3)
    link = dial(cleanup, cable.address_b)
    link.send(b"hello")
    for _ in range(2):
        assert "nobody is there; check the cable" in lost_reason(link)


def test_bytes_at_another_rate_are_told_as_such(
    cable: Cable, cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_link, "JOIN_TIMEOUT", 0.3)
    link = dial(cleanup, cable.address_b)
    other = os.open(cable.a, os.O_WRONLY | os.O_NOCTTY)
    cleanup.callback(os.close, other)
    os.write(other, b"\xf8\x78\x00\x80" * 20)
    assert "check that both ends use the same baud rate" in lost_reason(link)


def test_a_missing_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_link, "_FIRST_OPEN_S", 0.1)
    with pytest.raises(
        LinkError, match=rf"no serial port {tmp_path}/none \(ports on this machine: "
    ) as error:
        open_link(f"serial:{tmp_path}/none:921600", name="watch-1", keys=None)
    assert error.value.exit_code == 4
    with pytest.raises(LinkError, match="no serial port"):
        open_listener("", {"watch-1": f"serial:{tmp_path}/none:9600"}, name="host-A", keys=None)


def test_a_port_in_use_is_named(cable: Cable, cleanup: ExitStack) -> None:
    dial(cleanup, cable.address_b)
    with pytest.raises(LinkError, match="in use by another program"):
        open_link(cable.address_b, name="watch-2", keys=None)


def test_a_file_that_is_no_port_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LinkError, match="cannot open the serial port"):
        open_link(f"serial:{tmp_path}/file:9600", name="watch-1", keys=None)


@pytest.mark.parametrize(
    "address",
    [
        "serial:",
        "serial::9600",
        "serial:/dev/x:fast",
        "serial:/dev/x:1",
        "socket://",
        "socket://h:0",
        "socket://h:x",
    ],
)
def test_a_malformed_address_is_a_clear_error(address: str) -> None:
    with pytest.raises(LinkError, match="expected s") as error:
        open_link(address, name="watch-1", keys=None)
    assert error.value.exit_code == 2


def test_an_address_without_a_rate_has_the_usual_one() -> None:
    assert serial_link.parse_address("serial:/dev/ttyUSB0") == ("/dev/ttyUSB0", 115200)
    assert serial_link.parse_address("serial:/dev/ttyUSB0:3000000") == ("/dev/ttyUSB0", 3_000_000)
    assert serial_link.parse_address("serial:socket://h:80") == ("socket://h:80", 0)


def test_a_socket_is_a_line_too(cable: Cable, cleanup: ExitStack) -> None:
    """A relay from a socket to the cable, as an emulated board has it."""
    server = socket.create_server(("127.0.0.1", 0))
    cleanup.callback(server.close)
    listener = listen(cleanup, {"watch-1": cable.address_a})
    tty = os.open(cable.b, os.O_RDWR | os.O_NOCTTY)
    cleanup.callback(os.close, tty)

    def pump(read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
        try:
            while data := read():
                write(data)
        except OSError:
            return  # one side is closed: the test is over

    link = dial(cleanup, f"socket://127.0.0.1:{server.getsockname()[1]}")
    peer, _ = server.accept()
    cleanup.callback(peer.close)
    up = threading.Thread(
        target=pump, args=(lambda: peer.recv(4096), lambda d: os.write(tty, d)), daemon=True
    )
    down = threading.Thread(
        target=pump, args=(lambda: os.read(tty, 4096), peer.sendall), daemon=True
    )
    up.start()
    down.start()
    link.send(b"through a socket" * 1000)
    assert wait_for(listener, is_received) == [Received("watch-1", b"through a socket" * 1000)]
    assert listener.send("watch-1", b"back")
    assert link.receive(WITHIN_S) == b"back"
    cable.pull_out()  # ends the reader of the terminal
    peer.shutdown(socket.SHUT_RDWR)
    up.join(5)
    down.join(5)
    assert not up.is_alive() and not down.is_alive()
