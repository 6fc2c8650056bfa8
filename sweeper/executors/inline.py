"""Trains in this process, one run or one pack per call of `events`: for debugging, tests and single-run machines."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping

from studies.records import Cause, RunResult
from sweeper.executors.attempt import WarmTrainer
from sweeper.executors.base import (
    Cancel,
    Capacity,
    Dropped,
    DropWaiting,
    Event,
    Finished,
    Kill,
    Lost,
    Reported,
    SetAside,
    Started,
    StopOrder,
    WorkerNews,
)
from sweeper.executors.process.devices import of_gpu, visible_gpus
from trainers.interface import Decision, Job, News, pack_key

WORKER = "inline"


class Inline:
    """An executor without worker processes. `Cancel` reaches a run in training from a signal handler or a thread."""

    def __init__(self, trainer: str) -> None:
        gpus = visible_gpus(os.environ)
        if len(gpus) > 1:  # else a base would be spread over all of them, as workers are given one each
            os.environ.update(of_gpu(gpus[0], os.environ))
        self._trainer = WarmTrainer(trainer)
        self._used = True
        self._waiting: deque[Job] = deque()
        self._events: list[Event] = []
        self._running: set[str] = set()
        self._stopped: set[str] = set()

    @property
    def capacity(self) -> Capacity:
        """See `Executor.capacity`. Nothing is recorded while this process trains, so no job lies ready."""
        return Capacity({WORKER: "this process"} if self._used else {}, ahead=False)

    def submit(self, job: Job) -> None:
        """Queue the job."""
        self._waiting.append(job)

    def events(self, timeout: float) -> list[Event]:
        """Train the next job and what joins its pack, and return the events; wait where no job is queued.

        A KeyboardInterrupt during the run goes through; the next call then reports the runs as lost. Raises
        RuntimeError for another run where an earlier one has left the device unusable for this process.
        """
        if not self._events and self._waiting and self._trainer.broken:
            raise RuntimeError(
                f"this process can compute nothing on its device any more ({self._trainer.broken}): give the same "
                "command again, which goes on in a new process, or leave out --executor inline"
            )
        if not self._events and self._waiting:
            self._train(self._waiting.popleft())
        elif not self._events:
            time.sleep(timeout)
        events, self._events = self._events, []
        return events

    def stop(self, order: StopOrder) -> None:
        """See `Executor.stop`. `Kill` is ignored: a run in this process ends by itself, or with the process."""
        match order:
            case Cancel(key):
                self._stopped |= {running for running in self._running if key in (None, running)}
                self._drop(key)
            case SetAside():
                self._used = False
                self._drop(None)
            case DropWaiting():
                self._drop(None)
            case Kill():
                pass

    def close(self, now: bool = False) -> None:
        """See `Executor.close`; there is nothing to end or kill, so the waiting jobs are dropped."""
        self.stop(Cancel())

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
        self._events.append(WorkerNews(WORKER, news))

    def _drop(self, key: str | None) -> None:
        for job in [job for job in self._waiting if key in (None, job.config.key)]:
            self._waiting.remove(job)
            self._events.append(Dropped(job.config.key))

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
