"""Trains in this process, one run at each call of `events`: for debugging, tests and single-run machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sweeper.executors.attempt import WarmTrainer
from sweeper.executors.messages import Dropped, Event, Finished, Lost, Reported, Started
from trainers.interface import Decision, Job

WORKER = "inline"


class Inline:
    """An executor without workers. `cancel` reaches a run in training from a signal handler or another thread."""

    def __init__(self, trainer: str) -> None:
        self._trainer = WarmTrainer(trainer)
        self._waiting: deque[Job] = deque()
        self._events: list[Event] = []
        self._running: str | None = None
        self._stop_running = False

    @property
    def slots(self) -> int:
        """One: this process."""
        return 1

    def submit(self, job: Job) -> None:
        """Add the job to the line."""
        self._waiting.append(job)

    def events(self, timeout: float) -> list[Event]:
        """Train the next job, where there is one, and tell what happened; `timeout` is not needed, nothing else can.

        A KeyboardInterrupt during the run goes through; the next call then tells that the run is lost.
        """
        if not self._events and self._waiting:
            self._train(self._waiting.popleft())
        events, self._events = self._events, []
        return events

    def cancel(self, key: str | None) -> None:
        """See `Executor.cancel`."""
        if self._running is not None and key in (None, self._running):
            self._stop_running = True
        for job in [job for job in self._waiting if key in (None, job.config.key)]:
            self._waiting.remove(job)
            self._events.append(Dropped(job.config.key))

    def close(self, now: bool = False) -> None:
        """See `Executor.close`; there is nothing to end or kill, so the waiting jobs are dropped."""
        self.cancel(None)

    def _train(self, job: Job) -> None:
        key = job.config.key
        self._running, self._stop_running = key, False
        self._events.append(Started(key, WORKER))
        try:
            self._events.append(Finished(key, self._trainer.attempt(job, self._report)))
        except BaseException as error:
            self._events.append(Lost(key, WORKER, f"interrupted by {type(error).__name__}", ""))
            raise
        finally:
            self._running = None

    def _report(self, key: str, step: int, metrics: Mapping[str, float]) -> Decision:
        self._events.append(Reported(key, step, {name: float(value) for name, value in metrics.items()}))
        return Decision.STOP if self._stop_running else Decision.CONTINUE
