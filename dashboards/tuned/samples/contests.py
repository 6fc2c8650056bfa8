"""Losses head to head: the samples of two judging runs of one replicate, which answer the same prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dashboards.statistics.compare import Difference
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.replicated.head_to_head import Met, Weights, head_to_head
from studies.records import Measurer, RunRecord
from studies.records.paths import Path, joined, weights_at
from studies.samples.kept import UNTRAINED, KeptScores

CONTROLLED = "lc_win_rate"
WIN_RATES = frozenset({"win_rate", CONTROLLED})
"""Metrics that losses are compared in head to head, where samples are kept."""


@dataclass(frozen=True)
class Contests:
    """What the judging runs of a study wrote: run id -> scores of its samples, and how far it was at each evaluation.
    `judge`: by whose scores they meet; `controlled`: at equal length.
    """

    kept: Mapping[str, KeptScores]
    paths: Mapping[str, Path]
    judge: Measurer
    controlled: bool

    def meet(self, run_id: str, other_id: str, drift: float | None) -> Met | None:
        """How often a run's samples are better than the other's, both at a drift, or at the end of their training; None
        where that is not known.
        """
        own, other = self.kept.get(run_id), self.kept.get(other_id)
        if own is None or other is None:
            return None
        weights, its = self._weights(run_id, own, drift), self._weights(other_id, other, drift)
        if weights is None or its is None:
            return None
        return head_to_head(own, weights, other, its, self.judge, controlled=self.controlled)

    def cost(self, run_id: str, drift: float | None) -> float | None:
        """What the untrained model has of the judge's scores more than the run, at a drift or at its end; None where
        that is not known.
        """
        kept = self.kept.get(run_id)
        weights = None if kept is None else self._weights(run_id, kept, drift)
        if kept is None or weights is None:
            return None
        means = {step: _mean(of) for step, of in kept.scores_by(self.judge).items()}
        if not {UNTRAINED, *weights} <= means.keys():
            return None
        return means[UNTRAINED] - math.fsum(weight * means[step] for step, weight in weights.items())

    def _weights(self, run_id: str, kept: KeptScores, drift: float | None) -> Weights | None:
        return {max(kept.tokens): 1.0} if drift is None else weights_at(self.paths[run_id], drift)


def contests_of(
    records: Iterable[RunRecord], kept: Mapping[str, KeptScores], judge: Measurer, metric: str
) -> Contests | None:
    """What there is to compare by a judge; None where no samples are kept."""
    paths = {r.run_id: joined(r.curves.get("kl", ()), r.curves.get("kl", ())) for r in records if r.run_id in kept}
    return Contests(kept, paths, judge, metric == CONTROLLED) if paths else None


@dataclass(frozen=True)
class Meeting:
    """A loss against another over replicates: how often its samples are better, 0 to 1, .5 being no difference.

    `within`: the standard error over the prompts of one draw, the root of the mean square over replicates; `prompts`:
    of a draw, on average; `contradicted`: share of prompts at which a pairwise judge contradicted itself.
    """

    rate: Estimate
    within: float | None
    prompts: float
    contradicted: float | None


def meeting_of(of: Mapping[int, Met]) -> Meeting:
    """The meetings of all replicates (replicate -> one) together; the replicate is the unit."""
    mets = list(of.values())
    errors = [one.error for one in mets if one.error is not None]
    doubted = [one.contradicted for one in mets if one.contradicted is not None]
    return Meeting(
        rate=block_mean({replicate: [one.rate] for replicate, one in of.items()}, [one.error for one in mets]),
        within=math.sqrt(_mean([error**2 for error in errors])) if errors else None,
        prompts=_mean([float(one.prompts) for one in mets]),
        contradicted=_mean(doubted) if doubted else None,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def as_rate(more: Estimate) -> Estimate:
    """A share of prompts won, of which `more` is what it has above one half."""
    low, high = (None if limit is None else limit + 0.5 for limit in (more.low, more.high))
    return replace(more, value=more.value + 0.5, low=low, high=high)


@dataclass(frozen=True)
class Opinion:
    """What a second judge, who chose nothing, says of the same samples: loss -> how it met the baseline, and the
    difference that shows, in its words.
    """

    judge: str
    met: Mapping[str, Meeting]
    differences: Mapping[str, Difference]


Cost = Literal["costs more", "costs no more", "not told"]
MOST_COST = 0.02
"""Of a check's share: what a loss may cost."""


@dataclass(frozen=True)
class Tax:
    """What each loss costs of a check: the untrained model's share less its own, over replicates; more is worse.

    `words`: costs more, by more than `MOST_COST`: paired one-sided t over replicates, p < .05 with Holm over all
    losses; costs no more: the same from the other side, not corrected.
    """

    check: str
    costs: Mapping[str, Estimate]
    words: Mapping[str, Cost]
