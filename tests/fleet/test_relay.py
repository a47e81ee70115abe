"""A sealed serial device behind `seamline relay` joins and trains, whatever is cut on the way."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kills import free_port


def lines(event: dict[str, Any]) -> bool:
    return event["event"] == "listening"


def rounds(after: int) -> Callable[[dict[str, Any]], bool]:
    """An edge round behind that number, on the host."""
    return lambda event: event["event"] == "round" and event["round"] > after


def newest_round(host: Any) -> int:
    return max((e["round"] for e in host.events if e["event"] == "round"), default=0)


def test_a_sealed_device_behind_the_relay_trains_through_cuts_of_either_side(job, start, tmp_path):
    """device -pty- relay -TCP- host: the connection is cut, then the pseudo-terminal goes away,
    then the relay itself; after each the same processes go on training."""
    near, far, door, called = tmp_path / "a", tmp_path / "b", free_port(), free_port()
    ends = (f"serial:{far}:921600", f"socket://127.0.0.1:{called}")
    path = str(job(devices=1, serial={"d00": ends}, edge_rounds=200, cloud_rounds=500))
    cable = ("link-proxy", "--line", str(near), str(far))
    network = ("link-proxy", "--line", f"listen://127.0.0.1:{called}", f"socket://127.0.0.1:{door}")
    relaying = ("relay", "--line", f"serial:{near}:921600", "--listen", f"127.0.0.1:{door}")
    parts = {}
    for name, arguments in {"cable": cable, "relay": relaying, "network": network}.items():
        parts[name] = start(*arguments)
        parts[name].wait_for(lines)
    start("cloud", path)
    host = start("host", path, "--zone", "A")
    device = start("device", path, "--id", "d00")
    host.wait_for(rounds(3))
    for name, arguments in {"network": network, "cable": cable, "relay": relaying}.items():
        parts[name].kill()
        before = newest_round(host)
        parts[name] = start(*arguments)
        parts[name].wait_for(lines)
        host.wait_for(rounds(before + 2), timeout=60)
    assert device.process.poll() is None and host.process.poll() is None
    relay = parts["relay"]
    relay.process.send_signal(signal.SIGINT)
    assert relay.process.wait(10) == 0
    relay.reader.join(10)
    line, door_side = relay.events[-1]["counters"]
    assert line["received"] > 1000 and line["received"] - door_side["sent"] < 70_000
    assert door_side["received"] > 1000


def test_the_relay_calls_a_host_that_is_not_there_yet_and_again_after_a_hang_up(start, tmp_path):
    port = free_port()
    near, far = str(tmp_path / "a"), str(tmp_path / "b")
    start("link-proxy", "--line", near, far).wait_for(lines)
    relay = start("relay", "--line", f"serial:{near}:921600", "--to", f"socket://127.0.0.1:{port}")
    relay.wait_for(lines)
    said = np.random.default_rng(5).bytes(200_000)
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(20)
        for _ in range(2):
            with server.accept()[0] as peer, open(far, "r+b", buffering=0) as device:
                relay.wait_for(lambda e: e["event"] == "note" and e["up"])
                peer.settimeout(20)
                peer.sendall(said[:3000])
                assert read(device.read, 3000) == said[:3000]
                device.write(said[:2000])
                assert read(peer.recv, 2000) == said[:2000]
            seen = len(relay.events)
            relay.wait_for(lambda e: e.get("up") is False, after=max(0, seen - 1))
    relay.process.send_signal(signal.SIGTERM)
    assert relay.process.wait(10) == 0


def read(more: Callable[[int], bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += more(size - len(data))
    return data


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--line", "serial:/no/port:9600", "--listen", "127.0.0.1:0"), 4, "no serial port"),
        (("--line", "serial:/no/port:96", "--listen", "127.0.0.1:0"), 2, "expected serial:PATH"),
        (("--line", "tcp://127.0.0.1:1", "--listen", "127.0.0.1:0"), 2, "expected serial:PATH"),
        (("--line", "listen://127.0.0.1:0", "--listen", "127.0.0.1"), 2, "expected listen://HOST"),
        (("--line", "listen://127.0.0.1:0", "--to", "socket://h:0"), 2, "expected socket://HOST"),
        (("--line", "serial:/no/port:9600"), 2, "one of the arguments --to --listen is required"),
    ],
)
def test_a_bad_address_is_one_line(arguments, code, words, start):
    relay = start("relay", *arguments)
    assert relay.process.wait(30) == code
    said = relay.said()
    assert words in said and len(said.splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        relay = start("relay", "--line", "listen://127.0.0.1:0", "--listen", f"127.0.0.1:{port}")
        assert relay.process.wait(30) == 4
        assert "choose a free port" in relay.said()


def test_at_a_door_the_newest_caller_wins_and_two_doors_can_be_joined(start):
    relay = start("relay", "--line", "listen://127.0.0.1:0", "--listen", "127.0.0.1:0")
    [ends] = relay.wait_for(lines)["lines"]
    ports = [int(address.rpartition(":")[2]) for address in ends]
    with (
        socket.create_connection(("127.0.0.1", ports[0]), 20) as device,
        socket.create_connection(("127.0.0.1", ports[1]), 20) as old,
    ):
        relay.wait_for(lambda e: e.get("side") == ends[1] and e["up"])
        device.sendall(b"one")
        assert read(old.recv, 3) == b"one"
        with socket.create_connection(("127.0.0.1", ports[1]), 20) as new:
            assert old.recv(1) == b""
            device.sendall(b"two")
            assert read(new.recv, 3) == b"two"
            new.sendall(b"three")
            assert read(device.recv, 5) == b"three"
    assert relay.process.poll() is None
