"""Runs every tier of a job on this machine, each as a process; none of them outlives us."""

from __future__ import annotations

import copy
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from .emulate import Line, Networks, shape
from .events import Event
from .lifeline import parent_environment
from .runtime.config import (
    CLOUD,
    SERIAL,
    CloudSection,
    Job,
    ZoneSection,
    host_name,
    is_open_port,
    tier_names,
    write_toml,
)
from .runtime.errors import UserError
from .runtime.usb_port import USB

LINES = "lines"  # name of the process that holds pseudo-terminals and emulated networks
RESTARTS = 3  # times a tier that died by accident is started again
USER_ERRORS = range(2, 8)  # exit codes that a restart would not mend
GOODBYE_S = 0.5  # between SIGTERM and a second one
TERMINATE_S = 2.0  # between the first SIGTERM and SIGKILL
FAREWELL_S = 10.0  # devices may take this long to end after their edge host

TICK_S = 0.25  # an idle wait ends after this, so that a table can be drawn
LOG_LINES = 12  # shown of the log of a tier that failed
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Tier:
    """One process. log: where its stderr goes."""

    name: str
    arguments: list[str]
    log: Path
    after: tuple[str, ...] = ()  # tiers that must be listening before this one starts
    process: subprocess.Popen[bytes] | None = None
    pending: bytes = b""  # of its stdout, behind the last line break
    restarts: int = 0
    listening: bool = False
    leaving: bool = False  # it was told to end
    done: bool = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class LocalRun:
    """A context manager: starts the tiers on entry, ends all of them on exit.

    job: as read; free ports and pseudo-terminals are chosen here. search: folders where children
    look for modules. networks: what its lines follow. command: how a tier is started; the
    arguments of `seamline` are added.
    """

    job: Job
    insecure: bool = False
    search: list[str] = field(default_factory=list)
    networks: Networks = field(default_factory=Networks)
    command: list[str] = field(default_factory=lambda: [sys.executable, "-m", "seamline"])
    tiers: dict[str, Tier] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _reserved: list[socket.socket] = field(default_factory=list)
    _hosts_done: float | None = None  # when the last of cloud and edge hosts ended

    def __enter__(self) -> LocalRun:
        try:
            self._prepare()
            self._start_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    # ---- before the start ----

    def _prepare(self) -> None:
        folder = Path(self.job.out)
        self.networks.check(self.job)
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            (folder / "lines").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        local, self._reserved, cables = localise(self.job)
        self.lines, clouds = shape(local, cables, self.networks, self._reserve)
        if not self.insecure:
            from .runtime.keys import make_keys

            make_keys(self.job.keys.folder, tier_names(self.job))
        path = folder / "local-job.toml"
        path.write_text(write_toml(local), encoding="utf-8")
        self._build_boards()
        hosts = {zone.name: path for zone in local.zones}
        for zone, local.cloud.address in clouds.items():  # its own way to the cloud
            hosts[zone] = folder / f"local-job-{host_name(zone)}.toml"
            hosts[zone].write_text(write_toml(local), encoding="utf-8")
        self._list_tiers(str(path), local, hosts)

    def _reserve(self) -> str:
        """A tcp:// address of this machine that nobody else gets."""
        address, held = _free_port("tcp://127.0.0.1:0")
        self._reserved.append(held)
        return address

    def _build_boards(self) -> None:
        boards = [device.id for device in self.job.devices if device.board]
        if boards:
            from .firmware_command import build_board
        for id_ in boards:
            build_board(self.job, id_, _image(self.job, id_), insecure=self.insecure)

    def _list_tiers(self, job: str, local: Job, hosts: dict[str, Path]) -> None:
        clear = ["--insecure"] if self.insecure else []
        if self.lines:
            ends = [word for line in self.lines for word in ("--line", *line.ends)]
            traces = [word for line in self.lines for word in ("--trace", line.network)]
            self._add(LINES, ["link-proxy", *ends, *traces, "--seed", str(local.seed)])
        self._add(CLOUD, ["cloud", job, *clear])
        for board in (d for d in local.devices if d.board):
            elf, port = _image(self.job, board.id), board.link.rpartition(":")[2]
            self._add(board.id, ["firmware", "run", str(elf), "--port", port])
        for zone in self.job.zones:
            wired = [d.id for d in self.job.devices if d.board and d.zone == zone.name]
            after = (*([LINES] if self.lines else []), *wired)
            arguments = ["host", str(hosts[zone.name]), "--zone", zone.name, *clear]
            self._add(host_name(zone.name), arguments, after)
        for device in (d for d in self.job.devices if not d.board):
            arguments = ["device", job, "--id", device.id, *clear]
            self._add(device.id, arguments, (host_name(device.zone),))

    def _add(self, name: str, arguments: list[str], after: tuple[str, ...] = ()) -> None:
        log = Path(self.job.out) / "logs" / f"{name}.log"
        log.write_bytes(b"")
        self.tiers[name] = Tier(name, [*arguments, "--format", "json"], log, after)

    # ---- processes ----

    def _start_ready(self) -> None:
        """Starts the tiers whose turn has come; who calls too early waits longer than it must."""
        for tier in self.tiers.values():
            if tier.process is None and all(self.tiers[name].listening for name in tier.after):
                self._start(tier)

    def _start(self, tier: Tier) -> None:
        tier.pending = b""
        with tier.log.open("ab") as log:
            tier.process = subprocess.Popen(
                [*self.command, *tier.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C reaches us alone; we end the others
            )
        assert tier.process.stdout is not None
        os.set_blocking(tier.process.stdout.fileno(), False)
        self._selector.register(tier.process.stdout, selectors.EVENT_READ, tier)

    def _environment(self) -> dict[str, str]:
        base = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
        search = [*filter(None, [base.get("PYTHONPATH", "")]), *self.search]
        if search:
            base["PYTHONPATH"] = os.pathsep.join(search)
        return parent_environment(base)

    def events(self) -> Iterator[tuple[str, Event]]:
        """(tier, event) as they come, and ("", {}) at least every TICK_S, until all are done.

        Raises UserError when a tier fails for good.
        """
        while not self._finished():
            ready = self._selector.select(TICK_S)
            for key, _ in ready:
                yield from self._read(key.data)
            self._start_ready()
            yield "", {}
        yield from self._last_of_lines()

    def _last_of_lines(self) -> Iterator[tuple[str, Event]]:
        """The proxy ends last, and says what its lines have carried."""
        tier = self.tiers.get(LINES)
        if tier is None or tier.process is None or tier.done:
            return
        tier.leaving = True
        tier.process.terminate()
        until = time.monotonic() + TERMINATE_S
        while not tier.done and time.monotonic() < until:
            for key, _ in self._selector.select(TICK_S):
                yield from self._read(key.data)

    def _finished(self) -> bool:
        now = time.monotonic()
        wanted = [t for t in self.tiers.values() if t.name != LINES and not t.done]
        if all(tier.name in {d.id for d in self.job.devices} for tier in wanted):
            self._hosts_done = self._hosts_done or now
            return not wanted or now - self._hosts_done > FAREWELL_S
        return False

    def _read(self, tier: Tier) -> Iterator[tuple[str, Event]]:
        process = tier.process
        assert process is not None and process.stdout is not None
        try:
            data = os.read(process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return
        *lines, tier.pending = (tier.pending + data).split(b"\n")
        for line in lines:
            event = _parse(line)
            tier.listening = tier.listening or event.get("event") == "listening"
            event = self._of_lines(event) if tier.name == LINES else event
            yield tier.name, event
        if not data:
            yield from self._ended(tier, process)

    def _of_lines(self, event: Event) -> Event:
        """What lines with a network carried, by the names of their devices and edge hosts."""
        traffic = event if event.get("event") == "traffic" else event.get("traffic")
        if not traffic:
            return event
        lines = {
            line.name: {"network": line.network, **carried}
            for line, carried in zip(self.lines, traffic["lines"], strict=True)
            if carried
        }
        return {"event": "traffic", "seconds": traffic["seconds"], "lines": lines}

    def _ended(self, tier: Tier, process: subprocess.Popen[bytes]) -> Iterator[tuple[str, Event]]:
        """A tier has closed its stdout: it is done, it failed, or it is started again."""
        self._forget(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERMINATE_S)
        code = _kill(process)
        if code == 0 or tier.leaving:
            tier.done = True
            return
        if code in USER_ERRORS:
            raise UserError(f"{tier.name}: {_last_error(tier.log)}", code)
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if tier.restarts >= RESTARTS:
            said = "\n".join(["", *_tail(tier.log)])
            raise UserError(
                f"{tier.name} died {tier.restarts + 1} times, at last by {reason}; "
                f"{tier.log} ends:{said}",
                1,
            )
        tier.restarts += 1
        self._start(tier)
        numbers = {"number": tier.restarts, "most": RESTARTS}
        yield tier.name, {"event": "restarted", "tier": tier.name, "reason": reason, **numbers}

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._selector.unregister(process.stdout)
        process.stdout.close()

    def stop(self) -> None:
        """Ends what still runs: SIGTERM to all, SIGKILL to those that live after TERMINATE_S."""
        with _ignoring(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            running = [t.process for t in self.tiers.values() if t.process is not None]
            _end_all(running)
            for process in running:
                if process.stdout is not None:
                    process.stdout.close()
            self._selector.close()
            for reserved in self._reserved:
                reserved.close()


def _end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM; to those that say goodbye slowly a second one, which ends at once; then SIGKILL."""
    for wait in (GOODBYE_S, TERMINATE_S - GOODBYE_S):
        for process in processes:
            if process.poll() is None:
                process.terminate()
        end = time.monotonic() + wait
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    for process in processes:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.kill()
    return process.wait()


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    return {"event": "note", "text": line.decode(errors="replace")}


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:]


def _last_error(log: Path) -> str:
    """What a tier said when it gave up, without the word `error:`."""
    for line in reversed(_tail(log)):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return f"failed; see {log}"


# ---- ports and lines of this machine ----


def localise(job: Job) -> tuple[Job, list[socket.socket], dict[str, tuple[str, str]]]:
    """The job with every open choice made: (job, sockets that hold its ports, pairs of paths by
    device).

    Port 0 becomes a free one, held by a socket that is bound but does not listen, so that nobody
    else gets it. A serial line whose ports are not here becomes a pair of pseudo-terminals, to be
    made by `seamline link-proxy`. An emulated board's line is a socket.
    """
    job = copy.deepcopy(job)
    reserved: list[socket.socket] = []
    places: list[CloudSection | ZoneSection] = [job.cloud, *job.zones]
    for section in places:
        if is_open_port(section.address):
            section.address, held = _free_port(section.address)
            reserved.append(held)
    cables = {}
    for device in job.devices:
        if device.board:
            address, held = _free_port("tcp://127.0.0.1:0")
            device.link = device.host_link = f"socket://{address.removeprefix('tcp://')}"
            reserved.append(held)
        elif device.host_link and not (_is_port(device.host_link) and _is_port(device.link)):
            ends = [f"{job.out}/lines/{device.id}.{end}" for end in ("device", "host")]
            baud = _baud(device.host_link)
            device.link, device.host_link = (f"serial:{path}:{baud}" for path in ends)
            cables[device.id] = (ends[0], ends[1])
    return job, reserved, cables


def _image(job: Job, device_id: str) -> Path:
    return Path(job.out) / f"{device_id}.elf"


def _free_port(address: str) -> tuple[str, socket.socket]:
    host = address.removeprefix("tcp://").rpartition(":")[0]
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host.strip("[]").replace("*", "0.0.0.0"), 0))
    except OSError as error:
        held.close()
        raise UserError(f"no port is free on {address}: {error.strerror}", 4) from None
    return f"tcp://{host}:{held.getsockname()[1]}", held


def _is_port(address: str) -> bool:
    """Is a real serial port (or a socket) there, not a pseudo-terminal left by an earlier run?"""
    found = SERIAL.fullmatch(address)
    if found is None:
        return bool(address)
    if found[1].startswith(USB):
        return True
    path = Path(found[1])
    return path.exists() and not str(path.resolve()).startswith("/dev/pts/")


def _baud(address: str) -> str:
    found = SERIAL.fullmatch(address)
    return found[2] if found else "921600"


# ---- signals ----


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave by an exception, so that each `with` ends what it started."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    kinds = (signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, leave) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def _ignoring(*kinds: signal.Signals) -> Iterator[None]:
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread: signals do not come here
        before = {kind: signal.signal(kind, signal.SIG_IGN) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
