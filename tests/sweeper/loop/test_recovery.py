"""What stands when a sweep begins, decided from records and trials alone."""

from __future__ import annotations

from typing import Any

import pytest

from studies.records import PROBE, Cause, State
from sweeper.loop.recovery import Reconciled, reconcile
from sweeper.search.trials import Trial
from sweeper.tracking.known_runs import KnownRun


def a_run(state: State, cause: Cause | None, **other: Any) -> KnownRun:
    fields: dict[str, Any] = {"variant": "ipo", "scenario": "clean", "trial": 0, "attempt": 1, "phase": "unbiased"}
    fields |= {"run_id": "id", "key": "key", "study": "s", "block": 0, "seed": 0, "knobs": {}}
    fields |= {"metrics": {}, "errors": {}, "facts": {}, **other}
    return KnownRun(state=state, cause=cause, **fields)


def a_trial(state: State, number: int = 0, **other: Any) -> Trial:
    return Trial("ipo", number, "ipo", "clean", "unbiased", {}, state=state, **other)


def found(run: KnownRun, *trials: Trial) -> Reconciled:
    return reconcile([(run, None)], trials)


def test_a_run_that_was_interrupted_or_put_off_counts_no_longer() -> None:
    assert found(a_run(State.RUNNING, None)).superseded == (("id", "interrupted"),)
    assert found(a_run(State.PRUNED, Cause.USER_STOP)).superseded == (("id", "tried again"),)


@pytest.mark.parametrize(
    ("state", "cause", "trial", "stands"),
    [
        (State.COMPLETE, Cause.FINISHED, State.COMPLETE, True),
        (State.COMPLETE, Cause.FINISHED, State.RUNNING, True),
        (State.PRUNED, Cause.COLLAPSED, State.PRUNED, True),
        (State.COMPLETE, Cause.FINISHED, State.FAIL, False),
        (State.FAIL, Cause.WORKER_LOST, State.RUNNING, False),
    ],
)
def test_a_failed_run_or_trial_is_tried_again_and_stands_until_then(
    state: State, cause: Cause, trial: State, stands: bool
) -> None:
    result = found(a_run(state, cause), a_trial(trial))
    place = ("ipo", "clean", "key")
    assert (place in result.recorded, [one for one, _ in result.failed]) == (stands, [] if stands else [place])
    assert not result.superseded


def test_a_timed_run_is_of_no_trial() -> None:
    assert found(a_run(State.RUNNING, None, phase=PROBE)) == Reconciled((), (), {}, ())


def test_a_failed_trial_has_its_part_only_in_a_bracket_that_is_decided() -> None:
    failed, open_ = a_trial(State.FAIL, 0, bracket=(0, 2)), a_trial(State.RUNNING, 1, bracket=(0, 2))
    decided = a_trial(State.PRUNED, 1, bracket=(0, 2), scores=((0.0, 1.0),))
    assert reconcile([], [failed, open_]).trials == ()
    assert reconcile([], [failed, decided]).trials == (failed, decided)
