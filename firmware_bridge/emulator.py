"""A device's image in the emulator: its UART is handed over as a socket, and it ends with us."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..runtime.errors import UserError
from . import image

_START_S = 10.0
_END_S = 5.0
_PR_SET_PDEATHSIG = 1
PORT_TAKEN = 4
_PATH_MOST = 250  # bytes; board_arguments has room for them and for what stands before


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


def command(
    board: image.Board, elf: Path, line: str, kept: Path | None, answers: Path | None = None
) -> list[str]:
    """What runs an image in the emulator. line: options of a socket, host and port among them;
    answers: a file that grows by what a person answers.
    """
    words = [] if kept is None else [f"kept={_kept_file(kept)}"]
    words += [] if answers is None else [f"answers={_word(answers, 'the temporary folder')}"]
    options = ["-chardev", f"socket,id=line,nodelay=on,{line}", "-serial", "chardev:line"]
    return [*image.emulator(board, elf, words), *options]


def _kept_file(path: Path) -> str:
    """The file in place of a board's flash; made where there is none. It holds keys."""
    text = _word(path.resolve(), "--kept")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise UserError(f"--kept {path}: {error.strerror}", 3) from None
    return text


def _word(path: Path, what: str) -> str:
    """One word for the image."""
    text = str(path)
    if len(text.encode()) > _PATH_MOST or " " in text:
        raise UserError(f"{what} {text}: expected at most {_PATH_MOST} bytes and no space in it", 2)
    return text


class Emulator:
    """One that runs an image from the start of a `with` block to its end at most.

    kept: a file for what the board keeps through a loss of power; None: it keeps nothing. Raises
    UserError: the emulator is not installed, cannot have the port, or the file cannot be written.
    """

    def __init__(
        self, board: image.Board, elf: Path, port: int = 0, kept: Path | None = None
    ) -> None:
        image.need([image.EMULATOR])
        self._answers = tempfile.TemporaryDirectory(prefix="seamline-")  # mode 0700
        self._answer = Path(self._answers.name) / "answers"
        self._answer.touch()
        self._early: list[str] = []
        self.port = port or free_port()
        self.address = f"socket://127.0.0.1:{self.port}"
        line = f"host=127.0.0.1,port={self.port},server=on,wait=off"
        self.process = subprocess.Popen(
            command(board, elf, line, kept, self._answer),
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

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _wait_for_port(self) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), _START_S).close()
                return
            except OSError:
                time.sleep(0.02)
        self._early = list(self.said()) if self.process.poll() is not None else []
        if self._early and not any(line.startswith(image.EMULATOR) for line in self._early):
            return  # it started, and the image has ended already
        said = " ".join(self._early) or "it says nothing"
        raise UserError(f"the emulator does not start with port {self.port}: {said}", PORT_TAKEN)

    def said(self) -> Iterator[str]:
        """What image and emulator print, line by line, until they have ended."""
        assert self.process.stdout is not None
        yield from self._early
        self._early = []
        for line in self.process.stdout:
            yield line.rstrip("\n")

    def answer(self, text: str) -> None:
        """What a person says to the image's question."""
        with self._answer.open("a") as file:
            file.write(f"{text.strip()}\n")

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
        self._answers.cleanup()
