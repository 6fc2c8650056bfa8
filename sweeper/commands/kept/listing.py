"""The studies that are kept here: those in the stores of a folder, and those with a run folder below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dashboards.store.artifacts import study_artifacts
from dashboards.store.connection import store_uri
from dashboards.store.mlflow_tags import marks_in, seconds
from dashboards.store.records import stored_studies
from dashboards.store.sqlite_runs import ListedExperiment
from studies.text.files import is_folder
from sweeper.commands.kept.removal import size_of
from sweeper.folder.control import is_held
from sweeper.folder.events import Heartbeat, last_events
from sweeper.folder.names import EVENTS_FILE, MARK_FILE
from sweeper.folder.own_folder import read_mark
from sweeper.folder.standing import standing
from trainers.run_folder.results import is_run_folder

State = Literal["running", "stopped", "done", "unknown"]


@dataclass(frozen=True)
class KeptStudy:
    """A study. `done` of `planned` runs, as its last sweep counted them; without one that tells, the runs that MLflow
    has of None. `state`: running, done, stopped with something left to train, or unknown, of an earlier version.
    `changed`: seconds since 1970; `bytes` on disk below this folder; `folder`: of its runs, None where it is not here;
    `owner`: of a study that is somebody else's, in a store that many share.
    """

    name: str
    state: State
    done: int
    planned: int | None
    changed: float | None
    bytes: int
    folder: str | None
    owner: str | None


@dataclass(frozen=True)
class KeptStudies:
    """All studies that are kept here, by name."""

    schema: ClassVar[str] = "ls/1"
    studies: tuple[KeptStudy, ...]


def kept_studies(here: Path) -> KeptStudies:
    """The studies of the store and of the run folders of `here`. Only reads. Raises StoreError."""
    folders = dict(run_folders(here))
    stored = {one.name: one for one in stored_studies(store_uri(None, here))}
    names = sorted({*folders, *stored})
    return KeptStudies(tuple(_kept(here, name, folders.get(name), stored.get(name)) for name in names))


def run_folders(here: Path) -> Iterator[tuple[str, Path]]:
    """Name and run folder of each study that has run in `here`: real folders with the mark of a sweep, one or two
    folders down, as `output.folder` says. Where two have one name, the one in `runs` comes last.
    """
    found = [mark.parent for depth in ("*/*", "*/*/*") for mark in here.glob(f"{depth}/{MARK_FILE}")]
    for runs in sorted(found, key=lambda path: (path.parent == here / "runs", str(path))):
        if is_folder(runs) and read_mark(runs) is not None:
            yield runs.name, runs


def _kept(here: Path, name: str, runs: Path | None, stored: ListedExperiment | None) -> KeptStudy:
    beat = standing(runs) if runs is not None else None
    state: State = "unknown"
    if beat is not None:
        ended = "done" if beat.end is not None and beat.end.how == "finished" else "stopped"
        state = "running" if beat.state == "running" else "done" if ended == "done" else "stopped"
    elif runs is not None and is_held(runs):
        state = "running"
    counted = None if runs is None else _runs_counted(runs)
    mlflow = stored.runs if stored is not None else 0
    own = runs if runs is not None else None
    return KeptStudy(
        name=name,
        state=state,
        done=mlflow if counted is None else counted.done,
        planned=None if counted is None else counted.planned,
        changed=_changed(runs, stored),
        bytes=(0 if own is None else size_of(own)) + size_of_artifacts(here, name),
        folder=None if runs is None else str(runs),
        owner=_owner(here, runs, marks_in(stored.tags) if stored is not None else {}),
    )


def _runs_counted(runs: Path) -> Heartbeat | None:
    """Where the last sweep was when it last counted runs, not what it measures after them."""
    beats = [line.event for line in last_events(runs) if isinstance(line.event, Heartbeat)]
    return next((beat for beat in reversed(beats) if beat.planned and beat.what == "runs"), None)


def size_of_artifacts(here: Path, study: str) -> int:
    """Bytes of what MLflow keeps of a study in files below the folder."""
    place = study_artifacts(here, study)
    return size_of(place) if is_folder(place) else 0


def _changed(runs: Path | None, stored: ListedExperiment | None) -> float | None:
    """When a sweep last wrote something of it."""
    times = [seconds(stored.last)] if stored is not None else []
    if runs is not None:
        for place in (runs / EVENTS_FILE, runs / MARK_FILE, *(run for run in runs.iterdir() if is_run_folder(run))):
            with suppress(OSError):
                times.append(place.lstat().st_mtime)
    return max((time for time in times if time is not None), default=None)


def _owner(here: Path, runs: Path | None, marks: Mapping[str, str]) -> str | None:
    """Who recorded a study that is not of this folder; None of one that is, as far as its marks tell."""
    known = read_mark(runs) if runs is not None else None
    same = known is not None and known.get("id") == marks.get("id")
    if not marks.get("id") or same or marks.get("folder") == str(here):
        return None
    return f"{marks.get('owner', '')} in {marks.get('folder', '')}"
