"""Opens Optuna's storage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from alembic.util import CommandError

from dashboards.store.databases import OPTUNA, schema
from sweeper.search.storage import StorageError, connect_args, refusal, trouble


@contextmanager
def storage_calls(url: str) -> Iterator[None]:
    """Around calls of Optuna: what its database refuses is a StorageError that says what to do."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        raise StorageError(trouble(url, error)) from error


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage, its tables made where there are none. Raises StorageError."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        literal = url.replace("{", "{{").replace("}", "}}")  # Optuna takes the URL for a template
        waits = {"connect_args": connect_args(url)}
        storage = optuna.storages.RDBStorage(literal, waits, skip_compatibility_check=True)
        known = schema(OPTUNA)
        if known is None or storage.get_current_version() != known.head:
            storage = optuna.storages.RDBStorage(literal, waits)  # which says what is wrong, and takes 10 times as long
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
