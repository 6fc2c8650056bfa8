"""A tracker that keeps its runs in memory, in the tags and values that MLflow would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dashboards.store.mlflow_tags import (
    SUPERSEDED,
    Point,
    Value,
    curve_values,
    encode,
    measured_values,
    measurer_tag,
    result_tags,
    start_tags,
)
from dashboards.store.sqlite_runs import StoredRun
from studies.design.measurers import Measurers, measurers_of
from studies.records import RunConfig, RunResult
from sweeper.tracking.entries import run_name, status_of
from sweeper.tracking.known_runs import KnownRun, KnownRuns


class MemoryTracker:
    """Records the runs of one study for as long as the process lives. `adapters`: run -> key of what it keeps."""

    def __init__(self, study: str, questions: Mapping[tuple[str, str], str] = {}) -> None:
        self._study, self._questions = study, questions
        self.runs: dict[str, StoredRun] = {}
        self._ends: dict[str, dict[str, int]] = {}  # of each run: metric -> the last step that was recorded
        self.adapters: dict[str, str] = {}

    def known_runs(self) -> tuple[KnownRun, ...]:
        """Every run that was not superseded, oldest first."""
        return KnownRuns().read(self._study, list(self.runs.values()))

    def start_run(self, config: RunConfig, attempt: int, phase: str) -> str:
        """Record that a run begins, and give its id."""
        run_id = f"{len(self.runs):032x}"
        tags = start_tags(config, attempt, phase, self._questions.get((config.variant, config.scenario)))
        params = {name: encode(value) for name, value in config.knobs.items()}
        name = run_name(config, attempt, scenario=False)
        self.runs[run_id] = StoredRun(run_id, name, "RUNNING", None, None, tags=tags, params=params, metrics={})
        self._ends[run_id] = {}
        return run_id

    def log_curve(self, run_id: str, points: Sequence[Point]) -> None:
        """Record points of the training curve; what was recorded already is left."""
        self._add(run_id, curve_values(points))

    def finish_run(
        self, run_id: str, config: RunConfig, result: RunResult, rung: int | None = None, by: Measurers | None = None
    ) -> None:
        """Record the rest of the curve, all measurements, state and cause, then close the run."""
        self._add(run_id, [*curve_values(result.curve), *measured_values(result)])
        tags = result_tags(result) | measurer_tag(by or measurers_of(config)) | ({"rung": str(rung)} if rung else {})
        run = self.runs[run_id]
        self.runs[run_id] = replace(run, status=status_of(result), tags={**run.tags, **tags})

    def supersede(self, run_id: str, reason: str) -> None:
        """Mark an attempt as replaced by a later one, and close it where it still runs."""
        run = self.runs[run_id]
        status = "KILLED" if run.status == "RUNNING" else run.status
        self.runs[run_id] = replace(run, status=status, tags={**run.tags, SUPERSEDED: reason})

    def log_adapter(self, run_id: str, key: str) -> None:
        """Keep which adapter belongs to a run."""
        self.adapters[run_id] = key

    def log_samples(self, run_id: str, key: str) -> None:
        """Nothing: they stay where they were written."""

    def _add(self, run_id: str, values: Sequence[Value]) -> None:
        """Keep of each metric the value of its last step."""
        run, ends = self.runs[run_id], self._ends[run_id]
        metrics = dict(run.metrics)
        for name, value, step in values:
            if step >= ends.get(name, step):
                metrics[name], ends[name] = value, step
        self.runs[run_id] = replace(run, metrics=metrics)
