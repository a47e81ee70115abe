"""Profiles: what a network takes on a device and on an edge host, and what the link between them
carries. Measured once, kept as JSON, enough to choose a seam without any of the three."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from .errors import UserError
from .plan import LayerSpec

MOST_UNITS = 4096
MOST_BYTES = 2**24  # of a file

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class ProfileError(UserError):
    """A profile that is missing, damaged or contradicts itself (exit code 3)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 3)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value in a profile."""


class Times(Record, frozen=True):
    """Seconds. infer: forward over one sample; forward, backward: over a training batch, backward
    with the gradient of the input and the update of the weights."""

    infer: Amount
    forward: Amount
    backward: Amount

    @property
    def training(self) -> float:
        return self.forward + self.backward


class Features(Record, frozen=True):
    """What the time of a unit depends on: its input map (h, w, c), its output map, the first
    layer's kernel and stride."""

    input: tuple[Positive, Positive, Positive]
    output: tuple[Positive, Positive, Positive]
    kernel: tuple[Positive, Positive] = (1, 1)
    stride: tuple[Positive, Positive] = (1, 1)


class Layer(Record, frozen=True):
    """A plan's layer (see `plan.LayerSpec`), so that a device without PyTorch can time it. ceiling
    None: a relu without one."""

    kind: Name
    input: Count
    output: tuple[Positive, Positive, Positive]
    second_input: Count | None = None
    kernel: tuple[Count, Count] = (1, 1)
    stride: tuple[Count, Count] = (1, 1)
    dilation: tuple[Count, Count] = (1, 1)
    padding: tuple[tuple[Count, Count], tuple[Count, Count]] = ((0, 0), (0, 0))
    groups: Positive = 1
    has_bias: bool = True
    ceiling: Amount | None = None
    epsilon: Amount = 1e-5

    @classmethod
    def of(cls, spec: LayerSpec) -> Layer:
        """The layer of a plan."""
        ceiling = spec.ceiling if math.isfinite(spec.ceiling) else None
        return cls(
            spec.kind, spec.input, spec.output_shape, spec.second_input, spec.kernel, spec.stride,
            spec.dilation, spec.padding, spec.groups, spec.has_bias, ceiling, spec.epsilon,
        )  # fmt: skip

    def spec(self) -> LayerSpec:
        """Back to the layer of a plan."""
        ceiling = math.inf if self.ceiling is None else self.ceiling
        return LayerSpec(
            self.kind, self.input, self.output, self.second_input, self.kernel, self.stride,
            self.dilation, self.padding, self.groups, self.has_bias, ceiling, self.epsilon,
        )  # fmt: skip


class Unit(Record, frozen=True):
    """Something that runs whole on one side: a layer and the activation behind it.

    inputs: tensors it reads; 0 is the network's input, i + 1 what unit i makes. values: floats of
    one sample it makes. macs: multiply-adds of one sample. device None: devices have no kernel.
    layers: how many of the profile's layers it is; units that devices run come first.
    """

    name: Name
    kind: Name
    inputs: tuple[Count, ...]
    values: Positive
    parameters: Count
    macs: Count
    edge: Times
    device: Times | None = None
    features: Features | None = None
    layers: Count = 0


class Exit(Record, frozen=True):
    """A small head that answers (or gives a loss) from what unit `behind` makes. The network's own
    end is no Exit: it is always there. accuracy: on validation data, where it is known."""

    name: Name
    behind: Count
    head: Unit  # its inputs: (behind + 1,)
    accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Seam(Record, frozen=True):
    """A cut that seamline can run. units: how many are in front. number: what to write as `seam`.

    Bytes: RAM of a device that trains, of one that infers, its flash, and all that is learned as
    one message, up and down.
    """

    units: Positive
    number: Positive
    name: Name
    training_ram: Count
    inference_ram: Count
    flash: Count
    weights_up: Count
    weights_down: Count


class Codec(Record, frozen=True):
    """Bytes of a message with n values: head + ceil(bits * n / 8), which real parcels gave. Seconds
    a value for packing on one side and unpacking on the other."""

    name: Name
    head: Count
    bits: Annotated[int, msgspec.Meta(ge=1, le=64)]
    device_pack: Amount = 0.0
    device_unpack: Amount = 0.0
    edge_pack: Amount = 0.0
    edge_unpack: Amount = 0.0

    def size(self, values: int) -> int:
        """Bytes of a message of so many values."""
        return self.head + -(-self.bits * values // 8)

    def on_device(self, factor: float) -> Codec:
        """The same with a device that takes so many times as long."""
        pack, unpack = factor * self.device_pack, factor * self.device_unpack
        return msgspec.structs.replace(self, device_pack=pack, device_unpack=unpack)


class Link(Record, frozen=True):
    """up, down: bits a second as measured; round_trip: seconds; loss: share of packets that are
    sent again."""

    up: Amount
    down: Amount
    round_trip: Amount = 0.0
    loss: Share = 0.0

    def seconds(self, size: float, *, down: bool = False) -> float:
        """Until `size` bytes have crossed, without the round trip. A lost packet goes again, so
        goodput is (1 - loss) of the rate; nothing crosses a link without bandwidth."""
        rate = (self.down if down else self.up) * (1 - self.loss)
        if size <= 0:
            return 0.0
        return 8 * size / rate if rate > 0 else math.inf

    @property
    def turn(self) -> float:
        """Seconds of a question and its answer beside the bytes: the round trip, and again for
        each one that is lost."""
        return self.round_trip / (1 - self.loss)


class Energy(Record, frozen=True):
    """Joules on the device. wait: watts while it waits for the edge host."""

    mac: Amount
    byte_up: Amount
    byte_down: Amount
    wait: Amount = 0.0


class Profile(Record, frozen=True):
    """A network on one kind of device and one edge host. batch: of the training times.

    ram, flash: bytes the device has; 0: not known, no limit.
    """

    model: Name
    device: Name
    edge: Name
    batch: Positive
    input_values: Positive
    units: tuple[Unit, ...]
    seams: tuple[Seam, ...] = ()
    exits: tuple[Exit, ...] = ()
    codecs: tuple[Codec, ...] = ()
    link: Link | None = None
    energy: Energy | None = None
    answer_bytes: Count = 64  # what comes back to a device that asked
    ram: Count = 0
    flash: Count = 0
    input_shape: tuple[Positive, Positive, Positive] | None = None  # h, w, c
    layers: tuple[Layer, ...] = ()  # of what devices run, for a device to time
    origin: Literal["measured", "predicted", "given"] = "given"
    format: Literal[1] = 1
    arithmetic: Literal["f32", "q8"] = "f32"  # of the device

    def codec(self, name: str) -> Codec:
        """Raises ProfileError (exit 3) that lists those it knows."""
        for codec in self.codecs:
            if codec.name == name:
                return codec
        known = ", ".join(codec.name for codec in self.codecs) or "none"
        raise ProfileError(f"the profile knows no codec {name!r}, only {known}: measure it again")

    def exit(self, name: str) -> Exit:
        """Raises ProfileError (exit 3) that lists those the network has."""
        for found in self.exits:
            if found.name == name:
                return found
        known = ", ".join(found.name for found in self.exits)
        text = f"its exits are {known}" if known else "it has none but its end"
        raise ProfileError(f"the network has no exit {name!r}: {text}")


# ---- files ----


def save_profile(profile: Profile, path: Path) -> None:
    """As JSON, for people to read and for `load_profile`."""
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    path.write_bytes(text + b"\n")


def load_profile(path: Path) -> Profile:
    """Raises ProfileError (exit 3): missing, too long, no JSON, a field of the wrong type, an
    unknown field, or units that do not fit together."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ProfileError(
            f"{path}: {error.strerror or error}; `seamline profile JOB --out FILE` makes one"
        ) from None
    if len(data) > MOST_BYTES:
        raise ProfileError(f"{path}: a profile has at most {MOST_BYTES} bytes; this is none")
    return read_profile(data, str(path))


def read_profile(data: bytes, name: str = "profile") -> Profile:
    """The profile in these bytes. Raises ProfileError as `load_profile` does."""
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(
            f"{name}: {error}; `seamline profile JOB --out FILE` makes a profile"
        ) from None
    wrong = next(_wrong(profile), None)
    if wrong is not None:
        raise ProfileError(f"{name}: {wrong}; measure it again with `seamline profile`")
    return profile


def check_profile(profile: Profile) -> None:
    """Raises ProfileError if the parts do not fit together: for profiles made by hand."""
    wrong = next(_wrong(profile), None)
    if wrong is not None:
        raise ProfileError(f"profile of {profile.model}: {wrong}")


def _wrong(profile: Profile) -> Iterator[str]:
    """What contradicts itself, in words; types and ranges were checked before."""
    yield from _wrong_units(profile)
    if sum(unit.layers for unit in profile.units) != len(profile.layers):
        yield f"its units have other layers than the {len(profile.layers)} there are"
    for seam in profile.seams:
        if seam.units > len(profile.units):
            yield f"seam {seam.number}: expected at most {len(profile.units)} units in front"
    for found in profile.exits:
        if found.behind >= len(profile.units):
            yield f"exit {found.name}: there is no unit {found.behind} to be behind"
        elif found.head.inputs != (found.behind + 1,):
            yield f"exit {found.name}: its head reads tensor {found.behind + 1} and nothing else"
    for what, names in _names(profile):
        if len(set(names)) != len(names):
            yield f"two {what} have one name"
    yield from _not_finite(profile)


def _wrong_units(profile: Profile) -> Iterator[str]:
    if not 1 <= len(profile.units) <= MOST_UNITS:
        yield f"expected 1 to {MOST_UNITS} units, got {len(profile.units)}"
    for index, unit in enumerate(profile.units):
        if not unit.inputs or max(unit.inputs) > index:
            yield f"unit {index} ({unit.name}): expected inputs up to {index}, got {unit.inputs}"
    read = {tensor for unit in profile.units for tensor in unit.inputs}
    for index, unit in enumerate(profile.units[:-1]):
        if index + 1 not in read:
            yield f"unit {index} ({unit.name}): nothing reads what it makes"


def _names(profile: Profile) -> Iterator[tuple[str, Sequence[str]]]:
    yield "codecs", [codec.name for codec in profile.codecs]
    yield "exits", [found.name for found in profile.exits]


def _not_finite(profile: Profile) -> Iterator[str]:
    """JSON's 1e999 is read as infinity."""
    for unit in (*profile.units, *(found.head for found in profile.exits)):
        for side in (unit.edge, unit.device):
            if side and not all(map(math.isfinite, (side.infer, side.forward, side.backward))):
                yield f"unit {unit.name}: a time is not finite"
    for codec in profile.codecs:
        rates = (codec.device_pack, codec.device_unpack, codec.edge_pack, codec.edge_unpack)
        if not all(map(math.isfinite, rates)):
            yield f"codec {codec.name}: a time is not finite"
    link, energy = profile.link, profile.energy
    if link and not all(map(math.isfinite, (link.up, link.down, link.round_trip))):
        yield "link: a figure is not finite"
    if energy and not all(
        map(math.isfinite, (energy.mac, energy.byte_up, energy.byte_down, energy.wait))
    ):
        yield "energy: a figure is not finite"
