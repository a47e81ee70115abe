"""What a tier says of its links while it runs: events, and a file that it writes once a second and
`seamline status` reads. No port is opened; who may read the run's folder as this user may ask.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from .files import write_whole
from .link import JOINED, Peer

FOLDER = "status"  # in the folder of a run: TIER.json, and TIER.lock while TIER lives
EVERY_S = 1.0
GOODPUT_S = 10.0  # goodput is a mean over so long
TOLD_S = 60.0  # a refusal that goes on is told so often
FILE_MAX = 16 << 20  # bytes of a status file that are read

Emit = Callable[[dict[str, Any]], None]
Hops = dict[str, dict[str, dict[str, int]]]  # hop -> up or down -> what was carried -> bytes

REFUSALS = {  # of the one at the other end of a line, by reason
    "unknown_name": "it calls itself {called}, of which the key folder has no key: copy "
    "{called}.public there, or `seamline pair`",
    "other_device": "{called} is there, but {peer} belongs on this line: change the cables, or "
    "host_link in the job",
    "wrong_key": "its key is not the one in the key folder, or it has another one of ours: copy "
    "the .public files again, or pair anew",
    "other_version": "it speaks another version of the line: upgrade the older of the two",
    "clear_text": "it speaks clear text: start both ends with keys, or both with --insecure",
    "sealed": "it seals what it says: start both ends with keys, or both with --insecure",
    "pairing": "it is pairing: finish or stop `seamline pair` there",
    "busy": "the port is in use by another program: close that one",
    "cabled": "it came over the network, but the job gives it a cable: change host_link in the job",
}


class Row(msgspec.Struct, frozen=True):
    """A link to one peer. Figures that this kind of link does not have, or not yet, are None.

    reason: of the last loss. frames_damaged: failed the CRC. goodput: bytes of whole messages a
    second; over the network those that ZeroMQ took. refused: times, by reason.
    """

    peer: str
    link: str
    state: str
    reason: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    losses: int = 0
    retransmits: int | None = None
    frames_damaged: int | None = None
    frames_forged: int | None = None
    replayed: int | None = None
    credit_stalls: int | None = None
    rtt_us: int | None = None
    goodput_sent: int | None = None
    goodput_received: int | None = None
    refused: dict[str, int] = {}


_COUNTED = (
    "bytes_sent",
    "bytes_received",
    "messages_sent",
    "messages_received",
    "losses",
    "retransmits",
    "frames_damaged",
    "frames_forged",
    "replayed",
    "credit_stalls",
)


class _File(msgspec.Struct):
    """What stands in a status file. written: seconds since 1970. keys: knocks that were refused on
    the network, of whom no name is known.
    """

    format: int
    tier: str
    pid: int
    written: float
    ended: bool
    keys: int
    peers: list[Row]
    ledger: Hops = {}


FORMAT = 1


# ---- what needs time ----


class Watch:
    """Rows of peers, and the refusals that are worth an event. No I/O, no clock."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int, int]]] = {}  # when, bytes out, bytes in
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # when, count

    def rows(self, peers: Iterable[Peer], now: float) -> list[Row]:
        return [self._row(peer, now) for peer in peers]

    def _row(self, peer: Peer, now: float) -> Row:
        counters = peer.counters
        values: dict[str, Any] = {key: counters[key] for key in _COUNTED if key in counters}
        sent, received = self._goodput(peer, now)
        return Row(
            peer.name,
            peer.link,
            peer.state,
            peer.reason,
            **values,
            rtt_us=counters.get("rtt_us") or None,
            goodput_sent=sent,
            goodput_received=received,
            refused=dict(peer.refused),
        )

    def _goodput(self, peer: Peer, now: float) -> tuple[int | None, int | None]:
        counters = peer.counters
        sent = counters.get("payload_sent", counters.get("bytes_sent", 0))
        received = counters.get("payload_received", counters.get("bytes_received", 0))
        seen = self._seen.setdefault(peer.name, deque())
        if not seen or now - seen[-1][0] >= EVERY_S / 2:
            seen.append((now, sent, received))
        while len(seen) > 2 and now - seen[1][0] >= GOODPUT_S:
            seen.popleft()
        begin, first_sent, first_received = seen[0]
        if now <= begin:
            return None, None
        rate = 1.0 / (now - begin)
        return round(rate * (sent - first_sent)), round(rate * (received - first_received))

    def refusals(self, peers: Iterable[Peer], now: float) -> list[dict[str, Any]]:
        """An event for each reason and peer: at the first time, then while it goes on once in
        TOLD_S.
        """
        found = []
        for peer in peers:
            for reason, count in peer.refused.items():
                if reason == "wrong_key" and peer.state == JOINED:
                    continue  # a late answer of an earlier try fails like a wrong key
                when, told = self._told.get((peer.name, reason), (now - TOLD_S, 0))
                if count > told and now - when >= TOLD_S:
                    self._told[peer.name, reason] = (now, count)
                    text = REFUSALS[reason].format(peer=peer.name, called=peer.called or "no name")
                    event = {"event": "refused", "peer": peer.name, "reason": reason}
                    found.append({**event, "text": text, "count": count})
        return found


# ---- a tier's end ----


class _Place:
    """The status file of one tier. Its lock is held as long as the process lives, so a file that a
    killed one has left behind is known for what it is.
    """

    def __init__(self, out: str | Path, tier: str) -> None:
        self._tier = tier
        self._path = Path(out) / FOLDER / f"{tier}.json"
        self._lock: int | None = None

    def write(self, rows: list[Row], keys: int, ledger: Hops, *, ended: bool) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = _locked(self._path.with_suffix(".lock"))
        if self._lock is None:
            return  # another process is this tier, here and now
        file = _File(FORMAT, self._tier, os.getpid(), time.time(), ended, keys, rows, ledger)
        write_whole(self._path, msgspec.json.encode(file), sync=False, mode=0o600)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


class Reporter:
    """Tells of a tier's links: `tick` once a second in a file, and as events why peers are refused;
    `links` as events. A disk that takes no file is told once, and changes nothing else.

    peers: asked in the thread that calls. keys: knocks refused on the network so far. ledger: of
    bytes, by hop.
    """

    def __init__(
        self,
        out: str | Path,
        tier: str,
        peers: Callable[[], list[Peer]],
        emit: Emit,
        keys: Callable[[], int] = lambda: 0,
        ledger: Callable[[], Hops] = dict,
    ) -> None:
        self._tier, self._peers, self._emit, self._keys = tier, peers, emit, keys
        self._ledger = ledger
        self._place, self._watch = _Place(out, tier), Watch()
        self._next, self._failed = 0.0, False

    def tick(self, now: float) -> None:
        """As often as one likes; now: seconds that never go back."""
        if now >= self._next:
            self._next = now + EVERY_S
            self._write(now, ended=False)

    def links(self, only: str | None = None) -> None:
        """An event for each peer, or for one."""
        for row in self._watch.rows(self._peers(), time.monotonic()):
            if only is None or row.peer == only:
                self._emit({"event": "link", "tier": self._tier, **msgspec.to_builtins(row)})

    def close(self) -> None:
        """The last figures stay, as those of a tier that has ended."""
        self._write(time.monotonic(), ended=True)
        self._place.close()

    def _write(self, now: float, *, ended: bool) -> None:
        peers = self._peers()
        for event in self._watch.refusals(peers, now):
            self._emit({**event, "tier": self._tier})
        try:
            rows = self._watch.rows(peers, now)
            self._place.write(rows, self._keys(), self._ledger(), ended=ended)
        except OSError as error:
            if not self._failed:
                self._failed = True
                text = f"cannot write {error.filename or 'the status file'}: {error.strerror}"
                self._emit({"event": "note", "text": f"{text}; `seamline status` will not see us"})


# ---- who asks ----

RUNNING, ENDED, DIED = "running", "ended", "died"


@dataclass(frozen=True)
class Tier:
    """What a tier has said last. age_s: how long ago. keys: knocks refused on the network.
    trouble: why its file cannot be read; then the rest is empty.
    """

    name: str
    folder: str
    state: str
    pid: int = 0
    age_s: float = 0.0
    keys: int = 0
    peers: list[Row] = field(default_factory=list)
    ledger: Hops = field(default_factory=dict)
    trouble: str = ""


def read_status(out: str | Path) -> list[Tier]:
    """All tiers that run or ran in this folder of a run, by name.

    Raises OSError: no status there.
    """
    folder = Path(out) / FOLDER
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [_read(folder / name, out) for name in names if name.endswith(".json")]


def _read(path: Path, out: str | Path) -> Tier:
    lives = _is_held(path.with_suffix(".lock"))
    try:
        found = msgspec.json.decode(_bytes(path), type=_File)
        if found.format != FORMAT:
            raise ValueError(f"it has format {found.format}, this seamline reads {FORMAT}")
        if found.tier != path.stem:
            raise ValueError(f"it is of {found.tier!r}")
    except (OSError, ValueError) as error:  # msgspec's and UnicodeDecodeError are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else str(error)
        trouble = (
            f"{path} is no status file: {reason}; it is written anew once a second by {path.stem}"
        )
        return Tier(
            path.stem, str(out), RUNNING if lives else DIED, trouble=f"{trouble} if it runs"
        )
    state = ENDED if found.ended else RUNNING if lives else DIED
    age = max(0.0, time.time() - found.written)
    return Tier(found.tier, str(out), state, found.pid, age, found.keys, found.peers, found.ledger)


def _bytes(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not stop us
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no file")
        data = file.read(FILE_MAX + 1)
    if len(data) > FILE_MAX:
        raise ValueError(f"it has more than {FILE_MAX} bytes")
    return data


def _is_held(lock: Path) -> bool:
    """Does a process hold the lock?"""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def running_folders() -> list[str]:
    """The folders of the runs in which a tier of this user lives on this machine, by the locks that
    processes have open.
    """
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # another user's, or gone by now
            for handle in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = Path(os.readlink(handle))
                    if target.suffix == ".lock" and target.parent.name == FOLDER:
                        found.add(target)
    return sorted({str(lock.parent.parent) for lock in found if lock.with_suffix(".json").exists()})
