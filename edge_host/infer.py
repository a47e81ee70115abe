"""The edge host's part of inference: it gives devices their front and answers what they send up, at
the first exit that is sure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ..kernels import SeamError
from ..kernels.front import HEADER, exit_answers
from ..kernels.parcel import CODECS
from ..runtime import infer_wire as bodies
from ..runtime import message as wire
from ..runtime.config import LOCAL_MODES, Job, find_zone
from ..runtime.errors import UserError
from ..runtime.keys import load_keys
from ..runtime.link import MESSAGE_MAX, Received, open_listener
from ..runtime.message import Kind, Message
from ..runtime.plan import build_plan
from .calibrate_exits import ExitRule, read_rules
from .finished import load_finished
from .models import input_shape
from .split import EXITS, Split, float_state, split

F32 = NDArray[np.float32]
Ints = NDArray[np.int32]
Emit = Callable[[dict[str, Any]], None]

BATCH = 32  # samples that a device puts through its front at once
TELL_S = 5.0
DATA = 14  # status of seam.h, sign dropped, for an ERROR
NEVER = -1.0  # an entropy that no exit reaches


class StagedBack(fx.Interpreter):
    """The back, run from exit to exit; samples that an exit is sure of leave there."""

    def __init__(self, cut: Split, rules: list[ExitRule]) -> None:
        """rules: of the back's exits, in order."""
        if not isinstance(cut.back, fx.GraphModule):
            raise UserError("nothing runs behind the seam: no host is needed to infer", 5)
        super().__init__(cut.back)
        self.cut, self.rules = cut, rules
        heads = [f"{EXITS}.{key}" for key in cut.exits]
        nodes = list(cut.back.graph.nodes)
        called = {n.target: n for n in nodes if n.op == "call_module"}
        self._head_nodes = [called[name] for name in heads]
        self._behind = {node.args[0]: number for number, node in enumerate(self._head_nodes)}
        self._steps = [n for n in nodes if n not in self._head_nodes and n.op != "output"]
        (made,) = next(n for n in nodes if n.op == "output").args
        self._end = made[-1] if isinstance(made, tuple) else made

    def answer(self, activation: F32) -> tuple[Ints, Ints]:
        """Activations [n, h, w, c] -> classes [n] and the exits that gave them [n], the end's
        number being the number of exits. Raises ValueError for another shape.
        """
        x = self.cut.to_nchw(np.ascontiguousarray(activation))
        classes = np.zeros(len(x), np.int32)
        places = np.full(len(x), len(self.rules), np.int32)
        left = np.arange(len(x))
        self.env: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in self._steps:
                self.env[node] = x if node.op == "placeholder" else self.run_node(node)
                number = self._behind.get(node)
                if number is None:
                    continue
                sure = self._ask(number)
                classes[left[sure >= 0]] = sure[sure >= 0]
                places[left[sure >= 0]] = number
                left = left[sure < 0]
                if not left.size:
                    return classes, places
                self._keep(node, sure < 0)
            logits: Tensor = self.env[self._end]
        classes[left] = logits.argmax(1).numpy()
        return classes, places

    def _ask(self, number: int) -> Ints:
        """What the exit is sure of, -1 where it is not."""
        rule = self.rules[number]
        logits = self.run_node(self._head_nodes[number]).numpy()
        return exit_answers(logits, rule.temperature, rule.entropy)

    def _keep(self, crossing: fx.Node, which: NDArray[np.bool_]) -> None:
        """Only this tensor crosses an exit's seam; parameters that were fetched stay, too."""
        kept = {n: value for n, value in self.env.items() if n.op == "get_attr"}
        kept[crossing] = self.env[crossing][torch.from_numpy(which)]
        self.env = kept


@dataclass
class Service:
    """One trained network. Bytes in, bytes out; no sockets."""

    back: StagedBack
    front: bytes  # FRONT's body
    names: list[str]  # of the places behind the device, the last is the end
    counts: dict[str, int] = field(default_factory=dict)  # samples by place
    seconds: float = 0.0  # spent on them

    def receive(self, data: bytes) -> bytes | None:
        """The answer to a message of a device; None where it needs none."""
        try:
            message = Message.decode(data)
            if message.kind != Kind.INFER:
                return None
            return self._infer(message)
        except (SeamError, ValueError) as error:
            step = int.from_bytes(data[16:20], "little") if len(data) >= 24 else 0
            body = wire.error_body(DATA, Kind.INFER, str(error))
            return Message(Kind.ERROR, step=step, body=body).encode()

    def _infer(self, message: Message) -> bytes:
        tag, activation = bodies.read_infer(message.body)
        if tag != self.front[: bodies.TAG]:
            return Message(Kind.FRONT, step=message.step, body=self.front).encode()
        nothing = np.zeros(0, np.int32)
        classes, places = nothing, nothing
        if activation is not None:
            start = time.perf_counter()
            classes, places = self.back.answer(activation)
            self.seconds += time.perf_counter() - start
            for place in places:
                name = self.names[place]
                self.counts[name] = self.counts.get(name, 0) + 1
        body = bodies.answer_body(classes, places)
        return Message(Kind.ANSWER, step=message.step, body=body).encode()


def make_service(job: Job, zone: str, folder: Path) -> Service:
    """From what a run left in `folder`: the model, and the zone's exits.json (without it no exit is
    ever sure, and the device's answers only when it is alone). Raises UserError.
    """
    if job.mode in ("split-v3", "isolated"):
        raise UserError(f"in {job.mode} the trained fronts stay on the devices: nothing to serve")
    if job.mode in LOCAL_MODES:
        raise UserError(f"in {job.mode} devices have the whole network: no edge host is asked")
    finished = load_finished(job, folder)
    if not finished.whole:
        raise UserError(f"{folder} has a front only; the back is in model.pt or model.npz", 3)
    cut = finished.cut
    if cut.own_exit:
        cut = split(cut.model, job.model.seam, input_shape(cut.model), exit_on_device=True)
    cut.back.eval()
    rules = _rules(folder / "zones" / zone / "exits.json", cut.all_exits)
    own, behind = (rules[0], rules[1:]) if cut.exit_from else (_never(""), rules)
    plan = build_plan(cut.front, cut.input_shape, BATCH, seam=cut.exit_from)
    parameters = cut.front_vector(float_state(cut.model))
    codec = CODECS[job.codec.up]
    front = bodies.FrontFile(codec, own.temperature, own.entropy, plan, parameters).pack()
    if len(front) + HEADER > MESSAGE_MAX:
        raise UserError(
            f"the front takes {len(front)} bytes, more than a message of {MESSAGE_MAX} holds: move "
            "the seam forward",
            5,
        )
    return Service(StagedBack(cut, behind), front, [*cut.exits, "end"])


def _never(name: str) -> ExitRule:
    return ExitRule(name, 1.0, NEVER, 0.0, 0.0)


def _rules(path: Path, names: list[str]) -> list[ExitRule]:
    if not path.is_file():
        return [_never(name) for name in names]
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}", 3) from None
    if not isinstance(document, dict):
        raise UserError(f"{path} cannot be read: expected a JSON object", 3)
    return read_rules(document, names)


def run_service(
    job: Job,
    zone: str,
    folder: Path,
    *,
    insecure: bool = False,
    emit: Emit,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Answers the zone's devices until it is interrupted. Raises UserError."""
    address = find_zone(job, zone).address
    torch.set_num_threads(1)
    service = make_service(job, zone, folder)
    name = f"host-{zone}"
    keys = None if insecure else load_keys(Path(job.keys.folder), name)
    lines = {d.id: d.host_link for d in job.devices if d.zone == zone and d.host_link}
    mine = {d.id for d in job.devices if d.zone == zone}
    listener = open_listener(address, lines, name=name, keys=keys, silence_s=job.link.silence_s)
    told, at = 0, time.monotonic()
    try:
        emit({"event": "listening", "zone": zone, "address": listener.address()})
        while not stop():
            for event in listener.poll(0.2):
                if isinstance(event, Received) and event.peer in mine:
                    answer = service.receive(event.data)
                    if answer is not None:
                        listener.send(event.peer, answer)
            total = sum(service.counts.values())
            if total != told and time.monotonic() - at >= TELL_S:
                told, at = total, time.monotonic()
                emit(_told(service, zone))
    finally:
        emit(_told(service, zone))
        listener.close()
    return 0


def _told(service: Service, zone: str) -> dict[str, Any]:
    """What was answered since the start, by exit."""
    event = {"event": "answered", "zone": zone, "exits": dict(service.counts)}
    return {**event, "compute_s": round(service.seconds, 3)}
