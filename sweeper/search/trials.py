"""Trials as a sweep sees them, and what their runs come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from studies.records import Scalar, State


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
    origin: str
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
    without a value is one that nobody has measured as is asked now.
    """

    state: State
    value: float | None
    constraints: Mapping[str, float]
    step: int = 0

    @property
    def feasible(self) -> bool:
        """Whether it trained to its end within all bounds."""
        return self.state is State.COMPLETE and all(excess <= 0.0 for excess in self.constraints.values())
