"""Paths and URLs of databases: read as SQLAlchemy reads them, which opens them for MLflow and Optuna."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from dashboards.store.addresses import absolute_url, same_database, sqlite_file, sqlite_url

NAMES = ("a b", "a%20b", "100%", "what?", "a#b", "a&b=c", "it's", 'say "x"', "grün-数", "a:b", "[x]{y}", "a;b", "%3F")
ODD = st.text(st.sampled_from("%?#&{}[]: '\"+=;20a") | st.characters(exclude_categories=["Cs"]), min_size=1)


@given(ODD.filter(lambda name: not set(name) & set("/\0\n\r")))
def test_a_path_comes_back_from_its_url_here_and_in_sqlalchemy(name: str) -> None:
    file = Path("/work folder") / name / "mlflow.db"
    assert sqlite_file(sqlite_url(file)) == file
    assert make_url(sqlite_url(file)).database == str(file)


@pytest.mark.parametrize("name", NAMES)
def test_a_url_that_begins_as_mlflow_knows_it_has_the_path_as_it_is(name: str) -> None:
    # Before it opens one, MLflow makes the parent of what follows `sqlite:///`, without decoding it.
    file = Path("/work") / name / "mlflow.db"
    url = sqlite_url(file)
    assert not url.startswith("sqlite:///") or url == f"sqlite:///{file}"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////tmp/a%20b/mlflow.db",
        "sqlite:///mlflow.db",
        "sqlite:///./100%/m.db",
        "sqlite+pysqlite:////tmp/what%3F.db?timeout=5",
    ],
)
def test_a_url_that_somebody_gives_means_what_sqlalchemy_means_by_it(url: str) -> None:
    assert sqlite_file(url) == Path(str(make_url(url).database))
    absolute = make_url(absolute_url(url, Path("/folder")))
    assert absolute.database == str(Path("/folder") / str(make_url(url).database))
    assert absolute.query == make_url(url).query


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "http://h/x.db"]
)
def test_what_is_no_file_has_none(url: str) -> None:
    assert sqlite_file(url) is None
    assert absolute_url(url, Path("/folder")) == url


def test_a_uri_of_sqlites_own_is_read_and_made_absolute(tmp_path: Path) -> None:
    import sqlalchemy

    (tmp_path / "a%20b").mkdir()
    url = absolute_url("sqlite:///file:a%252520b/x.db?uri=true&mode=rwc", tmp_path)
    with sqlalchemy.create_engine(url).connect() as connection:
        connection.exec_driver_sql("create table a (b)")
    assert sqlite_file(url) == tmp_path / "a%20b" / "x.db"
    assert (tmp_path / "a%20b" / "x.db").exists()


def spelled(url: str, folder: Path) -> str:
    return absolute_url(url.replace("HERE", str(folder)), folder)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///mlflow.db",
        "sqlite:///./mlflow.db",
        "sqlite:///sub/../mlflow.db",
        "sqlite:///HERE/mlflow.db",
        "sqlite+pysqlite:///mlflow.db",
        "sqlite:///mlflow%2Edb",
        "sqlite:///mlflow.db?timeout=5",
        "sqlite:///file:mlflow.db?uri=true",
        "sqlite:///link.db",
        "sqlite:///elsewhere/mlflow.db",
    ],
)
def test_one_file_is_known_in_every_spelling(tmp_path: Path, url: str, there: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.db").symlink_to("mlflow.db")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    if there:
        (tmp_path / "mlflow.db").touch()
    assert same_database(spelled(url, tmp_path), sqlite_url(tmp_path / "mlflow.db"))
    assert not same_database(spelled(url, tmp_path), sqlite_url(tmp_path / "optuna.db"))


def test_a_hard_link_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    os.link(tmp_path / "mlflow.db", tmp_path / "optuna.db")
    assert same_database(sqlite_url(tmp_path / "mlflow.db"), sqlite_url(tmp_path / "optuna.db"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql://a:x@h/db", "postgresql+psycopg2://b@H:5432/db?sslmode=disable", True),
        ("postgresql://127.0.0.1/db", "postgresql://localhost/db", True),
        ("postgresql:///db?host=/var/run/postgresql", "postgresql://localhost/db", True),
        ("mariadb+pymysql://h/db", "mysql://h:3306/db", True),
        ("postgresql://h/one", "postgresql://h/two", False),
        ("postgresql://h/db", "postgresql://h:5433/db", False),
        ("postgresql://h/db?options=-csearch_path%3Da", "postgresql://h/db?options=-csearch_path%3Db", False),
        ("postgresql://h/db", "mysql://h/db", False),
        ("postgresql://h/db", "sqlite:///db", False),
        ("postgresql://h:port/db", "http://h/db", False),
    ],
)
def test_databases_on_servers_are_told_apart_by_server_and_name(one: str, other: str, same: bool) -> None:
    assert same_database(one, other) is same
