"""`seamline pair`: the two ends of a cable learn each other's key, by a secret or by a code that
people compare.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import select
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .keys_command import has_terminal
from .runtime.config import CLOUD, Job, find_device, find_zone, host_name, is_line
from .runtime.errors import UserError
from .runtime.handshake import DEVICE, HOST
from .runtime.key_folder import add_peer, clash
from .runtime.keys import check_name, fingerprint, load_keys, make_keys
from .runtime.pairing import (
    NOT_WRITTEN,
    OTHER_KEY,
    OTHER_NAME,
    Pairing,
    make_secret_file,
    read_secret_file,
)

_HOST = host_name("")
_CHUNK = 4096


class Line(Protocol):
    """An open byte line."""

    fd: int

    def close(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """Who we are, whom we may meet, and where. allowed: names; None: any name of the other role."""

    folder: Path
    own: str
    allowed: list[str] | None
    line: str

    @property
    def is_host(self) -> bool:
        return self.own.startswith(_HOST)


def run_new_secret(args: argparse.Namespace) -> int:
    """`--new-secret FILE`: nothing else is done."""
    path = Path(args.new_secret)
    make_secret_file(path)
    text = f"wrote {path} (mode 0600); take it to both ends: `seamline pair .. --secret-file FILE`"
    _tell(args, {"path": str(path)}, text)
    return 0


def run_pair(args: argparse.Namespace, job: Job | None) -> int:
    """job: None when args.where is a key folder."""
    plan = _plan(args, job)
    secret = read_secret_file(Path(args.secret_file)) if args.secret_file else None
    if secret is None and args.yes:
        raise UserError(
            "--yes without --secret-file would trust whoever answers: compare the codes, or make a "
            "secret with `seamline pair --new-secret FILE`"
        )
    if secret is None and not has_terminal():
        raise UserError(
            "somebody has to compare two codes, and standard input is no terminal: pair with "
            "--secret-file FILE instead"
        )
    make_keys(plan.folder, [plan.own])
    try:
        return _pair(args, plan, secret)
    except KeyboardInterrupt:
        raise UserError("ended by Ctrl-C", 130) from None


# ---- who and where ----


def _plan(args: argparse.Namespace, job: Job | None) -> Plan:
    if not args.own:
        raise UserError("--as NAME is needed: which end is this, for example host-A or watch-3?")
    for name in (args.own, args.peer or args.own):
        check_name(name)
    if args.own == CLOUD:
        raise UserError("a cable joins a device and its edge host; the cloud has none")
    plan = _plan_of_folder(args) if job is None else _plan_of_job(args, job)
    if args.peer and plan.allowed is not None and args.peer not in plan.allowed:
        raise UserError(f"--with {args.peer}: {plan.own} joins {', '.join(plan.allowed)} only")
    if args.peer and args.peer.startswith(_HOST) == plan.is_host:
        raise UserError(
            f"{plan.own} and {args.peer} are both {'edge hosts' if plan.is_host else 'devices'}: "
            "a cable joins a device and its edge host (whose name begins with host-)"
        )
    allowed = [args.peer] if args.peer else plan.allowed
    return Plan(plan.folder, plan.own, allowed, plan.line)


def _plan_of_folder(args: argparse.Namespace) -> Plan:
    if not args.line:
        raise UserError("--line is needed, for example --line serial:/dev/ttyACM0:921600")
    return Plan(Path(args.where), args.own, None, args.line)


def _plan_of_job(args: argparse.Namespace, job: Job) -> Plan:
    folder = Path(job.keys.folder)
    if args.own.startswith(_HOST):
        zone = find_zone(job, args.own.removeprefix(_HOST)).name
        devices = [device for device in job.devices if device.zone == zone]
        lines = {d.id: d.host_link for d in devices if d.host_link}
        names = [args.peer] if args.peer else list(lines)
        line = args.line or (lines.get(names[0], "") if len(names) == 1 else "")
        plan = Plan(folder, args.own, [device.id for device in devices], line)
    else:
        device = find_device(job, args.own)
        line = args.line or (device.link if is_line(device.link) else "")
        plan = Plan(folder, args.own, [host_name(device.zone)], line)
    if not plan.line:
        raise UserError(
            "--line is needed, for example --line serial:/dev/ttyACM0:921600: the job does not "
            f"name one line of {args.own}" + ("; or --with DEVICE" if plan.is_host else "")
        )
    return plan


# ---- the conversation ----


def _pair(args: argparse.Namespace, plan: Plan, secret: bytes | None) -> int:
    from .runtime.serial_link import open_port

    keys = load_keys(plan.folder, plan.own)

    def check(name: str, public: str) -> tuple[int, str] | None:
        if name.startswith(_HOST) == plan.is_host:
            role = "an edge host" if plan.is_host else "a device"
            return OTHER_NAME, f"the other end is {role}, too ({name}): one end is the host's"
        if plan.allowed is not None and name not in plan.allowed:
            expected = ", ".join(plan.allowed[:12])
            return OTHER_NAME, f"the other end is {name}, and {plan.own} expects {expected}"
        wrong = clash(plan.folder, name, public)
        return (OTHER_KEY, wrong) if wrong else None

    port = open_port(plan.line)
    _note(f"waiting for the other end on {plan.line} (up to {args.wait} s, Ctrl-C ends it)")
    until = _now() + 1000 * args.wait
    pairing = Pairing(keys, HOST if plan.is_host else DEVICE, check, secret, until)
    try:
        _talk(pairing, port, plan)
    except KeyboardInterrupt:
        pairing.stop("ended by Ctrl-C", exit_code=130)
        _say_goodbye(pairing, port)
    finally:
        port.close()
    return _end(args, pairing, plan)


def _talk(pairing: Pairing, port: Line, plan: Plan) -> None:
    """Move bytes, ask the user and write the key, until the pairing is over."""
    pending, asked = b"", False
    while not pairing.over:
        pending = (pending + pairing.output(_now()))[-_CHUNK:]
        if pairing.asking and not asked:
            _show(pairing, plan)
            asked = True
        keyboard = sys.stdin.fileno() if pairing.asking else -1
        inputs = [port.fd, *([keyboard] if pairing.asking else [])]
        wait = pairing.wait(_now()) / 1000
        readable, writable, _ = select.select(inputs, [port.fd] if pending else [], [], wait)
        try:
            if port.fd in readable:
                pairing.feed(_read(port), _now())
            if writable:
                pending = pending[_write(port, pending) :]
        except OSError:
            pairing.hung_up()
            return
        if keyboard in readable:
            words = os.read(keyboard, _CHUNK)
            pairing.answer(words.strip().lower() in (b"yes", b"y"))
        if pairing.may_store:
            _store(pairing, plan)
    _flush(port, pending)


def _say_goodbye(pairing: Pairing, port: Line) -> None:
    """The last words of a pairing that was ended here."""
    while not pairing.over:
        _flush(port, pairing.output(_now()))
        time.sleep(pairing.wait(_now()) / 1000)


def _read(port: Line) -> bytes:
    """Raises OSError: the line hung up."""
    try:
        data = os.read(port.fd, _CHUNK)
    except BlockingIOError:
        return b""
    if not data:
        raise OSError(errno.EIO, "the line hung up")
    return data


def _write(port: Line, data: bytes) -> int:
    try:
        return os.write(port.fd, data)
    except BlockingIOError:
        return 0


def _flush(port: Line, data: bytes) -> None:
    """What a line that moves takes in half a second."""
    until = time.monotonic() + 0.5
    with contextlib.suppress(OSError):  # gone: nobody hears it
        while data and time.monotonic() < until:
            if select.select([], [port.fd], [], 0.1)[1]:
                data = data[_write(port, data) :]


def _show(pairing: Pairing, plan: Plan) -> None:
    assert pairing.peer is not None
    own = load_keys(plan.folder, plan.own)
    _note(f"this end   {own.name}  {fingerprint(own.public)}")
    _note(f"other end  {pairing.peer.name}  {fingerprint(pairing.peer.public)}")
    _note(f"code       {pairing.peer.code}")
    with contextlib.suppress(termios.error):  # what was typed before the code was there
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    sys.stderr.write("Does the other end show the same code? Type yes or no: ")
    sys.stderr.flush()


def _store(pairing: Pairing, plan: Plan) -> None:
    assert pairing.peer is not None
    try:
        add_peer(plan.folder, pairing.peer.name, pairing.peer.public)
    except UserError as error:
        pairing.stop(str(error), exit_code=error.exit_code, reason=NOT_WRITTEN)
    else:
        pairing.has_stored(_now())


def _end(args: argparse.Namespace, pairing: Pairing, plan: Plan) -> int:
    peer = pairing.peer
    if pairing.trouble:
        kept = f"; {peer.name}.public is written here" if peer and pairing.stored else ""
        raise UserError(pairing.trouble + kept, pairing.exit_code)
    assert peer is not None
    path = plan.folder / f"{peer.name}.public"
    mark = fingerprint(peer.public)
    document = {"own": plan.own, "peer": peer.name, "fingerprint": mark, "path": str(path)}
    lines = [f"paired: {plan.own} and {peer.name} ({mark}) know each other's key ({path})"]
    if not pairing.confirmed:
        lines.append(f"{peer.name} said it would keep ours, but not that it has: look there")
    _tell(args, {**document, "confirmed": pairing.confirmed}, "\n".join(lines))
    return 0


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _tell(args: argparse.Namespace, document: object, text: str) -> None:
    sys.stdout.write((json.dumps(document) if args.format == "json" else text) + "\n")
    sys.stdout.flush()


def _now() -> int:
    return time.monotonic_ns() // 1_000_000
