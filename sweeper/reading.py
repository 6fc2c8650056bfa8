"""What the store holds of a study, as its records, its table and its report; prints nothing and knows no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.expectations import CURVE, compared_runs
from dashboards.load import StoreAway, load_records, load_steps, store_uri
from dashboards.rendering import Format, render
from dashboards.tables import Comparison, comparison
from dashboards.trials import Stratum
from studies.records import PROBE, RunRecord
from studies.redact import redact
from studies.spec import Arm, StudySpec, arms_in, in_scenario
from sweeper.plan import pairs_source
from sweeper.points import quota

if TYPE_CHECKING:
    from sweeper.reporting import Made


def strata(spec: StudySpec, arms: Mapping[str, Arm]) -> list[Stratum]:
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


def records_of(spec: StudySpec) -> list[RunRecord]:
    """The runs in the working folder's store, or MLFLOW_TRACKING_URI's, that the study asks for as it is now: what an
    earlier form of the file asked for stays in MLflow, but is no answer. Raises StoreError.
    """
    asked = set[tuple[str, bool, int, int]]()
    for name in spec.scenarios:
        own = in_scenario(spec, name)
        asked |= {(name, False, b, s) for b in own.runs.blocks for s in own.runs.seeds}
        if own.confirm is not None:
            asked |= {(name, True, b, s) for b in own.confirm.blocks for s in own.confirm.seeds}
    found = load_records(store_uri(None, Path.cwd()), spec.study)
    rounds = 0 if spec.probe is None else spec.probe.rounds
    return [
        r
        for r in found
        if r.variant in spec.variants
        and (r.seed < rounds if r.arm == PROBE else (r.scenario, r.arm == "confirm", r.block, r.seed) in asked)
    ]


def comparison_of(spec: StudySpec, arms: Mapping[str, Arm], records: Sequence[RunRecord] | None = None) -> Comparison:
    """The study's table. `records`: of `records_of`, where they have been read already. Raises StoreError."""
    records = records_of(spec) if records is None else records
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
    )


def written(table: Comparison, format: Format, width: int | None = None) -> str:
    """The table in a format, without secrets, ending in one newline."""
    text: str = redact(render(table, format, width))
    return text.rstrip("\n") + "\n"


def report_of(spec: StudySpec, arms: Mapping[str, Arm], records: Sequence[RunRecord], table: Comparison) -> Made:
    """The study's page and its figures. Raises StoreError."""
    from sweeper.reporting import make_report  # matplotlib, which no table needs

    return make_report(spec, arms, records, strata(spec, arms), table, store_uri(None, Path.cwd()))


def kept_files(spec: StudySpec, arms: Mapping[str, Arm], tell_user: Callable[[str], None]) -> Mapping[str, str]:
    """What is kept with the sweep's MLflow run: the table in three formats, the page, and its figures."""
    records = records_of(spec)
    found = comparison_of(spec, arms, records)
    tables = {
        "table.txt": written(found, "text"),
        "table.md": written(found, "markdown"),
        "table.csv": written(found, "csv"),
    }
    try:
        made = report_of(spec, arms, records, found)
    except StoreAway:
        raise
    except Exception as error:  # a picture that cannot be drawn must not cost the sweep its table and its end
        tell_user(f"The report could not be made ({type(error).__name__}: {error}); the table and all runs are kept.")
        return tables
    return tables | {"report.html": made.page} | {f"figures/{name}": svg for name, svg in made.figures.items()}
