"""What the tests of the sweeper share: the command line, called in this process."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from typer.testing import CliRunner

import trainers.preview
from dashboards.report.build import BuiltReport
from dashboards.store.addresses import sqlite_file
from studies.design.answers import Answers
from studies.records import DataConfig, RunRecord
from studies.schema.paths import existing
from studies.spec import Study
from sweeper.cli.app import app
from sweeper.commands import doctor
from sweeper.search.storage import open_storage
from sweeper.tracking.experiment.new_store import make_store
from trainers.data.sources import Rows
from trainers.preview import Preview


@event.listens_for(Engine, "connect")
def wait_for_no_disk(connection: Any, _: object) -> None:
    """What a killed process has written is there without it; only a machine that loses its power needs it."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("pragma synchronous = off")


@dataclass(frozen=True)
class Ended:
    """How a command ended. An exception that got out of it stands in `stderr` as a traceback would."""

    returncode: int
    stdout: str
    stderr: str


Sweeper = Callable[..., Ended]
SweptOnce = Callable[[Path, str], Path]


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


devices = cache(doctor._devices)


@pytest.fixture
def torch_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `doctor` asks it takes a process that loads it."""
    monkeypatch.setattr(doctor, "_devices", devices)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with MLflow's tables and no run."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_store(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def empty_optuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with Optuna's tables and no study."""
    file = tmp_path_factory.mktemp("storage") / "optuna.db"
    open_storage(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture(autouse=True)
def stores_are_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a new store is a copy of an empty one: MLflow takes seconds to make its tables, and Optuna as
    long as a run of the formula.
    """
    _copy_stores(monkeypatch, request.getfixturevalue)


def _copy_stores(patch: pytest.MonkeyPatch, empty: Callable[[str], Path]) -> None:
    def copy(uri: str) -> None:
        file = sqlite_file(uri)
        if file is not None and not file.exists() and os.access(file.parent, os.W_OK):
            shutil.copyfile(empty("empty_mlflow"), file)

    def copied(url: str) -> Any:
        file = sqlite_file(url)
        if file is not None and not file.exists() and os.access(file.parent, os.W_OK):
            for left in ("-wal", "-shm"):  # of a file that a test removed: SQLite would write it into the copy
                file.with_name(file.name + left).unlink(missing_ok=True)
            shutil.copyfile(empty("empty_optuna"), file)
        return open_storage(url)

    patch.setattr("sweeper.tracking.tracker.make_store", copy)
    for importer in ("storage", "search"):
        patch.setattr(f"sweeper.search.{importer}.open_storage", copied)


@pytest.fixture(scope="session")
def previewed() -> dict[str, Preview]:
    """What was seen of rows, by all that it follows from."""
    return {}


@pytest.fixture(autouse=True)
def the_same_rows_are_looked_at_once(previewed: dict[str, Preview], monkeypatch: pytest.MonkeyPatch) -> None:
    """A preview loads transformers in a process of its own, and a test runs the same study again and again. Where this
    process has loaded it, it looks itself.
    """

    look = trainers.preview.preview

    def here(_command: list[str], *, input: bytes, **_more: Any) -> SimpleNamespace:
        with redirect_stdout(sys.stderr):
            return SimpleNamespace(stdout=json.dumps(trainers.preview._answer(json.loads(input))).encode())

    def preview(rows: Rows, data: DataConfig, model: str, *more: Any) -> Preview:
        read = (rows.train_places, rows.train, rows.evaluation_places, rows.evaluation or ())
        place = existing(model)
        files = sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in place.rglob("*")) if place else ()
        hub = [os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")]
        key = repr((*map(list, read), data, model, more, files, hub))
        if key not in previewed:
            with pytest.MonkeyPatch.context() as inside:
                if "transformers" in sys.modules:
                    inside.setattr("trainers.preview.subprocess.run", here)
                previewed[key] = look(rows, data, model, *more)
        return previewed[key]

    monkeypatch.setattr(trainers.preview, "preview", preview)


@pytest.fixture(autouse=True)
def sweeps_end_without_a_measurement_of_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: it takes a process that loads TRL, and seconds of measuring."""
    measure_no_speed(monkeypatch)


def measure_no_speed(patch: pytest.MonkeyPatch) -> None:
    """What `sweeps_end_without_a_measurement_of_speed` does, for what is no test."""
    patch.setattr("sweeper.measuring.speed.SpeedMeter.run", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def sweeps_end_without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process a sweep ends with an empty page: drawing it takes as long as all the rest of a small sweep."""
    draw_no_page(monkeypatch)


def draw_no_page(patch: pytest.MonkeyPatch) -> None:
    """What `sweeps_end_without_a_page` does, for what is no test."""
    from dashboards.report import study as built

    with_page = built.kept_files

    def kept_files(study: Study, answers: Answers[RunRecord], tell_user: Callable[[str], None]) -> Mapping[str, str]:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(built, "report_of", lambda *_: BuiltReport("", {}))
            return with_page(study, answers, tell_user)

    patch.setattr(built, "kept_files", kept_files)


@pytest.fixture(scope="session")
def swept_once(empty_mlflow: Path, empty_optuna: Path) -> SweptOnce:
    """`swept_once(folder, study text)` runs it inline in `folder`, for fixtures that many tests share: as in a test,
    of which nothing is in place yet when they are made. What it leaves is to be read, or copied.
    """
    empty = {"empty_mlflow": empty_mlflow, "empty_optuna": empty_optuna}

    def call(folder: Path, text: str) -> Path:
        (folder / "study.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            _copy_stores(patch, empty.__getitem__)
            measure_no_speed(patch)
            draw_no_page(patch)
            done = CliRunner().invoke(app, ["run", "study.yaml", "--executor", "inline"])
        assert done.exit_code == 0, done.output
        return folder

    return call
