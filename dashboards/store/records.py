"""Reads the runs of a study back from MLflow as records; knows nothing of tables, Optuna or how runs were written.

The names of tags are those of `RunRecord`'s fields; `sweeper/tracking/tracker.py` writes them and a round-trip test
holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.store.addresses import sqlite_file
from dashboards.store.connection import StoreError, StoreMissing, check_store, connect, is_database, store_calls
from dashboards.store.databases import MLFLOW, shown
from dashboards.store.mlflow_tags import (
    CURVE_HALVES,
    CURVES,
    ERRORS,
    FACT_PREFIX,
    HALVES,
    KIND,
    PLAIN_FACTS,
    RUN,
    SUPERSEDED,
    VIEW,
    VIEW_TAG,
    answer_tags,
    former_tags,
    marks_in,
    measurer_tag,
    run_text,
    seconds,
    to_record,
)
from dashboards.store.sqlite_runs import (
    WITH_LOCKS,
    ListedExperiment,
    SqliteReader,
    StoredExperiment,
    StoredRun,
    read_sqlite_experiment,
    read_sqlite_experiments,
)
from studies.design.measurers import Measurers
from studies.records import ELSEWHERE, RunRecord
from studies.records.format import refuse_newer
from studies.text.redact import redact

PAGE = 1000
_ALL_RUNS = 3  # MLflow's ViewType.ALL: deleted ones too


def load_records(uri: str, study: str) -> list[RunRecord]:
    """All runs of the study that MLflow knows, running ones among them and superseded attempts not, oldest first.

    Only reads. Raises StoreMissing where the store or the study is not there, StoreError where a run's tags were
    edited so that it can no longer be understood.
    """
    return [to_record(study, run) for run in _read_study(uri, study) if SUPERSEDED not in run.tags]


def load_elsewhere(uri: str, study: str, read: SqliteReader = WITH_LOCKS) -> list[RunRecord]:
    """What was measured of models that no run of the study trained, oldest first; what was not finished is left out.

    They are runs of a kind of their own in MLflow: no version that does not know them takes them for runs. Raises as
    `load_records` does.
    """
    return [to_record(study, run) for run in _read_study(uri, study, ELSEWHERE, read) if run.status == "FINISHED"]


def _read_study(uri: str, study: str, kind: str = RUN, read: SqliteReader = WITH_LOCKS) -> list[StoredRun]:
    """All runs of the study of a kind: of a SQLite file from its tables, of any other store by MLflow's client."""
    file = sqlite_file(uri)
    if file is not None and (found := read.runs(file, study, (KIND, kind))) is not None:
        _check_format(uri, study, marks_in(read.tags(file, study) or {}))
        return found
    _check_exists(uri)
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None or experiment.lifecycle_stage != "active":
            known = ", ".join(sorted(e.name for e in client.search_experiments() if e.name != "Default"))
            raise StoreMissing(f"The store {redact(uri)} holds no study {study!r}; it holds: {known or 'none'}.")
        _check_format(uri, study, marks_in(experiment.tags))
        return list(read_runs(client, experiment.experiment_id, kind))


def load_study_tags(uri: str, study: str, read: SqliteReader = WITH_LOCKS) -> dict[str, str]:
    """What the store says of the study as a whole; nothing where there is no such store or study. Only reads.

    Raises StoreError where the store cannot be read.
    """
    file = sqlite_file(uri)
    if file is not None and file.is_file() and (found := read.tags(file, study)) is not None:
        return found
    try:
        _check_exists(uri)
    except StoreMissing:
        return {}
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        return {} if experiment is None else dict(experiment.tags)


@dataclass(frozen=True)
class StoredStudy:
    """What a store says of a study, deleted or not. `marks`: what this program wrote of whose it is; `keys`: of its
    runs, where there is no mark; `last`: when its newest run began or ended; `user`, `artifacts`: who ran that, and
    where its files are, as far as MLflow knows.
    """

    marks: Mapping[str, str]
    keys: frozenset[str]
    last: float | None
    user: str | None
    artifacts: str | None


def stored_study(uri: str, study: str) -> StoredStudy | None:
    """What the store holds of a study; None where there is no such store or study. Makes neither.

    Raises StoreError where the store cannot be read, or keeps the study in a newer format.
    """
    try:
        _check_exists(uri)
    except StoreMissing:
        return None
    file = sqlite_file(uri)
    found = None if file is None else read_sqlite_experiment(file, study, (KIND, RUN), _most_runs)
    if found is None:
        found = _experiment_of_client(uri, study)
    if not found:
        return None
    (experiment,) = found
    marks, newest = marks_in(experiment.tags), experiment.newest
    _check_format(uri, study, marks)
    keys = frozenset(run.tags["key"] for run in newest if "key" in run.tags)
    if not newest:
        return StoredStudy(marks, keys, None, None, None)
    last, user = seconds(newest[0].ended or newest[0].started), newest[0].tags.get("mlflow.user")
    return StoredStudy(marks, keys, last, user, experiment.artifacts)


def _most_runs(tags: Mapping[str, str]) -> int:
    """Of how many runs the keys are read, by which a study without a mark is known."""
    return 1 if marks_in(tags) else PAGE


def _experiment_of_client(uri: str, study: str) -> list[StoredExperiment]:
    """See `read_sqlite_experiment`: by MLflow's client, which knows every store."""
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return []
        newest = client.search_runs(
            [experiment.experiment_id],
            f"tags.{KIND} = '{RUN}'",
            _ALL_RUNS,
            max_results=_most_runs(experiment.tags),
            order_by=["attributes.start_time DESC"],
        )
    return [StoredExperiment(dict(experiment.tags), experiment.artifact_location, [stored(run) for run in newest])]


def _check_format(uri: str, study: str, marks: Mapping[str, str]) -> None:
    """Raise StoreError for a study that a newer version wrote in a format that this one does not know."""
    where = f"The study {study!r} in the MLflow store {redact(uri)}"
    problem = refuse_newer(marks.get("format"), marks.get("version"), where)
    if problem is not None:
        raise StoreError(problem)


def load_steps(uri: str, run_ids: Iterable[str], metrics: Sequence[str]) -> dict[str, dict[str, dict[int, float]]]:
    """Run -> metric -> step -> value: some metrics of some runs at every step that was logged.

    A query for each metric of each run, so for a handful of runs. Raises StoreError.
    """
    client = connect(uri)
    with store_calls(uri):
        return {
            run: {name: {m.step: m.value for m in client.get_metric_history(run, name)} for name in metrics}
            for run in run_ids
        }


def study_pages(uri: str) -> dict[str, str]:
    """For each study in the store, the part of its MLflow page's address after host and port: runs by variant.

    Raises StoreMissing where there is no store.
    """
    _check_exists(uri)
    client = connect(uri)
    with store_calls(uri):
        return {e.name: view_page(e.experiment_id) for e in client.search_experiments() if VIEW_TAG in e.tags}


def stored_studies(
    uri: str, read: Callable[[Path, tuple[str, str]], list[ListedExperiment] | None] = read_sqlite_experiments
) -> list[ListedExperiment]:
    """The experiments of the store that sweeps have made, by name; none where there is no store. Makes nothing. `read`:
    reads a SQLite file.

    Raises StoreError where the store cannot be read.
    """
    file = sqlite_file(uri)
    found = read(file, (KIND, RUN)) if file is not None and file.is_file() else None
    if found is None:
        if not check_store(uri):
            return []
        client = connect(uri)
        with store_calls(uri):
            found = [
                _counted(client, one) for one in sorted(client.search_experiments(), key=lambda one: str(one.name))
            ]
    return [one for one in found if marks_in(one.tags) or VIEW_TAG in one.tags]


def _counted(client: Any, experiment: Any) -> ListedExperiment:
    runs = list(read_runs(client, experiment.experiment_id)) if VIEW_TAG in experiment.tags else []
    times = [time for run in runs if (time := run.ended or run.started) is not None]
    return ListedExperiment(
        experiment.experiment_id, experiment.name, dict(experiment.tags), len(runs), max(times, default=None)
    )


def view_page(experiment_id: str) -> str:
    """The page that shows an experiment through the saved view `VIEW`, which `sweeper/tracking/tracker.py` writes."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _check_exists(uri: str) -> None:
    """Raise StoreMissing where there is no store yet: MLflow would silently make one."""
    if not check_store(uri):
        makes = "`sweeper run` makes one, or " if is_database(uri) else ""
        raise StoreMissing(
            f"There is no MLflow store at {shown(uri)}; {makes}give its place in MLFLOW_TRACKING_URI, such as "
            f"{MLFLOW.example}."
        )


def read_runs(client: Any, experiment_id: str, kind: str = RUN) -> Iterator[StoredRun]:
    """All MLflow runs of a kind in the experiment, oldest first, a page a query."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=f"tags.{KIND} = '{kind}'",
            order_by=["attributes.start_time ASC"],
            max_results=PAGE,
            page_token=token,
        )
        yield from map(stored, page)
        token = page.token
        if not token:
            return


def stored(run: Any) -> StoredRun:
    """A run as MLflow's client gives it."""
    info, data = run.info, run.data
    times = (info.start_time, info.end_time)
    return StoredRun(
        *(info.run_id, info.run_name, info.status, *times, info.artifact_uri),
        tags=data.tags,
        params=data.params,
        metrics=data.metrics,
    )


def record_tags(record: RunRecord) -> dict[str, str]:
    """The tags of a run that is known by its record alone, beside those of its start: how it ended, what it answers,
    all that was found of it but metrics, and who found it.
    """
    parts = {ERRORS: record.errors, HALVES: record.halves, CURVES: record.curves, CURVE_HALVES: record.curve_halves}
    tags = {"state": record.state.value} | answer_tags(record.question, record.content)
    tags |= {"cause": record.cause.value} if record.cause else {}
    tags |= {"failure": record.failure.value} if record.failure else {}
    tags |= {name if name in PLAIN_FACTS else FACT_PREFIX + name: text for name, text in record.facts.items()}
    for tag, found in parts.items():
        tags |= run_text(tag, json.dumps(found)) if found else {}
    for number, numbers in enumerate(record.former):
        tags |= former_tags(number, numbers)
    return tags | measurer_tag(Measurers(record.measured, record.judged))
