"""What a running sweep trains besides what it began with: failed runs again, more of its study, its next version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from studies.checks.runs import replicate_problems
from studies.design.counts import planned_runs
from studies.requests import FAILED, NAMED
from studies.schema.replicates import as_in_file, with_replicates
from studies.spec import Study

ALL_TRAINED: Final = (
    "The sweep has trained all that it was asked for. Once it has ended, run `sweeper retry`, or raise budget.trials "
    "in the study file and run it again."
)


ENDS: Final = "The sweep has trained all that it was asked for. Once it has ended, run the file again."
BRACKETS: Final = "Brackets of rungs are laid out over all trials: stop the sweep, change the file, run it again."


class NotTaken(Exception):
    """Why a sweep does not go on with another version of its study, and what to do."""


NextVersion = Callable[[Study, Path], Study]
"""A file as the next version of a study that is swept. Raises NotTaken; reads no store."""


def takes_none(_study: Study, _file: Path) -> Study:
    """The next version where a sweep takes none."""
    raise NotTaken("This sweep writes its study itself: stop it, and run the file.")


@dataclass(frozen=True)
class Round:
    """What a sweep trains once all its other runs have ended: again the runs that ended for these causes, and so many
    trials of each variant and replicates. `version`: what the study is from now on; with it the round begins once the
    runs in training have ended.
    """

    causes: frozenset[str] = frozenset()
    trials: int | None = None
    replicates: int | None = None
    version: Study | None = None

    @property
    def extends(self) -> bool:
        """Whether it is more of the study."""
        return self != Round(self.causes)

    def of(self, study: Study) -> Study:
        """The study, in its next version where there is one, with at least as many trials and replicates."""
        found = self.version or study
        spec = found.spec
        if self.trials is not None and self.trials > spec.budget.trials:
            spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": self.trials})})
        if self.replicates is not None and self.replicates > (spec.replicates or 0):
            spec = with_replicates(as_in_file(spec).model_copy(update={"replicates": self.replicates}))
        return Study(spec, found.variants)


class Rounds:
    """The next round of a sweep. The border's thread adds to it and the main thread takes it, which alone uses the
    stores and may train for minutes.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._next, self._over = study, Round(), False
        self._lock = threading.Lock()

    @property
    def study(self) -> Study:
        """The study as it is trained now."""
        return self._study

    @property
    def asked(self) -> bool:
        """Whether there is another round."""
        return self._next != Round()

    @property
    def changes(self) -> bool:
        """Whether the next one is of another version of the study, which begins before all other runs have ended."""
        return self._next.version is not None

    @property
    def variants(self) -> Collection[str]:
        """The variants of the study, those of its next version too."""
        return self._next.of(self._study).variants

    def retry(self, causes: Collection[str]) -> str | None:
        """Add the runs that ended for these causes. Gives the reason where that is refused."""
        unknown = sorted(set(causes) - NAMED)
        if unknown:
            return f"`causes`: {', '.join(unknown)}: valid are {', '.join(sorted(NAMED))}."
        with self._lock:
            if not self._over:
                self._next = replace(self._next, causes=self._next.causes | frozenset(causes or FAILED))
            return ALL_TRAINED if self._over else None

    def extend(self, trials: int | None, replicates: int | None = None) -> str | None:
        """Set the trials of each variant, or the replicates. Gives the reason where that is refused."""
        if self._study.spec.rungs is not None:
            return "Brackets of rungs are laid out over all trials: stop the sweep, raise budget.trials, run it again."
        wrong = self._no_replicates(replicates)
        if trials is None and replicates is None:
            wrong = "Name `trials` or `replicates`."
        if wrong is not None:
            return wrong
        with self._lock:
            before = self._next.of(self._study)
            wanted = replace(
                self._next, trials=trials or self._next.trials, replicates=replicates or self._next.replicates
            )
            more = planned_runs(wanted.of(self._study)) - planned_runs(before)
            if not self._over and more > 0:
                self._next = wanted
            elif not self._over:
                told = f"`trials`: {trials}" if trials is not None else f"`replicates`: {replicates}"
                now = before.spec.budget.trials if trials is not None else before.spec.replicates
                return f"{told} asks for no run beyond those of {now}, which are asked for already."
            return ALL_TRAINED if self._over else None

    def change(self, load: Callable[[Study], Study]) -> int:
        """Go on with another version of the study, which `load` makes of the one that is trained; gives how many runs
        it has more. Raises NotTaken.
        """
        with self._lock:
            if self._over:
                raise NotTaken(ENDS)
            now = self._next.version or self._study
            if now.spec.rungs is not None:
                raise NotTaken(BRACKETS)
            version = load(now)
            self._next = replace(self._next, version=version)
            return planned_runs(version) - planned_runs(now)

    def _no_replicates(self, replicates: int | None) -> str | None:
        """Why the study cannot have so many replicates."""
        if replicates is None:
            return None
        if self._study.spec.replicates is None:
            return "`replicates`: the study has none, and its runs are of other draws: run it with --set replicates=N."
        more = as_in_file(self._study.spec).model_copy(update={"replicates": replicates})
        return next((f"`replicates`: {problem.text}." for problem in replicate_problems(more)), None)

    def take(self, *, last: bool) -> Round:
        """Take the next round. An empty one, or `last`, means that no further one is accepted.

        A retry is a round of its own, since it trains the failed runs and nothing else; the next version goes first.
        """
        with self._lock:
            retry, more = Round(self._next.causes), replace(self._next, causes=frozenset())
            first = more if more.version is not None or retry == Round() else retry
            taken, self._next = (more, retry) if first is more else (retry, more)
            self._over = last or taken == Round()
            self._study = taken.of(self._study)
            return taken
