"""A pseudo-terminal cable in a thread, for the tests of serial links."""

import threading
from pathlib import Path

from seamline.runtime.link_proxy import run_link_proxy


class Cable:
    """A cable in a thread of this process; `a` is the host's end, `b` the device's."""

    def __init__(self, folder: Path) -> None:
        self.a, self.b = folder / "a", folder / "b"
        self.address_a, self.address_b = f"serial:{self.a}:921600", f"serial:{self.b}:921600"
        self.plug_in()

    def plug_in(self) -> None:
        ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=run_link_proxy,
            args=([(str(self.a), str(self.b))], lambda _: ready.set(), self._stop),
        )
        self._thread.start()
        assert ready.wait(5)

    def pull_out(self) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()
