"""How long a device's kernels take for a layer: what a profile of a device is measured with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from ..kernels import parcel
from ..kernels.bench import Prepared, Work, interleave
from ..kernels.front import Front
from .budget import ACT_HEAD, CODECS, MESSAGE
from .networks import Network, Piece, Unit, make_piece
from .plan import LayerSpec, Shape, build_plan, size_up
from .profile import Codec, Profile, ProfileError, Times

VALUES = 65_536  # of the parcel that packing is timed with
RATE, MOMENTUM = 1e-6, 0.9  # a rate that does not let the numbers run away


def front_of(piece: Piece, *, backward: bool = False) -> Front:
    """The piece as a device runs it: a plan in an arena. backward: the gradient of an inner piece's
    input is made, too, as it is inside a network."""
    layers = piece.layers
    if piece.inner and backward:
        # A sum in front of the piece, whose backward does nothing, makes it compute the gradient
        # of its input.
        before = LayerSpec("add", 0, piece.input_shape, second_input=0)
        layers = [before, *(_one_later(layer) for layer in layers)]
    front = Front(build_plan(layers, piece.input_shape, piece.batch))
    front.params[:] = piece.parameters
    return front


def _one_later(layer: LayerSpec) -> LayerSpec:
    second = layer.second_input
    return replace(
        layer, input=layer.input + 1, second_input=None if second is None else second + 1
    )


def unit_times(
    net: Network,
    units: Sequence[Unit],
    batch: int,
    repeat: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Times]:
    """Seconds of each unit on this machine's kernels, one thread, f32: the least of `repeat`
    samples. Backward with the gradient of the input (but for what reads the network's) and the
    update.
    """
    found = []
    for unit in units:
        progress(unit.name)
        layers, shape = net.part(unit.first, unit.end)
        times = interleave(works_of(layers, shape, batch, inner=unit.first > 0), repeat)
        found.append(Times(*(times[name].us / 1e6 for name in ("infer", "forward", "backward"))))
    return found


def works_of(
    layers: list[LayerSpec], shape: Shape, batch: int, *, inner: bool
) -> dict[str, Work | Prepared]:
    """What is timed of a chain of layers: a sample's forward pass; a batch's, and its backward."""
    one = make_piece(layers, shape, 1, inner=inner)
    many = make_piece(layers, shape, batch, inner=inner)
    return {"infer": _forward(one), "forward": _forward(many), "backward": _backward(many)}


def time_again(
    profile: Profile, device: str, repeat: int, progress: Callable[[str], None] = lambda text: None
) -> Profile:
    """The profile with this machine's times as the device's: layers and codecs. Needs no PyTorch.

    Raises ProfileError for one without layers, PlanError for layers that do not fit together.
    """
    if not profile.layers or profile.input_shape is None:
        raise ProfileError(
            f"the profile of {profile.model} has no layers: make it with `seamline profile`"
        )
    layers = [layer.spec() for layer in profile.layers]
    size_up(layers, profile.input_shape, profile.batch)
    units, first = [], 0
    for unit in profile.units:
        if unit.layers:
            units.append(Unit(unit.name, first, first + unit.layers))
            first += unit.layers
    net = Network(profile.model, profile.input_shape, layers, units, len(layers))
    times = iter(unit_times(net, units, profile.batch, repeat, progress))
    timed = [
        msgspec.structs.replace(u, device=next(times)) if u.layers else u for u in profile.units
    ]
    own = {codec.name: codec for codec in codec_profiles(repeat)}
    codecs = [
        codec
        if codec.name not in own
        else msgspec.structs.replace(
            codec,
            device_pack=own[codec.name].device_pack,
            device_unpack=own[codec.name].device_unpack,
        )
        for codec in profile.codecs
    ]
    return msgspec.structs.replace(
        profile, units=tuple(timed), codecs=tuple(codecs), device=device, origin="measured"
    )


def _forward(piece: Piece) -> Work:
    front, x = front_of(piece), piece.x
    return lambda: front.forward(x)


def _backward(piece: Piece) -> Prepared:
    front, x, dy = front_of(piece, backward=True), piece.x, piece.dy

    def back() -> None:
        front.backward(dy)
        if len(piece.parameters):
            front.update(rate=RATE, momentum=MOMENTUM)

    return Prepared(lambda: front.forward(x), back)


def codec_profile(name: str, repeat: int) -> Codec:
    """Bytes of a message as real parcels have them, and this machine's time to pack and unpack,
    taken for both ends."""
    values = np.random.default_rng(1).normal(0, 1, VALUES).astype(np.float32)
    packed = parcel.pack(values, name)
    sizes = [len(parcel.pack(values[:count].reshape(1, 1, 1, -1), name)) for count in (8, 16)]
    bits = sizes[1] - sizes[0]
    head = MESSAGE + ACT_HEAD + sizes[0] - bits
    works = {"pack": lambda: parcel.pack(values, name), "unpack": lambda: parcel.unpack(packed)}
    times = interleave(works, repeat)
    pack, unpack = (times[what].us / 1e6 / VALUES for what in ("pack", "unpack"))
    return Codec(name, head, bits, pack, unpack, pack, unpack)


def codec_profiles(repeat: int) -> tuple[Codec, ...]:
    """Of all codecs that f32 fronts may use."""
    return tuple(codec_profile(name, repeat) for name in CODECS["f32"])
