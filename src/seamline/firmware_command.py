"""`seamline firmware`: images of devices for microcontrollers, built, weighed and run."""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .firmware_bridge import device, image
from .firmware_bridge.emulator import Emulator
from .firmware_bridge.target import ELF, Target, find_target
from .runtime.config import Job, find_device, host_name
from .runtime.data import Data, device_data, load_data
from .runtime.errors import UserError
from .runtime.keys import load_keys, raw_key
from .runtime.link import host_of
from .runtime.pairing import read_secret_file

MISSING = 7  # exit code
QUESTION = "Does the other end show the same code?"  # of firmware_bridge/semihost.c
_LOOK_S = 0.2
_LINE_MOST = 256

WORDS = {
    "text": "code and constants",
    "data": "variables with a value",
    "bss": "variables",
    "samples": "samples",
    "arena": "arena",
    "message": "room for one message",
    "stack_most": "stack, at most",
    "stack": "left for the stack",
}
IN_FLASH = ("text", "data", "samples")
IN_RAM = ("data", "bss", "arena", "message", "stack_most", "stack")


# ---- build ----


def run_build(args: argparse.Namespace, job: Job) -> int:
    """Writes the image args.out. Raises UserError."""
    image.need([image.COMPILER])
    target = find_target(args.board)
    find_device(job, args.id)
    recipe = recipe_of(
        job, args.id, _samples(args, job), insecure=args.insecure, pairing=_pairing(args, job)
    )
    out = Path(args.out or Path(job.out) / "firmware" / f"{args.id}-{target.name}.elf")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", 3) from None
    found = device.build(recipe, target, out)
    if args.format == "json":
        sys.stdout.write(json.dumps({"image": str(out), **_document(target, found)}) + "\n")
        return 0
    _print_sizes(target, found)
    if recipe.keys is None:
        print(f"{out}: clear text, for a bench; its host needs --insecure")
    elif isinstance(recipe.keys, device.Keys):
        print(f"{out}: holds the secret key of {args.id}; only you can read it (mode 0600)")
    else:
        _print_pairing(args, job, out, recipe.keys)
    return 0


def _print_pairing(args: argparse.Namespace, job: Job, out: Path, pairing: device.Pairing) -> None:
    """What is to be done with an image that pairs."""
    what = "a pairing secret; only you can read it (mode 0600)" if pairing.secret else "no key"
    how = f" --secret-file {args.secret_file}" if pairing.secret else ""
    print(f"{out}: holds {what}")
    print(f"start it, then: seamline pair {args.job} --as {pairing.host} --with {args.id}{how}")
    folder = Path(job.keys.folder)
    if (folder / f"{args.id}.secret").exists():
        print(f"the key of {args.id} in {folder} is not that of the board: before they pair, "
              f"`seamline keys forget {folder} {args.id} --own`")  # fmt: skip


def _pairing(args: argparse.Namespace, job: Job) -> device.Pairing | None:
    """What the image pairs by. Raises UserError: options that contradict each other, no secret."""
    if not args.pair:
        if args.secret_file:
            raise UserError("--secret-file is what an image pairs by: give --pair, too")
        return None
    if args.insecure:
        raise UserError("--pair and --insecure: a line in clear text has no keys to pair for")
    secret = read_secret_file(Path(args.secret_file)) if args.secret_file else None
    return device.Pairing(host_name(find_device(job, args.id).zone), secret)


def recipe_of(
    job: Job,
    device_id: str,
    samples: Data | device.Sensor,
    *,
    insecure: bool,
    pairing: device.Pairing | None = None,
) -> device.Recipe:
    """What makes an image this device of the job; pairing: with no keys in it. Raises UserError."""
    from .edge_host.host import cut_model, make_plan

    keys: device.Keys | device.Pairing | None = pairing
    if keys is None and not insecure:
        keys = _keys(job, device_id, find_device(job, device_id).zone)
    plan = make_plan(job, cut_model(job))
    return device.Recipe(device_id, plan, samples, job.codec.up, job.codec.down, keys)


def build_board(job: Job, device_id: str, out: Path, *, insecure: bool) -> None:
    """The image of a device of the job whose `board` is emulated here. Raises UserError."""
    image.need([image.COMPILER, image.EMULATOR])
    target = find_target(find_device(job, device_id).board)
    if not target.board.machine:
        raise UserError(f"{device_id}: {target.name} cannot be emulated")
    recipe = recipe_of(job, device_id, device_data(job, device_id), insecure=insecure)
    device.build(recipe, target, out, device.shared_objects(target, recipe))


def _samples(args: argparse.Namespace, job: Job) -> Data | device.Sensor:
    """What the image holds, or where it takes it from. Raises UserError."""
    sensor = {"--training": args.training, "--tests": args.tests, "--range": args.range}
    if args.sensor is None:
        given = [name for name, value in sensor.items() if value is not None]
        if given:
            raise UserError(f"{given[0]} is of samples that a --sensor takes")
        return device.shortened(_linked(args, job), args.samples)
    if args.data is not None or args.samples is not None:
        raise UserError("--sensor: the board takes its samples itself; leave --data, --samples out")
    lacking = [name for name, value in sensor.items() if value is None]
    if lacking:
        raise UserError(f"--sensor needs {', '.join(lacking)}, too: what its samples are")
    least, most = args.range
    if not -math.inf < least < most < math.inf:
        raise UserError(f"--range {least} {most}: expected two numbers, the smaller one first")
    return device.Sensor(Path(args.sensor), args.training, args.tests, least, most)


def _linked(args: argparse.Namespace, job: Job) -> Data:
    if args.data is None:
        return device_data(job, args.id)
    if not args.data.endswith(".npz"):
        raise UserError(f"--data {args.data}: an .npz file is needed")
    return load_data(args.data, args.id, {})


def _keys(job: Job, device_id: str, zone: str) -> device.Keys:
    keys = load_keys(Path(job.keys.folder), device_id)
    host, public = host_of(keys, host_name(zone))
    return device.Keys(raw_key(keys.secret), host, raw_key(public))


# ---- size ----


def run_size(args: argparse.Namespace) -> int:
    """Prints what args.image takes. Raises UserError."""
    image.need([image.COMPILER])
    target = device.target_of(Path(args.image), args.board)
    found = device.sizes(Path(args.image))
    if args.format == "json":
        sys.stdout.write(json.dumps(_document(target, found)) + "\n")
    else:
        _print_sizes(target, found)
    return 0


def _document(target: Target, found: device.Sizes) -> dict[str, Any]:
    chip = target.chip
    flash, ram = found.flash, found.ram
    return {
        "board": target.name, **asdict(found), "flash": flash, "flash_of": chip.flash, "ram": ram,
        "ram_of": chip.ram,
    }  # fmt: skip


def _print_sizes(target: Target, found: device.Sizes) -> None:
    for key, value in asdict(found).items():
        where = " and ".join(["flash"] * (key in IN_FLASH) + ["RAM"] * (key in IN_RAM))
        print(f"{WORDS[key]:24} {value:>10,}  {where}")
    chip = target.chip
    print(f"{chip.title}: {found.flash:,} of {chip.flash:,} bytes of flash with the samples, "
          f"{found.ram:,} of {chip.ram:,} bytes of RAM without the stack")  # fmt: skip


# ---- run ----


def run_image(args: argparse.Namespace) -> int:
    """Runs args.image in the emulator until it ends. Returns 0, or 1 if it failed."""
    path = Path(args.image)
    target = device.target_of(path, args.board)
    if not target.board.machine:
        raise UserError(f"{target.name} has no emulator: `seamline firmware flash {path}`")
    if args.port and not 0 < args.port < 65536:
        raise UserError(f"--port must be 0 to 65535, found {args.port}")
    kept = Path(args.kept) if args.kept else path.with_name(f"{path.name}.kept")
    with Emulator(target.board, path, args.port, kept) as emulator:
        _tell(args, {"event": "listening", "address": emulator.address}, emulator.address)
        for line in emulator.said():
            _tell(args, {"event": "said", "text": line}, line)
            if line.startswith(QUESTION):
                threading.Thread(target=_pass_answer, args=[emulator], daemon=True).start()
        code = emulator.wait()
    if code:
        sys.stderr.write(f"error: the image ended with {code}; above is what it said\n")
    return 1 if code else 0


def _pass_answer(emulator: Emulator) -> None:
    """One line that a person types, to the image."""
    if sys.stdin is None or sys.stdin.closed:
        return
    keyboard = sys.stdin.fileno()
    while emulator.process.poll() is None:
        if _is_behind(keyboard):
            time.sleep(_LOOK_S)
        elif select.select([keyboard], [], [], _LOOK_S)[0]:
            emulator.answer(os.read(keyboard, _LINE_MOST).decode(errors="replace"))
            return


def _is_behind(keyboard: int) -> bool:
    """Are we in the background of our terminal? Reading there would stop us."""
    try:
        return os.tcgetpgrp(keyboard) != os.getpgrp()
    except OSError:  # it is no terminal, or not ours
        return False


def _tell(args: argparse.Namespace, event: dict[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(event) if args.format == "json" else text) + "\n")
    sys.stdout.flush()


# ---- flash ----


def run_flash(args: argparse.Namespace) -> int:
    """Prints the probe's command for args.image, or runs it. Returns its exit code."""
    path = Path(args.image)
    target = device.target_of(path, args.board)
    if not target.flash:
        raise UserError(
            f"{target.name} has no flash_command"
            + ("" if not target.board.machine else f": `seamline firmware run {path}` emulates it")
        )
    command = [word.replace(ELF, str(path)) for word in target.flash]
    print(shlex.join(command))
    sys.stdout.flush()
    if not args.go:
        return 0
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} not found: install it, or write what your probe needs into "
            f"flash_command of the board's board.toml",
            MISSING,
        )
    return subprocess.run(command, check=False).returncode
