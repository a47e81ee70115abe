"""One end of a sealed byte line: a handshake, sealed frames, and the C packets inside them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ..kernels._link import PACKET_MAX, SILENT, STUCK, FrameDecoder, PacketEnd, encode_body
from .handshake import DEVICE, HANDSHAKE, HOST, Handshake
from .keys import Keys, raw_key
from .link import host_of
from .seal import SEALED, SEALED_SHORT, Seal

if TYPE_CHECKING:
    from .key_folder import AllowList

_BODY_MAX = PACKET_MAX + 32
_MORE = 11  # bytes of a sealed frame beside those of a clear one
_CHECK = 4  # bytes of CRC-32 behind a body in clear
_JOIN_MS = 3000  # for packets to meet under new keys; else the keys are taken for lost
_WORN_MS = 500  # for new keys to come, once those in use are used up
_CLEAR = (
    "the other end speaks clear text: start both ends with keys, or both with --insecure "
    "(if it is seamline at all)"
)
_VERSION = 1  # high half of a body's first byte
_CONNECTED = (2, 3)  # types of packets that have a tag of the connection,
_TAG = slice(4, 8)  # here
_IN_CLEAR = range(0x11, 0x14)  # first bytes of packets


def device_handshake(keys: Keys, host: str) -> Handshake:
    """Of a device, or a zone, with the host that host_of names. Raises LinkError."""
    name, public = host_of(keys, host)
    return Handshake(DEVICE, keys.name, raw_key(keys.secret), known={name: raw_key(public)}.get)


def host_handshake(own: Keys, allowed: AllowList, device: str) -> Handshake:
    """Of a host, on the line of this device; its key is the one in the folder at that moment."""

    def known(name: str) -> bytes | None:
        allowed.look()
        key = allowed.key_of(name) if name == device else None
        return raw_key(key) if key is not None else None

    def elsewhere(name: str) -> bool:
        return name != device and allowed.key_of(name) is not None

    return Handshake(HOST, own.name, raw_key(own.secret), known=known, elsewhere=elsewhere)


class SealedEnd:
    """Like a PacketEnd, which it holds: bytes and time in, bytes and events out.

    The keys in use stay in use until a frame has verified under newer ones: who has not proved his
    key interrupts nothing. figures: a PacketEnd's. One thread at a time.
    """

    def __init__(self, boot_id: int, now_ms: int, handshake: Handshake, **figures: int) -> None:
        self._packets = PacketEnd(boot_id, now_ms, more=_MORE, **figures)
        self._decoder = FrameDecoder(_BODY_MAX, raw=True)
        self._handshake = handshake
        self._seal: Seal | None = None  # in use
        self._next: Seal | None = None  # a host's: established, but not heard from under it
        self._since = now_ms  # when the keys in use were established
        self._adopted: Seal | None = None  # the last that a handshake brought
        self._dropped = False
        self._lost = False  # the way to the peer: look for a new one
        self._counts = dict.fromkeys(
            (
                "handshakes",
                "clear_refused",
                "other_version",
                "frames_damaged",
                "frames_forged",
                "replayed",
            ),
            0,
        )

    @property
    def joined(self) -> bool:
        return self._packets.joined

    @property
    def busy(self) -> bool:
        return self._packets.busy

    @property
    def counters(self) -> dict[str, int]:
        """A PacketEnd's, and handshakes, clear_refused, frames_forged, replayed."""
        frames = self._decoder.counters
        counts = {**self._packets.counters, **self._counts, "frames_too_long": frames["too_long"]}
        counts["frames_damaged"] += frames["damaged"]
        seal = self._seal  # another thread may ask while it is replaced
        for name, count in seal.counters.items() if seal is not None else ():
            counts[name] += count
        return counts

    @property
    def refused(self) -> dict[str, int]:
        """Why the other end was not accepted, and how often."""
        found = dict(self._handshake.refused)
        if self._counts["other_version"]:
            found["other_version"] = found.get("other_version", 0) + self._counts["other_version"]
        return found

    @property
    def called(self) -> str:
        """The name that the one refused last has claimed."""
        return self._handshake.called

    @property
    def peer(self) -> str:
        """Who has proved his key; empty before."""
        found = self._handshake.established
        return found[1] if found is not None and self._seal is not None else ""

    @property
    def trouble(self) -> str:
        """Why no peer is found, as far as it can be told."""
        clear = self._counts["clear_refused"] > 0 and self._counts["handshakes"] == 0
        return self._handshake.trouble or (_CLEAR if clear else "")

    def drop(self) -> None:
        """Use the keys no longer: the peer has to prove its key anew. Any thread may call it."""
        self._dropped = True

    def feed(self, data: bytes, now_ms: int) -> None:
        if self._dropped:
            self._dropped, self._seal, self._next = False, None, None
        for body in self._decoder.feed(data):
            if body[0] in (SEALED, SEALED_SHORT):
                self._take_sealed(body, now_ms)
            elif zlib.crc32(body[:-_CHECK]).to_bytes(_CHECK, "little") != body[-_CHECK:]:
                self._counts["frames_damaged"] += 1
            elif body[0] >> 4 != _VERSION:
                self._counts["other_version"] += 1
            elif body[0] == HANDSHAKE:
                self._handshake.input(body[:-_CHECK], now_ms)
                self._adopt(now_ms)
            elif body[0] in _IN_CLEAR:
                self._counts["clear_refused"] += 1
                self._handshake.refuse_clear(now_ms)

    def events(self) -> list[tuple[int, bytes | None]]:
        found = self._packets.events()
        if self._handshake.is_device:
            self._lost |= any(kind in (SILENT, STUCK) for kind, _ in found)
        return found

    def send(self, message: bytes) -> bool:
        return self._packets.send(message)

    def output(self, now_ms: int, limit: int = 4096) -> bytes:
        if self._handshake.is_device:
            self._look(now_ms)
        parts = []
        while (body := self._handshake.output(now_ms)) is not None:
            parts.append(encode_body(body + zlib.crc32(body).to_bytes(_CHECK, "little")))
        if self._seal is None and self.joined:
            self._packets.output_packet(now_ms)  # nowhere to go; but time goes on, and it is lost
        elif self._seal is not None and self._seal.worn and not self._handshake.is_device:
            self._handshake.call(now_ms)
        while self._seal is not None and not self._seal.worn and limit > 0:
            packet = self._packets.output_packet(now_ms)
            if not packet:
                break
            parts.append(encode_body(self._sealed(self._seal, packet)))
            limit -= len(parts[-1])
        return b"".join(parts)

    def wait(self, now_ms: int) -> int:
        wait = self._handshake.wait(now_ms)
        if self._seal is None and not self.joined:
            return wait
        if self._lost:
            return 0
        return min(wait, self._packets.wait(now_ms))

    def _look(self, now_ms: int) -> None:
        """Does the device need new keys? The host may have lost them, or have found others."""
        lone = self._seal is not None and not self.joined and now_ms - self._since >= _JOIN_MS
        worn = self._seal is not None and self._seal.worn and now_ms - self._since >= _WORN_MS
        if self._lost or lone or worn:
            self._lost, self._since = False, now_ms
            self._handshake.restart(now_ms)

    def _adopt(self, now_ms: int) -> None:
        """Keys that the handshake has brought. The device has heard that the host has them, too."""
        found = self._handshake.established
        if found is None or found[0] is self._adopted:
            return
        self._adopted = found[0]
        if self._handshake.is_device:
            self._use(found[0], now_ms)
        else:
            self._next = found[0]

    def _use(self, seal: Seal, now_ms: int) -> None:
        for name, count in self._seal.counters.items() if self._seal is not None else ():
            self._counts[name] += count
        self._seal, self._next, self._since = seal, None, now_ms
        self._counts["handshakes"] += 1
        self._handshake.confirmed()
        self._packets.hurry(now_ms)

    def _take_sealed(self, body: bytes, now_ms: int) -> None:
        packet = self._opened(self._seal, body) if self._seal is not None else None
        if packet is None and self._next is not None:
            packet = self._opened(self._next, body)
            if packet is not None:
                self._use(self._next, now_ms)
        if packet is not None:
            self._packets.input_packet(packet, now_ms)
        elif self._seal is None and not self._handshake.is_device:
            self._handshake.call(now_ms)

    def _sealed(self, seal: Seal, packet: bytes) -> bytes:
        """The tag of the connection is left out as soon as the peer is known to have the keys: it
        may have lost the connection with them.
        """
        if seal.heard and packet[0] & 15 in _CONNECTED:
            return seal.seal(packet[: _TAG.start] + packet[_TAG.stop :], packet[_TAG])
        return seal.seal(packet)

    def _opened(self, seal: Seal, body: bytes) -> bytes | None:
        known = self._packets.connection.to_bytes(4, "little")
        packet = seal.open(body, known)
        if packet is None or body[0] == SEALED:
            return packet
        return packet[: _TAG.start] + known + packet[_TAG.start :]
