"""A sweep of replicates: whole ones first, and what each chose is judged at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from studies.records import Cause, Measurement, RunResult
from studies.schema.replicates import cell_of, with_replicates
from studies.spec import Study, StudySpec
from sweeper.loop.progress import Progress
from sweeper.loop.sweep import Sweep
from sweeper.loop.trials import Candidates
from sweeper.search.trials import Trial
from tests.sweeper.loop.test_without_a_database import Kept, sweep

FILE: Mapping[str, Any] = {
    "study": "small",
    "trainer": "formula",
    "base": {"model_name_or_path": "m", "max_steps": 20, "learning_rate": 1e-5},
    "data": {"path": "somewhere/data"},
    "baseline": "sigmoid",
    "variants": {"sigmoid": {}, "hinge": {}},
    "space": {"beta": {"type": "float", "low": 0.05, "high": 1.0, "log": True}},
    "sampler": "sobol",
    "replicates": 3,
    "evaluate": {"at": [0.1, 0.2, 0.5, 1.0]},
    "objective": {"metric": "ranking_gain", "at_drift": 2.0},
    "budget": {"trials": 4},
}


def spec(**changes: Any) -> StudySpec:
    return with_replicates(StudySpec.model_validate({**FILE, **changes}))


def ended(kept: Kept) -> Counter[tuple[str, str, int]]:
    """How many runs of each variant, phase and replicate are recorded."""
    assert kept.tracker is not None
    runs = kept.tracker.known_runs()
    return Counter((run.variant, run.phase, cell_of(run.scenario).number or 0) for run in runs)


def test_every_replicate_tries_its_points_and_judges_one_of_them(tmp_path: Path) -> None:
    kept = Kept()
    outcome = sweep(spec(), tmp_path / "runs", kept)
    expected = {(v, "unbiased", r): 4 for v in ("sigmoid", "hinge") for r in (1, 2, 3)}
    expected |= {(v, "confirm", r): 1 for v in ("sigmoid", "hinge") for r in (1, 2, 3)}
    assert ended(kept) == expected
    assert outcome.trained == 30


def test_the_setting_that_is_best_at_the_drift_is_the_one_that_is_judged(tmp_path: Path) -> None:
    kept = Kept()
    sweep(spec(), tmp_path / "runs", kept)
    assert kept.search is not None
    assert kept.tracker is not None
    for variant in ("sigmoid", "hinge"):
        stratum = f"small/{variant}/clean#1"
        told = {n: o for (name, n), o in kept.search.outcomes.items() if name == stratum and o.feasible}
        best = max(told, key=lambda n: told[n].value or 0.0)
        mine = [r for r in kept.tracker.known_runs() if (r.variant, r.scenario) == (variant, "clean#1")]
        judged = [run for run in mine if run.phase == "confirm"]
        assert [run.trial for run in judged] == [best]


def test_a_sweep_that_is_stopped_early_has_whole_replicates(tmp_path: Path) -> None:
    kept = Kept()

    def look(one: Sweep, progress: Progress) -> None:
        if progress.done >= 12:
            one.finish_up()

    sweep(spec(), tmp_path / "runs", kept, look)
    found = ended(kept)
    assert all(found[variant, "unbiased", 1] == 4 and found[variant, "confirm", 1] == 1 for variant in FILE["variants"])
    assert not any(found[variant, "unbiased", 3] for variant in FILE["variants"])


def test_a_second_sweep_of_more_replicates_trains_only_those(tmp_path: Path) -> None:
    kept = Kept()
    sweep(spec(), tmp_path / "runs", kept)
    assert sweep(spec(), tmp_path / "runs", kept).trained == 0
    again = sweep(spec(replicates=4), tmp_path / "runs", kept)
    assert (again.trained, again.reused) == (10, 30)


def test_where_no_setting_gets_to_the_drift_the_best_at_its_end_is_judged(tmp_path: Path) -> None:
    kept = Kept()
    sweep(spec(objective={"metric": "ranking_gain", "at_drift": 1e6}), tmp_path / "runs", kept)
    assert kept.search is not None
    assert not any(outcome.feasible for outcome in kept.search.outcomes.values())
    assert ended(kept)["sigmoid", "confirm", 2] == 1


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_other_samplers_serve_replicates_too(tmp_path: Path, sampler: str) -> None:
    kept = Kept()
    sweep(spec(sampler=sampler), tmp_path / "runs", kept)
    assert ended(kept).total() == 30


def test_of_settings_that_are_worth_the_same_the_first_is_judged_in_whatever_order_they_ended() -> None:
    study = Study.of(spec(objective={"metric": "ranking_gain"}, evaluate={}))
    scenario = next(iter(study.spec.scenarios))
    found = Measurement(name="ranking_gain", value=0.25, step=20)
    chosen = []
    for order in ((0, 1), (1, 0)):
        candidates = Candidates(study.spec, study.variants)
        for number in order:
            trial = Trial(f"small/sigmoid/{scenario}", number, "sigmoid", scenario, "unbiased", {})
            candidates.note(trial, [RunResult(key=str(number), cause=Cause.FINISHED, measurements=(found,))])
        chosen += [trial.number for trial in candidates.chosen(("sigmoid", scenario))]
    assert chosen == [0, 0], "a sweep that goes on would train another one"
