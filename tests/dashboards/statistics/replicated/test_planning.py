"""What a design can show, against simulation with the functions that will judge it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashboards.statistics.power import detectable, one_sided_power, tie_power
from dashboards.statistics.replicated.breaks import Points
from dashboards.statistics.replicated.planning import (
    Assumed,
    reachable_words,
    shows,
    smallest_sizes,
    word_power,
)
from dashboards.statistics.replicated.stability import stability


@pytest.mark.parametrize(("blocks", "effect", "alpha"), [(3, 1.0, 0.05), (8, 0.5, 0.05), (12, 1.2, 0.005)])
def test_the_power_of_a_one_sided_test_is_scipys(blocks: int, effect: float, alpha: float) -> None:
    theirs = stats.nct.sf(stats.t.isf(alpha, blocks - 1), blocks - 1, effect * np.sqrt(blocks))
    assert one_sided_power(blocks, effect, alpha) == pytest.approx(float(theirs), abs=1e-3)
    assert one_sided_power(1, effect) == 0.0


def test_the_smallest_difference_is_in_the_unit_of_the_spread() -> None:
    found = shows(12, tests=5, within=0.03)
    assert found.difference == pytest.approx(detectable(12, 5) * 0.04)
    assert found.tie == tie_power(12, 0.04, 0.03)
    assert shows(12, tests=5, within=0.03, spread=0.08).difference == pytest.approx(2 * found.difference)


def test_ties_within_three_hundredths_take_as_many_replicates_as_the_review_found() -> None:
    sizes = {spread: shows(12, 1, 0.03, spread).replicates_for_tie for spread in (0.02, 0.03, 0.04, 0.05, 0.06)}
    assert sizes == {0.02: 6, 0.03: 11, 0.04: 17, 0.05: 26, 0.06: 36}
    assert shows(12, 1, 0.03, 0.2).replicates_for_tie is None
    assert shows(12, 1, None).replicates_for_tie is None
    assert shows(12, 1, None).tie == 0.0


def test_more_replicates_and_points_reach_more_words() -> None:
    assert reachable_words(2, 3, tests=5) == ()
    assert set(reachable_words(16, 24, tests=5)) == {"Better", "Good", "Poor"}
    for points in (4, 8, 16):
        powers = [word_power(points, replicates, tests=5) for replicates in (6, 12, 24)]
        for word in ("Better", "Good", "Poor"):
            assert powers[0][word] <= powers[1][word] + 0.02 <= powers[2][word] + 0.04


@pytest.mark.parametrize("points", [4, 8, 16])
def test_the_smallest_sizes_are_where_words_become_reachable(points: int) -> None:
    for word, replicates in smallest_sizes(points, tests=5).items():
        assert replicates is not None
        assert word in reachable_words(points, replicates, tests=5)
        assert word not in reachable_words(points, replicates - 1, tests=5)
    assert smallest_sizes(points, assumed=Assumed(tasks=0.9))["Good"] is None


def judged(
    draws: np.random.Generator, points: int, replicates: int, more: float, alone: float, about: Assumed
) -> str | None:
    """The word of one simulated loss against the baseline, under what is assumed."""
    shape = (replicates, points)
    tasks = draws.normal(0.0, about.tasks, (2, replicates, 1))
    its = about.baseline + 0.6 + tasks[0] + draws.normal(0.0, 0.1, shape)
    mine = its + more + tasks[1] + draws.normal(0.0, about.pairs, shape)
    fate = draws.random(shape)
    mine_broke, its_broke = fate < alone, fate > 1 - about.alone

    def numbered(values: np.ndarray) -> Points[bool]:  # whose scores are numbers as well
        return {r: dict(enumerate(values[r].tolist())) for r in range(replicates)}

    found = stability(
        {"sigmoid": numbered(its), "other": numbered(mine)},
        {"sigmoid": numbered(its_broke), "other": numbered(mine_broke)},
        "sigmoid",
    )
    return found["other"].word


@pytest.mark.parametrize(("points", "replicates"), [pytest.param(8, 12, marks=pytest.mark.slow), (4, 18)])
def test_words_are_said_at_least_as_often_as_planned_and_hardly_more(points: int, replicates: int) -> None:
    about = Assumed()
    powers = word_power(points, replicates, assumed=about)
    draws, repeats = np.random.default_rng(2), 300
    cases = {"Good": (0.0, about.alone), "Better": (about.better, about.alone), "Poor": (0.0, about.poor + about.alone)}
    for word, (more, alone) in cases.items():
        said = [judged(draws, points, replicates, more, alone, about) for _ in range(repeats)]
        share = np.mean([word == one or (word == "Good" and one == "Better") for one in said])
        assert powers[word] - 0.08 <= share <= powers[word] + 0.2, word
