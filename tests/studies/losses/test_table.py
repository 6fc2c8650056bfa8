"""The parts of the table of losses that need no TRL: names, weights on a simplex, presets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.losses import rules, simplex, table

UNIT = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5)


@given(UNIT)
def test_weights_of_a_simplex_are_never_negative_and_sum_to_one(unit: list[float]) -> None:
    weights = simplex.simplex_weights(unit)
    assert len(weights) == len(unit) + 1
    assert min(weights) >= 0.0
    assert math.isclose(sum(weights), 1.0, abs_tol=1e-12)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6))
def test_the_numbers_of_a_simplex_give_the_weights_again(raw: list[float]) -> None:
    weights = [number / sum(raw) for number in raw]
    assert simplex.simplex_weights(simplex.simplex_unit(weights)) == pytest.approx(weights, abs=1e-9)


def test_with_two_losses_the_number_is_the_weight_of_the_second() -> None:
    assert simplex.simplex_weights([0.3]) == pytest.approx((0.7, 0.3))


def test_uniform_numbers_give_every_loss_the_same_mean_weight() -> None:
    steps = [(i + 0.5) / 40 for i in range(40)]
    drawn = [simplex.simplex_weights([a, b]) for a in steps for b in steps]
    means = [sum(weights[i] for weights in drawn) / len(drawn) for i in range(3)]
    assert means == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_weights_come_from_knobs_of_all_losses_but_the_first() -> None:
    knobs = {"beta": 0.1, "loss_weights.ipo": 0.25, "loss_weights.sft": 0.25}
    assert simplex.weights_from_knobs(["sigmoid", "ipo", "sft"], knobs) == (0.5, 0.25, 0.25)
    assert simplex.weights_from_knobs(["sigmoid", "ipo"], {"beta": 0.1}) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [("sigmiod", "sigmoid"), ("IPO", "ipo"), ("apo-zero", "apo_zero"), ("aotunpaired", "aot_unpaired")],
)
def test_a_misspelt_loss_gets_a_suggestion(written: str, meant: str) -> None:
    assert f"did you mean {meant}?" in (rules.loss_problem(written) or "")


def test_a_word_that_is_near_nothing_gets_no_suggestion() -> None:
    assert "did you mean" not in (rules.loss_problem("zzz") or "")


def test_every_remedy_for_a_missing_loss_names_losses_that_exist() -> None:
    for name in table.UNAVAILABLE:
        assert rules.loss_problem(name) is not None
        assert name not in table.LOSSES
    assert all(new in table.LOSSES for new, _ in table.RENAMED.values())


def test_a_preset_is_warned_of_where_beta_and_learning_rate_are_its_own() -> None:
    warning = rules.preset_warning(["robust"], {"beta": 0.01, "learning_rate": 1e-3})
    assert warning is not None
    assert "0.1" in warning  # the guide's beta is not the paper's
    assert rules.preset_warning(["robust"], {"beta": 0.1, "learning_rate": 1e-3}) is None
    assert rules.preset_warning(["robust", "sft"], {"beta": 0.01, "learning_rate": 1e-3}) is None
