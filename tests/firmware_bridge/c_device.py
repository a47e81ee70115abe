"""The device's sealed line in C as Python objects, built on Monocypher."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamline.firmware_bridge.monocypher import monocypher
from seamline.kernels._link import MESSAGE

ROOT = Path(__file__).parents[2]
CORE = ROOT / "kernels" / "core"
FLAGS = ["-std=c99", "-O1", "-g", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
COUNTERS = (
    "handshakes", "clear_refused", "other_version", "frames_damaged", "frames_forged", "replayed",
    "retransmits",
)  # fmt: skip
_WIRE = 1200
_Entropy = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class HandshakeConfig(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("secret", ctypes.c_char_p), ("host", ctypes.c_char_p),
        ("host_key", ctypes.c_char_p), ("psk", ctypes.c_char_p), ("entropy", _Entropy),
        ("context", ctypes.c_void_p), ("first_number", ctypes.c_uint64),
    ]  # fmt: skip


class PacketConfig(ctypes.Structure):
    _fields_ = [
        ("boot_id", ctypes.c_uint64), ("rx", ctypes.c_void_p), ("rx_space", ctypes.c_uint32),
        ("bytes_per_second", ctypes.c_uint32), ("mtu", ctypes.c_uint16),
        ("first_number", ctypes.c_uint16), ("more", ctypes.c_uint8), ("window", ctypes.c_uint8),
    ]  # fmt: skip


def build(folder: Path) -> ctypes.CDLL:
    """The core's line, Monocypher and the tests' face, as one library in `folder`."""
    crypto, out = monocypher(), folder / "device.so"
    ours = [*sorted((CORE / "seal").glob("*.c")), ROOT / "firmware_bridge" / "crypto.c"]
    ours += [CORE / f"{stem}.c" for stem in ("crc", "frame", "packet")]
    command = [shutil.which("gcc") or "cc", *FLAGS, f"-I{CORE}", f"-I{CORE / 'seal'}", "-isystem"]
    ours.append(Path(__file__).with_name("device.c"))
    command += [str(crypto), "-o", str(out), *map(str, ours)]
    subprocess.run([*command, "-Wno-conversion", str(crypto / "monocypher.c")], check=True)
    library = ctypes.CDLL(str(out))
    library.device_size.restype = library.device_pairing_size.restype = ctypes.c_size_t
    library.seam_sealed_output.restype = library.seam_pairing_output.restype = ctypes.c_int64
    library.seam_sealed_message.restype = ctypes.c_void_p
    library.seam_trouble_text.restype = ctypes.c_char_p
    return library


def entropy(draw: Callable[[int], bytes]) -> Any:
    """A hook that gives these bytes; an empty answer: there are none."""

    def fill(_: object, out: int, size: int) -> int:
        data = draw(size)
        ctypes.memmove(out, data, len(data))
        return int(len(data) == size)

    return _Entropy(fill)


def time(now_ms: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(now_ms)


class Device:
    """A SealedEnd of a device, as it is in an image. draw: its random bytes."""

    def __init__(
        self, library: ctypes.CDLL, boot_id: int, now_ms: int, name: str | bytes, secret: bytes,
        host: str | bytes, host_key: bytes, *, rx_space: int = 1 << 16, first_number: int = 0,
        bytes_per_second: int = 11520, draw: Callable[[int], bytes] = os.urandom,
    ) -> None:  # fmt: skip
        self._library = library
        self._state = ctypes.create_string_buffer(library.device_size())
        self._rx = ctypes.create_string_buffer(rx_space)
        self._tx: ctypes.Array[ctypes.c_char] | None = None
        own, peer = (one.encode() if isinstance(one, str) else one for one in (name, host))
        self._hand = HandshakeConfig(
            own, secret, peer, host_key, None, entropy(draw), None, first_number
        )
        figures = PacketConfig(
            boot_id, ctypes.addressof(self._rx), rx_space, bytes_per_second, 1024, 1
        )
        self.started = library.seam_sealed_start(
            self._state, ctypes.byref(self._hand), ctypes.byref(figures), time(now_ms)
        )

    @property
    def joined(self) -> bool:
        return bool(self._library.device_is_joined(self._state))

    @property
    def busy(self) -> bool:
        return bool(self._library.device_is_busy(self._state))

    @property
    def counters(self) -> dict[str, int]:
        out = (ctypes.c_uint32 * len(COUNTERS))()
        self._library.device_counters(self._state, out)
        return dict(zip(COUNTERS, out, strict=True))

    @property
    def trouble(self) -> str:
        code = self._library.seam_sealed_trouble(self._state)
        return self._library.seam_trouble_text(code).decode() if code else ""

    def feed(self, data: bytes, now_ms: int) -> None:
        size = ctypes.c_size_t(len(data))
        self._library.seam_sealed_feed(self._state, data, size, time(now_ms))

    def events(self) -> list[tuple[int, bytes | None]]:
        found: list[tuple[int, bytes | None]] = []
        while kind := self._library.seam_sealed_event(self._state):
            data = None
            if kind == MESSAGE:
                size = ctypes.c_uint32()
                at = self._library.seam_sealed_message(self._state, ctypes.byref(size))
                data = ctypes.string_at(at, size.value)
                self._library.seam_sealed_done(self._state)
            found.append((kind, data))
        return found

    def send(self, message: bytes) -> bool:
        tx = ctypes.create_string_buffer(message, max(1, len(message)))
        size = ctypes.c_uint32(len(message))
        if self._library.seam_sealed_send(self._state, tx, size) != 0:
            return False
        self._tx = tx
        return True

    def output(self, now_ms: int, limit: int = 4096) -> bytes:
        wire, out = ctypes.create_string_buffer(_WIRE), b""
        while len(out) < limit:
            size = self._library.seam_sealed_output(
                self._state, wire, ctypes.c_size_t(_WIRE), time(now_ms)
            )
            assert size >= 0, size
            if size == 0:
                break
            out += wire.raw[:size]
        return out

    def wait(self, now_ms: int) -> int:
        return self._library.seam_sealed_wait(self._state, time(now_ms))


# ---- pairing ----

_Check = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class PairingConfig(ctypes.Structure):
    _fields_ = [
        ("handshake", HandshakeConfig), ("check", _Check), ("store", _Check),
        ("wait_ms", ctypes.c_uint32),
    ]  # fmt: skip


class PairingDevice:
    """A Pairing of a device, as it is in an image. It stores by itself: `stored`.

    wrong: the name of the trouble that its check finds. stores: can it keep the key?
    """

    def __init__(
        self, library: ctypes.CDLL, now_ms: int, name: str, secret: bytes,
        pairing_secret: bytes | None, wait_ms: int, *, wrong: str = "NONE", stores: bool = True,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:  # fmt: skip
        self.stored: list[tuple[str, bytes]] = []
        self._library = library
        self._state = ctypes.create_string_buffer(library.device_pairing_size())
        psk = ctypes.create_string_buffer(32)
        library.seam_pairing_stretch(psk, pairing_secret or b"")

        def store(_: object, host: bytes, key: int) -> int:
            if stores:
                self.stored.append((host.decode(), ctypes.string_at(key, 32)))
            return stores

        hand = HandshakeConfig(
            name.encode(), secret, None, None, psk.raw if pairing_secret else None,
            entropy(draw), None, 0,
        )  # fmt: skip
        self._psk, self._secret = psk, secret
        wrong_code = library.device_trouble(wrong.encode())
        self._config = PairingConfig(hand, _Check(lambda *_: wrong_code), _Check(store), wait_ms)
        config = ctypes.byref(self._config)
        assert library.seam_pairing_start(self._state, config, time(now_ms)) == 0

    @property
    def over(self) -> bool:
        return bool(self._library.seam_pairing_over(self._state))

    @property
    def asking(self) -> bool:
        return bool(self._library.seam_pairing_asking(self._state))

    @property
    def code(self) -> str:
        out = ctypes.create_string_buffer(25)
        self._library.seam_pairing_code(self._state, out)
        return out.value.decode()

    @property
    def trouble(self) -> str:
        code = self._library.device_pairing_trouble(self._state)
        return self._library.seam_trouble_text(code).decode() if code else ""

    def answer(self, yes: bool) -> None:
        self._library.seam_pairing_answer(self._state, int(yes))

    def feed(self, data: bytes, now_ms: int) -> None:
        size = ctypes.c_size_t(len(data))
        self._library.seam_pairing_feed(self._state, data, size, time(now_ms))

    def output(self, now_ms: int) -> bytes:
        wire, out = ctypes.create_string_buffer(_WIRE), b""
        while True:
            size = self._library.seam_pairing_output(
                self._state, wire, ctypes.c_size_t(_WIRE), time(now_ms)
            )
            assert size >= 0, size
            if size == 0:
                return out
            out += wire.raw[:size]

    def wait(self, now_ms: int) -> int:
        return self._library.seam_pairing_wait(self._state, time(now_ms))
