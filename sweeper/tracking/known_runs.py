"""Runs as MLflow knows them, and what is known of them while it is away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dashboards.store.mlflow_tags import SUPERSEDED, to_record
from dashboards.store.sqlite_runs import StoredRun
from studies.records import Measurement, RunConfig, RunRecord, RunResult, State


class KnownRun(RunRecord):
    """A run as MLflow knows it. `state` is RUNNING for all that were not closed, whatever was written of them."""

    def result(self) -> RunResult:
        """The result as far as MLflow holds it: what was measured, along the training too, and facts; not the losses of
        its steps. Raises ValueError for a run that has not ended.
        """
        if self.cause is None or self.state is State.RUNNING:
            raise ValueError(f"run {self.run_id} has not ended and has no result")
        last = max((step for points in self.curves.values() for step, _ in points), default=0)
        found = [m for name in self.metrics for m in self._on_the_way(name, last)]
        found += [Measurement(n, v, self.errors.get(n), last, self.halves.get(n)) for n, v in self.metrics.items()]
        message = self.facts.get("message", "")
        return RunResult(
            key=self.key, cause=self.cause, message=message, measurements=tuple(found), facts=dict(self.facts)
        )

    def _on_the_way(self, name: str, last: int) -> Iterator[Measurement]:
        """What a metric was before the end: an objective may be read there."""
        halves = {step: (one, other) for step, one, other in self.curve_halves.get(name, ())}
        for step, value in self.curves.get(name, ()):
            if step < last:
                yield Measurement(name, value, None, step, halves.get(step))


class KnownRuns:
    """The runs of the last reading and what was written since, without metrics; nothing before the first reading."""

    def __init__(self) -> None:
        self._runs: dict[str, KnownRun] | None = None

    def read(self, study: str, stored: Sequence[StoredRun]) -> tuple[KnownRun, ...]:
        """Take in what MLflow holds, without what was superseded. Raises StoreError for tags that make no sense."""
        records = (to_record(study, run) for run in stored if SUPERSEDED not in run.tags)
        self._runs = {record.run_id: KnownRun.model_validate(dict(record)) for record in records}
        return tuple(self._runs.values())

    def all(self) -> tuple[KnownRun, ...] | None:
        """Every run; None before the first reading."""
        return None if self._runs is None else tuple(self._runs.values())

    def start(self, run_id: str, config: RunConfig, attempt: int, phase: str, question: str | None) -> None:
        """A run begins."""
        if self._runs is not None:
            self._runs[run_id] = _in_training(run_id, config, attempt, phase, question)

    def finish(self, run_id: str, result: RunResult) -> None:
        """A run has ended."""
        if self._runs is not None and run_id in self._runs:
            update = {"state": result.state, "cause": result.cause}
            self._runs[run_id] = self._runs[run_id].model_copy(update=update)

    def drop(self, run_id: str) -> None:
        """A run is superseded."""
        if self._runs is not None:
            self._runs.pop(run_id, None)


def _in_training(run_id: str, config: RunConfig, attempt: int, phase: str, question: str | None) -> KnownRun:
    """A run in training as MLflow would tell it."""
    same = {name: getattr(config, name) for name in ("key", "study", "variant", "scenario", "trial", "block", "seed")}
    return KnownRun(
        run_id=run_id,
        attempt=attempt,
        state=State.RUNNING,
        cause=None,
        phase=phase,
        knobs=config.knobs,
        metrics={},
        errors={},
        facts={},
        question=question,
        content=config.content,
        **same,
    )
