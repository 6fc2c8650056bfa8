"""Losses over replicates against scipy, and the set of the best against the two faults that it must not have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashboards.statistics.compare import holm_adjusted, p_above
from dashboards.statistics.replicated.best import not_worse_than_best
from dashboards.statistics.replicated.differences import against_baseline, win_rate

Panel = dict[str, dict[int, float]]


def panel(means: dict[str, float], replicates: int, spread: float = 0.03, seed: int = 0) -> Panel:
    draws = np.random.default_rng(seed)
    task = draws.normal(0.0, 0.2, replicates)
    return {
        name: dict(enumerate((mean + task + draws.normal(0.0, spread, replicates)).tolist(), start=1))
        for name, mean in means.items()
    }


def apart(one: dict[int, float], other: dict[int, float]) -> np.ndarray:
    return np.array([one[r] - other[r] for r in sorted(one.keys() & other.keys())])


def test_differences_are_the_paired_t_test_of_scipy_with_holm_over_all_losses() -> None:
    values = panel({"sigmoid": 0.5, "ipo": 0.56, "hinge": 0.5, "robust": 0.4}, 12, seed=2)
    found = against_baseline(values, "sigmoid", None)
    theirs = {name: stats.ttest_rel(list(values[name].values()), list(values["sigmoid"].values())) for name in found}
    assert list(found) == ["ipo", "hinge", "robust"]
    assert [of.p for of in found.values()] == pytest.approx([float(of.pvalue) for of in theirs.values()], rel=1e-9)
    assert [of.p_holm for of in found.values()] == holm_adjusted([of.p or 0.0 for of in found.values()])
    limits = theirs["ipo"].confidence_interval()
    assert (found["ipo"].estimate.low, found["ipo"].estimate.high) == pytest.approx((limits.low, limits.high))
    assert [of.word for of in found.values()] == ["better", "inconclusive", "worse"]


def test_a_tie_over_replicates_is_two_one_sided_tests_and_says_whether_it_could_be_shown() -> None:
    values = panel({"sigmoid": 0.5, "hinge": 0.5}, 18, spread=0.01)
    found = against_baseline(values, "sigmoid", 0.03)["hinge"]
    d = apart(values["hinge"], values["sigmoid"])
    both = [stats.ttest_1samp(d, edge, alternative=side).pvalue for edge, side in ((-0.03, "greater"), (0.03, "less"))]
    assert found.p_tie == pytest.approx(max(both), rel=1e-9)
    assert (found.word, found.could_tie) == ("tie", True)
    assert not against_baseline(panel({"sigmoid": 0.5, "hinge": 0.5}, 6), "sigmoid", 0.03)["hinge"].could_tie


def test_a_missing_replicate_is_left_out_of_its_own_difference_alone() -> None:
    values = panel({"sigmoid": 0.5, "ipo": 0.5, "hinge": 0.5}, 12)
    full = against_baseline(values, "sigmoid", 0.03)
    del values["ipo"][3], values["ipo"][7]
    found = against_baseline(values, "sigmoid", 0.03)
    assert found["ipo"].estimate.blocks == 10
    assert found["ipo"].estimate.value == pytest.approx(apart(values["ipo"], values["sigmoid"]).mean())
    assert found["hinge"].estimate == full["hinge"].estimate


def test_losses_without_a_common_replicate_or_baseline_are_not_compared() -> None:
    values: Panel = {"sigmoid": {1: 0.5, 2: 0.4}, "ipo": {3: 0.5}, "hinge": {1: 0.6, 2: 0.5}}
    found = against_baseline(values, "sigmoid", 0.03)
    assert list(found) == ["hinge"]
    assert (found["hinge"].p, found["hinge"].estimate.low, found["hinge"].word) == (None, None, "inconclusive")
    assert against_baseline(values, "nobody", 0.03) == {}


def test_less_is_better_where_the_sign_says_so() -> None:
    values = panel({"sigmoid": 0.5, "ipo": 0.3}, 8)
    assert against_baseline(values, "sigmoid", None, sign=-1)["ipo"].word == "better"
    assert win_rate(values["ipo"], values["sigmoid"], sign=-1).k == 8
    assert not_worse_than_best(values, 0.03, sign=-1).kept == ("ipo",)


def test_wins_are_counted_over_common_replicates_with_exact_limits_and_without_draws() -> None:
    loss, baseline = {1: 0.5, 2: 0.6, 3: 0.4, 4: 0.5, 9: 1.0}, {1: 0.4, 2: 0.5, 3: 0.5, 4: 0.5, 8: 0.0}
    found = win_rate(loss, baseline)
    theirs = stats.binomtest(2, 3).proportion_ci(method="exact")
    assert (found.k, found.n) == (2, 3)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (win_rate({}, baseline).low, win_rate({}, baseline).high) == (0.0, 1.0)


def test_the_one_sided_p_is_scipys() -> None:
    d = np.random.default_rng(4).normal(0.02, 0.03, 9)
    theirs = stats.ttest_1samp(d, 0.01, alternative="greater").pvalue
    assert p_above(d, 0.01) == pytest.approx(float(theirs), rel=1e-9)
    assert p_above(d[:2], 0.0) is None
    assert (p_above(np.full(4, 0.2), 0.1), p_above(np.full(4, 0.2), 0.2)) == (0.0, 1.0)


def test_a_loss_is_out_of_the_best_only_where_another_is_shown_better_by_more_than_the_width() -> None:
    values = panel({"sigmoid": 0.5, "ipo": 0.51, "robust": 0.35}, 12, spread=0.02)
    found = not_worse_than_best(values, 0.03)
    ps = holm_adjusted(
        [
            float(stats.ttest_1samp(apart(values[a], values[b]), 0.03, alternative="greater").pvalue)
            for a in values
            for b in values
            if a != b
        ]
    )
    assert found.kept == ("sigmoid", "ipo")
    assert found.beaten["robust"].p == pytest.approx(min(ps), rel=1e-9)
    beaten = found.beaten["robust"]
    assert beaten.difference.value == pytest.approx(apart(values[beaten.by], values["robust"]).mean())
    assert not_worse_than_best(values, 0.3).beaten == {}


def test_the_best_are_found_from_what_pairs_of_losses_share() -> None:
    values = panel({"sigmoid": 0.5, "ipo": 0.5, "robust": 0.3, "aot": 0.9}, 12)
    values["aot"] = {1: 0.9, 40: 0.9}
    values["robust"] = {r: v for r, v in values["robust"].items() if r > 4}
    found = not_worse_than_best(values, 0.03)
    assert found.kept == ("sigmoid", "ipo")
    assert found.beaten["robust"].difference.blocks == 8
    assert found.uncompared == ("aot",)
    assert not_worse_than_best({"sigmoid": {1: 0.5, 2: 0.5}}, 0.03).uncompared == ("sigmoid",)
    assert not_worse_than_best({}, 0.03).kept == ()


def test_a_width_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        not_worse_than_best({}, -0.1)


@pytest.mark.parametrize("spreads", [(0.03,) * 6, (0.06, 0.015, 0.015) * 2], ids=["equal", "unequal"])
def test_of_equally_good_losses_hardly_one_is_ever_put_out(spreads: tuple[float, ...]) -> None:
    draws, out, repeats = np.random.default_rng(1), 0, 400
    for _ in range(repeats):
        values = {str(i): dict(enumerate(draws.normal(0.0, spread, 8).tolist())) for i, spread in enumerate(spreads)}
        out += bool(not_worse_than_best(values, 0.0).beaten)
    assert out / repeats <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_a_loss_far_below_is_put_out_in_most_studies() -> None:
    out = sum(
        "bad" in not_worse_than_best(panel({"a": 0.5, "b": 0.5, "c": 0.48, "bad": 0.38}, 12, seed=s), 0.03).beaten
        for s in range(60)
    )
    assert out >= 54
