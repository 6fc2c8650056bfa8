"""What is said of a model from elsewhere, on records whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.statistics.scale import scale_of
from dashboards.tuned.yours import Judges, Yours, yours_in
from studies.design.elsewhere import Draw
from studies.records import ELSEWHERE, Cause, RunRecord, State
from studies.records.world_units import task_of_block, tasks
from studies.schema.replicates import Cell
from studies.spec import Objective
from tests.dashboards.generated import a_record
from tests.dashboards.tuned.replicated import DRIFT, a_run

OBJECTIVE = Objective(metric="gold", direction="maximize", at_drift=DRIFT)
SCALE = scale_of(OBJECTIVE, "embedded")
SIGMOID = [0.5, 0.6, 0.7]  # what the baseline gains at 1 nat, and by the root of the drift before and after


def mine(replicate: int, gain: float, drift: float = 1.0, content: str = "sha256:mine", **changes: Any) -> RunRecord:
    """A model from elsewhere on a judging draw, which gains a share of what is possible at 1 nat."""
    cell = Cell("clean", replicate)
    task = tasks()[task_of_block(cell.judging_block)]
    gold = task.reference + gain * (task.oracle["1"] - task.reference)
    fields: dict[str, Any] = {
        **{"run_id": f"mine-{replicate}", "variant": "mine", "scenario": cell.name, "block": cell.judging_block},
        **{"phase": ELSEWHERE, "knobs": {}, "content": {ELSEWHERE: content}},
        "metrics": {"gold": gold, "kl": drift, "length_ratio": 1.2},
        "facts": {"source": "embedded", "reference_gold": str(task.reference)},
    }
    return a_record(**(fields | changes))


def draw(replicate: int) -> Draw:
    cell = Cell("clean", replicate)
    return Draw(cell.name, cell.judging_block)


JUDGES = Judges(
    {"sigmoid": {draw(i): [gain] for i, gain in enumerate(SIGMOID, 1)}, "ipo": {draw(1): [0.9]}},
    {draw(i): [a_run("sigmoid", i, 1, gain, judging=True)] for i, gain in enumerate(SIGMOID, 1)},
)


def told(*records: RunRecord, objective: Objective = OBJECTIVE) -> tuple[Yours, ...]:
    return yours_in("clean", records, JUDGES, objective, scale_of(objective, "embedded"))


def test_it_is_set_against_the_baseline_read_at_its_own_drift_draw_by_draw() -> None:
    (one,) = told(*(mine(i, gain, drift=0.25) for i, gain in enumerate([0.3, 0.3, 0.3], 1)))
    assert one.gain is not None
    assert one.difference is not None
    assert one.gain.value == pytest.approx(0.3)
    # At a quarter of the drift the baseline gains half of what it gains at 1 nat.
    assert one.difference.value == pytest.approx(0.3 - (0.25 + 0.30 + 0.35) / 3, abs=1e-3)
    assert (one.at_own_drift, one.apart, one.judged, one.drift) == (True, "", 3, 0.25)


def test_beside_the_losses_as_exported_it_is_on_draws_that_both_have_all_of() -> None:
    (one,) = told(*(mine(i, gain) for i, gain in enumerate([0.4, 0.4, 0.4], 1)))
    assert one.beside.keys() == {"sigmoid"}
    assert one.beside["sigmoid"].value == pytest.approx(-0.2)


def test_where_the_baseline_never_gets_no_difference_stands_in_for_it() -> None:
    (one,) = told(mine(1, 0.4), mine(2, 0.4), mine(3, 0.4, drift=30.0))
    assert one.difference is None
    assert one.apart == "the baseline was not evaluated near its drift in 1 of 3 draws"
    assert one.gain is not None


def test_one_that_writes_at_another_length_is_broken_as_a_run_would_be() -> None:
    (one,) = told(mine(1, 0.4), mine(2, 0.4, metrics={"gold": 1.0, "kl": 1.0, "length_ratio": 3.0}))
    assert (one.gain, one.difference, one.beside) == (None, None, {})
    assert one.missing == "broken in 1 of 2 draws: drifted"


def test_one_that_prefers_the_wrong_answers_is_broken_too() -> None:
    (one,) = told(mine(1, 0.4), mine(2, -0.4, cause=Cause.INVERTED, state=State.PRUNED))
    assert (one.gain, one.missing) == (None, "broken in 1 of 2 draws: inverted")


def test_two_contents_are_two_rows_whatever_they_are_called() -> None:
    first, second = told(mine(1, 0.4), mine(1, 0.2, content="sha256:other"))
    assert (first.name, first.content, second.content) == ("mine", "sha256:mine", "sha256:other")


def test_without_a_drift_to_read_at_both_are_taken_as_they_end() -> None:
    (one,) = told(mine(1, 0.4), mine(2, 0.4), mine(3, 0.4), objective=Objective(metric="gold", direction="maximize"))
    assert one.at_own_drift is False
    assert one.difference is not None
    assert one.gain is not None
