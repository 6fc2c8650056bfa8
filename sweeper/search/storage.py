"""The stores of a sweep: whether they can be used, what to say where Optuna's cannot, and opening that.

Optuna is imported by the functions that call it: whoever only checks a store need not wait for it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from dashboards.store.addresses import absolute_url, patient_url, same_database, sqlite_url
from dashboards.store.connection import check_store
from dashboards.store.databases import MLFLOW, OPTUNA, Refused, check_database, driver_problem, schema, shown
from studies.text.redact import redact

if TYPE_CHECKING:
    import optuna

_MAKING = 5_177_401_923  # the number of a lock of ours: any will do that no other program takes
# SQLite makes a table and its index one after the other. Where Optuna was killed between them it never makes the index,
# and two studies get one name.
_UNIQUE_NAMES = "CREATE UNIQUE INDEX IF NOT EXISTS ix_studies_study_name ON studies (study_name)"
PATIENCE_SECONDS = 60.0  # for another writer of the same SQLite file


def storage_url(given: str | None, folder: Path) -> str:
    """Optuna's storage: what is given, else the variable that Optuna's own commands read, else a file in `folder`."""
    url = given or os.environ.get(OPTUNA.variable)
    return absolute_url(url, folder) if url else sqlite_url(folder / "optuna.db")


class StorageError(Exception):
    """Optuna's storage cannot be used: says which, why and what would be valid."""


def check_storage(url: str) -> bool:
    """Whether Optuna's database is there; False where nothing is yet.

    Only reads. Raises StorageError where Optuna could not use it as it is.
    """
    try:
        return check_database(OPTUNA, url, write=True)
    except Refused as error:
        raise StorageError(str(error)) from error
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise StorageError(trouble(url, error)) from error


def check_stores(storage: str, tracking: str) -> None:
    """Check both stores of a sweep, given by their absolute URLs, before it makes or writes anything.

    Only reads. Raises StorageError or StoreError, saying which store cannot be used, why and what to do.
    """
    check_apart(storage, tracking)
    check_storage(storage)
    check_store(tracking, write=True)


def check_apart(storage: str, tracking: str) -> None:
    """Raise StorageError where both addresses, which must be absolute, lead to one database. Opens nothing."""
    if same_database(storage, tracking):
        raise StorageError(
            f"Optuna (--storage) and MLflow (MLFLOW_TRACKING_URI) cannot share {shown(storage)}: both keep "
            "the version of their tables in a table of the same name, and would spoil it for each other. Give each a "
            f"database of its own; where nothing is given these are {OPTUNA.example} and {MLFLOW.example}."
        )


def trouble(url: str, error: Exception) -> str:
    """What to say of a database that cannot be read or written now."""
    shown, reason = _shown(url), reason_of(error)
    if "locked" in reason:
        remedy = "Another program holds it: end that one (a database browser?), then run the study again."
    elif "disk" in reason or "full" in reason or "readonly" in reason:
        remedy = "Make room on its disk and its folder writable, then run the study again."
    elif "malformed" in reason or "not a database" in reason:
        remedy = (
            "It is damaged: put a copy of it back, or move it away and run the study again. What is finished is taken "
            "from the results in the study's run folder, not trained again."
        )
    else:
        remedy = "Look after the database, then run the study again."
    return f"Optuna's storage {shown} cannot be used: {reason}. {remedy}"


def reason_of(error: Exception) -> str:
    """What a database says of an error, in a line; Optuna and others wrap it."""
    return str(redact(str(error.__cause__ or error))).partition("\n")[0].rstrip(".")


def refusal(url: str, error: Exception) -> str:
    """What to say of a database that cannot be opened at all."""
    return f"--storage: Optuna cannot use {_shown(url)}: {driver_problem(OPTUNA, url, error)}"


def _shown(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.SQLAlchemyError:
        return "what was given"


def connect_args(url: str) -> dict[str, Any]:
    """How long a SQLite connection waits for another writer."""
    return {"timeout": PATIENCE_SECONDS} if url.startswith("sqlite") else {}


@contextmanager
def one_maker(url: str) -> Iterator[None]:
    """Keep other sweeps, of whatever machine, from making tables in the same PostgreSQL database meanwhile: Optuna and
    MLflow both fail on that. Ends with the connection. Raises SQLAlchemyError.
    """
    if not url.startswith("postgresql"):
        yield
        return
    engine = sqlalchemy.create_engine(patient_url(url), poolclass=sqlalchemy.pool.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_MAKING)))
        yield


@contextmanager
def storage_calls(url: str) -> Iterator[None]:
    """Around calls of Optuna: what its database refuses is a StorageError that says what to do."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
        raise StorageError(trouble(url, error)) from error


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage, its tables made where there are none. Raises StorageError."""
    import optuna
    from alembic.util import CommandError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        literal = patient_url(url).replace("{", "{{").replace("}", "}}")  # Optuna takes the URL for a template
        waits = {"connect_args": connect_args(url), "pool_pre_ping": not url.startswith("sqlite")}
        storage = optuna.storages.RDBStorage(literal, waits, skip_compatibility_check=True)
        known = schema(OPTUNA)
        if known is None or storage.get_current_version() != known.head:
            storage = optuna.storages.RDBStorage(literal, waits)  # which says what is wrong, and takes 10 times as long
        if url.startswith("sqlite"):
            with storage.engine.begin() as connection:
                connection.execute(sqlalchemy.text(_UNIQUE_NAMES))
    except sqlalchemy.exc.DatabaseError as error:
        troubled = any(word in str(error) for word in ("locked", "malformed", "not a database", "readonly", "full"))
        raise StorageError(trouble(url, error) if troubled else refusal(url, error)) from error
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.OptunaError,
        CommandError,
        RuntimeError,
        OSError,
    ) as error:
        raise StorageError(refusal(url, error)) from error
    if url.startswith("sqlite"):
        # One writer, and MLflow holds the results: a commit need not wait for the disk, and a reader (the
        # dashboard) must not block the sweep. https://sqlite.org/pragma.html#pragma_synchronous
        def pragmas(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        sqlalchemy.event.listen(storage.engine, "connect", pragmas)
        storage.engine.dispose()
    return storage
