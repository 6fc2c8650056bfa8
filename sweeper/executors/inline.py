"""Trains in this process, at each call of `events` one run or one pack: for debugging, tests, single-run machines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from studies.records import Cause, RunResult
from sweeper.executors.attempt import WarmTrainer
from sweeper.executors.base import Dropped, Event, Finished, Lost, Reported, Started, Told
from trainers.interface import Decision, Job, News, pack_key

WORKER = "inline"


class Inline:
    """An executor without workers. `cancel` reaches a run in training from a signal handler or another thread."""

    def __init__(self, trainer: str, together: int = 1) -> None:
        self._trainer = WarmTrainer(trainer)
        self.together = together
        self._used = True
        self._waiting: deque[Job] = deque()
        self._events: list[Event] = []
        self._running: set[str] = set()
        self._stopped: set[str] = set()

    @property
    def slots(self) -> int:
        """As many as train together in this process; none once it is set aside."""
        return max(1, self.together) if self._used else 0

    @property
    def ahead(self) -> int:
        """None: nothing is recorded while this process trains."""
        return 0

    def submit(self, job: Job) -> None:
        """Add the job to the line."""
        self._waiting.append(job)

    def events(self, timeout: float) -> list[Event]:
        """Train the next job and what is taken beside it, and tell what happened; wait where there is nothing to do.

        A KeyboardInterrupt during the run goes through; the next call then tells that the runs are lost.
        """
        if not self._events and self._waiting:
            self._train(self._waiting.popleft())
        elif not self._events:
            time.sleep(timeout)
        events, self._events = self._events, []
        return events

    def cancel(self, key: str | None) -> None:
        """See `Executor.cancel`."""
        self._stopped |= {running for running in self._running if key in (None, running)}
        for job in [job for job in self._waiting if key in (None, job.config.key)]:
            self._waiting.remove(job)
            self._events.append(Dropped(job.config.key))

    def hold_back(self) -> None:
        """See `Executor.hold_back`."""
        self._events += [Dropped(job.config.key) for job in self._waiting]
        self._waiting.clear()

    def kill(self, key: str, cause: Cause) -> None:
        """Does nothing: a run in this process ends by itself, or with the process."""

    def set_aside(self, worker: str) -> str:
        """See `Executor.set_aside`."""
        self._used = False
        self.hold_back()
        return "this process"

    def close(self, now: bool = False) -> None:
        """See `Executor.close`; there is nothing to end or kill, so the waiting jobs are dropped."""
        self.cancel(None)

    def take(self, like: str) -> Job | None:
        """See `WorkQueue.take`."""
        fits = [job for job in self._waiting if len(self._running) < job.placement.together]
        job = next((job for job in fits if pack_key(job.config) == like), None)
        if job is not None:
            self._waiting.remove(job)
            self._begin(job)
        return job

    def report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        """See `WorkQueue.report`."""
        self._events.append(Reported(key, step, {name: float(value) for name, value in metrics.items()}))
        return self.decision(key)

    def decision(self, key: str) -> Decision:
        """See `WorkQueue.decision`."""
        return Decision.STOP if key in self._stopped else Decision.CONTINUE

    def finish(self, result: RunResult) -> None:
        """See `WorkQueue.finish`."""
        self._running.discard(result.key)
        self._stopped.discard(result.key)
        self._events.append(Finished(result.key, result))

    def tell(self, news: News) -> None:
        """See `WorkQueue.tell`."""
        self._events.append(Told(WORKER, news))

    def _train(self, job: Job) -> None:
        self._begin(job)
        try:
            self._trainer.attempt(job, self)
        except BaseException as error:
            for key in self._running:
                reason = f"interrupted by {type(error).__name__}"
                self._events.append(Lost(key, WORKER, Cause.WORKER_LOST, reason, "", ""))
            self._running, self._stopped = set(), set()
            raise

    def _begin(self, job: Job) -> None:
        self._running.add(job.config.key)
        self._stopped.discard(job.config.key)
        self._events.append(Started(job.config.key, WORKER))
