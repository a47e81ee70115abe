"""The page of `seamline plan --out`: latency against bandwidth for each plan, and the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2
from matplotlib.axes import Axes

from .plan_choice import Answer
from .report import DEVICE, QUIET, svg

Curves = Mapping[str, Sequence[tuple[float, float]]]
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
<p>Milliseconds of {{ unit }} against the uplink in bit/s, each seam with the codec that is fastest
there. The thick line is what is chosen at each bandwidth; the dashed one is the link asked for.</p>
{{ chart }}
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
        chart=svg("latency by bandwidth", lambda axes: _draw(axes, curves, answer.link.up)),
        said=said,
    )


def _draw(axes: Axes, curves: Curves, rate: float) -> None:
    for name, points in curves.items():
        if name != "chosen":
            axes.plot(*zip(*points, strict=True), color=QUIET, linewidth=0.9)
            axes.annotate(name, points[0], (2, 0), textcoords="offset points", fontsize=7)
    if curves.get("chosen"):
        axes.plot(*zip(*curves["chosen"], strict=True), color=DEVICE, linewidth=2.4)
    if rate > 0:
        axes.axvline(rate, color=QUIET, linewidth=1, linestyle=(0, (2, 3)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bit/s up")
    axes.set_ylabel("ms")
