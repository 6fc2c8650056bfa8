"""Writes to MLflow what is measured without a training: of a run after it has ended, of a model from elsewhere."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.store.connection import connect, store_calls
from dashboards.store.mlflow_tags import (
    KIND,
    PARENT,
    SWEEP,
    measurer_tag,
    replaced_by,
    result_tags,
    score_tags,
    start_tags,
    to_record,
)
from dashboards.store.records import stored
from studies.design.measurers import Measurers, measurers_of
from studies.records import ELSEWHERE, SAMPLES, Measurement, RunConfig, RunRecord, RunResult, Scalar, Shown
from studies.records.world_units import source_of
from studies.samples.kept import SAMPLES_FOLDER, SCORES_FILE, TEXTS_FILE
from studies.text.files import read_bytes, write_whole
from studies.text.redact import redact
from sweeper.tracking.delivery import alone, read_curve_ends
from sweeper.tracking.entries import samples_text
from trainers.run_folder.kept_samples import sample_files


def write_scores(
    client: Any,
    uri: str,
    record: RunRecord,
    measurements: Sequence[Measurement],
    facts: Mapping[str, Scalar],
    samples: Sequence[Shown],
    who: Measurers,
) -> None:
    """Add measurements and facts that `who` found to a run that has ended, in one transaction, after its samples. What
    others had found of the same is kept beside them. Raises StoreError.
    """
    from mlflow.entities import Metric, RunTag

    at, run_id = int(time.time() * 1000), record.run_id
    with store_calls(uri):
        now = to_record(record.study, stored(client.get_run(run_id)))
        shown = redact([one.model_dump() for one in samples], by_name=False)
        replaced = bool(replaced_by(now, measurements))
        before = _keep_samples(client, run_id, len(now.former)) if shown and replaced else SAMPLES
        if shown:
            client.log_text(run_id, samples_text(shown), SAMPLES)
        last = read_curve_ends(client, run_id, {m.name for m in measurements})
        final = {m.name: m for m in sorted(measurements, key=lambda m: m.step)}.values()
        metrics = [Metric(m.name, m.value, at, last.get(m.name, 0)) for m in final]
        tags = [RunTag(name, text) for name, text in score_tags(now, measurements, facts, who, before).items()]
        client.log_batch(run_id, metrics=metrics, tags=tags)


def attach_samples(client: Any, uri: str, run_id: str, folder: Path, tell_user: Callable[[str], None]) -> None:
    """Keep the samples in a run's folder as artifacts of the run. Raises StoreError."""
    with store_calls(uri):
        for file in alone(sample_files(folder), tell_user):
            client.log_artifact(run_id, str(file), SAMPLES_FOLDER)


def fetch_samples(uri: str, run_id: str, folder: Path) -> None:
    """Bring the samples that a run has in MLflow into its folder, where it has none there. Raises StoreError."""
    if sample_files(folder):
        return
    client = connect(uri)
    with tempfile.TemporaryDirectory() as aside, store_calls(uri):
        names = {item.path for item in client.list_artifacts(run_id, SAMPLES_FOLDER)}
        for name in (TEXTS_FILE, SCORES_FILE):
            if f"{SAMPLES_FOLDER}/{name}" in names:
                found = client.download_artifacts(run_id, f"{SAMPLES_FOLDER}/{name}", aside)
                (folder / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
                write_whole(folder / SAMPLES_FOLDER / name, read_bytes(Path(found)))


def _keep_samples(client: Any, run_id: str, number: int) -> str:
    """Keep a run's samples under another name, which this gives, before others take their place."""
    kept = f"samples-{number}.json"
    names = {item.path for item in client.list_artifacts(run_id)}
    if SAMPLES in names and kept not in names:  # else somebody was interrupted after it
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client.download_artifacts(run_id, SAMPLES, folder)).read_text(encoding="utf-8")
        client.log_text(run_id, text, kept)
    return kept


def write_elsewhere(client: Any, uri: str, config: RunConfig, result: RunResult) -> None:
    """Keep what was measured of a model from elsewhere on one draw, beside the runs of its study. Raises StoreError."""
    from mlflow.entities import Metric

    at, final = int(time.time() * 1000), result.final().values()
    # Whose world its gold is told in, as runs that were trained say it.
    result = result.model_copy(update={"facts": {**result.facts, "source": source_of(config.data)}})
    tags = start_tags(config, 1, ELSEWHERE, None) | result_tags(result) | measurer_tag(measurers_of(config))
    with store_calls(uri):
        experiment = client.get_experiment_by_name(config.study)
        parents = client.search_runs([experiment.experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
        tags |= {KIND: ELSEWHERE} | ({PARENT: parents[0].info.run_id} if parents else {})
        name = redact(f"yours: {config.variant} {config.scenario} b{config.block}")
        run_id = client.create_run(
            experiment.experiment_id, tags=redact(tags, by_name=False), run_name=name
        ).info.run_id
        client.log_batch(run_id, metrics=[Metric(m.name, m.value, at, 0) for m in final if math.isfinite(m.value)])
        if result.samples:
            shown = redact([one.model_dump() for one in result.samples], by_name=False)
            client.log_text(run_id, samples_text(shown), SAMPLES)
        client.set_terminated(run_id, "FINISHED")  # which makes it count
