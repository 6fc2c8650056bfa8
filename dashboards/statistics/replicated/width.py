"""How wide the good learning rates of a loss are, in decades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dashboards.statistics.estimates import Estimate, Floats, bootstrap

GOOD = 0.9  # of what the best learning rate reaches
UPPER = 0.25  # of the strengths tried at a learning rate: what one finds who tunes them a little
FEWEST_IN_BIN = 12  # so that their upper quarter is a mean of three


def good_rates(points: Mapping[int, Sequence[tuple[float, float]]], low: float, high: float) -> Estimate | None:
    """Decades of learning rate at which a loss reaches `GOOD` of what it reaches at its best one, once its other
    settings are chosen.

    `points`: replicate -> (log10 of the learning rate, score) of all of its points, which fill the box from `low` to
    `high` (both log10) without a look at results; a failed or negative score counts 0. Few points of one replicate
    tell nothing, so all replicates are pooled in as many equal bins of the rate as leave 12 points to each. What a bin
    reaches is the mean of the upper quarter of its scores, linear between the bins' middles and flat beyond the outer
    ones. It is a figure of these bins and of this box, to compare losses that share the points: narrower bins or more
    noise give a smaller width. The interval resamples whole replicates and is None below ten. None without a point in
    each of two bins, or where nothing was gained.
    """
    if not low < high:
        raise ValueError(f"the learning rates' range must have a width, got {low} to {high}")
    of = np.array([row for row, r in enumerate(points) for _ in points[r]])
    bins = len(of) // FEWEST_IN_BIN
    if bins < 2:
        return None
    rates, scores = np.array([point for r in points for point in points[r]], dtype=float).T
    places = np.clip(((rates - low) / (high - low) * bins).astype(int), 0, bins - 1)
    best_first = np.argsort(-scores, kind="stable")
    members = [best_first[places[best_first] == place] for place in range(bins)]

    def widths(times: Floats) -> Floats:
        """[resamples], of how many times each replicate was drawn [resamples, replicates]."""
        tops = [_upper_mean(np.maximum(scores[rows], 0.0), times[:, of[rows]]) for rows in members]
        return _share_above(np.stack(tops, axis=-1)) * (high - low)

    value = float(widths(np.ones((1, len(points))))[0])
    if not all(map(len, members)) or value == 0.0:
        return None
    limits = bootstrap(np.eye(len(points)), lambda drawn: widths(drawn.sum(axis=1)))
    interval_low, interval_high = limits or (None, None)
    return Estimate(value, len(points), interval_low, interval_high, None)


def _upper_mean(scores: Floats, times: Floats) -> Floats:
    """Mean of the upper quarter of scores [n], best first, that count as often as `times` [resamples, n]; 0 of none."""
    room = UPPER * times.sum(axis=-1, keepdims=True)
    taken = np.clip(room - (np.cumsum(times, axis=-1) - times), 0.0, times)
    mean: Floats = taken @ scores / np.maximum(room[:, 0], 1e-300)
    return mean


def _share_above(tops: Floats) -> Floats:
    """Share of the range in which what equal bins reach [resamples, bins] is `GOOD` of the highest or more; 0 where
    nothing is reached.
    """
    limit = GOOD * tops.max(axis=-1, keepdims=True)
    low, high = np.sort([tops[:, :-1], tops[:, 1:]], axis=0)
    level = np.where(high >= limit, 1.0, 0.0)
    between = np.divide(high - limit, high - low, out=level, where=high > low)
    inside = np.clip(between, 0.0, 1.0).sum(axis=-1)
    ends = ((tops[:, [0, -1]] >= limit) / 2.0).sum(axis=-1)
    share: Floats = np.where(limit[:, 0] > 0.0, (inside + ends) / tops.shape[-1], 0.0)
    return share
