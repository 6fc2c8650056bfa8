"""What counts as failed: a function of how a run ended and of what was measured of it last."""

from __future__ import annotations

import math

import pytest

from studies.records import CONSEQUENCES, Cause, Failure, Measurement, RunResult, State, failures_of


@pytest.mark.parametrize(
    ("cause", "length_ratio", "failures"),
    [
        (Cause.FINISHED, 1.0, ()),
        (Cause.FINISHED, 0.5, ()),
        (Cause.FINISHED, 0.49, (Failure.DRIFTED,)),
        (Cause.FINISHED, 2.01, (Failure.DRIFTED,)),
        (Cause.FINISHED, math.nan, ()),
        (Cause.COLLAPSED, 3.0, (Failure.COLLAPSED, Failure.DRIFTED)),
        (Cause.NON_FINITE, 1.0, (Failure.DIVERGED,)),
        (Cause.OUT_OF_HOST_MEMORY, 1.0, (Failure.OUT_OF_HOST_MEMORY,)),
        (Cause.WORKER_LOST, 3.0, (Failure.WORKER_LOST,)),
        (Cause.REFUSED, 1.0, (Failure.REFUSED,)),
        (Cause.TIME_LIMIT, 1.0, ()),
        (Cause.USER_STOP, 1.0, ()),
        (Cause.PAUSED, 1.0, ()),
        (None, 3.0, ()),
    ],
)
def test_a_run_fails_by_its_cause_or_by_the_length_of_its_samples(
    cause: Cause | None, length_ratio: float, failures: tuple[Failure, ...]
) -> None:
    assert failures_of(cause, {"length_ratio": length_ratio}) == failures


def test_a_result_is_judged_by_its_last_measurement() -> None:
    lengths = (Measurement("length_ratio", 1.0, step=20), Measurement("length_ratio", 0.1, step=10))
    assert RunResult(key="k", cause=Cause.FINISHED, measurements=lengths).failure is None
    assert RunResult(key="k", cause=Cause.FINISHED, measurements=lengths[1:]).failure is Failure.DRIFTED


def test_what_could_not_be_trained_is_what_optuna_is_told_as_failed() -> None:
    for consequence in CONSEQUENCES.values():
        untrained = consequence.failure is not None and not consequence.failure.by_config
        assert untrained == (consequence.told is State.FAIL)
