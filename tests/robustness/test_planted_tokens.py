"""Secrets planted wherever a sweep meets them appear in no byte that it leaves behind or prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.redact import REDACTED

pytestmark = pytest.mark.slow  # seven commands, each a process of its own

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "pLaNtEdInTheEnvironment12345",
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "planted1",
    "SERVICE_PASSWORD": "correct-horse-battery",
    "RESULTS_URL": "postgresql://sweeper:database-plant-77@db.example.org/results",
}
SECRETS = {
    **{name: value for name, value in ENVIRONMENT.items() if name != "RESULTS_URL"},
    "password in RESULTS_URL": "database-plant-77",
    "token in base": "base-plant-one",
    "token by --set": "option-plant-two",
    "password in a question's URL": "question-plant-three",
    "query of a question's URL": "query-plant-four",
    "key of known form in a question": "sk-proj-" + "plantedABC123" * 3,
    "password in an error": "error-plant-five",
}
STUDY = f"""
study: planted
question: >-
  Is https://me:question-plant-three@example.org/x?token=query-plant-four right,
  {SECRETS["key of known form in a question"]}?
trainer: formula
base:
  model_name_or_path: embedded
  use_peft: true
  max_steps: 4
  learning_rate: 1.0e-5
  model_init_kwargs: {{token: base-plant-one, subfolder: here}}
variants: {{sigmoid: {{}}, ipo: {{}}}}
space: {{beta: {{low: 0.01, high: 1.0, log: true}}}}
budget: {{trials: 2}}
objective: {{metric: ranking_gain}}
"""

# Loaded by every Python process of the sweep: a trainer as talkative as libraries can be, of which one variant fails.
TALKATIVE = """
import logging, os, sys
import trainers.formula as formula

real = formula._steps

def talking(config):
    print("signed in with", os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"], flush=True)
    print(dict(os.environ), config.settings, file=sys.stderr)
    logging.getLogger("library").warning("connected to %s", os.environ["RESULTS_URL"])
    if config.variant == "ipo":
        raise RuntimeError(f"401 for https://me:error-plant-five@example.org, {os.environ['HF_TOKEN']}")
    return real(config)

formula._steps = talking
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The working folder after a whole sweep, and what each command printed."""
    given, folder = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("working")
    (given / "study.yaml").write_text(STUDY)
    (given / "sitecustomize.py").write_text(TALKATIVE)
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": f"{given}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    study = str(given / "study.yaml")
    option = ("--set", "base.model_init_kwargs.other_token=option-plant-two")
    commands = {
        "plan": ("plan", study, *option),
        "run": ("run", study, "--workers", "2", *option),
        "status": ("status", study, *option),
        "table in a file": ("table", study, "--format", "csv", "--output", "table.csv", *option),
        "export": ("export", study, "--variant", "sigmoid", *option),
        "run again": ("run", study, "--executor", "inline", *option),
        "refused": ("run", study, "--set", "base.hub_token=option-plant-two"),
    }
    printed = {}
    for name, arguments in commands.items():
        ended = subprocess.run(
            [sys.executable, "-m", "sweeper", *arguments], cwd=folder, env=environment, capture_output=True
        )
        printed[name] = (ended.stdout + ended.stderr).decode()
    return folder, printed


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_sweep_met_the_secrets(swept: tuple[Path, dict[str, str]]) -> None:
    folder, printed = swept
    assert "2 runs could not be trained (2 infrastructure)" in printed["run"]
    assert f"RuntimeError: 401 for https://{REDACTED}@example.org, {REDACTED}" in printed["run"]
    files = written(folder)
    (log, *_) = (content for name, content in files.items() if name.endswith(".log") and content)
    assert f"signed in with {REDACTED} {REDACTED}" in log.decode()
    assert f"connected to postgresql://sweeper:{REDACTED}@db.example.org" in log.decode()
    assert any(name.endswith("config.json") and b"model_init_kwargs" in content for name, content in files.items())
    assert b"subfolder: here" in files["best.yaml"]


@pytest.mark.parametrize("planted", SECRETS)
def test_no_byte_of_a_sweep_holds_a_secret(planted: str, swept: tuple[Path, dict[str, str]]) -> None:
    folder, printed = swept
    secret = SECRETS[planted]
    assert [name for name, content in written(folder).items() if secret.encode() in content] == []
    assert [name for name, text in printed.items() if secret in text] == []
