"""Writes what runs do to MLflow, as its only writer."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.store.connection import StoreAway, connect, is_on_server, store_calls, store_uri
from dashboards.store.mlflow_tags import (
    LONGEST_MESSAGE,
    SUPERSEDED,
    Point,
    answer_tags,
    curve_values,
    is_strict,
    measurer_tag,
    run_state,
)
from dashboards.store.records import read_runs
from dashboards.store.sqlite_runs import StoredRun
from studies.design.measurers import Measurers
from studies.records import Measurement, RunConfig, RunRecord, RunResult, Scalar, Shown, State
from studies.spec import StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact
from sweeper.folder.names import JOURNAL
from sweeper.tracking.delivery import Delivery
from sweeper.tracking.entries import finish_entry, recorded_entries, start_entry
from sweeper.tracking.experiment.moved import mend_artifacts
from sweeper.tracking.experiment.new_store import make_store
from sweeper.tracking.experiment.study import OpenStudy, claim, keep_contents, open_entry
from sweeper.tracking.journal import TICKET_PREFIX
from sweeper.tracking.known_runs import KnownRun, KnownRuns
from sweeper.tracking.outbox import Outbox, try_for
from sweeper.tracking.scores import attach_samples, write_scores

RESTART_SECONDS = 60.0  # for the server of a database to come back

_log = logging.getLogger(__name__)


class Tracker:
    """The writing side of one MLflow store; for one study at a time, from one process and one thread.

    It holds its own client with an absolute URI and leaves MLflow's global settings and active run alone, so that
    it works inside a notebook that uses MLflow for something else. Where the store is away, what is written waits in
    `mlflow-journal.jsonl` in the study's run folder, and goes out once the store is back, or with the next sweep.
    """

    def __init__(self, uri: str | None, folder: Path, tell_user: Callable[[str], None] = _log.warning) -> None:
        """Open the store (see `store_uri`), making its tables where there are none.

        `folder` is the working folder; artifacts of a SQLite store go to `mlartifacts` in it, as with `mlflow ui`.
        `tell_user` is told once when the store goes away and once when it is back, and where the folder was moved.
        Raises StoreError where MLflow cannot use the store.
        """
        self.uri = store_uri(uri, folder)
        self._folder, self._tell_user = folder, tell_user
        make_store(self.uri)
        self._client = connect(self.uri)
        news = mend_artifacts(self._client, self.uri, folder)
        if news:
            tell_user(news)
        self.strict = False
        self._study: OpenStudy | None = None
        self._delivery: Delivery | None = None
        self._outbox: Outbox | None = None
        self._known = KnownRuns()

    def claim(self, spec: StudySpec, marks: Mapping[str, str]) -> bool:
        """Write into the study's experiment, made or restored, whose it is, unless it is somebody else's; whether it is
        ours then. Raises StoreError.
        """
        return claim(self._client, self.uri, self._folder, spec, marks)

    def open_study(
        self, spec: StudySpec, study_yaml_text: str, asked: Mapping[tuple[str, str], str] = {}, *, strict: bool = False
    ) -> str:
        """Find or make the study's experiment and its parent run, mark that as RUNNING and give its id.

        `asked`: (variant, scenario) -> the question that runs answer from here on. It is kept with the study, as are
        the contents that `spec` knows, so that whoever reads can tell without them which runs answer what. `strict`:
        this sweep and all later ones take no run of format 1 of whose sources nothing was recorded.
        What an earlier sweep could not deliver is delivered first. Raises StoreError where the store is away.
        """
        study = open_entry(self._client, self.uri, self._folder, spec, study_yaml_text, asked, strict=strict)
        self._study, self._delivery = study, Delivery(self._client, self.uri, study, self._tell_user)
        journal = study.runs / JOURNAL
        self._outbox = Outbox(journal, self._delivery.deliver, self._tell_user)
        waiting = self._outbox.waiting
        if not self._outbox.catch_up(now=True):
            raise StoreAway(
                f"MLflow at {redact(self.uri)} went away: {so_many(self.undelivered, 'record')} for it in {journal}."
            )
        if waiting:
            self._tell_user(f"Delivered {so_many(waiting, 'record')} to MLflow that an earlier sweep could not.")
        with store_calls(self.uri):  # the journal may have held the end of the last sweep
            self._client.update_run(study.parent_run_id, status="RUNNING")
            self.strict = is_strict(self._client.get_experiment(study.experiment_id).tags)
        return study.parent_run_id

    def close_study(self, *, finished: bool) -> None:
        """Close the parent run: FINISHED where all that was asked has been trained, KILLED where it was stopped.

        Tries once more to deliver what waits; see `undelivered`.
        """
        self._send(do="close", run=self._opened.parent_run_id, status="FINISHED" if finished else "KILLED")
        if self._outbox is not None and (not finished or not self.wait()):
            self._outbox.catch_up(now=True)

    @property
    def undelivered(self) -> int:
        """How many records wait for the store to come back."""
        return 0 if self._outbox is None else self._outbox.waiting

    @property
    def _opened(self) -> OpenStudy:
        if self._study is None:
            raise RuntimeError("open_study must be called before runs are written")
        return self._study

    def wait(self) -> bool:
        """Deliver what waits, before a table is made of it; whether the store answers and has all. One on a server is
        given the time of a restart.
        """
        study, outbox = self._opened, self._outbox

        def attempt() -> bool:
            with store_calls(self.uri):
                self._client.get_experiment(study.experiment_id)
            return outbox is None or outbox.catch_up(now=True)

        return try_for(RESTART_SECONDS if is_on_server(self.uri) else 0.0, attempt)

    def known_runs(self) -> tuple[KnownRun, ...]:
        """Every run of the open study that is in MLflow and was not superseded, oldest first.

        Where the store is away: those of the last reading and what was written since, without metrics. Raises
        StoreError where there was none.
        """
        study = self._opened
        assert self._outbox is not None
        try:
            if not self._outbox.catch_up(now=False):
                raise StoreAway("MLflow is still away.")
            with store_calls(self.uri):
                runs = list(read_runs(self._client, study.experiment_id))
                _close_superseded(self._client, runs)
        except StoreAway:
            known = self._known.all()
            if known is None:
                raise
            return known
        return self._known.read(study.name, runs)

    def start_run(self, config: RunConfig, attempt: int, phase: str) -> str:
        """Make the MLflow run of an attempt, a child of the sweep's run, and give its id; while the store is away, an
        id of our own, which this tracker takes in its place.

        `phase`: unbiased, tpe, fixed or confirm.
        """
        study, ticket = self._opened, f"{TICKET_PREFIX}{uuid.uuid4().hex}"
        question = study.questions.get((config.variant, config.scenario))
        in_names = study.scenario_in_names
        self._send(**start_entry(ticket, study.parent_run_id, config, attempt, phase, question, scenario=in_names))
        assert self._delivery is not None
        run_id = self._delivery.id_of(ticket)
        self._known.start(run_id, config, attempt, phase, question)
        return run_id

    def log_curve(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points of the training curve, (step, values), in one transaction; what was written already is left."""
        if points:
            self._send(do="curve", run=run_id, curve=curve_values(points))

    def finish_run(
        self, run_id: str, config: RunConfig, result: RunResult, rung: int | None = None, by: Measurers | None = None
    ) -> None:
        """Write the rest of the curve, all measurements, state and cause, then close the run.

        `rung`: the step of the rung at which it was stopped; `by`: who measured it, where it is not who measures such
        runs now. Safe to call again for a run whose closing was interrupted.
        """
        self._send(**finish_entry(run_id, config, result, rung, by))
        self._known.finish(run_id, result)

    def adopt(self, run: RunRecord, content: Mapping[str, str]) -> None:
        """Write down that a run of format 1 answers what is asked now, of sources that hold this, and its measurers."""
        question = self._opened.questions[run.variant, run.scenario]
        tags = answer_tags(question, content) | measurer_tag(Measurers(run.measured, run.judged))
        self._send(do="adopt", run=run.run_id, tags=tags)

    def supersede(self, run_id: str, reason: str) -> None:
        """Mark an attempt as replaced by a later one, which no table counts, and close it where it still runs."""
        self._send(do="supersede", run=run_id, reason=redact(reason)[:LONGEST_MESSAGE])
        self._known.drop(run_id)

    def write_recorded(self, config: RunConfig, record: RunRecord) -> None:
        """Make the MLflow run of a record that ended elsewhere, with its own times."""
        for entry in recorded_entries(f"{TICKET_PREFIX}{uuid.uuid4().hex}", self._opened, config, record):
            self._send(**entry)

    def log_table(self, files: Mapping[str, str]) -> None:
        """Keep table, page and figures, file name -> text, as artifacts of the sweep's run."""
        self._send(do="files", run=self._opened.parent_run_id, files=dict(files))

    def log_adapter(self, run_id: str, key: str) -> None:
        """Keep the trained adapter in the folder of this key as the artifact folder `adapter` of its run."""
        self._send(do="adapter", run=run_id, key=key)

    def log_samples(self, run_id: str, key: str) -> None:
        """Keep all samples in the folder of this key as the artifact folder `samples` of its run."""
        self._send(do="samples", run=run_id, key=key)

    def log_scores(
        self,
        record: RunRecord,
        measurements: Sequence[Measurement],
        facts: Mapping[str, Scalar],
        samples: Sequence[Shown],
        who: Measurers,
    ) -> None:
        """Add what `who` found to a run that has ended; see `write_scores`. Needs no open study and keeps nothing back:
        raises StoreError where the store does not take it.
        """
        write_scores(self._client, self.uri, record, measurements, facts, samples, who)

    def attach_samples(self, run_id: str, folder: Path) -> None:
        """Keep the samples in a run's folder in the place of those that the run has, at once, as `log_scores` does."""
        attach_samples(self._client, self.uri, run_id, folder, self._tell_user)

    def keep_contents(self, study: str, contents: Mapping[str, str]) -> None:
        """Keep what sources of a study hold, where a sweep has kept any. Needs no open study."""
        keep_contents(self._client, self.uri, study, contents)

    def _send(self, **entry: Any) -> None:
        """Deliver a record or keep it. Raises StoreError where neither can be done."""
        assert self._outbox is not None, "open_study must be called before runs are written"
        many = ("curve", "measured")  # numbers, and no text
        numbers: dict[str, Any] = {name: entry.pop(name) for name in many if name in entry}
        self._outbox.send({"time": int(time.time() * 1000), **redact(entry, by_name=False), **numbers})


def _close_superseded(client: Any, runs: Sequence[StoredRun]) -> None:
    """Close attempts that were marked as superseded by a process that was killed before it closed them."""
    for run in runs:
        if SUPERSEDED in run.tags and run_state(run) is State.RUNNING:
            client.set_terminated(run.run_id, "KILLED")
