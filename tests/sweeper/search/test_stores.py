"""Databases and folders that cannot be used: a clear word, and a later run has everything."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import State
from sweeper.search import storage
from sweeper.search.ledger import Ledger
from sweeper.search.storage import open_storage

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 200, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}, robust: {base: {label_smoothing: 0.1}}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 20}
resources: {attempts: 2, retry_after: 0}
objective: {metric: ranking_gain}
"""
RUNS = 60


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """`sweeper run` in a process of its own: MLflow keeps open what a test removes."""
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def complete(folder: Path, runs: int = RUNS) -> None:
    found = load_records(f"sqlite:///{folder}/mlflow.db", "small")
    assert Counter(r.state for r in found) == {State.COMPLETE: runs}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    (place / "study.yaml").write_text(STUDY)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_with_a_word_and_room_on_it_completes_it(
    small_disk: Path, empty_mlflow: Path
) -> None:
    shutil.copyfile(empty_mlflow, small_disk / "mlflow.db")
    ended = run(small_disk)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "full" in ended.stderr + ended.stdout or "No space left" in ended.stderr + ended.stdout
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = run(small_disk)
    assert again.returncode == 0, again.stdout + again.stderr
    complete(small_disk)


def test_a_disk_without_any_room_refuses_the_sweep(small_disk: Path) -> None:
    with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    refused = run(small_disk)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "No space left" in refused.stderr or "full" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_folder_that_cannot_be_written_refuses_the_sweep(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused = run(small_disk)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Read-only" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_a_damaged_database_is_refused_with_the_remedy_and_a_new_one_gets_all_results(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    assert run(tmp_path).returncode == 0
    for leftover in tmp_path.glob(f"{name}-*"):
        leftover.unlink()
    (tmp_path / name).write_bytes(b"no database at all " * 1000)
    refused = run(tmp_path)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    assert name in refused.stderr
    (tmp_path / name).unlink()
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"0 runs trained, {RUNS} were there already" in again.stdout
    complete(tmp_path)


@pytest.mark.slow
def test_a_database_that_another_program_holds_ends_the_sweep_with_a_word(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.3)
    (tmp_path / "study.yaml").write_text(STUDY.replace("trials: 20", "trials: 4"))
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--set", "budget.trials=1").returncode == 0
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
        assert ended.returncode in (1, 2), ended.stdout + ended.stderr
        assert "locked" in ended.stderr
        assert "Traceback" not in ended.stderr
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    complete(tmp_path, 12)


def test_names_are_unique_also_in_a_database_that_was_left_half_made(tmp_path: Path) -> None:
    """SQLite makes a table and its index one after the other, and a sweep may be killed between them."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    open_storage(url).engine.dispose()
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        database.execute("DROP INDEX ix_studies_study_name")
    ledger = Ledger(url, "mine")
    ledger.make()
    ledger.make()
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        names = database.execute("SELECT study_name FROM studies").fetchall()
        with pytest.raises(sqlite3.IntegrityError):
            database.execute("INSERT INTO studies (study_name) VALUES ('mine/sweep')")
    assert names == [("mine/sweep",)]
