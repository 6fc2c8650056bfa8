"""The figure of all knobs at once: parallel coordinates, a line for every config from its loss to its objective."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from dashboards.figures.figure import QUIET, WIDTH, Figure, Missing, drawing, label, spread_by_ratio, svg_of
from dashboards.figures.material import Config, Material
from dashboards.tables.numbers import number
from studies.text.plural import so_many

FEWEST_CONFIGS = 3
_HEIGHT = 3.6
_FOOT = -0.07  # where lines of failed configs end
_BROKEN = "#D55E00"
_FEW = 8  # an axis with so few values has a tick at each


@dataclass(frozen=True)
class Column:
    """An axis: its name, the place of every config from 0 to 1 (None: it has none), and ticks (text, place)."""

    name: str
    places: tuple[float | None, ...]
    ticks: tuple[tuple[str, float], ...]


def parallel(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Every config as a line over its loss, its knobs, its KL and its objective."""
    title = "All configs, all settings"
    rows = [(s.stratum.variant, c) for s in material.of(scenario) for c in material.configs(s)]
    rows = [(variant, c) for variant, c in rows if c.failed or c.value is not None]
    columns = _columns([config for _, config in rows], material.scale.metric)
    if len(rows) < FEWEST_CONFIGS or columns is None:
        return Missing(name, title, "it takes three configs, and a setting that most of them have")
    scores = [None if c.failed else material.scale.sign * (c.value or 0.0) for _, c in rows]
    variants = [v for v in material.variants if any(v == variant for variant, _ in rows)]
    lanes = {v: 1 - i / max(len(variants) - 1, 1) for i, v in enumerate(variants)}
    with drawing(WIDTH, _HEIGHT) as canvas:
        axes = canvas.add_axes((1.5 / WIDTH, 0.35 / _HEIGHT, 1 - 2.1 / WIDTH, 1 - 0.65 / _HEIGHT))
        axes.set(xlim=(-0.02, len(columns) + 0.02), ylim=(-0.1, 1.04))
        axes.axis("off")
        _lines(axes, [lanes[variant] for variant, _ in rows], columns, _ranks(scores))
        for variant, lane in lanes.items():
            axes.text(-0.03, lane, label(variant), ha="right", va="center", color=material.looks[variant].colour)
        _axes(axes, columns)
        svg = svg_of(canvas, name)
    broken = scores.count(None)
    caption = (
        f"{so_many(len(rows), 'config')} without retests, one line each, at their means over data draws; "
        f"the darker, the better its rank by {material.scale.metric}."
        + (f" Dashed orange, down to the foot: the {broken} that failed." if broken else "")
        + " A setting that a loss does not have is passed over."
    )
    return Figure(name, title, caption, svg)


def _columns(configs: Sequence[Config], metric: str) -> list[Column] | None:
    """The axes: knobs that most configs have and that vary, KL, the objective. None without a knob."""
    knobs = dict.fromkeys(name for config in configs for name in config.knobs)
    values = {name: [config.number(name) for config in configs] for name in knobs}
    shared = {name: of for name, of in values.items() if 2 * sum(v is not None for v in of) > len(configs)}
    found = [column for name, of in shared.items() if (column := column_of(name, of)) is not None]
    if not found:
        return None
    measured = {"KL (nats)": [c.kl for c in configs], metric: [None if c.failed else c.value for c in configs]}
    return found + [column for name, of in measured.items() if (column := column_of(name, of)) is not None]


def column_of(name: str, values: Sequence[float | None]) -> Column | None:
    """The axis of some values, logarithmic where that spreads them better; None where all are the same."""
    known = sorted({v for v in values if v is not None})
    if len(known) < 2:
        return None
    low, high = known[0], known[-1]
    log = spread_by_ratio([v for v in values if v is not None])

    def place(value: float) -> float:
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    shown = known if len(known) <= _FEW else (np.geomspace if log else np.linspace)(low, high, 5).tolist()
    ticks = tuple((number(value) if value >= 100 else f"{value:.2g}", place(value)) for value in shown)
    return Column(name, tuple(None if v is None else place(v) for v in values), ticks)


def _lines(axes: Axes, lanes: Sequence[float], columns: Sequence[Column], ranks: Sequence[float | None]) -> None:
    """A line for each config, the best ones on top and the failed ones at the bottom."""
    order = sorted(range(len(lanes)), key=lambda i: -1.0 if (rank := ranks[i]) is None else rank)
    lines: list[list[tuple[float, float]]] = []
    colours: list[Any] = []
    for i in order:
        rank = ranks[i]
        start = (0.0, lanes[i] + (i % 7 - 3) * 0.012)  # apart, so that a loss is seen to have many
        points = [(float(x), y) for x, c in enumerate(columns, start=1) if (y := c.places[i]) is not None]
        lines.append([start, *points] if rank is not None else [start, *points, (float(len(columns)), _FOOT)])
        colours.append(_BROKEN if rank is None else (*colormaps["cividis_r"](0.1 + 0.9 * rank)[:3], 0.25 + 0.6 * rank))
    styles = [(0, (2, 1.5)) if ranks[i] is None else "-" for i in order]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.9, linestyles=styles))


def _axes(axes: Axes, columns: Sequence[Column]) -> None:
    behind: Mapping[str, Any] = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    for x, column in enumerate(columns, start=1):
        axes.plot([x, x], [0, 1], color=QUIET, lw=0.8)
        axes.text(x, 1.06, label(column.name), ha="center", va="bottom", fontweight="bold")
        for text, place in column.ticks:
            axes.text(x + 0.02, place, text, ha="left", va="center", fontsize=6.5, bbox=dict(behind))


def _ranks(values: Sequence[float | None]) -> list[float | None]:
    """Each value's rank from 0, the worst, to 1; None stays None."""
    known = sorted(v for v in values if v is not None)
    last = max(len(known) - 1, 1)
    return [None if v is None else bisect_left(known, v) / last for v in values]
