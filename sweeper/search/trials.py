"""Trials as a sweep sees them, and the outcome of one from the results of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studies.records import CONSEQUENCES, Cause, RunResult, Scalar, State
from studies.records.paths import path_of, read_at, start_of
from studies.spec import Objective

AT_DRIFT = "at_drift"
"""The constraint that a trial gets as far from its start as the objective is read at."""


@dataclass(frozen=True)
class Trial:
    """A trial as the sweep sees it: where it stands in Optuna, its variant, scenario and knobs.

    `state` is RUNNING for one just asked for, `number` counts within its stratum. `bracket`: with rungs, the number and
    the size of its bracket; `scores`: what was kept of it at decided rungs; `rung`: the step of the one where it ended.
    `repeats`: whether an earlier trial has the same config, and so the same runs, as in stores of versions that asked
    for a config again. `unmeasured`: whether Optuna does not know yet what it is worth.
    """

    stratum: str
    number: int
    variant: str
    scenario: str
    phase: str
    knobs: Mapping[str, Scalar]
    state: State = State.RUNNING
    bracket: tuple[int, int] | None = None
    scores: tuple[tuple[float, float], ...] = ()
    rung: int | None = None
    repeats: bool = False
    unmeasured: bool = False


@dataclass(frozen=True)
class TrialOutcome:
    """What became of a trial. `value` is the mean objective of its runs; `constraints` says, for each bound and each
    failure, by how much it is exceeded: 0 or less is feasible. `step`: of the rung where it was stopped. A complete one
    without a value is one that nobody has measured as is asked now. `too_far`: beyond `Objective.drift`, which Optuna
    is not told, since studies that are under way would be asked otherwise.
    """

    state: State
    value: float | None
    constraints: Mapping[str, float]
    step: int = 0
    too_far: bool = False

    @property
    def feasible(self) -> bool:
        """Whether it trained to its end within all bounds."""
        return self._keeps(self.constraints)

    @property
    def feasible_short(self) -> bool:
        """Whether it did so but for the drift of `Objective.at_drift`, which it never came to."""
        return self._keeps({name: excess for name, excess in self.constraints.items() if name != AT_DRIFT})

    def _keeps(self, constraints: Mapping[str, float]) -> bool:
        kept = self.state is State.COMPLETE and not self.too_far
        return kept and all(excess <= 0.0 for excess in constraints.values())


def verdict_on(results: Sequence[RunResult], objective: Objective) -> TrialOutcome:
    """A trial's state, the mean of the objective over its runs, and the constraints that it was held to.

    One whose runs all came to their end and lack the objective has no value: nobody has measured it as is asked now.
    """
    value, short = _mean(objective.metric, results), None
    if objective.at_drift is not None:
        value, short = _read_at_drift(objective, results)
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
    drift = _mean("kl_per_token", results)
    too_far = drift is not None and objective.drift is not None and drift > objective.drift
    constraints = _constraints(results, objective) | ({} if short is None else {AT_DRIFT: short})
    return TrialOutcome(State.COMPLETE, value, constraints, too_far=too_far)


def _read_at_drift(objective: Objective, results: Sequence[RunResult]) -> tuple[float | None, float]:
    """The mean of the objective where runs pass its drift, and 0; where one does not get there, or
    jumps over it, the mean at their ends,
    and 1: by that Optuna's constraint is exceeded.
    """
    readings = []
    for result in results:
        start = start_of(objective.metric, result.facts)
        path = path_of(objective.metric, result.measurements)
        found = None if start is None else read_at(path, objective.at_drift or 0.0, start)
        if found is None or not found.is_near:
            return _mean(objective.metric, results), 1.0
        readings.append(found.value)
    return (math.fsum(readings) / len(readings), 0.0) if readings else (None, 1.0)


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
