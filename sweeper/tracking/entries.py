"""What is sent to MLflow of a run, as entries of the journal (see `journal.py`, which checks what it reads back)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.store.mlflow_tags import (
    PARENT,
    TICKET,
    curve_values,
    encode,
    measured_values,
    measurer_tag,
    result_tags,
    start_tags,
)
from dashboards.store.records import record_tags
from studies.design.measurers import Measurers, measurers_of
from studies.records import DATA_DIGEST, RunConfig, RunRecord, RunResult, State
from studies.text.redact import redact
from studies.text.visible import visible_json
from sweeper.tracking.experiment.study import OpenStudy

LONGEST_NAME = 500  # of a data set

Entries = tuple[dict[str, Any], ...]


def start_entry(
    ticket: str, parent: str, config: RunConfig, attempt: int, phase: str, question: str | None, *, scenario: bool
) -> dict[str, Any]:
    """A run that begins, a child of `parent`. Only the knobs of the study become params; the whole config is a file,
    `config.json`. `scenario`: whether the run's name tells it.
    """
    return {
        "do": "start",
        "run": ticket,
        "name": run_name(config, attempt, scenario=scenario),
        "tags": {PARENT: parent, TICKET: ticket, **start_tags(config, attempt, phase, question)},
        "params": {key: encode(value) for key, value in redact(config.knobs).items()},
        "config": json.dumps(redact(config.model_dump(mode="json")), indent=2),
    }


def finish_entry(
    run_id: str, config: RunConfig, result: RunResult, rung: int | None, by: Measurers | None
) -> dict[str, Any]:
    """A run that has ended; see `Tracker.finish_run`."""
    return {
        "do": "finish",
        "run": run_id,
        "curve": curve_values(result.curve),
        "measured": measured_values(result),
        "tags": result_tags(result) | measurer_tag(by or measurers_of(config)) | ({"rung": str(rung)} if rung else {}),
        "dataset": _dataset(config, result),
        "samples": [shown.model_dump() for shown in result.samples],
        "status": status_of(result),
    }


def recorded_entries(ticket: str, study: OpenStudy, config: RunConfig, record: RunRecord) -> Entries:
    """A run that ended before, known by its record: how it began and how it ended, each at its own time."""
    of_record = (record.attempt, record.phase, record.question)
    start = start_entry(ticket, study.parent_run_id, config, *of_record, scenario=study.scenario_in_names)
    finish = {
        "do": "finish",
        "run": ticket,
        "curve": [],
        "measured": [(name, value, 0) for name, value in record.metrics.items()],
        "tags": record_tags(record),
        "dataset": None,
        "samples": [],
        "status": "FAILED" if record.failure else "FINISHED" if record.state is State.COMPLETE else "KILLED",
    }
    times = (record.started or 0.0, record.ended or record.started or 0.0)
    return tuple({**entry, "time": int(at * 1000)} for entry, at in zip((start, finish), times, strict=True))


def run_name(config: RunConfig, attempt: int, *, scenario: bool) -> str:
    """A name to find a run by in a list: `ipo t3 b0 s0`, with the scenario where there are several."""
    where = f" {config.scenario}" if scenario else ""
    again = f" #{attempt}" if attempt > 1 else ""
    return f"{config.variant}{where} t{config.trial} b{config.block} s{config.seed}{again}"


def status_of(result: RunResult) -> str:
    """How a run that ended is shown in MLflow: FAILED is what `sweeper status` calls so, KILLED was stopped."""
    if result.failure is not None:
        return "FAILED"
    return "FINISHED" if result.state is State.COMPLETE else "KILLED"


def samples_text(samples: Sequence[Mapping[str, Any]]) -> str:
    """The file of a run's samples."""
    return visible_json(json.dumps(samples, indent=1, ensure_ascii=False))


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
