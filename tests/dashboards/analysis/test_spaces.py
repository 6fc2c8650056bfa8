"""What is said of a whole space, from records whose scores are known."""

from __future__ import annotations

import pytest

from dashboards.analysis.spaces import Space, space_of
from dashboards.analysis.strata import Stratum, standings
from dashboards.statistics.scale import Scale, raw_scale, scale_of
from studies.records import Cause, RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record, pool

GAIN = Objective(metric="ranking_gain")
RATES = [1e-5, 1e-4, 1e-3, 1e-5, 1e-4, 1e-3]
SCORES = [0.1, 0.2, 0.0, 0.05, 0.185, 0.4]


def a_space(records: list[RunRecord], objective: Objective = GAIN, scale: Scale | None = None) -> Space | None:
    (standing,) = standings(records, objective, [Stratum("sigmoid", "clean", ("sigmoid",), 6)])
    return space_of(standing, scale or scale_of(objective, "org/pairs"))


def run(trial: int, score: float, rate: float = 1e-4, **changes: object) -> RunRecord:
    metrics = {"ranking_gain": score, "train_accuracy": 0.9, "accuracy": 0.8}
    knobs = {"beta": 0.1 * (trial + 1), "learning_rate": rate, "loss": "word"}
    return a_record(trial=trial, knobs=knobs, **({"metrics": metrics} | changes))


# The last trial, with the best score, failed.
RECORDS = [run(t, s, r) for t, (s, r) in enumerate(zip(SCORES[:5], RATES, strict=False))]
RECORDS += [run(5, SCORES[5], RATES[5], cause=Cause.COLLAPSED)]


def test_failed_configs_count_as_untrained_and_other_arms_not_at_all() -> None:
    found = a_space([*RECORDS, run(6, 9.0, arm="tpe"), run(1, 9.0, arm="confirm", block=7)])
    assert found is not None
    assert (found.failures.all.k, found.failures.all.n) == (1, 6)
    assert found.within_5 == pytest.approx(1 / 6)
    assert found.within_10 == pytest.approx(2 / 6)
    assert found.best_of[1] == pytest.approx(sum(SCORES[:5]) / 6)
    assert list(found.best_of) == [1, 2, 3]


def test_the_box_is_what_was_tried() -> None:
    found = a_space(RECORDS)
    assert found is not None
    assert found.box == {"beta": (0.1, pytest.approx(0.6)), "learning_rate": (1e-5, 1e-3)}


def test_the_loss_along_the_learning_rate_is_over_its_thirds() -> None:
    """Best of each third .1, .2, 0: mean of .2 - that along the line is .2 - (.15 + .1) / 2."""
    found = a_space(RECORDS)
    assert found is not None
    assert found.rate_sensitivity == pytest.approx(0.2 - 0.125)
    fixed = a_space([run(t, s) for t, s in enumerate(SCORES)])
    assert fixed is not None
    assert fixed.rate_sensitivity is None


def test_the_gap_is_between_training_and_held_out_pairs() -> None:
    found = a_space(RECORDS)
    assert found is not None
    assert found.gap is not None
    assert found.gap.value == pytest.approx(0.1)


def test_the_frontier_is_there_for_gold_in_u_alone() -> None:
    records = pool({"sigmoid": 0.0}, configs=6)
    found = a_space(records, Objective(metric="gold"), scale_of(Objective(metric="gold"), "embedded"))
    assert found is not None
    assert found.frontier is not None
    assert found.frontier.configs == tuple(range(6))
    assert a_space(RECORDS).frontier is None


def test_three_configs_and_an_objective_without_a_zero_describe_no_space() -> None:
    assert a_space(RECORDS[:3]) is None
    assert a_space(RECORDS, scale=raw_scale("accuracy", by_task=False)) is None
