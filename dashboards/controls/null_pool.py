"""The whole procedure on a case whose answer is known: one loss against itself, with or without a planted effect.

Works on a recorded pool of one loss: the same configs on the same blocks, two runs or more of each with other seeds.
In every repeat the pool is dealt to two arms, each chooses its best config on some blocks and is judged on others, as
in a sweep with a confirm phase. Independent sweeps of one loss would not do: their points differ, and so do they.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboards.analysis.strata import StratumResults
from dashboards.controls.expectations import Finding
from dashboards.statistics.compare import ALPHA, Word, p_difference, p_equivalence
from dashboards.statistics.estimates import Floats
from dashboards.statistics.scale import Scale
from studies.records import PROBE, RunRecord, State
from studies.spec import Objective
from studies.text.plural import so_many

# Deals of one pool. Two hundred would say the rates to two or three per cent, by the luck of the dealing alone.
REPEATS = 2000
MOST_DIFFERENCES = 16 / 200  # the level of 5 %, and what a pool of so many runs adds by chance
FEWEST_TIES, FEWEST_FOUND = 0.8, 0.8
WIDTHS = 2.0  # of a planted effect, in half widths of the region of practical equivalence
POOL_CONFIGS, POOL_BLOCKS, POOL_RUNS = 32, 12, 2  # what makes runs of one loss a pool
CHOOSING = 4  # one block in so many chooses, the others are there to judge
HOLM = 11  # comparisons that a claim is corrected for: the guide's twelve losses less the baseline


class PoolError(Exception):
    """The pool cannot be dealt as asked; says what it holds and what it needs."""


@dataclass(frozen=True)
class Pool:
    """Values [configs, blocks, runs] of one loss, more is better, and the task of each block."""

    values: Floats
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Deal:
    """How a repeat deals the pool: `points` configs, the same for both arms; `choose` blocks on which each arm chooses
    its best one; `judge` other blocks on which they are compared; the first step of Holm's correction over `tests`.
    """

    choose: int
    judge: int
    tests: int = 1
    points: int = 12


def deal_of(blocks: int, confirm_blocks: int | None, tests: int) -> Deal:
    """How a pool of so many blocks is dealt: a quarter of them to choose on, the others to judge on, and of these no
    more than the study's confirm phase has (None: it has none).
    """
    choose = blocks // CHOOSING
    left = blocks - choose
    return Deal(choose, left if confirm_blocks is None else min(confirm_blocks, left), tests)


def pool_of(records: Iterable[RunRecord], scale: Scale) -> Pool:
    """The pool that complete runs of one stratum make: configs and blocks that all have the same number of runs.

    Configs that lack a run are left out. Raises PoolError where nothing is left.
    """
    cells: dict[int, dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    blocks: set[int] = set()
    for record in records:
        value = scale.value(record) if record.state is State.COMPLETE and record.phase != PROBE else None
        if value is not None:
            cells[record.trial][record.block].append((record.seed, scale.sign * value))
            blocks.add(record.block)
    order = sorted(blocks)
    depth = max((len(of_block) for of in cells.values() for of_block in of.values()), default=0)
    whole = [t for t, of in sorted(cells.items()) if len(of) == len(order) and {len(c) for c in of.values()} == {depth}]
    if not whole:
        raise PoolError("No config has the same number of complete runs on every data draw: run the pool to its end.")
    values = np.array([[[v for _, v in sorted(cells[t][block])] for block in order] for t in whole])
    return Pool(values, tuple(scale.task(block) for block in order))


def repeat(pool: Pool, tie_within: float, deal: Deal, shift: float = 0.0, seed: int = 0) -> Counter[Word]:
    """How often `REPEATS` deals end in each word. `shift` is added to all that the first arm measures: a planted
    effect on its samples' gold, in the pool's unit.

    Nothing is drawn twice within a repeat: copies of a run would make the spread too small. Raises PoolError for a
    pool that is too small.
    """
    configs, blocks, runs = pool.values.shape
    if configs < deal.points or blocks < deal.choose + deal.judge or runs < 2:
        raise PoolError(
            f"The pool has {configs} configs, {blocks} data draws and {runs} runs of each; dealing {deal.points} "
            f"points, {deal.choose} draws to choose on, {deal.judge} to judge on and two groups needs as many, and two "
            "runs."
        )
    draw = np.random.default_rng(seed)
    return Counter(_word(_differences(pool.values, deal, shift, draw), tie_within, deal.tests) for _ in range(REPEATS))


def _differences(values: Floats, deal: Deal, shift: float, draw: np.random.Generator) -> Floats:
    """One deal: first arm less second over the judging blocks, each arm with the config that it chose."""
    configs = draw.permutation(values.shape[0])[: deal.points]
    blocks = draw.permutation(values.shape[1])
    choosing, judging = blocks[: deal.choose], blocks[deal.choose : deal.choose + deal.judge]
    dealt = draw.permuted(values[configs], axis=2)  # which of a cell's runs goes to which arm
    first, second = dealt[:, :, 0] + shift, dealt[:, :, 1]
    chosen = [arm[:, choosing].mean(axis=1).argmax() for arm in (first, second)]
    difference: Floats = first[chosen[0], judging] - second[chosen[1], judging]
    return difference


def pool_findings(
    standings: Sequence[StratumResults], objective: Objective, scale: Scale, confirm_blocks: int | None
) -> tuple[Finding, ...]:
    """The controls of every stratum that holds a pool: at least 12 blocks with two runs or more of each.

    Only configs that keep the objective's bounds in their mean are dealt, as only they could be best. `confirm_blocks`:
    those of the study's confirm phase (see `deal_of`).
    """
    found = []
    for standing in standings:
        runs = [run for run in standing.records if run.phase != "confirm"]
        places = Counter((run.trial, run.block) for run in runs)
        blocks = len({block for _, block in places})
        if blocks < POOL_BLOCKS or max(places.values()) < POOL_RUNS or scale.tie_within is None:
            continue
        deal = deal_of(blocks, confirm_blocks, max(HOLM, len({s.stratum.variant for s in standings}) - 1))
        allowed = {trial.number for trial in standing.allowed}
        ids = tuple(run.run_id for run in runs)
        try:
            if len(standing.ended) < POOL_CONFIGS:
                raise PoolError(
                    f"{so_many(len(standing.ended), 'config', 'has', 'have')} ended, {POOL_CONFIGS} must at least."
                )
            pool = pool_of((run for run in runs if run.trial in allowed), scale)
            results = controls(pool, scale.tie_within, deal)
        except PoolError as error:
            results = (Control("against itself", Counter(), "difference or tie as it should be", None, str(error)),)
        for control in results:
            named = f"{standing.stratum.variant} {control.name}"
            dealt = f"; {deal.choose} data draws choose, {deal.judge} judge"
            expected = control.asked + (dealt if control.counts else "")
            n = control.counts.total()
            found.append(
                Finding(named, standing.stratum.scenario, expected, control.found, n, "repeats", control.held, ids)
            )
    return tuple(found)


def _word(d: Floats, tie_within: float, tests: int) -> Word:
    """The word of `dashboards.statistics.compare`, with every p value corrected as the smallest of `tests` would be."""
    p_tie, p = p_equivalence(d, tie_within), p_difference(d)
    if p_tie is not None and p_tie < ALPHA:
        return "tie"
    if p is not None and p * tests < ALPHA:
        return "better" if d.mean() > 0 else "worse"
    return "inconclusive"


@dataclass(frozen=True)
class Control:
    """One control with what it found: counts over the repeats, what was asked of them, and whether it held (None: it
    could not be dealt, `reason` says why).
    """

    name: str
    counts: Counter[Word]
    asked: str
    held: bool | None
    reason: str = ""

    @property
    def found(self) -> str:
        """The counts in words."""
        return self.reason or ", ".join(f"{n} {word}" for word, n in self.counts.most_common())


def controls(pool: Pool, tie_within: float, deal: Deal, seed: int = 0) -> Sequence[Control]:
    """The negative and the positive control on one pool. `deal.tests`: variants that the study compares with its
    baseline, for which only the planted effect is corrected. Raises PoolError.
    """
    itself = repeat(pool, tie_within, replace(deal, tests=1), seed=seed)
    planted = repeat(pool, tie_within, deal, shift=WIDTHS * tie_within, seed=seed)
    different = itself["better"] + itself["worse"]
    return (
        Control(
            "against itself: difference",
            itself,
            f"at most {MOST_DIFFERENCES:.0%}",
            different <= MOST_DIFFERENCES * REPEATS,
        ),
        Control(
            "against itself: tie",
            itself,
            f"at least {FEWEST_TIES:.0%}",
            itself["tie"] >= FEWEST_TIES * REPEATS,
        ),
        Control(
            f"planted effect of {WIDTHS * tie_within:g}",
            planted,
            f"found in at least {FEWEST_FOUND:.0%}, Holm over {deal.tests}",
            planted["better"] >= FEWEST_FOUND * REPEATS,
        ),
    )
