"""Comparisons against scipy and statsmodels, hand-computed cases, and what must not change them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from dashboards.statistics.compare import compare, holm_adjusted, improvement, p_difference, p_equivalence

BLOCKS = range(12)
TASKS = {block: block % 4 for block in range(100)}


def arm(mean: float, seed: int, spread: float = 0.02) -> dict[int, float]:
    """A value a block: what all share on the block, and what is the arm's own."""
    shared = np.random.default_rng(99).normal(0.5, 0.2, len(BLOCKS))
    own = np.random.default_rng(seed).normal(mean, spread, len(BLOCKS))
    return dict(zip(BLOCKS, (shared + own).tolist(), strict=True))


PANEL = {
    "sigmoid": arm(0.0, 1),
    "same": arm(0.0, 2),
    "good": arm(0.2, 3),
    "bad": arm(-0.2, 4),
    "wild": arm(0.0, 5, 0.3),
}


def test_the_p_of_a_difference_is_that_of_the_paired_t_test() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    assert p_difference(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_p_of_a_tie_is_statsmodels_tost() -> None:
    d = np.random.default_rng(0).normal(0.01, 0.05, 14)
    assert p_equivalence(d, 0.03) == pytest.approx(DescrStatsW(d).ttost_mean(-0.03, 0.03)[0])


def test_a_tie_is_shown_where_the_90_percent_interval_is_inside_the_region() -> None:
    d = np.random.default_rng(3).normal(0.0, 0.05, 14)
    half = stats.t.isf(0.05, 13) * d.std(ddof=1) / np.sqrt(14)
    edge = abs(d.mean()) + half
    for within, shown in ((edge * 1.001, True), (edge * 0.999, False)):
        p = p_equivalence(d, within)
        assert p is not None
        assert (p < 0.05) == shown


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([]) == []


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_statsmodels(seed: int) -> None:
    ps = np.random.default_rng(seed).random(11) ** 3
    assert holm_adjusted([*ps, ps[0]]) == pytest.approx(multipletests([*ps, ps[0]], method="holm")[1].tolist())


@pytest.mark.parametrize(("d", "p", "p_tie"), [([0.0] * 4, 1.0, 0.0), ([0.01] * 4, 0.0, 0.0), ([0.5] * 4, 0.0, 1.0)])
def test_equal_differences_need_no_spread(d: list[float], p: float, p_tie: float) -> None:
    assert p_difference(np.array(d)) == p
    assert p_equivalence(np.array(d), 0.03) == p_tie


def test_the_four_words() -> None:
    found = compare(PANEL, "sigmoid", 0.03, TASKS)
    assert {name: f.word for name, f in found.items()} == {
        "same": "tie",
        "good": "better",
        "bad": "worse",
        "wild": "inconclusive",
    }
    assert found["same"].could_tie
    assert not found["wild"].could_tie


def test_less_is_better_where_the_sign_says_so() -> None:
    assert compare(PANEL, "sigmoid", 0.03, TASKS, sign=-1)["good"].word == "worse"


def test_without_a_region_nothing_is_a_tie() -> None:
    found = compare(PANEL, "sigmoid", None, TASKS)
    assert (found["same"].word, found["same"].p_tie, found["same"].could_tie) == ("inconclusive", None, False)


def test_a_sure_difference_within_the_region_is_a_tie() -> None:
    small = {b: PANEL["sigmoid"][b] + 0.01 + 0.001 * (b % 2) for b in BLOCKS}
    found = compare({"sigmoid": PANEL["sigmoid"], "small": small}, "sigmoid", 0.03, TASKS)["small"]
    assert found.p_holm is not None
    assert found.p_holm < 1e-6
    assert found.word == "tie"


def test_a_difference_that_is_sure_by_itself_is_none_among_many() -> None:
    """Three variants whose p is .03 each: .09 by Holm."""
    moved = {b: PANEL["sigmoid"][b] + 0.75 + (-1) ** b for b in BLOCKS}
    alone = compare({"sigmoid": PANEL["sigmoid"], "a": moved}, "sigmoid", None, TASKS)["a"]
    among = compare({"sigmoid": PANEL["sigmoid"], "a": moved, "b": moved, "c": moved}, "sigmoid", None, TASKS)["a"]
    assert (alone.word, among.word) == ("better", "inconclusive")
    assert among.p == alone.p == pytest.approx(0.03, abs=0.01)


def test_two_blocks_judge_nothing() -> None:
    two = {name: {b: values[b] for b in (0, 1)} for name, values in PANEL.items()}
    assert {f.word for f in compare(two, "sigmoid", 0.03, TASKS).values()} == {"inconclusive"}


def test_only_common_blocks_are_paired() -> None:
    some = {b: v for b, v in PANEL["good"].items() if b < 5} | {77: 1000.0}
    found = compare({"sigmoid": PANEL["sigmoid"], "good": some}, "sigmoid", 0.03, TASKS)["good"]
    assert found.estimate.blocks == 5
    assert found.estimate.value == pytest.approx(np.mean([PANEL["good"][b] - PANEL["sigmoid"][b] for b in range(5)]))


def test_no_baseline_and_no_common_block_give_no_comparison() -> None:
    assert compare(PANEL, "removed", 0.03, TASKS) == {}
    assert compare({"sigmoid": {0: 1.0}, "ipo": {1: 1.0}}, "sigmoid", 0.03, TASKS) == {}


def test_a_difference_that_one_task_makes_is_said_to_lean_on_it() -> None:
    d = {b: 0.3 + 0.01 * (b // 4) if b % 4 == 2 else 0.02 * ((b % 4) - 1) + 0.15 for b in BLOCKS}
    panel = {"sigmoid": dict.fromkeys(BLOCKS, 0.0), "ipo": d}
    assert compare(panel, "sigmoid", 0.03, TASKS)["ipo"].leans_on == ()
    lone = {b: 0.02 + (0.25 if b % 4 == 2 else 0.08 * (-1) ** (b // 4)) for b in BLOCKS}
    found = compare({"sigmoid": dict.fromkeys(BLOCKS, 0.0), "ipo": lone}, "sigmoid", 0.03, TASKS)["ipo"]
    assert (found.word, found.leans_on, found.is_robust, found.is_general) == ("better", (2,), True, False)


def test_a_tie_that_holds_only_by_one_tasks_opposite_sign_flips() -> None:
    """Three tasks say +.1, one says -.3: together 0 within a wide region, without the one a difference."""
    d = {b: (-0.3 if b % 4 == 3 else 0.1) + 0.001 * (b // 4) for b in range(40)}
    found = compare({"sigmoid": dict.fromkeys(range(40), 0.0), "ipo": d}, "sigmoid", 0.08, TASKS)["ipo"]
    assert found.word == "tie"
    assert 3 in found.flips_without
    assert not found.is_robust


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_names_matter(draw: random.Random) -> None:
    names = list(PANEL)
    draw.shuffle(names)
    shuffled = {f"{n}-renamed": dict(draw.sample(sorted(PANEL[n].items()), len(BLOCKS))) for n in names}
    again = compare(shuffled, "sigmoid-renamed", 0.03, TASKS)
    for name, found in compare(PANEL, "sigmoid", 0.03, TASKS).items():
        assert again[f"{name}-renamed"] == found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=12, max_size=12))
def test_another_variant_changes_nothing_but_the_correction(values: list[float]) -> None:
    one = compare({k: PANEL[k] for k in ("sigmoid", "good")}, "sigmoid", 0.03, TASKS)["good"]
    two = compare({**{k: PANEL[k] for k in ("sigmoid", "good")}, "new": dict(zip(BLOCKS, values, strict=True))},
                  "sigmoid", 0.03, TASKS)["good"]  # fmt: skip
    assert (one.estimate, one.p, one.p_tie, one.spread) == (two.estimate, two.p, two.p_tie, two.spread)
    assert two.p_holm is not None
    assert one.p_holm is not None
    assert one.p_holm <= two.p_holm <= 2 * one.p_holm + 1e-15


def test_the_probability_of_improvement_is_mann_whitneys_over_tasks() -> None:
    a, b = PANEL["good"], PANEL["wild"]
    by_hand = []
    for task in range(4):
        rows = [block for block in BLOCKS if TASKS[block] == task]
        u = stats.mannwhitneyu([a[r] for r in rows], [b[r] for r in rows]).statistic
        by_hand.append(u / len(rows) ** 2)
    found = improvement(a, b, TASKS)
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high


def test_a_run_improves_on_its_equal_in_half_of_cases() -> None:
    assert improvement({0: 1.0}, {0: 1.0}, TASKS).value == 0.5
    with pytest.raises(ValueError, match="that both have"):
        improvement({0: 1.0}, {1: 1.0}, TASKS)


def test_a_difference_between_tasks_alone_is_seldom_claimed_of_more_than_these_tasks() -> None:
    """Six tasks drawn anew in every repeat, SD .36 gold between and .20 within, no difference on average."""
    draw, repeats = np.random.default_rng(0), 1500
    tasks = {block: block % 6 for block in range(16)}
    said = claimed = 0
    for _ in range(repeats):
        taste = draw.normal(0.0, 0.36, 6) / 5.5
        d = {block: float(taste[task] + draw.normal(0.0, 0.20 / 5.5)) for block, task in tasks.items()}
        found = compare({"sigmoid": dict.fromkeys(tasks, 0.0), "ipo": d}, "sigmoid", 0.03, tasks)["ipo"]
        said += found.word in ("better", "worse")
        claimed += found.word in ("better", "worse") and found.is_general
    print(f"\nof {repeats}: different by the test over blocks {said}, resting on no single task {claimed}")  # noqa: T201
    assert said / repeats == pytest.approx(0.21, abs=0.04)
    assert claimed / repeats == pytest.approx(0.08, abs=0.03)
