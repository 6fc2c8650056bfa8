"""Losses against a baseline over replicates, each of which is a task of its own: independent, alike, paired.

The estimand is "tune this loss with n trials on a new task, then use it": the luck of the points and of the tuning
draw differs by replicate and is in the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dashboards.statistics.compare import Difference, could_tie, judged, paired_differences
from dashboards.statistics.estimates import Proportion, clopper_pearson
from dashboards.statistics.scale import Panel


def against_baseline(panel: Panel, baseline: str, tie_within: float | None, sign: int = 1) -> dict[str, Difference]:
    """Every loss of the panel (loss -> replicate -> value) but the baseline, against it.

    Paired t test over the replicates that both have, corrected for all losses (Holm 1979); a tie by two one-sided tests
    (Schuirmann 1987), not corrected. Nothing is imputed: a replicate in which a loss has no value is not in its
    difference, and `estimate.blocks` tells how many are. `tie_within` and `sign` as in `compare.compare`.
    """
    found = judged(paired_differences(panel, baseline, sign), tie_within)
    return {name: replace(of, could_tie=could_tie(of, tie_within)) for name, of in found.items()}


def win_rate(values: Mapping[int, float], baseline: Mapping[int, float], sign: int = 1) -> Proportion:
    """In how many of the replicates that both have the loss is better, with the exact 95 % limits of its chance.

    Replicates of equal values count for neither, as in the sign test.
    """
    apart = [sign * (values[r] - baseline[r]) for r in values.keys() & baseline.keys() if values[r] != baseline[r]]
    return clopper_pearson(sum(difference > 0 for difference in apart), len(apart))
