"""Figures of how things went: learning curves within runs, measurements at checkpoints, and the sweep's time line."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from dashboards.analysis.strata import broke
from dashboards.figures.figure import (
    BELOW,
    QUIET,
    WIDTH,
    Figure,
    Missing,
    Scales,
    Series,
    drawing,
    label,
    small_multiples,
    svg_of,
)
from dashboards.figures.material import TRL_BETA, Curve, Material
from dashboards.figures.outcome import others
from studies.records import JUDGE_FACT, JUDGED, MEASURED, METRICS, RunRecord, State
from studies.text.plural import so_many

REWARD_MARGIN = "reward_margin"
FEWEST_POINTS = 3
_IDLE = 300.0  # seconds in which nothing trained that the time line leaves out
_STATES = ((State.COMPLETE, "complete", "#009E73"), (State.PRUNED, "stopped or failed by its config", "#E69F00"))
_LOST, _RUNNING = "#D55E00", "#56B4E9"


@dataclass(frozen=True)
class _Band:
    """Mean and standard deviation over runs at the steps that all of them reached."""

    steps: Sequence[int]
    mean: Sequence[float]
    deviation: Sequence[float] | None


def margins(material: Material, scenario: str, name: str) -> Figure | Missing:
    """The training margin of each loss's best config, in nats: TRL's reward margin over the run's beta."""
    title = "Learning curves"
    series = margin_series(material, scenario)
    if not series:
        return Missing(name, title, f"no run that speaks for a loss of {scenario} has a training curve")
    scales = Scales("optimizer step", "margin on training pairs (nats)", zero="untrained")
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    caption = (
        "Log-ratio margin of the training batches while the best config of each loss trains: TRL's rewards/margins "
        "over beta, which makes it nats for every loss. Losses and rewards as TRL logs them scale with beta and "
        "cannot be "
        "compared. " + _band_words(series) + others(material)
    )
    return Figure(name, title, caption, svg)


def margin_series(material: Material, scenario: str) -> list[Series]:
    """Each variant's training margin in nats, mean over the runs that measure it."""
    found: list[Series] = []
    for standing in material.of(scenario):
        fixed = material.betas.get(standing.stratum.variant, TRL_BETA)
        curves = []
        for run in standing.evidence:
            curve = material.curves.get(run.run_id, {}).get(REWARD_MARGIN, ())
            beta = run.knobs.get("beta", fixed)
            if len(curve) >= FEWEST_POINTS and isinstance(beta, int | float) and beta > 0:
                curves.append([(step, value / beta) for step, value in curve])
        found += _series(standing.stratum.variant, curves)
    return found


def checkpoints(material: Material, scenario: str, metric: str, name: str) -> Figure | Missing:
    """A measurement at every checkpoint of each loss's best config, as far as one judge gave all of it."""
    about = METRICS.get(metric)
    title = f"{metric[:1].upper()}{metric[1:]} over training"
    in_unit = metric == material.scale.metric
    series, mixed = [], 0
    for standing in material.of(scenario):
        curves = []
        for run in standing.evidence:
            curve = material.curves.get(run.run_id, {}).get(metric, ())
            if len(curve) < FEWEST_POINTS:
                continue
            if run.former and metric in MEASURED:  # MLflow's history has the points of all measurers
                curve = run.curves.get(metric, ())
            if len(curve) < FEWEST_POINTS or not _by_one_judge(run, metric):
                mixed += 1
                continue
            values = [value for _, value in curve]
            shown = material.scale.in_unit(values, run) if in_unit else values
            curves.append(list(zip([step for step, _ in curve], shown, strict=True)))
        series += _series(standing.stratum.variant, curves)
    again = so_many(mixed, "run", "was", "were")
    left_out = f"{again} scored again after training; their curves are not by the judge of their ends"
    if not series:
        few = "it takes three checkpoints: evaluate.at, such as [0.25, 0.5, 1.0]"
        return Missing(name, title, left_out if mixed else few)
    words = material.measured if in_unit else f"{metric} ({about.unit})" if about else metric
    scales = Scales("optimizer step", words, zero=material.untrained if in_unit else "")
    svg = small_multiples(series, material.looks, material.comparison.baseline, scales, name)
    what = about.what if about else metric
    caption = f"{what} of the best config of each loss. {_band_words(series)}{others(material)}"
    return Figure(name, title, caption + (f" Left out: {left_out}." if mixed else ""), svg)


def _by_one_judge(run: RunRecord, metric: str) -> bool:
    """Whether the run's curve is by the judge of its end. `sweeper evaluate` scores the end alone: MLflow's history
    keeps what an earlier judge gave on the way, the record's own curves do not.
    """
    return metric not in JUDGED or JUDGE_FACT not in run.facts or metric in run.curves


def _series(variant: str, curves: Sequence[Curve]) -> list[Series]:
    """The mean of curves with its band; none without a curve."""
    if not curves:
        return []
    band = _band(curves)
    low, high = (
        ((), ())
        if band.deviation is None
        else (
            tuple(m - d for m, d in zip(band.mean, band.deviation, strict=True)),
            tuple(m + d for m, d in zip(band.mean, band.deviation, strict=True)),
        )
    )
    line = tuple((float(s), m) for s, m in zip(band.steps, band.mean, strict=True))
    note = f"{len(curves)} {'run' if len(curves) == 1 else 'runs'}"
    return [Series(variant, variant, line=line, low=low, high=high, note=note)]


def _band(curves: Sequence[Curve]) -> _Band:
    shared = sorted(set.intersection(*({step for step, _ in curve} for curve in curves))) or [s for s, _ in curves[0]]
    by_step: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for step, value in curve:
            by_step[step].append(value)
    mean = [float(np.mean(by_step[s])) for s in shared]
    return _Band(shared, mean, [float(np.std(by_step[s], ddof=1)) for s in shared] if len(curves) > 1 else None)


def _band_words(series: Sequence[Series]) -> str:
    return "Bands: one standard deviation over runs, where there are two. " if any(s.low for s in series) else ""


# ---- the time line ------------------------------------------------------------------------------------------------


def timeline(material: Material, name: str) -> Figure | Missing:
    """When every run trained, and the best value so far."""
    title = "Time line"
    runs = [(r, r.started, r.ended) for s in material.standings for r in s.records if r.started is not None]
    spans = [(r, a, b if b is not None else a) for r, a, b in runs if a is not None]
    if not spans:
        return Missing(name, title, "no run of the study has a start time")
    spans.sort(key=lambda span: (span[1], span[2]))
    at, pauses = _without_pauses([(a, b) for _, a, b in spans])
    lanes = _lanes([(a, b) for _, a, b in spans])
    count = max(lanes) + 1
    top, body = 0.95, min(0.4 + 0.16 * count, 2.6)
    height = 0.3 + top + 0.12 + body + 0.45
    whole = at(max(b for _, _, b in spans))
    unit, words = (3600.0, "hours") if whole > 7200 else (60.0, "minutes") if whole > 120 else (1.0, "seconds")
    with drawing(WIDTH, height) as canvas:
        best = canvas.add_axes((0.7 / WIDTH, 1 - (0.3 + top) / height, 1 - 0.9 / WIDTH, top / height))
        axes = canvas.add_axes((0.7 / WIDTH, 0.45 / height, 1 - 0.9 / WIDTH, body / height), sharex=best)
        lines = [
            [(at(a) / unit, lane), (max(at(b), at(a)) / unit, lane)]
            for (_, a, b), lane in zip(spans, lanes, strict=True)
        ]
        colours = [_state_colour(r) for r, _, _ in spans]
        axes.add_collection(
            LineCollection(lines, colors=colours, linewidths=max(1.0, min(7.0, 130 * body / count / 2.6)))
        )
        axes.set_ylim(count - 0.4, -0.6)
        axes.set_yticks([])
        axes.set_ylabel(f"{count} at once")
        axes.set_xlabel(f"{words} of training since {datetime.fromtimestamp(spans[0][1], UTC):%Y-%m-%d %H:%M} UTC")
        for pause in pauses:
            for panel in (best, axes):
                panel.axvline(pause / unit, color=QUIET, lw=0.7, ls=(0, (2, 2)))
        _best_so_far(best, material, [(r, at(b) / unit) for r, _, b in spans])
        best.tick_params(labelbottom=False)
        best.set_ylabel(label(material.scale.metric))
        shown = set(colours)
        keys = [(word, colour) for _, word, colour in _STATES] + [("lost or refused", _LOST), ("in training", _RUNNING)]
        for word, colour in keys:
            if colour in shown:
                best.plot([], [], color=colour, lw=4, label=word)
        best.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=7.5)
        svg = svg_of(canvas, name)
    cut = f" Cut out, at dashed lines: {len(pauses)} times when nothing trained for {_IDLE / 60:.0f} minutes or more."
    caption = (
        f"{so_many(len(spans), 'run')}, a line each from start to end; above, the objective of each complete one "
        f"in its loss's colour, and the best so far.{cut if pauses else ''}"
    )
    return Figure(name, title, caption, svg)


def _state_colour(run: RunRecord) -> str:
    if run.state is State.RUNNING:
        return _RUNNING
    shown = State.PRUNED if broke(run) else run.state  # of drift the training itself is complete
    return {state: colour for state, _, colour in _STATES}.get(shown, _LOST)


def _without_pauses(spans: Sequence[tuple[float, float]]) -> tuple[_Clock, list[float]]:
    """A clock that stands still while nothing trains for long, and where it does."""
    edges, until, cut = [], spans[0][0], 0.0
    for start, end in spans:
        if start - until > _IDLE:
            cut += start - until
            edges.append((start, cut))
        until = max(until, end)
    clock = _Clock(spans[0][0], tuple(edges))
    return clock, [clock(start) for start, _ in edges]


@dataclass(frozen=True)
class _Clock:
    """Seconds of training since `zero`. `cuts`: from a time on, so many seconds in all were cut out before it."""

    zero: float
    cuts: tuple[tuple[float, float], ...]

    def __call__(self, time: float) -> float:
        return time - self.zero - max((cut for start, cut in self.cuts if time >= start), default=0.0)


def _lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The lowest lane that is free for each span; spans are ordered by their start."""
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    found, count = [], 0
    for start, end in spans:
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        heapq.heappush(busy, (end, lane))
        found.append(lane)
    return found


def _best_so_far(axes: Axes, material: Material, ends: Sequence[tuple[RunRecord, float]]) -> None:
    """A step line of the best value of runs outside of the confirm phase, and every run's value as a dot."""
    sign, top = material.scale.sign, -np.inf
    steps, dots = [], []
    for run, at in sorted(ends, key=lambda pair: pair[1]):
        value = material.value(run) if run.state is State.COMPLETE and run.phase != "confirm" else None
        if value is None:
            continue
        dots.append((at, value, material.looks[run.variant].colour))
        top = max(top, sign * value)
        steps.append((at, sign * top))
    if dots:
        times, values, colours = zip(*dots, strict=True)
        axes.scatter(times, values, s=5, c=colours, lw=0, alpha=0.6)
        axes.step(*zip(*steps, strict=True), where="post", color="#222222", lw=1.0)
        low, high = axes.get_ylim()
        if material.untrained and high > 0:  # a run that fell apart would press all others flat
            axes.set_ylim(max(low, -BELOW * high), high)
