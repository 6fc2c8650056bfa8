"""What a running sweep accepts for its next round, and in which order it is taken."""

from __future__ import annotations

from typing import Any

import pytest

from studies.requests import FAILED
from studies.schema.replicates import with_replicates
from studies.spec import Study, StudySpec
from sweeper.folder.steering.rounds import NotTaken, Round, Rounds


def spec(**more: Any) -> StudySpec:
    written = {
        "study": "small",
        "trainer": "formula",
        "base": {"model_name_or_path": "m", "max_steps": 6},
        "data": {"path": "somewhere/data"},
        "variants": {"sigmoid": {}, "ipo": {}},
        "space": {"beta": {"type": "float", "low": 0.05, "high": 1.0, "log": True}},
        "budget": {"trials": 3},
    }
    return StudySpec.model_validate({**written, **more})


def rounds(**more: Any) -> Rounds:
    return Rounds(Study.of(with_replicates(spec(**more))))


def test_a_retry_is_a_round_of_its_own_before_further_trials() -> None:
    asked = rounds()
    assert asked.extend(5) is None
    assert asked.retry(()) is None
    assert asked.retry(("worker_lost",)) is None
    assert asked.extend(7) is None
    assert asked.take(last=False) == Round(FAILED | {"worker_lost"})
    assert asked.asked
    assert asked.take(last=False) == Round(trials=7)
    assert asked.take(last=False) == Round()


def test_the_next_version_goes_first_and_keeps_what_was_asked_for_before() -> None:
    asked = rounds()
    more = Study.of(spec(variants={"sigmoid": {}, "ipo": {}, "hinge": {}}))
    assert asked.retry(()) is None
    assert asked.extend(5) is None
    assert asked.change(lambda _now: more) == 3
    assert asked.changes
    assert set(asked.variants) == {"sigmoid", "ipo", "hinge"}
    taken = asked.take(last=False)
    assert taken == Round(trials=5, version=more)
    after = taken.of(rounds()._study)
    assert (len(after.variants), after.spec.budget.trials) == (3, 5)
    assert not asked.changes
    assert asked.take(last=False) == Round(FAILED)
    assert asked.take(last=False) == Round()
    with pytest.raises(NotTaken, match="run the file again"):
        asked.change(lambda _now: more)


def test_brackets_take_no_next_version() -> None:
    with pytest.raises(NotTaken, match="Brackets of rungs"):
        rounds(mode="search", rungs={"at": [0.5]}).change(lambda now: now)


def test_after_the_last_round_nothing_is_accepted() -> None:
    for asked in (rounds(), rounds()):
        asked.take(last=True)
        for problem in (asked.retry(()), asked.extend(5)):
            assert problem is not None
            assert "Once it has ended, run `sweeper retry`" in problem
        assert not asked.asked


def test_what_is_dropped_at_a_stop_is_given_back() -> None:
    asked = rounds()
    asked.extend(5)
    assert asked.take(last=True) == Round(trials=5)
    assert asked.extend(6) is not None


@pytest.mark.parametrize(
    ("trials", "more", "told"),
    [
        (3, {}, "no run beyond those of 3"),
        (2, {}, "no run beyond those of 3"),
        (9, {"space": {"beta": {"type": "values", "values": [0.1, 0.3, 0.5]}}}, "no run beyond those of 3"),
        (9, {"mode": "search", "rungs": {"at": [0.5]}}, "Brackets of rungs"),
    ],
)
def test_trials_that_ask_for_no_run_or_cannot_be_added_are_refused(
    trials: int, more: dict[str, Any], told: str
) -> None:
    assert told in str(rounds(**more).extend(trials))


def test_a_cause_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    assert "bad_luck: valid are" in str(rounds().retry(("bad_luck", "worker_lost")))


def test_replicates_are_extended_like_trials() -> None:
    asked = rounds(replicates=3)
    assert asked.extend(None, 5) is None
    assert asked.extend(None, 8) is None
    assert "8 asks for no run beyond those of 8" in str(asked.extend(None, 8))
    taken = asked.take(last=False)
    assert taken == Round(replicates=8)
    assert taken.extends
    longer = taken.of(Study.of(with_replicates(spec(replicates=3))))
    assert (longer.spec.replicates, list(longer.spec.scenarios)[-1]) == (8, "clean#8")


@pytest.mark.parametrize(
    ("given", "more", "told"),
    [
        ((None, None), {"replicates": 3}, "Name `trials` or `replicates`."),
        ((None, 5), {}, "the study has none"),
        ((None, 25), {"replicates": 3, "data": {"path": "embedded"}}, "would use gold tasks twice"),
    ],
)
def test_replicates_that_cannot_be_are_refused(given: tuple[Any, Any], more: dict[str, Any], told: str) -> None:
    assert told in str(rounds(**more).extend(*given))
