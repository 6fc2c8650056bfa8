"""Wraps an executor so that somebody else sees its events too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from studies.records import RunConfig
from sweeper.executors.base import (
    Capacity,
    Dropped,
    Event,
    Executor,
    Finished,
    Lost,
    StopOrder,
    WorkerNews,
    WorkerState,
)
from trainers.interface import Job


class Watched:
    """See `Executor`. `see` is called with each event and the config of its run. Jobs with a trainer of their own are
    no runs.
    """

    def __init__(self, executor: Executor, see: Callable[[Event, RunConfig | None], None]) -> None:
        self._executor, self._see = executor, see
        self._configs: dict[str, RunConfig] = {}
        self._aside: set[str] = set()
        self._unread: list[Event] = []

    @property
    def capacity(self) -> Capacity:
        """See `Executor.capacity`."""
        return self._executor.capacity

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        if job.trainer is None:
            self._configs[job.config.key] = job.config
        else:
            self._aside.add(job.config.key)
        self._executor.submit(job)

    def events(self, timeout: float) -> list[Event]:
        """See `Executor.events`."""
        found, self._unread = self._unread, []
        return found or self._seen(timeout)

    def stop(self, order: StopOrder) -> None:
        """See `Executor.stop`."""
        self._executor.stop(order)

    def close(self, now: bool = False) -> None:
        """See `Executor.close`. Events up to then are seen too, even where the sweep never reads them."""
        self._executor.close(now)
        with suppress(RuntimeError):
            self._unread += self._seen(0.0)

    def _seen(self, timeout: float) -> list[Event]:
        found = self._executor.events(timeout)
        for event in found:
            key = "" if isinstance(event, WorkerNews | WorkerState) else event.key
            over = isinstance(event, Finished | Lost | Dropped)
            if key in self._aside:
                continue
            self._see(event, self._configs.pop(key, None) if over else self._configs.get(key))
        return found
