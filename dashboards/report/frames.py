"""Runs and the short table as pandas data frames, for who works on in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from dashboards.statistics.estimates import Estimate
from dashboards.statistics.scale import scale_of
from dashboards.tables.comparison import Comparison
from dashboards.tables.short import by_verdict, verdict
from dashboards.tuned.answer import Answer
from dashboards.tuned.losses import Tuned, TunedLoss
from studies.design.counts import pairs_source
from studies.records import RunRecord
from studies.schema.replicates import cell_of
from studies.spec import StudySpec
from studies.text.redact import redact

MEASURED: Final = "_measured"
"""At the end of a metric's column where a setting, or another column, has its name already."""
COUNTS: Final = ("replicate", "trial", "task", "block", "seed", "attempt")


def runs_frame(spec: StudySpec, records: Sequence[RunRecord], aside: Mapping[str, str]) -> pd.DataFrame:
    """One row a run: what it was, how it ended, its settings, then the last value of each metric.

    `aside`: ids of the runs that do not answer what the study asks now, and why.
    """
    scale = scale_of(spec.objective, pairs_source(spec))
    about = [_about(record, scale.task(record.block) if scale.by_task else None, aside) for record in records]
    settings = list(dict.fromkeys(name for record in records for name in record.knobs))
    taken = {*settings, *_about_columns()}
    metrics = {
        name: f"{name}{MEASURED}" if name in taken else name
        for name in dict.fromkeys(name for record in records for name in record.metrics)
    }
    rows = [
        {
            **row,
            **{name: record.knobs.get(name) for name in settings},
            **{column: record.metrics.get(name) for name, column in metrics.items()},
        }
        for row, record in zip(about, records, strict=True)
    ]
    frame = pd.DataFrame(redact(rows, by_name=False), columns=[*_about_columns(), *settings, *metrics.values()])
    return frame.astype(dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(metrics.values(), "float64"))


def _about_columns() -> tuple[str, ...]:
    return (
        "run_id", "key", "variant", "condition", "scenario", "replicate", "trial", "task", "block", "seed", "phase",
        "attempt", "evaluator", "judge", "superseded", "superseded_because", "state", "cause", "failure", "started",
        "ended",
    )  # fmt: skip


def _about(record: RunRecord, task: int | None, aside: Mapping[str, str]) -> dict[str, Any]:
    cell = cell_of(record.scenario)
    because = aside.get(record.run_id)
    return {
        "run_id": record.run_id,
        "key": record.key,
        "variant": record.variant,
        "condition": cell.condition,
        "scenario": record.scenario,
        "replicate": cell.number,
        "trial": record.trial,
        "task": task,
        "block": record.block,
        "seed": record.seed,
        "phase": record.phase,
        "attempt": record.attempt,
        "evaluator": record.measured.evaluator,
        "judge": record.judged.judge,
        "superseded": because is not None,
        "superseded_because": because,
        "state": str(record.state),
        "cause": None if record.cause is None else str(record.cause),
        "failure": None if record.failure is None else str(record.failure),
        "started": record.started,
        "ended": record.ended,
    }


def table_frame(table: Comparison) -> pd.DataFrame:
    """The short table: one row a loss in each condition, in its order, with the numbers that its cells are made of.

    Gains and differences are in `unit`: U is the share of what is possible, which the table shows in percent.
    """
    rows = [
        _loss(loss, found, said)
        for found, said in zip(table.tuned, table.answers, strict=True)
        for loss in by_verdict(found, said)
    ]
    numbers = [
        "gain", "gain_low", "gain_high", "difference", "difference_low", "difference_high", "compared_at", "drift",
        "length",
    ]  # fmt: skip
    counts = ["worked", "tried", "judged", "step"]
    columns = ["condition", "variant", "verdict", *numbers, *counts, "unit"]
    settings = list(dict.fromkeys(name for row in rows for name in row if name not in columns))
    frame = pd.DataFrame(redact(rows, by_name=False), columns=[*columns, *settings])
    return frame.astype(dict.fromkeys(counts, "Int64") | dict.fromkeys(numbers, "float64"))


def _loss(loss: TunedLoss, found: Tuned, said: Answer) -> dict[str, Any]:
    against = None if loss.difference is None else loss.difference.estimate
    known = loss.any_setting is not None or bool(loss.worked)
    return {
        "condition": found.condition,
        "variant": loss.variant,
        **_estimate("gain", loss.gained),
        "unit": found.unit,
        **_estimate("difference", against),
        "compared_at": None if against is None else loss.compared_at,
        "worked": loss.worked if known else None,
        "tried": loss.tried,
        "judged": loss.judged,
        "drift": loss.drift,
        "length": loss.length,
        "verdict": verdict(loss, found, said),
        "step": loss.step,
        **loss.settings,
    }


def _estimate(name: str, found: Estimate | None) -> dict[str, float | None]:
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
