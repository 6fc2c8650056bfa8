"""What a plan says that its blocks can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashboards.statistics.power import detectable, tie_spread
from studies.spec import StudySpec, arms, load_study
from sweeper.plan import make_plan

STUDY = """
study: powered
base: {model_name_or_path: embedded, use_peft: true, max_steps: 12}
variants: {sigmoid: {}, ipo: {}, hinge: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
"""
CONFIRM = "baseline: sigmoid\nconfirm: {top: 1, blocks: [1, 2, 3, 4, 5, 6, 7, 8]}\n"


def power(tmp_path: Path, more: str) -> str:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + more)
    spec: StudySpec = load_study(file)
    return make_plan(spec, arms(spec)).power


def test_a_confirm_phase_says_what_it_can_find_and_where_it_shows_a_tie(tmp_path: Path) -> None:
    line = power(tmp_path, CONFIRM + "objective: {metric: gold}\n")
    assert f"8 confirm blocks find a difference to sigmoid of {detectable(8, 2):.2g} paired standard deviations" in line
    assert f"a tie within 0.03 U up to a deviation of {0.03 * tie_spread(8):.2g} U" in line
    assert "\n" not in line


def test_other_metrics_tie_within_what_the_study_says(tmp_path: Path) -> None:
    assert "no tie can be concluded" in power(tmp_path, CONFIRM + "objective: {metric: ranking_gain}\n")
    line = power(tmp_path, CONFIRM + "objective: {metric: ranking_gain, tie_within: 0.02}\n")
    assert f"a tie within 0.02 share up to a deviation of {0.02 * tie_spread(8):.2g} share" in line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "No baseline is named"),
        ("baseline: sigmoid\n", "No confirm phase"),
        ("baseline: sigmoid\nconfirm: {top: 1, blocks: [1, 2]}\n", "2 confirm blocks can show neither"),
    ],
)
def test_a_plan_that_can_show_nothing_says_what_is_missing(tmp_path: Path, more: str, words: str) -> None:
    assert words in power(tmp_path, more)


def test_one_variant_is_compared_with_nothing(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace(", ipo: {}, hinge: {}", ""))
    spec = load_study(file)
    assert make_plan(spec, arms(spec)).power == ""
