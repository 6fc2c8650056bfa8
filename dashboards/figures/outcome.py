"""Figures of what came out: the comparison itself, failures, performance profiles, and what tuning is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from dashboards.analysis.confirmed import confirmed_values
from dashboards.figures.figure import (
    BELOW,
    QUIET,
    WIDTH,
    Figure,
    Look,
    Missing,
    Scales,
    Series,
    drawing,
    fixed_ticks,
    label,
    small_multiples,
    svg_of,
)
from dashboards.figures.material import Material
from dashboards.statistics.estimates import Estimate
from dashboards.statistics.stability import KINDS, Kind, performance_profile
from dashboards.tables.comparison import Row
from studies.text.plural import so_many

_LEVELS = 101
_KIND_COLOURS: dict[Kind, str] = {
    "non-finite": "#D55E00",
    "inversion": "#0072B2",
    "collapse": "#000000",
    "drift": "#E69F00",
}


def comparison(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Each loss's best config, and its difference to the baseline with interval and region of equivalence."""
    title = "Best of each loss, and against the baseline"
    standings = material.of(scenario)
    rows = [material.row(s) for s in standings]
    if not any(row.best for row in rows):
        return Missing(name, title, f"no trial of {scenario} has the objective")
    judged = [row for row in rows if row.difference is not None]
    names = [row.variant for row in rows]
    height = 0.75 + 0.27 * len(rows)
    with drawing(WIDTH, height) as canvas:
        margins = {"left": 1.6 / WIDTH, "right": 1 - 1.05 / WIDTH, "bottom": 0.45 / height, "top": 1 - 0.28 / height}
        panels = canvas.subplots(
            1, 2 if judged else 1, sharey=True, squeeze=False, gridspec_kw=margins | {"wspace": 0.08}
        )
        best, *against = panels.flat
        for i, (standing, row) in enumerate(zip(standings, rows, strict=True)):
            value = material.best(standing)
            if row.best is not None and value is not None:
                _interval(best, i, value, material.looks[row.variant], solid=row.best.basis == "confirmed")
        best.set_title(f"best config, {label(scenario)}", loc="left")
        best.set_xlabel(material.quality)
        left, right = best.get_xlim()
        if material.untrained and left <= 0.0 <= right:
            best.axvline(0.0, color=QUIET, lw=0.6, ls=(0, (1, 2)))
        if against:
            _differences(against[0], rows, material)
        for axes in panels.flat:
            axes.grid(axis="y", color="#eeeeee", lw=0.6)
            fixed_ticks(axes, names)
        svg = svg_of(canvas, name)
    return Figure(name, title, _comparison_caption(material, rows, judged), svg)


def _interval(axes: Axes, at: int, e: Estimate, look: Look, *, solid: bool) -> None:
    """A value with its interval over blocks, or with the evaluator's own error in a thin line where there is none."""
    low, high, width = (e.low, e.high, 1.6) if e.low is not None and e.high is not None else (None, None, 0.8)
    if low is None and e.error is not None:
        low, high = e.value - e.error, e.value + e.error
    if low is not None and high is not None:
        axes.plot([low, high], [at, at], color=look.colour, lw=width, solid_capstyle="butt")
    face = look.colour if solid else "white"
    axes.plot([e.value], [at], ls="", marker=look.marker, ms=5, mfc=face, mec=look.colour)


def _differences(axes: Axes, rows: Sequence[Row], material: Material) -> None:
    tie = material.scale.tie_within
    if tie is not None:
        axes.axvspan(-tie, tie, color="#e8e8e8", lw=0, zorder=0)
    axes.axvline(0.0, color=QUIET, lw=0.8)
    for i, row in enumerate(rows):
        words = row.variant == material.comparison.baseline and "baseline"
        if row.difference is not None:
            _interval(axes, i, row.difference.estimate, material.looks[row.variant], solid=True)
            words = row.difference.word + (
                "" if row.difference.is_general else "~" if row.difference.is_robust else "?"
            )
            words = "no word" if row.difference.instead else words
        words = words or (row.said and "not compared") or "not retested"
        axes.text(1.02, i, words, transform=axes.get_yaxis_transform(), va="center", color=QUIET)
    axes.set_title(f"less {label(material.comparison.baseline or '')}", loc="left")
    axes.set_xlabel(f"difference ({material.scale.unit}), right is better")


def _comparison_caption(material: Material, rows: Sequence[Row], judged: Sequence[Row]) -> str:
    bests = [row.best for row in rows if row.best is not None]
    parts = ["Filled: the best config retested on fresh data."] * any(b.basis == "confirmed" for b in bests)
    if any(b.basis == "selected" for b in bests):
        parts.append(
            "Hollow: by the very numbers that chose it, so too good on average where it is the best of several."
        )
    if any(b.estimate.low is not None for b in bests):
        parts.append("Thick lines: 95 % t intervals over data draws.")
    if any(b.estimate.low is None for b in bests):
        parts.append("Thin lines: the evaluator's standard error alone, no interval below three data draws.")
    if judged:
        blocks = sorted({row.difference.estimate.blocks for row in judged if row.difference})
        parts.append(
            f"Right: paired over {' or '.join(map(str, blocks))} fresh data draws, Holm over the losses; "
            "grey band: differences that do not matter. ~ inconclusive without one of the tasks, ? the other way "
            "round."
        )
    unsaid = [f"{row.variant} ({row.said})" for row in rows if row.said]
    if unsaid:
        parts.append(f"Not compared: {', '.join(unsaid)}.")
    lost = [row.variant for row in rows if row.best is None]
    if lost:
        parts.append(f"Without a value: {', '.join(lost)}.")
    return " ".join(parts)


def failed(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Share of each loss's configs that failed, by kind, with exact limits of the whole."""
    title = "Configs that failed"
    rows = [(s.stratum.variant, material.row(s).space) for s in material.of(scenario)]
    spaces = [(variant, space) for variant, space in rows if space is not None and space.failures.all.n]
    if not spaces:
        return Missing(name, title, "it takes four configs of a variant that were chosen in advance")
    height = 0.8 + 0.25 * len(spaces)
    with drawing(WIDTH, height) as canvas:
        axes = canvas.add_axes((1.6 / WIDTH, 0.45 / height, 1 - 2.9 / WIDTH, 1 - 0.8 / height))
        for i, (_, space) in enumerate(spaces):
            whole, left = space.failures.all, 0.0
            by_kind = {kind: p.k for kind, p in space.failures.by_kind.items() if p.k}
            several = max(sum(by_kind.values()), 1)
            for kind, count in by_kind.items():
                width = 100 * whole.k / whole.n * count / several
                axes.barh(i, width, left=left, height=0.55, color=_KIND_COLOURS[kind])
                left += width
            axes.plot([100 * whole.low, 100 * whole.high], [i, i], color=QUIET, lw=1.0)
            axes.text(1.02, i, f"{whole.k}/{whole.n}", transform=axes.get_yaxis_transform(), va="center", color=QUIET)
        fixed_ticks(axes, [variant for variant, _ in spaces])
        axes.set_xlim(0, None)
        axes.set_xlabel(f"configs that failed, {label(scenario)} (%)")
        for kind in KINDS:
            axes.barh([0], [0], color=_KIND_COLOURS[kind], label=kind)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=7.5)
        svg = svg_of(canvas, name)
    caption = (
        "Of configs that were chosen in advance, without a look at results. A config counts once in the "
        "whole; one that failed in several ways is shared between the colours. Grey lines: exact 95 % limits of the "
        "whole."
    )
    return Figure(name, title, caption, svg)


def profile(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Share of runs above each level of the objective: of confirm runs where there are any, else of unbiased ones."""
    title = "Performance profiles"
    scale = material.scale
    confirmed = {s.stratum.variant: confirmed_values(s, scale) for s in material.of(scenario)}
    use_confirmed = any(len(of) >= 3 for of in confirmed.values())
    scores: dict[str, dict[int, list[float]]] = {}
    for standing in material.of(scenario):
        of_task = scores.setdefault(standing.stratum.variant, {})
        if use_confirmed:
            for block, value in confirmed[standing.stratum.variant].items():
                of_task.setdefault(scale.task(block), []).append(scale.sign * value)
            continue
        for config in material.configs(standing):
            for block, value in scale.by_block(config.runs).items() if config.unbiased and not config.failed else ():
                of_task.setdefault(scale.task(block), []).append(scale.sign * value)
            if config.unbiased and config.failed:
                for block in {run.block for run in config.runs}:
                    of_task.setdefault(scale.task(block), []).append(-np.inf)
    scores = {variant: of for variant, of in scores.items() if sum(map(len, of.values())) >= 3}
    values = [v for of in scores.values() for runs in of.values() for v in runs if np.isfinite(v)]
    if not values:
        return Missing(name, title, "it takes three retests, or three runs of configs chosen in advance")
    lowest = max(min(values), -BELOW * max(values)) if material.untrained and max(values) > 0 else min(values)
    levels = np.linspace(lowest, max(values), _LEVELS)
    series = []
    for variant, of in scores.items():
        shares = performance_profile(list(of.values()), list(levels - 1e-12))
        line = tuple(zip((scale.sign * levels).tolist(), (100 * shares).tolist(), strict=True))
        series.append(Series(variant, variant, line=line, note=so_many(sum(map(len, of.values())), "run")))
    better = "above" if scale.sign == 1 else "below"
    scales = Scales(material.quality, f"runs at or {better} (%)")
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    of_what = "retests on fresh data" if use_confirmed else "configs chosen in advance, failed ones below every level"
    caption = (
        f"Share of {of_what} that reach a level, mean over {'tasks' if scale.by_task else 'data draws'}; the "
        f"further {'right' if scale.sign == 1 else 'left'} a curve, the better. {others(material)}"
    )
    return Figure(name, title, caption, svg)


def tuning(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Expected best of n configs, against n."""
    title = "What tuning is worth"
    series = []
    for standing in material.of(scenario):
        space = material.row(standing).space
        if space is not None:
            line = tuple((float(n), material.scale.sign * value) for n, value in space.best_of.items())
            note = so_many(space.failures.all.n, "config")
            series.append(Series(standing.stratum.variant, standing.stratum.variant, line=line, note=note))
    if not series or max(len(s.line) for s in series) < 3:
        return Missing(name, title, "it takes six configs of a variant that were chosen in advance")
    scales = Scales("configs tried", material.quality, zero=material.untrained)
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    caption = (
        "Expected best of n configs drawn from those chosen in advance, failed ones as the untrained model (0), up to "
        "half of the configs; too low on average, the more the further right. A flat curve needs no tuning: any config "
        f"does as well. {others(material)}"
    )
    return Figure(name, title, caption, svg)


def others(material: Material) -> str:
    """What the lines behind a panel's own are."""
    if len(material.variants) < 2:
        return ""
    baseline = material.comparison.baseline
    return "Grey: the other losses" + (f"; dashed black: {baseline}, the baseline." if baseline else ".")
