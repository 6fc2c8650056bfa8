"""A metric is read along the training where the policy is a given distance from its start."""

from __future__ import annotations

import math

import pytest

from studies.records import Measurement
from studies.records.paths import NEAR, joined, path_of, read_at, start_of


def test_gold_that_goes_with_the_root_of_the_kl_is_read_exactly_between_two_evaluations() -> None:
    path = [(step, kl, 1.0 + 2.0 * math.sqrt(kl)) for step, kl in [(10, 0.25), (20, 0.81), (40, 2.25)]]
    for drift in (0.1, 0.25, 0.5, 1.0, 2.25):
        reading = read_at(path, drift, start=1.0)
        assert reading is not None
        assert reading.value == pytest.approx(1.0 + 2.0 * math.sqrt(drift))


def test_gold_that_bends_over_is_read_along_the_curve_through_the_start_and_two_evaluations() -> None:
    def gold(kl: float) -> float:
        return 2.0 + 3.0 * math.sqrt(kl) - 0.7 * kl

    path = [(step, kl, gold(kl)) for step, kl in [(10, 0.5), (20, 2.0), (40, 5.0)]]
    for drift in (0.2, 1.0, 3.0):  # before the first evaluation it goes through the first two
        reading = read_at(path, drift, start=2.0)
        assert reading is not None
        assert reading.value == pytest.approx(gold(drift))


def test_the_first_crossing_counts_where_a_run_comes_back() -> None:
    path = [(10, 1.0, 5.0), (20, 4.0, 9.0), (30, 1.0, 2.0), (40, 4.0, 1.0)]
    reading = read_at(path, 2.0, start=0.0)
    assert reading is not None
    assert 5.0 < reading.value < 9.0


def test_a_run_that_never_gets_there_has_no_value() -> None:
    assert read_at([(10, 0.5, 1.0), (20, 1.9, 2.0)], 2.0, start=0.0) is None
    assert read_at([], 2.0, start=0.0) is None


def test_a_run_that_breaks_on_the_way_has_no_value_beyond() -> None:
    path = [(10, 0.5, 1.0), (20, math.nan, math.nan), (30, 4.0, 2.0)]
    assert read_at(path, 2.0, start=0.0) is None
    assert read_at(path, 0.25, start=0.0) is not None


def test_the_step_to_stop_at_is_the_evaluation_nearest_to_the_drift_in_the_root_of_the_kl() -> None:
    path = [(10, 0.2, 1.0), (20, 1.2, 2.0), (40, 3.0, 3.0)]
    reading = read_at(path, 2.0, start=0.0)
    assert reading is not None
    assert (reading.step, reading.at_step, reading.drift_at_step) == (40, 3.0, 3.0)  # root 1.73 against 1.10 of 1.41


@pytest.mark.parametrize(("kl", "near"), [((1 + NEAR) ** 2 * 2.0 - 0.01, True), ((1 + NEAR) ** 2 * 2.0 + 0.01, False)])
def test_a_reading_is_near_within_30_percent_of_the_root(kl: float, near: bool) -> None:
    reading = read_at([(10, kl, 1.0)], 2.0, start=0.0)
    assert reading is not None
    assert reading.is_near is near


def test_a_kl_estimated_below_zero_counts_as_none() -> None:
    reading = read_at([(10, -0.01, 1.0), (20, 4.0, 3.0)], 1.0, start=0.0)
    assert reading is not None
    assert reading.value == pytest.approx(1.5)  # on the way to the second evaluation, in the root of the KL


def test_a_path_has_the_steps_that_have_both() -> None:
    assert joined([(20, 2.0), (10, 1.0)], [(10, 5.0), (30, 7.0)]) == [(10, 1.0, 5.0)]
    found = path_of(
        "gold", [Measurement("kl", 1.0, step=3), Measurement("gold", 2.0, step=3), Measurement("gold", 1.0)]
    )
    assert found == [(3, 1.0, 2.0)]


def test_gold_starts_where_the_run_recorded_the_untrained_model_and_gains_at_zero() -> None:
    assert start_of("gold", {"reference_gold": "-0.5"}) == -0.5
    assert start_of("gold", {}) is None
    assert start_of("ranking_gain", {}) == 0.0
    assert start_of("kl", {"reference_gold": 1.0}) is None
