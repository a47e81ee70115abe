"""A zone of a hundred devices with keys: the real edge host trains with them on real links."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamline.edge_host.host import run_host
from seamline.runtime.ends import Ends
from seamline.runtime.keys import Keys, load_keys, make_keys
from seamline.runtime.link import Received, open_listener

WITHIN_S = 60.0  # several times what it takes; only a hang reaches it
LOCAL = "tcp://127.0.0.1:*"
SIZES = {f"d{number:02}": 6 for number in range(100)}


def keys_of(folder: Path, names: list[str]) -> dict[str, Keys]:
    """Of each device; load_keys would read the whole folder for each."""
    peers = load_keys(folder, "host-A").peers
    host = {"host-A": (folder / "host-A.public").read_text().split()[-1]}
    secrets = {name: (folder / f"{name}.secret").read_text().split()[-1] for name in names}
    return {name: Keys(name, secrets[name], peers[name], host) for name in names}


def serve_cloud(here: Any, listener: Any, over: threading.Event) -> None:
    while not over.is_set():
        for event in listener.poll(0.05):
            if isinstance(event, Received):
                for answer in here.cloud.receive(event.data):
                    listener.send(event.peer, answer)


def serve_devices(here: Any, keys: dict[str, Keys], address: str, over: threading.Event) -> None:
    ends = Ends(address, keys)
    for name, device in here.devices.items():
        ends.send(name, device.hello())
    while not over.is_set():
        for name, data in ends.poll(0.05):
            for answer in here.devices[name].receive(data) if isinstance(data, bytes) else []:
                ends.send(name, answer)
    ends.close()


def test_a_hundred_devices_with_keys_train_together_to_the_bits_of_virtual_time(
    world: Callable[..., Any], tmp_path: Path
) -> None:
    train = {"edge_rounds": 2, "evaluate_every": 0}
    virtual = world(name="virtual", devices=SIZES, **train)
    virtual.run()
    here = world(name="real", devices=SIZES, **train)
    folder = tmp_path / "keys"
    make_keys(folder, ["cloud", "host-A", *SIZES])
    here.job.keys.folder = str(folder)
    keys = keys_of(folder, list(SIZES))
    cloud = open_listener(LOCAL, {}, name="cloud", keys=load_keys(folder, "cloud"))
    here.job.cloud.address = cloud.address()
    events: list[dict[str, Any]] = []
    over = threading.Event()
    threads = [threading.Thread(target=serve_cloud, args=(here, cloud, over))]

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "listening":
            threads.append(
                threading.Thread(target=serve_devices, args=(here, keys, event["address"], over))
            )
            threads[-1].start()

    threads[0].start()
    guard = threading.Timer(WITHIN_S, over.set)
    guard.start()
    try:
        assert run_host(here.job, "A", emit=emit, stop=over) == 0
    finally:
        guard.cancel()
        over.set()
        for thread in threads:
            thread.join(WITHIN_S)
        cloud.close()
    names = [event["event"] for event in events]
    assert names.count("joined") == 100 and "left" not in names and "late" not in names
    assert names[-1] == "done"
    assert here.fingerprint() == virtual.fingerprint()
