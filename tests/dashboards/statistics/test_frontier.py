"""The frontier against a hull built another way, closed forms, and the bias that split samples take away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from dashboards.statistics.frontier import (
    BUDGETS,
    Points,
    at_budgets,
    frontier,
    frontier_difference,
    points_of,
    support,
)
from dashboards.statistics.scale import scale_of
from studies.records import Cause, RunRecord
from studies.records.world_units import tasks
from studies.spec import Objective
from tests.dashboards.generated import a_record

U = scale_of(Objective(metric="gold"), "embedded")


def majorant(kl: list[float], gold: list[float], budget: float) -> float:
    """The value of `support` at a budget, points on both halves the same."""
    points = np.array([[kl, kl]]), np.array([[gold, gold]])
    return float(at_budgets(*points, [budget])[0, 0])


def by_scipy(kl: list[float], gold: list[float], budget: float) -> float:
    """The same from the convex hull of all points and a floor far below."""
    x, y = np.array([0.0, *kl]), np.array([0.0, *gold])
    floor = min(y) - 10.0
    peak = x[y.argmax()]
    hull = ConvexHull(np.column_stack([[*x, 0.0, max(*x, 1.0) + 1], [*y, floor, floor]]))
    if budget >= peak:
        return float(y[x <= budget].max())
    normals = hull.equations[hull.equations[:, 1] > 1e-9]
    return float(min(-(a * budget + c) / b for a, b, c in normals))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 10_000), st.sampled_from(BUDGETS))
def test_the_majorant_is_the_upper_hull_up_to_its_peak(n: int, seed: int, budget: float) -> None:
    draw = np.random.default_rng(seed)
    kl, gold = draw.uniform(0.05, 8, n).tolist(), draw.normal(1, 1.5, n).tolist()
    assert majorant(kl, gold, budget) == pytest.approx(by_scipy(kl, gold, budget), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 10_000))
def test_it_rises_it_is_concave_and_lies_on_or_above_every_point(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    kl, gold = draw.uniform(0.05, 4, n), draw.normal(1, 1.5, n)
    grid = np.linspace(0.0, 5.0, 21)
    values = np.array([majorant(kl.tolist(), gold.tolist(), k) for k in grid])
    assert (np.diff(values) >= -1e-9).all()
    assert (np.diff(values, 2) <= 1e-9).all()
    for k, g in zip(kl, gold, strict=True):
        assert majorant(kl.tolist(), gold.tolist(), float(k)) >= g - 1e-9


def test_by_hand() -> None:
    """(0, 0), (1, 2), (2, 2.2), (4, 3), (6, 1): the point at 2 lies below the chord from 1 to 4."""
    kl, gold = [1.0, 2.0, 4.0, 6.0], [2.0, 2.2, 3.0, 1.0]
    assert [majorant(kl, gold, k) for k in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)] == pytest.approx(
        [0.0, 1.0, 2.0, 2 + 1 / 3, 3.0, 3.0]
    )


def test_no_config_better_than_untrained_leaves_the_untrained_model() -> None:
    assert majorant([1.0, 2.0], [-1.0, -2.0], 2.0) == 0.0
    nothing = Points((), (0, 1), np.empty((2, 0, 2)), np.empty((2, 0, 2)), (3,), (), ())
    assert [e.value for e in frontier(nothing).values] == [0.0] * 4


def test_the_support_is_the_edge_that_crosses_the_budget_or_the_peak_before_it() -> None:
    kl, gold = np.array([[0.0, 1.0, 4.0, 6.0]]), np.array([[0.0, 2.0, 3.0, 1.0]])
    edges = [tuple(int(end[0]) for end in support(kl, gold, budget)) for budget in (0.5, 2.0, 5.0, 9.0)]
    assert edges == [(0, 1), (1, 2), (2, 2), (2, 2)]


def test_split_samples_take_the_winners_curse_away() -> None:
    """Forty equal configs at KL 1 with a true gold of 1: the best of them looks better, its other half does not."""
    draw = np.random.default_rng(0)
    kl = np.ones((2000, 2, 40))
    gold = 1.0 + draw.normal(0.0, 0.2, (2000, 2, 40))
    assert at_budgets(kl, gold, [1.0]).mean() == pytest.approx(1.0, abs=0.02)
    both = np.repeat(gold.mean(axis=1, keepdims=True), 2, axis=1)
    assert at_budgets(kl, both, [1.0]).mean() > 1.2


def test_a_noisy_kl_does_not_shift_the_value_on_a_slope() -> None:
    """Configs on the curve gold = sqrt(KL), both measured with noise."""
    draw = np.random.default_rng(1)
    true = np.linspace(0.2, 6, 30)
    kl = true + draw.normal(0.0, 0.05, (1500, 2, 30))
    gold = np.sqrt(true) + draw.normal(0.0, 0.05, (1500, 2, 30))
    values = at_budgets(kl, gold, BUDGETS).mean(axis=0)
    assert values == pytest.approx(np.sqrt(BUDGETS), abs=0.03)


def test_the_config_whose_kl_was_measured_too_small_does_not_win_by_it() -> None:
    """Thirty equal configs with gold 2 at KL 2: half of one is worth 1 at KL 1, whatever the noise of the KL."""
    kl = 2.0 + np.random.default_rng(2).normal(0.0, 0.2, (1500, 2, 30))
    gold = np.full_like(kl, 2.0)
    assert at_budgets(kl, gold, [1.0]).mean() == pytest.approx(1.0, abs=0.02)


def a_run(trial: int, block: int, kl: float, u: float, **changes: object) -> RunRecord:
    task = tasks()[block % 6]
    gold = task.reference + u * (task.oracle["2"] - task.reference)
    halves = {"gold": (gold, gold), "kl": (kl, kl)}
    return a_record(trial=trial, block=block, **({"metrics": {"gold": gold, "kl": kl}, "halves": halves} | changes))


def a_pool(blocks: int) -> list[RunRecord]:
    return [a_run(t, b, 1.0 + t, 0.4 + 0.1 * t + 0.01 * b) for t in range(3) for b in range(blocks)]


def test_points_are_in_u_over_blocks_and_gate_what_broke_or_is_not_whole() -> None:
    records = [
        *a_pool(2),
        a_run(3, 0, 1.0, 9.0),
        a_run(3, 1, 1.0, 9.0, cause=Cause.NON_FINITE),
        a_run(4, 0, 1.0, 9.0),
        a_run(5, 0, 1.0, 9.0, halves={}),
        a_run(6, 0, 1.0, 9.0, arm="tpe"),
        a_run(7, 0, 1.0, 9.0, cause=None),
    ]
    points = points_of(records, U, broken=[3], origin={})
    assert (points.configs, points.blocks, points.broken, points.incomplete) == ((0, 1, 2), (0, 1), (3,), (4, 5))
    assert points.gold[0] == pytest.approx(np.array([[0.4, 0.41], [0.5, 0.51], [0.6, 0.61]]))
    assert [e.value for e in frontier(points, [1.0, 2.0, 4.0]).values] == pytest.approx([0.405, 0.505, 0.605])
    assert len(points.run_ids) == 6


def test_seeds_of_a_block_are_averaged_and_the_untrained_model_subtracted() -> None:
    raw = scale_of(Objective(metric="gold"), "org/pairs")
    records = [a_record(block=3, seed=s, halves={"gold": (s, s), "kl": (1.0, 1.0)}) for s in (1, 2)]
    points = points_of(records, raw, [], origin={3: 0.5})
    assert points.gold[:, 0, 0].tolist() == [1.0, 1.0]


def test_there_is_an_interval_from_ten_blocks_on() -> None:
    few, enough = (frontier(points_of(a_pool(n), U, [], {})) for n in (9, 10))
    assert few.values[0].low is None
    for estimate in enough.values:
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high


def test_without_a_choice_the_interval_is_the_bootstrap_of_block_means() -> None:
    from dashboards.statistics.estimates import bootstrap

    golds = np.random.default_rng(5).normal(0.5, 0.1, 12)
    points = points_of([a_run(0, b, 1.0, float(u)) for b, u in enumerate(golds)], U, [], {})
    (estimate,) = frontier(points, [1.0]).values
    assert (estimate.low, estimate.high) == pytest.approx(bootstrap(golds, lambda d: d.mean(axis=-1)))


def test_a_difference_resamples_both_together() -> None:
    baseline = points_of(a_pool(12), U, [], {})
    higher = points_of([a_run(t, b, 1.0 + t, 0.5 + 0.1 * t + 0.01 * b) for t in range(3) for b in range(12)], U, [], {})
    for estimate in frontier_difference(higher, baseline, [1.0, 2.0, 3.0]):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="cannot be subtracted"):
        frontier_difference(higher, points_of(a_pool(3), U, [], {}))


def test_the_order_of_records_does_not_matter() -> None:
    pool = a_pool(12)
    assert frontier(points_of(pool[::-1], U, [], {})).values == frontier(points_of(pool, U, [], {})).values
