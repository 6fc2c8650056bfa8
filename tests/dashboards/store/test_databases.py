"""What lies at a database's address, told without writing: against the real MLflow, Optuna and alembic."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from dashboards.store.addresses import sqlite_url
from dashboards.store.databases import MLFLOW, OPTUNA, Contents, Program, Refused, _on_server, check_database, schema


@pytest.mark.parametrize("program", [MLFLOW, OPTUNA])
def test_the_schema_is_what_alembic_finds_in_the_installed_package(program: Program) -> None:
    package = find_spec(program.package)
    assert package is not None
    assert package.submodule_search_locations is not None
    scripts = ScriptDirectory(str(Path(package.submodule_search_locations[0], program.migrations).parent))
    found = schema(program)
    assert found is not None
    assert found.head == scripts.get_current_head()
    assert found.known == {script.revision for script in scripts.walk_revisions()}


def test_a_database_on_a_server_is_read_like_a_file(tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table studies (id int)")
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('v1')")
        database.commit()
    assert _on_server(sqlite_url(file), write=True) == Contents(frozenset({"studies"}), frozenset({"v1"}))


@pytest.mark.parametrize("url", ["postgresql://h:port/db", "sqlite+nodriver:///x.db", "oracle://h", "://"])
def test_an_address_that_no_driver_opens_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(Refused, match="whose driver is installed"):
        check_database(OPTUNA, url)


def test_reading_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table notes (id int)")
    monkeypatch.setattr("os.access", lambda _path, mode: mode == 4)  # root may write everything
    with pytest.raises(Refused, match="another program's database"):
        check_database(MLFLOW, sqlite_url(file))
    with pytest.raises(Refused, match="cannot be written"):
        check_database(MLFLOW, sqlite_url(file), write=True)
