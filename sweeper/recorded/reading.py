"""Reads a study's records from the store and sorts them by whether they answer what the study asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dashboards.store.connection import store_uri
from dashboards.store.mlflow_tags import is_strict
from dashboards.store.records import load_records, load_study_tags
from studies.design.answers import Answers, sort
from studies.design.measurers import Measurers, asked_of, chosen, left_out, settled, under
from studies.records import RunRecord
from studies.spec import Study
from sweeper.recorded.contents import as_recorded, pairs_comparer
from sweeper.recorded.format_1 import asked_before
from sweeper.recorded.state import untried


def answers_of(study: Study) -> Answers[RunRecord]:
    """The runs of `recorded_answers`, with the numbers of one evaluator, and of gold those of one judge: of those that
    the study asks, where others did not measure more of its runs. Raises StoreError.
    """
    answers, asked = recorded_answers(study)
    who = chosen(answers.records, asked)
    compared = tuple(under(record, who) for record in answers.records)
    said = [*left_out(answers.records, asked, who), *untried(study, answers.records)]
    return replace(answers, records=compared, said=tuple(said))


def recorded_answers(study: Study) -> tuple[Answers[RunRecord], Measurers]:
    """The runs in the working folder's store, or MLFLOW_TRACKING_URI's, sorted by whether they answer what the study
    asks as it is now, of sources as its last sweep found them, and who is asked to measure them. Reads no source.
    Raises StoreError.
    """
    uri = store_uri(None, Path.cwd())
    found = load_records(uri, study.spec.study)
    spec, was_kept = as_recorded(study.spec)
    study, asked = replace(study, spec=spec), asked_of(spec)
    if not is_strict(load_study_tags(uri, spec.study)):
        found = settled(found, asked.judged)
    compare = None if was_kept else lambda _record, _config: None
    before = asked_before(study, () if was_kept else found)
    return sort(study, found, compare, asked_before=before), asked


def found_answers(study: Study) -> Answers[RunRecord]:
    """The runs in the store sorted by whether they answer what the study asks, of sources that hold what `spec` says.
    Raises StoreError.
    """
    uri = store_uri(None, Path.cwd())
    strict = is_strict(load_study_tags(uri, study.spec.study))
    found = load_records(uri, study.spec.study)
    before = asked_before(study, found)
    return sort(study, found, pairs_comparer(), asked_before=before, strict=strict)
