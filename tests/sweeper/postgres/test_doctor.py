"""`sweeper doctor` and PostgreSQL: what is wrong is told with its remedy, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dashboards.store.connection import StoreError, check_store
from dashboards.store.databases import MLFLOW, OPTUNA, Refused, check_database
from sweeper.search.storage import StorageError, check_storage, check_stores
from tests.services.postgres import PASSWORD, Postgres
from tests.sweeper.postgres.conftest import Databases

pytestmark = pytest.mark.slow


def content(databases: Databases) -> list[list[tuple[str, ...]]]:
    """Everything that is in both databases, as far as tables and rows go."""
    count = "select relname, n_live_tup, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables order by 1"
    return [databases.server.query(name, count) for name in (databases.optuna, databases.mlflow)]


def test_stores_that_can_be_used_are_read_alone(databases: Databases) -> None:
    before = content(databases)
    check_stores(databases.storage, databases.tracking)
    assert content(databases) == before


def test_an_empty_database_is_there_for_the_first_sweep_to_fill(postgres: Postgres) -> None:
    postgres.make("empty")
    for program in (MLFLOW, OPTUNA):
        assert check_database(program, postgres.url("empty"), write=True) is False
    assert not postgres.query("empty", "select relname from pg_stat_user_tables")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param(lambda of: of.url("missing"), 'database "missing" does not exist', id="no such database"),
        pytest.param(
            lambda of: of.url("of_mlflow", password="wrong-one"), "password authentication failed", id="login"
        ),
        pytest.param(
            lambda of: of.url("of_mlflow").replace(str(of.port), "1"), "Connection refused", id="nobody listens"
        ),
        pytest.param(lambda of: of.url("of_optuna"), "it is Optuna's database", id="the other's"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_password(
    postgres: Postgres, url: Callable[[Postgres], str], said: str
) -> None:
    with pytest.raises(StoreError, match=said) as told:
        check_store(url(postgres), write=True)
    assert PASSWORD not in str(told.value)
    assert "wrong-one" not in str(told.value)


def test_an_older_and_a_newer_schema_are_told(databases: Databases) -> None:
    databases.server.query(databases.optuna, "update alembic_version set version_num = 'v3.0.0.d'")
    databases.server.query(databases.mlflow, "update alembic_version set version_num = 'ffff00001111'")
    with pytest.raises(StorageError, match=r"older Optuna.*optuna storage upgrade.*OPTUNA_STORAGE"):
        check_storage(databases.storage)
    with pytest.raises(StoreError, match="made by a newer MLflow"):
        check_store(databases.tracking, write=True)


def test_a_user_without_rights_may_read_or_not_and_is_told_what_it_may_not_do(databases: Databases) -> None:
    server, name = databases.server, databases.mlflow
    server.query(name, "drop role if exists reader")
    server.query(name, "create role reader login password 'for-reading'")
    url = server.url(name, "reader", "for-reading")
    with pytest.raises(StoreError, match=r"may not read the tables .* of the schema public\. Have its owner grant"):
        check_store(url)
    server.query(name, "grant select on all tables in schema public to reader")
    assert check_store(url)
    with pytest.raises(StoreError, match="may not write to the tables"):
        check_store(url, write=True)
    server.query(name, "drop owned by reader; drop role reader")


def test_a_user_who_may_make_no_tables_is_told_before_the_first_sweep(postgres: Postgres) -> None:
    postgres.make("closed")
    postgres.query("closed", "create role guest login password 'let-me-in'")
    with pytest.raises(Refused, match="may not make tables in the schema public"):
        check_database(OPTUNA, postgres.url("closed", "guest", "let-me-in"), write=True)
    with pytest.raises(Refused, match="may use none of the schemas"):
        check_database(OPTUNA, postgres.url("closed") + "?options=-csearch_path%3Dnowhere", write=True)


def test_both_stores_share_no_database_and_may_share_one_with_a_schema_each(postgres: Postgres) -> None:
    url = postgres.url("of_mlflow")
    with pytest.raises(StorageError, match="cannot share"):
        check_stores(url, url.replace("127.0.0.1", "localhost"))
    postgres.make("shared")
    for schema in ("trials", "records"):
        postgres.query("shared", f"create schema {schema}")
    of = {schema: postgres.url("shared") + f"?options=-csearch_path%3D{schema}" for schema in ("trials", "records")}
    check_stores(of["trials"], of["records"])


def test_an_absent_driver_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """In a process that finds no psycopg."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['psycopg'] = None\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
        "MLFLOW_TRACKING_URI": "postgresql+psycopg://me:hush-hush@localhost/mlflow",
        "OPTUNA_STORAGE": "postgresql://me:hush-hush@localhost/optuna",
    }
    command = [sys.executable, "-m", "sweeper", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("pip install 'psycopg[binary]'") == 2
    assert "hush-hush" not in done.stdout + done.stderr
