"""Finds runs again by an id, or by variant and trial, and says where what is kept of them lies."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dashboards.store.connection import store_uri
from dashboards.store.records import load_records, stored_studies
from dashboards.store.sqlite_runs import ListedExperiment
from studies.records import RunRecord
from studies.text.files import is_folder
from sweeper.commands.kept.listing import run_folders
from sweeper.folder.names import LOGS
from trainers.run_folder.results import ADAPTER

UI = ("127.0.0.1", 5000)  # where `sweeper ui` listens
LOOK_SECONDS = 0.5


class NoSuchRun(Exception):
    """No run is called so: says what there is."""


@dataclass(frozen=True)
class FoundRun:
    """A run and where it is kept: its folder, its adapter, the log of its worker (a file where the run names one, else
    the folder of all logs), each None where it is not there; and the address of its MLflow page.
    """

    run_id: str
    key: str
    study: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    state: str
    cause: str | None
    folder: str | None
    log: str | None
    adapter: str | None
    page: str


@dataclass(frozen=True)
class FoundRuns:
    """The runs that were asked for. `ui`: whether a server answers at the address of their pages."""

    schema: ClassVar[str] = "open/1"
    ui: bool
    runs: tuple[FoundRun, ...]


def find_runs(here: Path, asked: str, study: str | None) -> FoundRuns:
    """The runs with an id (MLflow's, or the key that names the run's folder), or of `VARIANT/TRIAL`.

    `study`: look in this one alone. Raises NoSuchRun and StoreError.
    """
    uri = store_uri(None, here)
    stored = [one for one in stored_studies(uri) if study in (None, one.name)]
    if not stored:
        raise NoSuchRun(f"There is no study {study!r} here." if study else "No study is kept here.")
    address = uri if uri.startswith(("http://", "https://")) else f"http://{UI[0]}:{UI[1]}"
    folders = dict(run_folders(here))
    found = [
        _found(one, record, folders.get(one.name), address)
        for one in stored
        for record in _named(load_records(uri, one.name), asked)
    ]
    if not found:
        where = f"the study {study!r}" if study else f"these studies: {', '.join(one.name for one in stored)}"
        raise NoSuchRun(
            f"{asked} is no run of {where}. Give the id of an MLflow run, the name of a run's folder, or a variant and "
            "the number of a trial, as sigmoid/3."
        )
    return FoundRuns(address == uri or _answers(), tuple(found))


def _named(records: Sequence[RunRecord], asked: str) -> Iterator[RunRecord]:
    variant, slash, trial = asked.rpartition("/")
    for record in records:
        if asked in (record.run_id, record.key) or (slash and (record.variant, str(record.trial)) == (variant, trial)):
            yield record


def _found(of: ListedExperiment, record: RunRecord, runs: Path | None, address: str) -> FoundRun:
    folder = runs / record.key if runs is not None and is_folder(runs / record.key) else None
    adapter = folder / ADAPTER if folder is not None and is_folder(folder / ADAPTER) else None
    log = record.facts.get("log")
    if log is None and runs is not None and is_folder(runs / LOGS):
        log = str(runs / LOGS)
    return FoundRun(
        run_id=record.run_id,
        key=record.key,
        study=of.name,
        variant=record.variant,
        scenario=record.scenario,
        trial=record.trial,
        block=record.block,
        seed=record.seed,
        state=record.state.value,
        cause=None if record.cause is None else record.cause.value,
        folder=None if folder is None else str(folder),
        log=log,
        adapter=None if adapter is None else str(adapter),
        page=f"{address}/#/experiments/{of.experiment_id}/runs/{record.run_id}",
    )


def _answers() -> bool:
    """Whether something listens where `sweeper ui` does."""
    with suppress(OSError):
        socket.create_connection(UI, timeout=LOOK_SECONDS).close()
        return True
    return False
