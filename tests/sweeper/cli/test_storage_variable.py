"""Optuna's storage from the environment: as from the option, but in no list of processes and no file of the sweep."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.databases import MLFLOW, OPTUNA, word
from studies.text.redact import REDACTED

Sweeper = Callable[..., Any]
SECRET = "planted/in#the-storage"
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, max_steps: 4}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 1}
objective: {metric: ranking_gain}
"""


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    shutil.copyfile(empty_mlflow, place / "mlflow.db")
    (place / "study.yaml").write_text(STUDY)
    return place


def address(folder: Path) -> str:
    """Of a SQLite file; SQLite takes no notice of the parameter."""
    return f"sqlite:///file:{folder.parent}/elsewhere.db?uri=true&password=planted%2Fin%23the-storage"


def holding(folder: Path) -> list[str]:
    """The files below that hold the secret, in any of its spellings."""
    spellings = (SECRET, "planted%2Fin%23the-storage")
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if any(s.encode() in file.read_bytes() for s in spellings)]


@pytest.mark.usefixtures("torch_is_asked_once")
def test_a_storage_from_the_environment_is_used_by_every_command_and_written_nowhere(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", address(folder))
    commands = [
        ("run", "study.yaml", "--workers", "1"),
        ("run", "study.yaml", "--executor", "inline"),
        ("doctor",),
        ("status", "study.yaml"),
        ("report", "study.yaml"),
        ("table", "study.yaml", "--output", "table.json", "--format", "json"),
        ("export", "study.yaml"),
    ]
    for command in commands:
        ended = sweeper(folder, *command)
        assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
        assert "planted" not in ended.stdout + ended.stderr, command
    assert (folder.parent / "elsewhere.db").is_file()
    assert not (folder / "optuna.db").exists()
    assert holding(folder.parent) == []


def test_the_option_goes_before_the_variable(sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "sqlite:///other.db")
    assert (
        sweeper(folder, "run", "study.yaml", "--executor", "inline", "--storage", "sqlite:///mine.db").returncode == 0
    )
    assert (folder / "mine.db").is_file()
    assert not (folder / "other.db").exists()


def test_help_names_the_variable_and_shows_no_value(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", address(folder))
    told = sweeper(folder, "run", "--help").stdout
    assert "OPTUNA_STORAGE" in told
    assert "planted" not in told


def test_a_remedy_names_the_storage_that_was_given_and_no_secret_of_it(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ("run", "study.yaml", "--executor", "inline", "--set", "budget.wall_clock=0.001")
    plain = sweeper(folder, *mine, "--storage", "sqlite:///mine.db")
    assert (
        "Go on with: sweeper run study.yaml --set budget.wall_clock=0.001 --storage sqlite:///mine.db" in plain.stdout
    )
    assert "Stopped: the wall-clock budget of 0 s is spent." in plain.stdout, "why it ended"
    secret = sweeper(folder, *mine, "--storage", address(folder))
    assert 'wall_clock=0.001 --storage "${OPTUNA_STORAGE:?}"' in secret.stdout + secret.stderr
    assert "planted" not in secret.stdout + secret.stderr


def test_as_a_word_of_a_command_a_database_with_a_secret_is_its_variable() -> None:
    assert word(OPTUNA, "sqlite:////a b/optuna.db") == "'sqlite:////a b/optuna.db'"
    assert word(OPTUNA, "postgresql://me:Sup3r/Secret@h/x") == '"${OPTUNA_STORAGE:?}"'
    assert word(MLFLOW, "postgresql://me:Sup3r/Secret@h/x") == '"${MLFLOW_TRACKING_URI:?}"'
    assert os.environ.get("OPTUNA_STORAGE") is None
    assert REDACTED not in word(MLFLOW, "postgresql://me:Sup3r/Secret@h/x")
