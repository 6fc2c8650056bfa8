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


def test_breaks_are_counted_on_the_points_that_both_have() -> None:
    loss = {(r, p): p < 3 for r in (1, 2) for p in range(8)} | {(9, 0): True}
    baseline = {(r, p): p == 0 and r == 1 for r in (1, 2) for p in range(8)}
    found = breaks(loss, baseline)
    assert (found.pairs, found.broke, found.baseline_broke, found.alone, found.baseline_alone) == (16, 6, 1, 5, 0)
    assert found.difference == 5 / 16
    assert found.p == mcnemar(5, 0)
    assert (found.p_above(0.1) < 0.05, found.p_below(0.1) < 0.05) == (True, False)
    assert found.p_above(0.1) + found.p_below(0.1) == pytest.approx(1.0)
    assert breaks({}, baseline) is None
    assert breaks({(5, 5): True}, baseline) is None


def test_below_ten_points_in_a_hundred_is_said_of_no_break_at_all_from_25_pairs() -> None:
    shown = [
        breaks(dict.fromkeys(range(n), False), dict.fromkeys(range(n), False)).p_below(0.1) < 0.05 for n in (24, 25)
    ]
    assert shown == [False, True]
