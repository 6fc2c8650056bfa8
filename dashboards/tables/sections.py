"""The parts of the comparison in reading order, those that have something to show; knows no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dashboards.analysis.late_collapse import Falling, Falls
from dashboards.tables.cells import Cells, budget_cells, control_cells, row_cells, space_cells
from dashboards.tables.comparison import Comparison, Short
from dashboards.tables.notes import CONTROL_NOTES, budget_notes, notes, space_notes, speed_notes
from dashboards.tables.numbers import interval
from dashboards.tables.short import LONG_NOTES, by_verdict, long_cells, ranked, short_cells, short_notes, speed_line

EVERYTHING = "Everything measured"


@dataclass(frozen=True)
class Section:
    """A part of the page: its title (none for the first), its table, the runs behind each row, and notes under it."""

    title: str
    cells: Cells
    notes: Sequence[str] = ()
    runs: Sequence[Mapping[str, Sequence[str]]] = field(default=())


def short_sections(table: Comparison, *, controls: bool = False) -> list[Section]:
    """The table of each condition; with `controls`, what became of those too."""
    found = condition_sections(table)
    return [*found, _controls(table)] if controls and table.controls else found


def condition_sections(table: Comparison | Short) -> list[Section]:
    """The table of each condition as a person reads it, with what its words mean under the last."""
    several = len(table.tuned) > 1
    pace = [] if table.speed is None else [speed_line(table.speed)]
    return [
        Section(
            of.condition if several else "",
            short_cells(of, said),
            [*short_notes(table.tuned), *pace] if of is table.tuned[-1] else (),
            [
                {"judged": ids}
                for ids in [*(loss.run_ids for loss in by_verdict(of, said)), *(y.run_ids for y in of.yours)]
            ],
        )
        for of, said in zip(table.tuned, table.answers, strict=True)
    ]


def _controls(table: Comparison) -> Section:
    return Section(
        "Controls", control_cells(table.controls), CONTROL_NOTES, [{"runs": c.run_ids} for c in table.controls]
    )


def sections(table: Comparison) -> list[Section]:
    """All that was measured, in reading order; the guide's claims come after."""
    parts = [
        *_of_losses(table),
        Section(
            "At equal KL",
            budget_cells(table),
            budget_notes(table),
            [{"confirmed": row.run_ids} for row in table.at_kl if row.trial is not None or row.said],
        ),
        Section("Over the whole space", space_cells(table), space_notes(table)),
        Section("Late collapse", fall_cells(table.falls), FALL_NOTES, [_runs_behind(row) for row in table.falls]),
        _controls(table),
    ]
    return [part for i, part in enumerate(parts) if i == 0 or part.cells.rows]


def _of_losses(table: Comparison) -> list[Section]:
    """A row a stratum; of a study with replicates a table a condition, since no replicate says anything alone."""
    if not any(found.planned for found in table.tuned):
        return [Section(EVERYTHING, row_cells(table), notes(table), [r.run_ids for r in table.rows])]
    several, said = len(table.tuned) > 1, (*table.aside, *table.pairs, *LONG_NOTES, *speed_notes(table.speed))
    return [
        Section(
            f"{EVERYTHING}, {found.condition}" if several else EVERYTHING,
            long_cells(found, table.speed),
            said if found is table.tuned[-1] else (),
            [{"judged": loss.run_ids} for loss in ranked(found)],
        )
        for found in table.tuned
    ]


# ---- late collapse ------------------------------------------------------------------------------------------------

FALL_NOTES = (
    "Fall: from the peak of the running median of three evaluations to the end. Regained: from the lowest point after "
    "that peak to the end. A fall of which little is regained is over-optimisation; what is regained was lost for a "
    "while, as where the learning rate is too high before it decays. Peak and lowest point are chosen on one half of "
    "the samples and read on the other, so that noise alone gives 0 on average, and a rise to the end a little less.",
    "Best: retests of the best trial. All: configs chosen in advance that did not fail; the others are Failed. "
    "95% t intervals over data draws.",
)


def fall_cells(falls: Sequence[Falls]) -> Cells:
    """How far strata end below their peak along training, a row each; empty where nothing was measured on the way."""
    several = len({row.scenario for row in falls}) > 1
    unit = falls[0].unit if falls else ""
    of = (f"fall of {falls[0].metric} ({unit})", f"regained ({unit})", "blocks") if falls else ()
    header = ["Loss", *(["Scenario"] if several else []), "Evaluations", *(f"Best: {name}" for name in of), "Configs",
              *(f"All: {name}" for name in of)]  # fmt: skip
    return Cells(header, [_fall_row(row, several) for row in falls])


def _fall_row(row: Falls, scenario: bool) -> list[str]:
    low, high = row.checkpoints
    return [
        row.variant,
        *([row.scenario] if scenario else []),
        str(low) if low == high else f"{low} to {high}",
        *_falling(row.best),
        "-" if row.configs is None else str(row.configs.configs),
        *_falling(row.configs),
    ]


def _falling(one: Falling | None) -> list[str]:
    return ["-"] * 3 if one is None else [interval(one.fall), interval(one.regained), str(one.fall.blocks)]


def _runs_behind(row: Falls) -> dict[str, Sequence[str]]:
    return {name: one.run_ids for name, one in (("best", row.best), ("all", row.configs)) if one is not None}
