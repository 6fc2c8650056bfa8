"""Figures of quality against its price: the objective over KL, the frontier, and how far a frontier is from another."""

from __future__ import annotations

import numpy as np

from dashboards.analysis.strata import StratumResults
from dashboards.figures.figure import MOST_BEHIND, Figure, Missing, Scales, Series, floored, small_multiples
from dashboards.figures.material import Material
from dashboards.figures.outcome import others
from dashboards.statistics.frontier import BUDGETS, Points, at_budgets, frontier_difference, points_of
from studies.text.plural import so_many

_STEPS = 40


def price(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Each config's objective against its KL, with the loss's frontier where it can be told."""
    metric = material.scale.metric
    title = f"{metric.capitalize()} against KL"
    series = [priced(material, standing) for standing in material.of(scenario)]
    series = [s for s in series if s.points or s.failed]
    if not any(s.points for s in series):
        return Missing(name, title, f"no config of {scenario} has both {metric} and kl")
    scales = Scales(
        "KL to the untrained model (nats a sequence)", material.quality, "root", material.untrained, floored=True
    )
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    has_line, has_bars = any(s.line for s in series), any(s.bars for s in series)
    points = sum(len(s.points) for s in series)
    caption = (
        f"{so_many(points, 'config')} without retests, each at its mean over data draws; crosses at the "
        "foot: configs that failed, at their KL, on the left edge where that was not measured. "
        + (
            "Line: the most that is reachable within a KL budget by mixing policies, of configs chosen in advance that "
            "did not fail; its corners are chosen on one half of the evaluation samples and read on the other, so it "
            "may run below the highest points, whose height is in part luck. "
            if has_line
            else ""
        )
        + ("Bars: its 95 % intervals over data draws. " if has_bars else "")
        + others(material)
    )
    caption += floored(series, scales)
    if any(len(s.points) > MOST_BEHIND and not s.line for s in series):
        caption += f" Of the others at most {MOST_BEHIND} points each."
    return Figure(name, title, caption, svg)


def priced(material: Material, standing: StratumResults) -> Series:
    """A stratum's configs over KL, with its frontier."""
    configs = material.configs(standing)
    good = [c for c in configs if not c.failed and c.kl is not None and c.value is not None]
    points = _frontier_points(material, standing)
    line: tuple[tuple[float, float], ...] = ()
    if points is not None:
        highest = float(points.kl.mean(axis=(0, 2)).max())
        budgets = np.linspace(0.0, highest**0.5, _STEPS) ** 2
        means = points.kl.mean(axis=2)[None], points.gold.mean(axis=2)[None]
        line = tuple(zip(budgets.tolist(), at_budgets(*means, budgets.tolist())[0].tolist(), strict=True))
    space = material.row(standing).space
    front = None if space is None else space.frontier
    bars = [] if front is None or points is None else list(zip(front.budgets, front.values, strict=True))
    return Series(
        variant=standing.stratum.variant,
        title=standing.stratum.variant,
        line=line,
        bars=tuple(
            (k, e.value, e.low, e.high)
            for k, e in bars
            if e.low is not None and e.high is not None and k <= line[-1][0]
        ),
        points=tuple((c.kl, c.value) for c in good if c.kl is not None and c.value is not None),
        failed=tuple(c.kl for c in configs if c.failed),
        note=so_many(len(good), "config") + (f", {n} failed" if (n := sum(c.failed for c in configs)) else ""),
    )


def _frontier_points(material: Material, standing: StratumResults) -> Points | None:
    """What the stratum's frontier is made of; None where the table has none."""
    space = material.row(standing).space
    if space is None or space.frontier is None:
        return None
    points = points_of(standing.records, material.scale, space.failures.configs, {})
    return points if points.configs else None


def lead(material: Material, scenario: str, name: str) -> Figure | Missing:
    """Each loss's frontier less the baseline's at the KL budgets."""
    title = "Frontiers against the baseline's"
    baseline = material.comparison.baseline
    standings = {s.stratum.variant: s for s in material.of(scenario)}
    reference = _frontier_points(material, standings[baseline]) if baseline in standings else None
    if reference is None:
        return Missing(
            name, title, "it takes gold of the embedded world, and configs of the baseline chosen in advance"
        )
    series = []
    for variant, standing in standings.items():
        points = _frontier_points(material, standing) if variant != baseline else None
        if points is None or points.blocks != reference.blocks:
            continue
        space = material.row(standing).space
        assert space is not None
        assert space.frontier is not None
        found = list(zip(space.frontier.budgets, frontier_difference(points, reference), strict=True))
        line = tuple((budget, e.value) for budget, e in found)
        bars = tuple((b, e.value, e.low, e.high) for b, e in found if e.low is not None and e.high is not None)
        series.append(Series(variant, variant, line=line, bars=bars, points=() if bars else line))
    if not series:
        return Missing(name, title, "no other loss has a frontier over the same data draws")
    scales = Scales(
        "KL budget (nats a sequence)", f"gain over {baseline} ({material.scale.unit})", "log", "same", BUDGETS
    )
    svg = small_multiples(series, material.looks, None, scales, name)
    blocks = len(reference.blocks)
    caption = (
        f"Frontier less that of {baseline} over {so_many(blocks, 'data draw')}, in the direction of "
        "better; "
        + (
            "bars: 95 % intervals, both resampled together. "
            if series[0].bars
            else "no interval below ten data draws. "
        )
        + "It describes these configs and makes no claim of difference: those come from retests. "
        + others(material).partition(";")[0].rstrip(".")
        + "."
    )
    return Figure(name, title, caption, svg)
