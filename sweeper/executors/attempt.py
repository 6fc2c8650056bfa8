"""One attempt at one run, the same in every executor; knows nothing of processes."""

from __future__ import annotations

import logging

from studies.records import Cause, RunResult
from trainers.interface import Job, Report, Trainer, load_trainer

logger = logging.getLogger(__name__)


class WarmTrainer:
    """A trainer by name, loaded when the first job needs it and then kept with all that it holds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trainer: Trainer | None = None

    def attempt(self, job: Job, report: Report) -> RunResult:
        """Train `job`. Whatever the trainer raises becomes a result with cause INFRASTRUCTURE, its traceback logged."""
        try:
            if self._trainer is None:
                self._trainer = load_trainer(self._name)
            (result,) = self._trainer.train([job], report)
        except (Exception, SystemExit) as error:
            logger.exception("trainer %s raised in run %s", self._name, job.config.key)
            message = f"{type(error).__name__}: {error}"
            return RunResult(key=job.config.key, cause=Cause.INFRASTRUCTURE, message=message)
        return result
