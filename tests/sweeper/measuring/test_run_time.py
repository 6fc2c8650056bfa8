"""Facts about the speed test before a study: what it waits for, what it makes of news, when it gives up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from studies.records import UNUSABLE_FACT, Cause, RunResult
from studies.spec import Study, load_study
from sweeper.executors import EXECUTORS, Executor, Workplace
from sweeper.executors.base import Cancel, Capacity, Event, Finished, Lost, Started, StopOrder, WorkerNews
from sweeper.loop.progress import Progress, Screen
from sweeper.measuring import run_time
from sweeper.measuring.run_time import NoRunTime, RunTime, TooSlow, measure_run_time
from tests.waiting import wait_until
from trainers.interface import Doing, Job, Placement, Sized, Sizing, Timing

STUDY = Study.of(load_study("quickstart", ["base.max_steps=50"]))
TWO = ("w1", "w2")


def timing(together: int, seconds: float) -> Timing:
    return Timing(Placement(together=together), seconds, 100.0)


def sized(worker: str, at: float, *, together: int = 4, alone: float = 0.02, packed: float = 0.01) -> WorkerNews:
    timings = (timing(1, alone), timing(together, packed))
    found = Sizing("cpu", Placement(together=together), timings, setup_seconds=0.3, passes=100, limit=None)
    return WorkerNews(worker, Sized("like", together, found), at)


def doing(worker: str, what: str, at: float) -> WorkerNews:
    return WorkerNews(worker, Doing(what), at)


@dataclass
class Scripted:
    """An executor that answers with rounds of events; those that are None are for the next job that was submitted."""

    rounds: Iterator[list[Event]]
    workers: tuple[str, ...] = TWO
    jobs: list[Job] = field(default_factory=list)
    at_once: list[int] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    stopped: list[StopOrder] = field(default_factory=list)

    @property
    def capacity(self) -> Capacity:
        return Capacity(dict.fromkeys(self.workers, "a core"), ahead=False)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def events(self, timeout: float) -> list[Event]:
        self.at_once.append(len(self.jobs))
        return next(self.rounds, [])

    def stop(self, order: StopOrder) -> None:
        self.stopped.append(order)

    def close(self, now: bool = False) -> None:
        self.closed.append(now)


def measured(
    pool: Scripted, monkeypatch: pytest.MonkeyPatch, folder: Path, limit: float = 0.05
) -> tuple[RunTime, list[Progress]]:
    def made(trainer: str, place: Workplace) -> Executor:
        assert (trainer, place.workers) == (STUDY.spec.trainer, 2)
        return pool

    shown: list[Progress] = []
    monkeypatch.chdir(folder)
    monkeypatch.setitem(EXECUTORS, "process", made)
    return measure_run_time(STUDY, "process", 2, limit, Screen(shown.append, lambda _: None)), shown


def test_it_waits_for_every_worker_and_takes_the_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first: list[Event] = [Started("a", "w1", 10.0), doing("w1", "reading the data", 10.0), doing("w1", "", 11.0)]
    first += [doing("w1", "reference log-probs: 200 answers", 11.0), doing("w1", "", 13.0), Started("b", "w2", 10.0)]
    second: list[Event] = [doing("w2", "measuring the untrained model", 11.0), doing("w2", "", 15.0)]
    pool = Scripted(iter([first, [sized("w1", 20.0)], second, [sized("w2", 21.0, packed=0.03)]]))
    found, shown = measured(pool, monkeypatch, tmp_path, limit=60.0)
    assert [progress.done for progress in shown] == [0, 1, 1], "workers that were timed"
    assert shown[0].what == "workers timed"
    assert found.workers == 2
    assert found.setup == pytest.approx(0.3)
    assert found.step_alone == pytest.approx(100 / 50 * 0.02), "two micro-batches a step"
    assert found.step == pytest.approx(100 / 50 * 0.02)
    assert found.measuring == pytest.approx(4.0)
    assert found.draw == pytest.approx(1.0 + 2.0 + 4.0)
    assert pool.closed == [True], "workers are killed, as nothing of them is kept"
    assert not list(tmp_path.iterdir())


def test_what_a_worker_does_once_is_not_counted_for_every_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first: list[Event] = [Started("a", "w1", 0.0), doing("w1", "loading the model", 0.0)]
    first += [doing("w1", "reading the data", 20.0), doing("w1", "reference log-probs: 9 answers", 25.0)]
    alone = Sizing("cpu", Placement(together=1), (timing(1, 0.02),), setup_seconds=31.0, passes=100, limit=None)
    pool = Scripted(iter([[*first, doing("w1", "", 30.0), WorkerNews("w1", Sized("like", 1, alone), 40.0)]]))
    found, _ = measured(pool, monkeypatch, tmp_path, limit=60.0)
    assert found.setup == pytest.approx(1.0), "20 s to load, and 5 and 5 for the draw, are told apart"
    assert found.draw == pytest.approx(10.0)


def test_workers_are_kept_busy_with_runs_of_different_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[Event] = [Started("a", "w1", 0.0), WorkerNews("w1", Sized("like", 64, None), 1.0)]
    pool = Scripted(iter([begun, [], [sized("w1", 2.0)]]))
    measured(pool, monkeypatch, tmp_path, limit=60.0)
    assert pool.at_once[:2] == [2, 128], "as many as train together on each"
    assert len({job.config.key for job in pool.jobs}) == 128
    assert {job.placement.begin for job in pool.jobs} == {0}, "the best size is looked for"


def ended(key: str, **more: object) -> Finished:
    return Finished(key, RunResult.model_validate({"key": key, "cause": Cause.FINISHED, **more}), 0.0)


def test_runs_that_end_at_once_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_time, "_STEADY_SECONDS", 0.0)
    clock = iter([0.0, 30.0, 30.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock, 30.0))
    events: list[Event] = [Started(key, "w1", 10.0) for key in "abc"]
    found, _ = measured(Scripted(iter([[*events, ended("a"), ended("b")]])), monkeypatch, tmp_path, limit=60.0)
    assert found.of_run(50, 1, runs=100) == pytest.approx(20 / 2.5), "what trains is half done"


def test_it_gives_up_where_no_run_comes_to_its_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = Scripted(iter([[Started("a", "w1", 0.0), doing("w1", "loading the model", 0.0)]]))
    with pytest.raises(TooSlow, match=r"no run came to enough steps to time them, only to: loading the model"):
        measured(pool, monkeypatch, tmp_path)
    assert pool.closed == [True]


def test_what_trains_in_this_process_is_stopped_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such an executor answers once its runs have ended, however long they take."""

    class Blocked(Scripted):
        def events(self, timeout: float) -> list[Event]:
            wait_until(lambda: self.stopped, "nobody stops it")
            return [Started("a", "w1", 0.0), ended("a", cause=Cause.USER_STOP)]

    pool = Blocked(iter([]))
    with pytest.raises(TooSlow):
        measured(pool, monkeypatch, tmp_path)
    assert pool.stopped == [Cancel()]


@pytest.mark.parametrize(
    "events",
    [
        [ended("a", cause=Cause.REFUSED, message="no such layer", facts={UNUSABLE_FACT: "model"})],
        [Lost(key, "w1", Cause.WORKER_LOST, "no such layer", "", "") for key in "abc"],
    ],
    ids=["refused", "lost again and again"],
)
def test_runs_that_cannot_be_trained_end_it(
    events: Iterable[Event], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool = Scripted(iter([[Started(key, "w1", 0.0) for key in "abc"], list(events)]))
    with pytest.raises(NoRunTime, match="no such layer"):
        measured(pool, monkeypatch, tmp_path, limit=60.0)
    assert pool.closed == [True]


@pytest.mark.slow
def test_real_workers_tell_what_runs_take_and_leave_nothing(tmp_path: Path) -> None:
    found = measure_run_time(STUDY, "process", 2, 300.0, Screen(lambda _: None, lambda _: None))
    assert found.workers == 2
    assert 0 < found.step <= 1.5 * found.step_alone, "a pack is not slower"
    assert 0 < found.measuring < found.draw
    assert not list(tmp_path.iterdir())
