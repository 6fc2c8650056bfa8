"""What is said of a sweep that has ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studies.records import Cause, Failure, RunResult
from sweeper.cli.display import describe
from sweeper.folder.cleanup import stopped_on_their_way
from sweeper.loop.progress import Outcome, Progress, Tally
from trainers.run_folder.results import STATE_FILE, keep_result


def test_a_sweep_that_its_hours_end_says_what_is_on_its_way() -> None:
    outcome = replace(Tally().outcome(stopped=True, unusable="", budget="15m"), on_their_way=16)
    assert outcome.in_words == "0 runs trained, 16 stopped on their way and kept, 0 were there already"
    assert not outcome.has_ended_runs


def test_a_sweep_that_its_budget_ends_says_by_how_much_it_was_too_small() -> None:
    ended = Tally().outcome(stopped=True, unusable="", budget="the budget of 15m is spent", seconds_left=1500.0)
    assert ended.why_stopped == "Stopped: the budget of 15m is spent, about 25 minutes too early."
    assert replace(ended, seconds_left=None).why_stopped == "Stopped: the budget of 15m is spent."
    assert Tally().outcome(stopped=False, unusable="", budget="15m", seconds_left=0.0).why_stopped == ""


def test_a_sweep_that_trained_says_no_more_than_that() -> None:
    outcome = Outcome(12, 1, {}, stopped=False)
    assert outcome.in_words == "12 runs trained, 1 was there already"
    assert outcome.has_ended_runs


def test_runs_that_failed_by_their_settings_are_told_so() -> None:
    progress = Progress(10, 4, 2, {Failure.DRIFTED: 1, Failure.COLLAPSED: 2, Failure.WORKER_LOST: 1}, None, None)
    assert describe(progress) == (
        "4/10 runs, 2 in training, 3 runs failed by their settings (2 collapsed, 1 drifted), "
        "1 run could not be trained (1 worker_lost)"
    )
    one = Progress(10, 4, 2, {Failure.DRIFTED: 1, Failure.WORKER_LOST: 2}, None, None)
    assert "1 run failed by its settings (1 drifted), 2 runs could not be trained" in describe(one)


def test_every_failure_by_settings_is_explained() -> None:
    assert {failure for failure in Failure if failure.meaning} == {failure for failure in Failure if failure.by_config}


def test_runs_that_an_earlier_sweep_stopped_are_counted_as_kept(tmp_path: Path) -> None:
    for key, cause, state in (("a", Cause.USER_STOP, True), ("b", Cause.USER_STOP, False), ("c", Cause.PAUSED, True)):
        run = tmp_path / (key * 12)
        run.mkdir()
        keep_result(run, RunResult(key=run.name, cause=cause))
        if state:
            (run / STATE_FILE).write_bytes(b"")
    assert stopped_on_their_way(tmp_path) == 1
