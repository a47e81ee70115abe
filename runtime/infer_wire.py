"""Bodies of INFER, ANSWER and FRONT, with which a device asks a trained network (SPEC.md)."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import parcel
from .message import Body, ProtocolError

F32 = NDArray[np.float32]
Ints = NDArray[np.int32]

TAG = 8  # bytes that name a front
NO_TAG = bytes(TAG)
_RULE = struct.Struct("<ffI")


@dataclass(frozen=True)
class FrontFile:
    """A trained front as a device keeps it.

    codec: of activations, by number. temperature, entropy: the rule of its exit (nats; -1: it is
    never sure). plan: SPEC.md; parameters: flat, in plan order, the exit's behind the front's.
    """

    codec: int
    temperature: float
    entropy: float
    plan: bytes
    parameters: F32

    def pack(self) -> bytes:
        """The body of FRONT, and the file a device keeps."""
        head = struct.pack("<B3x", self.codec)
        head += _RULE.pack(self.temperature, self.entropy, len(self.plan)) + self.plan
        body = head + parcel.pack(self.parameters, "f32")
        return tag_of(body) + body


def tag_of(data: Body) -> bytes:
    return hashlib.sha256(data).digest()[:TAG]


def read_front(body: Body) -> FrontFile:
    """Raises ProtocolError or SeamError for bytes that are no whole FRONT."""
    data = bytes(body)
    start = TAG + 4 + _RULE.size
    if len(data) < start or data[:TAG] != tag_of(data[TAG:]):
        raise ProtocolError(f"FRONT: {len(data)} bytes that do not belong to their name")
    temperature, entropy, size = _RULE.unpack_from(data, TAG + 4)
    if not 1e-6 < temperature < 1e6 or not math.isfinite(entropy) or start + size > len(data):
        raise ProtocolError(
            f"FRONT: expected a temperature above 0, a finite entropy and a plan of {size} bytes, "
            f"got {temperature}, {entropy} and {len(data) - start} bytes"
        )
    if data[TAG] not in parcel.CODECS.values():
        raise ProtocolError(f"FRONT: codec {data[TAG]} is not known")
    parameters, end = parcel.unpack(data, start + size)
    if end != len(data) or parameters.ndim != 1:
        raise ProtocolError(f"FRONT: {len(data) - end} bytes follow the parameters")
    return FrontFile(data[TAG], temperature, entropy, data[start : start + size], parameters)


def infer_body(tag: bytes, activation: F32 | None, codec: int) -> bytes:
    """tag: of the front that made the activations [n, h, w, c]; None: just to learn of another."""
    count = 0 if activation is None else len(activation)
    head = tag + struct.pack("<Hxx", count)
    return head if activation is None else head + parcel.pack(activation, codec)


def read_infer(body: Body) -> tuple[bytes, F32 | None]:
    """Raises ProtocolError or SeamError."""
    if len(body) < TAG + 4:
        raise ProtocolError(f"INFER: expected at least {TAG + 4} bytes, got {len(body)}")
    (count,) = struct.unpack_from("<H", body, TAG)
    if count == 0:
        if len(body) != TAG + 4:
            raise ProtocolError(f"INFER: {len(body) - TAG - 4} bytes follow no samples")
        return bytes(body[:TAG]), None
    activation, end = parcel.unpack(body, TAG + 4)
    if end != len(body) or len(activation) != count:
        raise ProtocolError(f"INFER: expected {count} samples, got {activation.shape}")
    return bytes(body[:TAG]), activation


def answer_body(classes: Ints, places: Ints) -> bytes:
    """places: the exit that has answered, counted from the first behind the device; the last
    number is the network's end."""
    both = np.stack([classes, places], axis=1).astype("<u2")
    return struct.pack("<Hxx", len(classes)) + both.tobytes()


def read_answer(body: Body) -> tuple[Ints, Ints]:
    """Classes [n] and exits [n]. Raises ProtocolError."""
    count = struct.unpack_from("<H", body)[0] if len(body) >= 4 else -1
    if count < 0 or len(body) != 4 + 4 * count:
        raise ProtocolError(f"ANSWER: {len(body)} bytes for {count} samples")
    both = np.frombuffer(body, "<u2", 2 * count, 4).astype(np.int32).reshape(count, 2)
    return both[:, 0], both[:, 1]
