"""A thousand devices at one listener, with CURVE and a key each: all come in, all are served beside
one that floods, and all are missed when they are killed.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq
from seamline.runtime import link, zmq_link
from seamline.runtime.ends import Ends
from seamline.runtime.keys import Keys, new_secret, public_of
from seamline.runtime.link import LinkError, LinkLost, Lost, Received, is_ping, need_files
from seamline.runtime.zmq_link import ZmqListener

LOCAL = "tcp://127.0.0.1:*"
DEVICES, PROCESSES, ANSWERS = 1000, 2, 4
WITHIN_S = 60.0  # several times what it takes; only a hang reaches it

ECHO = """
import json, select, sys
from seamline.runtime.ends import Ends
from seamline.runtime.keys import Keys
order = json.loads(sys.stdin.readline())
keys = {name: Keys(name, *pair, order["peers"]) for name, pair in order["keys"].items()}
ends = Ends(order["address"], keys)
for name in keys:
    ends.send(name, b"hello")
while not select.select([sys.stdin], [], [], 0)[0]:
    for name, data in ends.poll(0.2):
        if not isinstance(data, bytes):
            sys.exit(f"{name}: {data}")
        ends.send(name, name.encode() + b" has " + data)
ends.close()
"""


def new_keys(names: list[str]) -> tuple[Keys, dict[str, Keys]]:
    """Of a host that lets these in, and of each of them."""
    secret = new_secret()
    host = {"host-A": public_of(secret)}
    secrets = {name: new_secret() for name in names}
    own = {name: Keys(name, key, public_of(key), host) for name, key in secrets.items()}
    peers = {name: keys.public for name, keys in own.items()}
    return Keys("host-A", secret, host["host-A"], peers), own


def start(address: str, keys: list[Keys]) -> subprocess.Popen[str]:
    order = {
        "address": address,
        "peers": keys[0].peers,
        "keys": {own.name: [own.secret, own.public] for own in keys},
    }
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@contextmanager
def flood(address: str, keys: Keys) -> Iterator[None]:
    """A device that never stops sending."""
    over = threading.Event()
    context = zmq.Context()

    def send() -> None:
        socket = context.socket(zmq.DEALER)
        zmq_link._client_keys(socket, keys, keys.peers["host-A"])
        socket.setsockopt(zmq.SNDTIMEO, 50)
        socket.connect(address)
        while not over.is_set():
            try:
                socket.send(bytes(1024))
            except zmq.Again:
                continue
        socket.close(0)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        context.term()


def test_a_thousand_devices_come_in_at_once_and_each_gets_each_answer_beside_one_that_floods() -> (
    None
):
    names = [f"d{number:03}" for number in range(DEVICES)]
    host, own = new_keys([*names, "flood"])
    with ExitStack() as stack:
        listener = ZmqListener(LOCAL, {}, name="host-A", keys=host)
        stack.callback(listener.close)
        stack.enter_context(flood(listener.address(), own["flood"]))
        processes = []
        for number in range(PROCESSES):
            part = [own[name] for name in names[number::PROCESSES]]
            processes.append(start(listener.address(), part))
            stack.callback(end, processes[-1])
        heard: dict[str, list[bytes]] = {name: [] for name in names}
        flooded, until = 0, time.monotonic() + WITHIN_S
        while any(len(of) <= ANSWERS for of in heard.values()):
            behind = sum(len(of) <= ANSWERS for of in heard.values())
            assert time.monotonic() < until, f"{behind} devices were not served"
            for process in processes:
                assert process.poll() is None, process.communicate()[1]
            for event in listener.poll(1.0):
                assert isinstance(event, Received), event
                if event.peer == "flood":
                    flooded += 1
                    continue
                heard[event.peer].append(event.data)
                if len(heard[event.peer]) <= ANSWERS:
                    assert listener.send(event.peer, b"%d" % len(heard[event.peer]))
        for name, data in heard.items():
            answers = [f"{name} has {number}".encode() for number in range(1, ANSWERS + 1)]
            assert data == [b"hello", *answers]
        assert flooded > 100
        assert listener.counters[""] == {"refused_keys": 0, "dropped": 0}

        processes[0].kill()
        lost = lost_peers(listener, DEVICES // PROCESSES)
        assert lost == Counter(names[0::PROCESSES])  # each once, and nobody else


def lost_peers(listener: ZmqListener, count: int) -> Counter[str]:
    found: Counter[str] = Counter()
    until = time.monotonic() + WITHIN_S
    while found.total() < count:
        assert time.monotonic() < until, f"only {found.total()} of {count} were missed"
        found.update(event.peer for event in listener.poll(0.5) if isinstance(event, Lost))
    return found


def test_the_end_of_a_connection_pings_its_peer_and_no_other() -> None:
    """When a thousand went at once, each end of a connection pinged all the others."""
    host, own = new_keys(["d1", "d2", "d3"])
    with ExitStack() as stack:
        listener = ZmqListener(LOCAL, {}, name="host-A", keys=host)
        stack.callback(listener.close)
        ends = {name: Ends(listener.address(), {name: keys}) for name, keys in own.items()}
        for name, one in ends.items():
            stack.callback(one.close) if name != "d2" else None
            one.send(name, b"hello")
        heard: set[str] = set()
        while len(heard) < 3:
            heard |= {event.peer for event in listener.poll(1.0)}
        listener._next_ping = time.monotonic() + WITHIN_S  # none to all while we look
        pinged = []
        put = listener._put

        def spy(peer: str, data: bytes) -> bool:
            if is_ping(data):
                pinged.append(peer)
            return put(peer, data)

        listener._put = spy  # type: ignore[method-assign]
        ends["d2"].close()
        assert lost_peers(listener, 1) == Counter(["d2"])
        assert set(pinged) == {"d2"}


def test_ends_of_one_process_are_apart_and_tell_of_a_refused_key() -> None:
    host, own = new_keys(["d1", "d2"])
    _, strangers = new_keys(["d3"])
    stranger = Keys("d3", strangers["d3"].secret, strangers["d3"].public, own["d1"].peers)
    with ExitStack() as stack:
        listener = ZmqListener(LOCAL, {}, name="host-A", keys=host)
        stack.callback(listener.close)
        ends = Ends(listener.address(), {**own, "d3": stranger})
        stack.callback(ends.close)
        for name in own:
            ends.send(name, name.encode())
        heard: dict[str, bytes] = {}
        told: dict[str, bytes | LinkLost] = {}
        until = time.monotonic() + WITHIN_S
        while len(told) < 3:
            assert time.monotonic() < until, (heard, told)
            for event in listener.poll(0.05):
                assert isinstance(event, Received)
                heard[event.peer] = event.data
                listener.send(event.peer, event.data * 2)
            told.update(ends.poll(0.05))
        assert heard == {"d1": b"d1", "d2": b"d2"}
        refusal = told.pop("d3")
        assert isinstance(refusal, LinkLost) and refusal.refused
        assert told == {"d1": b"d1d1", "d2": b"d2d2"}


def test_a_system_that_allows_too_few_open_files_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link.resource, "getrlimit", lambda what: (1024, 1024))
    monkeypatch.setattr(link.resource, "setrlimit", lambda what, limits: None)
    need_files(900, "900 peers")
    host, _ = new_keys([f"d{number}" for number in range(1000)])
    text = "1000 peers with a key in the key folder need 1064 open files, but this system allows"
    with pytest.raises(LinkError, match=f"{text} 1024: raise its limit"):
        ZmqListener(LOCAL, {}, name="host-A", keys=host)
