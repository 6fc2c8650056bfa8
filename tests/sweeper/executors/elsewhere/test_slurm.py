"""Workers as jobs of a real Slurm: how they end, and what goes on without them. Two nodes, GPUs that are none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from studies.records import Cause
from studies.spec import SlurmJobs
from sweeper.executors import Finished, Kill, Lost, Started, WorkerState
from sweeper.executors.elsewhere import slurm as slurm_module
from sweeper.executors.elsewhere.slurm import cause_of, job_script, sbatch_options
from tests.services.slurm import Slurm
from tests.waiting import wait_until
from trainers.interface import Job

MakeJob = Callable[..., Job]
MakeOnSlurm = Callable[..., Any]
slow = pytest.mark.slow


def process_of(job: Job) -> int:
    """The process that trains the job, once it is in the middle of it."""
    wait_until(lambda: list(job.folder.glob("process-*")), "the job has not been started")
    return int(next(job.folder.glob("process-*")).name.removeprefix("process-"))


def number_of(one: Any) -> str:
    """The number of the Slurm job of the worker that came last."""
    here = [state for state in one.of(WorkerState) if state.state == "here"]
    return re.findall(r"Slurm job (\d+) on ", here[-1].place)[0]


@pytest.mark.parametrize(
    ("told", "cause", "reason"),
    [
        ({"JobState": "PENDING"}, None, ""),
        ({"JobState": "RUNNING", "ExitCode": "0:0"}, None, ""),
        ({"JobState": "COMPLETING", "ExitCode": "0:0"}, None, ""),
        ({"JobState": "COMPLETING", "ExitCode": "0:9"}, Cause.WORKER_LOST, "killed by SIGKILL"),
        ({"JobState": "FAILED", "ExitCode": "3:0"}, Cause.WORKER_LOST, "exited with code 3"),
        ({"JobState": "FAILED", "ExitCode": "0:15"}, Cause.PREEMPTED, "told to go by SIGTERM"),
        ({"JobState": "FAILED", "ExitCode": "139:0"}, Cause.WORKER_LOST, "killed by SIGSEGV"),
        ({"JobState": "TIMEOUT", "ExitCode": "0:0"}, Cause.PREEMPTED, "time of its Slurm job was over"),
        ({"JobState": "PREEMPTED", "ExitCode": "0:15"}, Cause.PREEMPTED, "preempted"),
        ({"JobState": "CANCELLED", "ExitCode": "0:15"}, Cause.PREEMPTED, "cancelled"),
        ({"JobState": "OUT_OF_MEMORY", "ExitCode": "0:125"}, Cause.OUT_OF_HOST_MEMORY, "out of memory"),
        ({"JobState": "NODE_FAIL", "ExitCode": "0:0"}, Cause.WORKER_LOST, "lost its node"),
    ],
)
def test_why_a_job_ended_is_told_by_its_state_and_then_its_code(
    told: dict[str, str], cause: Cause | None, reason: str
) -> None:
    found = cause_of(told)
    assert (None if found is None else found[0]) is cause
    assert found is None or reason in found[1]


def test_what_a_study_asks_for_is_asked_of_sbatch() -> None:
    jobs = SlurmJobs.model_validate(
        {"partition": "gpu", "account": "us", "qos": "low", "time": "8h", "gres": "gpu:a100:1", "constraint": "a100"}
    )
    options = sbatch_options(jobs, "study-worker-3", Path("/runs/logs/worker-3.log"))
    wanted = {"--partition=gpu", "--account=us", "--qos=low", "--time=480", "--gres=gpu:a100:1", "--constraint=a100"}
    assert wanted <= set(options)
    assert {"--no-requeue", "--signal=B:TERM@60", "--job-name=study-worker-3", "--cpus-per-task=4"} <= set(options)
    assert not any(option.startswith(("--mem", "--nodelist")) for option in options)


def test_the_lines_of_setup_may_load_modules_and_wrap_the_command(tmp_path: Path) -> None:
    setup = ["export LOADED='module of mine'", 'set -- env WRAPPED=yes "$@"']
    code = "import os, sys; print(os.environ['LOADED'], os.environ['WRAPPED'], sys.argv[1:])"
    script = job_script([sys.executable, "-c", code, "a b", "$HOME"], setup)
    told = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
    assert told == "module of mine yes ['a b', '$HOME']\n"


def test_a_job_is_cancelled_again_where_the_controller_was_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[str] = []

    def call(*command: str, **_: object) -> slurm_module._Told:
        called.append(command[0])
        match command[0]:
            case "sbatch":
                return slurm_module._Told(0, "7\n")
            case "scancel" if called.count("scancel") < 4:
                return slurm_module._Told(1, "scancel: error: Unable to contact slurm controller (connect failure)")
            case "scontrol":
                state = "CANCELLED" if called.count("scancel") >= 4 else "PENDING"
                return slurm_module._Told(0, f"JobId=7 JobState={state} ExitCode=0:15")
        return slurm_module._Told(0, "7|PENDING|None")

    monkeypatch.setattr(slurm_module, "_call", call)
    monkeypatch.setattr(slurm_module, "LOOK_SECONDS", 0.2)
    launcher = slurm_module.Slurm(SlurmJobs(), "study", "here:4711")
    job = launcher.launch("worker-0", ["true"], {}, tmp_path / "worker-0.log")
    wait_until(lambda: job.number, "it is not submitted")
    job.kill()
    wait_until(lambda: job.ended, lambda: f"it stays: {called}")
    launcher.close()
    assert job.ended == (Cause.PREEMPTED, "its Slurm job was cancelled")


@slow
@pytest.mark.parametrize(
    ("act", "reason"),
    [("SIGKILL", "killed by SIGKILL"), ("SIGSEGV", "killed by SIGSEGV"), ("_exit", "exited with code 3")],
)
def test_how_a_job_has_died_is_known_and_another_takes_its_place(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob, act: str, reason: str
) -> None:
    one = make_on_slurm()
    for job in (make_job(act), make_job("finish")):
        one.executor.submit(job)
    one.until(lambda: one.of(Finished), "the next run is not trained")
    (lost,) = one.of(Lost)
    assert reason in lost.reason
    assert lost.log_tail


@slow
def test_a_job_that_holds_the_lock_is_killed_at_once(make_on_slurm: MakeOnSlurm, make_job: MakeJob) -> None:
    one, stuck = make_on_slurm(), make_job("hold the lock")
    one.executor.submit(stuck)
    process = process_of(stuck)
    one.executor.stop(Kill(stuck.config.key, Cause.TIME_LIMIT))
    one.until(lambda: one.of(Lost), "it lives")
    assert one.of(Lost)[0].cause is Cause.TIME_LIMIT
    wait_until(lambda: not psutil.pid_exists(process), "its process lives on")


@slow
def test_a_cancelled_job_hands_its_run_back_and_another_goes_on(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob, slurm: Slurm
) -> None:
    one, job = make_on_slurm(), make_job("until stopped")
    one.executor.submit(job)
    one.until(lambda: one.of(Started), "it does not start")
    process_of(job)
    slurm.call("scancel", "--batch", "--signal=TERM", number_of(one))
    one.until(lambda: one.of(Finished), "it goes on")
    assert one.of(Finished)[0].result.cause is Cause.PREEMPTED
    one.executor.submit(make_job("finish"))
    one.until(lambda: len(one.of(Finished)) == 2, "no other takes its place")


@slow
def test_a_preempted_job_keeps_what_it_trains_and_goes_on_elsewhere(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob, slurm: Slurm
) -> None:
    one, job = make_on_slurm(partition="main"), make_job("until stopped")
    one.executor.submit(job)
    one.until(lambda: one.of(Started), "it does not start")
    process_of(job)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    number = slurm.call(*urgent, "--wrap", "sleep 1000")
    one.until(lambda: one.of(Finished), "it is not preempted")
    assert one.of(Finished)[0].result.cause is Cause.PREEMPTED
    one.executor.submit(make_job("finish"))
    one.until(lambda: one.of(WorkerState)[-1].state == "waiting", "nobody says that it waits")
    assert not one.of(Lost)
    slurm.call("scancel", "--batch", "--signal=KILL", number)
    one.until(lambda: len(one.of(Finished)) == 2, "no other takes its place")


@slow
def test_a_restart_of_the_controller_costs_nothing(make_on_slurm: MakeOnSlurm, make_job: MakeJob, slurm: Slurm) -> None:
    one, long = make_on_slurm(2), make_job("until stopped")
    one.executor.submit(long)
    process_of(long)
    slurm.stop_controller()
    try:
        one.executor.submit(make_job("sleep", 1))  # whose worker cannot be submitted now
        asked = lambda: [s for s in one.of(WorkerState) if "not submitted yet" in s.place]  # noqa: E731
        one.until(asked, "nobody says that the controller is away")
        assert not one.of(Lost)
    finally:
        slurm.start_controller()
    one.until(lambda: len(one.of(Started)) == 2, "it is not submitted later")
    assert not one.of(Lost)


@slow
def test_a_lost_node_loses_its_run_and_its_process_ends(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob, slurm: Slurm
) -> None:
    one, job = make_on_slurm(), make_job("sleep")
    one.executor.submit(job)
    process = process_of(job)
    one.until(lambda: one.of(Started), "nobody says so")
    node = slurm.call("squeue", "-h", "-o", "%N", "-j", number_of(one))
    slurm.lose_node(node)
    try:
        one.until(lambda: one.of(Lost), "nobody notices")
        assert one.of(Lost)[0].cause is Cause.WORKER_LOST
        wait_until(lambda: not psutil.pid_exists(process), "two may write into one folder")
        one.executor.submit(make_job("finish"))
        one.until(lambda: one.of(Finished), "no other node goes on")
    finally:
        slurm.start_node(node)


@slow
def test_what_slurm_does_not_take_is_told_in_its_words(make_on_slurm: MakeOnSlurm, make_job: MakeJob) -> None:
    one = make_on_slurm(partition="nowhere")
    one.executor.submit(make_job("finish"))
    with pytest.raises(RuntimeError, match=r"Slurm does not take the job: sbatch: error: .*partition"):
        one.until(lambda: False, "")


@slow
def test_a_job_knows_its_gpu_its_cores_and_no_password(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "77")
    one = make_on_slurm(cpus=2)
    one.executor.submit(make_job("finish"))
    one.until(lambda: one.of(Finished), "it does not end")
    facts = one.of(Finished)[0].result.facts
    assert facts["gpus"] in ("0", "1")
    assert facts["OMP_NUM_THREADS"] == "2"
    assert "MLFLOW_TRACKING_PASSWORD" not in facts


@slow
def test_no_job_outlives_its_sweep(make_on_slurm: MakeOnSlurm, make_job: MakeJob, slurm: Slurm) -> None:
    one, jobs = make_on_slurm(6), [make_job("sleep", seed) for seed in range(6)]  # of which two have no GPU
    for job in jobs:
        one.executor.submit(job)
    one.until(lambda: len(one.of(Started)) == 4, "they do not start")
    one.until(lambda: one.of(WorkerState)[-1].state == "waiting", "nobody waits")
    one.executor.close(now=True)
    wait_until(lambda: not slurm.call("squeue", "-h", "-t", "PD,R"), "jobs are left")


@slow
def test_a_worker_is_told_to_go_before_the_time_of_its_job_is_over(
    make_on_slurm: MakeOnSlurm, make_job: MakeJob
) -> None:
    one, job = make_on_slurm(time=120), make_job("until stopped")
    one.executor.submit(job)
    one.until(lambda: one.of(Finished), "it is not told")
    assert one.of(Finished)[0].result.cause is Cause.PREEMPTED
    assert "told to go by SIGTERM" in one.of(Finished)[0].result.message
