"""Facts about the importance of a knob."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.statistics.importance import importance


def test_it_is_eta_squared_of_kruskal_and_wallis() -> None:
    # Ranks 1 2 3 / 4 5 6 / 7 8 9: H = 12 / 90 (3 (2^2 + 5^2 + 8^2)) - 30 = 7.2, (7.2 - 3 + 1) / 6.
    assert importance([1, 1, 1, 2, 2, 2, 3, 3, 3], list(range(9))) == pytest.approx(5.2 / 6)


def test_a_best_value_in_the_middle_counts() -> None:
    x = np.linspace(-1, 1, 30)
    scores = -(x**2)
    assert abs(np.corrcoef(x, scores)[0, 1]) < 0.01
    found = importance(x.tolist(), scores.tolist())
    assert found is not None
    assert found > 0.6


def test_a_knob_that_says_nothing_is_near_zero_and_the_order_of_configs_does_not_matter() -> None:
    random = np.random.default_rng(0)
    found = [importance(random.random(24).tolist(), random.random(24).tolist()) for _ in range(200)]
    assert np.mean(np.array(found, dtype=float)) < 0.08
    x, y = random.random(20), random.random(20)
    order = random.permutation(20)
    assert importance(x.tolist(), y.tolist()) == pytest.approx(importance(x[order].tolist(), y[order].tolist()))


def test_few_failures_far_below_do_not_decide_it() -> None:
    x, y = [1.0] * 6 + [2.0] * 6, [1.0, 2, 3, 4, 5, 6] * 2
    assert importance(x, y) == importance(x, [*y[:-6], -1e9, *y[-5:]]) == 0.0


def test_equal_scores_give_nothing_and_too_few_configs_none() -> None:
    assert importance([1, 1, 1, 2, 2, 2], [5.0] * 6) == 0.0
    assert importance([1, 1, 2, 2, 2], [1, 2, 3, 4, 5]) is None
    assert importance([1, 1, 1], [1, 2, 3]) is None
    assert importance([], []) is None
