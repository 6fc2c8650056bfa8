"""Standings of a study without replicates -> the same as `dashboards.tuned.losses` says of one with them.

Its judging runs are those of the confirm phase. Where there is none, a gain is the best of those that were tried, which
ranks nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from dashboards.analysis.confirmed import panel_of, unsaid
from dashboards.analysis.spaces import edges_of
from dashboards.analysis.strata import StratumResults, Trial, broke, mean_of
from dashboards.statistics.compare import Difference, tied_pairs
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, Floats, block_mean
from dashboards.statistics.replicated.best import not_worse_than_best
from dashboards.statistics.scale import Scale
from dashboards.tuned.losses import Tuned, TunedLoss
from studies.records import RunRecord


def tuned_by_block(
    standings: Sequence[StratumResults],
    scale: Scale,
    baseline: str | None,
    differences: Mapping[str, Difference],
    drift: float | None,
) -> Tuned:
    """Compare the variants of one scenario. `differences`: of each against the baseline, by its confirm runs."""
    rows = tuple(_loss(standing, scale, differences.get(standing.stratum.variant)) for standing in standings)
    panel = {name: _by_task(of, scale) for name, of in panel_of(standings, scale).items()}
    judged = any(row.judged for row in rows)
    best = not_worse_than_best(panel, scale.tie_within or 0.0, scale.sign) if judged else None
    settings = max((s.stratum.trials for s in standings), default=0)
    scenario = standings[0].stratum.scenario if standings else ""
    pairs = {(a, b): _apart(panel[a], panel[b], scale.sign) for a, b in permutations(panel, 2)}
    tied = tied_pairs({pair: d for pair, d in pairs.items() if len(d) >= FEWEST_BLOCKS}, scale.tie_within)
    return Tuned(
        scenario, baseline, rows, best, scale.unit, scale.metric, drift, settings, 0, 0, tuple(tied), scale.by_task,
        tied_within=tuple(tied.values()),
    )  # fmt: skip


def _apart(values: Mapping[int, float], others: Mapping[int, float], sign: int) -> Floats:
    return np.array([sign * (values[task] - others[task]) for task in sorted(values.keys() & others.keys())])


def _by_task(values: Mapping[int, float], scale: Scale) -> dict[int, float]:
    """Task -> mean over its blocks, which are no draws of their own: losses differ by task."""
    found: dict[int, list[float]] = defaultdict(list)
    for block, value in values.items():
        found[scale.task(block)].append(value)
    return {task: sum(of) / len(of) for task, of in found.items()}


def _loss(standing: StratumResults, scale: Scale, difference: Difference | None) -> TunedLoss:
    stratum, best = standing.stratum, standing.best
    confirmed = standing.is_confirmed
    worths = [worth for trial in standing.ended if (worth := _worth(trial, scale)) is not None]
    broken = [next(run.failure for run in trial.runs if broke(run)) for trial in standing.ended if trial.failed]
    return TunedLoss(
        variant=stratum.variant,
        losses=stratum.losses,
        gain=_gain(standing.evidence, scale),
        missing=unsaid(standing),
        judged=len({run.block for run in standing.evidence}) if confirmed else 0,
        short=0,
        broke_again=0,
        difference=difference,
        compared_at=None,
        met=None,
        worked=sum(worth > 0.0 for worth in worths),
        tried=len(standing.ended),
        broken=dict(Counter(map(str, broken))),
        any_setting=block_mean({0: worths}) if worths else None,
        stability=None,
        good_rates=None,
        edges=edges_of(standing),
        exported=None,
        each=tuple(gain for run in standing.evidence if (gain := scale.gain(run)) is not None) if confirmed else (),
        drift=mean_of(standing.evidence, "kl"),
        length=mean_of(standing.evidence, "length_ratio"),
        settings={} if best is None else best.runs[0].knobs,
        step=None,
        chosen=None if best is None else (stratum.scenario, best.number),
        run_ids=tuple(run.run_id for run in standing.evidence),
    )


def _worth(trial: Trial, scale: Scale) -> float | None:
    """What the trial gains, nothing where it broke or unlearnt; None where that is not known."""
    if trial.failed:
        return 0.0
    gains = [gain for run in trial.runs if (gain := scale.gain(run)) is not None]
    return max(sum(gains) / len(gains), 0.0) if gains else None


def _gain(runs: Sequence[RunRecord], scale: Scale) -> Estimate | None:
    """The mean gain over tasks; None where one of the runs lacks it."""
    tasks: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        gain = scale.gain(run)
        if gain is None:
            return None
        tasks[scale.task(run.block)].append(gain)
    return block_mean(tasks, [scale.error(run) for run in runs]) if tasks else None
