"""A sweep on a local model and local data speaks to no other machine: neither the sweep nor its workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
