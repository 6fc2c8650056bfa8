"""Variants against a baseline on the same blocks: differences, ties and what neither can be said of.

Pure functions of numbers; knows no losses and no records. Claims of difference are corrected for their number (Holm);
a tie is shown by two one-sided tests (TOST) at 90 %, not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, Floats, block_mean, bootstrap
from dashboards.statistics.power import tie_power
from dashboards.statistics.scale import Panel

Word = Literal["better", "worse", "tie", "inconclusive"]

ALPHA = 0.05
POWER = 0.8
SEEN = 3.0  # tie widths that the baseline must gain for a tie with it to mean anything
NO_GAIN = "nothing to compare: the baseline itself gained nothing that can be seen"
NO_START = "nothing to compare: what the untrained model is worth was not measured"
# Differences that vary by less than this share of themselves are the same number but for rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """A variant less the baseline over the blocks that both have, in the direction of better.

    `p`: paired t, None below three blocks; `p_holm`: corrected for all variants compared; `p_tie`: TOST, None without
    a region. `could_tie`: whether blocks of this number and spread show a true tie in at least 80 % of cases.
    `flips_without`: tasks whose removal turns the word into a contradicting one; `leans_on`: those whose removal
    leaves it inconclusive. `instead`: the words in the place of a tie that cannot be said, "" where none is held back.
    """

    estimate: Estimate
    spread: float | None
    p: float | None
    p_holm: float | None
    p_tie: float | None
    word: Word
    could_tie: bool = False
    flips_without: tuple[int, ...] = ()
    leans_on: tuple[int, ...] = ()
    instead: str = ""

    @property
    def is_robust(self) -> bool:
        """Whether no single task, left out, turns the word into a contradicting one."""
        return not self.flips_without

    @property
    def is_general(self) -> bool:
        """Whether it can be claimed of more than these tasks: robust and, for a difference, resting on no single one.

        Blocks of one task resemble each other, which the test over blocks does not know. Where losses differ by task
        and not on average over tasks, it finds a difference in 21 % of cases at 16 blocks of 6 tasks; in 8 % one that
        rests on no single task (`tests/dashboards/statistics/test_compare.py`).
        """
        return self.is_robust and (self.word == "tie" or not self.leans_on)


def compare(
    panel: Panel, baseline: str, tie_within: float | None, tasks: Mapping[int, int], sign: int = 1
) -> dict[str, Difference]:
    """Every variant of the panel but the baseline, against it.

    `tie_within`: half the width of the region of practical equivalence, None where there is none and no tie can be
    concluded. `tasks`: block -> task. `sign`: 1 where more is better. Another variant changes nothing here but the
    Holm correction. A variant without a block in common with the baseline is not in the answer; an unknown baseline
    gives none.
    """
    paired = paired_differences(panel, baseline, sign)
    found = judged(paired, tie_within)
    blocks = {block for of_variant in paired.values() for block in of_variant}
    without: dict[int, dict[str, Difference]] = {}
    for task in sorted({tasks[block] for block in blocks}):
        kept = {name: {b: d for b, d in of.items() if tasks[b] != task} for name, of in paired.items()}
        without[task] = judged({name: of for name, of in kept.items() if of}, tie_within)
    return {name: _complete(difference, name, without, tie_within) for name, difference in found.items()}


def sensitive(found: Difference, gain: Estimate | None, tie_within: float | None) -> Difference:
    """The difference; a tie only where the baseline's own gain over the untrained model is seen, else without a word.

    Two treatments that both do nothing are equivalent as well (assay sensitivity, ICH E10): the lower 95 % limit of
    `gain` must be above three times what may differ and be the same. None: the untrained model was not measured.
    """
    if found.word != "tie" or tie_within is None:
        return found
    if gain is not None and gain.low is not None and gain.low > SEEN * tie_within:
        return found
    return replace(found, word="inconclusive", instead=NO_GAIN if gain else NO_START, flips_without=(), leans_on=())


def paired_differences(panel: Panel, baseline: str, sign: int = 1) -> dict[str, dict[int, float]]:
    """Variant -> block -> what it is better by than the baseline, on the blocks that both have.

    Variants without such a block are not in the answer; an unknown baseline gives none.
    """
    zero = panel.get(baseline, {})
    shared = {name: sorted(values.keys() & zero.keys()) for name, values in panel.items() if name != baseline}
    return {name: {b: sign * (panel[name][b] - zero[b]) for b in blocks} for name, blocks in shared.items() if blocks}


def judged(paired: Mapping[str, Mapping[int, float]], tie_within: float | None) -> dict[str, Difference]:
    """Block -> difference, per variant, judged together and without a look at tasks."""
    arrays = {name: np.array(list(of.values())) for name, of in paired.items()}
    ps = {name: p for name, array in arrays.items() if (p := p_difference(array)) is not None}
    holm = dict(zip(ps, holm_adjusted(list(ps.values())), strict=True))
    return {name: _judge(array, ps.get(name), holm.get(name), tie_within) for name, array in arrays.items()}


def could_tie(found: Difference, tie_within: float | None) -> bool:
    """Whether blocks of this number and spread show a true tie in at least 80 % of cases."""
    if tie_within is None or found.spread is None:
        return False
    return tie_power(found.estimate.blocks, found.spread, tie_within) >= POWER


def _judge(d: Floats, p: float | None, p_holm: float | None, tie_within: float | None) -> Difference:
    p_tie = None if tie_within is None else p_equivalence(d, tie_within)
    spread = float(d.std(ddof=1)) if len(d) > 1 else None
    word: Word = "inconclusive"
    if p_tie is not None and p_tie < ALPHA:  # a difference that is shown not to matter is a tie, be it ever so sure
        word = "tie"
    elif p_holm is not None and p_holm < ALPHA:
        word = "better" if d.mean() > 0 else "worse"
    estimate = block_mean({block: [value] for block, value in enumerate(d.tolist())})
    return Difference(estimate, spread, p, p_holm, p_tie, word)


def _complete(
    found: Difference, name: str, without: Mapping[int, Mapping[str, Difference]], tie_within: float | None
) -> Difference:
    """The difference with the tasks that it hangs on (none, where it is inconclusive), and whether it could tie."""
    possible = could_tie(found, tie_within)
    if found.word == "inconclusive":
        return replace(found, could_tie=possible)
    words = {task: others[name].word if name in others else "inconclusive" for task, others in without.items()}
    return replace(
        found,
        could_tie=possible,
        flips_without=tuple(task for task, word in words.items() if word not in (found.word, "inconclusive")),
        leans_on=tuple(task for task, word in words.items() if word == "inconclusive"),
    )


def p_difference(d: Floats) -> float | None:
    """Two-sided p of the paired t test that differences [n] have mean 0; None below three."""
    if len(d) < FEWEST_BLOCKS:
        return None
    if _is_constant(d):
        return 1.0 if _is_zero(d) else 0.0
    return 2.0 * _t_below(-abs(float(d.mean())), d)


def p_equivalence(d: Floats, within: float) -> float | None:
    """p of TOST (Schuirmann 1987) that the mean of differences [n] is within +-`within`; None below three.

    Below .05 exactly where the 90 % t interval lies inside the region.
    """
    if len(d) < FEWEST_BLOCKS:
        return None
    if _is_constant(d):
        return 0.0 if abs(float(d[0])) < within else 1.0
    return _t_below(abs(float(d.mean())) - within, d)


def reach(d: Floats) -> float:
    """How far from 0 the 90 % t interval of the mean of differences [n] reaches, on either side."""
    if _is_constant(d):
        return abs(float(d[0]))
    error = float(d.std(ddof=1) / np.sqrt(len(d)))
    return abs(float(d.mean())) + float(special.stdtrit(len(d) - 1, 0.95)) * error


def tied_pairs(differences: Mapping[tuple[str, str], Floats], within: float | None) -> dict[tuple[str, str], float]:
    """The ordered pairs of which two one-sided tests at 5 % show that they differ by less than the tie width -> how far
    apart they may be.
    """
    if within is None:
        return {}
    ps = {pair: p_equivalence(d, within) for pair, d in differences.items()}
    return {pair: reach(differences[pair]) for pair, p in ps.items() if p is not None and p < ALPHA}


def p_above(d: Floats, limit: float) -> float | None:
    """One-sided p of the paired t test that differences [n] have a mean of at most `limit`; None below three."""
    if len(d) < FEWEST_BLOCKS:
        return None
    if _is_constant(d):
        return 0.0 if float(d[0]) > limit else 1.0
    return _t_below(limit - float(d.mean()), d)


def _t_below(mean: float, d: Floats) -> float:
    """P(T < mean / standard error) of Student's t with n - 1 degrees (scipy.special: stats' tests are 100 x slower)."""
    error = float(d.std(ddof=1)) / np.sqrt(len(d))
    return float(special.stdtr(len(d) - 1, mean / error))


def _is_constant(d: Floats) -> bool:
    return bool(np.ptp(d) <= _ROUNDING * np.abs(d).max())


def _is_zero(d: Floats) -> bool:
    return bool(np.abs(d).max() == 0.0)


def holm_adjusted(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p values, in their order.

    Own code because `statsmodels.stats.multitest` collects garbage at every call: .1 s each, and there are hundreds.
    """
    order = np.argsort(ps, kind="stable")
    steps = np.asarray(ps, dtype=float)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def improvement(values: Mapping[int, float], baseline: Mapping[int, float], tasks: Mapping[int, int]) -> Estimate:
    """Probability of improvement (2108.13264): that a run of the variant beats one of the baseline on the same task.

    Mean over tasks of the Mann-Whitney statistic over all pairs of their blocks, equal values one half. `values` and
    `baseline`: block -> value, more is better; tasks that only one of them has do not count. The interval resamples
    whole blocks of both together, within tasks, and is None below ten blocks. Raises ValueError without a block that
    both have.
    """
    blocks = sorted(values.keys() & baseline.keys())
    if not blocks:
        raise ValueError("improvement needs a block that both have")
    pairs = np.array([[values[b], baseline[b]] for b in blocks])
    of = np.array([tasks[b] for b in blocks])
    members = [np.nonzero(of == task)[0] for task in np.unique(of)]

    def statistic(drawn: Floats) -> Floats:
        wins = [_wins(drawn[:, rows, 0], drawn[:, rows, 1]) for rows in members]
        mean: Floats = np.mean(wins, axis=0)
        return mean

    limits = bootstrap(pairs, statistic, of.tolist())
    low, high = limits or (None, None)
    return Estimate(float(statistic(pairs[None])[0]), len(blocks), low, high, None)


def _wins(a: Floats, b: Floats) -> Floats:
    """Share of pairs [..., n] x [..., m] in which a is larger, equal ones one half."""
    share: Floats = (1.0 + np.sign(a[..., :, None] - b[..., None, :])).mean(axis=(-2, -1)) / 2.0
    return share
