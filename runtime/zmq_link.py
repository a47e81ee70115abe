"""Links over the network: a ZeroMQ DEALER at the device, a ROUTER (with the serial lines beside it)
at the host.
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import zmq

from .key_folder import AllowList
from .keys import key_text
from .link import (
    JOIN_TIMEOUT,
    JOINED,
    LOST,
    MESSAGE_MAX,
    PING,
    PONG,
    SILENCE_S,
    WAITING,
    LinkError,
    LinkLost,
    Lost,
    Peer,
    Received,
    check_size,
    host_of,
    is_ping,
    need_files,
    ping,
)

if TYPE_CHECKING:
    from .keys import Keys
    from .serial_link import Bell, SerialLine

_DOMAIN = b"seamline"  # without a ZAP domain libzmq asks nobody and takes a stranger's key
_HIGH_WATER = 64  # messages a stuck peer may leave unread before it counts as gone
_UNREAD = 16  # messages of one peer that the host keeps unread: one that floods fills no memory
_SEALING = 1024  # bytes, more than CURVE adds to a message
_HANDSHAKE_MS = 3000  # at least
_HEARTBEAT_MS = 800
_HEARTBEAT_MARGIN_MS = 1200  # interval and margin: a stopped peer is known within silence_s
_RECONNECT_MS = (100, 2000)
_LINGER_MS = 500
_PING_S = 1.0
_MEASURE_S = 5.0  # between two pings of a device, which only time the way
_LOOK_AGAIN_S = 0.05
_UNANSWERED = 8  # pings; more would only fill the queue of a device that computes for long
_DRAIN = 128  # messages taken in one poll, so that pings and lines get their turn
_REFUSED_WAIT_S = 1.0
_SOCKETS_PER_LINK = 6  # the DEALER and its monitor's pair, twice where one follows another
_BACKLOG = 4096  # connections that wait to be taken; libzmq's 100 leave the rest of a fleet waiting
_NOBODY = "nobody is there; check the address, and that the host runs"
_RETIRED = 16  # old connections of one peer that are remembered, to drop what they still send
_ADDRESS = re.compile(r"tcp://(\*|[^\s/:]+|\[[0-9a-fA-F:%\w]+\]):(\*|\d{1,5})")

_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or (match[2] != "*" and int(match[2]) > 65535):
        raise LinkError(f"{address!r} is no network address: expected tcp://HOST:PORT", 2)


def _settle(socket: zmq.Socket[bytes], address: str, silence_s: float = SILENCE_S) -> None:
    """The settings of both ends; SPEC.md says which default each of them mends."""
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_MAX + _SEALING)
    socket.setsockopt(zmq.HANDSHAKE_IVL, max(_HANDSHAKE_MS, round(1000 * silence_s)))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, round(1000 * silence_s) - _HEARTBEAT_MARGIN_MS)
    socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
    socket.setsockopt(zmq.SNDTIMEO, 0)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    if "[" in address:
        socket.setsockopt(zmq.IPV6, 1)


def _client_keys(socket: zmq.Socket[bytes], keys: Keys, server: str) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())


def _events(monitor: zmq.Socket[bytes]) -> list[tuple[int, int]]:
    """The events a monitor socket holds, with the value of each: the descriptor of the connection
    or an error (zmq.utils.monitor would load asyncio, too).
    """
    found = []
    with contextlib.suppress(zmq.Again):
        while True:
            frames = monitor.recv_multipart(zmq.NOBLOCK)
            found.append(struct.unpack_from("=Hi", frames[0]))
    return found


def _unwatch(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    socket.disable_monitor()
    monitor.close(0)


def _counters() -> dict[str, int]:
    names = ("bytes_sent", "bytes_received", "messages_sent", "messages_received", "losses")
    return dict.fromkeys(names, 0)


class _RoundTrip:
    """Times pings, which a peer answers in order, and smooths what it finds (RFC 6298). It has in
    it what both programs do before they look.
    """

    def __init__(self) -> None:
        self.us = 0  # 0: none measured yet
        self._sent: deque[float] = deque(maxlen=2 * _UNANSWERED)

    def begin(self) -> None:
        self._sent.append(time.monotonic())

    def end(self) -> None:
        if self._sent:
            found = max(1, round(1e6 * (time.monotonic() - self._sent.popleft())))
            self.us += (found - self.us) // 8 if self.us else found

    def forget(self) -> None:
        """The way is another one: what is out is not answered."""
        self._sent.clear()

    @property
    def waits(self) -> bool:
        return bool(self._sent)


class ZmqLink:
    """A device's DEALER. Its first connection, and each after a loss, is a new socket: nothing old
    is sent.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        keys: Keys | None,
        host: str = "",
        silence_s: float = SILENCE_S,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """context: shared with other links of this process, whose owner ends it; None: our own."""
        _check_address(address)
        self.counters = _counters()
        self._address, self._name, self._keys = address, name, keys
        self._silence_s = silence_s
        self._host, self._server = host_of(keys, host) if keys else (host or "edge host", "")
        self._trip, self._measure_at = _RoundTrip(), 0.0
        self._lost = ""  # why, last
        self._context = context or zmq.Context()
        self._shared = context is not None
        self._outbox: deque[bytes] = deque()  # handed over while there is no socket
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        self._joined = False
        self._stuck = False  # the host did not take a message: receive tells
        self._waiting: bytes | None = None  # the last message handed over before the host was there
        self._trouble = _NOBODY
        self._waiting_since = time.monotonic()
        self._connect_at = 0.0
        self._pong = ping(PONG)
        try:
            self._connect()
        except BaseException:
            if not self._shared:
                self._context.destroy(0)
            raise

    def filenos(self) -> list[int]:
        """Readable (edge-triggered, as libzmq's are) when receive(0) may have something; others
        after a loss. Empty while it waits to connect again.
        """
        sockets = (self._socket, self._monitor)
        return [int(socket.getsockopt(zmq.FD)) for socket in sockets if socket is not None]

    def send(self, data: bytes) -> None:
        check_size(data)
        if not self._joined and data == self._waiting:
            return  # it waits for the host already: once is enough
        self._waiting = data if not self._joined else None
        if self._socket is None:
            self._outbox.append(data)
        else:
            self._put(data)
        self.counters["messages_sent"] += 1
        self.counters["bytes_sent"] += len(data)

    def receive(self, timeout: float) -> bytes | None:
        deadline = time.monotonic() + timeout
        if self._stuck:
            self._begin_again(0.0)
            raise self._loss(f"{self._address} takes no more messages")
        self._measure()
        while True:
            now = time.monotonic()
            if self._socket is None and now >= self._connect_at:
                self._connect()
            ready = self._wait(min(deadline, self._next_turn()) - now)
            # Messages before news: what came before a loss is still given.
            if self._socket is not None and (self._socket, zmq.POLLIN) in ready:
                data = self._socket.recv(zmq.NOBLOCK)
                if not is_ping(data):
                    self.counters["messages_received"] += 1
                    self.counters["bytes_received"] += len(data)
                    return data
                if data[3] == PING:
                    with contextlib.suppress(zmq.Again):  # a full queue is sign of life enough
                        self._socket.send(self._pong, zmq.NOBLOCK)
                else:
                    self._trip.end()
                continue
            if ready:
                self._hear_news()
            now = time.monotonic()
            if not self._joined and now - self._waiting_since >= JOIN_TIMEOUT:
                trouble = self._trouble
                self._begin_again(0.0)
                text = f"no answer from {self._address} in {JOIN_TIMEOUT:.0f} s: {trouble}"
                raise LinkLost(text)
            if now >= deadline:
                return None

    def peers(self) -> list[Peer]:
        state = JOINED if self._joined else LOST if self._lost else WAITING
        counters = {**self.counters, "rtt_us": self._trip.us}
        return [Peer(self._host, "tcp", state, self._lost, counters)]

    def close(self) -> None:
        if self._socket is not None:
            self._drop(_LINGER_MS)
        if not self._shared:
            self._context.term()

    def _put(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            self._stuck = True

    def _measure(self) -> None:
        """A ping now and then, never two at once: the host's tell us nothing of the way."""
        now = time.monotonic()
        if self._joined and self._socket is not None and now >= self._measure_at:
            self._measure_at = now + _MEASURE_S
            if not self._trip.waits:
                with contextlib.suppress(zmq.Again):
                    self._socket.send(ping(PING), zmq.NOBLOCK)
                    self._trip.begin()

    def _loss(self, reason: str, *, refused: bool = False) -> LinkLost:
        self._lost = reason
        return LinkLost(reason, refused=refused)

    def _next_turn(self) -> float:
        """When something has to be done even if nothing arrives."""
        turn = math.inf if self._joined else self._waiting_since + JOIN_TIMEOUT
        return min(turn, self._connect_at) if self._socket is None else turn

    def _wait(self, seconds: float) -> list[tuple[Any, int]]:
        if self._socket is None:
            time.sleep(max(0.0, seconds))
            return []
        return self._poller.poll(max(0, math.ceil(seconds * 1000)))

    def _connect(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        _settle(socket, self._address, self._silence_s)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS[0])
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS[1])
        if self._keys is not None:
            _client_keys(socket, self._keys, self._server)
        else:
            socket.setsockopt(zmq.ROUTING_ID, self._name.encode())
        self._socket, self._monitor = socket, socket.get_monitor_socket(_EVENTS)
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._joined = False
        try:
            socket.connect(self._address)
        except zmq.ZMQError as error:
            self._drop(0)
            raise LinkError(f"cannot connect to {self._address}: {error.strerror}", 2) from error
        while self._outbox:
            self._put(self._outbox.popleft())

    def _drop(self, linger_ms: int) -> None:
        assert self._socket is not None and self._monitor is not None
        self._poller.unregister(self._socket)
        self._poller.unregister(self._monitor)
        _unwatch(self._socket, self._monitor)
        self._socket.close(linger_ms)
        self._socket = self._monitor = None

    def _hear_news(self) -> None:
        """What libzmq's own thread noticed; it does so while we compute, too."""
        assert self._monitor is not None
        for event, _ in _events(self._monitor):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._joined = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._begin_again(_REFUSED_WAIT_S)
                raise self._loss(
                    f"{self._address} refuses the key of {self._name}: copy "
                    f"{self._name}.public into the host's key folder",
                    refused=True,
                )
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._trouble = (
                    "it is there but does not finish the handshake; check that its public key "
                    "in the key folder is the right one and that both ends use keys, or both "
                    "--insecure"
                )
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._begin_again(_REFUSED_WAIT_S)
                raise self._loss(
                    f"{self._address} does not speak as we do: one end uses keys "
                    "and the other --insecure, or it is no seamline host",
                    refused=True,
                )
            elif event == zmq.EVENT_DISCONNECTED and self._joined:
                self._begin_again(0.0)
                raise self._loss(f"the connection to {self._address} is lost")

    def _begin_again(self, wait: float) -> None:
        """A new socket after `wait` seconds: nothing of before is sent, and libzmq, which never
        tries again after a refusal, does.
        """
        self.counters["losses"] += 1 if self._joined else 0
        self._outbox.clear()
        self._drop(0)
        self._joined = self._stuck = False
        self._trip.forget()
        self._waiting = None
        self._trouble = _NOBODY
        self._waiting_since = time.monotonic()
        self._connect_at = self._waiting_since + wait
        if wait == 0.0:
            self._connect()


class _Gate(threading.Thread):
    """Answers libzmq's question whether a key may come in (ZAP, RFC 27), and says whose it is."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowList) -> None:
        super().__init__(name="seamline-gate", daemon=True)
        self._allowed = allowed
        self._socket = context.socket(zmq.REP)
        self._socket.bind("inproc://zeromq.zap.01")
        self.refused = 0

    def run(self) -> None:
        try:
            while True:
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            self._socket.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """request: version, request id, domain, address, identity, mechanism, key."""
        known = request[5:6] == [b"CURVE"] and request[2] == _DOMAIN and len(request) == 7
        key = key_text(request[6]) if known and len(request[6]) == 32 else ""
        name = self._allowed.name_of(key)
        if name is None:
            self.refused += 1
            return [b"1.0", request[1], b"400", b"not in the allow list", b"", b""]
        return [b"1.0", request[1], b"200", b"OK", f"{name} {key}".encode(), b""]


def shared_context(links: int) -> zmq.Context[zmq.Socket[bytes]]:
    """For so many links of one process; whoever asked ends it (`term`) when they are closed."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, links * _SOCKETS_PER_LINK + 64)
    return context


def _prove_gate(context: zmq.Context[zmq.Socket[bytes]], address: str, keys: Keys) -> None:
    """Knock with a key nobody knows, as the host's first guest: it must be refused (about 3 ms)."""
    public, secret = zmq.curve_keypair()
    stranger = context.socket(zmq.DEALER)
    _settle(stranger, address)
    stranger.setsockopt(zmq.CURVE_PUBLICKEY, public)
    stranger.setsockopt(zmq.CURVE_SECRETKEY, secret)
    stranger.setsockopt(zmq.CURVE_SERVERKEY, keys.public.encode())
    monitor = stranger.get_monitor_socket(_EVENTS)
    seen: list[int] = []
    try:
        stranger.connect(
            re.sub(r"tcp://(\*|0\.0\.0\.0):", "tcp://127.0.0.1:", address).replace("[::]", "[::1]")
        )
        until = time.monotonic() + 2.0
        final = {zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_HANDSHAKE_FAILED_AUTH}
        while not final & set(seen) and time.monotonic() < until:
            monitor.poll(100)
            seen += [event for event, _ in _events(monitor)]
    finally:
        _unwatch(stranger, monitor)
        stranger.close(0)
    if zmq.EVENT_HANDSHAKE_FAILED_AUTH not in seen:
        raise LinkError(
            f"{address} does not refuse a stranger's key (libzmq {zmq.zmq_version()}): "
            "nothing is served; install pyzmq from its own wheels"
        )


class ZmqListener:
    """A host's ROUTER and serial lines behind one poll. One thread calls it; libzmq's and the
    lines' own threads keep every peer alive while that thread computes.

    With keys a peer's name is what the gate says of the key of each message (never what the peer
    claims), and its newest connection is the one that counts: a rebooted device is served at once,
    and nobody can take its place.
    """

    def __init__(
        self,
        address: str,
        lines: dict[str, str],
        *,
        name: str,
        keys: Keys | None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.counters: dict[str, dict[str, int]] = {"": {"refused_keys": 0, "dropped": 0}}
        self._name, self._keys, self._silence_s = name, keys, silence_s
        self._allowed = AllowList(keys) if keys is not None else None
        self._routes: dict[str, bytes] = {}
        self._shown: dict[str, str] = {}  # the public key each peer came with
        self._line_keys: dict[str, str | None] = {}  # of the device at each sealed line
        self._retired: dict[str, deque[bytes]] = {}
        self._unanswered: dict[str, int] = {}
        self._trips: dict[str, _RoundTrip] = {}
        self._reasons: dict[str, str] = {}  # of each peer's last loss
        self._cabled: dict[str, int] = {}  # messages that came over the network instead
        self._descriptors: dict[int, str] = {}  # the peer whose connection has it, or had it last
        self._suspects: deque[tuple[float, str]] = deque()  # (when, who) to ping once more
        self._news: deque[Received | Lost] = deque()
        self._lines: dict[str, SerialLine] = {}
        self._heard_lines: set[str] = set()
        self._bell: Bell | None = None
        self._poller = zmq.Poller()
        self._ping = ping(PING)
        self._pong = ping(PONG)
        self._next_ping = time.monotonic() + _PING_S
        self._context = zmq.Context()
        self._router: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._gate: _Gate | None = None
        self._bound = ""
        try:
            if address:
                self._bind(address)
            if lines:
                self._open_lines(lines)
        except BaseException:
            self.close()
            raise

    def address(self) -> str:
        return self._bound

    def link_kind(self, peer: str) -> str:
        return "serial" if peer in self._lines else "tcp"

    def peers(self) -> list[Peer]:
        names = sorted({*filter(None, self.counters), *self._lines})
        return [self._peer(name) for name in names]

    def _peer(self, name: str) -> Peer:
        counters, lost = self._of(name), self._reasons.get(name, "")
        line = self._lines.get(name)
        if line is None:
            trip = self._trips.get(name)
            counters = {**counters, "rtt_us": trip.us if trip is not None else 0}
            return Peer(name, "tcp", JOINED if name in self._routes else LOST, lost, counters)
        found = line.peer(name, {key: counters[key] for key in _counters()}, lost)
        if name in self._cabled:
            found.refused["cabled"] = self._cabled[name]
        return found

    def poll(self, timeout: float) -> list[Received | Lost]:
        deadline = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            until = now if self._news else min(deadline, self._next_turn())
            ready = self._poller.poll(max(0, math.ceil((until - now) * 1000)))
            for source, _ in ready:
                if source is self._router:
                    self._drain_router()
                elif source is self._monitor:
                    self._hear_news()
                else:
                    self._drain_lines()
            if time.monotonic() >= self._next_ping:
                self._next_ping = time.monotonic() + _PING_S
                self._drop_forgotten()
                self._ping_all()
            while self._suspects and time.monotonic() >= self._suspects[0][0]:
                self._put_ping(self._suspects.popleft()[1])
            if self._news or time.monotonic() >= deadline:
                if self._gate is not None:
                    self.counters[""]["refused_keys"] = self._gate.refused
                found = list(self._news)
                self._news.clear()
                return found

    def send(self, peer: str, data: bytes) -> bool:
        check_size(data)
        line = self._lines.get(peer)
        if line is not None:
            sent = peer in self._heard_lines and line.send(data)
        else:
            sent = self._put(peer, data)
        if sent:
            counters = self._of(peer)
            counters["messages_sent"] += 1
            counters["bytes_sent"] += len(data)
        return sent

    def close(self) -> None:
        for line in self._lines.values():
            line.stop()
        for line in self._lines.values():
            line.close()
        if self._bell is not None:
            self._bell.close()
        if self._router is not None:
            assert self._monitor is not None
            _unwatch(self._router, self._monitor)
            self._router.close(_LINGER_MS)
        self._router = self._monitor = None
        self._context.term()
        if self._gate is not None:
            self._gate.join()

    # -- the network --

    def _bind(self, address: str) -> None:
        _check_address(address)
        if self._keys is not None:
            peers = len(self._keys.peers)
            need_files(peers, f"{peers} peers with a key in the key folder")
        else:
            need_files(0, "a listener and its program")
        router = self._router = self._context.socket(zmq.ROUTER)
        self._monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        _settle(router, address, self._silence_s)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.BACKLOG, _BACKLOG)
        router.setsockopt(zmq.RCVHWM, _UNREAD)
        if self._keys is not None:
            assert self._allowed is not None
            self._gate = _Gate(self._context, self._allowed)
            self._gate.start()
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
            router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
            router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        else:
            router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # here a peer's name is the one it claims
        try:
            router.bind(re.sub(r":0$", ":*", address))
        except zmq.ZMQError as error:
            raise _bind_error(address, error) from error
        self._bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        if self._keys is not None and self._gate is not None:
            _prove_gate(self._context, self._bound, self._keys)
            self._gate.refused = 0
        self._poller.register(router, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def _drain_router(self) -> None:
        """What has come, at most so many at once. libzmq gives one message of each peer that has
        some, then the next of each: one that floods takes no turn of the others.
        """
        assert self._router is not None
        for _ in range(_DRAIN):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            peer = self._whose(frames) if len(frames) == 2 else None
            if peer is None:
                self.counters[""]["dropped"] += 1
                continue
            self._unanswered[peer] = 0
            data = frames[1].bytes
            if is_ping(data):
                if data[3] == PING:
                    self._put(peer, self._pong)
                else:
                    self._trip_of(peer).end()
                continue
            counters = self._of(peer)
            counters["messages_received"] += 1
            counters["bytes_received"] += len(data)
            self._news.append(Received(peer, data))

    def _whose(self, frames: list[zmq.Frame]) -> str | None:
        """The peer's name, and its newest connection put down as the way to it; None: drop the
        message.
        """
        route = frames[0].bytes
        peer = self._name_on(frames)
        known = self._routes.get(peer)
        if not peer or known == route:
            return peer or None
        if peer in self._lines:  # that name belongs to a cable
            self._cabled[peer] = self._cabled.get(peer, 0) + 1
            return None
        retired = self._retired.setdefault(peer, deque(maxlen=_RETIRED))
        if self._keys is not None and route in retired:
            return None
        if known is not None:
            retired.append(known)
        self._routes[peer] = route
        self._trip_of(peer).forget()
        with contextlib.suppress(zmq.ZMQError):
            self._descriptors[int(frames[1].get(zmq.SRCFD))] = peer
        return peer

    def _name_on(self, frames: list[zmq.Frame]) -> str:
        """Whose message is this, by its key, or without keys by what it says; empty: nobody's."""
        if self._allowed is not None:
            peer, _, key = str(frames[1].get("User-Id")).rpartition(" ")
            if self._allowed.key_of(peer) != key:  # forgotten, or replaced, since it came in
                return ""
            self._shown[peer] = key
            return peer
        try:
            peer = frames[0].bytes.decode()
        except UnicodeDecodeError:
            return ""
        return peer if peer.isprintable() else ""  # else libzmq's own identity: it told no name

    def _put(self, peer: str, data: bytes) -> bool:
        route = self._routes.get(peer)
        if route is None or self._router is None:
            return False
        try:
            self._router.send_multipart([route, data], zmq.NOBLOCK)
        except zmq.Again:
            self._lose(peer, "it takes no more messages")
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(peer, "its connection is gone")
        else:
            return True
        return False

    def _lose(self, peer: str, reason: str) -> None:
        route = self._routes.pop(peer)
        self._retired.setdefault(peer, deque(maxlen=_RETIRED)).append(route)
        self._of(peer)["losses"] += 1
        self._reasons[peer] = reason
        self._news.append(Lost(peer, reason))

    def _drop_forgotten(self) -> None:
        """Ends the connections of keys that are in the folder no more."""
        if self._allowed is None:
            return
        self._allowed.look()
        for peer in list(self._routes):
            if self._allowed.key_of(peer) != self._shown[peer]:
                self._lose(peer, "its key is in the key folder no more")
        for peer, key in self._line_keys.items():
            if self._allowed.key_of(peer) != key:
                self._line_keys[peer] = self._allowed.key_of(peer)
                self._lines[peer].drop()

    def _ping_all(self) -> None:
        """A ping is how a gone connection shows: the ROUTER finds no way to it."""
        for peer in list(self._routes):
            count = self._unanswered.get(peer, 0)
            if count < _UNANSWERED:
                self._unanswered[peer] = count + 1
                self._put_ping(peer)

    def _put_ping(self, peer: str) -> bool:
        """Every ping is timed, as each answer is taken for that to the oldest."""
        sent = self._put(peer, self._ping)
        if sent:
            self._trip_of(peer).begin()
        return sent

    def _hear_news(self) -> None:
        """Connections have ended: their peers are pinged at once, the others are left in peace (a
        fleet that goes all at once would cost its square). A descriptor may have a new owner by
        now, so a peer that was missed shows at the next ping to all.
        """
        assert self._monitor is not None
        for _, descriptor in _events(self._monitor):
            peer = self._descriptors.pop(descriptor, None)
            if peer is not None and self._put_ping(peer):
                # The ROUTER had not heard of the end of this connection yet.
                self._suspects.append((time.monotonic() + _LOOK_AGAIN_S, peer))

    def _next_turn(self) -> float:
        """When something has to be done even if nothing arrives."""
        return min(self._next_ping, self._suspects[0][0]) if self._suspects else self._next_ping

    # -- the serial lines --

    def _open_lines(self, lines: dict[str, str]) -> None:
        from .sealed_end import host_handshake
        from .serial_link import Bell, SerialLine

        bell = self._bell = Bell()
        self._poller.register(bell.fileno(), zmq.POLLIN)
        for peer, address in lines.items():
            handshake = None
            if self._keys is not None and self._allowed is not None:
                handshake = host_handshake(self._keys, self._allowed, peer)
                self._line_keys[peer] = self._allowed.key_of(peer)
            self._lines[peer] = SerialLine(address, bell.ring, handshake)

    def _drain_lines(self) -> None:
        assert self._bell is not None
        self._bell.hush()
        for peer, line in self._lines.items():
            events = line.events()
            if events:
                found = line.counters()
                del found["losses"]  # of the packets' connections; ours are what was told
                self._of(peer).update(found)
            for event in events:
                if isinstance(event, bytes):
                    self._heard_lines.add(peer)
                    counters = self._of(peer)
                    counters["messages_received"] += 1
                    counters["bytes_received"] += len(event)
                    self._news.append(Received(peer, event))
                elif event.lost and peer in self._heard_lines:
                    self._heard_lines.discard(peer)
                    self._of(peer)["losses"] += 1
                    self._reasons[peer] = event.reason
                    self._news.append(Lost(peer, event.reason))

    def _trip_of(self, peer: str) -> _RoundTrip:
        return self._trips.setdefault(peer, _RoundTrip())

    def _of(self, peer: str) -> dict[str, int]:
        found = self.counters.get(peer)
        if found is None:
            found = self.counters[peer] = _counters()
        return found


def _bind_error(address: str, error: zmq.ZMQError) -> LinkError:
    if error.errno == zmq.EADDRINUSE:
        return LinkError(
            f"{address} is in use by another program: "
            "stop it (`ss -ltnp` shows which), or give another port"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return LinkError(
            f"{address} is not an address of this machine: use tcp://0.0.0.0:PORT for all of them"
        )
    return LinkError(f"cannot listen on {address}: {error.strerror}")
