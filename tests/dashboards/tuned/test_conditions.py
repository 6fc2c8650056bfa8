"""Replicates put together: one stratum a condition, whose settings keep apart and whose judging runs speak for it."""

from __future__ import annotations

from dashboards.analysis.strata import Stratum
from dashboards.tuned.conditions import records_of_conditions, strata_of_conditions
from tests.dashboards.generated import a_record
from tests.dashboards.materials import material_of_replicates
from tests.dashboards.tuned.replicated import a_run, replicated


def test_settings_of_all_replicates_keep_apart_and_tell_which_replicate_they_are_of() -> None:
    found = records_of_conditions([a_run("ipo", r, t, 0.5) for r in (1, 2, 12) for t in (0, 3)])
    assert {run.scenario for run in found} == {"clean"}
    assert [run.trial for run in found] == [10, 13, 20, 23, 120, 123]
    many = records_of_conditions([a_run("ipo", r, t, 0.5) for r in (1, 11) for t in (1, 11)])
    assert len({run.trial for run in many}) == 4


def test_runs_of_a_study_without_replicates_stay_as_they_are() -> None:
    runs = [a_record(trial=trial) for trial in range(3)]
    assert records_of_conditions(runs) == runs


def test_a_condition_is_one_stratum_of_each_variant() -> None:
    cells = [Stratum(name, f"{where}#{r}", (name,), 4) for r in (1, 2) for where in ("clean", "noisy")
             for name in ("sigmoid", "ipo")]  # fmt: skip
    found = strata_of_conditions(cells)
    assert [(s.variant, s.scenario) for s in found] == [
        ("sigmoid", "clean"), ("ipo", "clean"), ("sigmoid", "noisy"), ("ipo", "noisy")
    ]  # fmt: skip


def test_all_judging_runs_speak_for_a_loss_first_the_one_whose_settings_are_shown() -> None:
    material = material_of_replicates(replicated({"sigmoid": [0.5, 0.3, 0.9], "ipo": [0.4, 0.6, 0.2]}))
    found = {s.stratum.variant: s for s in material.standings}
    assert {name: s.evidence[0].run_id for name, s in found.items()} == {
        "sigmoid": "sigmoid-1-1-judge", "ipo": "ipo-1-1-judge"
    }  # fmt: skip
    assert all(len(s.evidence) == 3 and s.is_confirmed for s in found.values())
    assert all(s.best is not None and s.best.number == 11 for s in found.values())


def test_a_run_that_drifts_after_it_was_read_still_shows_its_path() -> None:
    records = replicated({"sigmoid": [0.5, 0.3, 0.9]})
    far = [r.model_copy(update={"metrics": r.metrics | {"length_ratio": 3.0}}) if "judge" in r.run_id else r
           for r in records]  # fmt: skip
    (standing,) = material_of_replicates(far).standings
    assert all(run.failure is not None for run in standing.evidence)
    assert len(standing.evidence) == 3
