"""Shells complete commands, options, studies and study files, and are offered nothing that they could run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import completion
from sweeper.cli.app import app
from tests.sweeper.cli.test_cli import loaded_by


def offered(folder: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(folder)
    typed = words.split(" ")
    environment = {"_SWEEPER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    return CliRunner().invoke(app, [], env=environment, prog_name="sweeper").stdout.split()


def test_studies_files_and_what_is_kept_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quick.yaml", "notes.txt", "sub/mine.yaml", "runs/old/study.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert offered(tmp_path, "sweeper plan qui", monkeypatch) == ["quick.yaml", "quickstart"]
    assert offered(tmp_path, "sweeper table sub/", monkeypatch) == ["sub/mine.yaml"]
    assert offered(tmp_path, "sweeper rm o", monkeypatch) == ["old"]
    assert "--json" in offered(tmp_path, "sweeper plan quickstart --", monkeypatch)
    assert {"rm", "run", "retry", "resume"} <= set(offered(tmp_path, "sweeper r", monkeypatch))


def test_a_name_that_a_shell_would_act_on_is_not_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("$(touch x).yaml", "a;b.yaml", "`id`.yaml", "a b.yaml", "'.yaml", "-x.yaml", "\n.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [word for word in completion.studies("") if ".yaml" in word] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(tmp_path: Path, shell: str) -> None:
    command = [sys.executable, "-c", "import sys; from sweeper.cli import main; sys.argv[0] = 'sweeper'; main()"]
    shown = subprocess.run([*command, "--show-completion", shell], cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, "_SWEEPER_COMPLETE" in shown.stdout) == (0, True), shown.stderr


def test_completing_loads_nothing_that_is_slow(tmp_path: Path) -> None:
    assert not {"torch", "mlflow", "optuna", "numpy", "pandas"} & loaded_by(tmp_path, "--show-completion")
