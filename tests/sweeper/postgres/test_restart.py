"""The server of both stores goes away in the middle of a sweep: it costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from dashboards.store.records import load_records
from studies.records import State
from sweeper.search.ledger import FREE, Ledger
from tests.sweeper.postgres.conftest import Databases
from tests.sweeper.same_sweeps import differences, trials
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

STUDY = """
study: small
base:
  {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_dropout: 0.0, per_device_train_batch_size: 8,
   lr_scheduler_type: constant, max_steps: 20}
data: {path: embedded, rows: 256}
variants: {sigmoid: {}, ipo: {}}
space: {learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}}
budget: {trials: 2}
replicates: 2
evaluate: {prompts: 16, pairs: 16, max_new_tokens: 8}
objective: {metric: gold, direction: maximize}
resources: {together: 1}
"""
CUT = """
select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'
"""
RUN = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "2"]


def started(folder: Path, stores: Mapping[str, str], study: str = STUDY) -> subprocess.Popen[bytes]:
    (folder / "study.yaml").write_text(study)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **stores}
    with (folder / "printed").open("ab") as printed:
        return subprocess.Popen(RUN, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)


def printed(folder: Path) -> str:
    return (folder / "printed").read_text(encoding="utf-8", errors="replace")


def results(folder: Path) -> int:
    return len(list((folder / "runs" / "small").glob("*/result.json")))


def test_a_server_that_restarts_crashes_and_drops_its_connections_costs_a_sweep_nothing(
    databases: Databases, tmp_path: Path
) -> None:
    plain, served = tmp_path / "plain", tmp_path / "served"
    for folder in (plain, served):
        folder.mkdir()
    files = {"OPTUNA_STORAGE": f"sqlite:///{plain}/optuna.db", "MLFLOW_TRACKING_URI": f"sqlite:///{plain}/mlflow.db"}
    assert started(plain, files).wait() == 0, printed(plain)
    sweep, server = started(served, databases.environment), databases.server
    outages = ("restart", "crash", "connections", "away")
    for number, outage in enumerate(outages):
        wait_until(lambda: results(served) > number or sweep.poll() is not None, "no run ended")  # noqa: B023
        assert sweep.poll() is None, printed(served)
        if outage == "connections":
            for _ in range(10):
                server.query("postgres", CUT)
                time.sleep(0.2)
            continue
        server.stop(signal.SIGQUIT if outage == "crash" else signal.SIGINT)
        time.sleep(6.0 if outage == "away" else 0.0)
        server.start()
    assert sweep.wait() == 0, printed(served)
    told = printed(served)
    assert "correct-horse" not in told
    assert "does not answer" in told, told
    found, expected = (load_records(url, "small") for url in (databases.tracking, files["MLFLOW_TRACKING_URI"]))
    assert len(found) == 12
    assert differences(found, expected) == []
    assert trials(databases.storage) == trials(files["OPTUNA_STORAGE"])
    assert not [t for study in trials(databases.storage).values() for t in study if not t[1].is_finished()]  # type: ignore[attr-defined]
    assert all(r.state is not State.RUNNING for r in load_records(databases.tracking, "small"))
    left = databases.server.query(databases.mlflow, "select count(*) from runs where status = 'RUNNING'")
    assert left == [("0",)]
    assert Ledger(databases.storage, "small").read().lease == FREE
    assert not list(served.glob("runs/small/mlflow-journal*"))
