"""Power against statsmodels, against counting, and the sizes that the design leans on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from dashboards.statistics.compare import p_equivalence
from dashboards.statistics.power import detectable, tie_power, tie_spread


@pytest.mark.parametrize(("blocks", "tests"), [(3, 1), (8, 1), (12, 11), (16, 11), (40, 6)])
def test_the_detectable_difference_is_statsmodels(blocks: int, tests: int) -> None:
    theirs = TTestPower().solve_power(effect_size=None, nobs=blocks, alpha=0.05 / tests, power=0.8)
    assert detectable(blocks, tests) == pytest.approx(float(theirs), rel=2e-3)


def test_more_comparisons_need_a_larger_difference_and_more_blocks_a_smaller_one() -> None:
    assert detectable(12, 11) > detectable(12)
    assert detectable(24) < detectable(12)
    assert detectable(1) == float("inf")
    assert 1.0 < detectable(3, 11) < 1000.0
    assert detectable(5, 11) > detectable(6, 11)


@pytest.mark.parametrize(("blocks", "spread"), [(5, 0.02), (8, 0.03), (12, 0.045), (20, 0.05)])
def test_the_power_of_a_tie_is_its_share_among_true_ties(blocks: int, spread: float) -> None:
    draws = np.random.default_rng(blocks).normal(0.0, spread, (20_000, blocks))
    half = stats.t.isf(0.05, blocks - 1) * draws.std(axis=1, ddof=1) / np.sqrt(blocks)
    shown = np.abs(draws.mean(axis=1)) + half < 0.03
    assert [p_equivalence(d, 0.03) < 0.05 for d in draws[:50]] == shown[:50].tolist()
    assert tie_power(blocks, spread, 0.03) == pytest.approx(shown.mean(), abs=4 * 0.5 / np.sqrt(20_000))


def test_the_largest_spread_that_shows_a_tie_has_just_that_power() -> None:
    for blocks in (2, 3, 8, 16, 60):
        assert tie_power(blocks, tie_spread(blocks), 1.0) == pytest.approx(0.8, abs=1e-6)
    assert tie_spread(1) == 0.0
    assert tie_power(1, 0.1, 1.0) == 0.0


def test_no_spread_always_shows_a_tie() -> None:
    assert tie_power(3, 0.0, 0.03) == 1.0
