"""What the unbiased phase says of a stratum: how often configs fail, how many are good, how much tuning it
needs, and the frontier of gold against KL. Knows no store and no page.

Only points that were chosen without a look at results describe a space: trials of a search are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from dashboards.analysis.strata import StratumResults
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.frontier import Frontier, frontier, points_of
from dashboards.statistics.scale import Scale
from dashboards.statistics.stability import (
    Failures,
    config_scores,
    expected_best,
    failures,
    generalisation_gap,
    in_bins,
    sensitivity,
    share_within,
)
from studies.records import RunRecord, Scalar

FEWEST_CONFIGS = 4
RATE = "learning_rate"
_RATE_BINS = 3
_FACTORS = 4.0
_CLOSED = ("label_smoothing", "lora_dropout")  # their ranges end for a reason of their own


@dataclass(frozen=True)
class Space:
    """One stratum's unbiased phase, scores in the scale's unit with failed configs as 0 (the untrained model).

    `box`: lowest and highest value of each knob that was tried. `within_5`, `within_10`: share of configs within 5 %
    and 10 % of the best, None where none is better than untrained. `best_of`: n -> expected best of n, to half of the
    configs; too low on average. `rate_sensitivity`: mean loss from the best over thirds of the learning rate's box,
    each third by its best config. `gap`: training less held-out accuracy, over blocks. `frontier`: None where gold has
    no unit (U) or no run kept its halves.
    """

    failures: Failures
    box: Mapping[str, tuple[float, float]]
    within_5: float | None
    within_10: float | None
    best_of: Mapping[int, float]
    rate_sensitivity: float | None
    gap: Estimate | None
    frontier: Frontier | None


@dataclass(frozen=True)
class Edge:
    """A knob whose best value is the highest or the lowest of `tried` values; `wider`: an end of the range that would
    tell whether it goes on, None where there is none.
    """

    knob: str
    value: float
    end: Literal["highest", "lowest"]
    tried: int
    wider: float | None


def edges_of(standing: StratumResults) -> tuple[Edge, ...]:
    """The knobs of a stratum's best config that are at an edge of what was tried, but for weights of a mixture."""
    if standing.best is None:
        return ()
    found = []
    for knob, value in standing.best.runs[0].knobs.items():
        tried = sorted({v for trial in standing.done if _is_number(v := trial.runs[0].knobs.get(knob))})
        if (
            knob.startswith("loss_weights") or not _is_number(value) or len(tried) < 3
        ):  # one of two is always at an edge
            continue
        if value in (tried[0], tried[-1]):
            end: Literal["highest", "lowest"] = "highest" if value == tried[-1] else "lowest"
            found.append(Edge(knob, value, end, len(tried), wider(knob, tried[0], tried[-1], end)))
    return tuple(found)


def wider(knob: str, low: float, high: float, end: Literal["highest", "lowest"]) -> float | None:
    """Half a decade further where values differ by factors, else half of their range."""
    if knob in _CLOSED:
        return None
    if low > 0 and high / low >= _FACTORS:
        step = math.sqrt(10.0)
        return float(f"{high * step if end == 'highest' else low / step:.1e}")
    further = high + (high - low) / 2 if end == "highest" else low - (high - low) / 2
    return float(f"{further:.2g}") if further > 0 else None


def space_of(standing: StratumResults, scale: Scale) -> Space | None:
    """The space of a stratum; None below four configs of an unbiased phase that came to an end, and for an objective in
    which the untrained model is not at 0.
    """
    if not scale.starts_at_zero:
        return None
    runs = [run for run in standing.records if run.phase == "unbiased"]
    failed = failures(runs, scale)
    scores = config_scores(runs, scale, failed.anywhere)
    if len(scores) < FEWEST_CONFIGS:
        return None
    values = list(scores.values())
    gaps = generalisation_gap(runs)
    points = points_of(runs, scale, failed.anywhere, {}) if scale.unit == "U" else None
    return Space(
        failures=failed,
        box=_box(runs),
        within_5=share_within(values, 0.05),
        within_10=share_within(values, 0.10),
        best_of={n: expected_best(values, n) for n in range(1, len(values) // 2 + 1)},
        rate_sensitivity=_rate_sensitivity(runs, scores),
        gap=block_mean({block: [gap] for block, gap in gaps.items()}) if gaps else None,
        frontier=frontier(points) if points is not None and points.configs else None,
    )


def _box(runs: Sequence[RunRecord]) -> dict[str, tuple[float, float]]:
    names = sorted({name for run in runs for name in run.knobs})
    tried = {name: [v for run in runs if _is_number(v := run.knobs.get(name))] for name in names}
    return {name: (min(values), max(values)) for name, values in tried.items() if values}


def _rate_sensitivity(runs: Sequence[RunRecord], scores: Mapping[int, float]) -> float | None:
    """Over the logarithm of the learning rate, None where it did not vary over three values."""
    rates = {run.trial: run.knobs.get(RATE) for run in runs if run.trial in scores}
    logs = {trial: math.log10(rate) for trial, rate in rates.items() if _is_number(rate) and rate > 0}
    if len(set(logs.values())) < _RATE_BINS or len(logs) < len(scores):
        return None
    low, high = min(logs.values()), max(logs.values())
    places = in_bins(list(logs.values()), low, high, _RATE_BINS)
    return sensitivity(places, [scores[trial] for trial in logs], low, high)


def _is_number(value: Scalar) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
