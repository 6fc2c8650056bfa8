"""Stores that a sweep cannot use: it says which, why and what to do, and has written nowhere."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb.models import BaseModel

from dashboards.store.addresses import sqlite_url
from dashboards.store.connection import StoreError, check_store
from dashboards.store.databases import OPTUNA
from sweeper.search.storage import StorageError, check_storage
from sweeper.tracking.tracker import Tracker

Sweeper = Callable[..., Any]
STUDY = """
study: small
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 20, learning_rate: 1.0e-5}
variants: {sigmoid: {points: [{beta: 0.1}]}}
objective: {metric: ranking_gain}
"""


@pytest.fixture(scope="module")
def empty_optuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with Optuna's tables and no study."""
    file = tmp_path_factory.mktemp("storage") / "optuna.db"
    optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Path, empty_optuna: Path) -> Path:
    """A working folder with a study, and both stores under other names."""
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, tmp_path / "of-mlflow.db")
    shutil.copyfile(empty_optuna, tmp_path / "of-optuna.db")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else b"" for f in folder.rglob("*")}


@dataclass(frozen=True)
class Refusing:
    """Runs commands in a folder that must refuse with exit 2, leaving everything as it was."""

    sweeper: Sweeper
    folder: Path

    def __call__(self, *arguments: str, code: int = 2) -> str:
        before = content(self.folder)
        ended = self.sweeper(self.folder, *arguments)
        assert ended.returncode == code, ended
        assert "Traceback" not in ended.stderr + ended.stdout
        assert content(self.folder) == before
        return " ".join((ended.stdout + ended.stderr).split())


@pytest.fixture
def refused(sweeper: Sweeper, folder: Path, torch_is_asked_once: None, monkeypatch: pytest.MonkeyPatch) -> Refusing:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Refusing(sweeper, folder)


RUN = ("run", "study.yaml", "--executor", "inline")
READERS = (("table", "study.yaml"), ("export", "study.yaml"), ("ui", "--mlflow"))


def remade(name: str, place: str, statement: str) -> Callable[[Path], None]:
    """A store of the folder under the name `place`, changed by a statement."""

    def make(folder: Path) -> None:
        shutil.copyfile(folder / name, folder / place)
        with closing(sqlite3.connect(folder / place)) as database:
            database.execute(statement)
            database.commit()

    return make


def copied(name: str, place: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / place).write_bytes((folder / name).read_bytes())


def stamp(revision: str) -> str:
    return f"update alembic_version set version_num = '{revision}'"


def test_one_new_database_for_both_is_refused_in_every_spelling(refused: Refusing, folder: Path) -> None:
    (folder / "link.db").symlink_to("mlflow.db")
    for url in (
        "sqlite:///mlflow.db",
        f"sqlite:///{folder}/mlflow.db",
        "sqlite+pysqlite:///./mlflow.db",
        "sqlite:///mlflow%2Edb",
        "sqlite:///link.db",
    ):
        said = refused(*RUN, "--storage", url)
        assert "cannot share" in said
        assert "sqlite:///optuna.db" in said


def test_one_old_database_for_both_is_refused(refused: Refusing, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied("of-mlflow.db", "mlflow.db")(folder)
    assert "cannot share" in refused(*RUN, "--storage", "sqlite:///mlflow.db")
    copied("of-optuna.db", "optuna.db")(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///optuna.db")
    assert "cannot share" in refused(*RUN)
    assert "cannot share" in refused("doctor", code=1)


def test_one_database_on_a_server_for_both_is_refused_before_anything_connects(
    refused: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://a:hush-hush@db.invalid/sweeps")
    said = refused(*RUN, "--storage", "postgresql+psycopg2://b:hush-hush@db.invalid:5432/sweeps")
    assert "cannot share" in said
    assert "hush-hush" not in said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(copied("of-optuna.db", "mlflow.db"), "it is Optuna's database", id="optuna"),
        pytest.param(
            lambda f: sqlite3.connect(f / "mlflow.db").execute("create table urls (id)"),
            "another program's database (tables urls)",
            id="stranger",
        ),
        pytest.param(lambda f: (f / "mlflow.db").mkdir(), "is a folder", id="folder"),
        pytest.param(lambda f: (f / "mlflow.db").write_text("notes " * 200), "no database at all", id="text"),
        pytest.param(
            remade("of-mlflow.db", "mlflow.db", stamp("ffff00001111")),
            "made by a newer MLflow (schema ffff00001111, which MLflow",
            id="newer",
        ),
        pytest.param(
            remade("of-mlflow.db", "mlflow.db", stamp("cfd24bdc0731")), "mlflow db upgrade sqlite:///", id="older"
        ),
        pytest.param(
            remade("of-mlflow.db", "mlflow.db", "delete from alembic_version"), "not made to its end", id="half"
        ),
    ],
)
def test_what_is_no_mlflow_store_is_refused_by_every_command(
    refused: Refusing, folder: Path, make: Callable[[Path], Any], said: str
) -> None:
    make(folder)
    for command in (RUN, *READERS):
        assert said in refused(*command)
    assert said in refused("doctor", code=1)


def test_an_older_store_is_not_upgraded_by_reading_it(refused: Refusing, folder: Path) -> None:
    # MLflow upgrades a store that lacks one of its newest tables as soon as it opens it.
    remade("of-mlflow.db", "mlflow.db", stamp("cfd24bdc0731"))(folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("drop table review_queue_items")
        database.commit()
    for command in (RUN, *READERS):
        assert "made by an older MLflow" in refused(*command)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(copied("of-mlflow.db", "optuna.db"), "it is MLflow's database", id="mlflow"),
        pytest.param(
            lambda f: sqlite3.connect(f / "optuna.db").execute("create table trials (id)"),
            "another program's database (tables trials)",
            id="stranger",
        ),
        pytest.param(lambda f: (f / "optuna.db").mkdir(), "is a folder", id="folder"),
        pytest.param(lambda f: (f / "optuna.db").write_text("notes " * 200), "not a database", id="text"),
        pytest.param(
            remade("of-optuna.db", "optuna.db", stamp("v9.0.0.a")),
            "made by a newer Optuna (schema v9.0.0.a, which Optuna",
            id="newer",
        ),
        pytest.param(
            remade("of-optuna.db", "optuna.db", stamp("v3.0.0.d")),
            "optuna storage upgrade --storage sqlite:///",
            id="older",
        ),
    ],
)
def test_what_is_no_optuna_storage_is_refused(
    refused: Refusing, folder: Path, make: Callable[[Path], Any], said: str
) -> None:
    make(folder)
    assert said in refused(*RUN)
    assert said in refused("doctor", code=1)


@pytest.mark.parametrize("url", ["file:./mlruns", "mlruns", "nonsense://x", "http://127.0.0.1:9", "sqlite:///:memory:"])
def test_a_tracking_address_that_cannot_be_used_leaves_nothing(
    refused: Refusing, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    assert "MLFLOW_TRACKING_URI" in refused(*RUN)
    refused("table", "study.yaml")
    refused("doctor", code=1)


@pytest.mark.parametrize("url", ["sqlite:///no/such/folder/optuna.db", "sqlite:///:memory:", "sqlite:////dev/null"])
def test_a_storage_that_cannot_be_leaves_nothing(refused: Refusing, url: str) -> None:
    assert "--storage" in refused(*RUN, "--storage", url)


def test_stores_that_are_there_are_good_and_looked_at_without_a_change(refused: Refusing, folder: Path) -> None:
    copied("of-mlflow.db", "mlflow.db")(folder)
    assert "optuna.db (made by the first sweep)" in refused("doctor", code=0)
    copied("of-optuna.db", "optuna.db")(folder)
    assert "made by" not in refused("doctor", code=0)


def test_an_empty_file_is_a_store_to_be_made(sweeper: Sweeper, folder: Path) -> None:
    (folder / "mlflow.db").touch()
    (folder / "optuna.db").touch()
    assert sweeper(folder, *RUN).returncode == 0


def test_a_database_that_earlier_versions_spoilt_is_named_as_such(empty_optuna: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_optuna, tmp_path / "mlflow.db")
    from mlflow import MlflowClient

    with suppress(Exception):  # as sweeps did: it makes tables until it comes upon Optuna's revision
        MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    with pytest.raises(StoreError, match="was spoilt: tables of Optuna"):
        check_store(sqlite_url(tmp_path / "mlflow.db"))


def test_a_store_with_tables_that_optuna_left_in_it_stays_mlflows(empty_mlflow: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    with suppress(RuntimeError):
        optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/mlflow.db")
    assert check_store(sqlite_url(tmp_path / "mlflow.db"), write=True)
    Tracker(None, tmp_path)
    with pytest.raises(StorageError, match="tables of MLflow"):
        check_storage(sqlite_url(tmp_path / "mlflow.db"))


def test_a_link_to_a_store_that_is_not_there_yet_stays_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "mlflow.db").symlink_to("data/mlflow.db")
    Tracker(None, tmp_path)
    assert (tmp_path / "mlflow.db").is_symlink()
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["mlflow.db"]


def test_a_storage_whose_maker_was_killed_is_made_to_its_end(
    sweeper: Sweeper, folder: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    engine = sqlalchemy.create_engine(sqlite_url(folder / "optuna.db"))
    BaseModel.metadata.create_all(engine, tables=[BaseModel.metadata.tables[OPTUNA.first]])
    engine.dispose()
    assert check_storage(sqlite_url(folder / "optuna.db"))
    assert sweeper(folder, *RUN).returncode == 0
