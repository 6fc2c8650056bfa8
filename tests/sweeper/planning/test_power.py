"""What a plan says that it can show: the numbers behind the words, and the words where it can show nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dashboards.statistics.power import detectable, tie_power, tie_spread
from dashboards.statistics.replicated.planning import PAIRED_SPREAD
from studies.spec import Study, load_study
from sweeper.planning.power import power_of

STUDY = """
study: powered
base: {model_name_or_path: embedded, use_peft: true, max_steps: 12}
variants: {sigmoid: {}, ipo: {}, hinge: {}}
space: {beta: {low: 0.01, high: 1.0, log: true}}
budget: {trials: 2}
"""
OWN = STUDY.replace("embedded", "org/model") + "data: {path: org/pairs, eval_rows: 400}\n"
CONFIRM = "baseline: sigmoid\nconfirm: {top: 1, blocks: [1, 2, 3, 4, 5, 6, 7, 8]}\n"
REPLICATES = "baseline: sigmoid\nreplicates: 8\n"
JUDGE = "judge: {reward_model: org/judge}"


def said(folder: Path, text: str) -> str:
    (folder / "study.yaml").write_text(text)
    return power_of(Study.of(load_study(folder / "study.yaml")))


def coins(items: int) -> float:
    return 0.5 / math.sqrt(items)


@pytest.mark.parametrize(("more", "noun"), [(CONFIRM, "fresh data draws"), (REPLICATES, "replicates")])
def test_in_the_embedded_world_it_is_points_of_what_is_possible(tmp_path: Path, more: str, noun: str) -> None:
    line = said(tmp_path, STUDY + more + "objective: {metric: gold}\n")
    points = 100 * detectable(8, 2) * PAIRED_SPREAD
    assert line.startswith(f"8 {noun} find a difference to sigmoid of {points:.1f} points of what is possible in 80 of")
    assert f"a tie within 3 points in {100 * tie_power(8, PAIRED_SPREAD, 0.03):.0f} (80 from 17 {noun} on)" in line
    assert ("the luck of the settings" in line) is (noun == "fresh data draws")
    assert ("Of stability" in line) is (noun == "replicates")


def test_a_win_rate_is_told_in_points_by_the_coins_that_its_prompts_are(tmp_path: Path) -> None:
    metric = f"evaluate: {{prompts: 256, {JUDGE}}}\nobjective: {{metric: win_rate, tie_within: 0.03}}\n"
    line = said(tmp_path, OWN + REPLICATES + metric)
    assert f"a difference to sigmoid of {100 * detectable(8, 2) * coins(256):.1f} points of win_rate in 80 of" in line
    assert "by the 256 prompts of a draw alone, as even coins (0.5/sqrt(256))" in line
    few = said(tmp_path, OWN.replace("400", "64") + REPLICATES + metric)
    assert f"{100 * detectable(8, 2) * coins(64):.1f} points" in few, "prompts come again where there are fewer"


def test_what_is_ranked_right_is_told_by_held_out_pairs(tmp_path: Path) -> None:
    line = said(tmp_path, OWN + REPLICATES + "objective: {metric: ranking_gain}\n")
    assert f"of {100 * detectable(8, 2) * coins(400):.1f} points of ranking_gain in 80 of 100 cases; no tie can" in line
    assert "no difference that matters" not in line, "nobody has said what matters"


def test_the_reward_of_a_judge_has_no_size_before_the_first_run(tmp_path: Path) -> None:
    metric = f"evaluate: {{{JUDGE}}}\nobjective: {{metric: gold, tie_within: 0.1}}\n"
    line = said(tmp_path, OWN + REPLICATES + metric)
    smallest = detectable(8, 2)
    assert f"of {smallest:.2g} standard deviations of paired differences" in line
    assert f"(3 tie widths, 0.3 gold) shows where that deviation is {0.3 / smallest:.2g} or less" in line
    assert f"a tie within 0.1 where it is {0.1 * tie_spread(8):.2g} or less" in line


def test_a_plan_that_can_show_nothing_that_matters_says_so_first_and_what_it_would_take(tmp_path: Path) -> None:
    metric = "objective: {metric: ranking_gain, tie_within: 0.02}\n"
    line = said(tmp_path, OWN + REPLICATES.replace("8", "4") + metric)
    needed = next(r for r in range(3, 60) if detectable(r, 2) * coins(400) <= 0.06)
    assert needed > 4
    assert line.startswith(
        f"This plan can show no difference that matters (3 tie widths, 6 points): it would take {needed} replicates. "
    )
    enough = said(tmp_path, OWN + REPLICATES.replace("8", str(needed)) + metric)
    assert enough.startswith(f"{needed} replicates find a difference")
    assert "it would take more than 60 replicates" in said(
        tmp_path, OWN.replace("400", "4") + REPLICATES + "objective: {metric: ranking_gain, tie_within: 0.01}\n"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "no baseline is named"),
        ("baseline: sigmoid\n", "nothing is judged on fresh draws. Add replicates: 8."),
        ("baseline: sigmoid\nreplicates: 2\n", "2 replicates are too few, and 3 the fewest"),
        ("baseline: sigmoid\nconfirm: {top: 1, blocks: [1, 2]}\n", "2 fresh data draws are too few"),
    ],
)
def test_a_plan_without_what_a_comparison_needs_shows_no_difference(tmp_path: Path, more: str, words: str) -> None:
    assert f"This plan can show no difference: {words}" in said(tmp_path, STUDY + more)


def test_a_search_compares_nothing(tmp_path: Path) -> None:
    assert "this plan can show no difference between losses" in said(tmp_path, STUDY + "mode: search\n")
