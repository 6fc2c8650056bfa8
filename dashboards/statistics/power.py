"""What a planned number of blocks can show: the smallest difference it finds, the largest spread at which it shows a
tie. Pure functions; knows no study.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import special

from dashboards.statistics.estimates import Floats

ALPHA = 0.05
POWER = 0.8
_QUANTILES = 4000


def detectable(blocks: int, tests: int = 1, power: float = POWER) -> float:
    """The smallest true difference, in paired standard deviations, that a paired t test finds with `power`.

    `tests`: how many variants are compared; the first step of Holm's correction tests at .05 / `tests`. Infinite
    below two blocks.
    """
    if blocks < 2:
        return float("inf")
    from scipy import optimize  # takes .2 s to load, and only planning needs it

    limit = special.stdtrit(blocks - 1, 1 - ALPHA / tests / 2) * _estimated_deviations(blocks - 1)

    def lacks(effect: float) -> float:
        shift = effect * np.sqrt(blocks)
        return float(np.mean(special.ndtr(shift - limit) + special.ndtr(-shift - limit))) - power

    highest = 1.0
    while lacks(highest) < 0:
        highest *= 2
    return float(optimize.brentq(lacks, 0.0, highest))


@cache
def _estimated_deviations(degrees: int) -> Floats:
    """What a true standard deviation of 1 is estimated as: equally likely values, in order. Averaging over them stays
    exact where the noncentral t distribution of scipy gives up.
    """
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    deviations: Floats = np.sqrt(special.chdtri(degrees, 1 - levels) / degrees)
    return deviations


def tie_power(blocks: int, spread: float, within: float) -> float:
    """How often TOST at 5 % (a 90 % interval) shows a tie where the true difference is 0.

    `spread`: standard deviation of paired differences, in the unit of the region +-`within`. Exact for normal
    differences: averaged over the distribution of the estimated deviation.
    """
    if blocks < 2:
        return 0.0
    if spread == 0.0:
        return 1.0
    degrees = blocks - 1
    limit = special.stdtrit(degrees, 1 - ALPHA) * _estimated_deviations(degrees)
    room = within * np.sqrt(blocks) / spread - limit
    return float(np.mean(np.clip(2 * special.ndtr(room) - 1, 0.0, None)))


def one_sided_power(blocks: int, effect: float, alpha: float = ALPHA) -> float:
    """How often a one-sided paired t test at `alpha` shows an effect, in paired standard deviations above its limit.

    0 below two blocks; exact for normal differences.
    """
    if blocks < 2:
        return 0.0
    limit = special.stdtrit(blocks - 1, 1 - alpha) * _estimated_deviations(blocks - 1)
    return float(np.mean(special.ndtr(effect * np.sqrt(blocks) - limit)))


def tie_spread(blocks: int, power: float = POWER) -> float:
    """The largest paired standard deviation, in half widths of the region, at which a true tie is shown with `power`.

    0 below two blocks.
    """
    if blocks < 2:
        return 0.0
    from scipy import optimize

    return float(optimize.brentq(lambda spread: tie_power(blocks, spread, 1.0) - power, 1e-3, np.sqrt(blocks) + 1))
