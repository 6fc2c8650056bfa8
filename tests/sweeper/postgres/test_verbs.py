"""Every command with both stores on PostgreSQL, and two people with one pair of databases."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.records import load_records
from studies.records import State
from tests.services.postgres import PASSWORD
from tests.services.processes import free_ports
from tests.sweeper.forked import Forked
from tests.sweeper.postgres.conftest import Databases
from tests.sweeper.slow_study import STUDY as SLOW
from tests.sweeper.slow_study import TRAINERS
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 6, learning_rate: 1.0e-5}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 3}
objective: {metric: ranking_gain}
"""
RUN = ("run", "study.yaml", "--executor", "inline")


@pytest.fixture
def said(sweeper: Sweeper) -> Callable[..., str]:
    """What a command prints; it must end with 0 and never show the password."""

    def call(folder: Path, *command: str, code: int = 0) -> str:
        ended = sweeper(folder, *command)
        told: str = ended.stdout + ended.stderr
        assert ended.returncode == code, told
        assert PASSWORD not in told
        assert "Traceback" not in told
        return told

    return call


def holding(place: Path, secret: str) -> list[Path]:
    """The files below a folder that hold a text."""
    return [file for file in place.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def test_every_command_works_and_writes_no_password(
    said: Callable[..., str], folder: Path, databases: Databases
) -> None:
    (folder / "study.yaml").write_text(STUDY)
    assert "3 trials" in said(folder, "plan", "study.yaml") or "6 trials" in said(folder, "plan", "study.yaml")
    assert "No study is kept" in said(folder, "ls")
    assert "6 runs trained" in said(folder, *RUN)
    assert "0 runs trained, 6 were there already" in said(folder, *RUN)
    assert "0 missing" in said(folder, "status", "study.yaml")
    assert "sigmoid" in said(folder, "table", "study.yaml", "--all")
    assert "report.html" in said(folder, "report", "study.yaml")
    assert "best.yaml" in said(folder, "export", "study.yaml")
    assert "records.jsonl.gz" in said(folder, "records", "study.yaml")
    assert "small" in said(folder, "ls")
    assert "page" in said(folder, "open", "sigmoid/1")
    said(folder, "retry", "study.yaml", "--executor", "inline")
    assert "not recorded" in said(folder, "doctor")
    assert (folder / "mlartifacts" / "small").is_dir(), "artifacts lie where those of a file do"
    assert not (folder / "mlruns").exists()
    assert not (folder / "optuna.db").exists()
    assert holding(folder, PASSWORD) == []
    assert "Removed small" in said(folder, "rm", "small", "--yes")
    for name in (databases.optuna, databases.mlflow):
        table = "studies" if name == databases.optuna else "runs"
        assert databases.server.query(name, f"select count(*) from {table}") == [("0",)]
    assert "No study is kept" in said(folder, "ls")


def test_the_pages_are_served_and_the_password_is_in_no_argument(folder: Path, databases: Databases) -> None:
    (folder / "study.yaml").write_text(STUDY)
    ran = subprocess.run([sys.executable, "-m", "sweeper", *RUN], cwd=folder, env=_environment(), check=False)
    assert ran.returncode == 0
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "-m", "sweeper", "ui", "--port", str(port)],
        cwd=folder,
        env=_environment(),
        stdout=(folder / "printed").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(lambda: _listens(port), lambda: (folder / "printed").read_text())
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=small"
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            assert json.load(answer)["experiment"]["name"] == "small"
        arguments = b"".join(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
        assert PASSWORD.encode() not in arguments
        assert PASSWORD not in (folder / "printed").read_text()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_two_people_with_one_pair_of_databases_do_not_meet(
    said: Callable[..., str], folder: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = folder / "alice", folder / "bob"
    for place in (alice, bob):
        place.mkdir()
        (place / "study.yaml").write_text(STUDY)
    monkeypatch.setenv("LOGNAME", "alice")
    said(alice, *RUN)
    monkeypatch.setenv("LOGNAME", "bob")
    runs = load_records(databases.tracking, "small")
    refused = said(bob, *RUN, code=2)
    assert "is of alice@" in refused
    assert "--set study=small-bob" in refused
    assert "is of alice@" in said(bob, "table", "study.yaml")
    assert not (bob / "runs").exists()
    said(bob, *RUN, "--set", "study=small-bob")
    assert load_records(databases.tracking, "small") == runs
    assert len(load_records(databases.tracking, "small-bob")) == len(runs)
    listed = said(bob, "ls")
    assert "small-bob" in listed
    assert "small " in listed
    said(bob, "rm", "small", "--yes", code=2)
    assert load_records(databases.tracking, "small") == runs


def test_one_person_goes_on_with_a_study_from_another_machine(
    said: Callable[..., str], folder: Path, databases: Databases
) -> None:
    """Where the run folder is not, as long as it is the same user: the databases say whose it is."""
    first, second = folder / "first", folder / "second"
    for place in (first, second):
        place.mkdir()
        (place / "study.yaml").write_text(STUDY)
    said(first, *RUN)
    assert "2 runs trained, 6 were there already" in said(second, *RUN, "--set", "budget.trials=4")


def test_a_study_that_runs_is_not_run_by_another_folder_and_is_taken_over_once_its_sweep_is_killed(
    said: Callable[..., str], folder: Path, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    (folder / "study.yaml").write_text(SLOW)
    sweep = Forked(folder, "run", "study.yaml", "--workers", "2")
    wait_until(lambda: list((folder / "runs").glob("*/*/result.json")) or sweep.poll() is not None, "no run ended")
    assert sweep.poll() is None
    again = (*RUN, "--set", "budget.trials=1")
    assert "is being run already" in said(folder, *again, code=2)
    sweep.kill()
    sweep.wait(timeout=600)
    said(folder, *again)
    found = load_records(databases.tracking, "small")
    assert all(record.state is not State.RUNNING for record in found)
