"""Reads the runs of a study back from MLflow as records; knows nothing of tables, Optuna or how runs were written.

The names of tags are those of `RunRecord`'s fields; `sweeper/tracking/tracker.py` writes them and a round-trip test
holds the two together.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from dashboards.store.addresses import absolute_url, sqlite_file, sqlite_url
from dashboards.store.databases import MLFLOW, Refused, check_database, shown
from dashboards.store.sqlite_runs import StoredRun, read_sqlite_runs, read_sqlite_tags
from studies.records import FIRST_EVALUATOR, JUDGE_FACT, Cause, Measurer, Numbers, RunRecord, Scalar, State
from studies.records.format import refuse_newer
from studies.text.redact import redact

KIND = "kind"
SWEEP, RUN = "sweep", "run"
SUPERSEDED = "superseded"
ERRORS = "errors"
HALVES = "halves"
QUESTION, CONTENT = "question", "content"
# Tags of a study's experiment: what its sources held at the last sweep, which questions that asked, and whether runs of
# an earlier version are left behind that cannot be checked.
CONTENTS_TAG, QUESTIONS_TAG, STRICT_TAG = "sweeper.contents", "sweeper.questions", "sweeper.strict"
# Who gave a run's numbers, and who its gold, see `RunRecord`; and, with a number behind it, what others found before.
MEASURED_BY, FORMER = "measured", "former"
CURVES = "curves"
CURVE_HALVES = "curve_halves"
FACT_PREFIX = "fact."
# Tags that say something of a run beyond the fields of RunRecord; `load_records` puts them among its facts.
NON_FINITE = "non_finite"
PLAIN_FACTS = ("message", "adapter", "rung", NON_FINITE)
PAGE = 1000
_ALL_RUNS = 3  # MLflow's ViewType.ALL: deleted ones too
REACH_SECONDS = 5.0
REQUEST_SECONDS = 15  # whole, as MLflow reads it
MARK_PREFIX = "sweeper."  # tags of an experiment: whose it is, in which format, by which version
VIEW = "byvariant"  # a saved view of MLflow's runs page: every study has one
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"


class StoreError(Exception):
    """A store that cannot be used as asked: says what is wrong with which store and what to do."""


class StoreMissing(StoreError):
    """There is no such store, or it does not hold the study."""


class StoreAway(StoreError):
    """The store does not answer now and may later: a server that is gone, slow or fails, a locked database."""


class StoreRefused(StoreError):
    """The store answers that it will not take this, now or later: a run that somebody deleted, a bad value."""


def store_uri(uri: str | None, folder: Path) -> str:
    """Where MLflow's records are: `uri`, else MLFLOW_TRACKING_URI, else `mlflow.db` in `folder`; absolute.

    Always absolute, since MLflow resolves a relative one against the folder a process happens to be in, and prefers
    a stray `mlruns` there.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return absolute_url(given, folder) if given else sqlite_url(folder / "mlflow.db")


def check_store(uri: str, *, write: bool = False) -> bool:
    """Whether the store is there; False where nothing is yet. `write`: it is to be written as well.

    Only reads. Raises StoreError where MLflow could not use it as it is.
    """
    if not _is_database(uri):
        place = _folder_store(uri)
        if place is not None and not place.exists() and not write:
            return False
        connect(uri)
        return True
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return check_database(MLFLOW, uri, write=write)
    except Refused as error:
        raise StoreError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        raise _as_store_error(uri, str(error), "INTERNAL_ERROR") from error
    except SQLAlchemyError as error:
        raise StoreAway(f"MLflow's database {redact(uri)} does not answer: {redact(_first_line(error))}.") from error


def _is_database(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def _folder_store(uri: str) -> Path | None:
    """The folder of a store of files, None for any other kind of store."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return None if ":" in uri else Path(uri)


def connect(uri: str) -> Any:
    """An MlflowClient of the store, quiet and without MLflow's usage reports; makes its tables where there are none.

    Raises StoreError where MLflow cannot use the store. MLflow takes 2 s to import, hence only here.
    """
    if _is_database(uri):
        check_store(uri)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    _check_reachable(uri)
    from mlflow import MlflowClient

    # What it logs of a failed query, with a traceback, is said in a sentence by `store_calls`.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    try:
        with store_calls(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except StoreRefused as error:  # it refuses everything, so that it is no store
        raise StoreError(_unusable(redact(uri), redact(str(error.__cause__)))) from error
    return client


@contextmanager
def store_calls(uri: str) -> Iterator[None]:
    """Around calls of MLflow: each is answered within `REQUEST_SECONDS`, and its errors are StoreErrors.

    MLflow tries a server again for minutes, in silence. That can be changed by environment variables alone, which are
    read at every call: they are set here where the user has not set them, and put back.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS)}
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    except MlflowException as error:
        raise _as_store_error(uri, str(error), str(error.error_code)) from error
    except (SQLAlchemyError, CommandError) as error:
        raise _as_store_error(uri, str(error), "INTERNAL_ERROR") from error
    except OSError as error:
        raise StoreAway(f"MLflow at {redact(uri)} cannot be written: {_first_line(error)}.") from error
    finally:
        for name in ours:
            os.environ.pop(name, None)


_NEVER_TAKEN = frozenset(
    {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"}
)


def _as_store_error(uri: str, reason: str, code: str) -> StoreError:
    """What MLflow's error means for somebody who writes to it or reads from it."""
    shown, file = redact(uri), sqlite_file(uri)
    first = redact(_first_line(reason))
    if file is not None and any(words in reason for words in ("not a database", "malformed", "file is encrypted")):
        return StoreError(
            f"The MLflow store {file} is damaged, or no database at all ({first}). Put a copy of it back, or move it "
            "away and run the study again: what is finished is written anew from the results in the study's run "
            "folder, not trained again."
        )
    if file is not None and "readonly database" in reason:
        return StoreError(f"The MLflow store {file} cannot be written: make it and its folder writable.")
    if file is not None and ("locked" in reason or "disk I/O error" in reason or "is full" in reason):
        return StoreAway(f"The MLflow store {file} cannot be written now ({first}).")
    if urlsplit(uri).scheme in ("http", "https") or (code == "TEMPORARILY_UNAVAILABLE" and file is None):
        if code in _NEVER_TAKEN:
            return StoreRefused(f"MLflow at {shown} does not take it: {first}.")
        return StoreAway(f"MLflow at {shown} does not answer as it should: {first}.")
    if code in _NEVER_TAKEN and "SQLAlchemy" not in reason and "sqlite3" not in reason:
        return StoreRefused(f"MLflow at {shown} does not take it: {first}.")
    return StoreError(_unusable(shown, redact(reason)))


def _first_line(error: object) -> str:
    lines: list[str] = redact(str(error)).splitlines()  # before a secret is cut in two
    return (lines or ["no reason given"])[0][:500]


def _check_reachable(uri: str) -> None:
    """Raise StoreError for a server that nothing listens at: MLflow would try it again for minutes, in silence."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or getproxies().get(address.scheme):
        return
    try:
        place = (address.hostname or "", address.port or {"http": 80, "https": 443}[address.scheme])
        socket.create_connection(place, timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}"
        raise StoreAway(
            f"The MLflow server at {shown} cannot be reached: {error}. Start it, or correct MLFLOW_TRACKING_URI."
        ) from error


def _unusable(uri: str, reason: str) -> str:
    """What to say of a store that MLflow refused."""
    return (
        f"MLflow cannot use the store {uri}: {_first_line(reason)} "
        f"Give a store that it can, such as {MLFLOW.example}, in MLFLOW_TRACKING_URI."
    )


def load_records(uri: str, study: str) -> list[RunRecord]:
    """All runs of the study that MLflow knows, running ones among them and superseded attempts not, oldest first.

    Only reads. Raises StoreMissing where the store or the study is not there, StoreError where a run's tags were
    edited so that it can no longer be understood.
    """
    return [to_record(study, run) for run in _read_study(uri, study) if SUPERSEDED not in run.tags]


def _read_study(uri: str, study: str) -> list[StoredRun]:
    """All runs of the study: of a SQLite file from its tables, of any other store by MLflow's client."""
    file = sqlite_file(uri)
    if file is not None and (found := read_sqlite_runs(file, study, (KIND, RUN))) is not None:
        _check_format(uri, study, _marks(read_sqlite_tags(file, study) or {}))
        return found
    _check_exists(uri)
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None or experiment.lifecycle_stage != "active":
            known = ", ".join(sorted(e.name for e in client.search_experiments() if e.name != "Default"))
            raise StoreMissing(f"The store {redact(uri)} holds no study {study!r}; it holds: {known or 'none'}.")
        _check_format(uri, study, _marks(experiment.tags))
        return list(read_runs(client, experiment.experiment_id))


def in_pieces(name: str, text: str, longest: int) -> dict[str, str]:
    """A text as tags that MLflow takes: `name`, and `name.1`, ... for what does not fit; always one more, empty, at
    which a reader ends whatever a longer text left behind it.
    """
    pieces = [text[i : i + longest] for i in range(0, len(text), longest)] or [""]
    return {f"{name}.{i}" if i else name: piece for i, piece in enumerate([*pieces, ""])}


def in_whole(tags: Mapping[str, str], name: str) -> str | None:
    """The text that `in_pieces` made tags of; None where there is none."""
    if name not in tags:
        return None
    text, number = tags[name], 1
    while piece := tags.get(f"{name}.{number}", ""):
        text, number = text + piece, number + 1
    return text


def load_study_tags(uri: str, study: str) -> dict[str, str]:
    """What the store says of the study as a whole; nothing where there is no such store or study. Only reads.

    Raises StoreError where the store cannot be read.
    """
    try:
        _check_exists(uri)
    except StoreMissing:
        return {}
    file = sqlite_file(uri)
    if file is not None and (found := read_sqlite_tags(file, study)) is not None:
        return found
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
    client = connect(uri)
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            return None
        marks = _marks(experiment.tags)
        _check_format(uri, study, marks)
        newest = client.search_runs(
            [experiment.experiment_id],
            f"tags.{KIND} = '{RUN}'",
            _ALL_RUNS,
            max_results=1 if marks else PAGE,
            order_by=["attributes.start_time DESC"],
        )
    keys = frozenset(run.data.tags["key"] for run in newest if "key" in run.data.tags)
    if not newest:
        return StoredStudy(marks, keys, None, None, None)
    info, user = newest[0].info, newest[0].data.tags.get("mlflow.user")
    return StoredStudy(marks, keys, _seconds(info.end_time or info.start_time), user, experiment.artifact_location)


_MARKS = ("id", "owner", "folder", "format", "version")  # the fields of `sweeper.ownership.owner.Mark`


def _marks(tags: Mapping[str, str]) -> Mapping[str, str]:
    return {name: tags[MARK_PREFIX + name] for name in _MARKS if MARK_PREFIX + name in tags}


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


def view_page(experiment_id: str) -> str:
    """The page that shows an experiment through the saved view `VIEW`, which `sweeper/tracking/tracker.py` writes."""
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _check_exists(uri: str) -> None:
    """Raise StoreMissing where there is no store yet: MLflow would silently make one."""
    if not check_store(uri):
        makes = "`sweeper run` makes one, or " if _is_database(uri) else ""
        raise StoreMissing(
            f"There is no MLflow store at {shown(uri)}; {makes}give its place in MLFLOW_TRACKING_URI, such as "
            f"{MLFLOW.example}."
        )


def read_runs(client: Any, experiment_id: str) -> Iterator[StoredRun]:
    """All MLflow runs of kind `run` in the experiment, oldest first, a page a query."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string=f"tags.{KIND} = '{RUN}'",
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
        info.run_id, info.run_name, info.status, *times, tags=data.tags, params=data.params, metrics=data.metrics
    )


def run_state(run: StoredRun) -> State:
    """The state of an MLflow run; one that was not closed is RUNNING whatever its tags say."""
    if run.status in ("RUNNING", "SCHEDULED"):
        return State.RUNNING
    return State(run.tags["state"])


def to_record(study: str, run: StoredRun) -> RunRecord:
    """The record of one MLflow run of kind `run`; raises StoreError where its tags make no sense."""
    tags = run.tags
    ended_non_finite = tags.get(NON_FINITE, "").split(", ")
    values = {name: value for name, value in run.metrics.items() if name not in ended_non_finite}
    facts = {k.removeprefix(FACT_PREFIX): v for k, v in tags.items() if k.startswith(FACT_PREFIX)}
    try:
        measurers = _measurers(tags, facts)
        return RunRecord(
            run_id=run.run_id,
            key=tags["key"],
            study=study,
            variant=tags["variant"],
            scenario=tags["scenario"],
            trial=int(tags["trial"]),
            block=int(tags["block"]),
            seed=int(tags["seed"]),
            attempt=int(tags["attempt"]),
            state=run_state(run),
            cause=Cause(tags["cause"]) if "cause" in tags else None,
            arm=tags["arm"],
            knobs={name: decode(text) for name, text in run.params.items()},
            metrics=values,
            errors={name: error for name, error in json.loads(tags.get(ERRORS, "{}")).items() if name in values},
            halves={name: halves for name, halves in json.loads(tags.get(HALVES, "{}")).items() if name in values},
            curves=json.loads(tags.get(CURVES, "{}")),
            curve_halves=json.loads(tags.get(CURVE_HALVES, "{}")),
            facts=facts | {name: tags[name] for name in PLAIN_FACTS if name in tags},
            question=tags.get(QUESTION),
            content=json.loads(tags.get(CONTENT, "{}")),
            measured=measurers[0],
            judged=measurers[1],
            former=_former(tags),
            started=_seconds(run.started),
            ended=_seconds(run.ended),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The tags of MLflow run {run.run_id} ({run.name}) cannot be read: {error}. Tags that "
            "`sweeper run` wrote must stay as they were; delete this run in MLflow and run the study again."
        ) from error


def _measurers(tags: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Measurer, Measurer]:
    """Who gave a run's numbers and its gold. Format 1 did not say: it had one evaluator, and told the judge's name."""
    if MEASURED_BY in tags:
        told = json.loads(tags[MEASURED_BY])
        return Measurer.model_validate(told["measured"]), Measurer.model_validate(told["judged"])
    first = Measurer(evaluator=FIRST_EVALUATOR)
    return first, first.model_copy(update={"judge": facts.get(JUDGE_FACT)})


def former_tag(number: int, part: str = "") -> str:
    """The tag of what a run's measurer of that number had found; `part`: one that may be long, in a tag of its own."""
    return f"{FORMER}.{number}" + (f".{part}" if part else "")


def _former(tags: Mapping[str, str]) -> tuple[Numbers, ...]:
    found: list[Numbers] = []
    while (name := former_tag(len(found))) in tags:
        parts = {part: json.loads(tags.get(former_tag(len(found), part), "{}")) for part in (CURVES, CURVE_HALVES)}
        found.append(Numbers.model_validate(json.loads(tags[name]) | parts))
    return tuple(found)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def encode(value: Scalar) -> str:
    """A knob as the text of an MLflow parameter: as people write it, quoted only where text looks like a number."""
    if isinstance(value, str) and not _is_json(value):
        return value
    return json.dumps(value)


def decode(text: str) -> Scalar:
    """The knob that `encode` wrote as `text`."""
    try:
        value: Scalar = json.loads(text)
    except ValueError:
        return text
    return value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
