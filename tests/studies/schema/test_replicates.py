"""Replicates: one scenario several times, each with points and draws of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.design.identity import questions
from studies.design.points import planned_points
from studies.schema.replicates import as_in_file, cell_of, with_replicates
from studies.spec import Study, StudyError, load_study

FILE = """
study: small
base: {model_name_or_path: embedded, use_peft: true, max_steps: 20}
data: {path: embedded}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
scenarios: {clean: {}, noisy: {label_flip: 0.2}}
replicates: 3
evaluate: {at: [0.1, 0.2, 0.5, 1.0]}
objective: {metric: gold, at_drift: 1.0}
budget: {trials: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def test_replicates_are_served_one_after_the_other_over_all_scenarios(file: Path) -> None:
    assert list(load_study(file).scenarios) == ["clean#1", "noisy#1", "clean#2", "noisy#2", "clean#3", "noisy#3"]


def test_a_study_is_kept_as_its_file_says_it(file: Path) -> None:
    spec = load_study(file)
    assert list(as_in_file(spec).scenarios) == ["clean", "noisy"]
    assert with_replicates(as_in_file(spec)) == spec


def test_a_replicate_tunes_on_one_draw_and_judges_on_another_that_no_other_has(file: Path) -> None:
    study = Study.of(load_study(file))
    draws = [(own.spec.runs.blocks, own.spec.confirm.blocks) for _, own in study.by_scenario() if own.spec.confirm]
    assert draws[::2] == [((100,), (101,)), ((102,), (103,)), ((104,), (105,))]
    assert draws[1::2] == draws[::2]  # scenarios of one replicate share the draw, so that they can be set side by side


def test_the_points_of_a_replicate_are_the_same_for_all_variants_and_others_in_the_next(file: Path) -> None:
    study = Study.of(load_study(file))
    points = {
        (variant.name, name): [dict(point.params) for point in planned_points(own.spec, variant)]
        for name, own in study.by_scenario()
        for variant in own.variants.values()
    }
    assert points["sigmoid", "clean#1"] == points["ipo", "clean#1"] == points["sigmoid", "noisy#1"]
    assert points["sigmoid", "clean#1"] != points["sigmoid", "clean#2"]
    assert len(points["sigmoid", "clean#1"]) == 4


def test_more_replicates_extend_and_leave_the_first_as_they_were(file: Path) -> None:
    few, more = Study.of(load_study(file)), Study.of(load_study(file, ["replicates=5"]))
    assert questions(few).items() <= questions(more).items()


def test_narrowing_twice_is_narrowing_once(file: Path) -> None:
    study = Study.of(load_study(file))
    once = study.within("clean#3")
    assert once.within("clean#3").spec == once.spec


def test_a_scenario_without_replicates_is_its_own_cell() -> None:
    assert cell_of("clean") == ("clean", None)
    assert cell_of("clean#12") == ("clean", 12)
    assert cell_of("clean#12").name == "clean#12"


@pytest.mark.parametrize(
    ("override", "path", "says"),
    [
        ("replicates=0", "replicates", "at least 1"),
        ("confirm={top: 1}", "confirm", "leave one of the two out"),
        ("runs={blocks: [0, 1]}", "runs.blocks", "leave one of the two out"),
        ("scenarios.clean={runs: {blocks: [3]}}", "scenarios.clean.runs", "leave one of the two out"),
        ("runs.seeds=[0, 1]", "runs.seeds", "name the first"),
        ("mode=search", "replicates", "leave it out"),
        ("replicates=25", "replicates", "at most so many"),
        ("objective={metric: distinct}", "objective.metric", "untrained model's value is not known"),
        ("objective.at_drift=0", "objective.at_drift", "positive"),
        ("objective.at_drift=1.5", "objective.at_drift", "0.5, 1, 2, 4"),
        ("objective={metric: kl, direction: minimize, at_drift: 1}", "objective.at_drift", "cannot be read on the way"),
        ("evaluate.at=[1.0]", "objective.at_drift", "evaluations on the way"),
        ("objective.constraints={kl: {max: 2.0}}", "objective.at_drift", "leave one of the two out"),
    ],
)
def test_what_replicates_and_a_drift_cannot_stand_beside_is_refused(
    file: Path, override: str, path: str, says: str
) -> None:
    with pytest.raises(StudyError) as error:
        load_study(file, [override])
    assert any(f": {path}: " in problem and says in problem for problem in error.value.problems), error.value.problems


def test_every_draw_of_every_replicate_has_a_seed_of_its_own_from_the_first_on(file: Path) -> None:
    study = Study.of(load_study(file, ["runs.seeds=[7]"]))
    seeds = [(own.spec.runs.seeds, own.spec.confirm.seeds) for _, own in study.by_scenario() if own.spec.confirm]
    assert seeds[::2] == [((7,), (8,)), ((9,), (10,)), ((11,), (12,))]
