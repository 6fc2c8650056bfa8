"""What is said of a sweep that has ended."""

from __future__ import annotations

from sweeper.loop.progress import Outcome, Tally


def test_a_sweep_that_its_hours_end_says_what_is_on_its_way() -> None:
    outcome = Tally(on_their_way=16).outcome(stopped=True, unusable="", budget="15m")
    assert outcome.in_words == "0 runs trained, 16 stopped on their way and kept, 0 were there already"
    assert not outcome.has_ended_runs


def test_a_sweep_that_trained_says_no_more_than_that() -> None:
    outcome = Outcome(12, 1, {}, stopped=False)
    assert outcome.in_words == "12 runs trained, 1 was there already"
    assert outcome.has_ended_runs
