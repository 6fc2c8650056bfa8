"""Whose a study is: a random id, kept in Optuna's storage, in the runs folder and in the MLflow store.

A store that many share says of a study only that somebody has it; that it is ours, Optuna's storage and the runs folder
say. So the id survives a move of the folder and the loss of any two of the three but the last of those two. Optuna's
storage on a server is one that many share too: there it says so to the user who wrote the mark alone.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import is_on_server, store_uri
from dashboards.store.mlflow_tags import marks_in
from dashboards.store.records import StoredStudy, stored_study
from studies.records.format import FORMAT, refuse_newer, this_version
from studies.text.files import write_whole
from studies.text.redact import redact
from sweeper.folder.names import MARK_FILE
from sweeper.folder.own_folder import read_mark
from sweeper.search.ledger import Ledger
from sweeper.search.storage import StorageError
from trainers.run_folder.results import is_run_folder

if TYPE_CHECKING:
    from sweeper.folder.paths import StudyPaths

LONGEST_NAME = 64  # of a study


class Whose(StrEnum):
    """Whose a study of this name is."""

    NEW = "new"
    OURS = "ours"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Mark:
    """What says whose a study is: its id, who wrote it last and in which folder; and in which format, by which version
    of this program.
    """

    id: str
    owner: str
    folder: str
    format: str
    version: str


@dataclass(frozen=True)
class Found:
    """What one place knows of a study: its mark, and what it holds of it beside that (strata, keys of runs)."""

    mark: Mark | None = None
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Survey:
    """What the three places know of a study. `private`: the MLflow store lies in the working folder and the study in it
    was recorded from there, if it says where, or by the same user on this machine in a folder that is gone. `shared`:
    Optuna's storage is on a server, and another user marked the study there. `stored`: what else MLflow tells of it.
    """

    optuna: Found = Found()
    folder: Found = Found()
    mlflow: Found = Found()
    private: bool = False
    shared: bool = False
    stored: StoredStudy | None = None

    @property
    def own_ids(self) -> frozenset[str]:
        """The ids that the study has in the places that say that it is ours."""
        own = (self.folder,) if self.shared else (self.optuna, self.folder)
        return frozenset(found.mark.id for found in own if found.mark is not None)


class ForeignStudy(Exception):
    """Somebody else's study has this name: says whose it is. `free`: a name that can be taken instead."""

    def __init__(self, text: str, free: str) -> None:
        super().__init__(text)
        self.free = free


def whose(survey: Survey) -> Whose:
    """Whose the study is."""
    own, optuna, folder, mlflow = survey.own_ids, survey.optuna, survey.folder, survey.mlflow
    known = bool(own or optuna.holds or folder.holds)
    if len(own) > 1 or (survey.shared and optuna.mark is not None and optuna.mark.id not in own):
        return Whose.FOREIGN
    if mlflow.mark is not None:
        ours = mlflow.mark.id in own if own else survey.private
        return Whose.OURS if ours else Whose.FOREIGN
    if not mlflow.holds:
        return Whose.OURS if known else Whose.NEW
    # Runs of an earlier version, which wrote no id.
    ours = not folder.holds.isdisjoint(mlflow.holds) if folder.holds else known or survey.private
    return Whose.OURS if ours else Whose.FOREIGN


def survey_study(study: str, where: StudyPaths) -> Survey:
    """What the three places know of a study; writes nothing, makes nothing.

    Raises StoreError and StorageError where a store cannot be read, or is kept in a newer format.
    """
    uri = store_uri(where.tracking, where.folder)
    kept = Ledger(where.storage, study).read()
    stored = stored_study(uri, study)
    optuna = Found(_mark(kept.mark), kept.strata)
    folder = Found(_mark(read_mark(where.runs)), _run_keys(where.runs))
    mlflow = Found(_mark(stored.marks), stored.keys) if stored is not None else Found()
    for mark, place in (
        (optuna.mark, f"Optuna's storage {redact(where.storage)}"),
        (folder.mark, f"the folder {where.runs}"),
    ):
        problem = mark and refuse_newer(mark.format, mark.version, f"The study {study!r} in {place}")
        if problem:
            raise StorageError(problem)
    file, home = sqlite_file(uri), where.folder
    within = file is not None and file.resolve().parent == home.resolve()
    private = within and (mlflow.mark is None or mlflow.mark.folder == redact(str(home)) or _was_moved(mlflow.mark))
    return Survey(optuna, folder, mlflow, private, _is_shared(where.storage, optuna.mark), stored)


def refuse_foreign(study: str, where: StudyPaths) -> Survey:
    """What is known of a study that is ours or new. Raises ForeignStudy, and as `survey_study` does."""
    found = survey_study(study, where)
    if whose(found) is not Whose.FOREIGN:
        return found
    raise ForeignStudy(_owned_by(found, study, where), _free_name(study, where))


def mark_of(survey: Survey, folder: Path) -> Mark:
    """The mark of a study that is ours or new, as this process writes it: a new id where there is none."""
    known = [found.mark.id for found in (survey.optuna, survey.folder, survey.mlflow) if found.mark is not None]
    return Mark(known[0] if known else uuid.uuid4().hex, _owner(), redact(str(folder)), str(FORMAT), this_version())


def write_mark(mark: Mark, study: str, runs: Path, storage: str) -> None:
    """Keep the mark where the study is ours by: first in Optuna's storage, then in the runs folder. The MLflow store
    comes after them, so that a kill in between leaves nothing that nobody owns.

    Raises StorageError and OSError. The caller holds the study's lock and lease.
    """
    Ledger(storage, study).write_mark(asdict(mark))
    if _mark(read_mark(runs)) == mark:
        return
    write_whole(runs / MARK_FILE, json.dumps(asdict(mark), indent=1))


def user() -> str:
    """The login name, or the number of a user without one."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _owner() -> str:
    return str(redact(f"{user()}@{socket.gethostname()}"))


def _is_shared(storage: str, mark: Mark | None) -> bool:
    """Whether the mark of a study lies in a database that many use, and another user wrote it."""
    return is_on_server(storage) and mark is not None and mark.owner.partition("@")[0] != redact(user())


def _was_moved(mark: Mark) -> bool:
    """Whether the folder that a study was recorded in is not there any more, on the machine that it was on."""
    return mark.owner == _owner() and not Path(mark.folder).exists()


def notice_of(study: str, runs: Path, storage: str, uri: str, tags: Mapping[str, str]) -> str | None:
    """What a reader is told of a study that is somebody else's, from its `tags` in the MLflow store; None of one that
    is ours, or that nobody has marked. Raises StorageError.
    """
    mark = _mark(marks_in(tags))
    if mark is None:
        return None
    optuna, file, home = Ledger(storage, study).read(), sqlite_file(uri), Path.cwd()
    within = file is not None and file.resolve().parent == home.resolve()
    private = within and (mark.folder == redact(str(home)) or _was_moved(mark))
    kept = _mark(optuna.mark)
    survey = Survey(Found(kept), Found(_mark(read_mark(runs))), Found(mark), private, _is_shared(storage, kept))
    if whose(survey) is not Whose.FOREIGN:
        return None
    return (
        f"The study {study!r} in the MLflow store {redact(uri)} is of {_who(mark)}, and not of this folder. Runs of "
        f"your own go under a name of their own: --set study={study[: LONGEST_NAME - len(_suffix())]}{_suffix()}"
    )


def _suffix() -> str:
    return "-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", user()) or "mine")


def _free_name(study: str, where: StudyPaths) -> str:
    """The first name after the user's that nobody else has; it may be one that is the user's already."""
    suffix = _suffix()
    number = 1
    while True:
        end = suffix if number == 1 else f"{suffix}-{number}"
        name = study[: LONGEST_NAME - len(end)] + end
        if whose(survey_study(name, replace(where, runs=where.runs.parent / name))) is not Whose.FOREIGN:
            return name
        number += 1


def _owned_by(survey: Survey, study: str, where: StudyPaths) -> str:
    """Whose the study is, in which place, and since when nothing was heard of them."""
    optuna, folder, mlflow = survey.optuna.mark, survey.folder.mark, survey.mlflow.mark
    storage, runs, uri = redact(where.storage), where.runs, redact(store_uri(where.tracking, where.folder))
    if optuna is not None and folder is not None and optuna.id != folder.id:
        return (
            f"Optuna's storage {storage} holds a study {study!r} of {_who(optuna)}, and {runs} another one, of "
            f"{_who(folder)}. Nothing was written. Give the --storage that belongs to this folder, or run it under a "
            "name of its own:"
        )
    last = None if survey.stored is None else survey.stored.last
    heard = "" if last is None else f", last heard of {datetime.fromtimestamp(last).astimezone():%Y-%m-%d %H:%M %Z}"
    if survey.shared and optuna is not None:
        return (
            f"The study {study!r} in Optuna's storage {storage} is of {_who(optuna)}{heard}, and {runs} does not say "
            f"that it is the one of this folder. Nothing was written. To go on with it, put the {MARK_FILE} of its run "
            f"folder into {runs}; else run yours under a name of its own:"
        )
    file = sqlite_file(store_uri(where.tracking, where.folder))
    if mlflow is not None and file is not None and file.resolve().parent == where.folder.resolve():
        there = Path(mlflow.folder)
        kept = there / os.path.relpath(runs, where.folder) / MARK_FILE
        back = (
            f"If this folder is a copy of that one, copy {kept} to {runs}"
            if there.exists()
            else f"If it is that one, moved, move it back to {there}, run it there once, and move it again"
        )
    else:
        back = "If it is, put one of these two back"
    return (
        f"The study {study!r} in the MLflow store {uri} is of {_who(mlflow) if mlflow else _unmarked(survey.stored)}"
        f"{heard}; neither Optuna's storage {storage} nor {runs} says that it is the one of this folder. Nothing was "
        f"written. {back}; else run yours under a name of its own:"
    )


def _who(mark: Mark) -> str:
    return f"{mark.owner} in {mark.folder}"


def _unmarked(stored: StoredStudy | None) -> str:
    """What is known of who recorded a study that an earlier version wrote."""
    names = (stored.user, stored.artifacts) if stored is not None else (None, None)
    name = names[0] or "somebody whose name an earlier version did not keep"
    return name if names[1] is None else f"{name}, with artifacts in {redact(names[1])}"


def _mark(values: Mapping[str, str] | None) -> Mark | None:
    """A mark as it is kept; None where there is none. What a newer version adds is left out."""
    if not values or "id" not in values:
        return None
    return Mark(**{f.name: str(values.get(f.name, "")) for f in fields(Mark)})


def _run_keys(runs: Path) -> frozenset[str]:
    """Keys of the runs that have a folder."""
    return frozenset(run.name for run in runs.glob("*") if is_run_folder(run))
