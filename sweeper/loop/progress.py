"""How far a sweep is and how it ended, and the screen that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from studies.records import Failure
from studies.text.plural import duration_in_words, so_many


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
class Screen:
    """Where a user sees a sweep: `show` draws its progress, `tell_user` prints a sentence."""

    show: Callable[[Progress], None]
    tell_user: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended. `reused` runs were finished before it started; `failures`: of both, and of what could not be
    trained; `undelivered` records wait for MLflow; `unmeasured` finished runs could not be measured again; `unusable`:
    why no run can be trained at all, where the model or the data are to blame; `budget`: which one stopped it;
    `on_their_way`: runs that were stopped before their end, by it or by an earlier one, and go on from what is kept;
    `seconds_left`: that all which is left would have taken, None where nobody knows.
    """

    trained: int
    reused: int
    failures: Mapping[Failure, int]
    stopped: bool
    undelivered: int = 0
    unmeasured: int = 0
    unusable: str = ""
    budget: str = ""
    on_their_way: int = 0
    seconds_left: float | None = None

    @property
    def has_ended_runs(self) -> bool:
        """Whether any run has come to an end, in this sweep or before."""
        return bool(self.trained or self.reused or self.failures)

    @property
    def in_words(self) -> str:
        """What became of its runs."""
        reused = f"{self.reused} {'was' if self.reused == 1 else 'were'} there already"
        on_their_way = f"{self.on_their_way} stopped on their way and kept, " if self.on_their_way else ""
        return f"{so_many(self.trained, 'run')} trained, {on_their_way}{reused}"

    @property
    def why_stopped(self) -> str:
        """The budget that stopped it, and what it lacked; "" where none did."""
        left = "" if self.seconds_left is None else f", about {duration_in_words(self.seconds_left)} too early"
        return f"Stopped: {self.budget}{left}." if self.budget else ""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to train: it was not stopped, and what failed failed by its config."""
        return not self.stopped and all(failure.by_config for failure, n in self.failures.items() if n)

    def ending(self, *, tabled: bool) -> tuple[str, str]:
        """How and why, as `SweepEnded` tells it. `tabled`: whether the table is kept."""
        if self.unusable:
            return "refused", self.unusable
        if tabled and self.whole and not self.unmeasured:
            return "finished", ""
        if self.stopped:
            return "stopped", self.budget
        untrained = sum(number for failure, number in self.failures.items() if not failure.by_config)
        left = [f"{so_many(untrained, 'run')} could not be trained"] if untrained else []
        left += [f"{so_many(self.unmeasured, 'run')} could not be measured again"] if self.unmeasured else []
        return "incomplete", "; ".join(left) or "records wait for MLflow"


@dataclass
class Tally:
    """Runs counted: trained, reused, those that could not be trained; and the failures that stand."""

    trained: int = 0
    reused: int = 0
    untrained: int = 0
    failures: Counter[Failure] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Runs that are over."""
        return self.trained + self.reused + self.untrained

    def fail(self, failure: Failure | None) -> None:
        """Count a failure, if it is one."""
        self.failures.update([failure] if failure else [])

    def replace(self, failure: Failure | None) -> None:
        """Take back a failure of a run that another attempt replaces."""
        self.failures.subtract([failure] if failure else [])

    def outcome(self, stopped: bool, unusable: str, budget: str, seconds_left: float | None = None) -> Outcome:
        """How the sweep ended. `budget`: the limit that it came to, which has stopped it where it was stopped;
        `seconds_left`: that what is not done would take.
        """
        stopped_by = budget if stopped else ""
        counted = (self.trained, self.reused, +self.failures, stopped)
        return Outcome(*counted, unusable=unusable, budget=stopped_by, seconds_left=seconds_left)


class Interrupted(Exception):
    """The sweep cannot go on without something outside of it, and says what; what it has done is kept."""
