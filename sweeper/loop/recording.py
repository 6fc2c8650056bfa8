"""Writes what runs end with to MLflow, and counts it. In a sweep nothing else writes to the tracker."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from studies.design.measurers import asked_of, counted, measured_as, told_by
from studies.records import PROBE, Cause, RunConfig, RunResult, State
from studies.spec import StudySpec
from sweeper.loop.progress import Tally
from sweeper.loop.recovery import FailedRun, Past, Place, place_of
from sweeper.loop.retries import PUT_OFF, Attempt
from sweeper.loop.trials import TrialRuns
from sweeper.search.trials import Trial
from sweeper.stores import Tracker
from trainers.run_folder.kept_samples import sample_files
from trainers.run_folder.results import ADAPTER, drop_state

CURVE_SECONDS = 5.0  # how often the curve of a run in training is sent to MLflow
STOPPED = "stopped before its end"


@dataclass
class Training:
    """A run in training, its MLflow run once a worker has taken it, and the points of its curve that wait."""

    runs: TrialRuns
    config: RunConfig
    attempt: Attempt
    run_id: str | None = None
    unsent: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    sent_at: float = field(default_factory=time.monotonic)


class Recorder:
    """The MLflow runs of one sweep, from the start of each to its end, and the tally of them."""

    def __init__(self, spec: StudySpec, tracker: Tracker, past: Past, folder: Path) -> None:
        self._spec, self._tracker, self._past, self._folder = spec, tracker, past, folder
        self._failed: dict[Place, list[FailedRun]] = {}
        self.tally = Tally()

    def reconcile(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Make MLflow agree with the trials and with the results on disk. The trials whose runs are looked up again."""
        found = self._past.reconcile(trials)
        for run_id, reason in found.superseded:
            self._tracker.supersede(run_id, reason)
        for place, failed in found.failed:
            self._stand(place, failed)
        return found.trials

    def begin(self, run: Training) -> str:
        """The MLflow run of a run in training, made when a worker takes it."""
        if run.run_id is None:
            self._replace(place_of(run.config))
            run.run_id = self._tracker.start_run(run.config, run.attempt.number, run.runs.phase)
        return run.run_id

    def report(self, run: Training, step: int, metrics: Mapping[str, float]) -> None:
        """Send the curve of a run in training every few seconds."""
        if run.run_id is None:
            return
        run.unsent.append((step, metrics))
        if time.monotonic() - run.sent_at > CURVE_SECONDS:
            self._tracker.log_curve(run.run_id, run.unsent)
            run.unsent, run.sent_at = [], time.monotonic()

    def finish(self, run: Training, result: RunResult, *, at_rung: bool) -> None:
        """Close the MLflow run of a run that ended; at a rung it stays open. Nothing is written of one that was stopped
        before a worker took it.
        """
        if result.cause is Cause.USER_STOP and run.run_id is None:
            return
        run_id = self.begin(run)
        if not at_rung:
            self._tracker.finish_run(run_id, run.config, result)
            self._keep_samples(run_id, run.config)

    def leave(self, run: Training, result: RunResult, why: str, *, stands: bool) -> None:
        """Supersede an attempt that is made again; with `stands`, only when the next one begins."""
        if run.run_id is None:
            return
        if stands:
            self._stand(place_of(run.config), FailedRun(run.run_id, result.failure, why))
        else:
            self._tracker.supersede(run.run_id, why)

    def count(self, config: RunConfig, result: RunResult) -> None:
        """Count a run that came to its end."""
        self.tally.fail(result.failure)
        if result.state is State.FAIL:  # the next sweep tries it again
            self.tally.untrained += 1
            return
        self.tally.trained += 1
        drop_state(self._folder / config.key)

    def answer(self, runs: TrialRuns, config: RunConfig) -> bool:
        """Whether the run has a result already, in MLflow or on disk; if only there, record it."""
        known, result = self._past.recorded(config), self._past.result(config)
        if known is not None:
            runs.note(config.key, known.result() if result is None else measured_as(result, known))
            failure = known.failure
        elif result is not None and result.state is not State.FAIL and not _goes_on(runs, result):
            self._replace(place_of(config))
            run_id = self._tracker.start_run(config, 1, runs.phase)
            by = told_by(result, asked_of(self._spec).judged)
            self._tracker.finish_run(run_id, config, result, _rung(result), by=by)
            self._keep_samples(run_id, config)
            runs.note(config.key, counted(result, by, asked_of(self._spec)))
            failure = result.failure
        else:
            return False
        self.tally.reused += 1
        self.tally.fail(failure)
        return True

    def end_at_rung(self, runs: TrialRuns, step: int) -> None:
        """Record the runs of a trial that does not go on from the rung at this step."""
        assert runs.entrant is not None
        for config in runs.configs:
            if config.key in runs.results:
                continue
            result = runs.entrant.results[config.key]
            run_id = runs.run_ids.pop(config.key, None)
            self.tally.trained, self.tally.reused = (
                self.tally.trained + (run_id is not None),
                self.tally.reused + (run_id is None),
            )
            self._tracker.finish_run(run_id or self._tracker.start_run(config, 1, runs.phase), config, result, step)
            runs.note(config.key, result)
            self.tally.fail(result.failure)

    def stop_paused(self, run_ids: Sequence[str]) -> None:
        """Supersede the MLflow runs that pause at a rung: the next sweep takes the runs up where they are."""
        for run_id in run_ids:
            self._tracker.supersede(run_id, STOPPED)

    def replace_all(self) -> None:
        """Supersede the failed runs that no attempt has replaced: they are of runs that are asked for no longer."""
        for place in list(self._failed):
            self._replace(place)

    def keep_adapters(self, best: Sequence[RunConfig]) -> None:
        """Attach the best adapters of each stratum to their MLflow runs."""
        if self._spec.output.keep == "none":
            return
        known = [k for k in self._tracker.known_runs() if k.phase != PROBE]
        run_ids = {(k.variant, k.scenario, k.key): k.run_id for k in known}
        for config in best:
            run = self._past.folder(config)
            run_id = run_ids.get((config.variant, config.scenario, run.name))
            if run_id is not None and os.path.lexists(run / ADAPTER):
                self._tracker.log_adapter(run_id, run.name)

    def _keep_samples(self, run_id: str, config: RunConfig) -> None:
        """Attach all samples that the run has kept, where it did."""
        if sample_files(self._folder / config.key):
            self._tracker.log_samples(run_id, config.key)

    def _stand(self, place: Place, failed: FailedRun) -> None:
        """Let a failed run stand until another attempt at the same place begins."""
        self._failed.setdefault(place, []).append(failed)
        self.tally.fail(failed.failure)

    def _replace(self, place: Place) -> None:
        for earlier in self._failed.pop(place, []):
            self._tracker.supersede(earlier.run_id, earlier.reason)
            self.tally.replace(earlier.failure)


def _rung(result: RunResult) -> int | None:
    """The step of the rung at which a run was stopped, None for any other."""
    return max((m.step for m in result.measurements), default=None) if result.cause is Cause.PAUSED else None


def _goes_on(runs: TrialRuns, result: RunResult) -> bool:
    """Whether a result on disk is of a run with more to do; one paused at a rung has as long as its trial is open."""
    return result.cause in PUT_OFF or (result.cause is Cause.PAUSED and runs.asked)
