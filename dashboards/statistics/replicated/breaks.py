"""How much more often one loss breaks than another on the same points.

Points of a replicate are shared by all losses, so that breaks are compared in pairs, twice. Over points: exact McNemar
for whether they differ, and the score test of Tango (1998, Statistics in Medicine 17:891) for by how much; Tango's
because its limits and its p of "more than so many apart" are one formula that stays right at no break at all, where
Newcombe's method 10 (1998) gives limits alone. Over replicates: the paired t test of their shares, because breaks
hang on the task: where a loss's cliff moves by a seventh of the box from task to task, points that count as
independent differ falsely in 8 to 24 % of cases at 8 and 16 points (`tests/benchmarks/simulated_comparisons.md`). The
t test alone knows nothing where no replicate differs. So nothing is said but what both say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special

from dashboards.statistics.compare import p_above, p_difference
from dashboards.statistics.estimates import LEVEL, Floats, block_mean

Value = TypeVar("Value")
Points = Mapping[int, Mapping[int, Value]]
"""Replicate -> number of the point, which is one setting for all losses -> value."""

_STEPS = 40  # of bisection: to twelve digits


@dataclass(frozen=True)
class Breaks:
    """Of `pairs` shared points, how many broke under the loss, under the baseline, and under one of them alone.

    `difference`: share of points that break under the loss less that under the baseline, more is worse, with limits
    that hold both 95 % intervals, of points and of replicates; `p`: that they do not differ, two-sided, the larger of
    exact McNemar's and of the paired t test's. `by_replicate`: the difference in each. Below three replicates points
    alone are asked.
    """

    pairs: int
    broke: int
    baseline_broke: int
    alone: int
    baseline_alone: int
    by_replicate: tuple[float, ...]
    difference: float
    low: float
    high: float
    p: float

    def p_below(self, limit: float) -> float:
        """One-sided p that the difference is `limit` or more: small where it is shown to be below."""
        over_points = float(special.ndtr(score(self.alone, self.baseline_alone, self.pairs, limit)))
        return max(over_points, p_above(-np.array(self.by_replicate), -limit) or 0.0)

    def p_above(self, limit: float) -> float:
        """One-sided p that the difference is `limit` or less: small where it is shown to be above."""
        over_points = float(special.ndtr(-score(self.alone, self.baseline_alone, self.pairs, limit)))
        return max(over_points, p_above(np.array(self.by_replicate), limit) or 0.0)


def breaks(loss: Points[bool], baseline: Points[bool]) -> Breaks | None:
    """Which points broke, of a loss and of the baseline, over the points that both have; None without one."""
    shared = [
        [(loss[r][point], baseline[r][point]) for point in loss[r].keys() & baseline[r].keys()]
        for r in sorted(loss.keys() & baseline.keys())
    ]
    pairs = [pair for of in shared for pair in of]
    if not pairs:
        return None
    alone = sum(mine and not its for mine, its in pairs)
    baseline_alone = sum(its and not mine for mine, its in pairs)
    by_replicate = [sum(int(mine) - int(its) for mine, its in of) / len(of) for of in shared if of]
    over_points = limits(alone, baseline_alone, len(pairs))
    over_replicates = block_mean({r: [share] for r, share in enumerate(by_replicate)})
    lows, highs = (over_points[0], over_replicates.low), (over_points[1], over_replicates.high)
    return Breaks(
        pairs=len(pairs),
        broke=sum(mine for mine, _ in pairs),
        baseline_broke=sum(its for _, its in pairs),
        alone=alone,
        baseline_alone=baseline_alone,
        by_replicate=tuple(by_replicate),
        difference=(alone - baseline_alone) / len(pairs),
        low=max(-1.0, min(low for low in lows if low is not None)),
        high=min(1.0, max(high for high in highs if high is not None)),
        p=max(mcnemar(alone, baseline_alone), p_difference(np.array(by_replicate)) or 0.0),
    )


def mcnemar(one: int, other: int) -> float:
    """Exact two-sided p that each of `one` + `other` discordant pairs falls to either side by the toss of a coin."""
    if one == other:
        return 1.0
    return min(1.0, 2.0 * float(special.bdtr(min(one, other), one + other, 0.5)))


def score(alone: float | Floats, baseline_alone: float | Floats, pairs: int, difference: float) -> float | Floats:
    """Tango's score that shares differ by `difference`: standard normal where they do, positive where by more.

    `alone` and `baseline_alone`: discordant pairs, numbers or arrays of them; `difference` within -1 ... 1.
    """
    b, c, n, delta = np.asarray(alone, float), np.asarray(baseline_alone, float), pairs, difference
    linear = (2 * n - b + c) * delta - b - c
    constant = -c * delta * (1 - delta)
    # The likeliest share of pairs in which the baseline alone breaks, given the difference.
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    above = b - c - n * delta
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(np.abs(above) < 1e-9 * n, 0.0, above / np.sqrt(np.maximum(variance, 0.0)))
    return float(found) if found.ndim == 0 else found


def limits(alone: int, baseline_alone: int, pairs: int, level: float = LEVEL) -> tuple[float, float]:
    """Two-sided score limits of the difference of shares: where the score test of a difference just rejects."""
    z = float(special.ndtri(0.5 + level / 2))
    observed = (alone - baseline_alone) / pairs
    return _crossing(alone, baseline_alone, pairs, z, -1.0, observed), _crossing(
        alone, baseline_alone, pairs, -z, observed, 1.0
    )


def _crossing(alone: int, baseline_alone: int, pairs: int, z: float, low: float, high: float) -> float:
    """The difference in `low` ... `high` whose score, which falls as the difference grows, is `z`."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if score(alone, baseline_alone, pairs, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2
