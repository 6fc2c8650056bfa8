"""The most gold that a loss reaches at a KL budget, over the runs of its unbiased phase; knows no losses and no store.

The frontier is the least concave majorant of (0, the untrained model) and the configs' means over blocks, made
non-decreasing: mixing two policies reaches every point between them, so it is defined at every budget. Vertices are
chosen on one half of the evaluation samples and read on the other, then the halves change places. What is estimated:
the best that is reachable within the budget in the declared box with these points, less the luck of the samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dashboards.statistics.estimates import FEWEST_TO_BOOTSTRAP, LEVEL, RESAMPLES, Estimate, Floats, resamples_of
from dashboards.statistics.scale import Scale
from studies.records import RunRecord, State

BUDGETS = (0.5, 1.0, 2.0, 4.0)
"""Nats per sequence, for answers of about 11.5 tokens; of other lengths .05, .1, .2 and .4 per token."""

_HALVES = 2
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """The configs of a stratum that reached all blocks: `kl` and `gold` [halves, configs, blocks], gold less that of
    the untrained model.

    `broken`: configs that failed somewhere, gated before anything is chosen; `incomplete`: those that lack a block, a
    measurement or its halves.
    """

    configs: tuple[int, ...]
    blocks: tuple[int, ...]
    kl: Floats
    gold: Floats
    broken: tuple[int, ...]
    incomplete: tuple[int, ...]
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Frontier:
    """A stratum's values at each of `budgets`, in the scale's unit above the untrained model; no interval below ten
    blocks. The rest says what they came from, see `Points`.
    """

    budgets: tuple[float, ...]
    values: tuple[Estimate, ...]
    configs: tuple[int, ...]
    broken: tuple[int, ...]
    incomplete: tuple[int, ...]
    run_ids: tuple[str, ...]


def points_of(records: Iterable[RunRecord], scale: Scale, broken: Iterable[int], origin: Mapping[int, float]) -> Points:
    """The points of one stratum. `broken`: its failed configs; `origin`: block -> value of the untrained model in the
    scale's unit, {} where that is 0 (U). Runs of other arms than the unbiased are not looked at.
    """
    gated = set(broken)
    runs: dict[int, dict[int, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.phase == "unbiased" and record.state is State.COMPLETE:
            runs[record.trial][record.block].append(record)
    usable = {trial: of for trial, of in runs.items() if trial not in gated and all(map(_has_halves, _flat(of)))}
    blocks = tuple(sorted({block for of in usable.values() for block in of}))
    whole = tuple(trial for trial, of in sorted(usable.items()) if len(of) == len(blocks))
    kl, gold = np.empty((_HALVES, len(whole), len(blocks))), np.empty((_HALVES, len(whole), len(blocks)))
    for i, trial in enumerate(whole):
        for j, block in enumerate(blocks):
            of_block = usable[trial][block]
            kl[:, i, j] = np.mean([r.halves["kl"] for r in of_block], axis=0)
            gold[:, i, j] = np.mean([scale.in_unit(r.halves["gold"], r) for r in of_block], axis=0)
            gold[:, i, j] -= origin.get(block, 0.0)
    return Points(
        configs=whole,
        blocks=blocks,
        kl=kl,
        gold=gold,
        broken=tuple(sorted(gated)),
        incomplete=tuple(sorted(runs.keys() - gated - set(whole))),
        run_ids=tuple(r.run_id for trial in whole for r in _flat(usable[trial])),
    )


def _flat(of_trial: Mapping[int, Sequence[RunRecord]]) -> list[RunRecord]:
    return [record for of_block in of_trial.values() for record in of_block]


def _has_halves(record: RunRecord) -> bool:
    return "gold" in record.halves and "kl" in record.halves


def frontier(points: Points, budgets: Sequence[float] = BUDGETS, seed: int = 0) -> Frontier:
    """The frontier of one stratum; with no config left it is 0 everywhere, that of the untrained model."""
    values = at_budgets(points.kl.mean(axis=2)[None], points.gold.mean(axis=2)[None], budgets)[0]
    n = len(points.blocks)
    limits: Floats | None = None
    if n >= FEWEST_TO_BOOTSTRAP:
        limits = np.quantile(_resampled(points, n, budgets, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    estimates = tuple(
        Estimate(
            value=float(value),
            blocks=n,
            low=None if limits is None else float(limits[0, i]),
            high=None if limits is None else float(limits[1, i]),
            error=None,
        )
        for i, value in enumerate(values)
    )
    return Frontier(tuple(budgets), estimates, points.configs, points.broken, points.incomplete, points.run_ids)


def frontier_difference(
    points: Points, baseline: Points, budgets: Sequence[float] = BUDGETS, seed: int = 0
) -> tuple[Estimate, ...]:
    """A stratum's frontier less the baseline's over the blocks of both, resampled together; an interval, and no test:
    claims of difference and ties come from the confirm phase.

    Raises ValueError where the two do not have the same blocks.
    """
    if points.blocks != baseline.blocks:
        raise ValueError(f"frontiers on blocks {points.blocks} and {baseline.blocks} cannot be subtracted")
    n = len(points.blocks)
    here, there = frontier(points, budgets, seed), frontier(baseline, budgets, seed)
    limits: Floats | None = None
    if n >= FEWEST_TO_BOOTSTRAP:
        drawn = _resampled(points, n, budgets, seed) - _resampled(baseline, n, budgets, seed)
        limits = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return tuple(
        Estimate(
            value=a.value - b.value,
            blocks=n,
            low=None if limits is None else float(limits[0, i]),
            high=None if limits is None else float(limits[1, i]),
            error=None,
        )
        for i, (a, b) in enumerate(zip(here.values, there.values, strict=True))
    )


def _resampled(points: Points, blocks: int, budgets: Sequence[float], seed: int) -> Floats:
    """Values at the budgets [resamples, budgets] over blocks drawn anew, the majorant made anew each time."""
    counts = np.zeros((RESAMPLES, blocks))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], resamples_of([0] * blocks, seed=seed)), 1.0 / blocks)
    kl, gold = (np.einsum("hcb,rb->rhc", values, counts) for values in (points.kl, points.gold))
    return at_budgets(kl, gold, budgets)


def at_budgets(kl: Floats, gold: Floats, budgets: Sequence[float]) -> Floats:
    """Cross-read values [resamples, budgets] of points kl, gold [resamples, 2 halves, configs], (0, 0) added."""
    zero = np.zeros((*kl.shape[:2], 1))
    kl, gold = np.concatenate([zero, kl], axis=2), np.concatenate([zero, gold], axis=2)
    return np.stack([_cross_read(kl, gold, budget) for budget in budgets], axis=1)


def _cross_read(kl: Floats, gold: Floats, budget: float) -> Floats:
    """The mean over halves [resamples] of: two points chosen on one half, their chord read on the other.

    The other half has its own KL for both points, so that the weights at the budget are its own too: a config whose
    KL was measured too small does not win by it.
    """
    rows = np.arange(len(kl))
    readings = []
    for chosen_by, read_from in ((0, 1), (1, 0)):
        left, right = support(kl[:, chosen_by], gold[:, chosen_by], budget)
        near, far = kl[rows, read_from, left], kl[rows, read_from, right]
        run = np.where(far > near, far - near, np.inf)  # one point, or two whose order the noise turned: left alone
        weight = np.clip((budget - near) / run, 0.0, 1.0)
        readings.append((1.0 - weight) * gold[rows, read_from, left] + weight * gold[rows, read_from, right])
    mean: Floats = np.mean(readings, axis=0)
    return mean


def support(kl: Floats, gold: Floats, budget: float) -> tuple[Places, Places]:
    """The two points that the non-decreasing least concave majorant leans on at a budget, per row of [rows, points].

    Left has a KL at or below the budget, and there must be one such point; right has one above it, or is left where
    the majorant is flat.

    From any left point, the right one with the steepest chord, then the left one with the highest chord to it, and so
    on: where neither changes, no point lies above the line through both, so that it is the majorant's at the budget.
    """
    rows = np.arange(len(kl))
    below = kl <= budget
    alone = np.where(below, gold, -np.inf).argmax(axis=1)
    left, right = alone.copy(), alone.copy()
    for _ in range(kl.shape[1]):
        highest_right = np.where(below, -np.inf, _slopes(kl, gold, left)).argmax(axis=1)
        # Of left points, the one with the highest chord at the budget is that with the least slope to right.
        highest_left = np.where(below, _slopes(kl, gold, highest_right), np.inf).argmin(axis=1)
        settled = (highest_left == left) & (highest_right == right)
        left, right = highest_left, highest_right
        if settled.all():
            break
    crosses = ~below[rows, right]
    run = np.where(crosses, kl[rows, right] - kl[rows, left], np.inf)
    chord = gold[rows, left] + (gold[rows, right] - gold[rows, left]) * (budget - kl[rows, left]) / run
    flat = ~crosses | (gold[rows, alone] >= chord)
    return np.where(flat, alone, left), np.where(flat, alone, right)


def _slopes(kl: Floats, gold: Floats, origin: Places) -> Floats:
    """Slope [rows, points] from each row's origin to every point of another KL; 0 where it is the same."""
    rows = np.arange(len(kl))
    run = kl - kl[rows, origin][:, None]
    slopes: Floats = (gold - gold[rows, origin][:, None]) / np.where(run == 0.0, np.inf, run)
    return slopes
