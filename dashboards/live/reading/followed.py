"""Follows the runs of a study in an MLflow store: reads those alone that are new or have changed, and writes nothing.

In a SQLite file a look costs nothing while nobody has written, and short queries where somebody has. They take no lock
(see `unlocked.py`), so that no writer waits; where others write all the time, a lock for as long as one of them takes.
Other stores are asked for the runs that began, ended or train since the last look, and for all every few minutes,
since MLflow does not say what somebody has deleted or measured again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dashboards.live.reading.database import CHUNK, Database, OpenFile, reader_by
from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import connect, store_calls
from dashboards.store.histories import load_study_text
from dashboards.store.mlflow_tags import KIND, MEASURED_BY, RUN, SUPERSEDED, to_record
from dashboards.store.records import read_runs, stored
from dashboards.store.sqlite_runs import (
    SqliteReader,
    StoredRun,
    read_signing,
    read_signs,
    read_some,
    sign_of,
    tags_of,
)
from studies.records import RunRecord

SIGNS: Final = 500  # runs of which it is read at once whether they have changed
ALL_SECONDS: Final = 300.0  # after which a store that is no SQLite file is read whole again
_SIGNING: Final = ("state", SUPERSEDED, MEASURED_BY)
_RUNNING: Final = ("RUNNING", "SCHEDULED")

Value = TypeVar("Value")
HowFar = Callable[[int, int], None]
"""Is told how many runs are read, of how many."""


class Followed:
    """The records of one study. Belongs to one thread."""

    def __init__(self, uri: str, study: str) -> None:
        self._uri, self._study = uri, study
        self._records: dict[str, RunRecord] = {}
        self._signs: dict[str, tuple[object, ...]] = {}
        self._others: set[str] = set()  # runs of another kind, which they stay
        self._version: object = None
        self._read_all = 0.0
        self._open = OpenFile()
        self.tags: Mapping[str, str] = {}
        self.reads = 0

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The runs as `dashboards.store.records.load_records` gives them."""
        return tuple(self._records.values())

    def look(self, tell: HowFar = lambda _read, _all: None) -> bool:
        """Read what is new; whether anything was. Raises StoreError."""
        file = sqlite_file(self._uri)
        if file is not None:
            changed = self._look_at_file(file, tell)
            if changed is not None:
                return changed
        return self._ask_client()

    def study_text(self, folder: Path) -> str:
        """The study as its last sweep was asked it, "" where none is kept. Raises StoreError."""
        return load_study_text(self._uri, self._study, folder, self.reader)

    @property
    def reader(self) -> SqliteReader:
        """Reads the rest of the store as its runs are read: without a lock where that can be."""
        return reader_by(self._open.find)

    def close(self) -> None:
        """Close what is open."""
        self._open.close()

    def _look_at_file(self, file: Path, tell: HowFar) -> bool | None:
        """See `look`; None where SQLite alone cannot say."""
        try:
            database = self._open.of(file)
            if database is None:
                return None
            if (version := database.version()) == self._version:
                return False
            ended = read_signs(database.read, self._study)
            if ended is None:
                return None
            signs = self._read_signs(database, ended)
            stale = [
                run for run in ended if run not in self._others and _is_stale(signs.get(run), self._signs.get(run))
            ]
            gone, taken = self._signs.keys() - ended.keys(), dict[str, tuple[object, ...]]()
            for start in range(0, len(stale), CHUNK):
                tell(start, len(stale))
                taken |= self._take_new(database.read(partial(read_some, run_ids=stale[start : start + CHUNK])))
            tags = database.read(partial(tags_of, experiment=self._study)) or {}
        except sqlite3.Error:
            return None
        self._signs, self._version = signs | taken, version
        self._keep(ended)
        changed = bool(taken or gone or tags != self.tags)
        self.tags = tags
        return changed

    def _read_signs(self, database: Database, ended: Mapping[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
        """Run -> what changes when it does, of those that are known. Raises sqlite3.Error."""
        signs: dict[str, tuple[object, ...]] = {}
        runs = [run for run in ended if run in self._signs]
        for start in range(0, len(runs), SIGNS):
            some = runs[start : start + SIGNS]
            tags = database.read(partial(read_signing, run_ids=some, kind=(KIND, RUN), keys=_SIGNING))
            signs |= {run: (*ended[run], *tags[run]) for run in some if run in tags}
        return signs

    def _take_new(self, found: Sequence[StoredRun]) -> dict[str, tuple[object, ...]]:
        """Take those that are runs of the study; what changes when each of them does, as it was read with the rest."""
        ours = [run for run in found if run.tags.get(KIND) == RUN]
        self._others |= {run.run_id for run in found if run.tags.get(KIND, RUN) != RUN}
        self._take(ours)
        return {run.run_id: sign_of(run, _SIGNING) for run in ours}

    def _ask_client(self) -> bool:
        """See `look`, by MLflow's client."""
        client = connect(self._uri)
        with store_calls(self._uri):
            experiment = client.get_experiment_by_name(self._study)
            if experiment is None or experiment.lifecycle_stage != "active":
                changed = bool(self._records)
                self._records.clear()
                return changed
            before = dict(self._records)
            if time.monotonic() - self._read_all > ALL_SECONDS:
                found = list(read_runs(client, experiment.experiment_id))
                self._read_all, self._records = time.monotonic(), {}
            else:
                found = _newer(client, experiment.experiment_id, self._records)
        self._take(found)
        changed = before != self._records or dict(experiment.tags) != self.tags
        self.tags = dict(experiment.tags)
        return changed

    def _take(self, runs: Sequence[StoredRun]) -> None:
        self.reads += len(runs)
        for run in runs:
            if SUPERSEDED in run.tags:
                self._records.pop(run.run_id, None)
                continue
            self._records[run.run_id] = to_record(self._study, run)

    def _keep(self, signs: Mapping[str, object]) -> None:
        """Drop what is deleted, and keep the order of the store."""
        self._records = {run: self._records[run] for run in signs if run in self._records}


def _is_stale(sign: tuple[object, ...] | None, known: tuple[object, ...] | None) -> bool:
    return sign is None or sign != known or sign[0] in _RUNNING


def _newer(client: Any, experiment_id: str, known: Mapping[str, RunRecord]) -> list[StoredRun]:
    """Runs that train, and those that began or ended since the newest that is known."""
    began = max((record.started or 0.0 for record in known.values()), default=0.0)
    ended = max((record.ended or 0.0 for record in known.values()), default=0.0)
    found: dict[str, StoredRun] = {}
    for condition in (
        "attributes.status = 'RUNNING'",
        f"attributes.start_time >= {int(began * 1000)}",
        f"attributes.end_time >= {int(ended * 1000)}",
    ):
        token = None
        while True:
            page = client.search_runs(
                [experiment_id], f"tags.{KIND} = '{RUN}' and {condition}", max_results=1000, page_token=token
            )
            found |= {run.info.run_id: stored(run) for run in page}
            token = page.token
            if not token:
                break
    return list(found.values())
