"""Connects to an MLflow store, and tells what is wrong with one."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from dashboards.store.addresses import absolute_url, patient_url, sqlite_file, sqlite_url
from dashboards.store.artifacts import misplaced
from dashboards.store.databases import MLFLOW, Refused, check_database, is_lost
from studies.text.lines import first_line
from studies.text.redact import redact

REACH_SECONDS = 5.0


REQUEST_SECONDS = 15  # whole, as MLflow reads it


class StoreError(Exception):
    """A store that cannot be used as asked: says what is wrong with which store and what to do."""


class StoreMissing(StoreError):
    """There is no such store, or it does not hold the study."""


class StoreAway(StoreError):
    """The store does not answer now and may later: a server that is gone, slow or fails, a locked database."""


class StoreRefused(StoreError):
    """The store answers that it will not take this, now or later: a run that somebody deleted, a bad value."""


def store_uri(uri: str | None, folder: Path) -> str:
    """Where MLflow's records are: `uri`, else MLFLOW_TRACKING_URI, else `mlflow.db` in `folder`; absolute.

    Always absolute, since MLflow resolves a relative one against the folder a process happens to be in, and prefers
    a stray `mlruns` there.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return absolute_url(given, folder) if given else sqlite_url(folder / "mlflow.db")


def check_store(uri: str, *, write: bool = False) -> bool:
    """Whether the store is there; False where nothing is yet. `write`: it is to be written as well.

    Only reads. Raises StoreError where MLflow could not use it as it is.
    """
    if not is_database(uri):
        place = _folder_store(uri)
        if place is not None and not place.exists() and not write:
            return False
        connect(uri)
        return True
    try:
        return check_database(MLFLOW, uri, write=write)
    except Refused as error:
        raise StoreError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        raise _as_store_error(uri, str(error), "INTERNAL_ERROR") from error
    except _errors_of_servers() as error:
        raise StoreAway(f"MLflow's database {redact(uri)} does not answer: {redact(_first_line(error))}.") from error


def _errors_of_servers() -> type[Exception]:
    """What a database on a server raises, asked for once something has been: it takes .1 s to load."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def is_database(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def is_on_server(uri: str) -> bool:
    """Whether it is a database, and not in a file."""
    return is_database(uri) and not uri.startswith("sqlite")


def _folder_store(uri: str) -> Path | None:
    """The folder of a store of files, None for any other kind of store."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return None if ":" in uri else Path(uri)


def connect(uri: str) -> Any:
    """An MlflowClient of the store, quiet and without MLflow's usage reports; makes its tables where there are none.

    Raises StoreError where MLflow cannot use the store. MLflow takes 2 s to import, hence only here.
    """
    if is_database(uri):
        check_store(uri)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that a server is told of
    check_reachable(uri)
    from mlflow import MlflowClient

    # What it logs of a failed query, with a traceback, is said in a sentence by `store_calls`.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        with store_calls(uri):
            client = MlflowClient(tracking_uri=patient_url(uri))
            client.search_experiments(max_results=1)
    except StoreRefused as error:  # it refuses everything, so that it is no store
        raise StoreError(unusable(redact(uri), redact(str(error.__cause__)))) from error
    _keep_artifacts_in_place(client, uri)
    return client


def _keep_artifacts_in_place(client: Any, uri: str) -> None:
    """Have the client write the files of a run to no folder of this machine but the one that MLflow makes for it: where
    that is stands in the store, which a stranger may have written. Its calls raise StoreRefused for other folders. What
    lies on another machine (`s3:` and the like) is MLflow's own to reach. Raises StoreError for an unknown MLflow.
    """
    tracking: Any = getattr(client, "_tracking_client", None)
    find = getattr(tracking, "_get_artifact_repo", None)  # MLflow has no public name for it
    if find is None:
        import mlflow

        raise StoreError(
            f"MLflow {mlflow.__version__} is not known here: where it would write files of runs cannot be checked. "
            f"Install an earlier one: pip install 'mlflow<{mlflow.__version__}'"
        )

    def found(run_id: str, **of_model: Any) -> Any:
        repository = find(run_id, **of_model)
        wrong = None if of_model else _wrong_place(repository, run_id)
        if wrong is not None:
            place = redact(repository.artifact_uri)
            raise StoreRefused(
                f"The MLflow store {redact(uri)} says that files of run {run_id} are in {place}, {wrong}. "
                "Nothing was written there: who gave you this store? Begin with one of your own."
            )
        return repository

    tracking._get_artifact_repo = found


def _wrong_place(repository: Any, run_id: str) -> str | None:
    """Why MLflow may not keep files of a run in one of its repositories; None where it may."""
    folder = getattr(repository, "artifact_dir", None)  # of a folder on this machine
    if folder is not None:
        return misplaced(Path(folder), run_id)
    if urlsplit(repository.artifact_uri).scheme in ("runs", "models"):
        return "which names the place of something else"  # and so may be a folder here
    return None


@contextmanager
def store_calls(uri: str) -> Iterator[None]:
    """Around calls of MLflow: each is answered within `REQUEST_SECONDS`, and its errors are StoreErrors.

    MLflow tries a server again for minutes, in silence. That can be changed by environment variables alone, which are
    read at every call: they are set here where the user has not set them, and put back.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS)}
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        if is_lost(uri, error):
            raise StoreAway(f"MLflow's database {redact(uri)} does not answer: {_first_line(error)}.") from error
        code = str(error.error_code) if isinstance(error, MlflowException) else "INTERNAL_ERROR"
        raise _as_store_error(uri, str(error), code) from error
    except CommandError as error:
        raise _as_store_error(uri, str(error), "INTERNAL_ERROR") from error
    except OSError as error:
        raise StoreAway(f"MLflow at {redact(uri)} cannot be written: {_first_line(error)}.") from error
    finally:
        for name in ours:
            os.environ.pop(name, None)


_NEVER_TAKEN = frozenset(
    {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"}
)


def _as_store_error(uri: str, reason: str, code: str) -> StoreError:
    """What MLflow's error means for somebody who writes to it or reads from it."""
    shown, file = redact(uri), sqlite_file(uri)
    first = redact(_first_line(reason))
    if file is not None and any(words in reason for words in ("not a database", "malformed", "file is encrypted")):
        return StoreError(
            f"The MLflow store {file} is damaged, or no database at all ({first}). Put a copy of it back, or move it "
            "away and run the study again: what is finished is written anew from the results in the study's run "
            "folder, not trained again."
        )
    if file is not None and "readonly database" in reason:
        return StoreError(f"The MLflow store {file} cannot be written: make it and its folder writable.")
    if file is not None and ("locked" in reason or "disk I/O error" in reason or "is full" in reason):
        return StoreAway(f"The MLflow store {file} cannot be written now ({first}).")
    if urlsplit(uri).scheme in ("http", "https") or (code == "TEMPORARILY_UNAVAILABLE" and file is None):
        if code in _NEVER_TAKEN:
            return StoreRefused(f"MLflow at {shown} does not take it: {first}.")
        return StoreAway(f"MLflow at {shown} does not answer as it should: {first}.")
    if code in _NEVER_TAKEN and "SQLAlchemy" not in reason and "sqlite3" not in reason:
        return StoreRefused(f"MLflow at {shown} does not take it: {first}.")
    return StoreError(unusable(shown, redact(reason)))


def _first_line(error: object) -> str:
    return first_line(redact(str(error)), "no reason given")[:500]  # redacted before a secret is cut in two


def check_reachable(uri: str) -> None:
    """Raise StoreError for a server that nothing listens at: MLflow would try it again for minutes, in silence."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or getproxies().get(address.scheme):
        return
    try:
        place = (address.hostname or "", address.port or {"http": 80, "https": 443}[address.scheme])
        socket.create_connection(place, timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
        raise StoreAway(
            f"The MLflow server at {shown} cannot be reached: {error}. Start it, or correct MLFLOW_TRACKING_URI."
        ) from error


def unusable(uri: str, reason: str) -> str:
    """What to say of a store that MLflow refused."""
    return (
        f"MLflow cannot use the store {uri}: {_first_line(reason)} "
        f"Give a store that it can, such as {MLFLOW.example}, in MLFLOW_TRACKING_URI."
    )
