"""Images of devices: one device of one job, with its samples and keys, for a board."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..kernels import parcel
from ..runtime.arena import round16
from ..runtime.bundled import cache_folder
from ..runtime.data import Data
from ..runtime.errors import UserError
from ..runtime.plan import read_plan
from . import image, objects
from .image import CORE, HERE
from .monocypher import monocypher
from .stack import CALLS, most_stack
from .target import Target, find_target, names

MESSAGE = 24  # bytes in front of a body
PLAN_HEAD, STEP_HEAD, GRAD_HEAD, ACT_HEAD, WEIGHTS_HEAD = 24, 12, 8, 4, 8
LEAST_MESSAGE = 1024  # any other the host sends is shorter
SPARE = 16  # bytes a session keeps behind its longest answer
SAMPLES_MOST = 65535  # their numbers have 16 bits in an image
DOES_NOT_FIT = 5
_MARK = "seamline device for "
_NOTE = ".seamline.stack"  # a section of the image: the most stack it can need
WRAPPED = "seam_plan_layer"

_SESSION = ["exit", "front", "front_q8", "front_q8_backward", "front_q8_blob", "front_q8_forward"]
_SESSION += ["front_q8_loss", "message", "plan", "session"]
SOURCES = [
    *image.KERNEL_FILES,
    *(CORE / f"{stem}.c" for stem in (*_SESSION, "frame", "packet")),
    *(HERE / f"{stem}.c" for stem in ("batches", "busy", "device", "kept", "line_service")),
]


@dataclass(frozen=True)
class Keys:
    """Of a sealed line: what the device has built in. 32 bytes each, but for the host's name."""

    secret: bytes
    host: str
    host_key: bytes


@dataclass(frozen=True)
class Pairing:
    """Of a sealed line: the device makes its own keys and pairs with this host. secret: 16 bytes;
    None: people compare a code.
    """

    host: str
    secret: bytes | None = None


@dataclass(frozen=True)
class Sensor:
    """Samples that a board takes itself. hook: a C file with board_sample (board.h); training,
    tests: how many there are, by their numbers; least, most: of all values of the training samples.
    """

    hook: Path
    training: int
    tests: int
    least: float
    most: float


@dataclass(frozen=True)
class Recipe:
    """A device of a job. data: what is linked into the image, or a sensor. codecs: of f32
    activations up and gradients down. keys: None: clear text.
    """

    device_id: str
    plan: bytes
    data: Data | Sensor
    codec_up: str = "int8"
    codec_down: str = "int8"
    keys: Keys | Pairing | None = None


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image. arena: what the plan and its session take; message: room for the longest
    one from the host; stack_most: what its functions and all interrupts can need, 0: there
    is no bound; stack: what is left of the RAM for it."""

    text: int
    data: int
    bss: int
    samples: int
    arena: int
    message: int
    stack_most: int
    stack: int

    @property
    def flash(self) -> int:
        return self.text + self.data + self.samples

    @property
    def ram(self) -> int:
        """Without the stack."""
        return self.data + self.bss + self.arena + self.message


# ---- how much memory ----


def _is_q8(plan: bytes) -> bool:
    return plan[6] == 1


def memory_bytes(recipe: Recipe) -> int:
    """What a session asks for when this plan comes, exactly."""
    plan = read_plan(recipe.plan)
    parts = [plan.arena_bytes, len(recipe.plan), 4 * plan.batch]
    if not _is_q8(recipe.plan):
        act = ACT_HEAD + 2 * plan.batch + _parcel(recipe.codec_up, (plan.batch, *plan.shapes[-1]))
        weights = WEIGHTS_HEAD + _parcel("f32", (plan.parameters,))
        parts.append(MESSAGE + max(act, weights) + SPARE)
    return sum(map(round16, parts))


def message_bytes(recipe: Recipe) -> int:
    """The longest message the host has for a device with this plan."""
    plan = read_plan(recipe.plan)
    in_q8 = _is_q8(recipe.plan)
    weights = _parcel("int8" if in_q8 else "f32", (plan.blob_bytes // (1 if in_q8 else 4),))
    codec = "int8" if in_q8 else recipe.codec_down
    gradient = _parcel(codec, (plan.batch, *plan.shapes[-1]))
    bodies = PLAN_HEAD + len(recipe.plan), STEP_HEAD + weights, GRAD_HEAD + gradient
    return round16(max(LEAST_MESSAGE, MESSAGE + max(bodies)))


def _parcel(codec: str, shape: tuple[int, ...]) -> int:
    """Bytes of a parcel of this shape."""
    return len(parcel.pack(np.zeros(shape, np.float32), codec)) if np.prod(shape) else 0


# ---- the files of one device ----


def _check(recipe: Recipe) -> None:
    data, shape = recipe.data, read_plan(recipe.plan).shapes[0]
    if isinstance(data, Data) and data.x_train.shape[1:] != tuple(shape):
        raise UserError(
            f"a sample of {recipe.device_id} has the shape {data.x_train.shape[1:]}, the front "
            f"takes {tuple(shape)}",
            3,
        )
    if max(_counts(data)) > SAMPLES_MOST:
        raise UserError(
            f"{recipe.device_id} has more than {SAMPLES_MOST} samples, too many for an image: "
            "give fewer",
            3,
        )


def _counts(data: Data | Sensor) -> tuple[int, int]:
    """Samples to train and to test with."""
    if isinstance(data, Sensor):
        return data.training, data.tests
    return len(data.x_train), len(data.x_test)


def _bytes(value: bytes) -> str:
    return "{" + ", ".join(map(str, value)) + "}"


def _text(value: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in value.encode()) + '"'


def _write_samples(data: Data, folder: Path) -> list[str]:
    """samples.bin, and the C that links it."""
    x = np.concatenate([data.x_train, data.x_test]).astype("<f4")
    y = np.concatenate([data.y_train, data.y_test]).astype("<u2")
    (folder / "samples.bin").write_bytes(x.tobytes() + y.tobytes())
    return [
        "extern const float samples_x[];",
        "extern const uint16_t samples_y[];",
        '__asm__(".section .samples,\\"a\\"\\n.balign 16\\n"'
        ' ".global samples_x\\n.global samples_y\\n"'
        f' "samples_x:\\n.incbin \\"samples.bin\\"\\n.set samples_y, samples_x + {x.nbytes}\\n"'
        ' ".previous");',
    ]


def _write_device(recipe: Recipe, target: Target, folder: Path) -> Path:
    """device_config.c and samples.bin: this device as C. Nobody else may read them."""
    data, keys = recipe.data, recipe.keys
    memory, message = memory_bytes(recipe), message_bytes(recipe)
    training, tests = _counts(data)
    if isinstance(data, Sensor):
        least, most = data.least.hex(), data.most.hex()
    else:
        least, most = float(data.x_train.min()).hex(), float(data.x_train.max()).hex()
    fields = {
        "made_for": f'"{_MARK}{target.name}"',
        "id": _text(recipe.device_id),
        "training": training,
        "tests": tests,
        "values": int(np.prod(read_plan(recipe.plan).shapes[0])),
        "least": f"{least}f",
        "most": f"{most}f",
        "order": "order",
        "message": "device_message",
        "memory": "device_memory",
        "message_bytes": message,
        "memory_bytes": memory,
        "ram": f"{target.chip.ram}u",
        "flash": f"{target.chip.flash}u",
    }
    lines = [
        f"/* {target.chip.title}, made by `seamline firmware build`. */",
        '#include "device.h"',
        f"static uint16_t order[{max(1, training)}];",
        '#define LARGE __attribute__((section(".noinit"), aligned(16))) static uint8_t',
        f"LARGE device_memory[{memory}];",
        f"LARGE device_message[{message}];",
    ]
    if isinstance(data, Data):
        lines += _write_samples(data, folder)
        fields |= {"x": "samples_x", "y": "samples_y"}
    if keys is not None:
        fields["host"] = _text(keys.host)
    if isinstance(keys, Pairing) and keys.secret is not None:
        fields["pairing_secret"] = "secret"
        lines += [f"static const uint8_t secret[16] = {_bytes(keys.secret)};"]
    if isinstance(keys, Keys):
        fields |= {"secret": "secret", "host_key": "host_key"}
        lines += [f"static const uint8_t secret[32] = {_bytes(keys.secret)};"]
        lines += [f"static const uint8_t host_key[32] = {_bytes(keys.host_key)};"]
    assigned = ",\n    ".join(f".{name} = {value}" for name, value in fields.items())
    lines.append(f"const image_device device = {{\n    {assigned}}};")
    source = folder / "device_config.c"
    source.write_text("\n".join(lines) + "\n")
    return source


# ---- compiling ----


def _files(target: Target, recipe: Recipe) -> tuple[list[Path], list[str]]:
    """Sources of every device of this kind on this board, and flags."""
    base = [f for f in image.BASE_FILES if target.semihosting or f.name != "semihost.c"]
    files = [*SOURCES, *base, *(s for s in target.sources if HERE in s.resolve().parents)]
    flags = [CALLS, *target.board.flags, *image.C_FLAGS, target.optimise, f"-I{HERE / 'boards'}"]
    flags += [f"-DIMAGE_INTERRUPTS={target.interrupts}"]
    if recipe.keys is None:
        return [*files, HERE / "channel_clear.c"], flags
    crypto = monocypher()
    pairs = isinstance(recipe.keys, Pairing)
    own = ("channel_paired", "own_keys") if pairs else ("channel_sealed",)
    files += [HERE / f"{stem}.c" for stem in (*own, "crypto", "cipher")]
    files += sorted((CORE / "seal").glob("*.c"))
    # Monocypher's own choice: 13 KB less of a hash that few use.
    flags += ["-DBLAKE2_NO_UNROLLING", f"-I{CORE / 'seal'}", "-isystem", str(crypto)]
    return files, flags


def shared_objects(target: Target, recipe: Recipe) -> Path:
    """A folder of the user's cache for what `build` compiles for every device of this kind."""
    files, flags = _files(target, recipe)
    digest = hashlib.sha256(repr(flags).encode())
    for folder in (CORE, HERE):
        for path in sorted(folder.rglob("*.[ch]")):
            digest.update(path.read_bytes())
    digest.update(repr(files).encode())
    return cache_folder() / "firmware" / digest.hexdigest()[:16]


def _explained(error: objects.BuildError, what: str) -> Exception:
    """What the linker said, as far as a person can mend it."""
    over = re.search(r"region `?(\w+)' overflowed by (\d+) bytes", error.said)
    if over is not None:
        text = f"{what} does not fit: {over[1]} lacks {int(over[2]):,} bytes"
        return UserError(text, DOES_NOT_FIT)
    if "is left for the stack" in error.said:
        return UserError(f"{what} does not fit: too little RAM is left for its stack", DOES_NOT_FIT)
    lacking = re.findall(r"undefined reference to `(board_\w+|image_\w+)'", error.said)
    if lacking:
        functions = ", ".join(sorted(set(lacking)))
        return UserError(f"{what} lacks {functions}: its sources must have them (board.h)", 3)
    return error


def _compile_theirs(
    sources: Sequence[Path], flags: Sequence[str], what: str, out: Path
) -> list[Path]:
    """A user's files: warnings are allowed. Raises UserError with what the compiler says first."""
    for source in sources:
        if not source.is_file():
            raise UserError(f"there is no file {source}", 3)
    allowing = [flag for flag in flags if flag != "-Werror"]
    try:
        return objects.compile_each([s.resolve() for s in sources], allowing, out, what)
    except objects.BuildError as error:
        lines = error.said.splitlines()
        raise UserError(next((x for x in lines if "error:" in x), lines[-1]), 3) from None


def _compile_hook(hook: Path, flags: Sequence[str], what: str, out: Path) -> list[Path]:
    made = _compile_theirs([hook], flags, what, out)
    symbols = _ask("arm-none-eabi-nm", "--defined-only", str(made[0]))
    if not any(line.endswith(" T board_sample") for line in symbols.splitlines()):
        raise UserError(f"{hook} has no function board_sample (firmware_bridge/board.h)", 3)
    return made


def _note_stack(elf: Path, graphs: Sequence[Path], target: Target, what: str) -> Sizes:
    """Writes into the image how much stack it can need. Raises UserError: more than is left."""
    symbols = {line.split()[-1] for line in _ask("arm-none-eabi-nm", str(elf)).splitlines()}
    frame = 108 if "-mfloat-abi=hard" in target.board.flags else 36  # with what aligns it
    most = most_stack(graphs, symbols, WRAPPED, frame)
    note = elf.with_suffix(".stack")
    note.write_bytes(most.to_bytes(4, "little"))
    _ask("arm-none-eabi-objcopy", "--add-section", f"{_NOTE}={note}", str(elf))
    found = sizes(elf)
    if most > found.stack:
        raise UserError(
            f"{what} does not fit: its stack can need {most:,} bytes, {found.stack:,} of RAM are "
            "left",
            DOES_NOT_FIT,
        )
    return found


def _noted(elf: Path) -> int:
    """What _note_stack wrote."""
    with tempfile.NamedTemporaryFile(prefix="seamline-") as note:
        _ask("arm-none-eabi-objcopy", "-O", "binary", "--only-section", _NOTE,
             "--set-section-flags", f"{_NOTE}=alloc", str(elf), note.name)  # fmt: skip
        return int.from_bytes(Path(note.name).read_bytes(), "little")


def build(
    recipe: Recipe,
    target: Target,
    out: Path,
    shared: Path | None = None,
    own: Sequence[Path] = (),
) -> Sizes:
    """Writes the image `out`, which only its owner may read: it may hold keys.

    shared: a folder that keeps what all devices of a kind (board, sealed or clear) share. own: C
    files with hooks (board_sample, board_watchdog) in place of those that are there. Raises
    UserError: samples of another shape, a board that is too small, a user's file with a mistake.
    """
    _check(recipe)
    files, flags = _files(target, recipe)
    what = f"the image for {target.name}"
    with tempfile.TemporaryDirectory(prefix="seamline-") as draft:  # mode 0700
        folder = Path(draft)
        made = objects.compile_each(files, flags, shared or folder, what)
        config = [_write_device(recipe, target, folder)]
        config += [HERE / "samples.c"] if isinstance(recipe.data, Data) else []
        made += objects.compile_each(config, flags, folder, what, folder)
        theirs = [*(s for s in target.sources if HERE not in s.resolve().parents), *own]
        made += _compile_theirs(theirs, flags, what, folder / "theirs")
        if isinstance(recipe.data, Sensor):
            made += _compile_hook(recipe.data.hook, flags, what, folder / "hook")
        elf = folder / "image.elf"
        link = [image.COMPILER, *target.board.flags, *map(str, made), *image.LINK_FLAGS]
        link += [f"-Wl,--wrap={WRAPPED}"]  # busy.c has the other end
        link += [f"-Wl,--defsym=image_stack_bytes={target.stack}"]
        link += ["-T", str(target.script), "-lgcc", "-o", str(elf)]
        try:
            objects.run(link, what)
        except objects.BuildError as error:
            raise _explained(error, what) from None
        found = _note_stack(elf, [path.with_suffix(".ci") for path in made], target, what)
        draft_out = out.with_name(f".{out.name}.draft")
        draft_out.unlink(missing_ok=True)
        with os.fdopen(os.open(draft_out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(elf.read_bytes())
        draft_out.replace(out)
    return found


# ---- what is in an image ----


def sizes(elf: Path) -> Sizes:
    """What an image takes, before it is flashed. Raises UserError: it is no image of a device."""
    rows = [line.split() for line in _ask("arm-none-eabi-size", "-A", str(elf)).splitlines()]
    of = {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[1].isdigit()}
    found = [line.split() for line in _ask("arm-none-eabi-nm", "-S", str(elf)).splitlines()]
    at = {row[-1]: int(row[0], 16) for row in found}
    size = {row[-1]: int(row[1], 16) for row in found if len(row) == 4}
    try:
        return Sizes(
            text=of[".text"],
            data=of.get(".data", 0),
            bss=of[".bss"],
            samples=of.get(".samples", 0),
            arena=size["device_memory"],
            message=size["device_message"],
            stack_most=_noted(elf),
            stack=at["image_stack_top"] - at["image_stack_limit"],
        )
    except KeyError:
        raise _no_image(elf) from None


def target_of(elf: Path, given: str | None = None) -> Target:
    """The board an image was built for. given: its name or folder, needed where it is a user's own.
    Raises UserError: it is no image of a device, or for another board.
    """
    try:
        data = elf.read_bytes()
    except OSError as error:
        raise UserError(f"{elf} cannot be read: {error.strerror}", 3) from None
    found = re.search(_MARK.encode() + rb"([a-z0-9-]+)\0", data)
    if found is None:
        raise _no_image(elf)
    name = found[1].decode()
    if given is None:
        if name not in names():
            raise UserError(f"{elf} is for {name}, a board of your own: give its folder by --board")
        return find_target(name)
    target = find_target(given)
    if target.name != name:
        raise UserError(f"{elf} is for {name}, not for {target.name}", 3)
    return target


def _no_image(elf: Path) -> UserError:
    return UserError(f"{elf} is no image of a device: make one with `seamline firmware build`", 3)


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[0], 3)
    return done.stdout


def shortened(data: Data, count: int | None) -> Data:
    """The first samples of each part, at most `count`; None: all."""
    if count is None:
        return data
    return replace(
        data,
        x_train=data.x_train[:count],
        y_train=data.y_train[:count],
        x_test=data.x_test[:count],
        y_test=data.y_test[:count],
    )
