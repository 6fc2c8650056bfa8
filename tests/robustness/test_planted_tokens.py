"""Secrets planted wherever a sweep meets them appear in no byte that it leaves behind or prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from studies.text.redact import REDACTED

pytestmark = pytest.mark.slow  # a score of commands, each a process of its own

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "pLaNtEdInTheEnvironment12345",
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "planted1",
    "SERVICE_PASSWORD": "correct-horse-battery",
    "RESULTS_URL": "postgresql://sweeper:database-plant-77@db.example.org/results",
    "ARCHIVE_URL": "postgresql://sweeper:archive%2Fplant%2488@db.example.org/archive?sslpassword=query%2Bplant%2B99",
    "https_proxy": "http://me:proxy/plant#66@127.0.0.1:9",
    "PGPASSWORD": "plant as libpq has it",
    "DEPLOY_KEY": "-----BEGIN KEY-----\ncGxhbnRlZCBpbiBhIGxpbmU=\n-----END KEY-----",
}
SECRETS = {
    **{name: ENVIRONMENT[name] for name in ("HF_TOKEN", "WANDB_API_KEY", "SERVICE_PASSWORD", "PGPASSWORD")},
    "password in RESULTS_URL": "database-plant-77",
    "token in base": "base-plant-one",
    "token by --set": "option-plant-two",
    "password in a question's URL": "question-plant-three",
    "query of a question's URL": "query-plant-four",
    "key of known form in a question": "sk-proj-" + "plantedABC123" * 3,
    "password in an error": "error-plant-five",
    "password in ARCHIVE_URL": "archive%2Fplant%2488",
    "password in ARCHIVE_URL, decoded": "archive/plant$88",
    "parameter in ARCHIVE_URL": "query%2Bplant%2B99",
    "parameter in ARCHIVE_URL, decoded": "query+plant+99",
    "password in https_proxy": "proxy/plant#66",
    "line of DEPLOY_KEY": "cGxhbnRlZCBpbiBhIGxpbmU=",
    "hub_token in base": "base-plant-six",
    "short one in base": "pl4nt7",
    "digits in base": "2026112877",
    "unknown setting by --set": "typo-plant-eight",
    "setting of the wrong type": "type-plant-nine",
    "line that is not YAML": "line-plant-ten",
    "long value that is no date": "date-plant-eleven-" + "0123456789" * 6,
    "text that is no number": "tag-plant-15",
    "password by --storage": "storage-plant-12/x",
    "password in MLFLOW_TRACKING_URI": "tracking-plant-13#y",
    "word too many": "word-plant-fourteen-which-is-so-long-that-no-line-of-eighty-columns-can-hold-it-in-one",
}
WHOLE_LINES = ("word too many",)  # which a box might break: no half of it may be seen either
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
  lr_scheduler_kwargs: {{token: base-plant-one, subfolder: here, password: pl4nt7, pin_secret: 2026112877}}
  hub_token: base-plant-six
variants: {{sigmoid: {{}}, ipo: {{}}, token_level: {{loss_type: [hinge]}}}}
space: {{beta: {{low: 0.01, high: 1.0, log: true}}}}
budget: {{trials: 2}}
resources: {{attempts: 1, env: [WANDB_API_KEY, SERVICE_PASSWORD, RESULTS_URL, ARCHIVE_URL, PGPASSWORD, DEPLOY_KEY]}}
objective: {{metric: ranking_gain}}
"""

TRACKING = {"MLFLOW_TRACKING_URI": "postgresql://me:tracking-plant-13#y@127.0.0.1:1/mlflow"}

# Loaded by every Python process of the sweep: a trainer as talkative as libraries can be, of which one variant fails.
TALKATIVE = """
import logging, os, sys
from urllib.parse import unquote
import trainers.formula as formula

real = formula._steps

def talking(config):
    print("signed in with", os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"], flush=True)
    print(dict(os.environ), config.settings, file=sys.stderr)
    logging.getLogger("library").warning("connected to %s", os.environ["RESULTS_URL"])
    init = config.settings["lr_scheduler_kwargs"]
    print("with", init["token"], init["password"], init["pin_secret"], repr(init), flush=True)
    print(unquote(os.environ["ARCHIVE_URL"]), os.environ["ARCHIVE_URL"].split("@"), os.environ["https_proxy"])
    for line in os.environ["DEPLOY_KEY"].splitlines():
        print(line)
    print("for key in tokens: the password: of the model is token = sigmoid", flush=True)
    if config.variant == "ipo":
        raise RuntimeError(
            f"401 for https://me:error-plant-five@example.org, {os.environ['HF_TOKEN']}; {init['token']}; key: ipo; "
            + unquote(os.environ["ARCHIVE_URL"])
        )
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

    def broken(text: str) -> str:
        file = given / f"broken{len(list(given.iterdir()))}.yaml"
        file.write_text(text)
        return str(file)

    option = ("--set", "base.lr_scheduler_kwargs.other_token=option-plant-two")
    commands = {
        "plan": ("plan", study, *option),
        "run": ("run", study, "--workers", "2", *option),
        "status": ("status", study, *option),
        "failed": ("status", study, "--failed", *option),
        "table in a file": ("table", study, "--format", "csv", "--output", "table.csv", *option),
        "table as JSON": ("table", study, "--format", "json", *option),
        "report": ("report", study, *option),
        "doctor": ("doctor",),
        "export": ("export", study, "--variant", "sigmoid", *option),
        "run again": ("run", study, "--executor", "inline", *option),
        "left out": ("plan", study, "--set", "base.hub_token=option-plant-two"),
        "misspelt": ("run", study, "--set", "hub_token=typo-plant-eight", "--set", "base.hub_tokn=5"),
        "no sign": ("plan", study, "--set", "base.hub_token:typo-plant-eight"),
        "wrong type": ("plan", study, "--set", "base.model_init_kwargs=[{password: type-plant-nine}]"),
        "no value": ("plan", study, "--set", "base.hub_token={typo-plant-eight"),
        "no YAML": ("plan", broken("study: x\nbase: {hub_token: *line-plant-ten}\n")),
        "no number": ("plan", broken("study: x\npassword: !!int tag-plant-15\n")),
        "no date": ("plan", broken(f"study: x\nhub_token: !!int {SECRETS['long value that is no date']}\n")),
        "storage": ("run", study, "--storage", "postgresql://me:storage-plant-12/x@127.0.0.1:1/db"),
        "tracking": ("doctor",),
        "tracking table": ("table", study),
        "too many": ("plan", study, f"hub_token={SECRETS['word too many']}"),
        "no option": ("plan", study, f"--hub-token={SECRETS['word too many']}"),
    }
    of_their_own = {"tracking": TRACKING, "tracking table": TRACKING}
    printed = {}
    for name, arguments in commands.items():
        ended = subprocess.run(
            [sys.executable, "-m", "sweeper", *arguments],
            cwd=folder, env=environment | of_their_own.get(name, {}), capture_output=True,
        )  # fmt: skip
        printed[name] = (ended.stdout + ended.stderr).decode()
    return folder, printed


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_sweep_met_the_secrets(swept: tuple[Path, dict[str, str]]) -> None:
    folder, printed = swept
    assert "2 runs could not be trained (2 infrastructure)" in printed["run"]
    assert f"RuntimeError: 401 for https://{REDACTED}@example.org, {REDACTED}; {REDACTED}" in printed["run"]
    files = written(folder)
    (log, *_) = (content for name, content in files.items() if name.endswith(".log") and content)
    assert f"signed in with {REDACTED} {REDACTED}" in log.decode()
    assert f"connected to postgresql://sweeper:{REDACTED}@db.example.org" in log.decode()
    assert f"with {REDACTED} {REDACTED} {REDACTED} {{'token': '{REDACTED}'" in log.decode()
    assert any(name.endswith("config.json") and b"lr_scheduler_kwargs" in content for name, content in files.items())
    assert b"subfolder: here" in files["best.yaml"]


def test_words_beside_the_secrets_stay(swept: tuple[Path, dict[str, str]]) -> None:
    folder, printed = swept
    command = f"study.yaml --set base.lr_scheduler_kwargs.other_token={REDACTED}\n"
    assert [line for line in printed["run"].splitlines(True) if line.endswith(command)] != []
    assert "base.hub_token: left out" in printed["plan"]
    assert "base.hub_token: left out" in printed["left out"]
    assert "hub_token: is a setting of TRL" in printed["misspelt"]
    assert "key: ipo" in printed["failed"]
    assert '"variant": "token_level"' in printed["table as JSON"]
    files = written(folder)
    (log, *_) = (content for name, content in files.items() if name.endswith(".log") and content)
    assert b"for key in tokens: the password: of the model is token = sigmoid" in log
    (asked,) = (content for name, content in files.items() if name.endswith("artifacts/study.yaml"))
    assert list(yaml.safe_load(asked)["variants"]) == ["sigmoid", "ipo", "token_level"]
    kwargs = dict.fromkeys(("token", "password", "pin_secret", "other_token"), REDACTED) | {"subfolder": "here"}
    assert yaml.safe_load(asked)["base"]["lr_scheduler_kwargs"] == kwargs


@pytest.mark.parametrize("planted", SECRETS)
def test_no_byte_of_a_sweep_holds_a_secret(planted: str, swept: tuple[Path, dict[str, str]]) -> None:
    folder, printed = swept
    secret = SECRETS[planted]
    parts = [secret[:30], secret[-30:]] if planted in WHOLE_LINES else [secret]
    for part in parts:
        assert [name for name, content in written(folder).items() if part.encode() in content] == []
        assert [name for name, text in printed.items() if part in text] == []
