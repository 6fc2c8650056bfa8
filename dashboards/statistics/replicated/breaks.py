"""How much more often one loss breaks than another on the same points.

Points of a replicate are shared by all losses, so that breaks are compared in pairs: exact McNemar for whether they
differ, and the score test of Tango (1998, Statistics in Medicine 17:891) for by how much. Tango's because its limits
and its p of "more than so many points apart" are one formula that stays right at no break at all; Newcombe's method 10
(1998) gives limits alone. Points count as independent: points that fill a box are nearer to even than chance, so the
limits are rather too wide, and breaks that hang on the task make them too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special

from dashboards.statistics.estimates import LEVEL, Floats

Point = TypeVar("Point")

_STEPS = 60  # of bisection: past the last digit


@dataclass(frozen=True)
class Breaks:
    """Of `pairs` shared points, how many broke under the loss, under the baseline, and under one of them alone.

    `difference`: share of points that break under the loss less that under the baseline, more is worse, with its 95 %
    score limits; `p`: exact McNemar, two-sided.
    """

    pairs: int
    broke: int
    baseline_broke: int
    alone: int
    baseline_alone: int
    difference: float
    low: float
    high: float
    p: float

    def p_below(self, limit: float) -> float:
        """One-sided p that the difference is `limit` or more: small where it is shown to be below."""
        return float(special.ndtr(score(self.alone, self.baseline_alone, self.pairs, limit)))

    def p_above(self, limit: float) -> float:
        """One-sided p that the difference is `limit` or less: small where it is shown to be above."""
        return float(special.ndtr(-score(self.alone, self.baseline_alone, self.pairs, limit)))


def breaks(loss: Mapping[Point, bool], baseline: Mapping[Point, bool]) -> Breaks | None:
    """Point -> whether it broke, of a loss and of the baseline, over the points that both have; None without one."""
    pairs = [(loss[point], baseline[point]) for point in loss.keys() & baseline.keys()]
    if not pairs:
        return None
    alone = sum(mine and not its for mine, its in pairs)
    baseline_alone = sum(its and not mine for mine, its in pairs)
    low, high = limits(alone, baseline_alone, len(pairs))
    return Breaks(
        pairs=len(pairs),
        broke=sum(mine for mine, _ in pairs),
        baseline_broke=sum(its for _, its in pairs),
        alone=alone,
        baseline_alone=baseline_alone,
        difference=(alone - baseline_alone) / len(pairs),
        low=low,
        high=high,
        p=mcnemar(alone, baseline_alone),
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
