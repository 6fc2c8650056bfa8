"""A sweep on a local model and local data speaks to no other machine: neither the sweep nor its workers."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

# Python loads it at the start of each process that has its folder on the module path, as workers have.
LISTEN = """
import os, socket, sys

process = "worker" if "sweeper.executors.process.worker" in sys.orig_argv else "main"

def note(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        one = arguments[0]
        if not (isinstance(one, socket.socket) and one.family == socket.AF_UNIX):
            with open(os.environ["NOTES"], "a") as file:
                print(event, arguments[1:], process, file=file)
    elif event == "import" and arguments[0] == "trl":
        with open(os.environ["NOTES"] + "-heard", "a") as file:
            print(process, file=file)

sys.addaudithook(note)
"""
STUDY = """
study: alone
base:
  {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_alpha: 8, lora_target_modules: all-linear,
   per_device_train_batch_size: 4, learning_rate: 1.0e-3, max_steps: 1}
data: {path: embedded, rows: 16}
variants: {sigmoid: {base: {beta: 0.1}}}
evaluate: {prompts: 2, pairs: 4, max_new_tokens: 4}
resources: {together: 0, env: [NOTES]}
"""


OF_NO_TRAINER = """
study: alone
trainer: formula
base: {model_name_or_path: embedded, max_steps: 4}
variants: {sigmoid: {}}
objective: {metric: ranking_gain}
"""
REPORTS = {"HF_HUB_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def test_a_sweep_in_this_process_makes_no_connection(
    sweeper: Callable[..., Any], tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*given: object, **_: object) -> None:
        asked.append(given)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in (*REPORTS, "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "study.yaml").write_text(OF_NO_TRAINER)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
    assert ended.returncode == 0, ended.stderr
    assert asked == []
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == REPORTS["MLFLOW_DISABLE_TELEMETRY"]


def test_reports_of_use_are_off_before_what_sends_them_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first lines of the trainer's module: all of it takes seconds to load."""
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    body = ast.parse((ROOT / "trainers" / "dpo.py").read_text()).body
    others = [i for i, node in enumerate(body) if {*_modules(node)} - sys.stdlib_module_names - {"__future__"}]
    exec(compile(ast.Module(body[: others[0]], []), "dpo", "exec"), {})
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == REPORTS["HF_HUB_DISABLE_TELEMETRY"]


def _modules(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [str(node.module).partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.slow
def test_a_local_sweep_makes_no_connection(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(LISTEN)
    notes = tmp_path / "notes"
    # Nothing is told to stay offline: what a sweep does by itself is what counts.
    offline = ("OFFLINE", "TELEMETRY", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in offline)}
    path = os.pathsep.join([str(hook), *filter(None, sys.path)])
    environment |= {"PYTHONPATH": path, "NOTES": str(notes)}
    ended = subprocess.run(
        [sys.executable, "-m", "sweeper", "run", "study.yaml", "--workers", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "worker" in Path(f"{notes}-heard").read_text().split(), "nobody listened"
    assert not notes.exists(), notes.read_text()
