"""Mends what MLflow has recorded of the artifacts' places after a working folder was renamed, moved or copied: MLflow
would make the old folder again, or write into the one that the copy was made of.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from dashboards.store.addresses import sqlite_file
from dashboards.store.artifacts import recorded, run_artifacts, study_artifacts
from dashboards.store.connection import store_calls
from dashboards.store.mlflow_tags import KIND, SWEEP

_EXPERIMENTS = "select experiment_id, artifact_location from experiments"
_RUNS = """
select run_uuid, artifact_uri, exists (
  select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = :key and tags.value = :value
) from runs where experiment_id = :experiment
"""
_EXPERIMENTS_HAVE = "select artifact_location from experiments"
_RUNS_HAVE = "select run_uuid, artifact_uri from runs"
_MOVE_EXPERIMENT = "update experiments set artifact_location = :place where experiment_id = :id"
_MOVE_RUN = "update runs set artifact_uri = :place where run_uuid = :id"


def are_elsewhere(database: sqlite3.Connection, folder: Path) -> bool:
    """Whether a store names artifacts of another working folder: all in which `mend_artifacts` finds something to do,
    and without MLflow, which takes 2 s to load. Raises sqlite3.Error.
    """
    of_studies = {recorded(location) for (location,) in database.execute(_EXPERIMENTS_HAVE)}
    of_runs = {recorded(location, run) for run, location in database.execute(_RUNS_HAVE)}
    return any(was is not None and was[0] != folder.absolute() for was in of_studies | of_runs)


def mend_artifacts(client: Any, uri: str, folder: Path) -> str | None:
    """Record that artifacts are in the working folder `folder`, and say so in a sentence where that is news.

    A SQLite store in the working folder keeps there what is written from now on, and has there the artifacts that came
    along. Of a store elsewhere only what lay in a working folder that is gone is moved; a server keeps its own.
    Raises StoreError.
    """
    import sqlalchemy

    file, here = sqlite_file(uri), folder.absolute()
    if file is None:
        return None
    own = file.parent.resolve() == folder.resolve()
    left = set[Path]()
    with store_calls(uri), client._tracking_client.store.engine.begin() as database:
        for experiment, location in database.execute(sqlalchemy.text(_EXPERIMENTS)).all():
            was = recorded(location)
            if was is None:
                continue
            if was[0] != here and (own or not was[0].exists()):
                moved = {"place": study_artifacts(here, was[1]).as_uri(), "id": experiment}
                database.execute(sqlalchemy.text(_MOVE_EXPERIMENT), moved)
                left.add(was[0])
            asked = {"experiment": experiment, "key": KIND, "value": SWEEP}
            for run, location, sweep in database.execute(sqlalchemy.text(_RUNS), asked).all():
                was = recorded(location, run)
                if was is None or was[0] == here:
                    continue
                place = run_artifacts(here, was[1], run)
                if not was[0].exists() or (own and (sweep or place.is_dir())):
                    database.execute(sqlalchemy.text(_MOVE_RUN), {"place": place.as_uri(), "id": run})
                    left.add(was[0])
    if not left:
        return None
    old = ", ".join(sorted(map(str, left)))
    return f"This working folder was moved or copied: MLflow had its artifacts in {old}, and has them in {here} now."
