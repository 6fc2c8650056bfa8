"""A whole sweep on a real Slurm and on hosts gives the numbers of one machine, also where workers are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import METRICS, Cause, State
from tests.services.processes import free_ports
from tests.services.slurm import Slurm
from tests.waiting import wait_until

STUDY = """
study: elsewhere
base:
  {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_target_modules: all-linear, max_steps: 40,
   per_device_train_batch_size: 4, learning_rate: 1.0e-3, lora_dropout: 0.0}
data: {path: embedded, rows: 64, eval_rows: 16}
evaluate: {prompts: 4, max_new_tokens: 8}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
resources: {attempts: 20, retry_after: 0, together: 1, workers: 2, address: 127.0.0.1, slurm: {cpus: 1}}
"""
RUNS = 4
MEASURED = ("steps_per_second", "tokens_per_second", "peak_memory", "train_seconds", "evaluation_seconds")

pytestmark = pytest.mark.slow


def begin(
    folder: Path, *options: str, environment: Mapping[str, str] = os.environ, study: str = STUDY
) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(study)
    path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", "study.yaml", *options],
        cwd=folder,
        env={**environment, "PYTHONPATH": path},
        stdout=(folder / "printed").open("w"),
        stderr=subprocess.STDOUT,
    )


def numbers(folder: Path) -> dict[tuple[object, ...], float]:
    """Every comparable number of every run; the runs must have finished, each of them once."""
    records = load_records(f"sqlite:///{folder}/mlflow.db", "elsewhere")
    assert not any(record.state is State.RUNNING for record in records)
    finished = [record for record in records if record.cause is Cause.FINISHED]
    assert len(finished) == len({record.key for record in finished}) == RUNS
    return {
        (record.variant, record.trial, name): value
        for record in finished
        for name, value in record.metrics.items()
        if name in METRICS and METRICS[name].comparable and name not in MEASURED
    }


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[object, ...], float]:
    """The numbers of one machine."""
    folder = tmp_path_factory.mktemp("alone") / "here"
    assert begin(folder, "--executor", "inline").wait() == 0, (folder / "printed").read_text()
    return numbers(folder)


def running(folder: Path) -> list[Path]:
    """The folders of runs that have begun and not ended."""
    begun = (folder / "runs" / "elsewhere").glob("*/attempt")
    return [path.parent for path in begun if not (path.parent / "result.json").exists()]


def test_a_sweep_on_slurm_gives_the_numbers_of_one_machine_though_a_job_is_preempted_and_one_killed(
    slurm: Slurm, tmp_path: Path, alone: dict[tuple[object, ...], float]
) -> None:
    folder = tmp_path / "cluster"
    sweep = begin(folder, "--executor", "slurm", environment=slurm.environment)
    wait_until(lambda: len(running(folder)) == 2 or sweep.poll() is not None, "nothing is trained")
    first, *_ = slurm.call("squeue", "-h", "-t", "R", "-o", "%A").split()
    slurm.call("scancel", "--batch", "--signal=KILL", first)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    number = slurm.call(*urgent, "--wrap", "sleep 3")
    assert number
    assert sweep.wait() == 0, (folder / "printed").read_text()
    assert numbers(folder) == alone
    wait_until(lambda: not slurm.call("squeue", "-h", "-t", "PD,R"), "jobs are left")


# The script of `sweeper/machines.md`, for this Python.
JOB = """#!/bin/bash
#SBATCH --job-name=sweep --cpus-per-task=2 --time=3-00:00:00 --signal=B:TERM@120
#SBATCH --output=printed
exec {python} -m sweeper run study.yaml --executor slurm
"""
QUICK = """
study: elsewhere
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 20, learning_rate: 5.0e-4}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
resources: {workers: 2, slurm: {cpus: 1}}
"""


def test_a_sweep_that_is_a_job_itself_submits_others(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(QUICK)
    (tmp_path / "sweep.sh").write_text(JOB.format(python=sys.executable))
    environment = {**slurm.environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    submit = ["sbatch", "--wait", f"--chdir={tmp_path}", "sweep.sh"]
    done = subprocess.run(submit, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (tmp_path / "printed").read_text()
    records = load_records(f"sqlite:///{tmp_path}/mlflow.db", "elsewhere")
    assert len(records) == RUNS
    assert all(record.state is not State.RUNNING for record in records)
    wait_until(lambda: not slurm.call("squeue", "-h", "-t", "PD,R"), "jobs are left")


def start_hosts(printed: Path, count: int) -> list[subprocess.Popen[bytes]]:
    """Do what the sweep has said to do on other machines."""
    wait_until(lambda: "sweeper worker --connect" in printed.read_text(), "nobody is told how")
    told = re.findall(r"sweeper worker --connect (\S+) --key-file (\S+)", re.sub(r"\s+", " ", printed.read_text()))
    command = [sys.executable, "-m", "sweeper", "worker", "--connect", told[0][0], "--key-file", told[0][1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return [subprocess.Popen([*command, "--workers", "1"], env=environment) for _ in range(count)]


def test_a_sweep_on_hosts_gives_the_numbers_of_one_machine_though_a_host_is_killed(
    tmp_path: Path, alone: dict[tuple[object, ...], float]
) -> None:
    folder = tmp_path / "hosts"
    sweep, printed = begin(folder, "--executor", "hosts"), folder / "printed"
    hosts = start_hosts(printed, 2)
    try:
        wait_until(lambda: len(running(folder)) == 2 or sweep.poll() is not None, "nothing is trained")
        hosts[0].kill()
        hosts += start_hosts(printed, 1)
        assert sweep.wait() == 0, printed.read_text()
        assert numbers(folder) == alone
    finally:
        for host in hosts:
            host.kill()


def test_hosts_find_the_sweep_again_that_was_killed_and_began_anew(
    tmp_path: Path, alone: dict[tuple[object, ...], float]
) -> None:
    folder = tmp_path / "hosts"
    (port,) = free_ports(1)
    options = ("--executor", "hosts", "--set", f"resources.address=127.0.0.1:{port}")
    sweep = begin(folder, *options)
    hosts = start_hosts(folder / "printed", 2)
    try:
        wait_until(lambda: len(running(folder)) == 2 or sweep.poll() is not None, "nothing is trained")
        sweep.kill()
        sweep.wait()
        sweep = begin(folder, *options)
        assert sweep.wait() == 0, (folder / "printed").read_text()
        assert numbers(folder) == alone
        assert all(host.poll() is None for host in hosts), "they wait for another sweep"
    finally:
        for host in hosts:
            host.kill()


TIMED = STUDY.replace("variants: {sigmoid: {}, ipo: {}}", "baseline: sigmoid\nvariants: {sigmoid: {}, ipo: {}}")


def speeds(folder: Path) -> list[dict[str, Any]]:
    files = list((folder / "mlartifacts").rglob("speed.json"))
    return json.loads(files[0].read_text())["measured"] if files else []


def test_a_worker_times_the_losses_once_for_its_kind_of_device(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    (port,) = free_ports(1)
    options = ("--executor", "hosts", "--set", f"resources.address=127.0.0.1:{port}")
    sweep = begin(folder, *options, study=TIMED)
    hosts = start_hosts(folder / "printed", 2)
    try:
        assert sweep.wait() == 0, (folder / "printed").read_text()
        assert "Timing the loss of 1 variant against that of sigmoid on a worker" in (folder / "printed").read_text()
        (found,) = speeds(folder)
        assert (found["device"], found["threads"], set(found["losses"]["ratios"])) == ("cpu", 1, {"ipo"})
        assert found["step_seconds"] > 0
        assert {"processor", "cores", "torch"} <= set(found["machine"])
        runs = folder / "runs" / "elsewhere"
        told = [json.loads(line) for line in (runs / "events.jsonl").read_text().splitlines()]
        assert [line["phase"] for line in told if line["event"] == "phase"] == ["train", "speed", "report"]
        assert len({line["key"] for line in told if line["event"] == "run_started"}) == RUNS, "the timing is no run"
        assert not (runs / "logs" / "speed").exists()
        again = begin(folder, *options, study=TIMED)
        assert again.wait() == 0
        assert "Timing" not in (folder / "printed").read_text()
    finally:
        for host in hosts:
            host.kill()


def test_a_stop_ends_the_wait_for_a_worker_that_times(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    sweep = begin(folder, "--executor", "hosts", study=f"{TIMED}probe: {{rounds: 1000}}\n")
    hosts = start_hosts(folder / "printed", 2)
    try:
        wait_until(lambda: "Timing the loss" in (folder / "printed").read_text(), "nothing is timed")
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait() == 0, "all its runs are there"
        assert "was not measured: it was stopped" in (folder / "printed").read_text()
        assert not speeds(folder)
    finally:
        for host in hosts:
            host.kill()
