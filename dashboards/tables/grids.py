"""Records -> the objective over two knobs: one value in a row, another in a column; knows no losses and no store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from dashboards.analysis.configs import distinct
from dashboards.analysis.strata import Trial, estimate, trials
from dashboards.statistics.estimates import Estimate
from dashboards.tables.cells import Cells
from dashboards.tables.numbers import number
from studies.records import PROBE, RunRecord, Scalar
from studies.spec import Objective


class GridError(Exception):
    """The records make no such grid; says why and what there is."""


@dataclass(frozen=True)
class Cell:
    """The trials at one pair of values: their mean objective over blocks (None where none completed), how many failed,
    and their runs.
    """

    value: Estimate | None
    trials: int
    failed: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """One stratum: `cells` by (row value, column value); a pair that was not tried is not in it."""

    variant: str
    scenario: str
    rows: str
    columns: str
    row_values: tuple[Scalar, ...]
    column_values: tuple[Scalar, ...]
    cells: Mapping[tuple[Scalar, Scalar], Cell]


@dataclass(frozen=True)
class ListedCell:
    """A `Cell` with its place."""

    row: Scalar
    column: Scalar
    value: Estimate | None
    trials: int
    failed: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class ListedGrid:
    """A `Grid` with its cells as a list: the objective of one stratum over two settings, `rows` and `columns`."""

    variant: str
    scenario: str
    rows: str
    columns: str
    row_values: tuple[Scalar, ...]
    column_values: tuple[Scalar, ...]
    cells: tuple[ListedCell, ...]


@dataclass(frozen=True)
class Grids:
    """The grids of a study as JSON has them, which names things by text alone."""

    schema: ClassVar[str] = "grids/1"
    grids: tuple[ListedGrid, ...]


def listed(found: Iterable[Grid]) -> Grids:
    """The grids with their cells as lists."""
    return Grids(
        tuple(
            ListedGrid(
                *(g.variant, g.scenario, g.rows, g.columns, g.row_values, g.column_values),
                cells=tuple(
                    ListedCell(row, column, cell.value, cell.trials, cell.failed, cell.run_ids)
                    for (row, column), cell in g.cells.items()
                ),
            )
            for g in found
        )
    )


def grids(records: Iterable[RunRecord], objective: Objective, rows: str, columns: str) -> tuple[Grid, ...]:
    """One grid for each stratum whose trials have both knobs, in the order of the records; without confirm runs.

    Trials that have the same two values and differ elsewhere are averaged. Raises GridError where no trial has both.
    """
    strata: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    knobs: set[str] = set()
    for record in (record for record in distinct(records) if record.phase != PROBE):
        knobs |= record.knobs.keys()
        if {rows, columns} <= record.knobs.keys():
            strata[record.variant, record.scenario].append(record)
    if not strata:
        known = ", ".join(sorted(knobs)) or "none"
        raise GridError(f"No trial has both {rows} and {columns} as settings; the study's trials have: {known}.")
    return tuple(_grid(of, objective, *name, rows, columns) for name, of in strata.items())


def _grid(
    records: Sequence[RunRecord], objective: Objective, variant: str, scenario: str, rows: str, columns: str
) -> Grid:
    at: dict[tuple[Scalar, Scalar], list[Trial]] = defaultdict(list)
    for trial in trials(records):
        knobs = trial.runs[0].knobs
        at[knobs[rows], knobs[columns]].append(trial)
    return Grid(
        variant,
        scenario,
        rows,
        columns,
        row_values=_in_order(row for row, _ in at),
        column_values=_in_order(column for _, column in at),
        cells={place: _cell(of, objective.metric) for place, of in at.items()},
    )


def _cell(of: Sequence[Trial], metric: str) -> Cell:
    complete = [run for t in of if t.complete and not t.failed for run in t.runs if metric in run.metrics]
    return Cell(
        value=estimate(complete, metric) if complete else None,
        trials=len(of),
        failed=sum(t.failed for t in of),
        run_ids=tuple(run.run_id for t in of for run in t.runs),
    )


def _in_order(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    """Distinct values, numbers by size before words by letter."""
    return tuple(sorted(set(values), key=lambda v: (0, v, "") if isinstance(v, int | float) else (1, 0, str(v))))


def grid_cells(grid: Grid, direction: str) -> Cells:
    """A grid as text: the mean objective, `!` and a count where trials failed, `*` at the best cell that did not."""
    best = _best(grid, direction)
    body = []
    for row in grid.row_values:
        found = [_text(grid.cells.get((row, column)), (row, column) == best) for column in grid.column_values]
        body.append([_value(row), *found])
    return Cells([f"{grid.rows} \\ {grid.columns}", *(_value(column) for column in grid.column_values)], body)


def _best(grid: Grid, direction: str) -> tuple[Scalar, Scalar] | None:
    sign = 1 if direction == "maximize" else -1
    means = {place: sign * c.value.value for place, c in grid.cells.items() if c.value is not None and not c.failed}
    return max(means, key=means.__getitem__, default=None)


def _text(cell: Cell | None, is_best: bool) -> str:
    if cell is None:
        return "-"
    failed = f"! {cell.failed}/{cell.trials}" if cell.failed else ""
    value = "" if cell.value is None else number(cell.value.value)
    return f"{value}{failed}{'*' if is_best else ''}" or "-"


def _value(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
