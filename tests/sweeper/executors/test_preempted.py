"""A worker that is told to go keeps what it trains, and a run that is told to stop is kept, both at the next step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from studies.records import Cause, RunConfig
from sweeper.executors import Cancel, Event, Executor, Finished, Lost, Process, Reported, Started
from tests.trainers.pack_runs import config
from tests.waiting import PATIENCE, wait_until
from trainers.interface import Job, Placement, pack_key
from trainers.run_folder.results import CHECKPOINTS, STATE_FILE, read_result

MakeJob = Callable[..., Job]
UntilEnded = Callable[[Executor, int], list[Event]]
LONG = 4000  # steps, which would take minutes; a point of the curve every 166 of them


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(trainer: str) -> Process:
        made.append(Process(trainer, 1, tmp_path / "logs"))
        return made[-1]

    yield make
    for executor in made:
        executor.close(now=True)


def worker() -> psutil.Process:
    """The one worker of this process."""
    (found,) = [p for p in psutil.Process().children() if "sweeper.executors.process.worker" in p.cmdline()]
    return found


def wait_for_note(job: Job) -> None:
    wait_until(lambda: list(job.folder.glob("process-*")), "the job has not been started")


def test_a_run_whose_worker_is_told_to_go_is_pre_empted_and_the_next_job_gets_another_worker(
    start: Callable[..., Process], make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, told, after = start("executor_trainers:Obedient"), make_job("until stopped"), make_job("finish")
    executor.submit(told)
    wait_for_note(told)
    executor.submit(after)
    first = worker()
    first.send_signal(signal.SIGTERM)
    ended = [event for event in until_ended(executor, 2) if isinstance(event, Finished)]
    assert [event.result.cause for event in ended] == [Cause.PREEMPTED, Cause.FINISHED]
    assert "told to go by SIGTERM" in ended[0].result.message
    assert ended[1].result.facts["process"] != first.pid


def test_an_idle_worker_and_one_told_twice_go_at_once(
    start: Callable[..., Process], make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor = start("executor_trainers:Obedient")
    executor.submit(make_job("finish"))
    until_ended(executor, 1)
    time.sleep(0.3)
    idle = worker()
    idle.send_signal(signal.SIGTERM)
    idle.wait(PATIENCE)
    stuck = make_job("sleep")
    executor.submit(stuck)
    wait_for_note(stuck)
    told = worker()

    def tell() -> bool:
        """Once more, since two signals that come together are one."""
        with suppress(psutil.NoSuchProcess):
            told.send_signal(signal.SIGTERM)
        return not told.is_running()

    wait_until(tell, "the worker has not gone")
    (lost,) = [event for event in until_ended(executor, 1) if isinstance(event, Lost)]
    assert (lost.cause, lost.reason) == (Cause.PREEMPTED, "the worker was told to go by SIGTERM")


@pytest.mark.slow
def test_a_worker_told_to_go_in_the_middle_of_a_long_step_goes_all_the_same(
    start: Callable[..., Process], make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, stuck = start("executor_trainers:Obedient"), make_job("sleep")
    executor.submit(stuck)
    wait_for_note(stuck)
    worker().send_signal(signal.SIGTERM)
    (lost,) = [event for event in until_ended(executor, 1) if isinstance(event, Lost)]
    assert lost.cause is Cause.PREEMPTED
    assert "did not come to the end of a step in time" in lost.reason


def until(executor: Process, count: int, kind: type[Event]) -> list[Event]:
    """All events until so many of a kind have come; a worker loads torch first."""
    deadline, seen = time.monotonic() + PATIENCE, list[Event]()
    while sum(isinstance(event, kind) for event in seen) < count:
        assert time.monotonic() < deadline, seen
        seen += executor.events(0.5)
    return seen


def ends(executor: Process, count: int) -> dict[str, Finished]:
    return {event.key: event for event in until(executor, count, Finished) if isinstance(event, Finished)}


def kept_step(job: Job, alone: bool) -> bool:
    """Whether there is something to go on from."""
    return any((job.folder / CHECKPOINTS).glob("*")) if alone else (job.folder / STATE_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "together"),
    [
        ([config(max_steps=LONG, use_peft=False, learning_rate=1e-6)], 0),
        ([config(max_steps=LONG, beta=beta, learning_rate=1e-6) for beta in (0.1, 0.2)], 2),
    ],
    ids=["alone", "packed"],
)
def test_what_is_told_to_go_or_to_stop_goes_on_from_the_step_that_it_was_at(
    start: Callable[..., Process], tmp_path: Path, runs: list[RunConfig], together: int
) -> None:
    """Pre-empted, begun again by itself, stopped as `sweeper stop --now` does, and begun again."""
    assert len({pack_key(run) for run in runs}) == 1
    jobs = [Job(run, tmp_path / run.key, placement=Placement(together=together)) for run in runs]
    executor = start("dpo")
    at = {job.config.key: 0 for job in jobs}
    for cause in (Cause.PREEMPTED, Cause.USER_STOP, None):
        for job in jobs:
            executor.submit(job)
        seen = until(executor, len(jobs) + 1, Reported)
        first = {event.key: event.step for event in reversed(seen) if isinstance(event, Reported)}
        assert all(at[key] < step <= at[key] + LONG // 24 + 1 for key, step in first.items()), "it began anew"
        if cause is None:
            return
        if cause is Cause.PREEMPTED:
            os.kill(worker().pid, signal.SIGTERM)
        else:
            executor.stop(Cancel())
        found = ends(executor, len(jobs))
        for job in jobs:
            result = found[job.config.key].result
            assert (result.cause, kept_step(job, alone=together == 0)) == (cause, True), result
            assert read_result(job.folder).cause is Cause.USER_STOP, "which the next sweep goes on from"
            at[result.key] = int(result.facts["steps"])
        assert not any(isinstance(event, Started) for event in executor.events(0))
