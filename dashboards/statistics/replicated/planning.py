"""What a planned number of replicates and points can show: differences, ties and words of stability.

Pure functions; know no study. The spreads assumed are those of recorded studies of the embedded world, in units of the
best possible gain, and each can be given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from dashboards.statistics.estimates import FEWEST_BLOCKS, Floats
from dashboards.statistics.power import ALPHA, POWER, detectable, one_sided_power, tie_power
from dashboards.statistics.replicated.breaks import score
from dashboards.statistics.replicated.stability import BREAKS_WITHIN, MANY_BREAKS, MARGIN, StabilityWord

PAIRED_SPREAD = 0.04  # of tuned losses over replicates
MOST_REPLICATES = 60


@dataclass(frozen=True)
class Shows:
    """What replicates show with `POWER`. `difference`: the smallest true one that is found, in the unit of the spread;
    `tie`: how often a true tie is shown; `replicates_for_tie`: from how many replicates it is with `POWER`, None where
    `MOST_REPLICATES` do not.
    """

    difference: float
    tie: float
    replicates_for_tie: int | None


def shows(replicates: int, tests: int, within: float | None, spread: float = PAIRED_SPREAD) -> Shows:
    """What `replicates` can show of `tests` losses against the baseline.

    `spread`: the assumed standard deviation of paired differences over replicates, in the unit of the difference;
    `within`: half the width of a tie, None where none can be said.
    """
    if within is None:
        return Shows(detectable(replicates, tests) * spread, 0.0, None)
    enough = (r for r in range(2, MOST_REPLICATES + 1) if tie_power(r, spread, within) >= POWER)
    return Shows(detectable(replicates, tests) * spread, tie_power(replicates, spread, within), next(enough, None))


def replicates_for(difference: float, tests: int, spread: float) -> int | None:
    """From how many replicates on such a true difference is found with `POWER`; None where `MOST_REPLICATES` are too
    few. `spread` as in `shows`.
    """
    sizes = range(FEWEST_BLOCKS, MOST_REPLICATES + 1)
    return next((r for r in sizes if detectable(r, tests) * spread <= difference), None)


@dataclass(frozen=True)
class Assumed:
    """What is assumed of losses where the words of stability are planned; defaults as recorded on the embedded world.

    `pairs`: standard deviation over points of a loss's gain less the baseline's (recorded: .05 to .35); `points`: of
    the baseline's own gain; `tasks`: of the mean of either, and of the share that breaks, over tasks; `baseline`: what
    the baseline gains at a random setting. A loss that is Good gains as much as the baseline, and either breaks alone
    on `alone` of the points; one that is Better gains `better` more; one that is Poor breaks on `poor` more.
    """

    pairs: float = 0.25
    points: float = 0.4
    tasks: float = 0.05
    baseline: float = 0.25
    alone: float = 0.02
    better: float = 0.15
    poor: float = 0.5


def word_power(
    points: int, replicates: int, tests: int = 1, assumed: Assumed | None = None
) -> dict[StabilityWord, float]:
    """How often a design of `points` x `replicates` says each word of a loss that deserves it, nearly.

    `tests`: losses compared, of which the first step of Holm's correction divides the level. Tests of
    gains and of breaks are taken as independent, those of breaks over points and over replicates as one.
    """
    about = assumed or Assumed()
    spread = math.hypot(about.pairs / math.sqrt(points), about.tasks)
    own = math.hypot(about.points / math.sqrt(points), about.tasks)
    few_breaks = _breaks_power(points, replicates, about, more=0.0, limit=BREAKS_WITHIN, alpha=ALPHA)
    many_breaks = _breaks_power(points, replicates, about, more=about.poor, limit=MANY_BREAKS, alpha=ALPHA / tests)
    not_worse = one_sided_power(replicates, MARGIN / spread)
    gains = one_sided_power(replicates, (about.baseline - MARGIN) / own, ALPHA / 2)
    better = one_sided_power(replicates, about.better / spread, ALPHA / tests / 2)
    return {"Better": better * few_breaks, "Good": not_worse * few_breaks * gains, "Poor": many_breaks}


def reachable_words(
    points: int, replicates: int, tests: int = 1, assumed: Assumed | None = None
) -> tuple[StabilityWord, ...]:
    """The words that a design says of a loss that deserves them with `POWER`."""
    return tuple(word for word, power in word_power(points, replicates, tests, assumed).items() if power >= POWER)


def smallest_sizes(points: int, tests: int = 1, assumed: Assumed | None = None) -> Mapping[StabilityWord, int | None]:
    """From how many replicates of `points` points each word can be said; None where `MOST_REPLICATES` are too few."""
    found: dict[StabilityWord, int | None] = {"Better": None, "Good": None, "Poor": None}
    for replicates in range(FEWEST_BLOCKS, MOST_REPLICATES + 1):
        for word in reachable_words(points, replicates, tests, assumed):
            found[word] = found[word] or replicates
        if all(found.values()):
            break
    return found


def _breaks_power(points: int, replicates: int, about: Assumed, more: float, limit: float, alpha: float) -> float:
    """How often a loss that breaks on `more` of the points is shown on the right side of `limit`, over points and over
    replicates; over points all outcomes that they may have are counted.
    """
    pairs, alone, baseline_alone = points * replicates, about.alone + more, about.alone
    b, c = np.meshgrid(_likely(pairs, alone), _likely(pairs, baseline_alone), indexing="ij")
    possible = b + c <= pairs
    b, c = b[possible], c[possible]
    rest = pairs - b - c
    logs = special.gammaln(pairs + 1) - special.gammaln(b + 1) - special.gammaln(c + 1) - special.gammaln(rest + 1)
    logs += special.xlogy(b, alone) + special.xlogy(c, baseline_alone) + special.xlogy(rest, 1 - alone - baseline_alone)
    above = score(b, c, pairs, limit)
    shown = special.ndtr(above if more < limit else -above) < alpha
    spread = math.hypot(math.sqrt((alone + baseline_alone - more**2) / points), about.tasks)
    return min(float(np.exp(logs[shown]).sum()), one_sided_power(replicates, abs(more - limit) / spread, alpha))


def _likely(pairs: int, share: float) -> Floats:
    """The numbers of `pairs` within 8 standard deviations of their expected share, and a few more where it is small."""
    room = 8 * math.sqrt(pairs * share * (1 - share)) + 8
    return np.arange(max(0, math.floor(pairs * share - room)), min(pairs, math.ceil(pairs * share + room)) + 1.0)
