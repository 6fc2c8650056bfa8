"""Attempts at runs, the same in every executor; knows nothing of processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from studies.records import Cause, RunResult
from sweeper.executors.messages import Piloted
from trainers.interface import Decision, Desk, Job, Trainer, load_trainer

logger = logging.getLogger(__name__)


class WarmTrainer:
    """A trainer by name, loaded when the first job needs it and then kept with all that it holds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trainer: Trainer | None = None

    def attempt(self, job: Job, desk: Desk) -> None:
        """Train `job` and what the trainer takes beside it; every one of them is handed in at the desk.

        Whatever the trainer raises becomes a result of each open job with cause INFRASTRUCTURE, its traceback logged.
        """
        counter = _Counter(desk, job)
        message = "the trainer returned without handing in this run"
        try:
            if self._trainer is None:
                self._trainer = load_trainer(self._name)
            self._trainer.train(job, counter)
        except (Exception, SystemExit) as error:
            logger.exception("trainer %s raised in runs %s", self._name, ", ".join(counter.open))
            message = f"{type(error).__name__}: {error}"
        for key in list(counter.open):
            counter.finish(RunResult(key=key, cause=Cause.INFRASTRUCTURE, message=message))

    def pilot(self, jobs: Sequence[Job], workers: int) -> Piloted:
        """Measure what these runs cost, where the trainer can tell and the runs can be made."""
        try:
            if self._trainer is None:
                self._trainer = load_trainer(self._name)
            measure = getattr(self._trainer, "pilot", None)
            if measure is None:
                return Piloted(None, f"trainer {self._name} has no pilot")
            return Piloted(measure(jobs, workers))
        except (Exception, SystemExit) as error:
            logger.exception("the pilot of trainer %s failed", self._name)
            return Piloted(None, f"{type(error).__name__}: {error}")


class _Counter:
    """A desk that remembers which jobs are open."""

    def __init__(self, desk: Desk, first: Job) -> None:
        self._desk = desk
        self.open = {first.config.key: first}

    def take(self, like: str) -> Job | None:
        job = self._desk.take(like)
        if job is not None:
            self.open[job.config.key] = job
        return job

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        return self._desk.report(key, step, metrics)

    def finish(self, result: RunResult) -> None:
        del self.open[result.key]
        self._desk.finish(result)
