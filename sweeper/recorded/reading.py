"""Reads a study's records from the store and sorts them by whether they answer what the study asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dashboards.store.connection import store_uri
from dashboards.store.mlflow_tags import is_strict
from dashboards.store.records import load_records, load_study_tags
from studies.design.answers import Answers, sort
from studies.design.measurers import Measurers, asked_of, chosen, left_out, settled, under
from studies.records import RunRecord
from studies.spec import Study
from sweeper.recorded.contents import pairs_comparer, with_kept_contents
from sweeper.recorded.format_1 import asked_before
from sweeper.recorded.state import untried


def answers_of(study: Study) -> Answers[RunRecord]:
    """The runs of `recorded_answers`, with the numbers of one evaluator, and of gold those of one judge: of those that
    the study asks, where others did not measure more of its runs. Raises StoreError.
    """
    return _of_one_measurer(study, *recorded_answers(study))


def answers_among(study: Study, found: Sequence[RunRecord], tags: Mapping[str, str]) -> Answers[RunRecord]:
    """What `answers_of` gives, of runs and tags of the study that were read before. Raises StoreError."""
    return _of_one_measurer(study, *_sorted(study, found, tags))


def _of_one_measurer(study: Study, answers: Answers[RunRecord], asked: Measurers) -> Answers[RunRecord]:
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
    return _sorted(study, load_records(uri, study.spec.study), load_study_tags(uri, study.spec.study))


def _sorted(study: Study, found: Sequence[RunRecord], tags: Mapping[str, str]) -> tuple[Answers[RunRecord], Measurers]:
    """See `recorded_answers`."""
    spec, was_kept = with_kept_contents(study.spec, tags)
    study, asked = replace(study, spec=spec), asked_of(spec)
    if not is_strict(tags):
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
