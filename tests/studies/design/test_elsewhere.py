"""What makes two measurements of a model from elsewhere the same, and on which draws they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.design.elsewhere import MEASURING, Draw, is_asked, judging_draws, key_of, measured_as
from studies.records import ELSEWHERE
from studies.spec import Study, load_study
from tests.dashboards.generated import a_record
from trainers.interface import MODEL_SETTINGS

STUDY = """
study: asked
base: {model_name_or_path: org/model, use_peft: true, max_steps: 12}
data: {path: org/pairs}
baseline: sigmoid
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
budget: {trials: 3}
"""
MINE = "sha256:mine"


def a_study(folder: Path, *settings: str) -> Study:
    (folder / "study.yaml").write_text(STUDY)
    return Study.of(load_study(folder / "study.yaml", settings))


def test_draws_are_those_that_judge_and_not_those_that_tune(tmp_path: Path) -> None:
    replicated = a_study(tmp_path, "replicates=2")
    assert judging_draws(replicated) == (Draw("clean#1", 101), Draw("clean#2", 103))
    confirmed = a_study(tmp_path, "confirm={top: 1, blocks: [4, 5]}")
    assert judging_draws(confirmed) == (Draw("clean", 4), Draw("clean", 5))
    assert judging_draws(a_study(tmp_path, "runs={blocks: [0, 1]}")) == (Draw("clean", 0), Draw("clean", 1))


@pytest.mark.parametrize(
    "same",
    ["budget.trials=9", "base.max_steps=99", "space.beta.high=2", "objective.metric=accuracy", "evaluate.at=[0.5]"],
)
def test_how_runs_are_trained_or_chosen_makes_no_other_measurement(tmp_path: Path, same: str) -> None:
    draw = Draw("clean", 0)
    assert key_of(a_study(tmp_path, same), draw, MINE) == key_of(a_study(tmp_path), draw, MINE)


@pytest.mark.parametrize("other", ["base.model_name_or_path=org/other", "data.rows=7", "evaluate.prompts=9"])
def test_another_base_data_or_evaluation_is_another_measurement(tmp_path: Path, other: str) -> None:
    draw = Draw("clean", 0)
    assert key_of(a_study(tmp_path, other), draw, MINE) != key_of(a_study(tmp_path), draw, MINE)


def test_contents_and_draw_are_in_the_identity_and_the_name_is_not(tmp_path: Path) -> None:
    study, draw = a_study(tmp_path), Draw("clean", 0)
    assert key_of(study, draw, "sha256:other") != key_of(study, draw, MINE)
    assert key_of(study, Draw("clean", 1), MINE) != key_of(study, draw, MINE)
    assert measured_as(study, draw, "a", MINE).key == measured_as(study, draw, "b", MINE).key


def test_scenarios_that_change_training_pairs_alone_are_one_measurement(tmp_path: Path) -> None:
    study = a_study(tmp_path, "scenarios={clean: {}, noisy: {label_flip: 0.2}, few: {rows: 8}}")
    clean, noisy, few = (key_of(study, Draw(name, 0), MINE) for name in ("clean", "noisy", "few"))
    assert clean == noisy != few


def test_what_was_measured_for_another_question_is_not_asked(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    config = measured_as(study, Draw("clean", 0), "mine", MINE)
    run = a_record(key=config.key, variant="mine", scenario="clean", block=0, content={ELSEWHERE: MINE})
    assert is_asked(study, run)
    assert not is_asked(a_study(tmp_path, "evaluate.prompts=9"), run)
    assert not is_asked(a_study(tmp_path, "runs={blocks: [7]}"), run)
    assert not is_asked(a_study(tmp_path, "scenarios={other: {}}"), run)


def test_all_that_loads_a_base_is_kept_of_the_settings() -> None:
    assert set(MODEL_SETTINGS) <= set(MEASURING)
