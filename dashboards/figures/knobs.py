"""Figures of knobs: sensitivity to each, to a loss's strength, label noise, mixtures, importance, all knobs at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dashboards.figures.figure import (
    QUIET,
    WIDTH,
    Figure,
    Missing,
    Scales,
    Series,
    drawing,
    fixed_ticks,
    floored,
    label,
    small_multiples,
    spread_by_ratio,
    svg_of,
)
from dashboards.figures.material import Config, Material
from dashboards.figures.outcome import others
from dashboards.statistics.importance import importance
from dashboards.statistics.stability import strengths
from studies.text.plural import so_many

BINS = 5
FEWEST_VALUES = 3
WEIGHT = "loss_weights."
RATE, BETA = "learning_rate", "beta"


def knobs_of(material: Material) -> tuple[str, ...]:
    """Knobs with three numbers or more in some variant, weights of mixtures left out: they have a figure of their "
    "own."""
    found: dict[str, None] = {}
    for standing in material.standings:
        configs = material.configs(standing)
        for name in dict.fromkeys(name for config in configs for name in config.knobs):
            numbers = {config.number(name) for config in configs} - {None}
            if len(numbers) >= FEWEST_VALUES and not name.startswith(WEIGHT):
                found[name] = None
    return tuple(sorted(found, key=lambda name: (name not in (BETA, RATE), name)))


def sensitivity(material: Material, scenario: str, knob: str, name: str) -> Figure | Missing:
    """The objective of every config over one knob, and the best in each part of its range."""
    title = f"Sensitivity to {knob}"
    strata = [(s, [c for c in material.configs(s) if c.number(knob) is not None]) for s in material.of(scenario)]
    strata = [(s, configs) for s, configs in strata if len({c.number(knob) for c in configs}) >= FEWEST_VALUES]
    if not strata:
        return Missing(name, title, f"no variant in {scenario} has three values of {knob}")
    values = [c.number(knob) or 0.0 for _, configs in strata for c in configs]
    log = spread_by_ratio(values)
    series = []
    for standing, configs in strata:
        good = [(c.number(knob) or 0.0, c.value) for c in configs if c.value is not None and not c.failed]
        failed = [c.number(knob) for c in configs if c.failed]
        note = so_many(len(good), "config") + (f", {len(failed)} failed" if failed else "")
        line = best_along(good, material.scale.sign, log=log)
        series.append(
            Series(standing.stratum.variant, standing.stratum.variant, line, points=good, failed=failed, note=note)
        )
    scales = Scales(knob, material.quality, "log" if log else "linear", material.untrained, floored=True)
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    caption = (
        f"Every config, retests aside, at its mean over data draws; line: the best at each value of {knob}, "
        f"or in each fifth of its range where it has more values; crosses: configs that failed. {others(material)}"
        + (" Beta is another quantity in each loss: compare shapes, not places." if knob == BETA else "")
        + floored(series, scales)
    )
    return Figure(name, title, caption, svg)


def best_along(points: Sequence[tuple[float, float]], sign: int, *, log: bool) -> tuple[tuple[float, float], ...]:
    """The best value at each place of a knob, or in each of five equal parts of its range at the place of the best."""
    places: dict[float, list[tuple[float, float]]] = defaultdict(list)
    distinct = {x for x, _ in points}
    if len(distinct) > 2 * BINS:
        scale = [math.log(x) if log else x for x in distinct]
        low, width = min(scale), (max(scale) - min(scale)) / BINS
        for x, y in points:
            places[min(int(((math.log(x) if log else x) - low) / width), BINS - 1)].append((x, y))
    else:
        for x, y in points:
            places[x].append((x, y))
    return tuple(sorted(max(of, key=lambda p: sign * p[1]) for of in places.values()))


def strength(material: Material, scenario: str, name: str) -> Figure | Missing:
    """The objective along a path of beta at one learning rate, over strength: beta relative to where KL is 2 nats."""
    title = "The same strength in every loss"
    series = []
    for standing in material.of(scenario):
        path = _path(material.configs(standing), material.scale.sign)
        betas = [c.number(BETA) or 0.0 for c in path]
        places = strengths(betas, [c.kl or 0.0 for c in path]) if len(path) >= FEWEST_VALUES else None
        if places is not None:
            line = tuple((place, c.value or 0.0) for place, c in zip(places, path, strict=True))
            rate = path[0].number(RATE)
            note = f"{len(path)} betas" + (f", rate {rate:.2g}" if rate is not None else "")
            series.append(Series(standing.stratum.variant, standing.stratum.variant, line, points=line, note=note))
    if not series:
        return Missing(name, title, "it takes three betas at one learning rate that reach from below 2 nats to above")
    scales = Scales(
        "log10(beta / beta at which KL is 2 nats), weak to strong pull", material.quality, zero=material.untrained
    )
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    left_out = [v for v in material.variants if v not in {s.variant for s in series}]
    caption = (
        "Configs of one learning rate, the one at which the loss is best, along beta; at 0 every loss is 2 nats "
        f"from the untrained model, so that places can be compared. {others(material)}"
        + (f" Without a path that crosses 2 nats: {', '.join(left_out)}." if left_out else "")
    )
    return Figure(name, title, caption, svg)


def _path(configs: Sequence[Config], sign: int) -> list[Config]:
    """Configs that share every knob but beta with the best one, by beta."""
    usable = [c for c in configs if c.value is not None and c.kl and c.number(BETA) and not c.failed]
    if not usable:
        return []
    best = max(usable, key=lambda c: sign * (c.value or 0.0))
    fixed = {name: value for name, value in best.knobs.items() if name != BETA}
    found = {c.number(BETA): c for c in usable if {n: v for n, v in c.knobs.items() if n != BETA} == fixed}
    return [found[beta] for beta in sorted(found, key=lambda b: b or 0.0)]


def noise(material: Material, kind: str, name: str) -> Figure | Missing:
    """The objective of each loss's best config over the share of flipped labels, for one kind of noise."""
    title = f"Robustness to label noise{f', {kind}' if kind else ''}"
    flips = material.noise.get(kind, {})
    if len(set(flips.values())) < 2:
        return Missing(name, title, "it takes scenarios that differ in label_flip and in nothing else")
    series = []
    for variant in material.variants:
        bars, points = [], []
        for standing in material.standings:
            x = flips.get(standing.stratum.scenario)
            best = material.best(standing) if standing.stratum.variant == variant and x is not None else None
            if x is not None and best is not None:
                points.append((100 * x, best.value))
                if best.low is not None and best.high is not None:
                    bars.append((100 * x, best.value, best.low, best.high))
        if points:
            shown = () if bars else tuple(points)
            series.append(Series(variant, variant, tuple(sorted(points)), bars=tuple(bars), points=shown))
    if not series:
        return Missing(name, title, "no loss has a best config with a value")
    scales = Scales("training labels flipped (%)", material.quality, zero=material.untrained)
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    caption = (
        "Best config of each loss at each share of flipped labels, tuned there; held-out pairs and gold are as they "
        "were. Bars: 95 % t intervals over data draws, where there are three; values that chose their config are too "
        f"good on average. {others(material)}"
    )
    return Figure(name, title, caption, svg)


def mixtures(material: Material, scenario: str, name: str) -> Figure | Missing:
    """The objective of mixtures over the weight of one of their losses, with the pure losses' best beside it."""
    title = "Along mixtures"
    series = []
    for standing in material.of(scenario):
        configs = material.configs(standing)
        for knob in dict.fromkeys(n for c in configs for n in c.knobs if n.startswith(WEIGHT)):
            have = [c for c in configs if c.number(knob) is not None]
            good = [(c.number(knob) or 0.0, c.value) for c in have if c.value is not None and not c.failed]
            if len({x for x, _ in good}) < FEWEST_VALUES:
                continue
            pure = knob.removeprefix(WEIGHT)
            levels = [
                (f"{other.stratum.variant} alone", best.value)
                for other in material.of(scenario)
                if (best := material.best(other)) is not None
                and len(other.stratum.losses) == 1
                and other.stratum.losses[0] in standing.stratum.losses
            ]
            of = standing.stratum.variant
            line = best_along(good, material.scale.sign, log=False)
            failed = [c.number(knob) for c in have if c.failed]
            note = so_many(len(good), "config")
            series.append(Series(of, f"{of}, {pure}", line, points=good, failed=failed, note=note, levels=levels))
    if not series:
        return Missing(name, title, "it takes a mixture with three weights of a loss or more")
    scales = Scales("weight of the loss named in the title", material.quality, zero=material.untrained, floored=True)
    svg = small_multiples(series, material.looks, None, scales, name)
    caption = (
        "Configs of each mixture over the weight of one of its losses; line: the best at each weight, or in each "
        "fifth of the range. Dashed: the best config of the losses alone, where the study has them."
        + floored(series, scales)
    )
    return Figure(name, title, caption, svg)


def weights_of_knobs(material: Material, scenario: str, name: str) -> Figure | Missing:
    """How much each knob says about the order of a loss's configs."""
    title = "Which settings matter"
    found: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for standing in material.of(scenario):
        configs = [c for c in material.configs(standing) if c.unbiased and (c.failed or c.value is not None)]
        for knob in dict.fromkeys(n for c in configs for n in c.knobs):
            have = [c for c in configs if c.number(knob) is not None]
            scores = [0.0 if c.failed else material.scale.sign * (c.value or 0.0) for c in have]
            if not material.scale.starts_at_zero:  # where nothing known lies at 0, failed ones come last
                worst = min((s for s, c in zip(scores, have, strict=True) if not c.failed), default=0.0)
                scores = [worst - 1.0 if c.failed else s for s, c in zip(scores, have, strict=True)]
            share = importance([c.number(knob) or 0.0 for c in have], scores)
            if share is not None:
                found.setdefault(standing.stratum.variant, {})[knob] = share
                counts[standing.stratum.variant] = len(configs)
    if not found:
        return Missing(name, title, "it takes two groups of three configs chosen in advance that differ in a setting")
    knobs = list(dict.fromkeys(knob for of in found.values() for knob in of))
    rows = list(found)
    shares = np.array([[found[row].get(knob, np.nan) for knob in knobs] for row in rows])
    height = 0.75 + 0.26 * len(rows)
    with drawing(WIDTH, height) as canvas:
        width = min(1.3 * len(knobs), WIDTH - 2.6)
        axes = canvas.add_axes((1.6 / WIDTH, 0.15 / height, width / WIDTH, 1 - 0.6 / height))
        edges = np.arange(len(knobs) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
        axes.pcolormesh(*edges, shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.0)
        for (i, j), share in np.ndenumerate(shares):
            text = "-" if np.isnan(share) else f"{share:.2f}"
            axes.text(j, i, text, ha="center", va="center", color="white" if share > 0.6 else "#222222")
        for i, row in enumerate(rows):
            note = so_many(counts[row], "config")
            axes.text(1.02, i, note, transform=axes.get_yaxis_transform(), va="center", color=QUIET)
        fixed_ticks(axes, rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(knobs)), [label(knob) for knob in knobs])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(canvas, name)
    caption = (
        "Share of the variance of the configs' ranks, by the objective, that lies between groups of one setting: eta "
        "squared of Kruskal and Wallis, corrected for chance, 0 for nothing and 1 for all. Groups: the setting's "
        "values where they are few, else thirds. Of configs chosen in advance, failed ones as the untrained model; "
        "what two settings do together is in neither number."
    )
    return Figure(name, title, caption, svg)
