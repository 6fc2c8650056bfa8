"""Failures, words and shapes of a space against exact cases and brute force."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.statistics.estimates import clopper_pearson
from dashboards.statistics.scale import raw_scale, scale_of
from dashboards.statistics.stability import (
    Failures,
    config_scores,
    expected_best,
    failures,
    generalisation_gap,
    in_bins,
    late_collapse,
    performance_profile,
    sensitivity,
    share_within,
    strengths,
)
from studies.records import Cause, RunRecord
from studies.records.world_units import tasks
from studies.spec import Objective
from tests.dashboards.generated import a_record

U = scale_of(Objective(metric="gold"), "embedded")


def inverted_run(block: int, **metrics: float) -> RunRecord:
    found = {"gold": tasks()[block % 6].reference - 1.0, "accuracy": 0.1, "margin": -2.0} | metrics
    return a_record(block=block, metrics=found, errors={"gold": 0.07})


def test_each_kind_of_failure_is_counted_once_a_config() -> None:
    records = [
        a_record(trial=0),
        a_record(trial=1, cause=Cause.NON_FINITE),
        a_record(trial=1, block=1, cause=Cause.NON_FINITE),
        a_record(trial=2, cause=Cause.COLLAPSED),
        a_record(trial=2, block=1, metrics={"length_ratio": 0.3}),
        a_record(trial=3, cause=Cause.INVERTED),
        a_record(trial=4, metrics={"length_ratio": 2.1}),
        a_record(trial=5, metrics={"length_ratio": 1.9}),
    ]
    found = failures(records, U)
    assert (found.all.k, found.all.n, found.configs) == (4, 6, (1, 2, 3, 4))
    assert {kind: p.k for kind, p in found.by_kind.items()} == {
        "non-finite": 1,
        "inversion": 1,
        "collapse": 1,
        "drift": 2,
    }
    assert len(found.run_ids) == 6


@pytest.mark.parametrize("cause", [Cause.TIME_LIMIT, Cause.USER_STOP, Cause.WORKER_LOST, Cause.OUT_OF_GPU_MEMORY, None])
def test_what_the_config_did_not_do_is_not_looked_at(cause: Cause | None) -> None:
    assert failures([a_record(), a_record(trial=1, cause=cause)], U).all.n == 1


def test_a_config_that_teaches_the_opposite_on_five_blocks_is_inverted() -> None:
    assert failures([inverted_run(block) for block in range(5)], U).by_kind["inversion"].k == 1
    assert failures([inverted_run(block) for block in range(4)], U).by_kind["inversion"].k == 0


@pytest.mark.parametrize("metrics", [{"accuracy": 0.6}, {"margin": 0.1}, {"gold": -0.3}])
def test_a_low_accuracy_a_negative_margin_or_a_worse_gold_alone_is_no_inversion(metrics: dict[str, float]) -> None:
    fine = [inverted_run(block, **metrics) for block in (0, 1)]
    assert failures([*fine, *(inverted_run(block) for block in (2, 3, 4))], U).all.k == 0
    assert failures([*fine[:1], *(inverted_run(block) for block in (1, 2, 3, 4))], U).all.k == 1


def of(k: int, n: int) -> Failures:
    return Failures(clopper_pearson(k, n), {}, (), ())


def test_good_needs_149_configs_without_a_failure() -> None:
    assert (of(0, 148).word, of(0, 149).word) == (None, "Good")


def test_a_word_is_said_only_where_the_limits_support_it() -> None:
    assert of(6, 12).word == "Poor"
    assert of(1, 12).word is None
    assert of(0, 12).word is None
    assert of(10, 200).word == "Fair"
    assert of(0, 0).word is None


def test_the_share_of_space_near_the_best_by_hand() -> None:
    assert share_within([1.0, 0.96, 0.91, 0.5, -3.0], 0.05) == pytest.approx(0.4)
    assert share_within([1.0, 0.96, 0.91, 0.5, -3.0], 0.10) == pytest.approx(0.6)
    assert share_within([0.0, -1.0], 0.1) is None


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_expected_best_is_the_mean_over_all_draws(n: int) -> None:
    scores = [0.3, 0.3, -1.0, 2.0, 0.7, 0.1]
    brute = np.mean([max(draw) for draw in itertools.product(scores, repeat=n)])
    assert expected_best(scores, n) == pytest.approx(brute)


def test_the_expected_best_is_too_low_as_it_says() -> None:
    """Of 3 uniform scores .75 is expected; 12 scores with replacement give less on average."""
    draws = np.random.default_rng(0).random((4000, 12))
    mean = np.mean([expected_best(list(row), 3) for row in draws])
    assert 0.70 < mean < 0.735


@pytest.mark.parametrize("n", [0, 4])
def test_the_best_of_more_than_half_the_scores_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="half of them"):
        expected_best([1.0] * 7, n)


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=20), st.randoms(use_true_random=False))
def test_the_expected_best_rises_with_n_and_ignores_order(scores: list[float], draw: random.Random) -> None:
    shuffled = draw.sample(scores, len(scores))
    values = [expected_best(scores, n) for n in range(1, len(scores) // 2 + 1)]
    assert values == sorted(values) or np.allclose(values, sorted(values))
    assert expected_best(shuffled, 2) == pytest.approx(expected_best(scores, 2))
    assert min(scores) - 1e-9 <= values[0] <= max(scores) + 1e-9


def test_a_profile_is_the_share_of_runs_above_each_threshold_mean_over_tasks() -> None:
    profile = performance_profile([[0.0, 1.0], [0.5, 0.5, 2.0, 2.0]], [-1.0, 0.25, 0.5, 1.5])
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.25]


def test_the_area_under_a_profile_is_the_mean_score_clipped_to_0_and_1() -> None:
    scores = np.random.default_rng(0).normal(0.5, 0.4, 30)
    grid = np.linspace(0, 1, 4001)
    area = np.trapezoid(performance_profile([scores.tolist()], grid.tolist()), grid)
    assert area == pytest.approx(np.clip(scores, 0, 1).mean(), abs=1e-3)


def test_sensitivity_of_a_triangle_is_half_its_height() -> None:
    assert sensitivity([-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], -1.0, 1.0) == pytest.approx(0.5)


def test_worse_than_untrained_costs_no_more_than_untrained() -> None:
    assert sensitivity([-1.0, 0.0, 1.0], [-9.0, 1.0, -9.0], -1.0, 1.0) == pytest.approx(0.5)
    assert sensitivity([0.0, 1.0], [0.7, 0.7], 0.0, 1.0) == pytest.approx(0.0)


def test_sensitivity_speaks_only_of_the_range_that_was_tried() -> None:
    assert sensitivity([-0.5, 0.0, 1.0], [0.0, 1.0, 0.0], -1.0, 1.0) is None
    assert sensitivity([-2.0, 0.0, 2.0], [0.0, 1.0, 0.0], -1.0, 1.0) == pytest.approx(0.25)


def test_points_of_a_box_show_an_axis_by_the_best_of_each_bin() -> None:
    positions = in_bins([0.0, 0.1, 0.9, 1.0, 0.5], 0.0, 1.0, 3)
    assert positions == [0.0, 0.0, 1.0, 1.0, 0.5]
    assert sensitivity(positions, [0.1, 0.4, 0.2, 0.3, 1.0], 0.0, 1.0) == pytest.approx(1.0 - (0.7 + 0.65) / 2)


def test_strength_is_0_where_the_loss_reaches_the_budget() -> None:
    """KL = 2 (beta / .2)^-1: it is 2 at beta .2."""
    betas = [1.0, 0.05, 0.1, 0.4]
    found = strengths(betas, [0.4 / beta for beta in betas])
    assert found == pytest.approx([np.log10(beta / 0.2) for beta in betas])
    assert strengths(betas, [0.1, 0.2, 0.3, 0.4]) is None


def test_a_flat_noisy_curve_does_not_collapse_and_a_falling_one_does() -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.05, (1000, 2, 8))
    flat = np.array([late_collapse(a.tolist(), b.tolist()) for a, b in noise])
    assert (np.abs(flat.mean(axis=0)) < 4 * flat.std(axis=0) / np.sqrt(1000)).all()
    naive = np.mean([both.mean(axis=0).max() - both.mean(axis=0)[-1] for both in noise])
    assert naive > 0.04
    falling = [0.0, 0.3, 0.6, 0.9, 0.9, 0.9, 0.5, 0.4, 0.4, 0.4]
    assert late_collapse(falling, falling) == pytest.approx((0.5, 0.0))


def test_what_a_curve_regains_after_a_dip_is_no_fall() -> None:
    """A learning rate that is too high before it decays: the end is where the peak was, or between it and the dip."""
    whole = [0.2, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.8, 0.8, 0.8]
    assert late_collapse(whole, whole) == pytest.approx((0.0, 0.7))
    half = [0.2, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.6, 0.6, 0.6]
    assert late_collapse(half, half) == pytest.approx((0.2, 0.5))
    rising = [0.1 * i for i in range(10)]
    assert late_collapse(rising, rising) == pytest.approx((0.0, 0.0))


def test_seven_checkpoints_are_too_few() -> None:
    with pytest.raises(ValueError, match="8 checkpoints"):
        late_collapse([0.0] * 7, [0.0] * 7)


def test_the_gap_is_between_training_and_held_out_pairs_by_block() -> None:
    runs: list[Any] = [
        a_record(block=1, metrics={"train_accuracy": 0.9, "accuracy": 0.7}),
        a_record(block=1, metrics={"train_accuracy": 1.0, "accuracy": 0.7}),
        a_record(block=0, metrics={"accuracy": 0.7}),
    ]
    assert generalisation_gap(runs) == {1: pytest.approx(0.25)}


def test_a_failed_config_is_worth_no_more_than_the_untrained_model() -> None:
    records = [
        a_record(trial=0, metrics={"ranking_gain": 0.2}),
        a_record(trial=0, block=1, metrics={"ranking_gain": 0.4}),
        a_record(trial=1, metrics={"ranking_gain": 0.9}),
        a_record(trial=2, metrics={}),
    ]
    found = config_scores(records, raw_scale("ranking_gain", by_task=False), failed=[1])
    assert found == {0: pytest.approx(0.3), 1: 0.0}
