"""Writes what runs do to MLflow, as its only writer; knows nothing of how runs are chosen, trained or shown."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dashboards.store.addresses import sqlite_file
from dashboards.store.artifacts import study_artifacts
from dashboards.store.connection import StoreAway, StoreRefused, connect, store_calls, store_uri
from dashboards.store.mlflow_tags import (
    CONTENT,
    CONTENTS_TAG,
    KIND,
    LONGEST_MESSAGE,
    QUESTION,
    QUESTIONS_TAG,
    RUN,
    STRICT_TAG,
    SUPERSEDED,
    SWEEP,
    Point,
    Value,
    curve_values,
    encode,
    in_pieces,
    measured_values,
    measurer_tag,
    replaced_by,
    result_tags,
    run_state,
    score_tags,
    to_record,
)
from dashboards.store.records import MARK_PREFIX, read_runs, stored
from dashboards.store.sqlite_runs import StoredRun
from studies.design.measurers import Measurers, measurers_of
from studies.records import (
    DATA_DIGEST,
    PROBE,
    SAMPLES,
    Measurement,
    RunConfig,
    RunRecord,
    RunResult,
    Scalar,
    Shown,
    State,
)
from studies.spec import StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact
from studies.text.visible import visible_json
from sweeper.folder.names import JOURNAL
from sweeper.tracking.journal import TICKET_PREFIX, checked
from sweeper.tracking.moved import mend_artifacts
from sweeper.tracking.new_store import make_store
from sweeper.tracking.outbox import Entry, Outbox
from sweeper.tracking.saved_view import experiment_tags, note
from trainers.run_folder.results import ADAPTER, adapter_files

_log = logging.getLogger(__name__)

TICKET = "ticket"  # tag: what a run is called until MLflow has given it an id
LONGEST_NAME = 500
LONGEST_TAG = 5000  # of an experiment, as MLflow takes it


class KnownRun(RunRecord):
    """A run as MLflow knows it. `state` is RUNNING for all that were not closed, whatever was written of them."""

    def result(self) -> RunResult:
        """The result as far as MLflow holds it: last measurements without their steps, no curve.

        Raises ValueError for a run that has not ended.
        """
        if self.cause is None or self.state is State.RUNNING:
            raise ValueError(f"run {self.run_id} has not ended and has no result")
        measurements = tuple(
            Measurement(n, value, self.errors.get(n), halves=self.halves.get(n)) for n, value in self.metrics.items()
        )
        message = self.facts.get("message", "")
        return RunResult(key=self.key, cause=self.cause, message=message, measurements=measurements)


@dataclass(frozen=True)
class _OpenStudy:
    """The study that is being written: its place in MLflow, whether run names tell the scenario, and its run folder."""

    name: str
    experiment_id: str
    parent_run_id: str
    scenario_in_names: bool
    runs: Path
    questions: Mapping[tuple[str, str], str]


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
        self._study: _OpenStudy | None = None
        self.strict = False
        self._outbox: Outbox | None = None
        self._ours: set[str] = set()  # runs of this study that are in the journal
        self._run_ids: dict[str, str] = {}  # MLflow's, of runs that were named here while it was away
        self._curve_ends: dict[str, dict[str, int]] = {}
        self._known: dict[str, KnownRun] | None = None

    def claim(self, spec: StudySpec, marks: Mapping[str, str]) -> bool:
        """Write into the study's experiment, made or restored, whose it is, unless it is somebody else's, who may have
        made it just now; whether it is ours then. Raises StoreError.
        """
        from mlflow.exceptions import MlflowException

        tags = {MARK_PREFIX + name: text for name, text in marks.items()}
        id_tag = f"{MARK_PREFIX}id"
        with store_calls(self.uri):
            try:
                experiment = self._client.get_experiment(self._open_experiment(spec, tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return False
            if experiment.tags.get(id_tag, tags[id_tag]) == tags[id_tag]:
                for name, text in tags.items():
                    if experiment.tags.get(name) != text:
                        self._client.set_experiment_tag(experiment.experiment_id, name, text)
            found = self._client.get_experiment(experiment.experiment_id).tags[id_tag]
        return bool(found == tags[id_tag])

    def open_study(
        self,
        spec: StudySpec,
        study_yaml_text: str,
        asked: Mapping[tuple[str, str], str] = {},
        *,
        strict: bool = False,
    ) -> str:
        """Find or make the study's experiment and its parent run, mark that as RUNNING and give its id.

        `asked`: (variant, scenario) -> the question that runs answer from here on. It is kept with the study, as are
        the contents that `spec` knows, so that whoever reads can tell without them which runs answer what. `strict`:
        this sweep and all later ones take no run of format 1 of whose sources nothing was recorded.
        What an earlier sweep could not deliver is delivered first. Raises StoreError where the store is away.
        """
        with store_calls(self.uri):
            experiment_id = self._open_experiment(spec)
            parents = self._client.search_runs([experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
            if parents:
                parent_run_id: str = parents[0].info.run_id
                self._client.update_run(parent_run_id, status="RUNNING")
            else:
                tags = {KIND: SWEEP, "mlflow.source.name": "sweeper", **note(spec.question)}
                parent_run_id = self._client.create_run(experiment_id, tags=tags, run_name=spec.study).info.run_id
            self._client.log_text(parent_run_id, _without_secrets(study_yaml_text), "study.yaml")
            kept = {CONTENTS_TAG: json.dumps(dict(spec.contents)), QUESTIONS_TAG: ",".join(sorted(set(asked.values())))}
            kept |= {STRICT_TAG: "true"} if strict else {}
            for name, text in kept.items():
                for key, value in in_pieces(name, text, LONGEST_TAG).items():
                    self._client.set_experiment_tag(experiment_id, key, value)
        self._study = _OpenStudy(
            spec.study,
            experiment_id,
            parent_run_id,
            scenario_in_names=len(spec.scenarios) > 1,
            runs=self._folder / spec.output.folder / spec.study,
            questions=asked,
        )
        journal = self._study.runs / JOURNAL
        self._outbox = Outbox(journal, self._deliver, self._tell_user)
        waiting = self._outbox.waiting
        if not self._outbox.catch_up(now=True):
            raise StoreAway(
                f"MLflow at {redact(self.uri)} went away: {so_many(self.undelivered, 'record')} for it in {journal}."
            )
        if waiting:
            self._tell_user(f"Delivered {so_many(waiting, 'record')} to MLflow that an earlier sweep could not.")
        with store_calls(self.uri):  # the journal may have held the end of the last sweep
            self._client.update_run(parent_run_id, status="RUNNING")
            self.strict = STRICT_TAG in self._client.get_experiment(experiment_id).tags
        return parent_run_id

    def _open_experiment(self, spec: StudySpec, tags: Mapping[str, str] | None = None) -> str:
        """The id of the study's experiment, made, with `tags` from the first moment, or restored; what somebody changed
        on its page stays changed.
        """
        experiment = self._client.get_experiment_by_name(spec.study)
        if experiment is None:
            place = study_artifacts(self._folder, spec.study).as_uri() if sqlite_file(self.uri) else None
            experiment = self._client.get_experiment(
                self._client.create_experiment(spec.study, artifact_location=place, tags=dict(tags or {}))
            )
        experiment_id: str = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment_id)
        for key, value in experiment_tags(spec).items():
            if key not in experiment.tags:
                self._client.set_experiment_tag(experiment_id, key, value)
        return experiment_id

    def close_study(self, *, finished: bool) -> None:
        """Close the parent run: FINISHED where all that was asked has been trained, KILLED where it was stopped.

        Tries once more to deliver what waits; see `undelivered`.
        """
        self._send(do="close", run=self._opened.parent_run_id, status="FINISHED" if finished else "KILLED")
        if self._outbox is not None:
            self._outbox.catch_up(now=True)

    @property
    def undelivered(self) -> int:
        """How many records wait for the store to come back."""
        return 0 if self._outbox is None else self._outbox.waiting

    @property
    def _opened(self) -> _OpenStudy:
        if self._study is None:
            raise RuntimeError("open_study must be called before runs are written")
        return self._study

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
                self._close_superseded(runs)
        except StoreAway:
            if self._known is None:
                raise
            return tuple(self._known.values())
        records = (to_record(study.name, run) for run in runs if SUPERSEDED not in run.tags)
        self._known = {record.run_id: KnownRun.model_validate(dict(record)) for record in records}
        return tuple(self._known.values())

    def _close_superseded(self, runs: Sequence[StoredRun]) -> None:
        """Close attempts that were marked as superseded by a process that was killed before it closed them."""
        for run in runs:
            if SUPERSEDED in run.tags and run_state(run) is State.RUNNING:
                self._client.set_terminated(run.run_id, "KILLED")

    def start_run(self, config: RunConfig, attempt: int, arm: str) -> str:
        """Make the MLflow run of an attempt, a child of the sweep's run, and give its id; while the store is away, an
        id of our own, which this tracker takes in its place.

        `arm`: unbiased, tpe, fixed, confirm or probe. Only the study's knobs become parameters; the whole config is the
        artifact `config.json`.
        """
        study, ticket = self._opened, f"{TICKET_PREFIX}{uuid.uuid4().hex}"
        tags = {
            "mlflow.parentRunId": study.parent_run_id,
            "mlflow.source.name": "sweeper",
            "variant": config.variant,
            "scenario": config.scenario,
            "block": str(config.block),
            "seed": str(config.seed),
            "trial": str(config.trial),
            "attempt": str(attempt),
            "arm": arm,
            "key": config.key,
            "state": State.RUNNING.value,
            "loss": _loss_name(config),
            KIND: RUN,
            TICKET: ticket,
            **_answer_tags(study.questions.get((config.variant, config.scenario)), config.content),
        }
        self._curve_ends[ticket] = {}
        self._send(
            do="start",
            run=ticket,
            name=run_name(config, attempt, arm, scenario=study.scenario_in_names),
            tags=tags,
            params={key: encode(value) for key, value in redact(config.knobs).items()},
            config=json.dumps(redact(config.model_dump(mode="json")), indent=2),
        )
        run_id = self._run_ids.get(ticket, ticket)
        if self._known is not None:
            question = study.questions.get((config.variant, config.scenario))
            self._known[run_id] = _known_run(run_id, config, attempt, arm, question)
        return run_id

    def log_curve(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points of the training curve, (step, values), in one transaction; what was written already is left."""
        if points:
            self._send(do="curve", run=run_id, curve=curve_values(points))

    def finish_run(
        self,
        run_id: str,
        config: RunConfig,
        result: RunResult,
        rung: int | None = None,
        by: Measurers | None = None,
    ) -> None:
        """Write the rest of the curve, all measurements, state and cause, then close the run.

        `rung`: the step of the rung at which it was stopped; `by`: who measured it, where it is not who measures such
        runs now. Safe to call again for a run whose closing was interrupted.
        """
        self._send(
            do="finish",
            run=run_id,
            curve=curve_values(result.curve),
            measured=measured_values(result),
            tags=result_tags(result) | measurer_tag(by or measurers_of(config)) | ({"rung": str(rung)} if rung else {}),
            dataset=_dataset(config, result),
            samples=[shown.model_dump() for shown in result.samples],
            status=_status(result),
        )
        known = (self._known or {}).get(run_id)
        if self._known is not None and known is not None:
            self._known[run_id] = known.model_copy(update={"state": result.state, "cause": result.cause})

    def adopt(self, run: RunRecord, content: Mapping[str, str]) -> None:
        """Write down that a run of format 1 answers what is asked now, of sources that hold this, and its measurers."""
        question = self._opened.questions[run.variant, run.scenario]
        tags = _answer_tags(question, content) | measurer_tag(Measurers(run.measured, run.judged))
        self._send(do="adopt", run=run.run_id, tags=tags)

    def supersede(self, run_id: str, reason: str) -> None:
        """Mark an attempt as replaced by a later one, which no table counts, and close it where it still runs."""
        self._send(do="supersede", run=run_id, reason=redact(reason)[:LONGEST_MESSAGE])
        if self._known is not None:
            self._known.pop(run_id, None)

    def log_table(self, files: Mapping[str, str]) -> None:
        """Keep table, page and figures, file name -> text, as artifacts of the sweep's run."""
        self._send(do="files", run=self._opened.parent_run_id, files=dict(files))

    def log_adapter(self, run_id: str, key: str) -> None:
        """Keep the trained adapter in the folder of this key as the artifact folder `adapter` of its run."""
        self._send(do="adapter", run=run_id, key=key)

    def log_scores(
        self,
        record: RunRecord,
        measurements: Sequence[Measurement],
        facts: Mapping[str, Scalar],
        samples: Sequence[Shown],
        who: Measurers,
    ) -> None:
        """Add measurements and facts that `who` found to a run that has ended, in one transaction, after its samples.
        What others had found of the same is kept beside them. Needs no open study and keeps nothing back: raises
        StoreError where the store does not take it.
        """
        from mlflow.entities import Metric, RunTag

        at, run_id = int(time.time() * 1000), record.run_id
        with store_calls(self.uri):
            now = to_record(record.study, stored(self._client.get_run(run_id)))
            shown = redact([one.model_dump() for one in samples], by_name=False)
            replaced = bool(replaced_by(now, measurements))
            before = self._keep_samples(run_id, len(now.former)) if shown and replaced else SAMPLES
            if shown:
                self._client.log_text(run_id, _samples_text(shown), SAMPLES)
            last = self._read_curve_ends(run_id, {m.name for m in measurements})
            metrics = [Metric(m.name, m.value, at, last.get(m.name, 0)) for m in measurements]
            tags = [RunTag(name, text) for name, text in score_tags(now, measurements, facts, who, before).items()]
            self._client.log_batch(run_id, metrics=metrics, tags=tags)

    def keep_contents(self, study: str, contents: Mapping[str, str]) -> None:
        """Keep what sources of a study hold, where a sweep has kept any. Needs no open study."""
        with store_calls(self.uri):
            experiment = self._client.get_experiment_by_name(study)
            if experiment is not None and CONTENTS_TAG in experiment.tags:
                for key, value in in_pieces(CONTENTS_TAG, json.dumps(dict(contents)), LONGEST_TAG).items():
                    self._client.set_experiment_tag(experiment.experiment_id, key, value)

    def _keep_samples(self, run_id: str, number: int) -> str:
        """Keep a run's samples under another name, which this gives, before others take their place."""
        kept = f"samples-{number}.json"
        names = {item.path for item in self._client.list_artifacts(run_id)}
        if SAMPLES in names and kept not in names:  # else somebody was interrupted after it
            with tempfile.TemporaryDirectory() as folder:
                text = Path(self._client.download_artifacts(run_id, SAMPLES, folder)).read_text(encoding="utf-8")
            self._client.log_text(run_id, text, kept)
        return kept

    def _send(self, **entry: Any) -> None:
        """Deliver a record or keep it. Raises StoreError where neither can be done."""
        assert self._outbox is not None, "open_study must be called before runs are written"
        numbers: dict[str, Any] = {
            name: entry.pop(name) for name in ("curve", "measured") if name in entry
        }  # many, and no text
        self._outbox.send({**redact(entry, by_name=False), **numbers, "time": int(time.time() * 1000)})

    def _deliver(self, entry: Entry, again: bool) -> None:
        """Write one record to MLflow. Writing it a second time changes nothing. See `outbox.Deliver`."""
        if again:  # out of the journal
            found = checked(entry)
            if found is None:
                raise StoreRefused("a damaged line")
            entry = found
        with store_calls(self.uri):
            if again:
                self._check_ours(entry["run"])
            match entry["do"]:
                case "start":
                    self._deliver_start(entry, again)
                case "curve":
                    self._deliver_values(self._real(entry["run"]), entry["curve"], [], {}, entry["time"])
                case "finish":
                    self._deliver_finish(entry)
                case "adopt":
                    for name, text in entry["tags"].items():
                        self._client.set_tag(self._real(entry["run"]), name, text)
                case "supersede":
                    self._deliver_supersede(entry)
                case "files":
                    for name, text in entry["files"].items():
                        self._client.log_text(entry["run"], text, name)
                case "adapter":
                    self._deliver_adapter(entry)
                case "close":
                    self._client.set_terminated(entry["run"], entry["status"], end_time=entry["time"])

    def _check_ours(self, run_id: str) -> None:
        """Raise StoreRefused for a run of another study."""
        if run_id in self._ours or run_id.startswith(TICKET_PREFIX):  # which `_real` looks for in this study alone
            return
        if self._client.get_run(run_id).info.experiment_id != self._opened.experiment_id:
            raise StoreRefused(f"the run {run_id} that it belongs to is of another study")
        self._ours.add(run_id)

    def _deliver_adapter(self, entry: Entry) -> None:
        """Attach what a trainer has written, and nothing else that lies there."""
        folder = self._opened.runs / entry["key"]
        if not os.path.lexists(folder / ADAPTER):
            return  # another trial has become the best since
        files, others = adapter_files(folder)
        for file in files:
            self._client.log_artifact(self._real(entry["run"]), str(file), ADAPTER)
        if others:
            self._tell_user(f"Not attached to MLflow, as no trainer has written it: {', '.join(map(str, others))}")

    def _real(self, run_id: str) -> str:
        """MLflow's id of a run that may have been started while it was away. Raises StoreRefused for a lost one."""
        if not run_id.startswith(TICKET_PREFIX):
            return run_id
        if run_id not in self._run_ids:
            found = self._client.search_runs([self._opened.experiment_id], f"tags.{TICKET} = '{run_id}'", max_results=1)
            if not found:
                raise StoreRefused(f"the run {run_id} that it belongs to was never made")
            self._run_ids[run_id] = found[0].info.run_id
        return self._run_ids[run_id]

    def _deliver_start(self, entry: Entry, again: bool) -> None:
        from mlflow.entities import Param

        ticket, experiment_id = entry["run"], self._opened.experiment_id
        if again and ticket not in self._run_ids:  # an earlier try may have got this far
            with suppress(StoreRefused):
                self._real(ticket)
        if ticket not in self._run_ids:
            made = self._client.create_run(experiment_id, entry["time"], tags=entry["tags"], run_name=entry["name"])
            self._run_ids[ticket] = made.info.run_id
        run_id = self._run_ids[ticket]
        self._curve_ends.setdefault(run_id, self._curve_ends.pop(ticket, {}))
        self._client.log_batch(run_id, params=[Param(key, value) for key, value in entry["params"].items()])
        self._client.log_text(run_id, entry["config"], "config.json")

    def _deliver_finish(self, entry: Entry) -> None:
        run_id = self._real(entry["run"])
        self._deliver_values(run_id, entry["curve"], entry["measured"], entry["tags"], entry["time"])
        if entry["dataset"]:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run_id, [DatasetInput(Dataset(**entry["dataset"]), tags)])
        if entry.get("samples"):  # a journal of an earlier version has none
            self._client.log_text(run_id, _samples_text(entry["samples"]), SAMPLES)
        self._client.set_terminated(run_id, entry["status"], end_time=entry["time"])
        self._curve_ends.pop(run_id, None)

    def _deliver_values(
        self, run_id: str, curve: Sequence[Value], measured: Sequence[Value], tags: Mapping[str, str], at: int
    ) -> None:
        """Write what MLflow has not yet of a curve, and the rest, in one transaction. MLflow itself leaves out a value
        that it has with the same step and time.
        """
        from mlflow.entities import Metric, RunTag

        new = self._unwritten(run_id, curve)
        metrics = [Metric(name, float(value), at, step) for name, value, step in [*new, *measured]]
        if metrics or tags:
            self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])
        self._curve_ends[run_id].update({name: step for name, _, step in new})

    def _deliver_supersede(self, entry: Entry) -> None:
        run_id = self._real(entry["run"])
        self._client.set_tag(run_id, SUPERSEDED, entry["reason"])
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED", end_time=entry["time"])
        self._curve_ends.pop(run_id, None)

    def _unwritten(self, run_id: str, values: Sequence[Value]) -> list[Value]:
        """The values past the last step of their name that MLflow has already."""
        if run_id not in self._curve_ends:
            self._curve_ends[run_id] = self._read_curve_ends(run_id, {name for name, _, _ in values})
        ends = self._curve_ends[run_id]
        return [(name, value, step) for name, value, step in values if step > ends.get(name, -1)]

    def _read_curve_ends(self, run_id: str, names: set[str]) -> dict[str, int]:
        """The last step that an earlier process wrote of each name. Only after a crash, so its queries are rare."""
        written = names & set(self._client.get_run(run_id).data.metrics)
        return {name: max(m.step for m in self._client.get_metric_history(run_id, name)) for name in written}


def _answer_tags(question: str | None, content: Mapping[str, str]) -> dict[str, str]:
    """What a run answers, and what its sources held."""
    answers = {QUESTION: question} if question else {}
    return answers | ({CONTENT: json.dumps(dict(content))} if content else {})


def _samples_text(samples: Sequence[Mapping[str, Any]]) -> str:
    return visible_json(json.dumps(samples, indent=1, ensure_ascii=False))


def _without_secrets(study_yaml_text: str) -> str:
    """The study file as it is where it holds no secret, else written anew without."""
    try:
        study = json.loads(study_yaml_text)  # which has numbers that YAML reads as text
    except ValueError:
        study = yaml.safe_load(study_yaml_text)
    told = redact(study)
    return study_yaml_text if told == study else yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _known_run(run_id: str, config: RunConfig, attempt: int, arm: str, question: str | None) -> KnownRun:
    """A run in training as MLflow would tell it."""
    same = {name: getattr(config, name) for name in ("key", "study", "variant", "scenario", "trial", "block", "seed")}
    return KnownRun(
        run_id=run_id,
        attempt=attempt,
        state=State.RUNNING,
        cause=None,
        arm=arm,
        knobs=config.knobs,
        metrics={},
        errors={},
        facts={},
        question=question,
        content=config.content,
        **same,
    )


def _status(result: RunResult) -> str:
    """How a run that ended is shown in MLflow: FAILED is what `sweeper status` calls so, KILLED was stopped."""
    if result.failure is not None:
        return "FAILED"
    return "FINISHED" if result.state is State.COMPLETE else "KILLED"


def _dataset(config: RunConfig, result: RunResult) -> dict[str, str] | None:
    """What MLflow keeps of the run's data, where the trainer told the content's digest."""
    if DATA_DIGEST not in result.facts:
        return None
    data = redact(config.data.model_dump(mode="json", exclude_defaults=True))
    path = redact(config.data.path)
    return {
        "name": path[-LONGEST_NAME:],
        "digest": str(result.facts[DATA_DIGEST])[:12],
        "source_type": "sweeper",
        "source": json.dumps({"path": path, **data, "block": config.block}),
    }


def run_name(config: RunConfig, attempt: int, arm: str, *, scenario: bool) -> str:
    """A name to find a run by in a list: `ipo t3 b0 s0`, with the scenario where there are several; `ipo timed 3`."""
    where = f" {config.scenario}" if scenario else ""
    again = f" #{attempt}" if attempt > 1 else ""
    if arm == PROBE:
        return f"{config.variant}{where} timed {config.seed}{again}"
    return f"{config.variant}{where} t{config.trial} b{config.block} s{config.seed}{again}"


def _loss_name(config: RunConfig) -> str:
    """The losses that the run trains with, joined by plus signs."""
    losses = config.settings.get("loss_type", config.variant)
    return losses if isinstance(losses, str) else "+".join(losses)
