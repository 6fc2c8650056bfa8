"""Waits for jobs: hands them to an executor and yields how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from studies.records import Cause, RunResult
from sweeper.executors.base import Dropped, Executor, Finished, Lost, Started
from trainers.interface import Job

LOOK_SECONDS = 1.0  # between two calls of `look`

Ending = Finished | Lost | Dropped


def wait_for(
    jobs: Sequence[Job],
    executor: Executor,
    look: Callable[[], None],
    begun: Callable[[Started], None] = lambda _: None,
) -> Iterator[Ending]:
    """Submit jobs of different keys and yield the end of each as it comes.

    `look` is called at least every second, `begun` when a worker takes a job.
    """
    waiting = {job.config.key for job in jobs}
    for job in jobs:
        executor.submit(job)
    while waiting:
        look()
        for event in executor.events(LOOK_SECONDS):
            if isinstance(event, Started) and event.key in waiting:
                begun(event)
            elif isinstance(event, Finished | Lost | Dropped) and event.key in waiting:
                waiting.discard(event.key)
                yield event


def result_of(ending: Ending) -> RunResult:
    """The result of a job; USER_STOP where no worker took it."""
    match ending:
        case Finished(result=result):
            return result
        case Lost():
            return ending.result()
        case Dropped(key=key):
            return RunResult(key=key, cause=Cause.USER_STOP)
