"""What is known of workers: who trained together, what it cost, and which of them fails one run after another."""

from __future__ import annotations

import pytest

from sweeper.executors.ledger import Workers


def test_a_run_costs_its_share_of_the_time_that_its_worker_trained_it_with_others() -> None:
    workers = Workers()
    workers.started("a", "w", 0.0)
    workers.started("b", "w", 10.0)
    a = workers.ended("a", 20.0)
    b = workers.ended("b", 24.0)
    assert a is not None
    assert b is not None
    assert (a.seconds, a.device_seconds, a.together) == (20.0, 15.0, 2)
    assert (b.seconds, b.device_seconds, b.together) == (14.0, 9.0, 2)
    assert workers.spent(100.0) == 24.0, "a worker without a run costs nothing"


def test_workers_at_the_same_time_cost_as_many_devices() -> None:
    workers = Workers()
    workers.started("a", "w0", 0.0)
    workers.started("b", "w1", 0.0)
    assert workers.spent(5.0) == 10.0
    assert workers.in_training(5.0) == {"a": 5.0, "b": 5.0}


def test_three_different_runs_that_fail_in_a_row_are_too_many_for_a_worker() -> None:
    workers = Workers()
    assert workers.failed("w", "a", 1.0) is None
    assert workers.failed("w", "a", 2.0) is None, "the same run again"
    assert workers.failed("w", "b", 3.0) is None
    assert workers.failed("other", "c", 4.0) is None, "another worker"
    assert workers.failed("w", "c", 5.0) == ("a", "b", "c")


def test_a_run_that_goes_well_begins_the_count_anew() -> None:
    workers = Workers()
    workers.started("good", "w", 0.0)
    for key in ("a", "b"):
        workers.failed("w", key, float(ord(key)))
    workers.went_well("w")
    assert workers.failed("w", "c", 200.0) is None


def test_a_pack_that_dies_at_once_is_one_failure() -> None:
    workers = Workers()
    assert [workers.failed("w", key, 1.0) for key in "abcdefgh"] == [None] * 8


def test_a_run_that_nobody_took_has_no_stint() -> None:
    assert Workers().ended("a", 1.0) is None


@pytest.mark.parametrize("at", [[0.0, 5.0], [5.0, 0.0]])
def test_events_out_of_order_cost_no_time_twice(at: list[float]) -> None:
    workers = Workers()
    workers.started("a", "w", at[0])
    workers.ended("a", at[1])
    assert workers.spent(5.0) == max(at[1] - at[0], 0.0)


def test_a_pack_that_its_worker_takes_down_is_one_failure_however_its_runs_are_told_one_by_one() -> None:
    """Their events have times of their own: three runs of a pack are not three failures in a row."""
    workers, clock = Workers(), 0.0
    for attempt in range(3):
        clock += 10.0
        for key in "abcd":
            clock += 0.001
            workers.started(f"{key}{attempt}", "w", clock)
        found = []
        for key in "abcd":
            clock += 0.001
            workers.ended(f"{key}{attempt}", clock)
            found.append(workers.failed("w", f"{key}{attempt}", clock))
        assert (found[0] is not None) is (attempt == 2)
