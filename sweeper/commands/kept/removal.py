"""Removes all that is kept of one study: its MLflow experiment, its Optuna studies, its run folder.

Whose it is, is asked as `sweeper run` asks it, and names are compared exactly. MLflow goes first and the mark in the
run folder and in Optuna last, so that a removal that was killed can be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dashboards.store.connection import store_uri
from dashboards.store.databases import shown
from studies.text.files import is_folder
from studies.text.plural import so_many
from sweeper.folder.cleanup import divided, remove_ours
from sweeper.folder.control import lock, one_at_a_time
from sweeper.folder.names import MARK_FILE
from sweeper.folder.own_folder import refuse_foreign_folder
from sweeper.folder.paths import StudyPaths
from sweeper.ownership.lease import hold, watch
from sweeper.ownership.owner import refuse_foreign
from sweeper.search.ledger import Ledger
from sweeper.search.storage import check_stores
from sweeper.tracking.experiment.removal import StoredEntry, find_entry, remove_entry
from trainers.run_folder.results import is_run_folder


class NotRemovable(Exception):
    """The study cannot be removed: says why, and what to do."""


@dataclass(frozen=True)
class Removal:
    """What is kept of a study and goes with it, or has gone (`removed`). `mlflow_runs` and `optuna_studies` with their
    `optuna_trials` are in these stores; `folder` holds the files of `folder_runs` runs. Bytes: of the runs' artifacts
    and of the files. `stays`: what lies in the folder and no sweep has made.
    """

    schema: ClassVar[str] = "rm/1"
    study: str
    removed: bool
    mlflow: str
    mlflow_runs: int
    artifact_bytes: int
    optuna: str
    optuna_studies: int
    optuna_trials: int
    folder: str
    folder_runs: int
    folder_bytes: int
    stays: tuple[str, ...]


def look(study: str, where: StudyPaths) -> Removal:
    """What would go with a study. Writes nothing.

    Raises NotRemovable, ForeignStudy and ForeignFolder; StoreError and StorageError for a store that cannot be written.
    """
    refuse_foreign_folder(where.runs)
    uri = store_uri(where.tracking, where.folder)
    check_stores(where.storage, uri)
    refuse_foreign(study, where)
    entry, entries = find_entry(uri, where.folder, study), Ledger(where.storage, study).entries()
    ours, others = divided(where.runs)
    if entry is not None and entry.others:
        raise NotRemovable(
            f"The MLflow experiment {study!r} in {shown(uri)} holds {so_many(len(entry.others), 'run')} that no sweep "
            f"has made, such as {entry.others[0]}: move or delete these in MLflow first. Nothing was removed."
        )
    if entry is not None and entry.registered:
        raise NotRemovable(
            f"MLflow's Model Registry holds {', '.join(entry.registered)}, whose files lie with the runs of {study!r} "
            "and would go with them: delete these versions in MLflow first. Nothing was removed."
        )
    if entry is None and not entries and not ours:
        raise NotRemovable(f"Nothing is kept of a study {study!r} here. `sweeper ls` lists those that are there.")
    return Removal(
        study=study,
        removed=False,
        mlflow=shown(uri),
        mlflow_runs=0 if entry is None else len(entry.runs),
        artifact_bytes=0 if entry is None else sum(map(size_of, entry.artifacts)),
        optuna=shown(where.storage),
        optuna_studies=len(entries),
        optuna_trials=sum(entries.values()),
        folder=str(where.runs),
        folder_runs=sum(map(is_run_folder, ours)),
        folder_bytes=sum(map(size_of, ours)),
        stays=tuple(str(path) for path in others),
    )


def remove(study: str, where: StudyPaths, say: Callable[[str], None]) -> None:
    """Remove what `look` finds now, while nobody else can run the study.

    Raises what `look` raises, AlreadyRunning while a sweep runs, and OSError.
    """
    ledger = Ledger(where.storage, study)
    with _nobody_else(ledger, where, say) as check:
        look(study, where)
        uri = store_uri(where.tracking, where.folder)
        entry: StoredEntry | None = find_entry(uri, where.folder, study)
        if entry is not None:
            remove_entry(uri, where.folder, study, entry)
        check()
        ours, others = divided(where.runs)
        strata = [name for name in ledger.entries() if name.count("/") == 2]
        ledger.remove(strata)
        # Beside others' files the mark stays, by which a later sweep knows the folder for its own.
        remove_ours([path for path in ours if not (others and path.name == MARK_FILE)])
        ledger.remove([name for name in ledger.entries() if name.count("/") == 1])


@contextmanager
def _nobody_else(ledger: Ledger, where: StudyPaths, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the study as a sweep does, as far as there is anything to hold it by."""
    dead = watch(ledger, say)
    with ExitStack() as held:
        if is_folder(where.runs):
            held.enter_context(lock(where.runs))
        check: Callable[[], None] = _nothing
        if ledger.entries():
            with one_at_a_time(where.folder):
                ledger.make()
            check = held.enter_context(hold(ledger, where.folder, dead, say)).check
        yield check


def _nothing() -> None:
    """There is no lease that could be lost."""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder, through no link; what cannot be read counts nothing."""
    try:
        if not is_folder(path):
            return path.lstat().st_size
        return sum(map(size_of, path.iterdir()))
    except OSError:
        return 0
