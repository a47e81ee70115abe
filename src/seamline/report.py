"""report.html: one self-contained page about a run, from its recorded history."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour, which matplotlib cannot name
DEVICE, EDGE, QUIET = "#2a9d8f", "#5b6ee1", "#8a94a6"  # readable on light and on dark
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 9.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
}
LABEL_HEIGHT, LABEL_WIDTH = 6.5, 12.0  # percent points that a label takes in a chart
SIZE = (4.6, 2.9)  # inches; the page scales it
Draw = Callable[[Axes], None]


def render(history: Mapping[str, Any]) -> str:
    """The page as text. history: what a local run records (history.json)."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "bytes": byte_count}
    return environment.get_template("report.html").render(
        title=history["title"],
        result=history["result"],
        rows=control_rows(history),
        charts=charts(history),
        layers=layers(history),
        crossing=crossing(history),
        settings=flatten(history["settings"]),
        devices=history["record"]["devices"],
        ledger=ledger_rows(history["record"].get("ledger", {})),
        links=link_rows(history["record"].get("links", [])),
        network=network_rows(history["result"].get("network")),
        notes=history["record"]["notes"],
    )


# ---- figures in words ----


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def byte_count(count: float) -> str:
    """Decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def control_rows(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Result and controls: title, accuracy, points to the result; bytes and time where it ran."""
    from .demo import BASELINES, TITLES, result_rows

    result, controls = history["result"], history["controls"]
    records = {TITLES[name]: controls[name] for name in BASELINES if name in controls}
    rows: list[dict[str, Any]] = []
    found = result_rows(result)
    for title, accuracy in found:
        record = records.get(title, history["record"] if not rows else None)
        rows.append(
            {
                "title": title,
                "accuracy": accuracy,
                "points": 100 * (accuracy - found[0][1]) if rows else None,
                "up": record and record["bytes_up"],
                "down": record and record["bytes_down"],
                "seconds": record and record["seconds"],
            }
        )
    return rows


LINK_COUNTS = (
    "losses",
    "retransmits",
    "frames_damaged",
    "frames_forged",
    "replayed",
    "credit_stalls",
)


def link_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each tier said last of each of its peers, as text; figures a link does not have: –."""
    rows = []
    for event in events:
        counts = [event.get(key) for key in LINK_COUNTS]
        messages = [event.get(f"messages_{way}", 0) for way in ("sent", "received")]
        rtt = event.get("rtt_us")
        sent, received = event.get("goodput_sent"), event.get("goodput_received")
        rows.append(
            {
                **{key: str(event.get(key, "")) for key in ("tier", "peer", "link", "state")},
                "out": byte_count(event.get("bytes_sent") or 0),
                "in": byte_count(event.get("bytes_received") or 0),
                "messages": " / ".join(map(str, messages)),
                "counts": ["–" if count is None else str(count) for count in counts],
                "rtt": "–" if rtt is None else f"{rtt / 1000:.1f} ms",
                "goodput": "–"
                if sent is None or received is None
                else f"{byte_count(sent)}/s, {byte_count(received)}/s",
            }
        )
    return rows


HOPS = {"devices": "devices and edge hosts", "zones": "edge hosts and cloud"}


def ledger_rows(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hop, what was carried, bytes up and down: the largest first in each hop, then their sum."""
    rows = []
    for hop, title in HOPS.items():
        ways = ledger.get(hop, {})
        up, down = ways.get("up", {}), ways.get("down", {})
        sizes = {what: (up.get(what, 0), down.get(what, 0)) for what in {**up, **down}}
        for what in sorted(sizes, key=lambda name: (-sum(sizes[name]), name)):
            rows.append({"hop": title, "what": what, "up": sizes[what][0], "down": sizes[what][1]})
        if sizes:
            whole = {"up": sum(up.values()), "down": sum(down.values())}
            rows.append({"hop": title, "what": "all", **whole})
    return rows


def network_rows(network: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Lines that followed an emulated network, as text; none without any."""
    rows = []
    for name, line in (network or {"lines": {}})["lines"].items():
        row = {"name": name, "network": str(line["network"])}
        for way in ("up", "down"):
            rate = line[way]["goodput_bits_per_s"]
            row |= {
                f"{way}_bytes": byte_count(line[way]["bytes"]),
                f"{way}_busy": f"{line[way]['busy_s']:.1f} s",
                f"{way}_stalls": str(line[way]["stalls"]),
                f"{way}_goodput": "–" if rate is None else f"{rate / 1000:.1f} kbit/s",
            }
        rows.append(row)
    return rows


def flatten(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as (key, value), without zones and devices, which the page shows elsewhere."""
    rows = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}.{name}", _plain(entry)) for name, entry in value.items()]
        elif not isinstance(value, list):
            rows.append((key, _plain(value)))
    return [(key, value) for key, value in rows if value not in ("", "{}")]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- the network ----


def layers(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the network; `last` marks the module in front of the seam."""
    rows = history["network"]
    sides = [row["side"] for row in rows]
    return [
        {
            **row,
            "shape": " × ".join(map(str, row["shape"])),
            "last": row["side"] == "device" and "edge" in sides[i + 1 : i + 2],
        }
        for i, row in enumerate(rows)
    ]


def crossing(history: Mapping[str, Any]) -> dict[str, Any] | None:
    """What crosses the seam in one device step; None where the whole network is on the device."""
    rows = history["network"]
    if not rows or rows[-1]["side"] == "device":
        return None
    shape = [row["shape"] for row in rows if row["side"] == "device"][-1]
    settings = history["settings"]
    batch = [settings["train"]["batch"], *shape]
    codec = settings["codec"]
    return {
        "shape": " × ".join(map(str, shape)),
        "batch": settings["train"]["batch"],
        "up": _payload(codec["up"], batch),
        "down": 0 if settings["train"]["freeze_front"] else _payload(codec["down"], batch),
        "codec_up": codec["up"],
        "codec_down": codec["down"],
    }


def _payload(codec: str, shape: Sequence[int]) -> int:
    """Bytes of a parcel without its header."""
    from .kernels import parcel

    return len(parcel.pack(np.zeros(shape, np.float32), codec)) - 16 - 4 * len(shape)


# ---- charts ----


def charts(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Title and inline SVG of each chart that has something to show."""
    points = history["record"]["points"]
    found: list[dict[str, Any]] = []

    def add(title: str, text: str, draw: Draw) -> None:
        found.append({"title": title, "text": text, "svg": svg(title, draw)})

    if points:
        controls = _control_lines(history)
        rounds = [p["cloud_round"] for p in points]
        moved = [(p["bytes_up"] + p["bytes_down"]) / 1e6 for p in points]
        seconds = [p["seconds"] for p in points]
        add(
            "Accuracy by cloud round",
            "on held-out samples of all devices",
            lambda axes: _accuracy(axes, rounds, points, "cloud rounds", controls),
        )
        add(
            "Accuracy by traffic",
            "all messages between devices and edge hosts, both ways",
            lambda axes: _accuracy(axes, moved, points, "MB", {}),
        )
        add(
            "Accuracy by time",
            "since the first process was started",
            lambda axes: _accuracy(axes, seconds, points, "seconds", {}),
        )
    if history["record"]["losses"]:
        add("Loss", "training: mean over zones", lambda axes: _loss(axes, history))
    devices = {i: d for i, d in history["record"]["devices"].items() if d["accuracy"] is not None}
    if devices:
        add(
            "Accuracy of each device",
            "held-out samples of one person each"
            if _watch(history)
            else "held-out samples of each device",
            lambda axes: _bars(axes, devices),
        )
    return found


def _watch(history: Mapping[str, Any]) -> bool:
    return bool(history["settings"]["data"]["source"] == "watch")


def _control_lines(history: Mapping[str, Any]) -> dict[str, float]:
    names = {"centralised": "centralised", "federated": "federated", "isolated": "isolated"}
    names |= {"frozen_front": "frozen front", "majority": "majority"}
    result = history["result"]
    return {text: result[name] for name, text in names.items() if result.get(name) is not None}


def _accuracy(
    axes: Axes, x: Sequence[float], points: Sequence[Any], label: str, controls: Mapping[str, float]
) -> None:
    y = [100 * p["accuracy"] for p in points]
    for name, value, place in _apart(controls):
        axes.axhline(value, color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
        axes.annotate(
            f"{name} {value:.1f}",
            (1, place),
            (4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8,
            alpha=0.75,
        )
    axes.plot(x, y, color=DEVICE, marker="o", markersize=3.2)
    axes.annotate(
        f"{y[-1]:.1f} %",
        (x[-1], y[-1]),
        (-2, 7),
        textcoords="offset points",
        ha="right",
        fontweight="bold",
    )
    axes.set_ylim(0, 105)
    axes.set_xlim(0, None)
    axes.set_ylabel("accuracy, %")
    axes.set_xlabel(label)


def _apart(shares: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(name, percent, place of its label): from the top down, no two labels on one another."""
    rows: list[tuple[str, float, float]] = []
    for name, share in sorted(shares.items(), key=lambda entry: -entry[1]):
        highest = rows[-1][2] - LABEL_HEIGHT if rows else math.inf
        rows.append((name, 100 * share, min(100 * share, highest)))
    return rows


def _loss(axes: Axes, history: Mapping[str, Any]) -> None:
    record = history["record"]
    axes.plot(
        [e[0] for e in record["losses"]],
        [e[2] for e in record["losses"]],
        color=EDGE,
        label="training",
    )
    if record["points"]:
        rounds = [p["cloud_round"] for p in record["points"]]
        held_out = [p["loss"] for p in record["points"]]
        axes.plot(rounds, held_out, color=DEVICE, marker="o", markersize=3.2, label="held-out")
        axes.legend(frameon=False, loc="upper right")
    axes.set_ylim(0, None)
    axes.set_xlim(0, None)
    axes.set_ylabel("cross-entropy")
    axes.set_xlabel("cloud rounds")


def _bars(axes: Axes, devices: Mapping[str, Any]) -> None:
    values = [100 * device["accuracy"] for device in devices.values()]
    places = range(len(values))
    axes.barh(places, values, color=DEVICE, height=0.62)
    for place, value in zip(places, values, strict=True):
        inside = value > LABEL_WIDTH
        axes.annotate(
            f"{value:.1f}",
            (value, place),
            (-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            color="#ffffff" if inside else INK,
            fontsize=8,
        )
    axes.set_yticks(list(places), list(devices))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %")


def svg(title: str, draw: Draw) -> Markup:
    """An inline SVG in the page's colours; ids are salted with the title, as a page has many."""
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": title}
    with mpl.rc_context(style):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # HTML knows what an svg is
    wanted = set(re.findall(r"#([^\s\"')]+)", text))  # of the ids, only what is referred to stays
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in wanted else "", text)
    text = re.sub(r"<svg [^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', text, count=1)
    text = re.sub(r"font: ([^;\"]*?)px '[^;\"]*", r"font-size: \1px", text)
    return Markup(text.replace(INK, "currentColor"))  # matplotlib has escaped the names in it
