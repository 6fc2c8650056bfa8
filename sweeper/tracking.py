"""Writes what runs do to MLflow, as its only writer; knows nothing of how runs are chosen, trained or shown."""

from __future__ import annotations

import base64
import json
import math
import re
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.load import (
    ERRORS,
    FACT_PREFIX,
    HALVES,
    KIND,
    NON_FINITE,
    RUN,
    SUPERSEDED,
    SWEEP,
    VIEW_TAG,
    connect,
    encode,
    read_runs,
    sqlite_file,
    store_uri,
    to_record,
)
from studies.records import Measurement, RunConfig, RunRecord, RunResult, State
from studies.spec import StudySpec

# MLflow refuses tags above 8000 characters; a message is for reading in a list, the rest is in the run's folder.
LONGEST_MESSAGE = 500
DATA_DIGEST = "digest"
# How a state is shown in MLflow: a diverged or stopped run is KILLED, only the machine's failures are FAILED.
STATUS: Mapping[State, str] = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAIL: "FAILED"}

Point = tuple[int, Mapping[str, float]]
_Value = tuple[str, float, int]  # metric, value, step


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
    """The study that is being written: its place in MLflow and whether run names tell the scenario."""

    name: str
    experiment_id: str
    parent_run_id: str
    scenario_in_names: bool


class Tracker:
    """The writing side of one MLflow store; for one study at a time, from one process and one thread.

    It holds its own client with an absolute URI and leaves MLflow's global settings and active run alone, so that
    it works inside a notebook that uses MLflow for something else.
    """

    def __init__(self, uri: str | None, folder: Path) -> None:
        """Open the store (see `store_uri`), making its tables where there are none.

        `folder` is the working folder; artifacts of a SQLite store go to `mlartifacts` in it, as with `mlflow ui`.
        Raises StoreError where MLflow cannot use the store.
        """
        self.uri = store_uri(uri, folder)
        self._artifacts = folder.absolute() / "mlartifacts" if sqlite_file(self.uri) else None
        self._client = connect(self.uri)
        self._study: _OpenStudy | None = None
        self._curve_ends: dict[str, dict[str, int]] = {}

    def open_study(self, spec: StudySpec, study_yaml_text: str) -> str:
        """Find or make the study's experiment and its parent run, mark that as RUNNING and give its id."""
        experiment_id = self._open_experiment(spec)
        parents = self._client.search_runs([experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
        note = {"mlflow.note.content": spec.question} if spec.question else {}
        if parents:
            parent_run_id: str = parents[0].info.run_id
            self._client.update_run(parent_run_id, status="RUNNING")
        else:
            tags = {KIND: SWEEP, "mlflow.source.name": "sweeper", **note}
            parent_run_id = self._client.create_run(experiment_id, tags=tags, run_name=spec.study).info.run_id
        self._client.log_text(parent_run_id, redact_text(study_yaml_text), "study.yaml")
        self._study = _OpenStudy(spec.study, experiment_id, parent_run_id, scenario_in_names=len(spec.scenarios) > 1)
        return parent_run_id

    def _open_experiment(self, spec: StudySpec) -> str:
        """The id of the study's experiment, made or restored; what somebody changed on its page stays changed."""
        experiment = self._client.get_experiment_by_name(spec.study)
        if experiment is None:
            place = (self._artifacts / spec.study).as_uri() if self._artifacts else None
            experiment = self._client.get_experiment(
                self._client.create_experiment(spec.study, artifact_location=place)
            )
        experiment_id: str = experiment.experiment_id
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment_id)
        for key, value in experiment_tags(spec).items():
            if key not in experiment.tags:
                self._client.set_experiment_tag(experiment_id, key, value)
        return experiment_id

    def close_study(self, *, finished: bool) -> None:
        """Close the parent run: FINISHED where all that was asked has been trained, KILLED where it was stopped."""
        self._client.set_terminated(self._opened.parent_run_id, "FINISHED" if finished else "KILLED")

    @property
    def _opened(self) -> _OpenStudy:
        if self._study is None:
            raise RuntimeError("open_study must be called before runs are written")
        return self._study

    def known_runs(self) -> tuple[KnownRun, ...]:
        """Every run of the open study that is in MLflow and was not superseded, oldest first."""
        study = self._opened
        runs = read_runs(self._client, study.experiment_id)
        records = (to_record(study.name, run) for run in runs if SUPERSEDED not in run.data.tags)
        return tuple(KnownRun.model_validate(dict(record)) for record in records)

    def start_run(self, config: RunConfig, attempt: int, arm: str) -> str:
        """Make the MLflow run of an attempt, a child of the sweep's run, and give its id.

        `arm`: unbiased, tpe, fixed or confirm. Only the study's knobs become parameters; the whole config is the
        artifact `config.json`. Values of settings that look like secrets are not written.
        """
        from mlflow.entities import Param

        study = self._opened
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
        }
        name = run_name(config, attempt, scenario=study.scenario_in_names)
        run_id: str = self._client.create_run(study.experiment_id, tags=tags, run_name=name).info.run_id
        params = [Param(key, encode(value)) for key, value in redact(config.knobs).items()]
        self._client.log_batch(run_id, params=params)
        whole = json.dumps(redact(config.model_dump(mode="json")), indent=2)
        self._client.log_text(run_id, whole, "config.json")
        self._curve_ends[run_id] = {}
        return run_id

    def log_curve(self, run_id: str, points: Sequence[Point]) -> None:
        """Write points of the training curve, (step, values), in one transaction; what was written already is left."""
        new = self._unwritten(run_id, points)
        if new:
            self._client.log_batch(run_id, metrics=_metrics(new))
            self._curve_ends[run_id].update({name: step for name, _, step in new})

    def finish_run(self, run_id: str, config: RunConfig, result: RunResult, rung: int | None = None) -> None:
        """Write the rest of the curve, all measurements, state and cause, then close the run.

        Standard errors go into one tag, and the values on halves of the samples into another: as metrics of their own
        they would double MLflow's charts. Values that are not finite are left out (MLflow would show 1.8e308); names
        whose last value was not finite stand in the tag `non_finite`. `rung`: the step of the rung at which it was
        stopped. Safe to call again for a run whose closing was
        interrupted.
        """
        from mlflow.entities import RunTag

        measured = _measured(result)
        metrics = _metrics(self._unwritten(run_id, result.curve) + measured)
        errors = {name: m.error for name, m in result.final().items() if m.error is not None and math.isfinite(m.error)}
        halves = {
            name: m.halves for name, m in result.final().items() if m.halves and all(map(math.isfinite, m.halves))
        }
        non_finite = _ends_non_finite(_curve_values(result.curve) + measured)
        tags = {"state": result.state.value, "cause": result.cause.value}
        tags |= {FACT_PREFIX + name: encode(value) for name, value in redact(result.facts).items()}
        tags |= {ERRORS: json.dumps(errors)} if errors else {}
        tags |= {HALVES: json.dumps(halves)} if halves else {}
        tags |= {"message": result.message[:LONGEST_MESSAGE]} if result.message else {}
        tags |= {"adapter": result.adapter} if result.adapter else {}
        tags |= {"rung": str(rung)} if rung else {}
        tags |= {NON_FINITE: ", ".join(non_finite)} if non_finite else {}
        self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])
        self._log_dataset(run_id, config, result)
        self._client.set_terminated(run_id, STATUS[result.state])
        self._curve_ends.pop(run_id, None)

    def _unwritten(self, run_id: str, points: Sequence[Point]) -> list[_Value]:
        """The values of the points past the last step of their name that MLflow has already."""
        values = _curve_values(points)
        if run_id not in self._curve_ends:
            self._curve_ends[run_id] = self._read_curve_ends(run_id, {name for name, _, _ in values})
        ends = self._curve_ends[run_id]
        return [(name, value, step) for name, value, step in values if step > ends.get(name, -1)]

    def _read_curve_ends(self, run_id: str, names: set[str]) -> dict[str, int]:
        """The last step that an earlier process wrote of each name. Only after a crash, so its queries are rare."""
        written = names & set(self._client.get_run(run_id).data.metrics)
        return {name: max(m.step for m in self._client.get_metric_history(run_id, name)) for name in written}

    def _log_dataset(self, run_id: str, config: RunConfig, result: RunResult) -> None:
        """Link the run to its data, where the trainer told the content's digest."""
        if DATA_DIGEST not in result.facts:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = config.data.model_dump(mode="json", exclude_defaults=True)
        dataset = Dataset(
            name=config.data.path,
            digest=str(result.facts[DATA_DIGEST])[:12],
            source_type="sweeper",
            source=json.dumps({"path": config.data.path, **data, "block": config.block}),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def supersede(self, run_id: str, reason: str) -> None:
        """Mark an attempt as replaced by a later one, which no table counts, and close it where it still runs."""
        self._client.set_tag(run_id, SUPERSEDED, reason[:LONGEST_MESSAGE])
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED")
        self._curve_ends.pop(run_id, None)

    def log_table(self, files: Mapping[str, str]) -> None:
        """Keep the table, file name -> text, as artifacts of the sweep's run."""
        for name, text in files.items():
            self._client.log_text(self._opened.parent_run_id, text, name)

    def log_adapter(self, run_id: str, folder: Path) -> None:
        """Keep a trained adapter as the artifact folder `adapter` of its run."""
        self._client.log_artifacts(run_id, str(folder), "adapter")


def experiment_tags(spec: StudySpec) -> Mapping[str, str]:
    """What makes MLflow's pages show a study well: its question and the saved view that `view_page` opens.

    Without the view MLflow 3.17 opens its page for agents, and behind it one collapsed row, the sweep's, and no charts.
    A saved view is a tag that holds the page's state, zipped; its format is MLflow's own (read off 3.17.2) and no part
    of its API: should it change, the view is missing and nothing else breaks.
    """
    measured = [spec.objective.metric, "kl", "margin", "steps_per_second"]
    own = (name for variant in spec.variants.values() for name in variant.space)
    columns = [f"metrics.`{name}`" for name in dict.fromkeys(measured)]
    columns += [f"params.`{name}`" for name in dict.fromkeys([*spec.space, *own])]
    state = {
        "searchFilter": f"tags.{KIND} = '{RUN}'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["tags.`state`", *columns],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": "variant"}],
        },
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    zipped = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "By variant", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{zipped}"}
    note = {"mlflow.note.content": spec.question} if spec.question else {}
    return {
        VIEW_TAG: json.dumps(view),
        **note,
    }


def run_name(config: RunConfig, attempt: int, *, scenario: bool) -> str:
    """A name to find a run by in a list: `ipo t3 b0 s0`, with the scenario where there are several."""
    where = f" {config.scenario}" if scenario else ""
    again = f" #{attempt}" if attempt > 1 else ""
    return f"{config.variant}{where} t{config.trial} b{config.block} s{config.seed}{again}"


def _loss_name(config: RunConfig) -> str:
    """The losses that the run trains with, joined by plus signs."""
    losses = config.settings.get("loss_type", config.variant)
    return losses if isinstance(losses, str) else "+".join(losses)


def _curve_values(points: Sequence[Point]) -> list[_Value]:
    return [(name, value, step) for step, values in points for name, value in values.items()]


def _measured(result: RunResult) -> list[_Value]:
    """The measurements as (name, value, step).

    What was measured once gets step 0, whatever its step: MLflow then draws bars to compare runs by, where it would
    draw a line chart of one dot each.
    """
    names = [m.name for m in result.measurements] + [name for _, values in result.curve for name in values]
    times = Counter(names)
    return [(m.name, m.value, m.step if times[m.name] > 1 else 0) for m in result.measurements]


def _metrics(values: Sequence[_Value]) -> list[Any]:
    """MLflow's metrics of those (name, value, step)s that are finite."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value, step in values if math.isfinite(value)]


def _ends_non_finite(values: Sequence[_Value]) -> list[str]:
    """The names whose value at their last step is not finite: what MLflow holds of them is not how the run ended."""
    last = {name: value for name, value, _ in sorted(values, key=lambda named: named[2])}
    return sorted(name for name, value in last.items() if not math.isfinite(value))


_SECRET_WORDS = frozenset({"token", "key", "secret", "password", "passwd", "credential", "credentials"})
_NOT_SECRET = frozenset({"pad_token", "eos_token", "bos_token", "unk_token"})
_REDACTED = "(not recorded)"


def is_secret(name: str) -> bool:
    """Whether a setting of this name may hold a secret: a word of it is token, key, secret or password."""
    return name not in _NOT_SECRET and not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def redact(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with all values of names that look secret replaced, at any depth."""
    return {
        name: _REDACTED if is_secret(name) and value is not None else _inner(value) for name, value in values.items()
    }


def _inner(value: Any) -> Any:
    return redact(value) if isinstance(value, Mapping) else value


def redact_text(text: str) -> str:
    """YAML text with the scalars of names that look secret replaced."""

    def replace(match: re.Match[str]) -> str:
        return match[1] + _REDACTED if is_secret(match[2]) else match[0]

    return re.sub(r"(([\w.-]+)[\"']?\s*:[ \t]+)([^\s,{}\[\]#][^,}\n]*)", replace, text)
