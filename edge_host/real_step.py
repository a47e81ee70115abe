"""Real steps and inferences at every legal seam: what a plan's prediction is held against."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..kernels import parcel
from ..kernels.front import Front, encode_message
from ..runtime.budget import ACT_HEAD, GRAD_HEAD, LABEL, MESSAGE
from ..runtime.message import Kind, grad_body, weights_body
from ..runtime.plan import build_plan
from ..runtime.profile import Profile
from .back import Back
from .models import input_shape
from .partition import Pass
from .split import END, Split, list_candidates, split

RATE, MOMENTUM = 1e-6, 0.9  # a rate that does not let the numbers run away
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Model = nn.Module  # for those that do not import PyTorch
Wait = Callable[[int, bool], None]


@dataclass(frozen=True)
class Stages:
    """Seconds on each side, and bytes of the messages. ahead, back: the device's kernels; packing,
    unpacking: its messages. shared: bytes of the front's weights as a message."""

    ahead: float = 0.0
    packing: float = 0.0
    edge: float = 0.0
    unpacking: float = 0.0
    back: float = 0.0
    up: int = 0
    down: int = 0
    shared: int = 0

    @property
    def before(self) -> float:
        """On the device, until it sends."""
        return self.ahead + self.packing

    @property
    def after(self) -> float:
        """On the device, when the answer has come."""
        return self.unpacking + self.back

    @property
    def device(self) -> float:
        return self.before + self.after


@dataclass(frozen=True)
class Place:
    """A cut that can be run. units: as a profile counts; 0: raw samples go up."""

    units: int
    number: int
    codec: str


class RealSteps:
    """A network's steps on this machine at each place: the device's kernels, the wire's messages,
    the back in PyTorch."""

    def __init__(self, model: nn.Module, profile: Profile, pass_: Pass) -> None:
        self.profile, self.pass_ = profile, pass_
        training = pass_ == "training"
        self.batch = profile.batch if training else 1
        self._model = model.eval()
        random = np.random.default_rng(3)
        shape = list_candidates(model, input_shape(model))[0].input_shape
        self._x = random.normal(0, 1, (self.batch, *shape)).astype(np.float32)
        self._steps: dict[Place, _Step | _Raw] = {}
        codecs = [codec.name for codec in profile.codecs]
        for seam in profile.seams:
            whole = seam.units == len(profile.units)
            cut = split(model, END if whole else seam.number, input_shape(model))
            for codec in codecs[:1] if whole else codecs:
                place = Place(seam.units, seam.number, codec)
                self._steps[place] = _Step(cut, self._x, codec, training=training)
        if not training:  # the cloud alone
            for codec in codecs:
                self._steps[Place(0, 0, codec)] = _Raw(model, self._x, codec)

    @property
    def places(self) -> Sequence[Place]:
        return list(self._steps)

    def run(self, place: Place, wait: Wait | None = None) -> Stages:
        """Once. wait: called with the bytes and the way (down?) while they would be on a link."""
        return self._steps[place].run(wait)

    def measure(self, repeat: int) -> dict[Place, Stages]:
        """Each stage's least of `repeat` runs; places in turn, so that a busy moment meets all."""
        found: dict[Place, Stages] = {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for turn in range(repeat + 1):  # the first warms up
                for place, step in self._steps.items():
                    now = step.run(None)
                    found[place] = now if turn < 2 else _least(found[place], now)
        finally:
            torch.set_num_threads(threads)
        return _by_seam(found)


def _least(a: Stages, b: Stages) -> Stages:
    names = ("ahead", "packing", "edge", "unpacking", "back")
    return replace(a, **{name: min(getattr(a, name), getattr(b, name)) for name in names})


def _by_seam(found: dict[Place, Stages]) -> dict[Place, Stages]:
    """A front computes the same for every codec: the least of all counts."""
    ahead: dict[int, float] = {}
    back: dict[int, float] = {}
    for place, it in found.items():
        ahead[place.units] = min(ahead.get(place.units, math.inf), it.ahead)
        back[place.units] = min(back.get(place.units, math.inf), it.back)
    return {
        place: replace(it, ahead=ahead[place.units], back=back[place.units])
        for place, it in found.items()
    }


class _Step:
    """One seam and codec."""

    def __init__(self, cut: Split, x: F32, codec: str, *, training: bool) -> None:
        self.cut, self.x, self.codec, self.training = cut, x, codec, training
        self.front = Front(build_plan(cut.front, cut.input_shape, len(x)))
        self.front.params[:] = cut.front_vector(dict(cut.model.state_dict()))
        self.labels = np.arange(len(x), dtype=np.int32) % cut.classes
        self.back = None if cut.at_end or not training else Back(cut.back, "sgd")
        self.module = cut.back.eval() if not training else cut.back
        shared = encode_message(Kind.WEIGHTS, 0, 0, 0, 0, weights_body(self.front.params))
        self.shared = len(shared) if training else 0

    def run(self, wait: Wait | None) -> Stages:
        if self.cut.at_end:
            return self._alone()
        start = time.perf_counter()
        y = self.front.forward(self.x)
        made = time.perf_counter()
        up = _act(self.labels if self.training else None, y, self.codec)
        sent = time.perf_counter()
        if wait is not None:
            wait(len(up), False)
        else:  # the edge host does nothing else: it comes to this with its caches warm
            self._answer(up)
        come = time.perf_counter()
        down = self._answer(up)
        answered = time.perf_counter()
        if wait is not None:
            wait(len(down), True)
        back = time.perf_counter()
        read = back
        if self.training:
            dy, _ = parcel.unpack(down, MESSAGE + GRAD_HEAD)
            read = time.perf_counter()
            self.front.backward(dy)
            self.front.update(rate=RATE, momentum=MOMENTUM)
        end = time.perf_counter()
        times = (made - start, sent - made, answered - come, read - back, end - read)
        return Stages(*times, len(up), len(down), self.shared)

    def _answer(self, up: bytes) -> bytes:
        y, _ = parcel.unpack(up, MESSAGE + ACT_HEAD + LABEL * len(self.labels) * self.training)
        taken = self.cut.to_nchw(y)
        if self.back is None:
            with torch.no_grad():
                logits = self.module(taken).numpy()
            return encode_message(Kind.RESULT, 0, 0, 0, 0, parcel.pack(logits, "f32"))
        labels = torch.from_numpy(self.labels.astype(np.int64))
        gradient, loss = self.back.step(taken, labels, RATE)
        assert gradient is not None and math.isfinite(loss)
        packed = parcel.pack(self.cut.to_nhwc(gradient), self.codec)
        return encode_message(Kind.GRAD, 0, 0, 0, 0, grad_body(RATE, loss, packed))

    def _alone(self) -> Stages:
        start = time.perf_counter()
        self.front.forward(self.x)
        made = time.perf_counter()
        if self.training:
            self.front.loss(self.labels)
            self.front.backward()
            self.front.update(rate=RATE, momentum=MOMENTUM)
        end = time.perf_counter()
        return Stages(ahead=made - start, back=end - made, shared=self.shared)


class _Raw:
    """The whole network in PyTorch; samples go up."""

    def __init__(self, model: nn.Module, x: F32, codec: str) -> None:
        self.model, self.x, self.codec = model, x, codec
        self.torch_shape = (-1, *input_shape(model))

    def run(self, wait: Wait | None) -> Stages:
        start = time.perf_counter()
        up = _act(None, self.x, self.codec)
        sent = time.perf_counter()
        if wait is not None:
            wait(len(up), False)
        else:
            self._answer(up)
        come = time.perf_counter()
        down = self._answer(up)
        edge = time.perf_counter() - come
        if wait is not None:
            wait(len(down), True)
        return Stages(packing=sent - start, edge=edge, up=len(up), down=len(down))

    def _answer(self, up: bytes) -> bytes:
        x, _ = parcel.unpack(up, MESSAGE + ACT_HEAD)
        with torch.no_grad():
            nchw = torch.from_numpy(x).permute(0, 3, 1, 2).reshape(self.torch_shape)
            logits = self.model(nchw).numpy()
        return encode_message(Kind.RESULT, 0, 0, 0, 0, parcel.pack(logits, "f32"))


def _act(labels: I32 | None, y: F32, codec: str) -> bytes:
    """As a device's session sends it."""
    named = b"" if labels is None else labels.astype("<u2").tobytes()
    body = struct.pack("<Hxx", len(named) // LABEL) + named + parcel.pack(y, codec)
    return encode_message(Kind.ACT, 0, 0, 0, 0, body)
