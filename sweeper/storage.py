"""The address of Optuna's database: whether it can be used, and what to say where it cannot. Knows no Optuna."""

from __future__ import annotations

from typing import Any

import sqlalchemy

PATIENCE_SECONDS = 60.0  # for another writer of the same SQLite file


class StorageError(Exception):
    """Optuna's storage cannot be used: says which, why and what would be valid."""


def check_storage(url: str) -> None:
    """Raise StorageError for a URL that no driver here can open; touches neither files nor the network."""
    try:
        sqlalchemy.make_url(url).get_dialect().import_dbapi()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise StorageError(refusal(url, error)) from error


def trouble(url: str, error: Exception) -> str:
    """What to say of a database that cannot be read or written now."""
    shown, reason = _shown(url), str(error.__cause__ or error).partition(chr(10))[0]
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


def refusal(url: str, error: Exception) -> str:
    """What to say of a database that cannot be opened at all."""
    return (
        f"--storage: Optuna cannot use {_shown(url)}: {str(error).partition(chr(10))[0]} Give the URL of a database "
        "that is there and whose driver is installed, as sqlite:///optuna.db or postgresql+psycopg2://user@host/name."
    )


def _shown(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.SQLAlchemyError:
        return "what was given"


def connect_args(url: str) -> dict[str, Any]:
    """How long a SQLite connection waits for another writer."""
    return {"timeout": PATIENCE_SECONDS} if url.startswith("sqlite") else {}
