"""Names for the messages of SPEC.md, and their bodies as edge host and cloud write them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import WIRE_VERSION, parcel
from ..kernels.front import decode_message, encode_message

Array = NDArray[Any]
Body = bytes | memoryview


FLOAT_MAX = 3.4e38  # of a sample
Q8_BIT = 1 << 31  # of the layer bits: fronts can be trained in int8


class Kind(IntEnum):
    HELLO = 1
    WELCOME = 2
    PLAN = 3
    WEIGHTS = 4
    READY = 5
    STEP = 6
    ACT = 7
    GRAD = 8
    WEIGHTS_GET = 9
    EVAL = 10
    RESULT = 11
    PROBE = 12
    PROBE_ECHO = 13
    STATS = 14
    ERROR = 15
    BYE = 16
    PING = 17
    PONG = 18
    INFER = 19
    ANSWER = 20
    FRONT = 21
    ZONE_HELLO = 32
    ZONE_WELCOME = 33
    ZONE_ROUND = 34
    ZONE_UPDATE = 35
    ZONE_ACCEPTED = 36
    ZONE_DONE = 37
    ZONE_REPORT = 38


class Flag(IntFlag):
    WEIGHTS = 1
    LAST = 2
    LOCAL = 4
    PERSONAL = 8
    FROZEN = 16
    KEEP = 32
    EXIT = 64
    MOMENTUM = 128


class ProtocolError(ValueError):
    """The peer sent a message that is whole but makes no sense."""


@dataclass(frozen=True)
class Message:
    kind: int
    session: int = 0
    round: int = 0
    step: int = 0
    flags: int = 0
    body: Body = b""

    def encode(self) -> bytes:
        """Raises SeamError if the body is over the limit."""
        return encode_message(self.kind, self.session, self.round, self.step, self.flags, self.body)

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Raises SeamError for bytes that are not one whole message of this version."""
        kind, flags, session, round_, step, body = decode_message(data)
        return cls(kind, session, round_, step, flags, body)


def _unpack(layout: str, body: Body, name: str) -> tuple[Any, ...]:
    size = struct.calcsize(layout)
    if len(body) < size:
        raise ProtocolError(f"{name}: expected at least {size} bytes, got {len(body)}")
    return struct.unpack_from(layout, body)


def _text(body: Body, start: int, size: int, name: str) -> str:
    if start + size > len(body):
        raise ProtocolError(f"{name}: the text ends before its length says")
    return bytes(body[start : start + size]).decode("utf-8", "replace")


# ---- device and edge host ----


@dataclass(frozen=True)
class Hello:
    version_min: int
    version_max: int
    arithmetic: int
    boot_id: bytes
    ram: int
    flash: int
    codecs: int
    layers: int
    samples: int
    tests: int
    device_id: str


def read_hello(body: Body) -> Hello:
    fields = _unpack("<BBH8sIIIIIIB", body, "HELLO")
    return Hello(*(*fields[:-1], _text(body, 37, fields[-1], "HELLO")))


def welcome_body() -> bytes:
    return struct.pack("<B3x", WIRE_VERSION)


@dataclass(frozen=True)
class Settings:
    """What a device needs to know beside the plan; codecs and rounding by number."""

    seed: int
    batch: int
    codec_up: int
    codec_down: int
    rounding: int
    momentum: float
    decay: float
    q8_rounding: int = 0  # of a q8 front's training: 0 nearest, 1 stochastic, 2 truncate


def plan_body(settings: Settings, plan: bytes) -> bytes:
    s = settings
    head = (s.seed, s.batch, s.codec_up, s.codec_down, s.rounding, s.q8_rounding)
    return struct.pack("<IHBBBB2xffI", *head, s.momentum, s.decay, len(plan)) + plan


@dataclass(frozen=True)
class Ready:
    arena_bytes: int
    saved_round: int
    has_checkpoint: bool
    inputs: tuple[float, float] | None = None  # least and largest value of the samples: a q8 front


def read_ready(body: Body) -> Ready:
    """Raises ProtocolError for bytes that are no READY, or samples that are not finite."""
    arena, saved, has = _unpack("<IIB3x", body, "READY")
    if len(body) < 20:
        return Ready(arena, saved, bool(has))
    lo, hi = struct.unpack_from("<ff", body, 12)
    if not -FLOAT_MAX <= lo <= hi <= FLOAT_MAX:
        raise ProtocolError(f"READY: expected finite samples, got {lo} to {hi}")
    return Ready(arena, saved, bool(has), (lo, hi))


def step_body(rate: float, first_batch: int, local_steps: int, weights: bytes | None) -> bytes:
    return struct.pack("<fIHxx", rate, first_batch & 0xFFFFFFFF, local_steps) + (weights or b"")


def grad_body(rate: float, loss: float, gradient: bytes | None) -> bytes:
    return struct.pack("<ff", rate, loss) + (gradient or b"")


def local_body(rate: float, loss: float, steps: int) -> bytes:
    """Of a GRAD with LOCAL: the exit has the gradient; so many whole steps on the device follow."""
    return struct.pack("<ffHxx", rate, loss, steps)


def eval_body(first: int, count: int, weights: bytes | None) -> bytes:
    return struct.pack("<IHxx", first, count) + (weights or b"")


def exit_body(
    first: int, count: int, temperature: float, most_entropy: float, weights: bytes | None
) -> bytes:
    """Of an EVAL with EXIT: the device answers what its exit is sure of. most_entropy: in nats."""
    head = struct.pack("<IHxxff", first, count, 1 / temperature, most_entropy)
    return head + (weights or b"")


def weights_body(params: Array) -> bytes:
    return struct.pack("<If", 0, 0.0) + parcel.pack(params, "f32")


def _last_parcel(body: Body, start: int, name: str) -> NDArray[np.float32]:
    array, end = parcel.unpack(body, start)
    if end != len(body):
        raise ProtocolError(f"{name}: {len(body) - end} bytes follow the parcel")
    return array


def read_act(body: Body) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Labels [n] and activation [n, h, w, c] of an ACT, or of a RESULT without LOCAL."""
    (count,) = _unpack("<Hxx", body, "ACT")
    if 4 + 2 * count > len(body):
        raise ProtocolError(f"ACT: expected {count} labels, the body has {len(body)} bytes")
    labels = np.frombuffer(body, "<u2", count, 4).astype(np.int32)
    return labels, _last_parcel(body, 4 + 2 * count, "ACT")


def read_weights(body: Body) -> tuple[int, float, NDArray[np.float32]]:
    """Training samples, mean loss, parameters [p]."""
    samples, loss = _unpack("<If", body, "WEIGHTS")
    return samples, loss, _last_parcel(body, 8, "WEIGHTS")


def bytes_parcel(data: bytes) -> bytes:
    """The parcel of raw bytes (parameters of a q8 front): int8 of scale 1."""
    return parcel.pack_int8(np.frombuffer(data, np.int8))


def _bytes_of(body: Body, start: int) -> tuple[bytes, int]:
    """The bytes of such a parcel, and where it ends."""
    array, end = parcel.unpack(body, start)
    codec, scale, zero = _int8_head(body, start)
    if codec != parcel.CODECS["int8"] or array.ndim != 1 or scale != 1 or zero != 0:
        raise ProtocolError(f"parameters: expected int8 of scale 1 and zero 0, got {scale}, {zero}")
    return array.astype(np.int8).tobytes(), end


def _int8_head(body: Body, start: int) -> tuple[int, float, int]:
    """Codec, scale and zero point of a parcel that was unpacked before."""
    return body[start], *struct.unpack_from("<fi", body, start + 8)


def read_q8_weights(body: Body) -> tuple[float, bytes, NDArray[np.int8]]:
    """Mean loss, the learned bytes, and (least, largest) [tensors, 2] of a q8 front's WEIGHTS."""
    _, loss = _unpack("<If", body, "WEIGHTS")
    data, end = _bytes_of(body, 8)
    rest = bytes(body[end:])
    if len(rest) % 2:
        raise ProtocolError(f"WEIGHTS: expected pairs behind the parcel, got {len(rest)} bytes")
    return loss, data, np.frombuffer(rest, np.int8).reshape(-1, 2)


def read_act_scale(body: Body) -> float:
    """Scale of the parcel in an ACT whose activation was read before."""
    (count,) = _unpack("<Hxx", body, "ACT")
    scale: float = struct.unpack_from("<f", body, 4 + 2 * count + 8)[0]
    return scale


def act_kept(body: Body) -> NDArray[np.float32]:
    """1 where the activation of an ACT that was read before, in a sparse codec, has values, else
    0."""
    (count,) = _unpack("<Hxx", body, "ACT")
    at = 4 + 2 * count
    shape = parcel.unpack(body, at)[0].shape
    ones = parcel.pack_kept(np.ones(shape, np.float32), body, at_offset=at)
    return (parcel.unpack_kept(ones, body, at_offset=at)[0] > 0).astype(np.float32)


def read_result(body: Body) -> tuple[int, int, float]:
    """Correct, total, sum of losses of a RESULT with LOCAL."""
    correct, total, loss = _unpack("<IIf", body, "RESULT")
    return correct, total, loss


UNSURE = 0xFFFF  # what an exit says of a sample that it leaves to the layers behind


def read_exit_result(
    body: Body,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32] | None]:
    """Labels [n], the exit's answers [n] (-1: not sure) and the activations of those it is not sure
    of, in order, of a RESULT with EXIT; None if there are none.
    """
    count, rest = _unpack("<HH", body, "RESULT")
    if 4 + 4 * count > len(body):
        raise ProtocolError(f"RESULT: expected {count} answers, the body has {len(body)} bytes")
    labels = np.frombuffer(body, "<u2", count, 4).astype(np.int32)
    answers = np.frombuffer(body, "<u2", count, 4 + 2 * count).astype(np.int32)
    unsure = answers == UNSURE
    end = 4 + 4 * count
    if int(unsure.sum()) != rest or (rest == 0 and len(body) != end):
        raise ProtocolError(
            f"RESULT: {int(unsure.sum())} answers are open, {rest} are said to be, and "
            f"{len(body) - end} bytes follow"
        )
    found = _last_parcel(body, end, "RESULT") if rest else None
    if found is not None and len(found) != rest:
        raise ProtocolError(f"RESULT: expected {rest} activations, got {len(found)}")
    return labels, np.where(unsure, -1, answers).astype(np.int32), found


@dataclass(frozen=True)
class PeerError:
    code: int
    kind: int
    text: str


def error_body(status: int, kind: int, text: str) -> bytes:
    raw = text.encode()[:512]
    return struct.pack("<HBxH", abs(status), kind & 0xFF, len(raw)) + raw


def read_error(body: Body) -> PeerError:
    code, kind, size = _unpack("<HBxH", body, "ERROR")
    return PeerError(code, kind, _text(body, 6, size, "ERROR"))


def bye_body(text: str) -> bytes:
    raw = text.encode()[:512]
    return struct.pack("<H", len(raw)) + raw


def read_bye(body: Body) -> str:
    (size,) = _unpack("<H", body, "BYE")
    return _text(body, 2, size, "BYE")


# ---- zone and cloud ----


def zone_body(
    meta: dict[str, Any],
    arrays: Mapping[str, Array],
    parcels: Mapping[str, bytes] | None = None,
) -> bytes:
    """meta as JSON with "tensors" added, then one parcel an array (scalars travel as [1]): that of
    `parcels`, where it was packed before, else f32."""
    names = list(arrays)
    shapes = {name: list(np.shape(arrays[name])) for name in names}
    head = json.dumps({**meta, "tensors": names, "shapes": shapes}).encode()
    parts = [struct.pack("<I", len(head)), head]
    parts += [parcels[n] if parcels else _flat_parcel(arrays[n]) for n in names]
    return b"".join(parts)


def _flat_parcel(array: Array) -> bytes:
    return parcel.pack(np.ascontiguousarray(array, dtype=np.float32).reshape(-1), "f32")


def read_zone(body: Body) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """(meta, arrays by name). ProtocolError or SeamError for anything that does not add up."""
    (size,) = _unpack("<I", body, "ZONE")
    try:
        meta = json.loads(_text(body, 4, size, "ZONE"))
    except ValueError as error:
        raise ProtocolError(f"ZONE: the JSON cannot be read: {error}") from None
    if not isinstance(meta, dict):
        raise ProtocolError("ZONE: expected a JSON object")
    names, shapes = meta.get("tensors", []), meta.get("shapes", {})
    if not isinstance(names, list) or not isinstance(shapes, dict):
        raise ProtocolError("ZONE: expected a list of tensor names and an object of shapes")
    arrays: dict[str, NDArray[np.float32]] = {}
    at = 4 + size
    for name in names:
        flat, at = parcel.unpack(body, at)
        arrays[_name(name, arrays)] = _shaped(flat, shapes.get(name), name)
    if at != len(body):
        raise ProtocolError(f"ZONE: {len(body) - at} bytes follow the last tensor")
    return meta, arrays


def _name(name: Any, arrays: Mapping[str, Array]) -> str:
    if not isinstance(name, str) or name in arrays:
        raise ProtocolError(f"ZONE: expected distinct tensor names, got {name!r}")
    return name


def _shaped(flat: NDArray[np.float32], shape: Any, name: str) -> NDArray[np.float32]:
    if not isinstance(shape, list) or not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ProtocolError(f"ZONE: {name} has no shape")
    if int(np.prod(shape, dtype=np.int64)) != flat.size:
        raise ProtocolError(f"ZONE: {name} has {flat.size} values, its shape is {shape}")
    return flat.reshape(shape)
