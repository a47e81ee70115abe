"""Many device ends in one process, each with a key of its own: what benchmarks and tests put before
a host in place of a large fleet.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Mapping

from .keys import Keys
from .link import LinkLost, need_files
from .zmq_link import ZmqLink, shared_context

_FILES_PER_END = 6  # its connection, and the mailboxes of its sockets and their monitor
_SWEEP_S = 0.25  # all ends are looked at this often: joining and losses have no other alarm clock


class Ends:
    """ZmqLinks behind one poll. They share a context (one I/O thread); one thread calls."""

    def __init__(self, address: str, keys: Mapping[str, Keys | None]) -> None:
        """keys: of each end by its name; None for clear text. All connect at once.

        Raises LinkError: as a link does, or this process may not open as many files.
        """
        need_files(len(keys) * _FILES_PER_END, f"{len(keys)} device ends in one process")
        self._context = shared_context(len(keys))
        self.links: dict[str, ZmqLink] = {}
        self._epoll = select.epoll()
        self._names: dict[int, str] = {}  # by descriptor
        self._watched: dict[str, list[int]] = {name: [] for name in keys}
        self._sent: set[str] = set()  # a send may have taken in the ring of what has come
        self._sweep_at = 0.0
        try:
            for name, own in keys.items():
                self.links[name] = ZmqLink(address, name=name, keys=own, context=self._context)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float) -> list[tuple[str, bytes | LinkLost]]:
        """Everything that has come, in order for each end; waits up to `timeout` seconds for the
        first of it.
        """
        deadline = time.monotonic() + timeout
        found: list[tuple[str, bytes | LinkLost]] = []
        while True:
            now = time.monotonic()
            names = dict.fromkeys(self._sent)
            self._sent.clear()
            if now >= self._sweep_at:
                self._sweep_at = now + _SWEEP_S
                names = dict.fromkeys(self.links)
            wait = 0.0 if names else max(0.0, min(deadline, self._sweep_at) - now)
            for fd, _ in self._epoll.poll(wait):
                if fd in self._names:
                    names[self._names[fd]] = None
            for name in names:
                self._take(name, found)
            if found or time.monotonic() >= deadline:
                return found

    def _take(self, name: str, found: list[tuple[str, bytes | LinkLost]]) -> None:
        link = self.links[name]
        try:
            while (data := link.receive(0.0)) is not None:
                found.append((name, data))
        except LinkLost as lost:
            found.append((name, lost))
        self._watch(name, link.filenos())

    def _watch(self, name: str, filenos: list[int]) -> None:
        """A lost end has new sockets, perhaps with the descriptors of others' old ones."""
        if filenos == self._watched[name]:
            return
        for fd in self._watched[name]:
            if self._names.get(fd) == name:
                del self._names[fd]
                with contextlib.suppress(OSError):  # libzmq may have closed it
                    self._epoll.unregister(fd)
        for fd in filenos:
            self._names[fd] = name
            try:
                self._epoll.register(fd, select.EPOLLIN)
            except FileExistsError:
                self._epoll.modify(fd, select.EPOLLIN)
        self._watched[name] = filenos

    def send(self, name: str, data: bytes) -> None:
        """As a link's send."""
        self.links[name].send(data)
        self._sent.add(name)

    def close(self) -> None:
        for link in self.links.values():
            link.close()
        self._epoll.close()
        self._context.term()
