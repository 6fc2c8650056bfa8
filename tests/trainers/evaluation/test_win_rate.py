"""How often a judge puts a policy's sample above the untrained model's, as counted and at equal length."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.evaluation.metrics import Floats, lc_win_rate, win_rate


def array(*values: float) -> Floats:
    return np.array(values, dtype=np.float64)


def test_a_tie_is_half_a_win() -> None:
    found = win_rate(array(2, 1, 0, 5), array(1, 1, 3, 4))
    assert found.value == 0.625
    assert found.error == pytest.approx(np.std([1, 0.5, 0, 1], ddof=1) / 2)


def test_the_untrained_model_wins_half_against_itself() -> None:
    scores, tokens = array(1, 2, 3), array(7, 8, 9)
    assert win_rate(scores, scores).value == 0.5
    assert lc_win_rate(scores, scores, tokens, tokens).value == 0.5


@pytest.mark.parametrize("scores", [array(3, 3, 3, 3), array(0, 0, 0, 0)])
def test_where_all_is_won_or_lost_length_changes_nothing(scores: Floats) -> None:
    reference = array(1, 2, 1, 2)
    found = lc_win_rate(scores, reference, array(9, 1, 5, 6), array(3, 3, 3, 3))
    assert found == win_rate(scores, reference)


def test_the_fit_is_that_of_a_logistic_regression() -> None:
    """Of sixteen pairs, twelve longer and four shorter, as statsmodels fits them with the same penalty."""
    from statsmodels.api import GLM
    from statsmodels.genmod.families import Binomial

    wins = array(1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0)
    difference = array(5, 8, 3, 2, 9, 7, 1, 6, 4, 2, 8, 5, -4, -3, -6, -2)
    found = lc_win_rate(wins, array(*[0.5] * 16), difference + 20, array(*[20] * 16))
    x = np.tanh(difference / difference.std())
    expected = GLM(wins, np.stack([np.ones(16), x], axis=1), family=Binomial())
    fitted = expected.fit_regularized(alpha=[0.0, 1 / 25 / 16], L1_wt=0.0, cnvrg_tol=1e-12, maxiter=2000).params
    assert found.value == pytest.approx(1 / (1 + np.exp(-fitted[0])), abs=1e-4)


def test_length_alone_wins_nothing_at_equal_length() -> None:
    """A judge that counts words and errs, and a policy that has learnt to be long."""
    random = np.random.default_rng(0)
    tokens, reference = 50.0 + np.round(random.normal(10, 15, 2000)), np.full(2000, 50.0)
    scores = tokens + random.normal(0, 10, 2000)
    assert win_rate(scores, reference).value == pytest.approx(0.71, abs=0.02)
    controlled = lc_win_rate(scores, reference, tokens, reference)
    assert controlled.error is not None
    assert abs(controlled.value - 0.5) < 3 * controlled.error < 0.08


def test_its_interval_covers_the_rate_at_equal_length() -> None:
    """800 draws of 250 prompts from the model that it fits: 95 % intervals hold the truth in 93 to 97 of 100."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(800):
        difference = np.round(random.normal(4.0, 10.0, 250))
        chance = 1 / (1 + np.exp(-(0.3 + 0.8 * np.tanh(difference / difference.std()))))
        wins = (random.random(250) < chance).astype(np.float64)
        found = lc_win_rate(wins, np.full(250, 0.5), 100 + difference, np.full(250, 100.0))
        assert found.error is not None
        covered += abs(found.value - 1 / (1 + np.exp(-0.3))) < 1.96 * found.error
    assert 0.93 <= covered / 800 <= 0.97
