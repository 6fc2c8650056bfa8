"""What the runs of a trial come to together. Knows no Optuna and no store."""

from __future__ import annotations

import math
from collections.abc import Sequence

from studies.records import CONSEQUENCES, Cause, RunResult, State
from studies.spec import Objective
from sweeper.search.trials import TrialOutcome


def verdict_on(results: Sequence[RunResult], objective: Objective) -> TrialOutcome:
    """A trial's state, the mean of the objective over its runs, and the constraints that it was held to.

    One whose runs all came to their end and lack the objective has no value: nobody has measured it as is asked now.
    """
    value = _mean(objective.metric, results)
    if any(r.state is State.FAIL for r in results):
        return TrialOutcome(State.FAIL, None, {})
    complete = all(r.state is State.COMPLETE for r in results)
    if complete and any(objective.metric not in r.final() for r in results):
        return TrialOutcome(State.COMPLETE, None, {})
    failures = [str(r.cause) for r in results if CONSEQUENCES[r.cause].infeasible]
    if failures or value is None or any(r.state is State.PRUNED for r in results):
        step = max((m.step for r in results if r.cause is Cause.PAUSED for m in r.measurements), default=0)
        kept = _constraints(results, objective) if step else {}  # as they were at the rung
        return TrialOutcome(State.PRUNED, value, {failures[0]: 1.0} if failures else kept, step)
    return TrialOutcome(State.COMPLETE, value, _constraints(results, objective))


def _constraints(results: Sequence[RunResult], objective: Objective) -> dict[str, float]:
    """For each bound of the objective, by how much it is exceeded (0 or less: kept), as Optuna wants it."""
    found = {}
    for metric, bounds in objective.constraints.items():
        mean = _mean(metric, results)
        if mean is not None and "max" in bounds:
            found[f"{metric} max"] = mean - bounds["max"]
        if mean is not None and "min" in bounds:
            found[f"{metric} min"] = bounds["min"] - mean
    return found


def _mean(metric: str, results: Sequence[RunResult]) -> float | None:
    """The mean over runs of their last measurement, None where none has it or one is not finite."""
    values = [r.final()[metric].value for r in results if metric in r.final()]
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None
