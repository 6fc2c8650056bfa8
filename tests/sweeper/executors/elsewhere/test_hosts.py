"""Workers on hosts that come by themselves: real agents and workers, each a process of this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from studies.records import Cause
from sweeper.executors import Finished, Kill, Lost, Started, WorkerState
from tests.waiting import PATIENCE, wait_until
from trainers.interface import Job

MakeJob = Callable[..., Job]
MakeElsewhere = Callable[..., Any]
pytestmark = pytest.mark.slow


def process_of(job: Job) -> int:
    """The process that trains the job, once it is in the middle of it."""
    wait_until(lambda: list(job.folder.glob("process-*")), "the job has not been started")
    return int(next(job.folder.glob("process-*")).name.removeprefix("process-"))


def test_workers_that_are_waited_for_are_told_and_take_jobs_when_a_host_comes(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one, jobs = make_elsewhere("hosts", 2), [make_job("sleep", seed) for seed in range(2)]
    for job in jobs:
        one.executor.submit(job)
    one.until(lambda: sum(state.state == "waiting" for state in one.of(WorkerState)) == 2, "nobody is told")
    assert "no host has room for it yet" in one.of(WorkerState)[-1].place
    one.start_agent(1)
    one.until(lambda: one.of(Started), "no host has come")
    one.start_agent(1)
    one.until(lambda: len(one.of(Started)) == 2, "one host alone has come")
    assert {started.worker for started in one.of(Started)} == {"worker-0", "worker-1"}


@pytest.mark.parametrize(
    ("act", "reason"),
    [("SIGKILL", "killed by SIGKILL"), ("SIGSEGV", "killed by SIGSEGV"), ("_exit", "exited with code 3")],
)
def test_how_a_worker_on_a_host_has_died_is_known(
    make_elsewhere: MakeElsewhere, make_job: MakeJob, act: str, reason: str
) -> None:
    one, killed, after = make_elsewhere("hosts"), make_job(act), make_job("finish")
    one.start_agent()
    for job in (killed, after):
        one.executor.submit(job)
    one.until(lambda: one.of(Finished), "the next run is not trained")
    (lost,) = one.of(Lost)
    assert reason in lost.reason
    assert lost.log_tail


def test_a_worker_on_a_host_that_holds_the_lock_is_killed(make_elsewhere: MakeElsewhere, make_job: MakeJob) -> None:
    one, stuck = make_elsewhere("hosts"), make_job("hold the lock")
    one.start_agent()
    one.executor.submit(stuck)
    process = process_of(stuck)
    one.executor.stop(Kill(stuck.config.key, Cause.TIME_LIMIT))
    one.until(lambda: one.of(Lost), "it lives")
    assert one.of(Lost)[0].cause is Cause.TIME_LIMIT
    wait_until(lambda: not psutil.pid_exists(process), "its process lives on")


def test_a_host_that_is_told_to_go_hands_its_runs_back_and_another_goes_on(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one, job = make_elsewhere("hosts"), make_job("until stopped")
    agent = one.start_agent()
    one.executor.submit(job)
    process_of(job)
    agent.send_signal(signal.SIGTERM)
    one.until(lambda: one.of(Finished), "it has not gone")
    assert one.of(Finished)[0].result.cause is Cause.PREEMPTED
    assert agent.wait() == 0
    after = make_job("finish")
    one.executor.submit(after)
    one.until(lambda: one.of(WorkerState)[-1].state == "waiting", "a host that goes is asked again")
    one.start_agent()
    one.until(lambda: len(one.of(Finished)) == 2, "no other host goes on")


def test_a_host_without_a_run_goes_at_once_also_while_no_sweep_is_there(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one = make_elsewhere("hosts")
    agent = one.start_agent()
    assert agent.stdout is not None
    assert "Connected to the sweep" in agent.stdout.readline()
    one.executor.close()
    time.sleep(1.0)  # it dials again
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE) == 0


@pytest.mark.parametrize("who", ["host", "sweep"])
def test_no_worker_outlives_its_host_or_its_sweep(make_elsewhere: MakeElsewhere, make_job: MakeJob, who: str) -> None:
    one, job = make_elsewhere("hosts"), make_job("hold the lock")
    agent = one.start_agent()
    one.executor.submit(job)
    process = process_of(job)
    if who == "host":
        agent.kill()
        one.until(lambda: one.of(Lost), "nobody notices")
    else:
        one.executor.close(now=True)
    wait_until(lambda: not psutil.pid_exists(process), "its process lives on")


def test_a_host_serves_the_next_executor_too_and_ends_when_there_is_none(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    """As a sweep measures finished runs before it trains others, with an executor each, at one address."""
    first = make_elsewhere("hosts")
    agent = first.start_agent()
    first.executor.submit(make_job("finish", 1))
    first.until(lambda: first.of(Finished), "the first is not served")
    address = first.said[0].split("--connect ")[1].split()[0]
    first.executor.close()
    second = make_elsewhere("hosts", address=address)
    second.executor.submit(make_job("finish", 2))
    second.until(lambda: second.of(Finished), "the second is not served")
    assert agent.poll() is None


def test_a_worker_ends_when_another_attempt_at_its_run_has_begun(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one, job = make_elsewhere("hosts"), make_job("until stopped")
    one.start_agent()
    one.executor.submit(job)
    process_of(job)
    assert (job.folder / "attempt").read_text().startswith("1 ")
    (job.folder / "attempt").write_text("2 of somebody else\n")
    one.until(lambda: one.of(Lost), "it goes on")
    assert "Another attempt at run" in one.of(Lost)[0].log_tail


def test_a_host_without_the_folder_is_refused_on_both_sides(
    make_elsewhere: MakeElsewhere, make_job: MakeJob, tmp_path: Path
) -> None:
    one = make_elsewhere("hosts")
    mark = tmp_path / "logs" / "door.mark"
    mark.write_text("of another folder with the same name")
    agent = one.start_agent()
    output, _ = agent.communicate()
    assert agent.returncode == 2
    assert "does not see the folder" in output
    assert "mount the file system of the runs on both machines" in output
    one.until(lambda: one.of(WorkerState), "the sweep says nothing")
    assert "does not see the folder" in one.of(WorkerState)[0].why


def test_relative_paths_of_a_study_begin_where_the_sweep_was_started(
    make_elsewhere: MakeElsewhere, make_job: MakeJob
) -> None:
    one = make_elsewhere("hosts")
    one.start_agent()  # in another folder
    one.executor.submit(make_job("finish"))
    one.until(lambda: one.of(Finished), "it does not end")
    assert one.of(Finished)[0].result.facts["folder"] == str(Path.cwd())


def test_the_key_is_not_among_the_words_of_any_process(
    make_elsewhere: MakeElsewhere, make_job: MakeJob, tmp_path: Path
) -> None:
    one, job = make_elsewhere("hosts"), make_job("sleep")
    agent = one.start_agent()
    one.executor.submit(job)
    worker = psutil.Process(process_of(job))
    key = (tmp_path / "logs" / "door.key").read_text()
    for process in (psutil.Process(agent.pid), worker):
        assert key not in " ".join(process.cmdline())
    assert os.stat(tmp_path / "logs" / "door.key").st_mode & 0o077 == 0


def test_a_worker_that_a_host_cannot_start_takes_no_other_with_it(
    make_elsewhere: MakeElsewhere, make_job: MakeJob, tmp_path: Path
) -> None:
    (tmp_path / "logs" / "worker-1.log").mkdir(parents=True)  # as where a disk is full
    one, jobs = make_elsewhere("hosts", 2), [make_job("until stopped", seed) for seed in range(2)]
    one.start_agent(2)
    one.executor.submit(jobs[0])
    process = process_of(jobs[0])
    one.executor.submit(jobs[1])
    one.until(lambda: [state for state in one.of(WorkerState) if state.state == "gone"], "nobody is told")
    (gone,) = [state for state in one.of(WorkerState) if state.state == "gone"]
    assert "cannot start a worker: " in gone.why
    assert not one.of(Lost)
    assert psutil.pid_exists(process)
