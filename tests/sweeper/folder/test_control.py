"""Steering a sweep from another terminal, and what happens when a terminal or the sweep's process goes away."""

from __future__ import annotations

import errno
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest

from dashboards.store.records import load_records
from studies.records import RunRecord, State
from studies.spec import Study, load_study
from sweeper.commands.session.next_version import version_with
from sweeper.folder.control import AlreadyRunning, lock
from sweeper.folder.standing import alone
from sweeper.folder.steering.border import Border
from tests.sweeper import slow_study
from tests.sweeper.forked import Forked
from tests.sweeper.slow_study import TRAINERS
from tests.waiting import PATIENCE, wait_until

STUDY = slow_study.STUDY.replace("trials: 10", "trials: 6")
Sweeper = Callable[..., Any]


@pytest.fixture(autouse=True)
def _study(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(TRAINERS)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(STUDY)


def start(folder: Path, seconds: str = "0.1") -> Forked:
    """A sweep in another process, with so many seconds a step, that has finished a run."""
    process = Forked(folder, "run", "study.yaml", "--workers", "2", env={"STEP_SECONDS": seconds})
    wait_for_a_run(folder, process)
    return process


def wait_for_a_run(folder: Path, process: Forked | subprocess.Popen[bytes]) -> None:
    wait_until(lambda: process.poll() is not None or results(folder), "no run ends")
    assert process.poll() is None


def results(folder: Path) -> list[Path]:
    """Of the runs that have ended."""
    return list((folder / "runs").glob("*/*/result.json"))


def records(folder: Path) -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", "small")


def optuna_states(folder: Path) -> Counter[str]:
    url = f"sqlite:///{folder}/optuna.db"
    names = optuna.get_all_study_names(url)
    return Counter(t.state.name for name in names for t in optuna.load_study(study_name=name, storage=url).trials)


def finish(sweeper: Sweeper, folder: Path) -> None:
    """Run the rest, which must leave everything trained once."""
    ended = sweeper(folder, "run", "study.yaml", "--executor", "inline")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert Counter(r.state for r in records(folder)) == {State.COMPLETE: 12}
    assert optuna_states(folder) == {"COMPLETE": 12}


def test_stop_finishes_what_runs_and_starts_nothing_new(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep = start(tmp_path)
    said = sweeper(tmp_path, "stop", "study.yaml")
    assert said.returncode == 0, said.stderr
    assert str(sweep.pid) in said.stdout
    assert sweep.wait(timeout=PATIENCE) == 1
    found = records(tmp_path)
    assert {r.state for r in found} == {State.COMPLETE}, "no run was cut short"
    assert len(found) < 12
    assert set(optuna_states(tmp_path)) <= {"COMPLETE", "WAITING"}
    finish(sweeper, tmp_path)


@pytest.mark.slow
def test_stop_now_ends_runs_at_their_next_step(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep = start(tmp_path, "0.5")
    wait_until(lambda: len(results(tmp_path)) >= 2, "no second run ends")  # both workers have just begun another
    ended = len(results(tmp_path))
    assert sweeper(tmp_path, "stop", "study.yaml", "--now").returncode == 0
    assert sweep.wait(timeout=PATIENCE) == 1
    assert len([r for r in records(tmp_path) if r.state is State.COMPLETE]) <= ended + 1, "a run was not cut short"
    assert "RUNNING" not in optuna_states(tmp_path)
    finish(sweeper, tmp_path)


def test_stop_says_where_there_is_nothing_to_stop(sweeper: Sweeper, tmp_path: Path) -> None:
    for left in (None, "4711", f"{os.getpid()} here"):  # the last two were left by dead sweeps
        if left is not None:
            (tmp_path / "runs" / "small").mkdir(parents=True, exist_ok=True)
            (tmp_path / "runs" / "small" / "sweep.lock").write_text(left)
        refused = sweeper(tmp_path, "stop", "study.yaml")
        assert refused.returncode == 2
        assert "Nobody runs this study" in refused.stderr


def test_the_lock_of_a_dead_sweep_is_not_in_the_way_and_that_of_a_living_one_is(
    sweeper: Sweeper, tmp_path: Path
) -> None:
    sweep = start(tmp_path)
    refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert refused.returncode == 2
    assert f"process {sweep.pid}" in refused.stderr
    sweep.kill()
    sweep.wait(timeout=PATIENCE)
    finish(sweeper, tmp_path)


def test_a_paused_variant_is_not_asked_for_until_it_is_resumed(sweeper: Sweeper, tmp_path: Path) -> None:
    assert sweeper(tmp_path, "pause", "study.yaml", "ipo").returncode == 0
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert ended.returncode == 1
    assert "Paused, with runs left: ipo" in ended.stdout
    assert Counter(r.variant for r in records(tmp_path)) == {"sigmoid": 6}
    assert "paused: ipo" in sweeper(tmp_path, "status", "study.yaml").stdout
    assert sweeper(tmp_path, "resume", "study.yaml", "ipo").returncode == 0
    finish(sweeper, tmp_path)


@pytest.mark.slow
def test_a_sweep_that_runs_heeds_a_pause(sweeper: Sweeper, tmp_path: Path) -> None:
    sweep = start(tmp_path)
    sweeper(tmp_path, "pause", "study.yaml", "ipo")
    assert sweep.wait(timeout=PATIENCE) == 1
    found = Counter(r.variant for r in records(tmp_path))
    assert found["sigmoid"] == 6
    assert found["ipo"] < 6
    sweeper(tmp_path, "resume", "study.yaml", "ipo")
    finish(sweeper, tmp_path)


@pytest.mark.slow
def test_in_a_joint_search_other_variants_are_drawn_while_one_is_paused(sweeper: Sweeper, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY + "mode: search\n")
    sweeper(tmp_path, "pause", "study.yaml", "ipo")
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    assert Counter(r.variant for r in records(tmp_path)) == {"sigmoid": 6}
    sweeper(tmp_path, "resume", "study.yaml", "ipo")
    more = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--set", "budget.trials=14")
    assert more.returncode == 0
    assert {r.variant for r in records(tmp_path)} == {"sigmoid", "ipo"}


@pytest.mark.parametrize(("variant", "word"), [("ippo", "sigmoid, ipo"), ("sigmoid", "no other variant")])
def test_a_pause_that_makes_no_sense_is_refused(sweeper: Sweeper, tmp_path: Path, variant: str, word: str) -> None:
    sweeper(tmp_path, "pause", "study.yaml", "ipo")
    refused = sweeper(tmp_path, "pause", "study.yaml", variant)
    assert refused.returncode == 2
    assert word in refused.stderr


@pytest.mark.slow
def test_a_closed_terminal_stops_the_sweep_cleanly(sweeper: Sweeper, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(TRAINERS), *filter(None, sys.path)])
    sweep = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "STEP_SECONDS": "0.1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    wait_for_a_run(tmp_path, sweep)
    workers = psutil.Process(sweep.pid).children(recursive=True)
    os.close(theirs)
    os.close(ours)  # what was written to the terminal from here on fails
    sweep.send_signal(signal.SIGHUP)
    assert sweep.wait(timeout=PATIENCE) == 1
    assert not psutil.wait_procs(workers, timeout=PATIENCE)[1]
    assert not [r for r in records(tmp_path) if r.state is State.RUNNING]
    assert "RUNNING" not in optuna_states(tmp_path)
    finish(sweeper, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_a_file_system_knows_no_locks_who_measures_looks_at_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    with lock(tmp_path) as held:
        assert not held
    with alone(tmp_path):
        pass
    with Border(tmp_path, Study.of(load_study("quickstart")), print), pytest.raises(AlreadyRunning), alone(tmp_path):
        pass


def test_take_asks_the_sweep_that_runs_and_says_what_it_answers(tmp_path: Path, sweeper: Sweeper) -> None:
    study = Study.of(load_study(tmp_path / "study.yaml"))
    runs = tmp_path / "runs" / "small"
    refused = sweeper(tmp_path, "take", "study.yaml")
    assert (refused.returncode, "No sweep of small runs now. `sweeper run study.yaml`" in refused.stderr) == (2, True)
    runs.mkdir(parents=True, exist_ok=True)
    version = version_with((), str(tmp_path / "study.yaml"))
    with Border(runs, study, print, next_version=version) as border, border.steered():
        (tmp_path / "study.yaml").write_text(STUDY.replace("ipo: {}", "ipo: {}, hinge: {}"))
        done = sweeper(tmp_path, "take", "study.yaml")
        assert (done.returncode, done.stderr) == (0, "")
        assert "6 further runs" in done.stdout
        assert border.rounds.changes
