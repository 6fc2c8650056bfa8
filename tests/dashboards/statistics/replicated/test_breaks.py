"""Breaks on shared points: exact McNemar against scipy, Tango's score against its definition and by counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from dashboards.statistics.replicated.breaks import breaks, limits, mcnemar, score


def score_by_search(b: int, c: int, n: int, delta: float) -> float:
    """Tango's score with the likeliest shares under the difference found by search in place of the formula."""

    def unlikely(c_share: float) -> float:
        b_share = c_share + delta
        rest = 1.0 - b_share - c_share
        terms = [(b, b_share), (c, c_share), (n - b - c, rest)]
        return -sum(k * np.log(max(p, 1e-300)) for k, p in terms if k)

    lowest, highest = max(0.0, -delta), (1.0 - delta) / 2
    c_share = optimize.minimize_scalar(unlikely, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
    return float((b - c - n * delta) / np.sqrt(n * (2 * c_share + delta * (1 - delta))))


@pytest.mark.parametrize(("b", "c", "n"), [(8, 1, 32), (3, 5, 40), (2, 2, 96), (20, 1, 64)])
@pytest.mark.parametrize("delta", [-0.3, -0.05, 0.1, 0.25])
def test_the_score_is_that_of_the_likeliest_shares(b: int, c: int, n: int, delta: float) -> None:
    assert score(b, c, n, delta) == pytest.approx(score_by_search(b, c, n, delta), abs=1e-5)


def test_the_score_of_no_difference_is_mcnemars() -> None:
    assert score(8, 1, 32, 0.0) == pytest.approx(7 / np.sqrt(9))
    assert score(0, 0, 32, 0.0) == 0.0


def test_limits_lie_where_the_score_test_just_rejects() -> None:
    low, high = limits(8, 1, 32)
    assert (score(8, 1, 32, low), score(8, 1, 32, high)) == pytest.approx((1.959964, -1.959964), abs=1e-5)
    assert low < 7 / 32 < high
    assert limits(1, 8, 32) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("b", "c", "edge"), [(0, 0, (-0.138, 0.138)), (24, 0, (0.724, 1.0)), (0, 24, (-1.0, -0.724))])
def test_limits_hold_where_none_or_all_break(b: int, c: int, edge: tuple[float, float]) -> None:
    z = stats.norm.isf(0.025)
    assert z**2 / (24 + z**2) == pytest.approx(0.138, abs=5e-4)
    assert limits(b, c, 24) == pytest.approx(edge, abs=5e-4)


@pytest.mark.parametrize(("b_share", "c_share"), [(0.05, 0.05), (0.02, 0.01), (0.3, 0.05), (0.5, 0.1)])
def test_limits_cover_the_true_difference_as_often_as_they_say(b_share: float, c_share: float) -> None:
    n = 64
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = b + c <= n
    b, c = b[possible], c[possible]
    chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=-1), n, [b_share, c_share, 1 - b_share - c_share])
    inside = np.abs(score(b, c, n, b_share - c_share)) <= stats.norm.isf(0.025)
    assert 0.94 < chance[inside].sum() < 0.995  # the rarer breaks are, the more rather than less


@pytest.mark.parametrize(("one", "other"), [(8, 1), (1, 0), (3, 3), (0, 6), (0, 0), (12, 5)])
def test_mcnemar_is_the_binomial_test_of_scipy(one: int, other: int) -> None:
    theirs = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(theirs, rel=1e-9)


def flags(by_replicate: list[int], points: int = 8) -> dict[int, dict[int, bool]]:
    """In each replicate the first so many points broke."""
    return {r: {p: p < broke for p in range(points)} for r, broke in enumerate(by_replicate)}


def test_breaks_are_counted_on_the_points_that_both_have() -> None:
    loss = {**flags([3, 3]), 9: {0: True}}
    baseline = flags([0, 1])
    found = breaks(loss, baseline)
    assert (found.pairs, found.broke, found.baseline_broke, found.alone, found.baseline_alone) == (16, 6, 1, 5, 0)
    assert (found.difference, found.by_replicate) == (5 / 16, (3 / 8, 2 / 8))
    assert (found.p, (found.low, found.high)) == (mcnemar(5, 0), limits(5, 0, 16))
    assert (found.p_above(0.1) < 0.05, found.p_below(0.1) < 0.05) == (True, False)
    assert found.p_above(0.1) + found.p_below(0.1) == pytest.approx(1.0)
    assert breaks({}, baseline) is None
    assert breaks({5: {5: True}}, baseline) is None
    assert breaks({0: {}}, baseline) is None


def test_breaks_that_hang_on_one_task_are_not_said_of_the_loss() -> None:
    found = breaks(flags([8, 0, 0, 0, 0, 0]), flags([0] * 6))
    d = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert mcnemar(8, 0) < 0.01
    assert found.p == pytest.approx(float(stats.ttest_1samp(d, 0.0).pvalue))
    assert found.p_above(0.05) == pytest.approx(float(stats.ttest_1samp(d, 0.05, alternative="greater").pvalue))
    assert found.p_below(0.25) == pytest.approx(float(stats.ttest_1samp(d, 0.25, alternative="less").pvalue))
    interval = stats.ttest_1samp(d, 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_replicates_that_are_all_alike_leave_the_points_to_judge() -> None:
    found = breaks(flags([1] * 6), flags([0] * 6))
    assert (found.p, (found.low, found.high)) == (mcnemar(6, 0), limits(6, 0, 48))


def test_at_most_ten_in_a_hundred_more_takes_25_pairs_without_a_break() -> None:
    never = {r: dict.fromkeys(range(6), False) for r in range(4)}
    assert breaks(never, never).p_below(0.1) > 0.05
    assert breaks({**never, 4: {0: False}}, {**never, 4: {0: False}}).p_below(0.1) < 0.05
