"""What the store holds of a study, as its records, its table and its report; prints nothing and knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.analysis.strata import Stratum
from dashboards.controls.expectations import CURVE, compared_runs
from dashboards.store.connection import StoreAway, store_uri
from dashboards.store.mlflow_tags import STRICT_TAG
from dashboards.store.records import load_records, load_steps, load_study_tags
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import Format, render
from studies.design.answers import Answers, sort
from studies.design.counts import pairs_source
from studies.design.measurers import Measurers, asked_of, chosen, left_out, settled, under
from studies.design.points import quota
from studies.records import RunRecord
from studies.spec import ResolvedVariant, StudySpec, arms_in, in_scenario
from studies.text.redact import redact
from sweeper.recorded.contents import as_recorded, pairs_comparer
from sweeper.recorded.format_1 import asked_before
from sweeper.recorded.state import untried

if TYPE_CHECKING:
    from dashboards.report.build import BuiltReport


def strata(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> list[Stratum]:
    """Every variant in every scenario that it takes part in, with the trials and runs that are planned there."""
    return [
        Stratum(
            arm.name,
            scenario,
            arm.losses,
            0 if spec.mode == "search" else quota(own, arm),
            len(own.runs.blocks) * len(own.runs.seeds),
        )
        for scenario in spec.scenarios
        if (own := in_scenario(spec, scenario))
        for arm in arms_in(spec, arms, scenario).values()
    ]


def answers_of(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> Answers[RunRecord]:
    """The runs of `recorded_answers`, with the numbers of one evaluator, and of gold those of one judge: of those that
    the study asks, where others did not measure more of its runs. Raises StoreError.
    """
    answers, asked = recorded_answers(spec, arms)
    who = chosen(answers.records, asked)
    compared = tuple(under(record, who) for record in answers.records)
    said = [*left_out(answers.records, asked, who), *untried(spec, arms, answers.records)]
    return replace(answers, records=compared, said=tuple(said))


def recorded_answers(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> tuple[Answers[RunRecord], Measurers]:
    """The runs in the working folder's store, or MLFLOW_TRACKING_URI's, sorted by whether they answer what the study
    asks as it is now, of sources as its last sweep found them, and who is asked to measure them. Reads no source.
    Raises StoreError.
    """
    uri = store_uri(None, Path.cwd())
    found = load_records(uri, spec.study)
    spec, was_kept = as_recorded(spec)
    asked = asked_of(spec)
    if STRICT_TAG not in load_study_tags(uri, spec.study):
        found = settled(found, asked.judged)
    compare = None if was_kept else lambda _record, _config: None
    before = asked_before(spec, arms, () if was_kept else found)
    return sort(spec, arms, found, compare, asked_before=before), asked


def found_answers(spec: StudySpec, arms: Mapping[str, ResolvedVariant]) -> Answers[RunRecord]:
    """The runs in the store sorted by whether they answer what the study asks, of sources that hold what `spec` says.
    Raises StoreError.
    """
    uri = store_uri(None, Path.cwd())
    strict = STRICT_TAG in load_study_tags(uri, spec.study)
    found = load_records(uri, spec.study)
    before = asked_before(spec, arms, found)
    return sort(spec, arms, found, pairs_comparer(), asked_before=before, strict=strict)


def comparison_of(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], answers: Answers[RunRecord] | None = None
) -> Comparison:
    """The study's table. `answers`: of `answers_of`, where they have been read already. Raises StoreError."""
    answers = answers_of(spec, arms) if answers is None else answers
    records = answers.records
    expected = {name: variant.expect for name, variant in spec.variants.items() if variant.expect is not None}
    twins = compared_runs(records, expected)
    return comparison(
        records,
        spec.objective,
        strata(spec, arms),
        baseline=spec.baseline,
        source=pairs_source(spec),
        scenarios=spec.scenarios,
        kl_budgets={name: c.kl for name in spec.scenarios if (c := in_scenario(spec, name).confirm)},
        expectations=expected,
        curves=load_steps(store_uri(None, Path.cwd()), twins, CURVE) if twins else None,
        confirm_blocks=None if spec.confirm is None else len(set(spec.confirm.blocks)),
        aside=answers.notes(),
    )


def written(table: Comparison, format: Format, width: int | None = None) -> str:
    """The table in a format, without secrets, ending in one newline."""
    text: str = redact(render(table, format, width))
    return text.rstrip("\n") + "\n"


def report_of(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], records: Sequence[RunRecord], table: Comparison
) -> BuiltReport:
    """The study's page and its figures. Raises StoreError."""
    from dashboards.report.build import make_report  # matplotlib, which no table needs

    return make_report(spec, arms, records, strata(spec, arms), table, store_uri(None, Path.cwd()), Path.cwd())


def kept_files(
    spec: StudySpec, arms: Mapping[str, ResolvedVariant], tell_user: Callable[[str], None]
) -> Mapping[str, str]:
    """What is kept with the sweep's MLflow run: the table in three formats, the page, and its figures."""
    answers = answers_of(spec, arms)
    found = comparison_of(spec, arms, answers)
    tables = {
        "table.txt": written(found, "text"),
        "table.md": written(found, "markdown"),
        "table.csv": written(found, "csv"),
    }
    try:
        made = report_of(spec, arms, answers.records, found)
    except StoreAway:
        raise
    except Exception as error:  # a picture that cannot be drawn must not cost the sweep its table and its end
        tell_user(f"The report could not be made ({type(error).__name__}: {error}); the table and all runs are kept.")
        return tables
    return tables | {"report.html": made.page} | {f"figures/{name}": svg for name, svg in made.figures.items()}
