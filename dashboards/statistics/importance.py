"""How much of the ranking of configs one knob accounts for, on its own; pure functions of numbers.

Optuna's own importance (a random forest, or an analysis of variance over it) asks for a search's trials; a fixed arm of
a few dozen points supports less, and that can be said in one formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

GROUPS = 3
FEWEST_PER_GROUP = 3
_OWN_VALUES = 6  # a knob with so few values is grouped by them, not by thirds


def importance(positions: Sequence[float], scores: Sequence[float]) -> float | None:
    """Share of the variance of the scores' ranks that lies between groups of the knob: eta squared of Kruskal and
    Wallis, (H - k + 1) / (n - k) for k groups of n configs (Tomczak & Tomczak 2014), no less than 0.

    About 0 where the knob says nothing, 1 where it decides the order. Ranks, so that a few failures far below do not
    decide it; groups, so that a best value in the middle counts, which a correlation does not see. Effects of two
    knobs together are in neither. Groups are the knob's values where there are few, else thirds of the configs; those
    of fewer than three configs are left out. None below two groups.
    """
    x, y = np.asarray(positions, dtype=float), np.asarray(scores, dtype=float)
    found = [y[x == value] for value in np.unique(x)]
    if len(found) > _OWN_VALUES:
        edges = np.quantile(x, np.linspace(0.0, 1.0, GROUPS + 1))[1:-1]
        places = np.searchsorted(edges, x, side="left")
        found = [y[places == i] for i in range(GROUPS)]
    groups = [group for group in found if len(group) >= FEWEST_PER_GROUP]
    n, k = sum(map(len, groups)), len(groups)
    if k < 2:
        return None
    if np.ptp(np.concatenate(groups)) == 0.0:
        return 0.0
    h = float(stats.kruskal(*groups).statistic)
    return max(0.0, (h - k + 1) / (n - k))
