"""How soon configs reach the target, from evaluations whose answer is known by construction."""

from __future__ import annotations

import csv
import io

from dashboards.analysis.speed import Paces
from dashboards.analysis.strata import Stratum
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tables.formats import render
from studies.records import RunRecord
from studies.spec import Objective
from tests.dashboards.generated import a_record
from tests.dashboards.timings import timed

GAIN = Objective(metric="ranking_gain")
STEPS = (10, 20, 30, 40)


def confirmed(variant: str, *curves: tuple[float, ...]) -> list[RunRecord]:
    """One trial, and a confirm run of it for each curve over `STEPS`."""
    of = {"variant": variant, "metrics": {"ranking_gain": curves[0][-1]}}
    found = [a_record(run_id=f"{variant}-own", **of)]
    for block, curve in enumerate(curves, start=1):
        changes = {"block": block, "phase": "confirm", "metrics": {"ranking_gain": curve[-1]}}
        points = {"ranking_gain": tuple(zip(STEPS, curve, strict=True))}
        found.append(a_record(run_id=f"{variant}-{block}", **(of | changes), curves=points))
    return found


def compared(*records: RunRecord, speed: Paces | None = None) -> Comparison:
    strata = [Stratum(name, "clean", (name,), 1) for name in ("sigmoid", "ipo", "hinge")]
    return comparison(records, GAIN, strata, baseline="sigmoid", speed=speed)


SIGMOID = confirmed("sigmoid", (0.05, 0.092, 0.095, 0.1), (0.05, 0.07, 0.092, 0.1), (0.0, 0.05, 0.08, 0.1))


def test_the_target_is_most_of_the_baselines_end_and_the_median_run_counts() -> None:
    fast = confirmed("ipo", (0.1, 0.1, 0.1, 0.1), (0.1, 0.0, 0.0, 0.0), (0.0, 0.0, 0.1, 0.1))
    sigmoid, ipo, hinge = compared(*SIGMOID, *fast).rows
    assert sigmoid.reach is not None
    assert ipo.reach is not None
    assert round(ipo.reach.target, 6) == 0.09
    assert (sigmoid.reach.steps, sigmoid.reach.reached, sigmoid.reach.runs) == (30, 3, 3)  # first at 20, 30 and 40
    assert (ipo.reach.steps, ipo.reach.reached, ipo.reach.seconds) == (10, 3, None)
    assert hinge.reach is None


def test_what_most_runs_do_not_reach_is_not_reached() -> None:
    slow = confirmed("ipo", (0.0, 0.1, 0.1, 0.1), (0.0, 0.0, 0.0, 0.08), (0.0, 0.0, 0.0, 0.08))
    reach = compared(*SIGMOID, *slow).rows[1].reach
    assert reach is not None
    assert (reach.steps, reach.reached, reach.runs) == (None, 1, 3)


def test_seconds_follow_from_the_timed_steps_and_both_are_shown() -> None:
    table = compared(*SIGMOID, speed=timed({}, step=0.25))
    reach = table.rows[0].reach
    assert reach is not None
    assert reach.seconds == 7.5
    assert "30 steps = 7.50 s (3/3)" in render(table, "markdown")
    row = next(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert (row["steps_to_target"], row["seconds_to_target"], row["reached_of"]) == ("30", "7.5", "3")


def test_one_evaluation_or_no_confirm_phase_tells_nothing() -> None:
    once = [r.model_copy(update={"curves": {}}) for r in SIGMOID]
    assert compared(*once).rows[0].reach is None
    assert compared(*SIGMOID[:1]).rows[0].reach is None
    assert "To 90%" not in render(compared(*once), "markdown")
