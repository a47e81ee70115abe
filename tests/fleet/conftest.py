"""Real tiers as real processes on loopback, for the tests of a whole fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kills import free_port, write_waves

Event = dict[str, Any]


class Tier:
    """One seamline process; its events are read as they come."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        self.errors = (folder / f"{'-'.join(arguments[:1])}-{time.monotonic_ns()}.err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "seamline", *arguments, "--format", "json"],
            stdout=subprocess.PIPE,
            stderr=self.errors,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self.events: list[Event] = []
        self.news = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.news:
                self.events.append({**json.loads(line), "seen": time.monotonic()})
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def wait_for(
        self, wanted: Callable[[Event], bool], timeout: float = 60.0, after: int = 0
    ) -> Event:
        """The first wanted event from number `after` on; fails with what was seen instead."""
        end = time.monotonic() + timeout
        with self.news:
            while True:
                for event in self.events[after:]:
                    if wanted(event):
                        return event
                left = end - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self.reader.is_alive()):
                    pytest.fail(
                        f"not seen in {timeout} s; last events {self.events[-5:]}; {self.said()}"
                    )
                self.news.wait(min(left, 0.2))

    def said(self) -> str:
        self.errors.flush()
        return Path(self.errors.name).read_text()[-2000:]

    def kill(self) -> float:
        """SIGKILL; returns when."""
        now = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        return now

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Tier]]:
    """Starts `seamline ARGUMENTS`; everything started is ended with the test."""
    tiers: list[Tier] = []

    def starter(*arguments: str) -> Tier:
        tiers.append(Tier(*arguments, folder=tmp_path))
        return tiers[-1]

    yield starter
    for tier in tiers:
        tier.close()


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job of small devices, its data and keys; returns the job's path."""

    def write(
        zones: int = 1,
        devices: int = 2,
        serial: dict[str, tuple[str, str]] | None = None,
        mode: str = "split-v2",
        top: str = "",
        **train: Any,
    ) -> Path:
        settings = {"edge_rounds": 5, "cloud_rounds": 4, "evaluate_every": 2, **train}
        lines = [
            f'mode = "{mode}"',
            f'out = "{tmp_path / "out"}"',
            top,
            "[model]",
            'name = "watch"',
            f"exits = {[2] if mode == 'local-loss' else []}",
        ]
        lines += ["[train]", *(f"{k} = {json.dumps(v)}" for k, v in settings.items())]
        lines += ["[keys]", f'folder = "{tmp_path / "keys"}"']
        lines += ["[cloud]", f'address = "tcp://127.0.0.1:{free_port()}"']
        lines += ["[data]", f'source = "{tmp_path}/{{id}}.npz"']
        for zone in range(zones):
            name = chr(ord("A") + zone)
            lines += ["[[zones]]", f'name = "{name}"', f'address = "tcp://127.0.0.1:{free_port()}"']
            for number in range(devices):
                device = f"d{zone}{number}"
                write_waves(tmp_path / f"{device}.npz", seed=10 * zone + number)
                lines += ["[[devices]]", f'id = "{device}"', f'zone = "{name}"']
                if serial and device in serial:
                    lines += [f'link = "{serial[device][0]}"', f'host_link = "{serial[device][1]}"']
        path = tmp_path / "job.toml"
        path.write_text("\n".join(lines))
        subprocess.run(
            [sys.executable, "-m", "seamline", "keys", "new", str(path)], check=True, timeout=60
        )
        return path

    return write
