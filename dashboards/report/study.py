"""Builds a study's table and report from its sorted records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.analysis.speed import outdated, paces
from dashboards.analysis.strata import Judges, Stratum
from dashboards.controls.expectations import CURVE, Curves, compared_runs
from dashboards.guide.of_study import verdicts_of
from dashboards.store.connection import StoreAway, store_uri
from dashboards.store.histories import load_kept_scores, load_speed
from dashboards.store.mlflow_tags import contents_in
from dashboards.store.records import load_elsewhere, load_steps, load_study_tags
from dashboards.store.records_file import Recorded
from dashboards.store.sqlite_runs import WITH_LOCKS, SqliteReader
from dashboards.tables.comparison import Comparison, Grounds, Short, comparison, grounds
from dashboards.tables.formats import Format, render
from dashboards.tuned.answer import Answer
from dashboards.tuned.conditions import judges_of, records_of_conditions, strata_of_conditions
from dashboards.tuned.losses import Tuned
from dashboards.tuned.of_study import asks_for_samples, tuned_of
from studies.design.answers import Answers
from studies.design.counts import pairs_source
from studies.design.elsewhere import is_asked
from studies.design.measurers import Measurers, is_measured
from studies.design.points import CONFIRM, quota
from studies.design.speed import speed_asked
from studies.records import ELSEWHERE, JUDGED, RunRecord, State
from studies.records.speed import Speed
from studies.samples.kept import KeptScores
from studies.schema.contents import judge_sources
from studies.spec import Expectation, Study
from studies.text.redact import redact

if TYPE_CHECKING:
    from dashboards.figures.figure import Figure
    from dashboards.report.build import BuiltReport, Store


def strata(study: Study) -> list[Stratum]:
    """List each variant in each scenario that it takes part in, with the trials and runs planned there."""
    return [
        Stratum(
            variant.name,
            scenario,
            variant.losses,
            0 if study.spec.mode == "search" else quota(own.spec, variant),
            len(own.spec.runs.blocks) * len(own.spec.runs.seeds),
        )
        for scenario, own in study.by_scenario()
        for variant in own.variants.values()
    ]


def comparison_of(study: Study, answers: Answers[RunRecord]) -> Comparison:
    """Compare the variants of a study by what the store has. `answers`: its sorted records. Raises StoreError."""
    twins = compared_runs(answers.records, _expected(study))
    curves = load_steps(store_uri(None, Path.cwd()), twins, CURVE) if twins else None
    return comparison_in(study, recorded_of(study, answers), curves)


def short_of(study: Study, answers: Answers[RunRecord], read: SqliteReader = WITH_LOCKS) -> Short:
    """What `comparison_of` says in its short table, word for word, without the rest. Raises StoreError."""
    return short_in(study, recorded_of(study, answers, read))


def short_in(study: Study, found: Recorded) -> Short:
    """The same by what was recorded of the study."""
    study, asked = _holding_judges(study, found), speed_asked(study)
    ground = None if study.spec.replicates is not None else _grounds(study, found.records)
    told = _told(study, found.records, ground, found.yours, found.kept)
    return Short(*told, (*found.notes, *outdated(found.speed, asked)), paces(found.speed, asked))


def recorded_of(study: Study, answers: Answers[RunRecord], read: SqliteReader = WITH_LOCKS) -> Recorded:
    """What the store has for the tables of a study. `answers`: its sorted records. Raises StoreError."""
    uri, name = store_uri(None, Path.cwd()), study.spec.study
    measured = load_speed(uri, name, Path.cwd(), read)
    yours, aside = recorded_yours(study, answers.records, read)
    judging = [r.run_id for r in answers.records if r.phase == CONFIRM and asks_for_samples(study.spec)]
    kept = load_kept_scores(uri, judging, Path.cwd(), read) if judging else {}
    contents = (study.spec.contents or contents_in(load_study_tags(uri, name, read)) or {}) if kept else {}
    named = map(str, judge_sources(study.spec.evaluation).values())
    judges = {source: contents[source] for source in named if source in contents}
    return Recorded(name, answers.records, (*answers.notes(), *aside), tuple(measured), yours, kept, judges)


def comparison_in(study: Study, found: Recorded, curves: Curves | None = None) -> Comparison:
    """Compare the variants of a study by what was recorded of it."""
    study = _holding_judges(study, found)
    return comparison_from(study, found.records, found.notes, found.speed, curves, found.yours, found.kept)


def _holding_judges(study: Study, found: Recorded) -> Study:
    """The study with what its judges held, by which one is told from what it was before it was edited."""
    return study.holding(found.judges) if found.kept and not study.spec.contents else study


def recorded_yours(
    study: Study, records: Sequence[RunRecord], read: SqliteReader = WITH_LOCKS
) -> tuple[tuple[RunRecord, ...], list[str]]:
    """What the store has of models from elsewhere on the draws that judge the study as it is now, by the measurers of
    its `records`; and what is said of the rest. Reads no source. Raises StoreError.
    """
    uri, name = store_uri(None, Path.cwd()), study.spec.study
    found = load_elsewhere(uri, name, read)
    if not found or not records:
        return (), []
    asked = study.holding(contents_in(load_study_tags(uri, name, read)) or {})
    # A run that broke before its first evaluation keeps the judge that it was asked with.
    told = next((r for r in records if r.state is State.COMPLETE and JUDGED & r.metrics.keys()), records[0])
    who = Measurers(told.measured, told.judged)
    here = [run for run in found if is_asked(asked, run)]
    shown = tuple(run for run in here if is_measured(run, who))
    known = {(run.content[ELSEWHERE], run.scenario, run.block) for run in shown}
    rest = [run for run in found if (run.content.get(ELSEWHERE), run.scenario, run.block) not in known]
    names = ", ".join(dict.fromkeys(f"yours: {run.variant}" for run in rest))
    again = "the same `sweeper evaluate` measures what is missing"
    return shown, [f"Of {names} some draws were measured for another question or by others; {again}."] if rest else []


def comparison_from(
    study: Study,
    records: Sequence[RunRecord],
    notes: Sequence[str],
    measured: Sequence[Speed],
    curves: Curves | None = None,
    yours: Sequence[RunRecord] = (),
    kept: Mapping[str, KeptScores] = {},
) -> Comparison:
    """Compare the variants of a study from what was read of it: its records, what there is to say of them, how fast its
    steps were, the histories of its controls, what was measured of models from elsewhere, and what judges gave all
    samples of its judging runs, by run id.
    """
    spec, asked = study.spec, speed_asked(study)
    paced, ground = paces(measured, asked), _grounds(study, records)
    table = comparison(
        records,
        spec.objective,
        strata(study),
        baseline=spec.baseline,
        source=pairs_source(spec),
        kl_budgets={name: c.kl for name, own in study.by_scenario() if (c := own.spec.confirm)},
        expectations=_expected(study),
        curves=curves,
        aside=[*notes, *outdated(measured, asked)],
        speed=paced,
        on=ground,
    )
    found, said = _told(study, records, ground, yours, kept)
    rulings = verdicts_of(study, records, found, {} if paced is None else paced.of)
    return replace(table, tuned=found, answers=said, verdicts=rulings)


def _grounds(study: Study, records: Sequence[RunRecord]) -> Grounds:
    spec = study.spec
    return grounds(records, spec.objective, strata(study), spec.baseline, pairs_source(spec))


def _told(
    study: Study,
    records: Sequence[RunRecord],
    ground: Grounds | None,
    yours: Sequence[RunRecord],
    kept: Mapping[str, KeptScores],
) -> tuple[tuple[Tuned, ...], tuple[Answer, ...]]:
    """What the study says in each condition, and the answers. `ground`: not needed with replicates."""
    standings, differences = ((), {}) if ground is None else (ground.standings, ground.differences)
    told = tuned_of(study, records, standings, differences, yours, kept)
    return tuple(one for one, _ in told), tuple(answer for _, answer in told)


def _expected(study: Study) -> dict[str, Expectation]:
    """Variant -> what must come out of it."""
    return {name: variant.expect for name, variant in study.spec.variants.items() if variant.expect is not None}


def written(table: Comparison, format: Format, width: int | None = None, *, everything: bool = True) -> str:
    """Render the table without secrets, ending in one newline. `everything`: all that was measured, beside the answer
    and the table that it rests on.
    """
    text = render(table, format, width, everything=everything)
    if format != "json":  # which is made without, and would be none with a number taken for a secret
        text = redact(text)
    return text.rstrip("\n") + "\n"


def report_of(study: Study, records: Sequence[RunRecord], table: Comparison, *, stored: bool = True) -> BuiltReport:
    """Build the study's page and figures; `stored`: the records are of the store here. Raises StoreError."""
    from dashboards.report.build import make_report  # matplotlib, which no table needs

    together, planned, shown, judges = _in_conditions(study, records, table)
    return make_report(study, together, planned, shown, _store() if stored else None, judges)


def figures_of(study: Study, records: Sequence[RunRecord], table: Comparison, *, stored: bool) -> tuple[Figure, ...]:
    """The figures of a study that it has runs for, those beside the answers first. `stored`: the curves of its runs
    are in the store, else in the records themselves. Raises StoreError.
    """
    from dashboards.figures.figure import Figure  # matplotlib
    from dashboards.figures.gallery import figures, first_figures
    from dashboards.report.build import curves_from, material_of

    together, planned, shown, judges = _in_conditions(study, records, table)
    read = curves_from(together, _store() if stored else None)
    material = material_of(study, together, planned, shown, read, judges)
    drawn = [*first_figures(material).values(), *(figure for _, figure in figures(material))]
    return tuple(figure for figure in drawn if isinstance(figure, Figure))


def _store() -> Store:
    from dashboards.report.build import Store

    return Store(store_uri(None, Path.cwd()), Path.cwd())


def _in_conditions(
    study: Study, records: Sequence[RunRecord], table: Comparison
) -> tuple[Sequence[RunRecord], Sequence[Stratum], Comparison, Judges | None]:
    """Records, strata, comparison and judges of a study's conditions, where it has replicates of them."""
    if study.spec.replicates is None:
        return records, strata(study), table, None
    judges = judges_of(table.tuned, records)
    together, planned = records_of_conditions(records), strata_of_conditions(strata(study))
    return together, planned, by_condition(study, together, planned, table, judges), judges


def by_condition(
    study: Study, records: Sequence[RunRecord], planned: Sequence[Stratum], table: Comparison, judges: Judges
) -> Comparison:
    """The comparison of a study with replicates, with a row for each variant in each condition. `records` and `planned`
    are of conditions; `table`: the comparison by cell.
    """
    spec = study.spec
    whole = comparison(
        records,
        spec.objective,
        planned,
        baseline=spec.baseline,
        source=pairs_source(spec),
        aside=table.aside,
        speed=table.speed,
        judges=judges,
    )
    return replace(whole, verdicts=table.verdicts, controls=table.controls, tuned=table.tuned, answers=table.answers)


def kept_files(study: Study, answers: Answers[RunRecord], tell_user: Callable[[str], None]) -> Mapping[str, str]:
    """Build the files kept with the sweep's MLflow run: the table in three formats, the page and its figures."""
    found = comparison_of(study, answers)
    tables = {
        "table.txt": written(found, "text"),
        "table.md": written(found, "markdown"),
        "table.csv": written(found, "csv"),
    }
    try:
        made = report_of(study, answers.records, found)
    except StoreAway:
        raise
    except Exception as error:  # a picture that cannot be drawn must not cost the sweep its table and its end
        tell_user(f"The report could not be made ({type(error).__name__}: {error}); the table and all runs are kept.")
        return tables
    return tables | {"report.html": made.page} | {f"figures/{name}": svg for name, svg in made.figures.items()}
