"""Grids of two knobs from records whose place is known."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dashboards.tables.formats import FORMATS, render_grids
from dashboards.tables.grids import Grid, GridError, grid_cells, grids
from studies.records import Cause, RunRecord, Scalar
from studies.spec import Objective
from tests.dashboards.generated import a_record

GOLD = Objective(metric="gold")


def run(trial: int, beta: Scalar, rate: float, gold: float, **changes: object) -> RunRecord:
    knobs = {"beta": beta, "learning_rate": rate}
    return a_record(trial=trial, knobs=knobs, **({"metrics": {"gold": gold}} | changes))


RECORDS = [
    run(0, 0.1, 1e-3, 1.0),
    run(0, 0.1, 1e-3, 2.0, block=1),
    run(1, 0.03, 1e-3, 0.5),
    run(2, 0.1, 3e-4, 9.0, cause=Cause.NON_FINITE),
    run(3, 0.1, 1e-3, 99.0, phase="confirm"),
]


def one() -> Grid:
    (grid,) = grids(RECORDS, GOLD, "beta", "learning_rate")
    return grid


def test_values_stand_in_order_of_size_and_cells_hold_means_over_blocks() -> None:
    grid = one()
    assert (grid.row_values, grid.column_values) == ((0.03, 0.1), (3e-4, 1e-3))
    assert grid.cells[0.1, 1e-3].value is not None
    assert grid.cells[0.1, 1e-3].value.value == 1.5
    assert (0.03, 3e-4) not in grid.cells


def test_a_failed_trial_is_counted_and_gives_no_value() -> None:
    cell = one().cells[0.1, 3e-4]
    assert (cell.value, cell.trials, cell.failed) == (None, 1, 1)
    assert len(cell.run_ids) == 1


def test_the_best_cell_is_marked_and_what_was_not_tried_is_a_dash() -> None:
    cells = grid_cells(one(), "maximize")
    assert list(cells.header) == ["beta \\ learning_rate", "0.0003", "0.001"]
    assert [list(row) for row in cells.rows] == [["0.03", "-", "0.500"], ["0.1", "! 1/1", "1.50*"]]
    assert grid_cells(one(), "minimize").rows[0][2] == "0.500*"


def test_each_stratum_has_its_own_grid() -> None:
    other = [r.model_copy(update={"variant": "ipo"}) for r in RECORDS]
    assert [g.variant for g in grids([*RECORDS, *other], GOLD, "beta", "learning_rate")] == ["sigmoid", "ipo"]


def test_knobs_that_no_trial_has_are_refused_with_those_there_are() -> None:
    with pytest.raises(GridError, match="tau as settings; the study's trials have: beta, learning_rate"):
        grids(RECORDS, GOLD, "beta", "tau")


def test_words_and_gaps_can_be_knobs_too() -> None:
    records = [run(0, "low", 1e-3, 1.0), run(1, None, 1e-3, 1.0), run(2, 0.5, 1e-3, 1.0)]
    assert grids(records, GOLD, "beta", "learning_rate")[0].row_values == (0.5, None, "low")


@pytest.mark.parametrize("format", FORMATS)
def test_a_grid_comes_in_every_format(format: str) -> None:
    text = render_grids([one()], GOLD, format)
    assert "1.5" in text
    if format == "json":
        assert len(json.loads(text)["grids"][0]["cells"]) == 3
    elif format == "csv":
        assert [row["failed"] for row in csv.DictReader(io.StringIO(text))] == ["0", "0", "1"]
    else:
        assert "0.0003" in text
        assert "! 1/1" in text
