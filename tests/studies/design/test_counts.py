"""How many runs are planned, and which of them have nothing to do."""

from __future__ import annotations

from dashboards.report.progress import not_needed
from studies.design.counts import judging_not_needed, planned_runs
from studies.records import Cause
from studies.schema.replicates import with_replicates
from studies.spec import Study, StudySpec
from tests.dashboards.generated import a_record

STUDY = Study.of(
    with_replicates(
        StudySpec.model_validate(
            {
                "study": "small",
                "base": {"model_name_or_path": "embedded"},
                "variants": {"sigmoid": {}, "apo_down": {}},
                "space": {"beta": {"low": 0.1, "high": 1.0}},
                "replicates": 2,
                "budget": {"trials": 2},
            }
        )
    )
)


def test_a_replicate_in_which_every_setting_of_a_variant_broke_needs_no_judging_run() -> None:
    assert planned_runs(STUDY) == 2 * 2 * (2 + 1)
    first = [a_record(Cause.COLLAPSED, variant="apo_down", scenario="clean#1", trial=n) for n in (0, 1)]
    assert judging_not_needed(STUDY, first) == 1
    assert judging_not_needed(STUDY, first[:1]) == 0  # the other may still be fit
    assert not_needed(STUDY, first) == (
        "1 planned run is not needed: a loss none of whose settings worked is not judged in that replicate."
    )
    sound = [*first[:1], a_record(variant="apo_down", scenario="clean#1", trial=1)]
    assert judging_not_needed(STUDY, sound) == 0
    assert not_needed(STUDY, sound) == ""


def test_without_replicates_nothing_is_taken_off() -> None:
    spec = STUDY.spec.model_copy(update={"replicates": None, "scenarios": {"clean": STUDY.spec.scenarios["clean#1"]}})
    assert judging_not_needed(Study.of(spec), [a_record(Cause.COLLAPSED, trial=n) for n in (0, 1)]) == 0
