"""ZeroMQ links on loopback: keys decide who is who, a gone peer is noticed in time, mistakes are
clear errors.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq
from seamline.runtime import link as link_module
from seamline.runtime import zmq_link
from seamline.runtime.errors import UserError
from seamline.runtime.key_folder import add_peer, forget_key, rotate_key
from seamline.runtime.keys import Keys, load_keys, make_keys
from seamline.runtime.link import (
    Link,
    LinkError,
    LinkLost,
    Lost,
    Received,
    open_link,
    open_listener,
    ping,
)
from seamline.runtime.zmq_link import ZmqListener

LOCAL = "tcp://127.0.0.1:*"
WITHIN_S = 10.0  # far more than anything here takes; only a hang reaches it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys")
    make_keys(path, ["cloud", "host-A", "watch-1", "watch-2"])
    return path


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Everything entered here is closed, and no thread of ours stays."""
    with ExitStack() as stack:
        yield stack
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("seamline")]
    assert names == []


def listen(cleanup: ExitStack, keys: Keys | None, address: str = LOCAL) -> ZmqListener:
    listener = open_listener(address, {}, name="host-A", keys=keys)
    cleanup.callback(listener.close)
    assert isinstance(listener, ZmqListener)
    return listener


def dial(cleanup: ExitStack, address: str, name: str, keys: Keys | None) -> Link:
    link = open_link(address, name=name, keys=keys)
    cleanup.callback(link.close)
    return link


def wait_for(
    listener: ZmqListener, wanted: Callable[[Received | Lost], bool]
) -> list[Received | Lost]:
    """Everything up to the wanted event."""
    found: list[Received | Lost] = []
    until = time.monotonic() + WITHIN_S
    while not any(wanted(event) for event in found):
        assert time.monotonic() < until, f"it never came; only {found}"
        found += listener.poll(0.5)
    return found


def is_lost(event: Received | Lost) -> bool:
    return isinstance(event, Lost)


def is_received(event: Received | Lost) -> bool:
    return isinstance(event, Received)


def lost_reason(link: Link) -> LinkLost:
    until = time.monotonic() + WITHIN_S
    with pytest.raises(LinkLost) as error:
        while time.monotonic() < until:
            link.receive(0.5)
    return error.value


@pytest.mark.parametrize("secure", [True, False], ids=["curve", "insecure"])
def test_messages_go_both_ways_byte_for_byte(
    folder: Path, cleanup: ExitStack, secure: bool
) -> None:
    listener = listen(cleanup, load_keys(folder, "host-A") if secure else None)
    link = dial(
        cleanup, listener.address(), "watch-1", load_keys(folder, "watch-1") if secure else None
    )
    for data in (b"", b"x", bytes(range(256)) * 40, b"\0" * (1 << 20)):
        link.send(data)
        assert wait_for(listener, is_received) == [Received("watch-1", data)]
        assert listener.send("watch-1", data[::-1])
        assert link.receive(WITHIN_S) == data[::-1]
    total = 1 + 256 * 40 + (1 << 20)
    assert link.counters["bytes_sent"] == link.counters["bytes_received"] == total
    assert listener.counters["watch-1"]["bytes_sent"] == total
    assert listener.link_kind("watch-1") == "tcp"


def test_receive_gives_none_when_nothing_comes_in_time(folder: Path, cleanup: ExitStack) -> None:
    listener = listen(cleanup, None)
    link = dial(cleanup, listener.address(), "watch-1", None)
    assert link.receive(0.01) is None
    assert listener.poll(0.01) == []
    assert not listener.send("watch-1", b"never heard of")


def test_the_host_may_start_later(folder: Path, cleanup: ExitStack) -> None:
    probe = listen(ExitStack(), None)
    address = probe.address()
    probe.close()
    link = dial(cleanup, address, "watch-1", load_keys(folder, "watch-1"))
    for data in (b"early", b"early", b"early", b"end"):  # said again, it still arrives once
        link.send(data)
        assert link.receive(0.01) is None
    listener = listen(cleanup, load_keys(folder, "host-A"), address)
    found = wait_for(listener, lambda event: event == Received("watch-1", b"end"))
    assert found == [Received("watch-1", b"early"), Received("watch-1", b"end")]


def test_a_strangers_key_is_refused_and_told_so(
    folder: Path, cleanup: ExitStack, tmp_path: Path
) -> None:
    host = load_keys(folder, "host-A")
    listener = listen(cleanup, host)
    make_keys(tmp_path, ["watch-1"])
    (tmp_path / "host-A.public").write_text((folder / "host-A.public").read_text())
    link = dial(cleanup, listener.address(), "watch-1", load_keys(tmp_path, "watch-1"))
    link.send(b"let me in")
    error = lost_reason(link)
    assert error.refused and "refuses the key of watch-1" in error.reason
    assert listener.poll(0.2) == []
    assert listener.counters[""]["refused_keys"] == 1


def test_a_host_that_is_not_the_one_in_the_key_folder_is_not_believed(
    folder: Path, cleanup: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.runtime.zmq_link.JOIN_TIMEOUT", 0.5)
    make_keys(tmp_path, ["host-A"])
    (tmp_path / "watch-1.public").write_text((folder / "watch-1.public").read_text())
    listener = listen(cleanup, load_keys(tmp_path, "host-A"))
    link = dial(cleanup, listener.address(), "watch-1", load_keys(folder, "watch-1"))
    link.send(b"secret")
    assert "public key in the key folder is the right one" in lost_reason(link).reason
    assert listener.poll(0.05) == []


def test_nobody_there_is_told_after_the_join_time(
    cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.runtime.zmq_link.JOIN_TIMEOUT", 0.3)
    listener = listen(ExitStack(), None)
    listener.close()
    link = dial(cleanup, listener.address(), "watch-1", None)
    for _ in range(2):  # told again each time
        error = lost_reason(link)
        assert "nobody is there" in error.reason and not error.refused


@pytest.mark.parametrize("secure_host", [True, False])
def test_keys_at_one_end_only_join_nobody(
    folder: Path, cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch, secure_host: bool
) -> None:
    monkeypatch.setattr("seamline.runtime.zmq_link.JOIN_TIMEOUT", 0.5)
    listener = listen(cleanup, load_keys(folder, "host-A") if secure_host else None)
    link = dial(
        cleanup,
        listener.address(),
        "watch-1",
        None if secure_host else load_keys(folder, "watch-1"),
    )
    link.send(b"in clear")
    assert "--insecure" in lost_reason(link).reason
    assert listener.poll(0.05) == []


def test_a_paired_device_cannot_take_anothers_name(folder: Path, cleanup: ExitStack) -> None:
    """watch-2 holds a good key and claims the identity watch-1: it is heard as watch-2, and gets
    nothing of watch-1.
    """
    host = load_keys(folder, "host-A")
    listener = listen(cleanup, host)
    honest = dial(cleanup, listener.address(), "watch-1", load_keys(folder, "watch-1"))
    honest.send(b"I am watch-1")
    wait_for(listener, is_received)
    thief_keys = load_keys(folder, "watch-2")
    context = zmq.Context()
    cleanup.callback(context.destroy, 0)
    thief = context.socket(zmq.DEALER)
    thief.setsockopt(zmq.ROUTING_ID, b"watch-1")
    thief.curve_publickey, thief.curve_secretkey = (
        thief_keys.public.encode(),
        thief_keys.secret.encode(),
    )
    thief.curve_serverkey = host.public.encode()
    thief.connect(listener.address())
    thief.send(b"I am watch-1, too")
    assert wait_for(listener, is_received) == [Received("watch-2", b"I am watch-1, too")]
    assert listener.send("watch-1", b"for watch-1 only")
    assert honest.receive(WITHIN_S) == b"for watch-1 only"
    while thief.poll(100):
        assert thief.recv() == ping(link_module.PING)


def test_a_second_connection_of_a_name_takes_over_and_the_first_is_not_heard(
    folder: Path, cleanup: ExitStack
) -> None:
    listener = listen(cleanup, load_keys(folder, "host-A"))
    keys = load_keys(folder, "watch-1")
    old = dial(cleanup, listener.address(), "watch-1", keys)
    old.send(b"old")
    wait_for(listener, is_received)
    new = dial(cleanup, listener.address(), "watch-1", keys)
    new.send(b"new")
    wait_for(listener, is_received)
    old.send(b"ghost")
    new.send(b"newer")
    assert (
        wait_for(listener, is_received) == [Received("watch-1", b"newer")]
        or listener.poll(0.1) == []
    )
    assert listener.send("watch-1", b"hello")
    assert new.receive(WITHIN_S) == b"hello"


DEVICE = """
import sys
from seamline.runtime.keys import load_keys
from seamline.runtime.link import open_link
link = open_link(sys.argv[1], name="watch-1", keys=load_keys(sys.argv[2], "watch-1"))
link.send(b"hello")
while True:
    data = link.receive(60)
    if data is not None:
        link.send(data)
"""


@contextmanager
def device(address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", DEVICE, address, str(folder)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["SIGKILL", "SIGSTOP"])
def test_a_device_that_dies_or_stops_is_noticed_within_three_seconds(
    folder: Path, cleanup: ExitStack, kind: str
) -> None:
    listener = listen(cleanup, load_keys(folder, "host-A"))
    with device(listener.address(), folder) as process:
        wait_for(listener, is_received)
        process.send_signal(signal.Signals[kind])
        start = time.monotonic()
        assert wait_for(listener, is_lost)[-1].peer == "watch-1"
        assert time.monotonic() - start < 3.5  # 3 s, and what a busy machine adds
    assert not listener.send("watch-1", b"gone")
    with device(listener.address(), folder):  # started again, it is there again
        assert wait_for(listener, is_received) == [Received("watch-1", b"hello")]
        assert listener.send("watch-1", b"echo")
        assert wait_for(listener, is_received) == [Received("watch-1", b"echo")]


def test_a_host_that_goes_is_noticed_and_its_successor_found(
    folder: Path, cleanup: ExitStack
) -> None:
    keys = load_keys(folder, "host-A")
    first = listen(ExitStack(), keys)
    link = dial(cleanup, first.address(), "watch-1", load_keys(folder, "watch-1"))
    link.send(b"hello")
    wait_for(first, is_received)
    first.send("watch-1", b"last words")
    first.close()
    assert link.receive(WITHIN_S) == b"last words"
    start = time.monotonic()
    assert "is lost" in lost_reason(link).reason
    assert time.monotonic() - start < 3.0
    link.send(b"hello again")
    second = listen(cleanup, keys, first.address())
    assert wait_for(second, is_received) == [Received("watch-1", b"hello again")]
    assert link.counters["losses"] == 1


def test_a_host_that_computes_for_long_is_not_taken_for_dead(
    folder: Path, cleanup: ExitStack
) -> None:
    """The host looks at its listener only after 3.5 s; libzmq's own thread kept the connection."""
    listener = listen(cleanup, load_keys(folder, "host-A"))
    link = dial(cleanup, listener.address(), "watch-1", load_keys(folder, "watch-1"))
    link.send(b"one")
    assert link.receive(3.5) is None
    link.send(b"two")
    found = wait_for(listener, lambda event: event == Received("watch-1", b"two"))
    assert found == [Received("watch-1", b"one"), Received("watch-1", b"two")]


def test_pings_stay_inside_the_link(folder: Path, cleanup: ExitStack) -> None:
    listener = listen(cleanup, None)
    link = dial(cleanup, listener.address(), "watch-1", None)
    link.send(b"hello")
    wait_for(listener, is_received)
    listener._ping_all()
    listener._ping_all()
    assert link.receive(0.2) is None
    assert listener.poll(0.2) == []
    assert listener._unanswered["watch-1"] == 0


def test_a_message_over_the_limit_is_refused_here_and_cut_off_there(
    folder: Path, cleanup: ExitStack
) -> None:
    host, keys = load_keys(folder, "host-A"), load_keys(folder, "watch-1")
    listener = listen(cleanup, host)
    link = dial(cleanup, listener.address(), "watch-2", load_keys(folder, "watch-2"))
    with pytest.raises(ValueError, match="at most 16777216"):
        link.send(bytes((16 << 20) + 1))
    with pytest.raises(ValueError, match="at most 16777216"):
        listener.send("watch-2", bytes((16 << 20) + 1))
    context = zmq.Context()
    cleanup.callback(context.destroy, 0)
    rude = context.socket(zmq.DEALER)
    rude.curve_publickey, rude.curve_secretkey = keys.public.encode(), keys.secret.encode()
    rude.curve_serverkey = host.public.encode()
    monitor = rude.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    rude.connect(listener.address())
    rude.send(bytes(17 << 20))
    assert monitor.poll(5000)
    rude.disable_monitor()
    monitor.close(0)
    link.send(bytes(16 << 20))  # the largest goes through, and others are served on
    assert len(wait_for(listener, is_received)[0].data) == 16 << 20


def test_messages_of_odd_shape_are_dropped_and_counted(cleanup: ExitStack) -> None:
    listener = listen(cleanup, None)
    context = zmq.Context()
    cleanup.callback(context.destroy, 0)
    for identity, frames in (
        (b"a", [b"1", b"2"]),
        (b"\xff\xfe", [b"x"]),
        (b"a\x01", [b"x"]),
        (None, [b"unnamed"]),
    ):
        socket = context.socket(zmq.DEALER)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(listener.address())
        socket.send_multipart(frames)
    until = time.monotonic() + WITHIN_S
    while listener.counters[""]["dropped"] < 4:
        assert listener.poll(0.05) == [] and time.monotonic() < until


def test_a_device_that_reads_nothing_counts_as_lost_and_stops_nobody(cleanup: ExitStack) -> None:
    listener = listen(cleanup, None)
    stuck = dial(cleanup, listener.address(), "stuck", None)
    stuck.send(b"hello")
    wait_for(listener, is_received)
    sent = 0
    while listener.send("stuck", bytes(1 << 20)):
        sent += 1
        assert sent < 1000
    assert listener.poll(0) == [Lost("stuck", "it takes no more messages")]


def test_an_address_in_use_is_named(cleanup: ExitStack) -> None:
    listener = listen(cleanup, None)
    with pytest.raises(
        LinkError, match=rf"{listener.address()} is in use by another program: stop it"
    ) as error:
        open_listener(listener.address(), {}, name="host-A", keys=None)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("tcp://192.0.2.1:5700", "is not an address of this machine"),
        ("tcp://127.0.0.1:99999", "expected tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "expected tcp://HOST:PORT"),
        ("ipc:///tmp/x", "expected tcp://HOST:PORT"),
    ],
)
def test_an_address_nobody_can_listen_on_is_a_clear_error(address: str, text: str) -> None:
    with pytest.raises(LinkError, match=text):
        open_listener(address, {}, name="host-A", keys=None)


def test_an_unknown_form_of_address_is_a_clear_error() -> None:
    with pytest.raises(LinkError, match="is no link address"):
        open_link("udp://x:1", name="a", keys=None)


def test_a_running_host_takes_added_forgotten_and_replaced_keys(
    cleanup: ExitStack, tmp_path: Path
) -> None:
    here, there = tmp_path / "host", tmp_path / "device"
    make_keys(here, ["host-A"])
    make_keys(there, ["watch-1"])
    add_peer(there, "host-A", load_keys(here, "host-A").public)
    listener = listen(cleanup, load_keys(here, "host-A"))
    link = dial(cleanup, listener.address(), "watch-1", load_keys(there, "watch-1"))
    assert lost_reason(link).refused
    add_peer(here, "watch-1", load_keys(there, "watch-1").public)
    link.send(b"now known")
    assert link.receive(1.5) is None  # it knocks again after a second
    assert wait_for(listener, is_received) == [Received("watch-1", b"now known")]

    forget_key(here, "watch-1")
    lost = wait_for(listener, is_lost)
    assert lost == [Lost("watch-1", "its key is in the key folder no more")]
    link.send(b"forgotten")
    until = time.monotonic() + WITHIN_S
    while listener.counters[""]["dropped"] == 0:
        assert listener.poll(0.05) == [] and time.monotonic() < until
    assert not listener.send("watch-1", b"for nobody")
    again = dial(cleanup, listener.address(), "watch-1", load_keys(there, "watch-1"))
    assert lost_reason(again).refused

    rotate_key(there, "watch-1")
    add_peer(here, "watch-1", load_keys(there, "watch-1").public)
    assert listener.poll(0.3) == []  # it looks at the folder at most every 0.2 s
    new = dial(cleanup, listener.address(), "watch-1", load_keys(there, "watch-1"))
    new.send(b"with a new key")
    link.send(b"with the old one")
    assert wait_for(listener, is_received) == [Received("watch-1", b"with a new key")]
    assert listener.poll(0.2) == []


def test_a_connection_that_was_silent_until_its_key_was_forgotten_is_not_heard(
    cleanup: ExitStack, tmp_path: Path
) -> None:
    make_keys(tmp_path, ["host-A", "watch-1"])
    listener = listen(cleanup, load_keys(tmp_path, "host-A"))
    link = dial(cleanup, listener.address(), "watch-1", load_keys(tmp_path, "watch-1"))
    assert link.receive(0.5) is None  # it has come in
    rotate_key(tmp_path, "watch-1")
    assert listener.poll(1.5) == []
    link.send(b"with the old key")
    until = time.monotonic() + WITHIN_S
    while listener.counters[""]["dropped"] == 0:
        assert listener.poll(0.05) == [] and time.monotonic() < until


def test_a_missing_host_key_says_which(folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path, ["watch-1"])
    with pytest.raises(UserError, match=r"0 keys host-\*\.public"):
        open_link("tcp://127.0.0.1:5700", name="watch-1", keys=load_keys(tmp_path, "watch-1"))
    make_keys(tmp_path, ["host-A"])
    with pytest.raises(UserError, match=r"no key for 'cloud': copy cloud\.public"):
        open_link("tcp://127.0.0.1:5700", name="host-A", keys=load_keys(tmp_path, "host-A"))


def test_a_gate_that_lets_strangers_in_is_noticed_at_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = zmq_link._Gate._answer
    monkeypatch.setattr(
        zmq_link._Gate,
        "_answer",
        lambda self, request: [*answer(self, request)[:2], b"200", b"OK", b"all", b""],
    )
    with pytest.raises(LinkError, match="does not refuse a stranger's key"):
        open_listener(LOCAL, {}, name="host-A", keys=load_keys(folder, "host-A"))


def test_both_ends_tell_how_the_way_between_them_does(
    cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq_link, "_PING_S", 0.05)
    listener = listen(cleanup, None)
    assert listener.peers() == []
    link = open_link(listener.address(), name="watch-1", keys=None)
    (host,) = link.peers()
    assert (host.name, host.link, host.state) == ("edge host", "tcp", "waiting")
    link.send(b"hello")
    until = time.monotonic() + 10.0
    while not (link.peers()[0].counters["rtt_us"] and listener.peers()):
        assert time.monotonic() < until
        listener.poll(0.02)
        link.receive(0.02)
    while not listener.peers()[0].counters["rtt_us"]:
        assert time.monotonic() < until
        listener.poll(0.02)
        link.receive(0.02)
    (device,), (host,) = listener.peers(), link.peers()
    assert (device.name, device.link, device.state) == ("watch-1", "tcp", "joined")
    assert host.state == "joined"
    assert (device.counters["messages_received"], device.counters["bytes_received"]) == (1, 5)
    assert 0 < device.counters["rtt_us"] < 5_000_000
    link.close()
    while listener.peers()[0].state != "lost":
        assert time.monotonic() < until
        listener.poll(0.1)
    (device,) = listener.peers()
    assert device.reason and device.counters["losses"] == 1


def test_an_answer_to_a_ping_of_an_earlier_way_times_nothing() -> None:
    trip = zmq_link._RoundTrip()
    trip.begin()
    trip.forget()
    trip.end()
    assert trip.us == 0 and not trip.waits
