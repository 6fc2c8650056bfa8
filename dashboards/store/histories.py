"""Reads what a report shows beside the records: curves, samples and the study as it was asked; writes nothing.

Everything here costs a query a run or more, so that it is read of the few runs that are shown.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dashboards.store.addresses import sqlite_file
from dashboards.store.artifacts import found_here
from dashboards.store.connection import StoreError, StoreRefused, connect, store_calls
from dashboards.store.mlflow_tags import KIND, SWEEP
from dashboards.store.records import view_page
from dashboards.store.sqlite_runs import WITH_LOCKS, SqliteReader, StoredRun
from studies.records import SAMPLES, Shown
from studies.records.speed import SPEED_FILE, Speed, read_speed
from studies.samples.kept import SAMPLES_FOLDER, SCORES_FILE, KeptScores, scores_from_text
from studies.text.redact import redact

STUDY_FILE = "study.yaml"

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Run id -> metric -> (step, value), by step."""


@dataclass(frozen=True)
class StudySource:
    """A study as MLflow has it: its file, and the address of its page, None where MLflow has no server."""

    text: str
    page: str | None


def load_curves(uri: str, run_ids: Iterable[str], names: Sequence[str], read: SqliteReader = WITH_LOCKS) -> Curves:
    """The histories of some metrics of some runs; a run or a metric without one is not in it.

    One query each: MLflow's public interface has no other. Does not load MLflow where SQLite has
    them.
    """
    file, client = sqlite_file(uri), None
    found: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for run_id in dict.fromkeys(run_ids):
        for name in names:
            points = None if file is None or not file.is_file() else read.history(file, run_id, name)
            if points is None:
                client = client or connect(uri)
                points = _history(client, uri, run_id, name)
            if points:
                found.setdefault(run_id, {})[name] = points
    return found


def _history(client: Any, uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    with store_calls(uri):
        return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def load_samples(
    uri: str,
    run_ids: Iterable[str],
    folder: Path,
    files: Mapping[str, str] = {},
    read: SqliteReader = WITH_LOCKS,
) -> dict[str, tuple[Shown, ...]]:
    """The samples before and after training of those runs that keep some. `folder`: the working folder, which may have
    been moved with them; `files`: run id -> the artifact that they are in, where it is not that of the last
    measurement. Does not load MLflow where SQLite and files have them. Raises StoreError where they were edited.
    """
    asked = list(dict.fromkeys(run_ids))
    text_of = _kept_texts(uri, asked, folder, read)
    found = {}
    for run_id in asked:
        name = files.get(run_id, SAMPLES)
        text = text_of(run_id, name)
        if text is None:
            continue
        try:
            found[run_id] = tuple(Shown.model_validate(shown) for shown in json.loads(text))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"The artifact {name} of MLflow run {run_id} cannot be read: {error}. Artifacts that `sweeper run` "
                "wrote must stay as they were; delete this one, and the report goes without it."
            ) from error
    return found


def load_kept_scores(
    uri: str, run_ids: Iterable[str], folder: Path, read: SqliteReader = WITH_LOCKS
) -> dict[str, KeptScores]:
    """What judges gave all samples of those runs that keep them; `folder` as for `load_samples`. Does not load MLflow
    where SQLite and files have it. Raises StoreError where they were edited.
    """
    asked = list(dict.fromkeys(run_ids))
    name, text_of = f"{SAMPLES_FOLDER}/{SCORES_FILE}", _kept_texts(uri, asked, folder, read)
    found: dict[str, KeptScores] = {}
    for run_id in asked:
        text = text_of(run_id, name)
        try:
            found |= {} if text is None else {run_id: scores_from_text(text)}
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"The artifact {name} of MLflow run {run_id} cannot be read: {error}. Artifacts that `sweeper run` "
                "wrote must stay as they were; delete this one, and the run is compared without its samples."
            ) from error
    return found


def _places(uri: str, run_ids: Sequence[str], folder: Path, read: SqliteReader) -> dict[str, Path] | None:
    """Where the artifacts of runs are, where SQLite and folders of this machine have all of them."""
    file = sqlite_file(uri)
    if file is None or (runs := read.some(file, run_ids)) is None:
        return None
    places = {run.run_id: place for run in runs if (place := _folder_of(run, folder)) is not None}
    return places if len(places) == len(runs) else None


def _kept_texts(uri: str, run_ids: Sequence[str], folder: Path, read: SqliteReader) -> Callable[[str, str], str | None]:
    """Finds the text of an artifact of one of these runs by the run's id and the artifact's name, None where it has
    none. By SQLite and files where these have all of them, else by MLflow, which is asked for once. Raises StoreError.
    """
    places = _places(uri, run_ids, folder, read)
    if places is None:
        client = connect(uri)
        return lambda run_id, name: _artifact(client, uri, run_id, name, folder)

    def text_of(run_id: str, name: str) -> str | None:
        file = places[run_id] / name if run_id in places else None
        try:
            return _text(file) if file is not None and file.is_file() else None
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error.strerror}.") from error

    return text_of


def load_asked(uri: str, study: str, folder: Path) -> StudySource:
    """What the study's parent run keeps; `folder` as for `load_samples`. Raises StoreError where the store does not
    answer.
    """
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return StudySource("", None)
        parents = client.search_runs([experiment.experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
    text = _artifact(client, uri, parents[0].info.run_id, STUDY_FILE, folder) if parents else None
    served = uri.startswith(("http://", "https://"))
    page = redact(uri).rstrip("/") + view_page(experiment.experiment_id) if served else None
    return StudySource(text or "", page)


def load_speed(uri: str, study: str, folder: Path, read: SqliteReader = WITH_LOCKS) -> tuple[Speed, ...]:
    """How long steps take, as it was measured, oldest first; `folder` as for `load_samples`. Does not load MLflow where
    SQLite and files have it. Raises StoreError where the store does not answer, or where the file was edited.
    """
    text, run_id = _of_parent(uri, study, folder, SPEED_FILE, read)
    try:
        return read_speed(text)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"The artifact {SPEED_FILE} of MLflow run {run_id} cannot be read: {error}. Artifacts that `sweeper run` "
            "wrote must stay as they were; delete this one, and the next `sweeper run` measures again."
        ) from error


def load_study_text(uri: str, study: str, folder: Path, read: SqliteReader = WITH_LOCKS) -> str:
    """The study as its last sweep was asked it; "" where none is kept. Loads MLflow, and raises, as `load_speed`."""
    return _of_parent(uri, study, folder, STUDY_FILE, read)[0] or ""


def _of_parent(uri: str, study: str, folder: Path, name: str, read: SqliteReader) -> tuple[str | None, str]:
    """The text of an artifact of the study's parent run, None where it has none, and that run's id."""
    file = sqlite_file(uri)
    if file is not None and (found := read.runs(file, study, (KIND, SWEEP))) is not None:
        places = [(run.run_id, place) for run in found if (place := _folder_of(run, folder)) is not None]
        if len(places) == len(found):
            texts = [(_text(place / name), run_id) for run_id, place in places if (place / name).is_file()]
            return texts[0] if texts else (None, "")
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return None, ""
        parents = client.search_runs([experiment.experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
    run_id = parents[0].info.run_id if parents else ""
    return (_artifact(client, uri, run_id, name, folder) if parents else None), run_id


def _folder_of(run: StoredRun, folder: Path) -> Path | None:
    """Where the artifacts of a run are, or would be, in a folder; None where they are in no folder of this machine."""
    uri = run.artifacts or ""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return found_here(uri, run.run_id, folder) or Path(unquote(parts.path))


def _artifact(client: Any, uri: str, run_id: str, name: str, folder: Path) -> str | None:
    """The text of one artifact; None where the run has none of that name."""
    with tempfile.TemporaryDirectory() as aside, suppress(StoreRefused), store_calls(uri):
        here = found_here(client.get_run(run_id).info.artifact_uri, run_id, folder)
        if here is not None:
            return _text(here / name) if (here / name).is_file() else None
        inside = name.rpartition("/")[0] or None
        if any(item.path == name for item in client.list_artifacts(run_id, inside)):
            return _text(Path(client.download_artifacts(run_id, name, aside)))
    return None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
