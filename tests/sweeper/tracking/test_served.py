"""A whole sweep whose MLflow is a real server, spoken to by HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from dashboards.store.connection import StoreMissing
from dashboards.store.records import load_records
from tests.services.processes import end, free_ports, start
from tests.sweeper.same_sweeps import differences
from tests.waiting import wait_until

STUDY = """
study: served
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 20, learning_rate: 5.0e-4}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0, log: true}}
budget: {trials: 2}
objective: {metric: ranking_gain}
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server with an empty store."""
    folder = tmp_path / "server"
    folder.mkdir()
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/kept"]
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urlopen(f"{address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = start(command, folder / "log", environment)
    try:
        wait_until(lambda: answers() or process.poll() is not None, "the server does not start")
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        end(process, signal.SIGTERM)


def call(folder: Path, tracking: str, *words: str) -> str:
    """What a command prints, which must end well."""
    modules = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": modules, "MLFLOW_TRACKING_URI": tracking}
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sweep_is_run_and_read_by_a_server_and_answers_with_nothing_but_json(server: str, tmp_path: Path) -> None:
    found = {}
    for name, tracking in (("file", f"sqlite:///{tmp_path}/mlflow.db"), ("served", server)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "study.yaml").write_text(STUDY)
        told = call(folder, tracking, "run", "study.yaml", "--executor", "inline", "--json").splitlines()
        assert all("schema" in json.loads(line) or "kind" in json.loads(line) for line in told), told
        found[name] = load_records(tracking, "served")
    assert len(found["served"]) == 4
    assert differences(found["served"], found["file"]) == []
    served = tmp_path / "served"
    assert json.loads(call(served, server, "status", "study.yaml", "--json"))["study"] == "served"
    assert "sigmoid" in call(served, server, "table", "study.yaml")
    call(served, server, "rm", "study.yaml", "--yes")
    with pytest.raises(StoreMissing):
        load_records(server, "served")
