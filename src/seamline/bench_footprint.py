"""What a link costs its ends, for `seamline bench link`: a handshake's bytes and time, code and
memory of a microcontroller, memory of a device's process on Linux.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .firmware_bridge import footprint, image
from .firmware_bridge.monocypher import MonocypherError
from .kernels._link import encode_body
from .runtime.handshake import DEVICE, HOST, Handshake
from .runtime.keys import load_keys, make_keys, new_secret, public_of, raw_key
from .runtime.link import Listener, Received, open_listener

Row = dict[str, Any]

DEVICE_NAME, HOST_NAME = "watch-1", "host-A"
HANDSHAKES = 20
ECHOES, ECHO_BYTES = 50, 16384
CHILD_S = 60.0
LINKS = ("none", "network", "serial", "sealed serial")

# A device's program and one link, which gives back what it takes. Memory in kB: before the link is
# loaded, and at the end.
CHILD = """
import json, sys
from pathlib import Path
import seamline.runtime.device
from seamline.runtime import link
from seamline.runtime.keys import load_keys

def taken():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))

kind, address, folder, count = sys.argv[1:]
before = taken()
if kind != "none":
    link.load_link(address)
    keys = load_keys(folder, "watch-1") if folder else None
    end = link.open_link(address, name="watch-1", keys=keys, host="host-A")
    end.send(bytes(24))
    for _ in range(int(count)):
        data = None
        while data is None:
            data = end.receive(1.0)
        end.send(data)
print(json.dumps([before, taken()]))
"""


# ---- handshakes ----


def handshake_rows() -> list[Row]:
    """Of a sealed line: KK (each end knows the other's key), XXpsk3 (pairing by a secret)."""
    return [_handshake(pattern) for pattern in ("KK", "XXpsk3")]


def _handshake(pattern: str) -> Row:
    """messages, bytes: of both ends on the line. ms: processor time of one end."""
    spent = []
    for _ in range(HANDSHAKES):
        ends = _ends(pattern)
        begin, bodies = time.process_time(), []
        while any(end.established is None for end in ends):
            for end, other in (ends, ends[::-1]):
                while (body := end.output(0)) is not None:
                    bodies.append(body)
                    other.input(body, 0)
        spent.append(time.process_time() - begin)
    framed = [encode_body(body + zlib.crc32(body).to_bytes(4, "little")) for body in bodies]
    return {
        "pattern": pattern,
        "messages": len(framed),
        "bytes": sum(map(len, framed)),
        "ms": round(min(spent) / 2 * 1000, 2),
    }


def _ends(pattern: str) -> tuple[Handshake, Handshake]:
    secrets = {name: new_secret() for name in (DEVICE_NAME, HOST_NAME)}
    public = {name: raw_key(public_of(secret)) for name, secret in secrets.items()}
    known = public.get if pattern == "KK" else None
    psk = None if pattern == "KK" else os.urandom(32)
    device, host = (
        Handshake(role, name, raw_key(secrets[name]), psk, known)
        for role, name in ((DEVICE, DEVICE_NAME), (HOST, HOST_NAME))
    )
    return device, host


# ---- a microcontroller ----


def flash_rows() -> list[Row]:
    """Bytes by part of a clear and of a sealed end; or a `note` why there are none."""
    if lacks := image.missing([image.COMPILER]):
        return [{"target": footprint.TARGET, "note": lacks}]
    rows: list[Row] = []
    for sealed in (False, True):
        row: Row = {"target": footprint.TARGET, "sealed": sealed}
        try:
            parts = footprint.footprint(sealed=sealed)
        except (MonocypherError, RuntimeError) as error:
            rows.append({**row, "note": str(error)})
            continue
        total = {what: sum(part[what] for part in parts.values()) for what in ("flash", "ram")}
        rows.append({**row, **total, "parts": parts})
    return rows


# ---- a process on Linux ----


def memory_rows() -> list[Row]:
    """process_mb: resident memory of a device's process with each link after messages each way;
    link_mb: what of it came with the link.
    """
    if not Path("/proc/self/status").exists():
        return [{"link": "network", "note": "this system does not say what a process takes"}]
    return [_memory(kind) for kind in LINKS]


def _memory(kind: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="seamline-") as folder:
        keys = "" if kind == "serial" else folder
        make_keys(folder, [HOST_NAME, DEVICE_NAME])
        with _host(kind, keys) as address:
            command = [sys.executable, "-c", CHILD, kind, address, keys, str(ECHOES)]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=CHILD_S,
                env=environment,
            )
    if done.returncode:
        return {"link": kind, "note": (done.stderr.strip().splitlines() or ["it ended"])[-1]}
    before, after = json.loads(done.stdout)
    return {
        "link": kind,
        "process_mb": round(after / 1024, 1),
        "link_mb": round((after - before) / 1024, 1),
    }


@contextmanager
def _host(kind: str, keys: str) -> Iterator[str]:
    """The other end, which sends a message for every one that comes; its address."""
    if kind == "none":
        yield ""
        return
    own = load_keys(keys, HOST_NAME) if keys else None
    with _cable() as cable:
        lines = {DEVICE_NAME: cable} if kind != "network" else {}
        network = "tcp://127.0.0.1:*" if kind == "network" else ""
        host, stop = open_listener(network, lines, name=HOST_NAME, keys=own), threading.Event()
        thread = threading.Thread(target=_serve, args=(host, stop))
        thread.start()
        try:
            yield host.address() or cable
        finally:
            stop.set()
            thread.join()
            host.close()


def _serve(host: Listener, stop: threading.Event) -> None:
    """Messages of a size that grows: memory that only some of them touch counts as well."""
    answers = 0
    while not stop.is_set():
        for event in host.poll(0.1):
            if isinstance(event, Received):
                answers += 1
                host.send(event.peer, b"SL\x01\x07" + bytes(ECHO_BYTES * answers // ECHOES))


@contextmanager
def _cable() -> Iterator[str]:
    """A socket that joins the two ends that connect to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_join, args=(server,), daemon=True)
        thread.start()
        yield f"socket://127.0.0.1:{server.getsockname()[1]}"


def _join(server: socket.socket) -> None:
    with suppress(OSError):  # closed: nobody wants the cable any more
        ends = [server.accept()[0], server.accept()[0]]
        for one, other in (ends, ends[::-1]):
            threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError), source, to:
        while data := source.recv(65536):
            to.sendall(data)
