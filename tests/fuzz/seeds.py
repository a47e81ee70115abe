"""Writes the bytes the fuzzers start from: `seeds.py FOLDER` makes one folder for each target."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from seamline.kernels import parcel
from seamline.kernels._link import PacketEnd, encode_frame
from seamline.runtime import message as wire
from seamline.runtime.message import Flag, Kind, Message
from seamline.runtime.plan import LayerSpec, build_plan
from seamline.runtime.q8_parameters import blob_of
from seamline.runtime.q8_plan import build_q8_plan
from seamline.runtime.quantised import QuantisedFront, QuantisedLayer

SAME = ((1, 1), (1, 1))


def plans() -> dict[str, bytes]:
    """Small ones that have every kind of layer between them."""
    residual = [
        LayerSpec("conv2d", 0, (6, 6, 4), kernel=(3, 3), padding=SAME),
        LayerSpec("group_norm", 1, (6, 6, 4), groups=2),
        LayerSpec("relu", 2, (6, 6, 4)),
        LayerSpec("depthwise", 3, (6, 6, 4), kernel=(3, 3), padding=SAME),
        LayerSpec("add", 4, (6, 6, 4), second_input=3),
        LayerSpec("max_pool", 5, (3, 3, 4), kernel=(2, 2), stride=(2, 2)),
        LayerSpec("average_pool", 6, (1, 1, 4), kernel=(3, 3)),
        LayerSpec("flatten", 7, (1, 1, 4)),
        LayerSpec("dense", 8, (1, 1, 3)),
    ]
    strided = [
        LayerSpec("conv2d", 0, (1, 5, 3), kernel=(1, 5), stride=(1, 2), padding=((0, 0), (2, 2))),
        LayerSpec("relu", 1, (1, 5, 3), ceiling=6.0),
        LayerSpec("depthwise", 2, (1, 3, 6), kernel=(1, 2), dilation=(1, 2), has_bias=False),
    ]
    exit_ = [
        *strided[:2],
        LayerSpec("average_pool", 2, (1, 1, 3), kernel=(1, 5)),
        LayerSpec("dense", 3, (1, 1, 3)),
    ]
    return {
        "exit": build_plan(exit_, (1, 10, 2), 3, seam=2),
        "residual": build_plan(residual, (6, 6, 2), 2),
        "strided": build_plan(strided, (1, 10, 2), 3),
        "dense": build_plan([LayerSpec("dense", 0, (1, 1, 5))], (1, 1, 7), 1),
    }


def q8_plans() -> dict[str, bytes]:
    """Plans of int8 fronts, each with its parameters behind it."""
    separable = [
        LayerSpec("conv2d", 0, (5, 4, 3), kernel=(2, 3), stride=(1, 2), padding=((0, 0), (1, 1))),
        LayerSpec("depthwise", 1, (5, 4, 6), kernel=(3, 3), padding=SAME, has_bias=False),
        LayerSpec("relu", 2, (5, 4, 6)),
        LayerSpec("add", 3, (5, 4, 6), second_input=2),
        LayerSpec("max_pool", 4, (2, 2, 6), kernel=(2, 2), stride=(2, 2)),
    ]
    dense = [
        LayerSpec("average_pool", 0, (1, 2, 3), kernel=(2, 2), stride=(2, 2)),
        LayerSpec("flatten", 1, (1, 1, 6)),
        LayerSpec("dense", 2, (1, 1, 4)),
    ]
    found = {}
    for name, layers, shape in (("separable", separable, (6, 8, 2)), ("dense", dense, (2, 4, 3))):
        blob = blob_of(q8_front(layers, shape))
        for momentum in ("none", "float"):
            plan = build_q8_plan(layers, shape, 2, momentum=momentum)
            found[f"{name}-{momentum}"] = plan + blob
        for how in ({}, {"sums": "pieces"}, {"training": False}):
            plan = build_q8_plan(layers, shape, 2, **how)
            found["-".join([name, *how])] = plan + blob
        found[f"{name}-exit"] = build_q8_plan(layers, shape, 2, seam=len(layers) - 1) + blob
    return found


def q8_front(layers: list[LayerSpec], shape: tuple[int, int, int]) -> QuantisedFront:
    """A front of these layers with weights that are all there is of int8."""
    shapes = [shape, *(layer.output_shape for layer in layers)]
    made = [q8_layer(layer, shapes[layer.input]) for layer in layers]
    scales, zeros = np.full(len(shapes), 0.05, np.float32), np.full(len(shapes), -3, np.int32)
    return QuantisedFront(shape, made, scales, zeros, list(range(len(shapes))))


def q8_layer(spec: LayerSpec, source: tuple[int, int, int]) -> QuantisedLayer:
    if spec.kind == "add":
        names = [f"{who}_{what}" for who in "aby" for what in ("multiplier", "shift")]
        return QuantisedLayer(
            spec, sum=dict(zip(names, (1 << 30, 0, 1 << 30, 0, 1 << 30, -18), strict=True))
        )
    out = spec.output_shape[2]
    count = spec.parameters(source) - out * spec.has_bias
    if count <= 0:
        return QuantisedLayer(spec)
    return QuantisedLayer(
        spec,
        weights=(np.arange(count) * 37 % 255 - 127).astype(np.int8),
        bias=np.arange(out, dtype=np.int32) if spec.has_bias else None,
        weight_scales=np.full(out, 0.01, np.float32),
        multiplier=np.full(out, 1 << 30, np.int32) + np.arange(out, dtype=np.int32),
        shift=np.full(out, -8, np.int32),
    )


def parcels() -> dict[str, bytes]:
    x = np.linspace(-2, 3, 15, dtype=np.float32).reshape(1, 5, 3)
    return {
        f"{codec}-{rounding}": parcel.pack(x, codec, rounding=rounding, seed=7)
        for codec in parcel.CODECS
        for rounding in ("nearest", "stochastic")
    }


def frames() -> dict[str, bytes]:
    """What two ends of a line say to each other, for a decoder with room and for one without."""
    ends = [PacketEnd(1 << 32, 0), PacketEnd(2 << 32, 0)]
    said = b""
    for now in range(0, 300, 10):
        for end, other in (ends, ends[::-1]):
            data = end.output(now)
            other.feed(data, now)
            said += data
            if end.joined and not end.busy:
                end.send(bytes(range(100)) * 3)
    return {"room": b"\xff" + said[:1500], "tight": b"\x09" + said[:300], "one": encode_frame(b"x")}


def packets() -> dict[str, bytes]:
    """Calls of an owner and packets of a peer that opens, sends a message and acknowledges."""
    opened = bytes([0x11, 0, 1, 0]) + (9 << 32).to_bytes(8, "little") + bytes(8)
    opened += bytes([0, 4, 8, 0, 0, 2, 0, 0])  # mtu 1024, window 8, room 512
    data = bytes([0x12, 1, 1, 0]) + bytes(10) + b"\x55" * 6
    ack = bytes([0x13, 0, 2, 0]) + bytes(10) + bytes([0, 2, 0, 0, 1, 0]) + bytes(4)
    came = [b"\x00" + len(one).to_bytes(2, "little") + one for one in (opened, data, ack)]
    calls = [came[0], came[1], b"\x05\x40", b"\x03\x10\x20", b"\x04", came[2]]
    return {"talk": b"\x0f" + b"".join(calls), "bad": b"\x10" + b"".join(calls * 3)}


def handshakes() -> dict[str, bytes]:
    """A known host, a secret, a code: its right answers, packets and words of a pairing under the
    seal; and bodies that are nearly right.
    """

    def given(call: int, data: bytes) -> bytes:
        return bytes([call]) + len(data).to_bytes(2, "little") + data

    def hello(patterns: int, name: bytes, last: int = 1) -> bytes:
        return b"\x14\0\1" + bytes([last, 1, patterns]) + bytes(16) + bytes([len(name)]) + name

    opened = bytes([0x11, 0, 1, 0]) + (9 << 32).to_bytes(8, "little") + bytes(8)
    opened += bytes([0, 4, 8, 0, 0, 2, 0, 0])  # mtu 1024, window 8, room 512
    data = bytes([0x12, 1, 1, 0]) + bytes(10) + b"\x55" * 6
    pair = [given(7, bytes([0x15, answer, reason])) for answer, reason in ((0, 0), (1, 0), (2, 0))]
    right = b"\6" * 3
    bad = [
        given(0, hello(7, b"host-A")), given(2, hello(7, "höst".encode())),
        given(2, hello(1, b"n" * 64)), given(2, hello(7, b"host-A", 9)), given(0, b"\x14\2"),
        given(2, b"\x14\2" + bytes(96)), given(2, b"\x14\x0f\2\0"), given(1, b"\x18" + bytes(30)),
        given(3, b"\x18\0\0" + bytes(20)), given(2, b"\x12" + bytes(20)), b"\5\x40\x40",
    ]  # fmt: skip
    # Behind a right HELLO: a second message cut at each of its parts, and a name that is too long.
    cut = [
        b"\6" + given(0, b"\x14\2" + bytes(size)) + b"\5\xff\x20" for size in (0, 31, 40, 70, 90)
    ]
    cut += [given(0, hello(7, b"n" * 64)), given(0, hello(7, b"n" * 200)), b"\6"]
    brief = bytes([0x12, 0x80, 2, 0]) + bytes(10) + b"\x55" * 6  # its connection is not sent
    talk = [
        given(7, opened),
        given(7, brief),
        given(7, b"\x12\x80"),
        given(7, data),
        b"\x09\x40",
        b"\x09\1",
        b"\5\xff\x20",
    ]
    found = {
        "known": b"\0" + right + b"".join(talk),
        "secret": b"\1" + right + b"".join(pair),
        "code": b"\2" + right + pair[0] + b"\x09\1" + b"".join(pair),
        "no": b"\2" + right + pair[0] + given(7, b"\x15\3\2"),
        "bad-known": b"\3" + b"".join(bad) + b"\5\xff\x20" + right + b"".join(bad + talk),
        "bad-secret": b"\4" + b"".join(bad) + right + b"".join(bad + pair),
        "dry": b"\7" + right + b"\5\xff\x20" + right + b"".join(pair),
    }
    sealed = [given(1, b"\x18\0\0" + bytes(size)) for size in (0, 1, 15, 16, 17)]
    names = ("cut-known", "cut-secret", "cut-code")
    found |= {name: bytes([i]) + b"".join(cut + sealed) for i, name in enumerate(names)}
    return found


def conversations() -> dict[str, bytes]:
    """What a host says to a device: a whole round of training, of an f32 and of an int8 front."""
    layers = [LayerSpec("dense", 0, (1, 1, 3))]
    q8 = q8_front(layers, (1, 1, 4))
    weights = {
        "f32": parcel.pack(np.ones(15, np.float32), "f32"),
        "q8": wire.bytes_parcel(blob_of(q8)),
    }
    plans = {"f32": build_plan(layers, (1, 1, 4), 2), "q8": build_q8_plan(layers, (1, 1, 4), 2)}
    found = {
        f"{name}-{how}": _conversation(plans[name], weights[name], how)
        for name in plans
        for how in (0, Flag.LOCAL)
    }
    layers = [*layers, LayerSpec("dense", 1, (1, 1, 3))]
    plan = build_q8_plan(layers, (1, 1, 4), 2, seam=1)
    blob = wire.bytes_parcel(blob_of(q8_front(layers, (1, 1, 4))))
    found["q8-exit"] = _conversation_with_exit(plan, blob, plans["q8"])
    plan = build_plan(layers, (1, 1, 4), 2, seam=1)
    ones = parcel.pack(np.ones(27, np.float32), "f32")
    return found | {"f32-exit": _conversation_with_exit(plan, ones, plans["f32"])}


def _conversation_with_exit(plan: bytes, weights: bytes, other: bytes) -> bytes:
    settings = wire.Settings(5, 2, parcel.CODECS["int8"], parcel.CODECS["int8"], 1, 0.9, 1e-3, 1)
    local = Flag.LOCAL | Flag.FROZEN
    return _said(
        Message(Kind.WELCOME, 7, body=wire.welcome_body()),
        Message(Kind.PLAN, 7, body=wire.plan_body(settings, plan)),
        Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS, wire.step_body(0.1, 0, 0, weights)),
        Message(Kind.GRAD, 7, 1, 0, local, wire.local_body(0.1, 0.5, 2)),
        Message(Kind.GRAD, 7, 1, 1, local | Flag.LAST, wire.local_body(0.1, 0.5, 1)),
        Message(Kind.EVAL, 7, 1, 3, Flag.EXIT, wire.exit_body(0, 2, 1.0, 0.9, None)),
        Message(Kind.WEIGHTS_GET, 7, 1, 2, Flag.MOMENTUM),
        Message(Kind.PLAN, 7, 2, body=wire.plan_body(settings, other)),
        Message(Kind.PLAN, 7, 3, body=wire.plan_body(settings, plan)),
        Message(Kind.WEIGHTS, 7, 3, 0, Flag.MOMENTUM, bytes(8) + weights),
    )


def _conversation(plan: bytes, weights: bytes, how: int) -> bytes:
    settings = wire.Settings(5, 2, parcel.CODECS["int8"], parcel.CODECS["int8"], 1, 0.9, 1e-3, 1)
    gradient = parcel.pack_int8(np.ones((2, 1, 1, 3), np.int8), 0.25)
    return _said(
        Message(Kind.WELCOME, 7, body=wire.welcome_body()),
        Message(Kind.PLAN, 7, body=wire.plan_body(settings, plan)),
        Message(Kind.STEP, 7, 1, 0, Flag.WEIGHTS | how, wire.step_body(0.1, 0, 2, weights)),
        Message(Kind.GRAD, 7, 1, 0, 0, wire.grad_body(0.1, 0.5, gradient)),
        Message(Kind.GRAD, 7, 1, 1, Flag.LAST, wire.grad_body(0.1, 0.5, gradient)),
        Message(Kind.WEIGHTS_GET, 7, 1, 2),
        Message(Kind.EVAL, 7, 1, 3, Flag.WEIGHTS, wire.eval_body(0, 2, weights)),
        Message(Kind.PROBE, 7, 1, 4, body=b"probe"),
        Message(Kind.ERROR, 7, body=wire.error_body(-11, Kind.ACT, "no")),
        Message(Kind.BYE, 7, body=wire.bye_body("done")),
    )


def _said(*messages: Message) -> bytes:
    whole = [message.encode() for message in messages]
    return b"".join(len(one).to_bytes(2, "little") + one for one in whole)


def main(folder: Path) -> None:
    targets = {"plan": plans(), "q8_plan": q8_plans(), "parcel": parcels(), "frame": frames()}
    targets |= {"packet": packets(), "session": conversations(), "handshake": handshakes()}
    for target, seeds in targets.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
