"""How far a sweep is and how it ended, as the terminal shows it; knows nothing of how runs are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from studies.records import Failure


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows. `best` is (variant, knobs, objective) of the best trial so far; `what` is counted;
    `doing`: what workers do that train nothing or try something, and for how long.
    """

    planned: int
    done: int
    training: int
    failures: Mapping[Failure, int]
    best: tuple[str, str, float] | None
    seconds_left: float | None
    what: str = "runs"
    doing: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `reused` runs were finished before it started; `failures`: of both, and of what could not be
    trained; `undelivered` records wait for MLflow; `unmeasured` finished runs could not be measured again; `unusable`:
    why no run can be trained at all, where the model or the data are to blame.
    """

    trained: int
    reused: int
    failures: Mapping[Failure, int]
    stopped: bool
    undelivered: int = 0
    unmeasured: int = 0
    unusable: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to train: it was not stopped, and what failed failed by its config."""
        return not self.stopped and all(failure.by_config for failure, n in self.failures.items() if n)


class Interrupted(Exception):
    """The sweep cannot go on for want of something outside of it, and says what; what it has done is kept."""
