"""How often a loss breaks, by kind and with exact limits, and how far it is from its best elsewhere in its space.

Pure functions of records and numbers. Sensitivity, share of space and expected best describe a space only where its
points were chosen without a look at results: give them the unbiased phase, failures included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from dashboards.statistics.estimates import Floats, Proportion, clopper_pearson
from dashboards.statistics.scale import Scale
from studies.records import CONSEQUENCES, Failure, RunRecord, State

Kind = Literal["non-finite", "inversion", "collapse", "drift"]
KINDS: tuple[Kind, ...] = ("non-finite", "inversion", "collapse", "drift")
Stability = Literal["Good", "Fair", "Poor"]

GOOD, FAIR = 0.02, 0.10  # the largest failure rate of each word
WORD_LEVEL = 0.90  # a word leans on one limit, so that each is wrong in 5 % of cases: 149 configs without a failure
INVERTED_BLOCKS, INVERTED_SHARE = 5, 0.8
FEWEST_CHECKPOINTS = 8  # of a curve that late collapse is read from
# Not among them is want of memory, which says nothing of the loss.
_KINDS: Mapping[Failure, Kind] = {
    Failure.DIVERGED: "non-finite",
    Failure.INVERTED: "inversion",
    Failure.COLLAPSED: "collapse",
    Failure.DRIFTED: "drift",
}


@dataclass(frozen=True)
class Failures:
    """Configs that failed, of those that came to an end: in all, by kind, and the runs that showed it.

    A config counts once in `all` and once under each kind that it showed, by its first draw. `anywhere`: those that
    broke in any of their draws, of which nothing but the survivors could be averaged.
    """

    all: Proportion
    by_kind: Mapping[Kind, Proportion]
    configs: tuple[int, ...]
    run_ids: tuple[str, ...]
    anywhere: tuple[int, ...] = ()

    @property
    def word(self) -> Stability | None:
        """Good: at most 2 % fail. Fair: more than 2 and at most 10 %. Poor: more than 10 %. Each only where the
        one-sided 95 % limits support it, else None.
        """
        limits = clopper_pearson(self.all.k, self.all.n, WORD_LEVEL)
        if limits.high <= GOOD:
            return "Good"
        if limits.low > FAIR:
            return "Poor"
        return "Fair" if limits.low > GOOD and limits.high <= FAIR else None


def failures(records: Iterable[RunRecord], scale: Scale) -> Failures:
    """Failed configs (trials) of one stratum. Runs that a limit, a user or the machine ended are not looked at.

    A config fails where its first draw turned non-finite, collapsed, inverted preferences or drifted (mean length below
    half or above twice the reference's), or where it is inverted by `is_inverted`. One draw each: a config that was
    tried on twenty has twenty chances to break, and shares of such are of the study's blocks and not of the loss.
    """
    runs: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        if came_to_an_end(record):
            runs[record.trial].append(record)
    shown: dict[Kind, set[int]] = {kind: set() for kind in KINDS}
    ids: list[str] = []
    anywhere: set[int] = set()
    for trial, of_trial in runs.items():
        inverted = is_inverted(of_trial, scale)
        if inverted or any(map(kinds_of, of_trial)):
            anywhere.add(trial)
        for run in first_draw(of_trial):
            kinds: set[Kind] = set(kinds_of(run)) | ({"inversion"} if inverted else set())
            for kind in kinds:
                shown[kind].add(trial)
            ids += [run.run_id] * bool(kinds)
    failed = sorted(set().union(*shown.values()))
    return Failures(
        all=clopper_pearson(len(failed), len(runs)),
        by_kind={kind: clopper_pearson(len(trials), len(runs)) for kind, trials in shown.items()},
        configs=tuple(failed),
        run_ids=tuple(ids),
        anywhere=tuple(sorted(anywhere)),
    )


def first_draw(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The run of a config on its first block by its first seed; all of it that several have there."""
    first = min(((run.block, run.seed) for run in runs), default=None)
    return tuple(run for run in runs if (run.block, run.seed) == first)


def came_to_an_end(run: RunRecord) -> bool:
    """Whether the run completed or broke, and was not stopped by a limit, a user or the machine."""
    return run.state is State.COMPLETE or (run.cause is not None and CONSEQUENCES[run.cause].instability)


def kinds_of(run: RunRecord) -> set[Kind]:
    """What broke a single run, by its trainer's word and by the length of its samples."""
    return {_KINDS[failure] for failure in run.failures if failure in _KINDS}


def is_inverted(runs: Sequence[RunRecord], scale: Scale) -> bool:
    """Whether a config taught the opposite: in 80 % of five blocks or more, pairs ranked wrong more often than right,
    a negative margin, and an objective worse than the untrained model by two standard errors.

    One of these alone misfires: shuffled labels give an accuracy of .24 to .36 after a step that changes nothing. The
    objective's zero must be the untrained model (`Scale.starts_at_zero`); a config on fewer blocks
    is inverted only where its trainer says so, and so is one of any other objective.
    """
    if not scale.starts_at_zero:
        return False
    blocks: dict[int, list[bool]] = defaultdict(list)
    for run in runs:
        blocks[run.block].append(looks_inverted(run, scale))
    if len(blocks) < INVERTED_BLOCKS:
        return False
    return sum(all(of_block) for of_block in blocks.values()) >= INVERTED_SHARE * len(blocks)


def looks_inverted(run: RunRecord, scale: Scale) -> bool:
    """Whether a single run ranks pairs wrong, with a negative margin and a worse objective; see `is_inverted`."""
    value, accuracy, margin = scale.value(run), run.metrics.get("accuracy"), run.metrics.get("margin")
    if value is None or accuracy is None or margin is None:
        return False
    error = scale.error(run) or 0.0
    return accuracy < 0.5 and margin < 0.0 and scale.sign * value < -2.0 * error


def share_within(scores: Sequence[float], share: float) -> float | None:
    """Share of configs whose score is at least (1 - `share`) of the best; None where the best is not above 0.

    Scores have their zero at the untrained model, more is better; give a failed config 0 or less.
    """
    best = max(scores, default=0.0)
    if best <= 0.0:
        return None
    return sum(score >= (1.0 - share) * best for score in scores) / len(scores)


def expected_best(scores: Sequence[float], n: int) -> float:
    """Expected best of n trials drawn from N scores with replacement (Dodge et al. 2019, eq. 2), more is better.

    sum over values v of v (P(V <= v)^n - P(V < v)^n). Biased: drawing with replacement it is too low on average, the
    more the nearer n is to N, hence n <= N / 2 (Tang et al. 2020); of all estimators that were compared it leads to
    few wrong conclusions (Dodge et al. 2021). Raises ValueError for n outside of 1 ... N / 2.
    """
    if not 1 <= n <= len(scores) / 2:
        raise ValueError(f"the best of {n} cannot be expected from {len(scores)} scores: 1 to half of them")
    ordered = np.sort(np.asarray(scores, dtype=float))
    cumulative = (np.arange(len(ordered) + 1) / len(ordered)) ** n
    return float(ordered @ np.diff(cumulative))


def performance_profile(scores: Sequence[Sequence[float]], thresholds: Sequence[float]) -> Floats:
    """Share of runs above each threshold, mean over tasks: the run-score distribution of 2108.13264.

    `scores`: per task its runs' scores, failed ones included. Gives [thresholds].
    """
    levels = np.asarray(thresholds, dtype=float)
    shares = [(np.asarray(of_task, dtype=float)[:, None] > levels).mean(axis=0) for of_task in scores]
    profile: Floats = np.mean(shares, axis=0)
    return profile


def sensitivity(positions: Sequence[float], scores: Sequence[float], low: float, high: float) -> float | None:
    """Mean loss from the best along an axis: of best - max(score, 0) over `low` to `high` (after 2309.14322).

    `positions` are logarithms (of the learning rate; of the strength, see `strengths`) and may repeat: of equal ones
    the best score counts, so that points of a Sobol arm can be put into bins first (`in_bins`). Between points the
    score is linear; None where the points do not reach from `low` to `high`. The best is that over all points.
    """
    tops: dict[float, float] = {}
    for position, score in zip(positions, scores, strict=True):
        tops[position] = max(score, 0.0, tops.get(position, 0.0))
    x = np.array(sorted(tops))
    if len(x) < 2 or x[0] > low or x[-1] < high:
        return None
    y = np.array([tops[position] for position in x])
    inside = x[(x > low) & (x < high)]
    grid = np.concatenate([[low], inside, [high]])
    return float(y.max() - np.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def in_bins(positions: Sequence[float], low: float, high: float, bins: int) -> list[float]:
    """Each position moved to the middle of its one of `bins` equal bins of [low, high], the outer ones to its ends.

    Points that fill a box show an axis by the best point of each bin; all variants have the same number of points,
    so that the bias of a best of few is the same for all.
    """
    places = np.clip(((np.asarray(positions) - low) / (high - low) * bins).astype(int), 0, bins - 1)
    return [float(position) for position in np.linspace(low, high, bins)[places]]


def strengths(betas: Sequence[float], kls: Sequence[float], budget: float = 2.0) -> list[float] | None:
    """log10(beta / beta*) for each beta of a path at one learning rate; beta* is where the loss's KL is `budget`.

    Beta is another quantity in each loss; relative to beta* a strength means the same for all. beta* is the first
    crossing from weak to strong (small to large beta), interpolated between logarithms; None where the path does not
    cross the budget.
    """
    order = np.argsort(betas)
    x, y = np.log10(np.asarray(betas, dtype=float)[order]), np.log(np.asarray(kls, dtype=float)[order] / budget)
    for i in range(len(x) - 1):
        if y[i] >= 0.0 >= y[i + 1]:
            crossing = x[i] if y[i] == y[i + 1] else x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1])
            return [float(np.log10(beta) - crossing) for beta in betas]
    return None


class LateCollapse(NamedTuple):
    """How far a score ends below its peak, and how far above the lowest point that it had after the peak.

    What is `regained` was lost for a while, as where the learning rate was too high in the middle of its schedule;
    a fall of which little is regained is over-optimisation.
    """

    fall: float
    regained: float


def late_collapse(first: Sequence[float], second: Sequence[float]) -> LateCollapse:
    """How far the score falls from its peak to the end, by two halves of the evaluation samples at each checkpoint.

    The peak of a 3-point running median, and the lowest point from there on, are found on one half; there and at the
    end the other half is read; then the halves change places and both answers are averaged. So a flat noisy curve gives
    0 and 0 on average, where max - last of one curve finds a collapse of .05 in 9 to 21 % of cases; a curve that rises
    to its end gives a little less than 0. Raises ValueError below eight checkpoints.
    """
    if len(first) != len(second) or len(first) < FEWEST_CHECKPOINTS:
        raise ValueError(
            f"late collapse needs two halves of {FEWEST_CHECKPOINTS} checkpoints or more, got {len(first)} and "
            f"{len(second)}"
        )
    medians = [_median_of_three(np.asarray(half, dtype=float)) for half in (first, second)]
    falls = np.mean([_falls(*medians), _falls(*reversed(medians))], axis=0)
    return LateCollapse(*map(float, falls))


def _falls(chosen_by: Floats, read_from: Floats) -> tuple[float, float]:
    """Peak less end, and end less the lowest point after the peak."""
    peak = int(np.argmax(chosen_by))
    lowest = peak + int(np.argmin(chosen_by[peak:]))
    return float(read_from[peak] - read_from[-1]), float(read_from[-1] - read_from[lowest])


def _median_of_three(values: Floats) -> Floats:
    """Running median of three [n - 2]."""
    median: Floats = np.median(np.lib.stride_tricks.sliding_window_view(values, 3), axis=-1)
    return median


def generalisation_gap(records: Iterable[RunRecord]) -> dict[int, float]:
    """Block -> mean of train accuracy less held-out accuracy over runs that have both."""
    found: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if {"train_accuracy", "accuracy"} <= record.metrics.keys():
            found[record.block].append(record.metrics["train_accuracy"] - record.metrics["accuracy"])
    return {block: sum(gaps) / len(gaps) for block, gaps in sorted(found.items())}


def config_scores(records: Iterable[RunRecord], scale: Scale, failed: Iterable[int]) -> dict[int, float]:
    """Config -> mean score over its blocks, in the direction of better.

    A failed config counts as 0, no better than the untrained model; one without a value that did not fail is left
    out.
    """
    broken = set(failed)
    runs: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        runs[record.trial].append(record)
    found: dict[int, float] = {}
    for trial, of_trial in sorted(runs.items()):
        values = scale.by_block(of_trial)
        if trial in broken:
            found[trial] = 0.0
        elif values:
            found[trial] = scale.sign * sum(values.values()) / len(values)
    return found
