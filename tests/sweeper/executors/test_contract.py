"""What every executor does: one suite over all of them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studies.records import Cause, RunResult
from studies.spec import SlurmJobs
from sweeper.executors import (
    EXECUTORS,
    Cancel,
    Capacity,
    Dropped,
    DropWaiting,
    Event,
    Executor,
    Finished,
    Reported,
    SetAside,
    Started,
    WorkerNews,
    Workplace,
)
from trainers.interface import Doing, Job, Placement, Sized, Sizing
from trainers.run_folder.results import read_result

OBEDIENT = "executor_trainers:Obedient"

MakeExecutor = Callable[..., Executor]
MakeJob = Callable[..., Job]
UntilEnded = Callable[[Executor, int], list[Event]]


SLOW = pytest.mark.slow


@pytest.fixture(params=["process", "inline", pytest.param("hosts", marks=SLOW), pytest.param("slurm", marks=SLOW)])
def make_executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeExecutor]:
    """Executors of each kind; on hosts with one agent, and with Slurm on two real nodes."""
    if request.param == "slurm":
        request.getfixturevalue("slurm")
    made: list[Executor] = []
    agents: list[subprocess.Popen[bytes]] = []

    def make(trainer: str = OBEDIENT, workers: int = 1) -> Executor:
        said = list[str]()
        place = Workplace(workers, tmp_path / "logs", slurm=SlurmJobs(cpus=1), address="127.0.0.1", say=said.append)
        executor = EXECUTORS[request.param](trainer, place)
        made.append(executor)
        if request.param == "hosts":
            agents.append(start_agent(said[0], workers))
        return executor

    yield make
    for agent in agents:
        agent.terminate()
    for executor in made:
        executor.close(now=True)
    for agent in agents:
        agent.wait()


def start_agent(said: str, workers: int) -> subprocess.Popen[bytes]:
    """Do on this machine what the sweep has said to do on others."""
    words = shlex.split(said[said.index("sweeper worker") :])
    command = [sys.executable, "-m", *words, "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def test_every_executor_is_held_to_this() -> None:
    assert set(EXECUTORS) == {"process", "inline", "hosts", "slurm"}


def results(events: list[Event]) -> dict[str, RunResult]:
    return {event.key: event.result for event in events if isinstance(event, Finished)}


def cancel_once_begun(executor: Executor, job: Job, key: str | None) -> None:
    """Cancel a run, or all, as soon as `job` is in training, which a busy machine may take seconds to come to."""

    def wait() -> None:
        while not job.folder.exists():
            time.sleep(0.01)
        executor.stop(Cancel(key))

    threading.Thread(target=wait, daemon=True).start()


def test_a_run_is_started_reported_and_finished_in_this_order(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_executor(), make_job("finish")
    executor.submit(job)
    started, reported, finished = until_ended(executor, 1)
    assert isinstance(started, Started)
    assert reported == Reported(job.config.key, 1, {"loss": 0.5})
    assert isinstance(finished, Finished)
    assert finished.key == job.config.key
    assert finished.result == read_result(job.folder)
    assert executor.events(0) == []


def test_news_of_a_worker_come_whole_and_in_order(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_executor(), make_job("tell")
    executor.submit(job)
    started, *told, finished = until_ended(executor, 1)
    assert isinstance(started, Started)
    sizing = Sizing("cpu", Placement(together=4), (), 0.1, 6, None)
    assert told == [WorkerNews(started.worker, news) for news in (Doing("loading the model"), Sized("like", 4, sizing))]
    assert isinstance(finished, Finished)


def test_many_jobs_all_end_with_their_own_result(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor = make_executor(workers=2)
    jobs = [make_job("finish", seed) for seed in range(40)]
    for job in jobs:
        executor.submit(job)
    found = results(until_ended(executor, 40))
    assert set(found) == {job.config.key for job in jobs}
    assert all(found[job.config.key] == read_result(job.folder) for job in jobs)


def test_a_diverged_run_is_a_result(make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded) -> None:
    executor, job = make_executor(), make_job("diverge")
    executor.submit(job)
    assert results(until_ended(executor, 1))[job.config.key].cause is Cause.NON_FINITE


@pytest.mark.parametrize(
    ("act", "message"), [("raise", "OSError: the disk is full"), ("exit", "SystemExit: no device")]
)
def test_what_a_trainer_raises_is_an_infrastructure_result_and_the_next_run_is_trained(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded, act: str, message: str
) -> None:
    executor, bad, good = make_executor(), make_job(act), make_job("finish")
    executor.submit(bad)
    executor.submit(good)
    found = results(until_ended(executor, 2))
    assert found[bad.config.key].cause is Cause.INFRASTRUCTURE
    assert found[bad.config.key].message == message
    assert found[good.config.key].cause is Cause.FINISHED
    assert read_result(bad.folder) is None


@pytest.mark.parametrize(
    ("trainer", "cause", "message"),
    [
        ("executor_trainers:Unloadable", Cause.INFRASTRUCTURE, "OSError: no device"),
        ("executor_trainers:Missing", Cause.REFUSED, "has no attribute 'Missing'"),
        ("nobody", Cause.REFUSED, "KeyError: 'nobody'"),
        ("no_such_package:Trainer", Cause.REFUSED, "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_trainer_that_cannot_be_loaded_is_told_of_each_run_and_one_that_is_not_there_is_refused(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded, trainer: str, cause: Cause, message: str
) -> None:
    executor = make_executor(trainer)
    for seed in range(2):
        executor.submit(make_job("finish", seed))
    found = results(until_ended(executor, 2))
    assert [result.cause for result in found.values()] == [cause] * 2
    assert all(message in result.message for result in found.values())
    assert all(("unusable" in result.facts) == (cause is Cause.REFUSED) for result in found.values())


def test_successive_runs_meet_the_same_trainer_object(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor = make_executor()
    for act in ("finish", "raise", "diverge"):
        executor.submit(make_job(act))
    found = results(until_ended(executor, 3)).values()
    objects = [(r.facts["process"], r.facts["trainer_object"]) for r in found if "process" in r.facts]
    assert len(objects) == 2
    assert len(set(objects)) == 1


def test_a_run_in_training_stops_at_its_next_report_and_the_others_go_on(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, endless, other = make_executor(), make_job("until stopped"), make_job("finish")
    executor.submit(endless)
    executor.submit(other)
    cancel_once_begun(executor, endless, endless.config.key)
    found = results(until_ended(executor, 2))
    assert found[endless.config.key].cause is Cause.USER_STOP
    assert found[other.config.key].cause is Cause.FINISHED


def test_cancelling_all_stops_the_run_in_training_and_drops_those_that_wait(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, endless, waiting = make_executor(), make_job("until stopped"), make_job("finish")
    executor.submit(endless)
    executor.submit(waiting)
    cancel_once_begun(executor, endless, None)
    events = until_ended(executor, 2)
    assert results(events)[endless.config.key].cause is Cause.USER_STOP
    assert Dropped(waiting.config.key) in events
    assert not waiting.folder.exists()


def test_a_cancelled_run_can_be_submitted_again(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_executor(), make_job("until stopped")
    executor.submit(job)
    cancel_once_begun(executor, job, job.config.key)
    until_ended(executor, 1)
    executor.stop(Cancel(job.config.key))  # too late: it has ended
    executor.submit(job)
    started = time.monotonic()
    threading.Timer(0.5, executor.stop, [Cancel(job.config.key)]).start()
    assert results(until_ended(executor, 1))[job.config.key].cause is Cause.USER_STOP
    assert time.monotonic() - started >= 0.5


def test_cancelling_an_unknown_run_changes_nothing(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_executor(), make_job("finish")
    executor.submit(job)
    executor.stop(Cancel("000000000000"))
    assert results(until_ended(executor, 1))[job.config.key].cause is Cause.FINISHED


def test_a_flood_of_reports_loses_no_finish(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_executor(), make_job("flood")
    executor.submit(job)
    events = until_ended(executor, 1)
    steps = [event.step for event in events if isinstance(event, Reported)]
    assert steps == sorted(set(steps))
    assert results(events)[job.config.key].cause is Cause.FINISHED


def test_closing_tells_how_waiting_jobs_ended_and_may_be_done_twice(
    make_executor: MakeExecutor, make_job: MakeJob
) -> None:
    executor = make_executor()
    jobs = [make_job("until stopped", seed) for seed in range(3)]
    for job in jobs:
        executor.submit(job)
    executor.close()
    ended = [event for event in executor.events(0) if isinstance(event, Finished | Dropped)]
    assert {event.key for event in ended} == {job.config.key for job in jobs}
    executor.close()
    executor.close(now=True)


def test_without_waiting_jobs_the_run_in_training_goes_on_to_its_end(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, long, waiting = make_executor(), make_job("until stopped"), make_job("finish")
    executor.submit(long)
    executor.submit(waiting)

    def drop_then_cancel() -> None:
        while not long.folder.exists():
            time.sleep(0.01)
        executor.stop(DropWaiting())
        time.sleep(0.3)
        executor.stop(Cancel(long.config.key))

    threading.Thread(target=drop_then_cancel, daemon=True).start()
    events = until_ended(executor, 2)
    assert Dropped(waiting.config.key) in events
    assert results(events)[long.config.key].cause is Cause.USER_STOP


def test_an_executor_is_five_members() -> None:
    assert {name for name in vars(Executor) if not name.startswith("_")} == {
        "capacity",
        "submit",
        "events",
        "stop",
        "close",
    }


def test_the_capacity_is_what_the_workers_train_and_jobs_that_lie_ready() -> None:
    workers = {"worker-0": "worker-0 on GPU 3", "worker-1": "worker-1 on GPU 4"}
    for ahead, jobs in ((True, (3, 6, 12)), (False, (2, 4, 8))):
        capacity = Capacity(workers, ahead)
        assert [capacity.slots(together) for together in (0, 2, 4)] == [2, 4, 8]
        assert tuple(capacity.jobs(together) for together in (0, 2, 4)) == jobs
    assert Capacity({f"worker-{i}": "" for i in range(200)}, ahead=True).jobs(2) == 420


def test_a_worker_that_is_set_aside_takes_no_more_jobs_and_without_any_those_that_wait_are_dropped(
    make_executor: MakeExecutor, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, first, waiting = make_executor(), make_job("finish"), make_job("finish", 1)
    ((worker, _),) = executor.capacity.workers.items()
    executor.submit(first)
    started, *_ = until_ended(executor, 1)
    assert isinstance(started, Started)
    assert started.worker == worker
    executor.submit(waiting)
    executor.stop(SetAside(worker))
    ((ended),) = [event for event in until_ended(executor, 1) if isinstance(event, Finished | Dropped)]
    assert ended.key == waiting.config.key
    assert executor.capacity.workers == {}
    assert executor.capacity.slots(4) == 0


def test_nothing_submitted_means_no_events(make_executor: MakeExecutor) -> None:
    assert make_executor().events(0.05) == []
