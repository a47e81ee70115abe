"""Links send and receive messages: what every link promises, its errors, and how an address opens
one.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .errors import UserError

if TYPE_CHECKING:
    from .keys import Keys

MESSAGE_MAX = 16 << 20  # bytes, header included; SEAM_MESSAGE_MAX of the core
SILENCE_S = 3.0  # a peer on the network that was not heard for so long is lost
JOIN_TIMEOUT = 10.0  # seconds a device waits for the first sign of its host before it says so

_OPEN_FILES = 65536  # asked for where the system allows it
_OTHER_FILES = 64  # of the program itself, and of connections that were not yet let in
_HEADER = 24
_KIND_AT = 3
PING, PONG = 17, 18


class LinkError(UserError):
    """A link cannot be opened: no such device, port in use, no key (exit code 4 unless said
    otherwise).
    """

    def __init__(self, text: str, exit_code: int = 4) -> None:
        super().__init__(text, exit_code)


class LinkLost(Exception):
    """The peer is gone, or was never found. The link goes on trying: send and receive may be called
    again.

    refused: the peer was reached and did not accept our key; waiting will not help.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refused = refused


@dataclass(frozen=True)
class Received:
    """One message from a peer. peer: its name, proven by its key or by the line it came in on."""

    peer: str
    data: bytes


@dataclass(frozen=True)
class Lost:
    """A peer is gone; it is heard of again when its next message arrives."""

    peer: str
    reason: str


WAITING, JOINED, LOST, UNPLUGGED = "waiting", "joined", "lost", "unplugged"  # states of a peer


@dataclass(frozen=True)
class Peer:
    """What a link knows of one peer. link: `tcp` or `serial`. state: WAITING (never heard), JOINED,
    LOST or UNPLUGGED (the port is away). reason: of the last loss.

    counters: a link's; a figure that this kind of link does not have is not in it. refused: why
    and how often the one at the other end was not accepted; called: the last name it gave.
    """

    name: str
    link: str
    state: str
    reason: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    called: str = ""


class Link(Protocol):
    """A device's (or zone's) one way to its host."""

    @property
    def counters(self) -> dict[str, int]:
        """bytes_sent, bytes_received, messages_sent, messages_received, losses; a line has more."""

    def peers(self) -> list[Peer]:
        """The host, and how the link to it does."""

    def send(self, data: bytes) -> None:
        """Hand over one message, at most MESSAGE_MAX bytes (else ValueError). Kept until there is a
        host (the same message handed over again meanwhile is kept once), dropped when the host is
        lost; receive tells of that.
        """

    def receive(self, timeout: float) -> bytes | None:
        """The next message, or None when none came within `timeout` seconds.

        Raises LinkLost once each time the host is lost (within 3 s of the fact), and every
        JOIN_TIMEOUT seconds while it has never been heard. What arrived before the loss is given
        first.
        """

    def close(self) -> None:
        """Send what was handed over, for up to half a second, and free everything."""


class Listener(Protocol):
    """A host's way to all its peers."""

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        """By peer, as a link's; "" holds what belongs to no peer: refused_keys, dropped."""

    def poll(self, timeout: float) -> list[Received | Lost]:
        """What has happened, in order for each peer; waits up to `timeout` seconds for the first of
        it.
        """

    def send(self, peer: str, data: bytes) -> bool:
        """Hand over one message to a peer heard before. False: the peer is gone (a Lost follows if
        none came).
        """

    def address(self) -> str:
        """The network address really bound (`tcp://127.0.0.1:40123`); "" with serial lines only."""

    def link_kind(self, peer: str) -> str:
        """`tcp` or `serial`."""

    def peers(self) -> list[Peer]:
        """All that were heard, and all that belong on a line, by name."""

    def close(self) -> None:
        """Send what was handed over, for up to half a second, and free everything."""


def is_ping(data: bytes) -> bool:
    """A PING or PONG: the link's own message, never shown above it."""
    return len(data) == _HEADER and data[_KIND_AT] in (PING, PONG)


def ping(kind: int) -> bytes:
    """The bytes of a PING or PONG: a message header with an empty body (SPEC.md)."""
    return b"SL\x01" + bytes([kind]) + bytes(_HEADER - 4)


def check_size(data: bytes) -> None:
    """ValueError when a message is longer than any peer would take."""
    if len(data) > MESSAGE_MAX:
        raise ValueError(f"a message of {len(data)} bytes: at most {MESSAGE_MAX} are allowed")


def need_files(count: int, what: str) -> None:
    """Raise this process's limit of open files as far as it goes; the usual 1024 is soon reached.

    count: connections and what goes with them, beside some files of the program's own. what: they
    are for. Raises LinkError: the limit stays lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(_OPEN_FILES, count + _OTHER_FILES)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a container may forbid it: then it stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != resource.RLIM_INFINITY and soft < count + _OTHER_FILES:
        raise LinkError(
            f"{what} need {count + _OTHER_FILES} open files, but this system allows {soft}: raise "
            "its limit (`ulimit -Hn`, LimitNOFILE= of a systemd unit, --ulimit nofile= of a "
            "container)"
        )


def is_serial(address: str) -> bool:
    return address.startswith(("serial:", "socket://"))


def host_of(keys: Keys, host: str = "") -> tuple[str, str]:
    """Name and public key (Z85) that the host must prove. Without a name: the cloud for a zone, the
    only host for a device. Raises LinkError: there is no such key.
    """
    if not host:
        hosts = sorted(peer for peer in keys.peers if peer.startswith("host-"))
        if keys.name.startswith("host-"):
            host = "cloud"
        elif len(hosts) == 1:
            host = hosts[0]
        else:
            raise LinkError(
                f"the key folder has {len(hosts)} keys host-*.public, so "
                f"{keys.name} cannot tell which host is its own: "
                "copy the one host's .public file there",
                3,
            )
    if host not in keys.peers:
        raise LinkError(f"no key for {host!r}: copy {host}.public into the key folder", 3)
    return host, keys.peers[host]


def load_link(address: str) -> None:
    """Loads what a link of this address needs, cryptography before all: keys are then read with the
    same library, and a device has only one of two.
    """
    if is_serial(address):
        from . import sealed_end, serial_link  # noqa: F401
    else:
        from . import zmq_link  # noqa: F401


def open_link(
    address: str,
    *,
    name: str,
    keys: Keys | None,
    host: str = "",
    silence_s: float = SILENCE_S,
) -> Link:
    """The device's end of `tcp://host:port`, `serial:PATH:BAUD` or `socket://host:port`.

    name: our own name. keys: ours; None for clear text (`--insecure`). host: the name whose public
    key the other end must prove; empty: see host_of. silence_s: without a word for so long a peer
    on the network is lost (a serial line has its own times). Returns at once: the host may start
    later.
    Raises LinkError: unknown form of address, no key for the host, no such serial port.
    """
    if is_serial(address):
        from .sealed_end import device_handshake
        from .serial_link import SerialLink

        if keys is None:
            return SerialLink(address, None, host)
        return SerialLink(address, device_handshake(keys, host), host_of(keys, host)[0])
    if address.startswith("tcp://"):
        from .zmq_link import ZmqLink

        return ZmqLink(address, name=name, keys=keys, host=host, silence_s=silence_s)
    raise LinkError(
        f"{address!r} is no link address: use tcp://host:port or serial:PATH:BAUD (for example "
        "serial:/dev/ttyACM0:921600)",
        2,
    )


def open_listener(
    address: str,
    lines: dict[str, str],
    *,
    name: str,
    keys: Keys | None,
    silence_s: float = SILENCE_S,
) -> Listener:
    """The host's end: a network address (`tcp://127.0.0.1:*` picks a free port; "" for none) and
    serial lines.

    lines: device id -> `serial:PATH:BAUD`. keys: ours and the allow list; None for clear text
    (`--insecure`). silence_s: as of open_link. Raises LinkError: address in use or not ours, no
    such serial port, encryption that does not refuse strangers.
    """
    from .zmq_link import ZmqListener

    return ZmqListener(address, lines, name=name, keys=keys, silence_s=silence_s)
