"""Attempts at runs, the same in every executor: what a trainer raises, and how long it may take. Knows no processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from studies.records import UNUSABLE_FACT, Cause, RunResult, Scalar
from trainers.interface import Decision, Job, News, Trainer, WorkQueue, load_trainer
from trainers.run_folder.failures import MEMORY, cause_of
from trainers.run_folder.results import drop_state, write_result

logger = logging.getLogger(__name__)

# What the same code raises however often it is tried. A RuntimeError is whatever its author meant: it may pass.
_MISTAKES = (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, AssertionError)


class WarmTrainer:
    """A trainer by name, loaded when the first job needs it and then kept with all that it holds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trainer: Trainer | None = None

    def attempt(self, job: Job, desk: WorkQueue) -> None:
        """Train `job` and what the trainer takes beside it; every one of them is handed in at the desk.

        Whatever the trainer raises becomes a result of each open job, its traceback logged: out of memory where the
        exception says so, which also unloads the trainer with all that it holds; REFUSED for a mistake in its code,
        or one that it cannot be loaded for; else INFRASTRUCTURE.
        """
        watch = _Watch(desk, job)
        facts: dict[str, Scalar] = {}
        cause, message = Cause.INFRASTRUCTURE, "the trainer returned without handing in this run"
        try:
            if self._trainer is None:
                self._trainer = load_trainer(self._name)
            self._trainer.train(job, watch)
        except (Exception, SystemExit) as error:
            logger.exception("trainer %s raised in runs %s", self._name, ", ".join(watch.open))
            cause, message = self._cause_of(error), f"{type(error).__name__}: {error}"
            if self._trainer is None and cause is Cause.REFUSED:  # as for every other run
                facts = {UNUSABLE_FACT: "trainer"}
        if cause in MEMORY:
            self._trainer = None
        for key in list(watch.open):
            watch.finish(RunResult(key=key, cause=cause, message=message, facts=facts))

    def _cause_of(self, error: BaseException) -> Cause:
        """What trainers raise is the machine's doing, but for memory and for mistakes in code, which stay."""
        cause = cause_of(error)
        return cause if cause is not Cause.REFUSED or isinstance(error, _MISTAKES) else Cause.INFRASTRUCTURE


class _Watch:
    """A desk that remembers which jobs are open and stops those that have had their time."""

    def __init__(self, desk: WorkQueue, first: Job) -> None:
        self._desk = desk
        self.open: dict[str, Job] = {}
        self._taken_at: dict[str, float] = {}
        self._overdue: set[str] = set()
        self._begin(first)

    def take(self, like: str) -> Job | None:
        job = self._desk.take(like)
        if job is not None:
            self._begin(job)
        return job

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        return self._in_time(key, self._desk.report(key, step, metrics))

    def decision(self, key: str) -> Decision:
        return self._in_time(key, self._desk.decision(key))

    def _in_time(self, key: str, decision: Decision) -> Decision:
        limit = self.open[key].time_limit
        if decision is Decision.STOP or limit is None or time.monotonic() - self._taken_at[key] <= limit:
            return decision
        self._overdue.add(key)
        return Decision.STOP

    def finish(self, result: RunResult) -> None:
        job = self.open.pop(result.key)
        if result.cause is Cause.USER_STOP and result.key in self._overdue:
            message = f"its time of {job.time_limit:g} s was over; {result.message}"
            result = result.model_copy(update={"cause": Cause.TIME_LIMIT, "message": message})
            with suppress(OSError):  # as of now the file says that somebody stopped it, which is tried again
                write_result(job.folder, result)
                drop_state(job.folder)
        self._desk.finish(result)

    def tell(self, news: News) -> None:
        self._desk.tell(news)

    def _begin(self, job: Job) -> None:
        self.open[job.config.key] = job
        self._taken_at[job.config.key] = time.monotonic()
