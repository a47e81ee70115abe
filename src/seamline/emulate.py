"""Networks for a local run: which of its lines follow which trace, and what they carried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .runtime.config import DeviceSection, Job, find_zone, host_name, is_line
from .runtime.errors import UserError
from .runtime.network_trace import NONE, Trace, read_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from .progress import Progress

LONGEST_MESSAGE = 32_768  # bytes between a device and its edge host, a cautious guess
LONGEST_UPDATE = 1_000_000  # between an edge host and the cloud
SILENCE_MOST_S = 3600.0
ANY_HOST = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True)
class Line:
    """A pair of ends for `seamline link-proxy`, the device's first. name: device or edge host."""

    name: str
    ends: tuple[str, str]
    network: str = NONE


@dataclass
class Networks:
    """What a run asks for. devices, cloud: of `--network` and `--network-cloud`; empty: none."""

    devices: str = ""
    cloud: str = ""

    def of(self, device: DeviceSection) -> str:
        """The network of a device; empty: none."""
        name = device.network or self.devices
        return "" if name == NONE else name

    def check(self, job: Job) -> dict[str, Trace]:
        """All that the job needs, by name. Raises TraceError, before anything is started."""
        cloud = "" if self.cloud == NONE else self.cloud
        names = {cloud, *(self.of(device) for device in job.devices)} - {""}
        return {name: read_trace(name) for name in sorted(names)}


def shape(
    job: Job,
    cables: dict[str, tuple[str, str]],
    networks: Networks,
    free_port: Callable[[], str],
) -> tuple[list[Line], dict[str, str]]:
    """Puts lines into a localised job, in place: (lines of the proxy, the cloud's address by zone).

    cables: ends of the pseudo-terminals by device. free_port: gives a tcp:// address of ours.
    Raises UserError: a trace that cannot be used, a network for a port that is really there.
    """
    traces = networks.check(job)
    lines = [_device_line(job, d, cables, networks, traces, free_port) for d in job.devices]
    found = [line for line in lines if line is not None]
    clouds = {}
    if networks.cloud in traces:
        for zone in job.zones:
            clouds[zone.name] = address = free_port()
            ends = (_door(address), _target(job.cloud.address))
            found.append(Line(host_name(zone.name), ends, networks.cloud))
    _be_patient(job, traces, [line.network for line in found], networks.cloud)
    return found, clouds


def _device_line(
    job: Job,
    device: DeviceSection,
    cables: dict[str, tuple[str, str]],
    networks: Networks,
    traces: dict[str, Trace],
    free_port: Callable[[], str],
) -> Line | None:
    """The line of one device, None where none is needed; the device's addresses lead to it."""
    name = networks.of(device)
    if device.id in cables:
        if name:  # the timers of a line count on its baud: the slowest is safe
            slow = max(300, 10 * traces[name].slowest // 8)
            device.link, device.host_link = (
                _slower(end, slow) for end in (device.link, device.host_link)
            )
        return Line(device.id, cables[device.id], name or NONE)
    if not name:
        return None
    address = free_port()
    if device.board:
        device.host_link = f"socket://{address.removeprefix('tcp://')}"
        return Line(device.id, (device.link, _door(address)), name)
    if is_line(device.host_link):
        if device.network:
            raise UserError(
                f"{device.id}: its line {device.host_link} is really there and follows no network; "
                'say network = "none", or give it a port that is not here'
            )
        return None
    target = device.link or find_zone(job, device.zone).address
    device.link = address
    return Line(device.id, (_door(address), _target(target)), name)


def _be_patient(job: Job, traces: dict[str, Trace], used: list[str], cloud: str) -> None:
    """Nobody is taken for dead while its longest message is on its way."""
    for name in set(used) & set(traces):
        longest = LONGEST_UPDATE if name == cloud else LONGEST_MESSAGE
        trace = traces[name]
        needed = 2.0 + 8 * longest / trace.slowest + 4 * trace.longest_delay_ms / 1000
        job.link.silence_s = min(SILENCE_MOST_S, max(job.link.silence_s, round(needed, 1)))


def _slower(address: str, baud: int) -> str:
    path, _, now = address.rpartition(":")
    return f"{path}:{min(int(now), baud)}"


def _door(address: str) -> str:
    return f"listen://{address.removeprefix('tcp://')}"


def _target(address: str) -> str:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return f"socket://{ANY_HOST.get(host, host)}:{port}"


# ---- what they carried ----


def describe(progress: Progress, networks: Networks) -> dict[str, Any] | None:
    """For the results: which networks, and each line's bytes and goodput; None without any.

    Goodput is of whole messages, while bytes were under way: with delay, stalls and what seals and
    frames add, but without the time in which nobody had anything to say. Of an edge host and the
    cloud it is of all bytes: what they say of their messages leaves out the last and largest.
    """
    if not progress.traffic:
        return None
    rows = {}
    for name, line in progress.traffic.items():
        up, down = line["up"]["bytes"], line["down"]["bytes"]
        if name in progress.devices:
            up, down = progress.message_bytes(name)
        rows[name] = {
            "network": line["network"],
            "up": _way(line["up"], up),
            "down": _way(line["down"], down),
        }
    return {
        "devices": networks.devices or None,
        "cloud": networks.cloud or None,
        "lines": dict(sorted(rows.items())),
    }


def _way(carried: dict[str, Any], messages: int) -> dict[str, Any]:
    busy = carried["busy_s"]
    return {
        "bytes": carried["bytes"],
        "message_bytes": messages,
        "busy_s": round(busy, 3),
        "stalls": carried["stalls"],
        "goodput_bits_per_s": round(8 * messages / busy) if busy > 0 else None,
    }


def network_words(networks: Networks) -> str:
    """For titles: which networks, empty without any."""
    words = [
        f"{what} over {name}"
        for what, name in (("devices", networks.devices), ("cloud", networks.cloud))
        if name and name != NONE
    ]
    return ", ".join(words)
