"""Two runs on the same prompts: how often one's samples are better than the other's. Pure functions of kept scores.

By its scores a judge puts one of two samples above the other, or calls a tie, which counts half; a pairwise judge says
it itself. Where runs are read on their way, at a drift, each stands for a mixture of its evaluations, the untrained
model among them: H = sum_ij w_i v_j h_ij, h_ij the share of prompts at which evaluation i of the one beats evaluation j
of the other, w and v the weights that reading a metric at that drift gives them (`studies.records.paths`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dashboards.statistics.estimates import Floats
from studies.records import Measurer
from studies.samples.kept import UNTRAINED, KeptScores, same_judge
from studies.samples.wins import Rate, at_equal_length, error_of, plain_rate, wins_of

Weights = Mapping[int, float]
"""Evaluation, by its step -> what it counts; they sum to 1."""


@dataclass(frozen=True)
class Met:
    """How often a run's samples are better than another's under the same prompts, 0 to 1, ties a half.

    `error`: the standard error over prompts alone; `prompts`: how many differ; `contradicted`: the share at which a
    pairwise judge contradicted itself, None of a judge that scores.
    """

    rate: float
    error: float | None
    prompts: int
    contradicted: float | None = None


def head_to_head(
    own: KeptScores, own_weights: Weights, other: KeptScores, weights: Weights, judge: Measurer, *, controlled: bool
) -> Met | None:
    """How often the samples of `own` are better than those of `other` by this judge; `controlled`: at equal length.

    None where they were not drawn under the same prompts and random numbers, or the judge has not seen them.
    """
    if not own.is_paired_with(other):
        return None
    value, influence, fitted = 0.0, np.zeros(len(own.prompts)), 1
    contradicted = 0.0
    for (i, own_weight), (j, weight) in ((a, b) for a in own_weights.items() for b in weights.items()):
        met = _wins(own, i, other, j, judge)
        if met is None:
            return None
        wins, doubted = met
        rate = _rate(own, i, other, j, wins, controlled=controlled)
        value += own_weight * weight * rate.value
        influence += own_weight * weight * rate.influence
        contradicted += own_weight * weight * doubted
        fitted = max(fitted, rate.fitted)
    asked = any(same_judge(one.by, judge) for one in (*own.preferred, *other.preferred))
    return Met(
        value,
        error_of(influence, own.prompts, fitted),
        len(set(own.prompts)),
        contradicted if asked else None,
    )


def _rate(own: KeptScores, i: int, other: KeptScores, j: int, wins: Floats, *, controlled: bool) -> Rate:
    if not controlled:
        return plain_rate(wins)
    tokens, others = (np.array(of.tokens[step], dtype=np.float64) for of, step in ((own, i), (other, j)))
    return at_equal_length(wins, tokens, others)


def _wins(own: KeptScores, i: int, other: KeptScores, j: int, judge: Measurer) -> tuple[Floats, float] | None:
    """The wins of evaluation i of a run over evaluation j of another [n], and the share that is a contradiction;
    None where the judge has not seen the samples of all prompts.
    """
    if i == UNTRAINED and j == UNTRAINED:
        return np.full(len(own.prompts), 0.5), 0.0
    n, mine, its = len(own.prompts), own.scores_by(judge).get(i), other.scores_by(judge).get(j)
    if mine is not None and its is not None:
        return (wins_of(np.array(mine), np.array(its)), 0.0) if len(mine) == len(its) == n else None
    for wins, doubted in _preferences(own, i, other, j, judge):
        return (wins, doubted) if len(wins) == n else None
    for wins, doubted in _preferences(other, j, own, i, judge):
        return (1.0 - wins, doubted) if len(wins) == n else None
    return None


def _preferences(own: KeptScores, i: int, other: KeptScores, j: int, judge: Measurer) -> Iterator[tuple[Floats, float]]:
    """What a pairwise judge said of them; samples of the untrained model are the same in every run."""
    against = {other.key} | ({""} if j == UNTRAINED else set())
    for one in reversed(own.preferred):  # the last is the latest
        if one.against in against and same_judge(one.by, judge) and (i, j) in one.steps:
            place = one.steps.index((i, j))
            yield np.array(one.wins[place]), float(np.mean(one.contradicted[place]))
