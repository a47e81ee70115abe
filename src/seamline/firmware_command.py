"""`seamline firmware`: the image of a device of a job, and a run of it in an emulator."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .firmware_bridge import image
from .firmware_bridge.device import DeviceImage, build_device, memory_of
from .firmware_bridge.emulator import serve
from .kernels.parcel import CODECS
from .runtime.config import Job, find_device, find_zone
from .runtime.data import device_data
from .runtime.errors import UserError
from .runtime.keys import load_keys, raw_key
from .runtime.link import host_of
from .runtime.message import Settings
from .runtime.q8_plan import size_up_q8, sums_of
from .runtime.quantised import fuse
from .table import print_table

if TYPE_CHECKING:
    from .firmware_bridge.image import Board


def run_firmware_build(args: argparse.Namespace, job: Job) -> int:
    """Builds OUT/BOARD.elf, readable by its owner only, and prints what it takes of the board."""
    board = _board(args.board)
    section = find_device(job, args.id)
    zone = find_zone(job, section.zone)
    data = device_data(job, args.id)
    keys = load_keys(Path(job.keys.folder), args.id)
    host, key = host_of(keys, f"host-{zone.name}")
    arena, message = memory_of(*_work(job), data)
    device = DeviceImage(
        args.id, host, raw_key(keys.secret), raw_key(key), data, args.baud, arena, message
    )
    out = Path(args.out or Path(job.out) / "firmware" / args.id)
    try:
        built = build_device(board, device, out)
    except RuntimeError as error:  # most often: it does not fit
        raise UserError(str(error), 5) from None
    _print_sizes(built, device)
    print(f"{built} holds the secret key of {args.id}: who can read it, or the board, is {args.id}")
    print(f"`seamline firmware run {built} --board {args.board}` runs it in an emulator")
    return 0


def run_firmware_run(args: argparse.Namespace) -> int:
    """Runs an image until it ends; its line is a TCP socket of this machine."""
    board = _board(args.board)
    path = Path(args.image)
    if not path.is_file():
        raise UserError(f"there is no image {path}: `seamline firmware build` makes one", 3)
    with serve(board, path, args.port) as running:
        print(f"{path.name} on {board.machine} ({board.core}): its line is {running.address}")
        print(f'in the job: link = "{running.address}", host_link = "{running.address}"')
        sys.stdout.flush()
        code = running.wait()
        said = running.said() or "it said nothing"
    if code != 0:
        raise UserError(f"{path} ended with {code}: {said}", 3)
    print("the host said goodbye: done")
    return 0


def _board(name: str) -> Board:
    if name not in image.BOARDS:
        raise UserError(f"--board {name}: there are {', '.join(image.BOARDS)}", 2)
    lacking = image.missing()
    if lacking is not None:
        raise UserError(lacking, 7)
    return image.BOARDS[name]


def _work(job: Job) -> tuple[bytes, Settings, int]:
    """What the host will ask of the device: plan, settings, and bytes of its longest tensor."""
    from .edge_host.host import cut_model, make_plan

    train, cut = job.train, cut_model(job)
    q8 = train.arithmetic == "q8"
    settings = Settings(
        seed=0,
        batch=train.batch,
        codec_up=CODECS[job.codec.up],
        codec_down=CODECS[job.codec.down],
        rounding=0,
        momentum=train.momentum,
        decay=train.weight_decay,
        q8_rounding=1 if q8 else 0,
    )
    weights = 4 * sum(math.prod(parameter.shape) for parameter in cut.parameters)
    if q8:
        sums = sums_of(recompute=train.recompute)
        layers = fuse(cut.front)[0]
        weights = size_up_q8(
            layers, cut.input_shape, train.batch, momentum=train.q8_momentum, sums=sums
        ).blob
    width = 4 if job.codec.down == "f32" and not q8 else 1  # bytes of a value
    gradient = width * train.batch * math.prod(cut.shape)
    return make_plan(job, cut), settings, max(weights, gradient)


def _print_sizes(built: Path, device: DeviceImage) -> None:
    sections = image.sizes(built)
    data = device.data
    samples = sum(a.nbytes for a in (data.x_train, data.y_train, data.x_test, data.y_test))
    lines = [
        ["flash", "code and constants", f"{sections['text'] + sections['data'] - samples}"],
        ["flash", "samples of the device", f"{samples}"],
        ["RAM", "the front, its training and its messages", f"{device.arena_bytes}"],
        ["RAM", "a message of the host", f"{device.message_bytes}"],
        ["RAM", "all static", f"{sections['data'] + sections['bss']}"],
    ]
    print_table(["memory", "of it", "bytes"], lines, words=2)
