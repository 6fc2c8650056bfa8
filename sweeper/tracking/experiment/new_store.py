"""A new database for MLflow, there whole or not at all; knows nothing of what is written to it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dashboards.store.addresses import sqlite_file, sqlite_url
from dashboards.store.connection import StoreError, check_store, connect, store_calls
from sweeper.search.storage import one_maker

_ASIDE = ".new"


def make_store(uri: str) -> None:
    """Where `uri` names a SQLite file that is not there or empty, make MLflow's tables beside it and put them there as
    a whole.

    MLflow makes them in dozens of steps, which SQLite does not take back: what dies among them leaves a file that
    MLflow refuses from then on ("duplicate column name"). Whoever calls this keeps other sweeps from the folder
    (`sweeper.folder.control.one_at_a_time`). What MLflow cannot make here it says in its own words when the store is
    opened. On a PostgreSQL server one sweep makes them while others wait.
    """
    place = sqlite_file(uri)
    if uri.startswith("postgresql") and not check_store(uri):
        with store_calls(uri), one_maker(uri):
            connect(uri)
    if place is None or (place.exists() and place.stat().st_size):
        return
    file = place.resolve()  # where a link leads
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        return
    _remove_left(file)
    aside = file.with_name(f"{file.name}{_ASIDE}")
    try:
        client = connect(sqlite_url(aside))
    except StoreError:
        _remove_left(file)
        return
    client._tracking_client.store.engine.dispose()
    os.replace(aside, file)


def _remove_left(file: Path) -> None:
    """Remove what a sweep left that died here, and what SQLite had beside it."""
    for beside in ("", "-journal", "-wal", "-shm"):
        file.with_name(f"{file.name}{_ASIDE}{beside}").unlink(missing_ok=True)
