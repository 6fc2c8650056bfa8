"""Sweeps in a process of their own: started, followed and waited for from other processes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.commands.detached.follow import exit_code
from sweeper.folder.events import Heartbeat, SweepEnded
from sweeper.folder.standing import Standing, standing
from tests.sweeper.slow_study import STUDY, TRAINERS
from tests.waiting import wait_until

Sweeper = Callable[..., Any]


@pytest.fixture(autouse=True)
def _study(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.setenv("PYTHONPATH", f"{TRAINERS}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("STEP_SECONDS", "0.02")
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STUDY)
    yield
    found = standing(tmp_path / "runs" / "small")
    if found is not None and found.state == "running":
        psutil.Process(found.beat.process).kill()


def process_of(said: str) -> int:
    found = re.search(r"process (\d+)", said)
    assert found is not None, said
    return int(found[1])


def test_a_detached_sweep_runs_on_and_can_be_waited_for(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("trials: 10", "trials: 2"))
    begun = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--detach")
    assert begun.returncode == 0, begun.stderr
    process_of(begun.stdout)
    assert "sweeper wait study.yaml" in begun.stdout
    ended = sweeper(tmp_path, "wait", "study.yaml")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "4 runs trained" in (tmp_path / "runs" / "small" / "sweep.log").read_text()
    again = sweeper(tmp_path, "wait", "study.yaml", "--timeout", "1s")
    assert again.returncode == 0, "the same, where it has ended already"
    assert "not running: the last sweep" in again.stdout


@pytest.mark.slow
def test_it_outlives_the_process_that_started_it_and_is_stopped_by_others(sweeper: Sweeper, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "sweeper", "run", "study.yaml", "--workers", "1", "--detach"]
    slow = {**os.environ, "STEP_SECONDS": "1"}
    begun = subprocess.run(command, cwd=tmp_path, env=slow, capture_output=True, text=True)
    assert begun.returncode == 0, begun.stderr
    process, found = psutil.Process(process_of(begun.stdout)), standing(tmp_path / "runs" / "small")
    assert found is not None
    assert (found.state, found.beat.process) == ("running", process.pid)
    assert found.sweep in begun.stdout
    assert os.getsid(process.pid) == process.pid, "it has a session of its own"

    twice = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--detach")
    assert (twice.returncode, twice.stdout.count("Sweep ")) == (2, 0)
    assert f"being run already, by process {process.pid}" in twice.stderr
    early = sweeper(tmp_path, "wait", "study.yaml", "--timeout", "0.1s")
    assert (early.returncode, early.stderr) == (1, "It has not ended within 0.1 s, and goes on.\n")

    stopped = sweeper(tmp_path, "stop", "study.yaml", "--now")
    assert stopped.returncode == 0, stopped.stderr
    ended = sweeper(tmp_path, "wait", "study.yaml", "--timeout", "10m")
    assert ended.returncode == 1, ended.stdout
    assert "Go on with: sweeper run study.yaml" in ended.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "budget.trials=none"], "budget.trials"),
        (["--set", "base.model_name_or_path=./nowhere"], "nowhere"),
        (["--executor", "cloud"], "--executor cloud"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    words: list[str], told: str, sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    before = sorted(tmp_path.rglob("*"))
    plain = sweeper(tmp_path, "run", "study.yaml", *words)
    refused = sweeper(tmp_path, "run", "study.yaml", "--detach", *words)
    assert told in refused.stderr
    assert (refused.returncode, refused.stderr) == (plain.returncode, plain.stderr) == (2, plain.stderr)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_its_own_process_refuses_is_told_here(sweeper: Sweeper, tmp_path: Path) -> None:
    words = ["--executor", "inline", "--storage", f"sqlite:///{tmp_path}/no/such/folder.db"]
    plain = sweeper(tmp_path, "run", "study.yaml", *words)
    refused = sweeper(tmp_path, "run", "study.yaml", "--detach", *words)
    assert (refused.returncode, refused.stderr) == (plain.returncode, plain.stderr)
    assert plain.returncode == 2


def test_settings_and_addresses_stand_in_no_process_list_and_no_log(sweeper: Sweeper, tmp_path: Path) -> None:
    secret, storage = "kh81-secret-0f3c", f"sqlite:///{tmp_path}/optuna.db?password=opk-19-hidden"
    begun = sweeper(
        tmp_path, "run", "study.yaml", "--executor", "inline", "--detach",
        "--set", f"base.hub_token={secret}", "--storage", storage,
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    process = psutil.Process(process_of(begun.stdout))
    assert not any(hidden in " ".join(process.cmdline()) for hidden in (secret, "opk-19-hidden"))
    assert secret not in begun.stdout
    process.kill()
    wait_until(lambda: not psutil.pid_exists(process.pid), "it is not gone")
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    killed = sweeper(tmp_path, "wait", "study.yaml")
    assert killed.returncode == 1
    assert "died in phase" in killed.stdout


def test_where_no_sweep_has_run_there_is_nothing_to_wait_for(sweeper: Sweeper, tmp_path: Path) -> None:
    said = sweeper(tmp_path, "wait", "study.yaml")
    assert said.returncode == 2
    assert said.stderr == "error: No sweep of small has run in this folder: there is nothing to wait for.\n"
    wrong = sweeper(tmp_path, "wait", "study.yaml", "--timeout", "soon")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --timeout soon: must be a time, such as 90s, 30m or 2h.\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("how", "code"), [("finished", 0), ("stopped", 1), ("interrupted", 1), ("refused", 2), ("in a newer way", 1)]
)
def test_waiting_ends_as_the_sweep_ended(how: str, code: int) -> None:
    beat = Heartbeat("host", "m" * 12, 1, "report")
    assert exit_code(Standing("a" * 12, "ended", beat, 0.0, SweepEnded(how))) == code
    assert exit_code(Standing("a" * 12, "dead", beat, 0.0)) == 1
