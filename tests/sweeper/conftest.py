"""What the tests of the sweeper share: the command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.tracking import Tracker


@dataclass(frozen=True)
class Ended:
    """How a command ended. An exception that got out of it stands in `stderr` as a traceback would."""

    returncode: int
    stdout: str
    stderr: str


Sweeper = Callable[..., Ended]


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    """`sweeper(folder, "plan", "study.yaml")` runs the command in `folder`."""

    def call(folder: Path, *arguments: str) -> Ended:
        monkeypatch.chdir(folder)
        result = CliRunner().invoke(app, list(arguments))
        escaped = result.exception is not None and not isinstance(result.exception, SystemExit)
        return Ended(
            result.exit_code, result.stdout, result.stderr + (f"Traceback {result.exception!r}" if escaped else "")
        )

    return call


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with MLflow's tables and no run: making them takes seconds, so most tests start from a copy."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(None, folder)
    return folder / "mlflow.db"
