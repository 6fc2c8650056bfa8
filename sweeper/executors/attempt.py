"""Attempts at runs, the same in every executor: makes results of what a trainer raises, and enforces the time limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from studies.records import UNUSABLE_FACT, Cause, RunResult, Scalar
from trainers.interface import Decision, Job, News, Trainer, WorkQueue, load_trainer
from trainers.run_folder.failures import MEMORY, breaks_the_process, cause_of
from trainers.run_folder.results import drop_state, write_result

logger = logging.getLogger(__name__)

# Exceptions that the same code raises at every attempt. A RuntimeError may be transient.
_MISTAKES = (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, AssertionError)


class WarmTrainer:
    """Loads a trainer by name for the first job and keeps it, with all that it holds, for the next."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._trainer: Trainer | None = None
        self.broken = ""
        """Why nothing can be computed on the device in this process any more; "" where it can."""

    def attempt(self, job: Job, queue: WorkQueue) -> None:
        """Train `job` and what the trainer takes beside it; each of them ends with a result in the queue.

        An exception becomes the result of each open job, its traceback logged: out of memory where the exception says
        so, which also unloads the trainer; REFUSED for a mistake in its code or a trainer that cannot be loaded;
        WORKER_LOST where the device fails in all later calls of this process too, which is then `broken`; else
        INFRASTRUCTURE.
        """
        watch = _Watch(queue, job)
        facts: dict[str, Scalar] = {}
        cause, message = Cause.INFRASTRUCTURE, "the trainer returned without handing in this run"
        try:
            self._of(job).train(job, watch)
        except (Exception, SystemExit) as error:
            logger.exception("trainer %s raised in runs %s", self._name, ", ".join(watch.open))
            cause, message = self._cause_of(error), f"{type(error).__name__}: {error}"
            if self._trainer is None and cause is Cause.REFUSED:  # as for every other run
                facts = {UNUSABLE_FACT: "trainer"}
            if cause is Cause.WORKER_LOST:
                self.broken = message
        if cause in MEMORY or self.broken:
            self._trainer = None
        for key in list(watch.open):
            watch.finish(RunResult(key=key, cause=cause, message=message, facts=facts))

    def _of(self, job: Job) -> Trainer:
        """The trainer of the job: the worker's own, which is kept, or the one that it asks for."""
        if job.trainer is not None:
            self._trainer = None  # which may hold most of the device's memory
            return load_trainer(job.trainer)
        if self._trainer is None:
            self._trainer = load_trainer(self._name)
        return self._trainer

    def _cause_of(self, error: BaseException) -> Cause:
        """The cause of an exception: INFRASTRUCTURE unless it is out of memory, a mistake in the code, or the end of
        this process's use of the device.
        """
        if breaks_the_process(error):
            return Cause.WORKER_LOST
        cause = cause_of(error)
        return cause if cause is not Cause.REFUSED or isinstance(error, _MISTAKES) else Cause.INFRASTRUCTURE


class _Watch:
    """A work queue that keeps track of the open jobs and stops those whose time limit has passed."""

    def __init__(self, queue: WorkQueue, first: Job) -> None:
        self._queue = queue
        self.open: dict[str, Job] = {}
        self._taken_at: dict[str, float] = {}
        self._overdue: set[str] = set()
        self._begin(first)

    def take(self, like: str) -> Job | None:
        job = self._queue.take(like)
        if job is not None:
            self._begin(job)
        return job

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        return self._in_time(key, self._queue.report(key, step, metrics))

    def decision(self, key: str) -> Decision:
        return self._in_time(key, self._queue.decision(key))

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
            with suppress(OSError):  # until then the file says USER_STOP, which is tried again
                write_result(job.folder, result)
                drop_state(job.folder)
        self._queue.finish(result)

    def tell(self, news: News) -> None:
        self._queue.tell(news)

    def _begin(self, job: Job) -> None:
        self.open[job.config.key] = job
        self._taken_at[job.config.key] = time.monotonic()
