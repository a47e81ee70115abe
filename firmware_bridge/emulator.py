"""An image in the emulator while a host talks to it: the board's line is a TCP socket."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .image import Board, emulator

LOCAL = "127.0.0.1"


@dataclass
class Running:
    """address: of the board's line. The emulator ends with `serve`."""

    address: str
    process: subprocess.Popen[str]

    def wait(self, timeout_s: float | None = None) -> int:
        """The image's exit code. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout_s)

    def said(self) -> str:
        """What the image or the emulator has printed; once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read().strip()


@contextlib.contextmanager
def serve(board: Board, image: Path, port: int = 0) -> Iterator[Running]:
    """Runs the image; its line waits at `port` of this machine, 0: at a free one."""
    port = port or _free_port()
    line = f"socket,id=line,host={LOCAL},port={port},server=on,wait=off,nodelay=on"
    command = [*emulator(board, image), "-chardev", line, "-serial", "chardev:line"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Running(f"socket://{LOCAL}:{port}", process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOCAL, 0))
        return int(found.getsockname()[1])
