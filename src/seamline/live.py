"""Shows a running job: a live table on a terminal, lines elsewhere, nothing when JSON is asked."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from .progress import DeviceView, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_EVERY_S = 2.0
FRAMES = 4  # a second
STATE_STYLE = {
    "training": "green",
    "done": "green",
    "joined": "cyan",
    "lost": "red",
    "late": "yellow",
}


class Show(Protocol):
    """A context manager that is told whenever something may have changed."""

    def __enter__(self) -> Show: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    def update(self, progress: Progress) -> None: ...


def make_show(format_: str, title: str) -> Show:
    """For JSON none, on a terminal with rich a table, else lines."""
    if format_ == "json":
        return Silent()
    if sys.stdout.isatty() and find_spec("rich") is not None:
        return Table(title)
    return Lines(title)


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, progress: Progress) -> None:
        return


class Lines(Silent):
    """A line when an evaluation is there or some time has passed; notes as they come."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._told = (0.0, 0, 0)  # when, points, notes

    def __enter__(self) -> Lines:
        print(self._title, flush=True)
        return self

    def update(self, progress: Progress) -> None:
        when, points, notes = self._told
        for seconds, text in progress.notes[notes:]:
            print(f"{seconds:6.1f} s  {text}", flush=True)
        now = time.monotonic()
        if len(progress.points) > points or now - when >= LINE_EVERY_S:
            print(f"{progress.seconds:6.1f} s  {summary(progress)}", flush=True)
            when = now
        self._told = (when, len(progress.points), len(progress.notes))


def summary(progress: Progress) -> str:
    """One line on where the job is."""
    parts = [f"cloud round {progress.cloud_rounds}/{progress.job.train.cloud_rounds}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.points:
        parts.append(f"accuracy {100 * progress.points[-1].accuracy:.1f} %")
    parts.append(f"up {megabytes(progress.bytes_up)}, down {megabytes(progress.bytes_down)}")
    here = sum(d.state not in ("starting", "lost") for d in progress.devices.values())
    parts.append(f"{here} of {len(progress.devices)} devices")
    return ", ".join(parts)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


class Table:
    """A progress bar over cloud rounds above a table of devices, drawn a few times a second."""

    def __init__(self, title: str) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._title = title
        self._bars = Bars(
            TextColumn("[bold]cloud rounds"),
            BarColumn(None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            expand=True,
        )
        self._task: Any = None
        self._drawn = 0.0
        self._progress: Progress | None = None
        self._live = Live(auto_refresh=False, transient=False)

    def __enter__(self) -> Table:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._draw(self._progress)
        self._live.__exit__(kind, error, trace)

    def update(self, progress: Progress) -> None:
        self._progress = progress
        now = time.monotonic()
        if now - self._drawn >= 1 / FRAMES:
            self._drawn = now
            self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        if self._task is None:
            self._task = self._bars.add_task("", total=progress.job.train.cloud_rounds)
        self._bars.update(self._task, completed=progress.cloud_rounds)
        self._live.update(self._picture(progress), refresh=True)

    def _picture(self, progress: Progress) -> RenderableType:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=self._title, title_justify="left", expand=True, pad_edge=False)
        for name in ("device", "zone", "link", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("steps", "loss", "accuracy", "up", "down", "memory"):
            table.add_column(name, justify="right", no_wrap=True)
        for device in progress.devices.values():
            table.add_row(*_row(device, progress))
        table.add_section()
        accuracy = progress.points[-1].accuracy if progress.points else None
        loss = "" if progress.loss is None else f"{progress.loss:.3f}"
        up, down = megabytes(progress.bytes_up), megabytes(progress.bytes_down)
        total = ("all", "", "", "", "", loss, percent(accuracy), up, down, "")
        table.add_row(*total, style="bold")
        notes = [Text(f"{s:6.1f} s  {text}", style="dim") for s, text in progress.notes[-3:]]
        return Group(table, self._bars, *notes)


def _row(device: DeviceView, progress: Progress) -> tuple[str, ...]:
    style = STATE_STYLE.get(device.state, "dim")
    steps = progress.zones[device.zone].get("round", 0) * progress.job.train.device_steps
    return (
        device.id,
        device.zone,
        device.link,
        f"[{style}]{device.state}",
        str(steps),
        "" if device.loss is None else f"{device.loss:.3f}",
        percent(device.accuracy),
        megabytes(device.up.total),
        megabytes(device.down.total),
        f"{device.vmhwm_mb:.0f} MB" if device.vmhwm_mb else "",
    )
