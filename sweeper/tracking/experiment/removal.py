"""The entry of a study in MLflow as it is removed: what it holds, and how it goes for good."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.store.artifacts import study_artifacts
from dashboards.store.connection import StoreError, check_store, connect, store_calls
from dashboards.store.mlflow_tags import KIND, RUN, SWEEP, marks_in
from studies.records import ELSEWHERE
from studies.text.files import is_folder

_ALL = 3  # MLflow's ViewType.ALL: what is deleted already too
_PAGE = 1000
_OURS = (RUN, SWEEP, ELSEWHERE)


@dataclass(frozen=True)
class StoredEntry:
    """What MLflow holds of a study. `runs`: ids of all that sweeps made; `others`: of those that nothing says so of.
    `artifacts`: folders of these runs, where they lie in the working folder; `registered`: versions in the Model
    Registry whose files are among these.
    """

    experiment_id: str
    runs: tuple[str, ...]
    others: tuple[str, ...]
    artifacts: tuple[Path, ...]
    registered: tuple[str, ...]


def find_entry(uri: str, folder: Path, study: str) -> StoredEntry | None:
    """The study's experiment, deleted or not; None where there is none, or one that no sweep has made. Makes nothing.
    Raises StoreError.
    """
    if not check_store(uri):
        return None
    client = connect(uri)
    found, token = [], None
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None or experiment.name != study:  # some databases take capitals for the same
            return None
        while True:
            page = client.search_runs([experiment.experiment_id], "", _ALL, max_results=_PAGE, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
    made = [run.info.run_id for run in found if run.data.tags.get(KIND) in _OURS]
    if not made and not marks_in(experiment.tags):
        return None
    others = [run.info.run_id for run in found if run.data.tags.get(KIND) not in _OURS]
    with store_calls(uri):
        registered = _registered(client, set(made))
    return StoredEntry(
        experiment.experiment_id, tuple(made), tuple(others), _artifacts(folder, study, made), registered
    )


def _registered(client: Any, runs: Collection[str]) -> tuple[str, ...]:
    """NAME/VERSION of every model that was made of these runs."""
    found, token = [], None
    while True:
        page = client.search_model_versions(page_token=token)
        found += [f"{version.name}/{version.version}" for version in page if version.run_id in runs]
        token = page.token
        if not token:
            return tuple(sorted(found))


def _artifacts(folder: Path, study: str, runs: Collection[str]) -> tuple[Path, ...]:
    """The folders of these runs in the place that a sweep in `folder` gives them; none through a link."""
    place = study_artifacts(folder, study)
    if not is_folder(place):
        return ()
    return tuple(place / run for run in runs if is_folder(place / run))


def remove_entry(uri: str, folder: Path, study: str, entry: StoredEntry) -> None:
    """Remove the experiment with its runs, for good where the store is a database or files of this machine.

    A server only hides what it deletes, and gives it back with its name: there the experiment is renamed first.
    Raises StoreError, and OSError for files that cannot be removed.
    """
    if entry.others:
        raise StoreError(f"The MLflow experiment {study!r} holds runs that no sweep has made. Nothing was removed.")
    client = connect(uri)
    with store_calls(uri):
        hidden = client.get_experiment(entry.experiment_id).lifecycle_stage == "deleted"
        store = client._tracking_client.store
        if not hasattr(store, "_hard_delete_experiment"):
            if hidden:
                client.restore_experiment(entry.experiment_id)
            client.rename_experiment(entry.experiment_id, f"{study} (removed {time.strftime('%Y-%m-%d %H:%M:%S')})")
            client.delete_experiment(entry.experiment_id)
            return
        if not hidden:
            client.delete_experiment(entry.experiment_id)
        for place in entry.artifacts:  # before the rows by which a removal that was killed finds them again
            shutil.rmtree(place)
        for run in entry.runs:  # what `mlflow gc` does
            store._hard_delete_run(run)
        store._hard_delete_experiment(entry.experiment_id)
    with suppress(OSError):  # something else lies in it
        study_artifacts(folder, study).rmdir()
