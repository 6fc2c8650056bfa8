"""The Slurm that tests start for themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.slurm import Slurm, _processes_of, missing_slurm, running_slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if why := missing_slurm():
        pytest.skip(why)
    with running_slurm(nodes=2, gpus=2) as cluster:
        yield cluster
    assert not _processes_of(cluster.folder)
    assert not cluster.folder.exists()


def submit(slurm: Slurm, log: Path, line: str, *options: str) -> str:
    return slurm.call("sbatch", "--parsable", f"--output={log}", *options, "--wrap", line)


def test_a_job_runs_on_a_node_and_is_given_a_gpu_of_its_own(slurm: Slurm, tmp_path: Path) -> None:
    for number in range(2):
        say = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; sleep 2"
        submit(slurm, tmp_path / f"{number}.log", say, "--nodelist=n1", "--gres=gpu:1")
    wait_until(lambda: not slurm.call("squeue", "-h"), "jobs did not end")
    told = sorted((tmp_path / f"{number}.log").read_text() for number in range(2))
    assert told == ["n1 0\n", "n1 1\n"]


def test_an_urgent_job_preempts_one_that_runs_which_is_requeued(slurm: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    line = "trap 'echo told; exit 0' TERM; echo began; while true; do sleep 0.1; done"
    job = submit(slurm, log, line, "--gres=gpu:2", "--nodelist=n1", "--open-mode=append")
    wait_until(lambda: log.exists() and "began" in log.read_text(), "the job did not begin")
    urgent = ("--partition=urgent", "--gres=gpu:2", "--nodelist=n1")
    submit(slurm, tmp_path / "urgent.log", "echo urgent", *urgent)
    wait_until(lambda: "told" in log.read_text(), "the job was not told to go")
    # It waits now, for two minutes at least, which is Slurm's own rule.
    wait_until(lambda: f"{job} PENDING" in slurm.call("squeue", "-h", "-o", "%i %T"), "the job was not requeued")
    slurm.call("scancel", job)
    wait_until(lambda: not slurm.call("squeue", "-h"), "jobs did not end")


def test_running_jobs_do_not_notice_that_the_controller_restarts(slurm: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    job = submit(slurm, log, "echo began; sleep 3; echo ended")
    wait_until(lambda: log.exists() and "began" in log.read_text(), "the job did not begin")
    slurm.stop_controller()
    time.sleep(0.5)
    slurm.start_controller()
    wait_until(lambda: "ended" in log.read_text(), "the job did not end")
    slurm.wait_until_idle()
    assert "JobState=COMPLETED" in slurm.call("scontrol", "show", "job", job, "-o")


def test_the_job_of_a_lost_node_goes_on_and_is_requeued(slurm: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    line = "echo began $SLURMD_NODENAME $SLURM_RESTART_COUNT; while true; do sleep 0.2; echo alive; done"
    job = submit(slurm, log, line, "--exclude=n1", "--open-mode=append")
    wait_until(lambda: log.exists() and "began n2" in log.read_text(), "the job did not begin")
    slurm.lose_node("n2")
    wait_until(lambda: f"{job} PENDING" in slurm.call("squeue", "-h", "-o", "%i %T"), "the job was not requeued")
    before = log.read_text().count("alive")
    wait_until(lambda: log.read_text().count("alive") > before, "what ran on the lost node has ended")
    slurm.call("scancel", job)
    slurm.start_node("n2")
    slurm.wait_until_idle()
