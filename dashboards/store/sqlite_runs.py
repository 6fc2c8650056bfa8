"""Reads a study's runs straight from the tables of an MLflow SQLite store; knows no records and does not load MLflow.

MLflow's client makes objects of every row, which takes many times as long. All runs are read at every call and nothing
is remembered, so that what somebody deleted, restored, marked or measured since is never missed.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KNOWN_SCHEMAS = frozenset({"dc11669786a5"})
"""The versions of MLflow's tables that are read here, as its table `alembic_version` names them: that of MLflow 3.17.
Any other is left to MLflow's client, since its tables may look the same and mean something else."""

CHUNK = 500  # runs a transaction: who writes waits for a fraction of a second at most

_EXPERIMENTS = "select experiment_id from experiments where name = ? and lifecycle_stage = 'active'"
_EXPERIMENT_TAGS = """
select t.key, t.value from experiment_tags t join experiments e on e.experiment_id = t.experiment_id where e.name = ?
"""
_EXPERIMENT = "select experiment_id, artifact_location from experiments where name = ?"
# Deleted ones too, the newest first.
_NEWEST = """
select run_uuid, name, status, start_time, end_time, artifact_uri from runs where experiment_id = ?
and exists (select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = ? and tags.value = ?)
order by start_time desc, run_uuid limit ?
"""
# In the order in which MLflow's client gives them.
_RUNS = """
select run_uuid, name, status, start_time, end_time, artifact_uri from runs
where experiment_id = ? and lifecycle_stage = 'active'
and exists (select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = ? and tags.value = ?)
order by start_time, run_uuid
"""
_COUNTED = """
select e.experiment_id, e.name, count(r.run_uuid), max(coalesce(r.end_time, r.start_time)) from experiments e
left join runs r on r.experiment_id = e.experiment_id and r.lifecycle_stage = 'active'
and exists (select 1 from tags t where t.run_uuid = r.run_uuid and t.key = ? and t.value = ?)
where e.lifecycle_stage = 'active' group by e.experiment_id order by e.name
"""
_SIGNS = """
select run_uuid, status, end_time from runs where experiment_id = ? and lifecycle_stage = 'active'
order by start_time, run_uuid
"""
_SIGNING = "select run_uuid, key, value from tags where run_uuid in ({}) and key in ({}) order by key"
_SOME = "select run_uuid, name, status, start_time, end_time, artifact_uri from runs where run_uuid in ({})"
_TAGS = "select run_uuid, key, value from tags where run_uuid in ({})"
_PARAMS = "select run_uuid, key, value from params where run_uuid in ({})"
_METRICS = "select run_uuid, key, value, is_nan from latest_metrics where run_uuid in ({})"


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow keeps it: `status` in its words, of each metric the last value; `started` and `ended` in
    milliseconds since 1970; `artifacts`: where MLflow says its files are, where that was read.
    """

    run_id: str
    name: str | None
    status: str
    started: int | None = None
    ended: int | None = None
    artifacts: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment, deleted or not: its tags, where MLflow says its files are, and its newest runs."""

    tags: dict[str, str]
    artifacts: str | None
    newest: list[StoredRun]


def read_sqlite_runs(file: Path, experiment: str, kind: tuple[str, str]) -> list[StoredRun] | None:
    """All runs of an experiment that are not deleted and have the tag `kind` (key, value), oldest first.

    A run that ends while this reads may still be told as RUNNING. None where the tables are of another version, the
    experiment is missing or deleted, or SQLite cannot read the file: MLflow's client knows then what is wrong.
    """
    try:
        with closing(open_to_read(file)) as database:
            return runs_of(database, experiment, kind)
    except sqlite3.Error:
        return None


def runs_of(database: sqlite3.Connection, experiment: str, kind: tuple[str, str]) -> list[StoredRun] | None:
    """The same by a connection. Raises sqlite3.Error."""
    found = database.execute(_EXPERIMENTS, (experiment,)).fetchall()
    if not _is_known(database) or len(found) != 1:
        return None
    return _filled(database, database.execute(_RUNS, (*found[0], *kind)))


def read_sqlite_tags(file: Path, experiment: str) -> dict[str, str] | None:
    """The tags of an experiment, deleted or not, none where there is no such one. None where `read_sqlite_runs` is."""
    try:
        with closing(open_to_read(file)) as database:
            return tags_of(database, experiment)
    except sqlite3.Error:
        return None


def tags_of(database: sqlite3.Connection, experiment: str) -> dict[str, str] | None:
    """The same by a connection. Raises sqlite3.Error."""
    if not _is_known(database):
        return None
    return dict(database.execute(_EXPERIMENT_TAGS, (experiment,)).fetchall())


@dataclass(frozen=True)
class ListedExperiment:
    """An experiment that is not deleted: its tags, how many runs of the kind it has that are not deleted, and when the
    newest began or ended, in milliseconds since 1970.
    """

    experiment_id: str
    name: str
    tags: dict[str, str]
    runs: int
    last: int | None


def read_sqlite_experiments(file: Path, kind: tuple[str, str]) -> list[ListedExperiment] | None:
    """All experiments, with their runs that have the tag `kind` (key, value). None where `read_sqlite_runs` is."""
    try:
        with closing(open_to_read(file)) as database:
            return experiments_in(database, kind)
    except sqlite3.Error:
        return None


def experiments_in(database: sqlite3.Connection, kind: tuple[str, str]) -> list[ListedExperiment] | None:
    """The same by a connection. Raises sqlite3.Error."""
    if not _is_known(database):
        return None
    tags: dict[int, dict[str, str]] = {}
    for experiment, key, value in database.execute("select experiment_id, key, value from experiment_tags"):
        tags.setdefault(experiment, {})[key] = value
    return [
        ListedExperiment(str(experiment), name, tags.get(experiment, {}), runs, last)
        for experiment, name, runs, last in database.execute(_COUNTED, kind)
    ]


def read_sqlite_experiment(
    file: Path, experiment: str, kind: tuple[str, str], most: Callable[[Mapping[str, str]], int]
) -> list[StoredExperiment] | None:
    """An experiment with its newest runs of that `kind`, deleted ones too, as many as `most` says of its tags; none
    where there is no such one. None where the tables are of another version, or SQLite cannot read the file.
    """
    try:
        with closing(open_to_read(file)) as database:
            found = database.execute(_EXPERIMENT, (experiment,)).fetchall()
            if not _is_known(database) or len(found) > 1:
                return None
            tags = dict(database.execute(_EXPERIMENT_TAGS, (experiment,)).fetchall())
            return [
                StoredExperiment(
                    tags, artifacts, _filled(database, database.execute(_NEWEST, (id_, *kind, most(tags))))
                )
                for id_, artifacts in found
            ]
    except sqlite3.Error:
        return None


def read_signs(database: sqlite3.Connection, experiment: str) -> dict[str, tuple[object, ...]] | None:
    """Run -> its status and its end, of all that are not deleted, oldest first. None where the tables are of another
    version, or there is no such experiment. Raises sqlite3.Error.
    """
    found = database.execute(_EXPERIMENTS, (experiment,)).fetchall()
    if not _is_known(database) or len(found) != 1:
        return None
    return {run: (*sign,) for run, *sign in database.execute(_SIGNS, found[0]).fetchall()}


def read_signing(
    database: sqlite3.Connection, run_ids: Sequence[str], kind: tuple[str, str], keys: Sequence[str]
) -> dict[str, tuple[object, ...]]:
    """Of those of some runs, `CHUNK` at most, that are of a `kind`: their tags of these keys, which with status and end
    change when a run does: of one that ended, a later attempt, a judge or an evaluation leaves a trace there. Raises
    sqlite3.Error.
    """
    query = _SIGNING.format(",".join("?" * len(run_ids)), ",".join("?" * (len(keys) + 1)))
    rows = database.execute(query, (*run_ids, *keys, kind[0])).fetchall()
    ours = {run for run, key, value in rows if (key, value) == kind}
    signs: dict[str, tuple[object, ...]] = dict.fromkeys(ours, ())
    for run, key, value in rows:
        if run in ours and key != kind[0]:
            signs[run] += ((key, value),)
    return signs


def sign_of(run: StoredRun, keys: Sequence[str]) -> tuple[object, ...]:
    """What `read_signs` and `read_signing` say of a run that was read whole."""
    return (run.status, run.ended, *((key, run.tags[key]) for key in sorted(keys) if key in run.tags))


def read_some(database: sqlite3.Connection, run_ids: Sequence[str]) -> list[StoredRun]:
    """Some runs, `CHUNK` at most, whole. Raises sqlite3.Error."""
    return _filled(database, database.execute(_SOME.format(",".join("?" * len(run_ids))), run_ids))


def _is_known(database: sqlite3.Connection) -> bool:
    versions = {version for (version,) in database.execute("select version_num from alembic_version")}
    return bool(versions) and versions <= KNOWN_SCHEMAS


def open_to_read(file: Path) -> sqlite3.Connection:
    """A connection that makes no file and changes no row, and begins a transaction only where it is told to.

    Not opened as read-only: SQLite must be able to take back what a killed process left half written.
    """
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    database.execute("pragma query_only = on")
    return database


def _filled(database: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[StoredRun]:
    """The runs of these rows with their tags, parameters and last metrics."""
    runs = [StoredRun(*row) for row in rows]
    for start in range(0, len(runs), CHUNK):
        _fill(database, {run.run_id: run for run in runs[start : start + CHUNK]})
    return runs


def _fill(database: sqlite3.Connection, runs: Mapping[str, StoredRun]) -> None:
    """Read tags, parameters and last metrics of some runs, in one transaction."""
    ids, marks = list(runs), ",".join("?" * len(runs))
    database.execute("begin")
    # Row by row: lists of them would be kept together for a moment, and be looked through by the collector of garbage.
    for run_id, key, value in database.execute(_TAGS.format(marks), ids):
        runs[run_id].tags[key] = value
    for run_id, key, value in database.execute(_PARAMS.format(marks), ids):
        runs[run_id].params[key] = value
    for run_id, key, value, is_nan in database.execute(_METRICS.format(marks), ids):
        runs[run_id].metrics[key] = math.nan if is_nan else value
    database.execute("commit")  # who writes waits until here
