"""Puts the records of a file back into a store, from where a sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dashboards.store.connection import StoreMissing, store_uri
from dashboards.store.mlflow_tags import marks_in
from dashboards.store.records import load_records, load_study_tags
from dashboards.store.records_file import Recorded, short
from studies.design.points import planned_points, to_knobs
from studies.records import RunConfig, RunRecord, Scalar, State
from studies.spec import Study
from studies.text.plural import so_many
from sweeper.tracking.tracker import Tracker


class NotRestorable(ValueError):
    """What a file holds cannot be put into this store."""


@dataclass(frozen=True)
class Restored:
    """How many runs were put back, and how many of the file are other runs than those that the study file asks for."""

    runs: int
    others: int


def restore_runs(study: Study, study_text: str, found: Recorded, folder: Path) -> Restored:
    """Make an MLflow run of each record that is of a run which the study asks for.

    `study`: with the contents of its sources. The next sweep takes these runs for its own, as it does where `optuna.db`
    alone was lost. Raises NotRestorable and StoreError, before anything is written.
    """
    spec = study.spec
    if found.kept:
        raise NotRestorable("holds what judges gave samples, and not the samples: only tables can be made of it.")
    if known := _known(spec.study, folder):
        raise NotRestorable(f"The store here has {known} of {spec.study} already: restore it in another folder.")
    points, configs = _points(study), []
    for record in found.records:
        config = _config(study, record, points)
        if config is not None:
            configs.append((config, record))
    if not configs:
        raise NotRestorable(f"holds no run that {spec.study} asks for now.")
    tracker = Tracker(None, folder)
    tracker.open_study(spec, study_text, {(r.variant, r.scenario): r.question for _, r in configs if r.question})
    for config, record in configs:
        tracker.write_recorded(config, record)
    tracker.close_study(finished=False)
    return Restored(len(configs), len(found.records) - len(configs))


Points = Mapping[tuple[str, str], Mapping[str, Mapping[str, Scalar]]]


def _points(study: Study) -> Points:
    """Of each (scenario, variant) the knobs of its planned points, by what a file tells of them."""
    return {
        (scenario, name): {
            _told(knobs): knobs for p in planned_points(own.spec, v) for knobs in [to_knobs(v, p.params)]
        }
        for scenario, own in study.by_scenario()
        for name, v in own.variants.items()
    }


def _told(knobs: Mapping[str, Scalar]) -> str:
    return json.dumps(short(knobs), sort_keys=True)


def _config(study: Study, record: RunRecord, points: Points) -> RunConfig | None:
    """The config of a recorded run, None where the study asks for no such run that has ended. Files of earlier versions
    tell seven digits of a knob: the rest is that of the planned point.
    """
    place = (record.scenario, record.variant)
    if record.state is State.RUNNING or place not in points:
        return None
    exact = points[place].get(_told(record.knobs), record.knobs)
    config = study.run_config(record.model_copy(update={"knobs": exact}))
    return config if config.key == record.key else None


def _known(study: str, folder: Path) -> str:
    """What the store has of the study, in words; empty where that is nothing."""
    uri = store_uri(None, folder)
    try:
        runs = load_records(uri, study)
        return so_many(len(runs), "run") if runs or marks_in(load_study_tags(uri, study)) else ""
    except StoreMissing:
        return ""
