"""`run_host` on real links of this machine: a whole job, a stop, a cloud that is not there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from seamline.edge_host.host import run_host
from seamline.runtime.errors import UserError
from seamline.runtime.link import LinkLost, Received, open_link, open_listener
from seamline.runtime.status import read_status

WITHIN_S = 30.0  # far more than anything here takes; only a hang reaches it
LOCAL = "tcp://127.0.0.1:*"


class Threads:
    """A cloud and devices on links of their own, each in a thread, until `close`."""

    def __init__(self, here: Any) -> None:
        self.here, self.over = here, threading.Event()
        self.events: list[dict[str, Any]] = []
        self.news = threading.Condition()
        self.threads: list[threading.Thread] = []
        self.cloud_link = open_listener(LOCAL, {}, name="cloud", keys=None)
        here.job.cloud.address = self.cloud_link.address()
        here.job.zones[0].address = LOCAL

    def emit(self, event: dict[str, Any]) -> None:
        with self.news:
            self.events.append(event)
            self.news.notify_all()
        if event["event"] == "listening":
            for name, device in self.here.devices.items():
                self.start(lambda n=name, d=device: self.device(n, d, event["address"]))

    def wait_for(self, name: str) -> None:
        with self.news:
            seen = self.news.wait_for(
                lambda: any(event["event"] == name for event in self.events), WITHIN_S
            )
        assert seen, f"{name} was not seen; only {self.events}"

    def start(self, work: Callable[[], object]) -> threading.Thread:
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        return self.threads[-1]

    def cloud(self) -> None:
        while not self.over.is_set():
            for event in self.cloud_link.poll(0.05):
                if isinstance(event, Received):
                    for answer in self.here.cloud.receive(event.data):
                        self.cloud_link.send(event.peer, answer)

    def device(self, name: str, device: Any, address: str) -> None:
        link = open_link(address, name=name, keys=None)
        link.send(device.hello())
        try:
            while not self.over.is_set():
                data = link.receive(0.05)
                for answer in device.receive(data) if data else []:
                    link.send(answer)
        except LinkLost:  # the host has ended
            return
        finally:
            link.close()

    def close(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(WITHIN_S)
        self.cloud_link.close()
        assert not any(thread.is_alive() for thread in self.threads)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_job_on_real_links_gives_the_bits_of_one_in_virtual_time(
    world: Callable[..., Any], cleanup: ExitStack
) -> None:
    virtual = world(name="virtual")
    virtual.run()
    here = world(name="real")
    threads = Threads(here)
    cleanup.callback(threads.close)
    threads.start(threads.cloud)
    assert run_host(here.job, "A", insecure=True, emit=threads.emit) == 0
    names = [event["event"] for event in threads.events]
    assert names[0] == "listening" and names[-1] == "done"
    assert names.count("joined") == 3 and "left" not in names and "cloud_lost" not in names
    assert {e["link"] for e in threads.events if e["event"] == "joined"} == {"tcp"}
    links = [(event["peer"], event["link"]) for event in threads.events if event["event"] == "link"]
    each_round = [("cloud", "tcp"), ("d0", "tcp"), ("d1", "tcp"), ("d2", "tcp")]
    assert links == here.job.train.cloud_rounds * each_round
    (status,) = read_status(here.job.out)
    assert status.state == "ended" and [row.peer for row in status.peers][1:] == ["d0", "d1", "d2"]
    assert all(row.messages_sent and row.messages_received for row in status.peers)
    assert here.cloud.report is not None  # it arrived although the host ended at once
    assert here.fingerprint() == virtual.fingerprint()


def test_a_stop_ends_the_host_at_once(world: Callable[..., Any], cleanup: ExitStack) -> None:
    here = world(cloud_rounds=1000)
    threads, stop = Threads(here), threading.Event()
    cleanup.callback(threads.close)
    threads.start(threads.cloud)
    cleanup.callback(stop.set)
    ended: list[int] = []
    host = threads.start(
        lambda: ended.append(run_host(here.job, "A", insecure=True, emit=threads.emit, stop=stop))
    )
    threads.wait_for("round")
    stop.set()
    host.join(5.0)
    assert ended == [0]


def test_a_cloud_that_does_not_answer_is_told_of_and_waited_for(
    world: Callable[..., Any], cleanup: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamline.runtime.zmq_link.JOIN_TIMEOUT", 0.3)
    here = world(absent=("d0", "d1", "d2"))
    threads, stop = Threads(here), threading.Event()
    threads.cloud_link.close()
    cleanup.callback(stop.set)
    host = threads.start(
        lambda: run_host(here.job, "A", insecure=True, emit=threads.emit, stop=stop)
    )
    threads.wait_for("cloud_lost")
    threads.wait_for("link")
    stop.set()
    host.join(5.0)
    assert not host.is_alive()


def test_a_port_in_use_is_one_clear_error(world: Callable[..., Any], cleanup: ExitStack) -> None:
    here = world(absent=("d0", "d1", "d2"))
    taken = open_listener(LOCAL, {}, name="host-A", keys=None)
    cleanup.callback(taken.close)
    here.job.zones[0].address = taken.address()
    with pytest.raises(UserError) as caught:
        run_host(here.job, "A", insecure=True, emit=lambda event: None)
    assert caught.value.exit_code == 4


def test_a_missing_key_is_one_clear_error(world: Callable[..., Any]) -> None:
    here = world(absent=("d0", "d1", "d2"))
    here.job.keys.folder = here.job.out
    with pytest.raises(UserError) as caught:
        run_host(here.job, "A", emit=lambda event: None)
    assert caught.value.exit_code == 3
