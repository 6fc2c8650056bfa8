"""A new SQLite store for MLflow, there whole or not at all; knows nothing of what is written to it."""

from __future__ import annotations

import os
from pathlib import Path

from dashboards.load import StoreError, connect, sqlite_file

_ASIDE = ".new"


def make_store(uri: str) -> None:
    """Where `uri` names a SQLite file that is not there, make MLflow's tables beside it and put them there as a whole.

    MLflow makes them in dozens of steps, which SQLite does not take back: what dies among them leaves a file that
    MLflow refuses from then on ("duplicate column name"). Whoever calls this keeps other sweeps from the folder
    (`sweeper.session.one_at_a_time`). What MLflow cannot make here it says in its own words when the store is opened.
    """
    file = sqlite_file(uri)
    if file is None or file.exists() or not os.access(file.parent, os.W_OK):
        return
    _remove_left(file)
    try:
        client = connect(uri + _ASIDE)
    except StoreError:
        _remove_left(file)
        return
    client._tracking_client.store.engine.dispose()
    os.replace(f"{file}{_ASIDE}", file)


def _remove_left(file: Path) -> None:
    """Remove what a sweep left that died here, and what SQLite had beside it."""
    for left in file.parent.glob(f"{file.name}{_ASIDE}*"):
        left.unlink()
