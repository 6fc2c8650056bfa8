"""Puts the records of a file back into a store, from where a sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dashboards.store.connection import StoreAway, StoreMissing, store_uri
from dashboards.store.records import load_records
from dashboards.store.records_file import Recorded, seven_digits
from studies.design.points import planned_points, to_knobs
from studies.records import RunConfig, RunRecord, Scalar, State
from studies.schema.contents import sources
from studies.spec import Study
from studies.text.plural import so_many
from sweeper.commands.run import claim, first_look, held
from sweeper.folder.control import lock, one_at_a_time
from sweeper.folder.paths import StudyPaths
from sweeper.tracking.tracker import Tracker

Points = Mapping[tuple[str, str], Mapping[str, Mapping[str, Scalar]]]


class NotRestorable(ValueError):
    """What a file holds cannot be put into this store."""


@dataclass(frozen=True)
class Restored:
    """How many runs were put back, how many were there already, and how many of the file were left out."""

    runs: int
    there: int
    left_out: int


def restore_runs(
    study: Study, study_text: str, found: Recorded, where: StudyPaths, tell_user: Callable[[str], None]
) -> Restored:
    """Make an MLflow run of each record that is of an ended run which the study asks for.

    `study`: with the contents of the sources that are here. The next sweep takes these runs for its own, as it does
    where `optuna.db` alone was lost. After an interruption the same call goes on. Raises NotRestorable, and what
    `run_session` raises where a sweep of the study could not begin here.
    """
    if found.kept:
        raise NotRestorable("it holds what judges gave samples, and not the samples: only tables can be made of it.")
    study = _with_recorded_contents(study, found.records)
    asked = list(_asked(study, found.records))
    if not asked:
        raise NotRestorable(f"it holds no run that {study.spec.study} asks for now.")
    ledger, dead = first_look(study.spec, where, tell_user)
    with lock(where.runs), held(ledger, where, dead, tell_user) as lease:
        there = _there(study, asked, where)
        with one_at_a_time(where.folder):
            tracker = Tracker(where.tracking, where.folder, lambda _: None)
            claim(study.spec, where, tracker)
            tracker.open_study(study.spec, study_text, {(r.variant, r.scenario): r.question or "-" for _, r in asked})
        for half in (run for run in there.values() if run.state is State.RUNNING):
            tracker.supersede(half.run_id, "restored again")
        new = [(config, r) for config, r in asked if r.key not in there or there[r.key].state is State.RUNNING]
        for config, record in new:
            lease.check()
            tracker.write_recorded(config, record)
        tracker.close_study(finished=False)
    if tracker.undelivered:
        raise StoreAway("MLflow went away before all runs were written: the same command goes on from there.")
    return Restored(len(new), len(asked) - len(new), len(found.records) + len(found.yours) - len(asked))


def _there(study: Study, asked: Sequence[tuple[RunConfig, RunRecord]], where: StudyPaths) -> dict[str, RunRecord]:
    """The runs of the study in the store, by key, of which the file must hold every one. Raises NotRestorable."""
    try:
        there = {run.key: run for run in load_records(store_uri(where.tracking, where.folder), study.spec.study)}
    except StoreMissing:
        return {}
    if others := there.keys() - {record.key for _, record in asked}:
        raise NotRestorable(
            f"the store here has {so_many(len(others), 'run')} of {study.spec.study} that the file has not: restore it "
            "into a store without that study."
        )
    return there


def _with_recorded_contents(study: Study, records: Sequence[RunRecord]) -> Study:
    """The study with what the records say of sources that are not here: the Hub's commits, the day of a template."""
    recorded: dict[str, str] = {}
    for config, record in _configs(study, records, {}):
        for role, source in sources(config.settings, config.data).items():
            if role in record.content:
                recorded.setdefault(str(source), record.content[role])
    return study.holding({**recorded, **study.spec.contents})


def _asked(study: Study, records: Sequence[RunRecord]) -> Iterator[tuple[RunConfig, RunRecord]]:
    """The records of ended runs that are still of the config that the study file gives them."""
    return ((config, r) for config, r in _configs(study, records, _points(study)) if config.key == r.key)


def _configs(study: Study, records: Sequence[RunRecord], points: Points) -> Iterator[tuple[RunConfig, RunRecord]]:
    """Each ended run with its config by the study file. Files of earlier versions tell seven digits of a knob: the rest
    is that of the planned point.
    """
    for record in records:
        if record.state is State.RUNNING or not _names(study, record):
            continue
        exact = points.get((record.scenario, record.variant), {}).get(_told(record.knobs), record.knobs)
        try:
            yield study.run_config(record.model_copy(update={"knobs": exact})), record
        except ValueError:  # weights of another mixture
            continue


def _names(study: Study, record: RunRecord) -> bool:
    return record.variant in study.variants and record.scenario in study.spec.scenarios


def _points(study: Study) -> Points:
    """Of each (scenario, variant) the knobs of its planned points, by what a file tells of them."""
    found = {}
    for scenario, own in study.by_scenario():
        for name, variant in own.variants.items():
            planned = [to_knobs(variant, point.params) for point in planned_points(own.spec, variant)]
            found[scenario, name] = {_told(knobs): knobs for knobs in planned}
    return found


def _told(knobs: Mapping[str, Scalar]) -> str:
    return json.dumps(seven_digits(knobs), sort_keys=True)
