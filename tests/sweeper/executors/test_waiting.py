"""Jobs in, results out: what the helper promises of any executor."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from studies.records import Cause, RunResult
from sweeper.executors.base import Dropped, Event, Finished, Lost, Reported, Started
from sweeper.executors.waiting import result_of, wait_for


class Scripted:
    """An executor that tells what it is given, one list a call."""

    def __init__(self, *told: Sequence[Event]) -> None:
        self.told, self.submitted = list(told), list[str]()

    def submit(self, job: Any) -> None:
        self.submitted.append(job.config.key)

    def events(self, _timeout: float) -> Sequence[Event]:
        return self.told.pop(0)


def jobs(*keys: str) -> list[Any]:
    return [SimpleNamespace(config=SimpleNamespace(key=key)) for key in keys]


def finished(key: str) -> Finished:
    return Finished(key, RunResult(key=key, cause=Cause.FINISHED))


def test_every_job_ends_once_and_events_of_other_jobs_are_left_out() -> None:
    executor: Any = Scripted(
        [Started("a", "w"), finished("x"), Reported("a", 1, {})], [], [finished("b"), Dropped("a")]
    )
    looks, begun = list[int](), list[str]()
    ends = list(wait_for(jobs("a", "b"), executor, lambda: looks.append(1), lambda event: begun.append(event.key)))
    assert [end.key for end in ends] == ["b", "a"]
    assert (executor.submitted, begun, len(looks)) == (["a", "b"], ["a"], 3)


def test_without_jobs_nothing_is_waited_for() -> None:
    executor: Any = Scripted()
    assert list(wait_for([], executor, lambda: None)) == []


def test_each_end_has_a_result() -> None:
    lost = Lost("a", "w", Cause.WORKER_LOST, "exit code 3", log="", log_tail="")
    causes = [result_of(end).cause for end in (finished("a"), lost, Dropped("a"))]
    assert causes == [Cause.FINISHED, Cause.WORKER_LOST, Cause.USER_STOP]
