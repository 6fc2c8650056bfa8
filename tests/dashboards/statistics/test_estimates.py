"""Means, intervals and rates against values computed by hand, by other means, or by counting."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from dashboards.statistics.estimates import (
    Estimate,
    block_mean,
    bootstrap,
    clopper_pearson,
    interquartile_mean,
    resamples_of,
)


def test_the_interval_is_students_t_over_blocks() -> None:
    estimate = block_mean({0: [1.0], 1: [2.0], 2: [3.0]})
    # mean 2, deviation 1, t(.975, 2) = 4.302653: half width 4.302653 / sqrt(3)
    assert estimate.value == 2.0
    assert (estimate.low, estimate.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_two_blocks_give_a_mean_and_no_interval() -> None:
    assert block_mean({0: [1.0], 1: [2.0]}) == Estimate(1.5, 2, None, None, None)


def test_seeds_count_within_their_block_and_not_as_blocks() -> None:
    estimate = block_mean({0: [0.0, 0.0, 0.0, 0.0], 1: [3.0]})
    assert (estimate.value, estimate.blocks, estimate.low) == (1.5, 2, None)


def test_the_evaluators_error_of_a_mean_is_that_of_independent_samples() -> None:
    assert block_mean({0: [1.0], 1: [1.0]}, [0.3, 0.4]).error == pytest.approx(0.25)


def test_an_unknown_error_makes_the_error_of_the_mean_unknown() -> None:
    assert block_mean({0: [1.0], 1: [1.0]}, [0.3, None]).error is None


@pytest.mark.parametrize("values", [{}, {0: []}])
def test_a_mean_of_nothing_is_refused(values: dict[int, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        block_mean(values)


@pytest.mark.parametrize("blocks", [3, 5, 12])
def test_95_of_100_intervals_hold_the_true_mean(blocks: int) -> None:
    draw = random.Random(blocks)
    repeats = 4000
    held = 0
    for _ in range(repeats):
        estimate = block_mean({block: [draw.gauss(1.0, 0.5)] for block in range(blocks)})
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= 1.0 <= estimate.high
    # 4 standard errors of a share of .95 over 4000 repeats
    assert held / repeats == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / repeats))


@pytest.mark.parametrize(("k", "n"), [(0, 12), (1, 12), (6, 12), (12, 12), (2, 149)])
def test_the_limits_of_a_rate_are_those_of_scipys_exact_test(k: int, n: int) -> None:
    exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    rate = clopper_pearson(k, n)
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high))


def test_nothing_seen_says_nothing_of_the_rate() -> None:
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2)])
def test_more_failures_than_trials_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        clopper_pearson(k, n)


def test_one_stratum_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=12)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(7), vectorized=True
    ).confidence_interval
    ours = bootstrap(values, lambda drawn: drawn.mean(axis=-1), seed=7)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_stratified_resample_keeps_every_stratums_share() -> None:
    strata = np.array([0, 1, 0, 1, 1, 2])
    drawn = resamples_of(strata, count=500)
    assert (strata[drawn] == strata).all()
    assert len(np.unique(drawn[:, [0, 2]])) == 2
    assert (drawn[:, 5] == 5).all()


def test_strata_take_the_spread_between_tasks_out_of_the_interval() -> None:
    tasks = [block % 3 for block in range(12)]
    values = np.array([10.0 * task + 0.1 * block for block, task in enumerate(tasks)])
    mean = lambda drawn: drawn.mean(axis=-1)  # noqa: E731
    whole, within = bootstrap(values, mean), bootstrap(values, mean, tasks)
    assert whole is not None
    assert within is not None
    assert within[1] - within[0] < (whole[1] - whole[0]) / 10


def test_nine_blocks_give_no_bootstrap_interval() -> None:
    assert bootstrap(np.arange(9.0), lambda drawn: drawn.mean(axis=-1)) is None


@pytest.mark.parametrize("n", [1, 4, 7, 16])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(3, n))
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1))
