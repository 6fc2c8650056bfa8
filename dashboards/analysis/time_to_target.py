"""How soon a stratum's best config reaches most of what the baseline's has in the end; knows no store and no page.

Only evaluations tell that, so it is known to the steps at which the study measures (`evaluate.at`). A config that never
gets there counts as later than any that does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.speed import Pace
from dashboards.analysis.strata import StratumResults
from dashboards.statistics.scale import Scale
from studies.records import RunRecord

SHARE = 0.9


@dataclass(frozen=True)
class Reach:
    """Of the confirm runs of a stratum: `steps` until the first evaluation at or above `target` (in the scale's unit),
    the median over `runs`, of which `reached` got there; None where at least half did not. `seconds`: of training
    alone on one thread, by the timed steps; None without them.
    """

    target: float
    steps: int | None
    seconds: float | None
    reached: int
    runs: int


def reaches(
    standings: Sequence[StratumResults], scale: Scale, baseline: str | None, timed: Mapping[str, Pace]
) -> dict[tuple[str, str], Reach]:
    """(variant, scenario) -> its reach of 90 % of the baseline's mean in that scenario, over confirm runs alone.

    Nothing for an objective in which the untrained model is not at 0, where the baseline gains nothing, or where less
    than two steps were evaluated.
    """
    found: dict[tuple[str, str], Reach] = {}
    confirmed = [s for s in standings if s.is_confirmed] if scale.starts_at_zero and scale.sign == 1 else []
    for own in confirmed:
        stratum = own.stratum
        same = [s for s in confirmed if (s.stratum.variant, s.stratum.scenario) == (baseline, stratum.scenario)]
        values = [value for s in same for value in scale.by_block(s.evidence).values()]
        target = SHARE * sum(values) / len(values) if values else 0.0
        if target > 0 and all(scale.metric in run.curves for run in own.evidence):
            found[stratum.variant, stratum.scenario] = _reach(own.evidence, scale, target, timed.get(stratum.variant))
    return found


def _reach(runs: Sequence[RunRecord], scale: Scale, target: float, pace: Pace | None) -> Reach:
    firsts = [_first(run, scale, target) for run in runs]
    middle = sorted(firsts)[len(firsts) // 2]  # the upper of two: half that do not get there are enough for None
    steps = None if math.isinf(middle) else int(middle)
    seconds = None if steps is None or pace is None else steps * pace.seconds
    return Reach(target, steps, seconds, sum(map(math.isfinite, firsts)), len(firsts))


def _first(run: RunRecord, scale: Scale, target: float) -> float:
    steps, raw = zip(*run.curves[scale.metric], strict=True)
    values = scale.in_unit(raw, run)
    return next((step for step, value in zip(steps, values, strict=True) if value >= target), math.inf)
