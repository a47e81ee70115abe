"""A device's image in the emulator: its UART is handed over as a socket, and it ends with us."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ..runtime.errors import UserError
from . import image

_START_S = 10.0
_END_S = 5.0
_PR_SET_PDEATHSIG = 1
PORT_TAKEN = 4


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _tie() -> Callable[[], None] | None:
    """What a child does first, so that it ends when we are killed; None where there is no way."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return None if prctl is None else lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Emulator:
    """One that runs an image from the start of a `with` block to its end at most.

    Raises UserError: the emulator is not installed, or cannot have the port.
    """

    def __init__(self, board: image.Board, elf: Path, port: int = 0) -> None:
        lacking = image.missing([image.EMULATOR])
        if lacking:
            raise UserError(lacking, 7)
        self.port = port or free_port()
        self.address = f"socket://127.0.0.1:{self.port}"
        line = f"socket,id=line,host=127.0.0.1,port={self.port},server=on,wait=off,nodelay=on"
        command = [*image.emulator(board, elf), "-chardev", line, "-serial", "chardev:line"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_tie(),  # noqa: PLW1509 - one system call
        )

    def __enter__(self) -> Emulator:
        try:
            self._wait_for_port()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_for_port(self) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), _START_S).close()
                return
            except OSError:
                time.sleep(0.02)
        said = " ".join(self.said()) if self.process.poll() is not None else "it says nothing"
        raise UserError(f"the emulator does not start with port {self.port}: {said}", PORT_TAKEN)

    def said(self) -> Iterator[str]:
        """What image and emulator print, line by line, until they have ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.rstrip("\n")

    def wait(self, timeout_s: float | None = None) -> int:
        """The image's exit code. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
