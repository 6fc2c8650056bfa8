"""A study and its records -> a verdict on every claim of the guide that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dashboards.analysis.speed import Pace
from dashboards.guide.evidence import Evidence
from dashboards.guide.verdicts import Verdict, verdicts
from dashboards.statistics.scale import scale_of
from dashboards.tuned.losses import Tuned
from dashboards.tuned.of_study import replicates_in
from studies.design.counts import pairs_source
from studies.records import RunRecord
from studies.schema.replicates import by_condition
from studies.spec import Study


def verdicts_of(
    study: Study, records: Sequence[RunRecord], tuned: Sequence[Tuned], timed: Mapping[str, Pace]
) -> tuple[Verdict, ...]:
    """() for a study that names no claim. `tuned`: what it says in each condition; `timed`: variant -> its speed."""
    spec = study.spec
    if not spec.claims:
        return ()
    scale = scale_of(spec.objective, pairs_source(spec))
    return verdicts(
        Evidence(
            spec=spec,
            records=records,
            scale=scale,
            scenarios={name: spec.scenarios[cells[0]] for name, cells in by_condition(spec.scenarios).items()},
            tuned={one.condition: one for one in tuned},
            replicates=replicates_in(study, records, scale),
            timed=timed,
        )
    )
