"""The image of one device: its samples, names and keys, and memory in fixed sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..kernels.front import HEADER, SEND, Session
from ..runtime import message as wire
from ..runtime.data import Data
from ..runtime.message import Kind, Message, Settings
from .image import CORE, HERE, KERNEL_FILES, Board, build, sealing

_HEADS = 96  # bytes, most, in front of the values: of a body and of its one or two parcels
FRONT_FILES = [CORE / "plan.c", CORE / "message.c", CORE / "session.c", *CORE.glob("front*.c")]


@dataclass(frozen=True)
class DeviceImage:
    """What is built in. secret, host_key: 32 bytes. arena_bytes, message_bytes: of what the host's
    plan will ask, as `memory_of` gives them."""

    name: str
    host: str
    secret: bytes
    host_key: bytes
    data: Data
    baud: int
    arena_bytes: int
    message_bytes: int


def memory_of(plan: bytes, settings: Settings, values: int, data: Data) -> tuple[int, int]:
    """Bytes that a session asks for when it gets this plan, and bytes of the longest message that
    comes to it. values: bytes of the longest weights or gradient that the host sends.

    Raises ValueError: no device can run the plan.
    """
    session = Session("x", bytes(8), len(data.x_train), len(data.x_test))
    session.hello()
    session.receive(Message(Kind.WELCOME, 1, body=wire.welcome_body()).encode())
    asked = Message(Kind.PLAN, 1, body=wire.plan_body(settings, plan)).encode()
    if session.receive(asked) != SEND or session.answer()[3] != Kind.READY:
        raise ValueError("a session refuses the plan")
    memory = session.memory_bytes
    return memory, max(len(asked), HEADER + _HEADS + values)


def build_device(board: Board, device: DeviceImage, out: Path) -> Path:
    """Compiles it; `out` then holds the device's key, so it and the image are for its owner only.

    Raises RuntimeError with what the compiler said, MonocypherError.
    """
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = device.data
    arrays = {
        "device_x_train": np.ascontiguousarray(data.x_train, "<f4"),
        "device_y_train": np.ascontiguousarray(data.y_train, "<i4"),
        "device_x_test": np.ascontiguousarray(data.x_test, "<f4"),
        "device_y_test": np.ascontiguousarray(data.y_test, "<i4"),
    }
    parts = {name: array.tobytes() for name, array in arrays.items()}
    parts |= {"device_secret": device.secret, "device_host_key": device.host_key}
    listing = ['    .section .samples, "a"']
    for name, held in parts.items():
        path = out / f"{name}.bin"
        path.touch(0o600)
        path.chmod(0o600)
        path.write_bytes(held)
        listing += ["    .balign 16", f"    .global {name}", f"{name}:", f'    .incbin "{path}"']
    (out / "parts.S").write_text("\n".join(listing) + "\n")
    defines = {
        "ID": f'"{device.name}"',
        "HOST": f'"{device.host}"',
        "TRAIN": f"{len(data.x_train)}u",
        "TEST": f"{len(data.x_test)}u",
        "VALUES": f"{data.x_train[0].size}u",
        "RX_BYTES": f"{device.message_bytes}u",
        "ARENA_BYTES": f"{device.arena_bytes}u",
    }
    lines = "".join(f"#define DEVICE_{name} {value}\n" for name, value in defines.items())
    (out / "device.h").write_text(f"/* What this image is of. */\n{lines}")
    files, flags = sealing()
    sources = [HERE / "device.c", out / "parts.S", *{*files, *KERNEL_FILES, *FRONT_FILES}]
    built = build(board, sources, out, [*flags, f"-I{out}", f"-DDEVICE_BAUD={device.baud}u"])
    for name in parts:
        (out / f"{name}.bin").unlink()
    return built
