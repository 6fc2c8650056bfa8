"""Whole sweeps of the formula trainer through the command line: what is recorded, resumed, retried and refused."""

from __future__ import annotations

import json
import os
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
from studies.records import Cause, RunConfig, RunRecord, RunResult, State
from sweeper.cli.display import describe
from sweeper.loop.progress import Progress
from tests.sweeper.forked import Forked
from tests.waiting import PATIENCE, wait_until
from trainers import formula

Sweeper = Callable[..., Any]
Run = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, robust: {base: {label_smoothing: 0.1}}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 3}
objective: {metric: ranking_gain}
"""


def write(folder: Path, text: str) -> None:
    (folder / "study.yaml").write_text(text)


@pytest.fixture
def run(sweeper: Sweeper, empty_mlflow: Path) -> Run:
    """`run(folder, study text, *options)`: the command `run`, inline unless the options say otherwise."""

    def call(folder: Path, text: str = STUDY, *arguments: str) -> Any:
        write(folder, text)
        if not (folder / "mlflow.db").exists():
            shutil.copyfile(empty_mlflow, folder / "mlflow.db")
        return sweeper(folder, "run", "study.yaml", *(arguments or ("--executor", "inline")))

    return call


def records(folder: Path, study: str = "small") -> list[RunRecord]:
    return load_records(f"sqlite:///{folder}/mlflow.db", study)


def optuna_states(folder: Path) -> Counter[str]:
    url = f"sqlite:///{folder}/optuna.db"
    names = [s.study_name for s in optuna.get_all_study_summaries(url)]
    return Counter(t.state.name for name in names for t in optuna.load_study(study_name=name, storage=url).trials)


def test_the_progress_line_says_what_a_worker_does_that_trains_nothing() -> None:
    progress = Progress(9, 0, 1, {}, None, None, doing="loading the model (12 s)")
    assert describe(progress) == "0/9 runs, 1 in training, loading the model (12 s)"


@pytest.mark.parametrize("executor", ["inline", pytest.param("process", marks=pytest.mark.slow)])
def test_every_trial_is_one_finished_run_in_mlflow_and_in_optuna(run: Run, tmp_path: Path, executor: str) -> None:
    done = run(tmp_path, STUDY, "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert "9 runs trained, 0 were there already" in done.stdout
    found = records(tmp_path)
    assert Counter((r.variant, r.trial) for r in found) == {
        (v, n): 1 for v in ("sigmoid", "ipo", "robust") for n in range(3)
    }
    assert {r.state for r in found} == {State.COMPLETE}
    assert optuna_states(tmp_path) == {"COMPLETE": 9}


def test_running_again_trains_nothing_and_prints_the_same_table(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    before = sweeper(tmp_path, "table", "study.yaml").stdout
    again = run(tmp_path)
    assert "0 runs trained, 9 were there already" in again.stdout
    assert sweeper(tmp_path, "table", "study.yaml").stdout == before
    assert len(records(tmp_path)) == 9


def test_an_added_variant_and_a_raised_budget_train_only_what_is_new(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    done = run(tmp_path, STUDY.replace("sigmoid: {}", "sigmoid: {}, hinge: {}").replace("trials: 3", "trials: 4"))
    assert "7 runs trained, 9 were there already" in done.stdout


def test_an_added_block_trains_it_for_every_trial_there_is(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    done = run(tmp_path, STUDY + "runs: {blocks: [0, 1]}\n")
    assert "9 runs trained, 9 were there already" in done.stdout
    assert Counter(r.block for r in records(tmp_path)) == {0: 9, 1: 9}


def test_optuna_is_told_the_mean_over_blocks_and_seeds(run: Run, tmp_path: Path) -> None:
    run(tmp_path, STUDY + "runs: {blocks: [0, 1], seeds: [0, 1]}\n")
    found = [r for r in records(tmp_path) if (r.variant, r.trial) == ("ipo", 1)]
    assert len(found) == 4
    told = optuna.load_study(study_name="small/ipo/clean", storage=f"sqlite:///{tmp_path}/optuna.db").trials[1]
    assert told.value == pytest.approx(sum(r.metrics["ranking_gain"] for r in found) / 4)


def test_a_trial_outside_of_the_bounds_is_not_the_best(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    """In the formula KL falls as beta rises, so a bound on KL leaves only large betas."""
    run(tmp_path, STUDY.replace("{metric: ranking_gain}", "{metric: ranking_gain, constraints: {kl: {max: 5.0}}}"))
    found = [r for r in records(tmp_path) if r.variant == "sigmoid"]
    allowed = {r.trial: r.metrics["ranking_gain"] for r in found if r.metrics["kl"] <= 5.0}
    assert 0 < len(allowed) < len(found)
    rows = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)["rows"]
    assert rows[0]["best"]["trial"] == max(allowed, key=allowed.__getitem__)
    stored = optuna.load_study(study_name="small/sigmoid/clean", storage=f"sqlite:///{tmp_path}/optuna.db").trials
    assert {t.number for t in stored if t.constraints["kl max"] <= 0} == set(allowed)


def test_a_diverged_run_is_a_result_that_counts_as_a_failure(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, STUDY.replace("learning_rate: 1.0e-5", "learning_rate: 2.0e-3"))
    assert done.returncode == 0, done.stderr
    assert Counter(r.variant for r in records(tmp_path) if r.state is State.PRUNED) == {"ipo": 3}
    assert optuna_states(tmp_path) == {"COMPLETE": 6, "PRUNED": 3}
    rows = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)["rows"]
    ipo = next(row for row in rows if row["variant"] == "ipo")
    assert (ipo["failures"]["k"], ipo["failures"]["n"]) == (3, 3)


def test_the_best_trials_are_confirmed_on_fresh_blocks(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path, STUDY + "confirm: {top: 1, blocks: [1, 2, 3], seeds: [0]}\n")
    assert "18 runs trained" in done.stdout, done.stdout + done.stderr
    confirmed = [r for r in records(tmp_path) if r.phase == "confirm"]
    assert Counter(r.variant for r in confirmed) == {"sigmoid": 3, "ipo": 3, "robust": 3}
    for variant in ("sigmoid", "ipo", "robust"):
        trials = {
            r.trial: r.metrics["ranking_gain"] for r in records(tmp_path) if r.variant == variant and r.block == 0
        }
        assert {r.trial for r in confirmed if r.variant == variant} == {max(trials, key=trials.__getitem__)}
    assert (
        "0 runs trained, 18 were there already"
        in run(tmp_path, STUDY + "confirm: {top: 1, blocks: [1, 2, 3], seeds: [0]}\n").stdout
    )


def test_a_second_run_of_the_same_study_is_refused_and_names_the_first(sweeper: Sweeper, tmp_path: Path) -> None:
    import fcntl

    write(tmp_path, STUDY)
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    with (folder / "sweep.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert refused.returncode == 2
    assert "process 4711" in refused.stderr


def wait_for_runs(folder: Path, process: Forked, at_least: int) -> None:
    """Until so many runs have a result; fails if the sweep ends before."""

    def enough() -> bool:
        return len(list((folder / "runs" / "small").glob("*/result.json"))) >= at_least

    wait_until(lambda: process.poll() is not None or enough(), "the runs do not end")
    assert process.poll() is None, "the sweep ended before it could be killed"


LONG = STUDY.replace("trials: 3", "trials: 8")


@pytest.mark.parametrize("executor", [pytest.param("inline", marks=pytest.mark.slow), "process"])
def test_a_sweep_killed_in_the_middle_loses_repeats_and_leaves_nothing(run: Run, tmp_path: Path, executor: str) -> None:
    write(tmp_path, LONG)
    process = Forked(tmp_path, "run", "study.yaml", "--executor", executor, "--workers", "2")
    wait_for_runs(tmp_path, process, 6)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(timeout=PATIENCE)
    results = {f.parent.name: f.stat().st_mtime_ns for f in (tmp_path / "runs" / "small").glob("*/result.json")}

    done = run(tmp_path, LONG, "--executor", executor, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert not psutil.wait_procs(workers, timeout=PATIENCE)[1], "a worker outlived the sweep"
    found = records(tmp_path)
    assert Counter((r.variant, r.trial) for r in found) == {
        (v, n): 1 for v in ("sigmoid", "ipo", "robust") for n in range(8)
    }
    assert {r.state for r in found} == {State.COMPLETE}
    assert optuna_states(tmp_path) == {"COMPLETE": 24}
    for key, written in results.items():
        assert (tmp_path / "runs" / "small" / key / "result.json").stat().st_mtime_ns == written, "trained twice"


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(run: Run, tmp_path: Path) -> None:
    two_runs_a_trial = STUDY.replace("trials: 3", "trials: 6") + "runs: {seeds: [0, 1]}\n"
    write(tmp_path, two_runs_a_trial)
    process = Forked(tmp_path, "run", "study.yaml", "--executor", "process", "--workers", "2")
    wait_for_runs(tmp_path, process, 5)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 1
    assert not [r for r in records(tmp_path) if r.state is State.RUNNING]
    assert "RUNNING" not in optuna_states(tmp_path)
    assert run(tmp_path, two_runs_a_trial).returncode == 0
    assert len(records(tmp_path)) == 36
    assert optuna_states(tmp_path) == {"COMPLETE": 18}


@pytest.mark.slow
def test_a_lost_mlflow_database_is_written_again_from_results_on_disk(
    sweeper: Sweeper, run: Run, tmp_path: Path
) -> None:
    run(tmp_path)
    table = sweeper(tmp_path, "table", "study.yaml").stdout
    (tmp_path / "mlflow.db").unlink()
    # Another process, as MLflow keeps the engine of a URI and with it the file that was unlinked.
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--executor", "inline"]
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    assert sweeper(tmp_path, "table", "study.yaml").stdout == table
    results = [f.stat().st_mtime for f in (tmp_path / "runs" / "small").glob("*/result.json")]
    assert len(results) == 9
    assert max(results) < (tmp_path / "mlflow.db").stat().st_mtime


@pytest.mark.slow
def test_a_lost_optuna_database_costs_no_training(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "optuna.db").unlink()
    assert "0 runs trained, 9 were there already" in run(tmp_path).stdout
    assert optuna_states(tmp_path) == {"COMPLETE": 9}
    assert len(records(tmp_path)) == 9


def test_a_spent_wall_clock_stops_the_sweep_with_exit_code_1(run: Run, tmp_path: Path) -> None:
    stopped = run(tmp_path, STUDY.replace("{trials: 3}", "{trials: 25, wall_clock: 1s}"))
    assert stopped.returncode == 1
    assert "budget" in stopped.stdout
    assert 0 < len(records(tmp_path)) < 75


def with_results(monkeypatch: pytest.MonkeyPatch, change: Callable[[RunConfig, RunResult], RunResult]) -> None:
    """Let the formula trainer answer what `change` makes of its results; it may raise."""
    plain = formula._hand_in
    monkeypatch.setattr(formula, "_hand_in", lambda job, result, desk: plain(job, change(job.config, result), desk))


@pytest.mark.slow
def test_a_run_that_the_machine_failed_is_repeated_and_then_no_longer_counts(
    sweeper: Sweeper, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    two_blocks = STUDY + "runs: {blocks: [0, 1]}\n"

    def no_disk(config: RunConfig, result: RunResult) -> RunResult:
        if (config.variant, config.block) == ("sigmoid", 1):
            raise OSError("no space left on device")
        return result

    with monkeypatch.context() as broken:
        with_results(broken, no_disk)
        failed = run(tmp_path, two_blocks)
    assert failed.returncode == 1
    assert "no space left" in failed.stdout
    assert run(tmp_path, two_blocks).returncode == 0
    found = records(tmp_path)
    assert Counter(r.state for r in found) == {State.COMPLETE: 18}
    rows = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)["rows"]
    assert [(row["variant"], row["trials_done"], row["lost"]) for row in rows] == [
        ("sigmoid", 3, 0),
        ("ipo", 3, 0),
        ("robust", 3, 0),
    ]


@pytest.mark.slow
def test_failures_in_the_confirm_phase_are_told_apart_and_its_survivors_do_not_measure_the_trial(
    sweeper: Sweeper, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapse(config: RunConfig, result: RunResult) -> RunResult:
        return result.model_copy(update={"cause": Cause.COLLAPSED}) if config.block >= 3 else result

    with_results(monkeypatch, collapse)
    done = run(tmp_path, STUDY + "confirm: {top: 1, blocks: [1, 2, 3, 4], seeds: [0]}\n")
    assert done.returncode == 0, done.stderr
    rows = json.loads(sweeper(tmp_path, "table", "study.yaml", "--format", "json").stdout)["rows"]
    for row in rows:
        assert (row["failures"]["k"], row["failures"]["n"], row["later"][0]) == (0, 3, 2)
        assert row["best"]["basis"] == "selected"


def test_what_the_file_no_longer_asks_for_is_not_in_the_table(sweeper: Sweeper, run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    before = sweeper(tmp_path, "table", "study.yaml").stdout
    run(tmp_path, STUDY + "runs: {blocks: [0, 1]}\n")
    assert "0 runs trained" in run(tmp_path).stdout
    table = sweeper(tmp_path, "table", "study.yaml").stdout
    aside = [line for line in table.splitlines() if line.startswith("9 finished runs left aside: the study file names")]
    assert len(aside) == 1
    assert table.replace(f"{aside[0]}\n", "") == before
