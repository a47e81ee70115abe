"""The page of `seamline plan --out`: latency against bandwidth for each plan, and the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jinja2
from matplotlib.axes import Axes

from .plan_choice import Answer
from .report import DEVICE, QUIET, svg

Curves = Mapping[str, Sequence[tuple[float, float]]]
End = tuple[tuple[float, float], str]  # (bits a second, milliseconds) and name
ROOM = 7  # times less bandwidth, for names at the left
GAP = 0.05  # of the height: labels closer than that are one
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} · seamline plan</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 820px; margin: 28px auto; padding: 0 18px; }
h1 { font-size: 1.5rem; }
svg { width: 100%; height: auto; display: block; }
li { margin: 4px 0; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>How long {{ unit }} takes, by the bandwidth of the uplink: a line for each seam, with the codec
that is fastest there. The thick line is what is chosen at each bandwidth; the dashed one is the
link asked for ({{ link }}). Both axes are logarithmic; up and down change alike.</p>
{{ chart }}
<p>Chosen by bandwidth: {{ ranges }}.</p>
<ul>{% for line in said %}<li>{{ line }}</li>{% endfor %}</ul>
</body>
</html>
"""


def render(answer: Answer, curves: Curves, said: Sequence[str]) -> str:
    """The page as text. said: lines that explain the choice."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    training = answer.wish.pass_ == "training"
    return environment.from_string(PAGE).render(
        title=f"{answer.profile.model}: where to cut",
        unit="a training step" if training else "an inference",
        link=f"{in_bits(answer.link.up)} up, {in_bits(answer.link.down)} down",
        chart=svg("latency by bandwidth", lambda axes: _draw(axes, curves, answer.link.up)),
        ranges=ranges(curves),
        said=said,
    )


def in_bits(rate: float) -> str:
    """Bits a second as people say them."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{rate / size:.3g} {name}bit/s"
    return f"{rate:.3g} bit/s"


def in_time(milliseconds: float) -> str:
    """The same for a time."""
    if milliseconds >= 1e3:
        return f"{milliseconds / 1e3:.3g} s"
    return f"{milliseconds:.3g} ms" if milliseconds >= 1 else f"{1e3 * milliseconds:.3g} \u00b5s"


def ranges(curves: Curves) -> str:
    """What is chosen from which bandwidth on: which curve the thick line follows."""
    named = {name: dict(points) for name, points in curves.items() if name != "chosen"}
    parts: list[str] = []
    last = ""
    for rate, chosen in curves.get("chosen", ()):
        there = {
            name: abs(points[rate] - chosen) for name, points in named.items() if rate in points
        }
        name = last if there.get(last) == 0 else min(there, key=lambda one: there[one])
        if name != last:
            parts.append(f"{name} from {in_bits(rate)} on" if last else name)
            last = name
    if len(parts) < 2:
        return f"{last} at every bandwidth" if last else "nothing can be done at any bandwidth"
    return "; ".join(parts)


def _draw(axes: Axes, curves: Curves, rate: float) -> None:
    for name, points in curves.items():
        if name != "chosen":
            axes.plot(*zip(*points, strict=True), color=QUIET, linewidth=0.9)
    if curves.get("chosen"):
        axes.plot(*zip(*curves["chosen"], strict=True), color=DEVICE, linewidth=2.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: in_bits(value))
    axes.yaxis.set_major_formatter(lambda value, _: in_time(value))
    axes.minorticks_off()
    axes.tick_params(labelsize=7)
    _label(axes, curves)
    if rate > 0:
        axes.axvline(rate, color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
        top = axes.get_ylim()[1]
        axes.annotate(in_bits(rate), (rate, top), (3, -8), textcoords="offset points", fontsize=7)
    axes.set_xlabel("uplink", fontsize=8)


def _label(axes: Axes, curves: Curves) -> None:
    """Names at those ends of the curves that lie farther apart; one label for those that end at
    one place."""
    low, high = axes.get_ylim()
    least = math.log(high / low) * GAP
    left, right = (_groups(curves, end, least) for end in (0, -1))
    at_right = len(right) >= len(left)
    if not at_right:
        axes.set_xlim(left=min(group[0][0][0] for group in left) / ROOM)
    for group in right if at_right else left:
        at = (group[0][0][0], math.sqrt(group[0][0][1] * group[-1][0][1]))
        axes.annotate(
            shorter([name for _, name in group]),
            at,
            (4 if at_right else -4, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
            ha="left" if at_right else "right",
        )


def _groups(curves: Curves, end: int, least: float) -> list[list[End]]:
    """Ends of curves with their names, from below; those within `least` (of logarithms) of the
    lowest of a group are in it."""
    ends = [(points[end], name) for name, points in curves.items() if name != "chosen" and points]
    groups: list[list[End]] = []
    for it in sorted(ends, key=lambda it: it[0][1]):
        if groups and math.log(it[0][1] / groups[-1][0][0][1]) < least:
            groups[-1].append(it)
        else:
            groups.append([it])
    return groups


def shorter(names: Sequence[str]) -> str:
    """Seams of one label: `seams 1-3, 5`; other plans by name."""
    numbers = sorted(int(name[5:]) for name in names if name[5:].isdigit())
    others = [name for name in names if not name[5:].isdigit()]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if said:
        others.insert(0, ("seams " if len(numbers) > 1 else "seam ") + ", ".join(said))
    return ", ".join(others)
