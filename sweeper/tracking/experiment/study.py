"""The entry of a study in MLflow: its experiment, whose it is, and the parent of its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dashboards.store.artifacts import study_artifacts
from dashboards.store.connection import is_database, store_calls
from dashboards.store.mlflow_tags import (
    CONTENTS_TAG,
    KIND,
    SOURCE,
    SWEEP,
    contents_tags,
    mark_tags,
    marks_in,
    study_tags,
)
from studies.spec import StudySpec
from studies.text.redact import redact
from sweeper.tracking.experiment.saved_view import experiment_tags, note


@dataclass(frozen=True)
class OpenStudy:
    """The study that is being written: its place in MLflow, whether run names tell the scenario, its run folder, and
    the question of each (variant, scenario).
    """

    name: str
    experiment_id: str
    parent_run_id: str
    scenario_in_names: bool
    runs: Path
    questions: Mapping[tuple[str, str], str]


def claim(client: Any, uri: str, folder: Path, spec: StudySpec, marks: Mapping[str, str]) -> bool:
    """Write into the study's experiment, made or restored, whose it is, unless it is somebody else's, who may have made
    it just now; whether it is ours then. Raises StoreError.
    """
    from mlflow.exceptions import MlflowException

    tags = mark_tags(marks)
    with store_calls(uri):
        try:
            experiment = client.get_experiment(_open_experiment(client, uri, folder, spec, tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        if marks_in(experiment.tags).get("id", marks["id"]) == marks["id"]:
            for name, text in tags.items():
                if experiment.tags.get(name) != text:
                    client.set_experiment_tag(experiment.experiment_id, name, text)
        found = marks_in(client.get_experiment(experiment.experiment_id).tags)
    return found["id"] == marks["id"]


def open_entry(
    client: Any,
    uri: str,
    folder: Path,
    spec: StudySpec,
    study_yaml_text: str,
    questions: Mapping[tuple[str, str], str],
    *,
    strict: bool,
) -> OpenStudy:
    """Find or make the study's experiment and its parent run, mark that as RUNNING, and keep with the study what it
    asks. Raises StoreError.
    """
    with store_calls(uri):
        experiment_id = _open_experiment(client, uri, folder, spec)
        parents = client.search_runs([experiment_id], f"tags.{KIND} = '{SWEEP}'", max_results=1)
        if parents:
            parent_run_id: str = parents[0].info.run_id
            client.update_run(parent_run_id, status="RUNNING")
        else:
            tags = {KIND: SWEEP, **SOURCE, **note(spec.question)}
            parent_run_id = client.create_run(experiment_id, tags=tags, run_name=spec.study).info.run_id
        client.log_text(parent_run_id, _without_secrets(study_yaml_text), "study.yaml")
        for name, text in study_tags(spec.contents, list(questions.values()), strict=strict).items():
            client.set_experiment_tag(experiment_id, name, text)
    return OpenStudy(
        spec.study,
        experiment_id,
        parent_run_id,
        scenario_in_names=len(spec.scenarios) > 1,
        runs=folder / spec.output.folder / spec.study,
        questions=questions,
    )


def keep_contents(client: Any, uri: str, study: str, contents: Mapping[str, str]) -> None:
    """Keep what sources of a study hold, where a sweep has kept any. Raises StoreError."""
    with store_calls(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is not None and CONTENTS_TAG in experiment.tags:
            for name, text in contents_tags(contents).items():
                client.set_experiment_tag(experiment.experiment_id, name, text)


def _open_experiment(
    client: Any, uri: str, folder: Path, spec: StudySpec, tags: Mapping[str, str] | None = None
) -> str:
    """The id of the study's experiment, made, with `tags` from the first moment, or restored; what somebody changed on
    its page stays changed.
    """
    experiment = client.get_experiment_by_name(spec.study)
    if experiment is None:
        place = study_artifacts(folder, spec.study).as_uri() if is_database(uri) else None
        made = client.create_experiment(spec.study, artifact_location=place, tags=dict(tags or {}))
        experiment = client.get_experiment(made)
    experiment_id: str = experiment.experiment_id
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment_id)
    for name, text in experiment_tags(spec).items():
        if name not in experiment.tags:
            client.set_experiment_tag(experiment_id, name, text)
    return experiment_id


def _without_secrets(study_yaml_text: str) -> str:
    """The study file as it is where it holds no secret, else written anew without."""
    try:
        study = json.loads(study_yaml_text)  # which has numbers that YAML reads as text
    except ValueError:
        study = yaml.safe_load(study_yaml_text)
    told = redact(study)
    return study_yaml_text if told == study else yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
