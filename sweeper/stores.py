"""What the loop asks of its two stores: one that chooses trials and is told of them, one that records runs.

`sweeper.search.search` and `sweeper.tracking.tracker` are those of a sweep; the `memory` beside each is the same
without a database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from studies.design.measurers import Measurers
from studies.records import RunConfig, RunResult
from sweeper.search.trials import Trial, TrialOutcome
from sweeper.tracking.known_runs import KnownRun


class Search(Protocol):
    """Chooses trials and learns from what they are worth. See `sweeper.search.search.Search`."""

    partial: bool

    @property
    def strata(self) -> tuple[str, ...]:
        """Names of the strata."""

    def trials(self) -> list[Trial]:
        """All trials, oldest first within their stratum."""

    def ask(self, paused: Collection[str] = ()) -> Trial | None:
        """The next trial, strata taking turns."""

    def ask_in(self, name: str, place: tuple[int, int]) -> Trial | None:
        """The next trial of a stratum, for a bracket."""

    def keep_scores(self, trial: Trial, scores: Sequence[tuple[float, float]]) -> None:
        """Keep what an open trial was worth at decided rungs."""

    def left(self, variants: Collection[str]) -> bool:
        """Whether there is a trial to ask for in a stratum of these variants."""

    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Close a trial."""

    def retell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Tell what an unmeasured trial is worth."""

    def requeue(self, trial: Trial) -> None:
        """Put an open trial back, to be asked for again."""


class Tracker(Protocol):
    """Records runs. See `sweeper.tracking.tracker.Tracker`."""

    def known_runs(self) -> tuple[KnownRun, ...]:
        """Every run that was not superseded, oldest first."""

    def start_run(self, config: RunConfig, attempt: int, phase: str) -> str:
        """Record that a run begins, and give its id."""

    def log_curve(self, run_id: str, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Record points of the training curve."""

    def finish_run(
        self, run_id: str, config: RunConfig, result: RunResult, rung: int | None = None, by: Measurers | None = None
    ) -> None:
        """Record how a run ended."""

    def supersede(self, run_id: str, reason: str) -> None:
        """Record that a later attempt stands in the place of this one."""

    def log_adapter(self, run_id: str, key: str) -> None:
        """Keep the adapter of a run."""

    def log_samples(self, run_id: str, key: str) -> None:
        """Keep all samples of a run."""
