"""Says whether a database can be MLflow's or Optuna's before anything is written to it: by its tables' names, the
revision of its schema and the rights of its user, reading alone. Loads neither program.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.store.addresses import patient_url, sqlite_file
from dashboards.store.sqlite_runs import open_to_read
from studies.text.lines import first_line_of
from studies.text.redact import redact

if TYPE_CHECKING:
    import sqlalchemy

_REVISION = re.compile(r"""^(down_)?revision(?:\s*:[^=\n]*)?\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_PLAIN = ("sqlite:///", "sqlite+pysqlite:///")  # with the driver that Python brings along
_NAMED = 3  # of a stranger's tables, so many are named
_SERVER = "postgresql+psycopg://user@host/name"  # as a URL is told by an example
_GRANT = "Have its owner grant that, or name another user in the URL."
_INSTALLED_BY = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "pymysql": "PyMySQL"}
# Of PostgreSQL: the schema that tables are looked for and made in, whether they may be made, and rights on those there.
_SCHEMA = "select current_schema(), has_schema_privilege(current_schema(), 'create')"
_RIGHTS = """
select relname, has_table_privilege(oid, 'select'), has_table_privilege(oid, 'insert')
and has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete')
from pg_class where relnamespace = to_regnamespace(quote_ident(current_schema())) and relkind in ('r', 'p')
"""


class Refused(Exception):
    """A database that cannot be what it is asked to be: says which, why and what to do."""


@dataclass(frozen=True)
class Program:
    """Who keeps a database: how its store is called, tables that it always has, the one that is made first, where its
    migrations lie, how it upgrades a database, and how people name the database to us; in which variable, where others
    must not read it.
    """

    name: str
    package: str
    store: str
    tables: frozenset[str]
    first: str
    migrations: str
    upgrade: str
    given: str
    variable: str
    example: str


MLFLOW = Program(
    name="MLflow",
    package="mlflow",
    store="MLflow store",
    tables=frozenset({"experiments", "runs"}),
    first="experiments",
    migrations="store/db_migrations/versions",
    upgrade="mlflow db upgrade {}",
    given="MLFLOW_TRACKING_URI=",
    variable="MLFLOW_TRACKING_URI",
    example="sqlite:///mlflow.db",
)
OPTUNA = Program(
    name="Optuna",
    package="optuna",
    store="Optuna storage",
    tables=frozenset({"studies", "version_info"}),
    first="studies",
    migrations="storages/_rdb/alembic/versions",
    upgrade="optuna storage upgrade --storage {}",
    given="--storage ",
    variable="OPTUNA_STORAGE",
    example="sqlite:///optuna.db",
)


@dataclass(frozen=True)
class Contents:
    """What a database holds: names of tables, beside alembic's own, and what alembic calls the schema. `denied`: what
    its user may not do with it and must.
    """

    tables: frozenset[str]
    revisions: frozenset[str]
    denied: str = ""

    def of(self, program: Program) -> bool:
        """Whether it has the program's tables, or the first of them alone, as where its maker was killed."""
        return program.tables <= self.tables or self.tables == {program.first}


@dataclass(frozen=True)
class Schema:
    """The revisions of its schema that the installed program knows, and the one that it works with."""

    head: str
    known: frozenset[str]


def check_database(program: Program, url: str, *, write: bool = False) -> bool:
    """Whether the program's store is there; False where nothing is yet, and the program may make it.

    `write`: it is to be written as well. Raises Refused; sqlite3.Error, SQLAlchemyError or OSError where the database
    does not answer.
    """
    file = sqlite_file(url)
    if url.startswith("sqlite") and file is None and _has_driver(program, url):
        raise Refused(f"{program.given}{url} is kept in memory alone and gone with the process. {_another(program)}")
    if not url.startswith(_PLAIN):
        _has_driver(program, url)
    if file is not None:
        _check_place(program, file, write=write)
    found = _contents(file, url, write=write)
    if found.denied:
        raise Refused(f"The {program.store} {shown(url)} cannot be used: its user {found.denied}. {_GRANT}")
    if not found.tables and not found.revisions:
        return False
    _check_owner(program, url, found)
    _check_revision(program, url, found)
    return True


def shown(url: str) -> str:
    """A database as it is told to people: its file, or its URL without a password."""
    file = sqlite_file(url)
    return str(redact(url)) if file is None else str(file)


def word(program: Program, url: str) -> str:
    """A database as a word of a command to copy. Where its URL holds a secret, the variable that is to hold it: a shell
    refuses the command while it is not set.
    """
    return shlex.quote(url) if redact(url) == url else f'"${{{program.variable}:?}}"'


def is_lost(url: str, error: BaseException) -> bool:
    """Whether an error, or one that it comes of, says that a database on a server went away or took too long, so that
    the same may succeed later. Programs wrap what the driver raises.
    """
    from sqlalchemy import exc

    if sqlite_file(url) is not None or url.startswith("sqlite"):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, exc.OperationalError | exc.InterfaceError | exc.PendingRollbackError | exc.TimeoutError):
            return True
        if isinstance(cause, exc.DBAPIError) and cause.connection_invalidated:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@cache
def schema(program: Program) -> Schema | None:
    """What the installed program knows; None where its migrations are kept in another way than is known here."""
    spec = find_spec(program.package)
    texts = [
        file.read_text(encoding="utf-8")
        for place in (spec.submodule_search_locations if spec else None) or ()
        for file in Path(place, program.migrations).glob("*.py")
    ]
    lines = [found for text in texts for found in _REVISION.findall(text)]
    known = frozenset(revision for down, revision in lines if not down)
    heads = known - {revision for down, revision in lines if down}
    return Schema(next(iter(heads)), known) if len(heads) == 1 else None


def _has_driver(program: Program, url: str) -> bool:
    """Raises Refused for a URL that no driver here can open."""
    import sqlalchemy

    try:
        sqlalchemy.make_url(url).get_dialect().import_dbapi()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        why = driver_problem(program, url, error)
        raise Refused(f"{program.given.strip(' =')}: {program.name} cannot use {redact(url)}: {why}") from error
    return True


def driver_problem(program: Program, url: str, error: Exception) -> str:
    """Why no driver here opens a URL, and what to do: install it, where that is all."""
    driver = url.partition("://")[0].partition("+")[2] or ("psycopg" if url.startswith("postgresql:") else "")
    reason = first_line_of(error).rstrip(".")
    if isinstance(error, ImportError) and driver in _INSTALLED_BY:
        return f"{reason}. Its driver is missing: pip install '{_INSTALLED_BY[driver]}'"
    return (
        f"{reason}. Give the URL of a database that is there and whose driver is installed, as {program.example} or "
        f"{_SERVER}."
    )


def _check_place(program: Program, file: Path, *, write: bool) -> None:
    """Raises Refused where no file can be, or one that cannot be used."""
    name = f"The {program.store} {file}"
    if file.exists():
        if file.is_dir():
            raise Refused(f"{name} is a folder, where a database is a file. {_another(program)}")
        if not stat.S_ISREG(file.stat().st_mode):
            raise Refused(f"{name} is no regular file. {_another(program)}")
        if not os.access(file, os.R_OK):
            raise Refused(f"{name} cannot be read: make it readable. {_another(program)}")
        if write and not (os.access(file, os.W_OK) and os.access(file.resolve().parent, os.W_OK)):
            raise Refused(f"{name} cannot be written: make it and its folder writable. {_another(program)}")
    elif write:
        parent = Path(os.path.realpath(file)).parent
        if program is MLFLOW:  # makes the folders
            parent = next(place for place in (parent, *parent.parents) if place.exists())
        if not parent.is_dir():
            raise Refused(f"{name} cannot be made: there is no folder {parent}. Make it. {_another(program)}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise Refused(f"{name} cannot be made: {_why_not_written(parent)}. {_another(program)}")


def _why_not_written(folder: Path) -> str:
    """A folder that cannot be written, as the system would say it."""
    read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return f"{folder} lies on a Read-only file system" if read_only else f"{folder} cannot be written (its permissions)"


def _contents(file: Path | None, url: str, *, write: bool) -> Contents:
    """Tables and revision. A file that is not there, or is empty, holds none."""
    if file is None:
        return _on_server(url, write=write)
    if not file.exists():
        return Contents(frozenset(), frozenset())
    with closing(open_to_read(file)) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        stamped = "alembic_version" in tables
        found = database.execute("select version_num from alembic_version").fetchall() if stamped else []
    own = {name for name in tables if not name.startswith("sqlite_")} - {"alembic_version"}
    return Contents(frozenset(own), frozenset(str(revision) for (revision,) in found))


def _on_server(url: str, *, write: bool) -> Contents:
    """The same of a database on a server, in a transaction that PostgreSQL lets write nothing."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(patient_url(url), poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        if engine.name == "postgresql":
            connection = connection.execution_options(postgresql_readonly=True)
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        denied = _denied(connection, tables, write=write) if engine.name == "postgresql" else ""
        stamped = "alembic_version" in tables and not denied
        query = sqlalchemy.text("select version_num from alembic_version")
        found = [str(revision) for (revision,) in connection.execute(query)] if stamped else []
    return Contents(frozenset(tables - {"alembic_version"}), frozenset(found), denied)


def _denied(connection: sqlalchemy.Connection, tables: Collection[str], *, write: bool) -> str:
    """What the user of a PostgreSQL database may not do there and must, "" where nothing is."""
    import sqlalchemy

    ((schema_, may_make),) = connection.execute(sqlalchemy.text(_SCHEMA)).all()
    if schema_ is None:
        return "may use none of the schemas that its search_path names, or they are not there"
    if write and not tables and not may_make:
        return f"may not make tables in the schema {schema_}"
    rights = connection.execute(sqlalchemy.text(_RIGHTS)).all()
    kept = sorted(name for name, may_read, may_write in rights if not (may_read and (may_write or not write)))
    named = ", ".join(kept[:_NAMED]) + (", ..." if len(kept) > _NAMED else "")
    return f"may not {'write to' if write else 'read'} the tables {named} of the schema {schema_}" if kept else ""


def _check_owner(program: Program, url: str, found: Contents) -> None:
    """Raises Refused for a database that belongs to the other of the two, to both, or to somebody else."""
    other = OPTUNA if program is MLFLOW else MLFLOW
    theirs = schema(other)
    stamped_by_other = theirs is not None and bool(found.revisions & theirs.known)
    whose = f"{other.name}'s database"
    if found.of(program) and not stamped_by_other and (program is MLFLOW or not found.of(other)):
        return
    if found.of(MLFLOW) and found.of(OPTUNA):
        if stamped_by_other or program is MLFLOW:
            raise Refused(
                f"The {program.store} {shown(url)} was spoilt: tables of {other.name} were made in it as well. Move it "
                "away, or put a copy of it back, and run the study again: what is finished is written anew from the "
                "results in the study's run folder, not trained again."
            )
    elif not found.of(other) and not stamped_by_other:
        named = ", ".join(sorted(found.tables)[:_NAMED]) + (", ..." if len(found.tables) > _NAMED else "")
        whose = f"another program's database (tables {named})" if found.tables else "another program's database"
    raise Refused(f"There is no {program.store} at {shown(url)}: it is {whose}. {_another(program)}")


def _check_revision(program: Program, url: str, found: Contents) -> None:
    """Raises Refused for a schema that the installed program does not work with."""
    ours = schema(program)
    if ours is None or found.revisions == {ours.head}:
        return
    name, installed = f"The {program.store} {shown(url)}", f"{program.name} {version(program.package)}"
    if not found.revisions:
        if program is OPTUNA:  # names its revision last, and does so where a killed process did not
            return
        raise Refused(
            f"{name} has no revision of its schema, so that it was not made to its end. Move it away and run the study "
            "again: what is finished is written anew from the results in the study's run folder, not trained again."
        )
    revision = ", ".join(sorted(found.revisions))
    if found.revisions <= ours.known:
        raise Refused(
            f"{name} was made by an older {program.name} (schema {revision}; {installed} works with {ours.head}). Stop "
            "everything that uses it, copy it to a safe place, then run: "
            f"{program.upgrade.format(word(program, url))}"
        )
    raise Refused(
        f"{name} was made by a newer {program.name} (schema {revision}, which {installed} does not know). Upgrade "
        f"{program.package}, or use another store. {_another(program)}"
    )


def _another(program: Program) -> str:
    return f"Give {program.name} a database of its own, as with {program.given}sqlite:///FILE."
