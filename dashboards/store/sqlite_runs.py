"""Reads a study's runs straight from the tables of an MLflow SQLite store; knows no records and does not load MLflow.

MLflow's client makes objects of every row, which takes many times as long. All runs are read at every call and nothing
is remembered, so that what somebody deleted, restored, marked or measured since is never missed.

They are read in short pieces (`Reading`), between which others write: each run is as it was at one moment of the call,
and one that ends, begins or is deleted meanwhile may be told as it was before.
"""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

KNOWN_SCHEMAS = frozenset({"dc11669786a5"})
"""The versions of MLflow's tables that are read here, as its table `alembic_version` names them: that of MLflow 3.17.
Any other is left to MLflow's client, since its tables may look the same and mean something else."""

CHUNK = 500  # runs a transaction: who writes waits for a fraction of a second at most
PAGE = 1000  # runs that are listed at once: a few milliseconds, which fit between the commits of a fast sweep
_LAST: Final = "\U0010ffff"  # after every id

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
_LISTED = "select experiment_id, name from experiments where lifecycle_stage = 'active' order by name"
# Pages of runs: by their ids, which nothing changes, as it may the number of a row.
_BOUND = "select run_uuid from runs where run_uuid > ? order by run_uuid limit 1 offset ?"
_RUNS = """
select run_uuid, name, status, start_time, end_time, artifact_uri from runs
where run_uuid > ? and run_uuid <= ? and experiment_id = ? and lifecycle_stage = 'active'
and exists (select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = ? and tags.value = ?)
"""
_COUNTED = """
select experiment_id, count(*), max(coalesce(end_time, start_time)) from runs
where run_uuid > ? and run_uuid <= ? and lifecycle_stage = 'active'
and exists (select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = ? and tags.value = ?)
group by experiment_id
"""
_SIGNS = """
select run_uuid, start_time, status, end_time from runs
where run_uuid > ? and run_uuid <= ? and experiment_id = ? and lifecycle_stage = 'active'
"""
_SIGNING = "select run_uuid, key, value from tags where run_uuid in ({}) and key in ({}) order by key"
_SOME = "select run_uuid, name, status, start_time, end_time, artifact_uri from runs where run_uuid in ({})"
_TAGS = "select run_uuid, key, value from tags where run_uuid in ({})"
_PARAMS = "select run_uuid, key, value from params where run_uuid in ({})"
_METRICS = "select run_uuid, key, value, is_nan from latest_metrics where run_uuid in ({})"
_HISTORY = "select step, value, is_nan from metrics where run_uuid = ? and key = ? order by timestamp, step, value"

Value = TypeVar("Value")


class Reading(Protocol):
    """Has a short piece read by a connection. Raises sqlite3.Error."""

    def __call__(self, piece: Callable[[sqlite3.Connection], Value], /) -> Value:
        """What it finds."""


def by(database: sqlite3.Connection) -> Reading:
    """By a connection as it is."""

    def read(piece: Callable[[sqlite3.Connection], Value], /) -> Value:
        return piece(database)

    return read


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
            return runs_of(by(database), experiment, kind)
    except sqlite3.Error:
        return None


def runs_of(read: Reading, experiment: str, kind: tuple[str, str], chunk: int = CHUNK) -> list[StoredRun] | None:
    """The same, of so many runs at once. Raises sqlite3.Error."""
    number = read(partial(_number_of, experiment=experiment))
    if number is None:
        return None
    runs = [StoredRun(*row) for row in _in_pages(read, _RUNS, number, *kind)]
    runs.sort(key=lambda run: _place(run.started, run.run_id))
    for start in range(0, len(runs), chunk):
        some = runs[start : start + chunk]
        runs[start : start + chunk] = read(partial(_fill, runs=some))
    return runs


def read_sqlite_some(file: Path, run_ids: Sequence[str]) -> list[StoredRun] | None:
    """Some runs, also deleted ones. None where the tables are of another version, or SQLite cannot read the file."""
    try:
        with closing(open_to_read(file)) as database:
            return some_of(by(database), run_ids)
    except sqlite3.Error:
        return None


def some_of(read: Reading, run_ids: Sequence[str], chunk: int = CHUNK) -> list[StoredRun] | None:
    """The same, so many at once. Raises sqlite3.Error."""
    found: list[StoredRun] = []
    if not read(_is_known):
        return None
    for start in range(0, len(run_ids), chunk):
        found += read(partial(read_some, run_ids=run_ids[start : start + chunk]))
    return found


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


def read_sqlite_history(file: Path, run_id: str, name: str) -> list[tuple[int, float]] | None:
    """Step and value of all that was logged of a metric of a run, by step. None where `read_sqlite_some` is."""
    try:
        with closing(open_to_read(file)) as database:
            return history_of(database, run_id, name)
    except sqlite3.Error:
        return None


def history_of(database: sqlite3.Connection, run_id: str, name: str) -> list[tuple[int, float]] | None:
    """The same by a connection. Raises sqlite3.Error."""
    if not _is_known(database):
        return None
    rows = database.execute(_HISTORY, (run_id, name)).fetchall()
    return sorted((step, math.nan if is_nan else value) for step, value, is_nan in rows)


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
            return experiments_in(by(database), kind)
    except sqlite3.Error:
        return None


def experiments_in(read: Reading, kind: tuple[str, str]) -> list[ListedExperiment] | None:
    """The same in pieces. Raises sqlite3.Error."""
    experiments = read(_experiments)
    if experiments is None:
        return None
    runs: dict[int, int] = defaultdict(int)
    lasts: dict[int, list[int]] = defaultdict(list)
    for number, counted, last in _in_pages(read, _COUNTED, *kind):
        runs[number] += counted
        lasts[number] += [] if last is None else [last]
    return [
        ListedExperiment(str(number), name, tags, runs[number], max(lasts[number], default=None))
        for number, name, tags in experiments
    ]


def _experiments(database: sqlite3.Connection) -> list[tuple[int, str, dict[str, str]]] | None:
    if not _is_known(database):
        return None
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for number, key, value in database.execute("select experiment_id, key, value from experiment_tags"):
        tags[number][key] = value
    return [(number, name, tags[number]) for number, name in database.execute(_LISTED).fetchall()]


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


def read_signs(read: Reading, experiment: str) -> dict[str, tuple[object, ...]] | None:
    """Run -> its status and its end, of all that are not deleted, oldest first. None where the tables are of another
    version, or there is no such experiment. Raises sqlite3.Error.
    """
    number = read(partial(_number_of, experiment=experiment))
    if number is None:
        return None
    rows = sorted(_in_pages(read, _SIGNS, number), key=lambda row: _place(row[1], row[0]))
    return {run: (*sign,) for run, _, *sign in rows}


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


@dataclass(frozen=True)
class SqliteReader:
    """How SQLite files are read: here with locks, for which writers wait. None where SQLite alone cannot say."""

    runs: Callable[[Path, str, tuple[str, str]], list[StoredRun] | None] = read_sqlite_runs
    some: Callable[[Path, Sequence[str]], list[StoredRun] | None] = read_sqlite_some
    tags: Callable[[Path, str], dict[str, str] | None] = read_sqlite_tags
    history: Callable[[Path, str, str], list[tuple[int, float]] | None] = read_sqlite_history


WITH_LOCKS: Final = SqliteReader()


def _number_of(database: sqlite3.Connection, experiment: str) -> int | None:
    """An experiment's number; None where the tables are of another version, or there is no such one."""
    found = database.execute(_EXPERIMENTS, (experiment,)).fetchall()
    return found[0][0] if _is_known(database) and len(found) == 1 else None


def _in_pages(read: Reading, query: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a query that asks for the runs between two ids, `PAGE` runs at once."""
    found, after = list[tuple[Any, ...]](), ""
    while after != _LAST:
        rows, after = read(partial(_page, query=query, values=values, after=after))
        found += rows
    return found


def _page(
    database: sqlite3.Connection, query: str, values: tuple[object, ...], after: str
) -> tuple[list[tuple[Any, ...]], str]:
    """The rows of the runs that follow on an id, and the last one's; `_LAST` where none is left."""
    bound = database.execute(_BOUND, (after, PAGE - 1)).fetchone()
    until = _LAST if bound is None else bound[0]
    return database.execute(query, (after, until, *values)).fetchall(), until


def _place(started: int | None, run_id: str) -> tuple[bool, int, str]:
    """Of a run among others, in the order in which MLflow's client gives them."""
    return started is not None, started or 0, run_id


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
    return [run for start in range(0, len(runs), CHUNK) for run in _fill(database, runs[start : start + CHUNK])]


def _fill(database: sqlite3.Connection, runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Some runs with their tags, parameters and last metrics, in one transaction. A torn read leaves none behind."""
    filled = [replace(run, tags={}, params={}, metrics={}) for run in runs]
    of, ids, marks = {run.run_id: run for run in filled}, [run.run_id for run in runs], ",".join("?" * len(runs))
    database.execute("begin")
    # Row by row: lists of them would be kept together for a moment, and be looked through by the collector of garbage.
    for run_id, key, value in database.execute(_TAGS.format(marks), ids):
        of[run_id].tags[key] = value
    for run_id, key, value in database.execute(_PARAMS.format(marks), ids):
        of[run_id].params[key] = value
    for run_id, key, value, is_nan in database.execute(_METRICS.format(marks), ids):
        of[run_id].metrics[key] = math.nan if is_nan else value
    database.execute("commit")  # who writes waits until here
    return filled
