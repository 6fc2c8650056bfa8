"""How far strata end below their own peak along training; knows no store and no page.

Read from evaluations along training (`evaluate.at`) that kept a metric on both halves of their samples, as
`dashboards.statistics.stability.late_collapse` says. It says nothing of runs that broke: those are failures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.analysis.strata import StratumResults
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from dashboards.statistics.stability import FEWEST_CHECKPOINTS, LateCollapse, late_collapse
from studies.records import RunRecord


@dataclass(frozen=True)
class Falling:
    """Mean over blocks of how far runs of `configs` configs fell from their peak, and how much they regained."""

    fall: Estimate
    regained: Estimate
    configs: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Falls:
    """Late collapse of a stratum in `metric`; positive is a fall, whichever way is better.

    `best`: of the best trial by its confirm runs, which did not choose it; `configs`: of the unbiased phase's configs
    that did not fail. None where not all of these runs were measured at eight steps or more. `checkpoints`: fewest and
    most of them.
    """

    variant: str
    scenario: str
    metric: str
    unit: str
    checkpoints: tuple[int, int]
    best: Falling | None
    configs: Falling | None


def falls(standings: Sequence[StratumResults], scale: Scale, gold: Scale) -> tuple[Falls, ...]:
    """The late collapse of every stratum that was measured along training, in their order; others are not in it.

    Of the objective, whose scale is `scale`, or of gold where that has no halves, as a share of ranked pairs has none.
    """
    return _falls(standings, scale) or _falls(standings, gold)


def _falls(standings: Sequence[StratumResults], scale: Scale) -> tuple[Falls, ...]:
    found = []
    for standing in standings:
        trials = [trial for trial in standing.good if all(run.phase == "unbiased" for run in trial.runs)]
        groups = (standing.evidence if standing.is_confirmed else (), [run for trial in trials for run in trial.runs])
        best, configs = (_falling(runs, scale) for runs in groups)
        if best is None and configs is None:
            continue
        counts = [n for runs in groups for run in runs if (n := len(_points(run, scale))) >= FEWEST_CHECKPOINTS]
        place = (standing.stratum.variant, standing.stratum.scenario)
        found.append(Falls(*place, scale.metric, scale.unit, (min(counts), max(counts)), best, configs))
    return tuple(found)


def _falling(runs: Sequence[RunRecord], scale: Scale) -> Falling | None:
    """None without a run, or where one of them was measured at too few steps."""
    if not runs or any(len(_points(run, scale)) < FEWEST_CHECKPOINTS for run in runs):
        return None
    blocks: dict[int, list[LateCollapse]] = defaultdict(list)
    for run in runs:
        blocks[run.block].append(_late_collapse(run, scale))
    return Falling(
        fall=block_mean({block: [one.fall for one in of] for block, of in blocks.items()}),
        regained=block_mean({block: [one.regained for one in of] for block, of in blocks.items()}),
        configs=len({run.trial for run in runs}),
        run_ids=tuple(run.run_id for run in runs),
    )


def _points(run: RunRecord, scale: Scale) -> Sequence[tuple[int, float, float]]:
    return run.curve_halves.get(scale.metric, ())


def fall_of(run: RunRecord, scale: Scale) -> float | None:
    """How far a run's metric falls from its peak to the end; None where it was measured at too few steps."""
    return _late_collapse(run, scale).fall if len(_points(run, scale)) >= FEWEST_CHECKPOINTS else None


def _late_collapse(run: RunRecord, scale: Scale) -> LateCollapse:
    _, *halves = zip(*_points(run, scale), strict=True)
    first, second = ([scale.sign * value for value in scale.in_unit(half, run)] for half in halves)
    return late_collapse(first, second)
