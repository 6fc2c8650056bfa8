"""Facts about the oracle: exact cases, monotonicity, and the level that the world's studies lean on."""

import math
from itertools import pairwise

import numpy as np
import pytest

from trainers.world.gold import N_TASKS
from trainers.world.oracle import KL_BUDGETS, oracle_gold_at_kl, reference_gold, tilted_gold_at_kl


def test_at_no_budget_the_oracle_is_the_reference() -> None:
    assert tilted_gold_at_kl(np.array([1.0, 2.0, 6.0]), [0.0]) == pytest.approx((3.0,), abs=1e-6)


def test_the_tilt_of_two_values_is_the_binary_kl_curve() -> None:
    """Half the samples at 1: weight p on them costs log 2 - H(p) nats and yields p."""
    gold = np.array([0.0, 1.0] * 50)
    for p in (0.6, 0.8, 0.95):
        cost = math.log(2.0) + p * math.log(p) + (1 - p) * math.log(1 - p)
        assert tilted_gold_at_kl(gold, [cost]) == pytest.approx((p,), abs=1e-6)


def test_a_normal_gold_gains_sd_times_root_of_twice_the_budget() -> None:
    gold = np.random.default_rng(0).normal(1.0, 2.0, 400_000)
    for budget in (0.5, 1.0, 2.0):
        assert tilted_gold_at_kl(gold, [budget])[0] == pytest.approx(1.0 + 2.0 * math.sqrt(2 * budget), abs=0.1)


def test_groups_share_a_tilt_and_none_is_weighed_against_another() -> None:
    """A group whose gold is higher throughout gains nothing from it; the one that can gain gets the whole budget."""
    low, high = [0.0, 1.0] * 50, [9.0] * 100
    alone = tilted_gold_at_kl(np.array(low), [0.4])[0]
    assert tilted_gold_at_kl(np.array([low, high]), [0.2]) == pytest.approx(((alone + 9.0) / 2,), abs=1e-6)
    assert tilted_gold_at_kl(np.array([low, low]), [0.4]) == pytest.approx((alone,), abs=1e-6)


def test_a_boundless_budget_reaches_the_best_sample() -> None:
    assert tilted_gold_at_kl(np.array([0.0, 3.0, 5.0]), [100.0]) == pytest.approx((5.0,))


@pytest.mark.parametrize("budget", [-0.1, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(ValueError, match="KL budget"):
        tilted_gold_at_kl(np.array([0.0, 1.0]), [budget])


@pytest.mark.parametrize("task", [0, N_TASKS - 1])
def test_the_oracle_rises_with_the_budget_above_the_reference(task: int) -> None:
    gold = reference_gold(task, n_samples=3000)
    values = (float(gold.mean()), *tilted_gold_at_kl(gold, KL_BUDGETS))
    assert all(left + 0.5 < right for left, right in pairwise(values))
    assert values[-1] < gold.max()


def test_the_oracle_of_task_0_is_at_its_recorded_level() -> None:
    """98304 samples gave 2.59, 3.75, 5.33, 7.35 at .5, 1, 2, 4 nats."""
    assert oracle_gold_at_kl(0, n_samples=3000) == pytest.approx((2.59, 3.75, 5.33, 7.35), abs=0.35)


def test_the_oracle_is_the_same_for_the_same_seed() -> None:
    assert oracle_gold_at_kl(1, [1.0], n_samples=300) == oracle_gold_at_kl(1, [1.0], n_samples=300)
    assert oracle_gold_at_kl(1, [1.0], n_samples=300) != oracle_gold_at_kl(1, [1.0], n_samples=300, seed=1)
