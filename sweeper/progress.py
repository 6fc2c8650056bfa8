"""How far a sweep is and how it ended, as the terminal shows it; knows nothing of how runs are trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows. `best` is (variant, knobs, objective) of the best trial so far; `what` is counted."""

    planned: int
    done: int
    training: int
    failed: int
    unstable: int
    best: tuple[str, str, float] | None
    seconds_left: float | None
    what: str = "runs"


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `reused` runs were finished before it started; `undelivered` records wait for MLflow;
    `unmeasured` finished runs could not be measured again.
    """

    trained: int
    reused: int
    failed: int
    stopped: bool
    undelivered: int = 0
    unmeasured: int = 0
