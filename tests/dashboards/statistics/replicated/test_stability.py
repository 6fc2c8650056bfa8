"""How forgiving losses are, relative to the baseline: gains of random settings, breaks, words and their reasons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashboards.statistics.compare import holm_adjusted
from dashboards.statistics.replicated.stability import random_setting, stability

Scores = dict[int, dict[int, float]]
Broke = dict[int, dict[int, bool]]


def scores(mean: float, replicates: int = 12, points: int = 8, spread: float = 0.2, seed: int = 0) -> Scores:
    """The baseline's draws, shifted by a mean: equal points vary together."""
    noise = np.random.default_rng(0).normal(0.0, 0.3, (replicates, points))
    own = np.random.default_rng(seed).normal(0.0, spread, (replicates, points))
    values = np.maximum(mean + noise + (own if seed else 0.0), 0.0)
    return {r + 1: dict(enumerate(values[r].tolist())) for r in range(replicates)}


def broke(at: int = 0, of: Scores | None = None) -> Broke:
    """In every replicate the first points broke."""
    return {r: {p: p < at for p in points} for r, points in (of or scores(0.0)).items()}


def word(mean: float, at: int = 0, *, base: float = 0.4, seed: int = 3, replicates: int = 12) -> tuple[str | None, str]:
    all_scores = {"sigmoid": scores(base, replicates), "other": scores(mean, replicates, seed=seed, spread=0.1)}
    all_broke = {"sigmoid": broke(of=all_scores["sigmoid"]), "other": broke(at, all_scores["other"])}
    found = stability(all_scores, all_broke, "sigmoid")["other"]
    return found.word, found.reason


def test_what_a_random_setting_gains_is_the_mean_over_replicates_with_failures_as_nothing() -> None:
    found = random_setting({1: {0: 0.5, 1: -8.0}, 2: {0: 0.3, 1: 0.1}, 3: {0: 0.0, 1: 0.3}, 4: {}})
    means = [0.25, 0.2, 0.15]
    theirs = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (found.value, found.blocks) == (pytest.approx(0.2), 3)
    assert (found.low, found.high) == pytest.approx(theirs)
    assert random_setting({1: {}}) is None


def test_gains_are_paired_by_point_within_replicate_and_tested_over_replicates() -> None:
    mine, its = scores(0.5, seed=5), scores(0.4)
    del mine[2][3], its[4]
    found = stability({"sigmoid": its, "other": mine}, {"sigmoid": broke(of=its), "other": broke(of=mine)}, "sigmoid")
    d = np.array([
        np.mean([max(mine[r][p], 0.0) - max(its[r][p], 0.0) for p in sorted(mine[r].keys() & its[r].keys())])
        for r in sorted(mine.keys() & its.keys())
    ])  # fmt: skip
    assert found["other"].difference.estimate.blocks == len(d) == 11
    assert found["other"].difference.p == pytest.approx(float(stats.ttest_1samp(d, 0.0).pvalue), rel=1e-9)
    not_worse = stats.ttest_1samp(d, -0.1, alternative="greater").pvalue
    assert found["other"].p_not_worse == pytest.approx(float(not_worse), rel=1e-9)
    assert found["other"].breaks.pairs == 11 * 8 - 1


def test_claims_of_difference_are_corrected_for_all_losses() -> None:
    all_scores = {"sigmoid": scores(0.4), **{str(i): scores(0.4 - 0.05 * i, seed=i) for i in range(1, 5)}}
    found = stability(all_scores, {name: broke(of=of) for name, of in all_scores.items()}, "sigmoid")
    assert list(found) == ["1", "2", "3", "4"]
    assert [of.difference.p_holm for of in found.values()] == holm_adjusted(
        [of.difference.p or 0.0 for of in found.values()]
    )
    assert all(of.p_worse >= 0.0 for of in found.values())


def test_the_four_answers() -> None:
    assert word(0.4)[0] == "Good"
    assert word(0.8) == ("Better", "a setting picked at random gains more, and breaks no more often")
    assert word(0.0) == ("Poor", "a setting picked at random gains less by more than 10 points")
    assert word(0.4, at=4) == ("Poor", "breaks on more of the settings, by more than 25 in 100")


def test_no_word_says_what_was_not_shown() -> None:
    assert word(0.8, at=1) == (None, "not shown to break on at most 10 in 100 settings more")
    assert word(0.29) == (
        None,
        "a setting picked at random is not shown to gain at most 10 points less",
    )
    assert word(0.0, at=8, replicates=2) == (None, "needs three replicates")


def test_a_loss_that_learns_nothing_is_not_as_forgiving_as_a_baseline_that_learns_nothing() -> None:
    found = word(-1.0, base=-0.5)
    assert found == (None, "the baseline itself gains too little at settings picked at random")


def test_losses_that_share_no_point_with_the_baseline_have_no_answer() -> None:
    its = scores(0.4)
    mine = {r + 100: of for r, of in its.items()}
    assert stability({"sigmoid": its, "other": mine}, {"sigmoid": broke(), "other": broke()}, "sigmoid") == {}
    assert stability({"other": its}, {"other": broke()}, "sigmoid") == {}
    assert stability({"sigmoid": its, "other": its}, {"sigmoid": broke()}, "sigmoid") == {}
