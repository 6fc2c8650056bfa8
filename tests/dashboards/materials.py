"""What figures and reports are drawn from, made of generated records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from dashboards.analysis.strata import Stratum, standings
from dashboards.figures.figure import Figure, Missing
from dashboards.figures.material import Curve, Material
from dashboards.statistics.scale import scale_of
from dashboards.tables.comparison import Comparison, comparison
from dashboards.tuned.answer import Cost, answer
from dashboards.tuned.by_block import tuned_by_block
from dashboards.tuned.conditions import judges_of, records_of_conditions, strata_of_conditions
from dashboards.tuned.losses import tuned
from dashboards.tuned.replicates import replicates_of
from studies.records import RunRecord
from studies.schema.replicates import Cell, cell_of
from studies.spec import Objective
from tests.dashboards.tuned.replicated import DRIFT

GOLD = Objective(metric="gold")
SVG = "{http://www.w3.org/2000/svg}"


def material_of(
    records: Sequence[RunRecord],
    *,
    baseline: str | None = "sigmoid",
    objective: Objective = GOLD,
    source: str = "embedded",
    curves: Mapping[str, Mapping[str, Curve]] | None = None,
    losses: Mapping[str, tuple[str, ...]] | None = None,
    **changes: Any,
) -> Material:
    """The material of all strata that the records are of."""
    found = sorted({(r.scenario, r.variant) for r in records})
    strata = [Stratum(v, s, (losses or {}).get(v, (v,)), 0) for s, v in found]
    table = comparison(records, objective, strata, baseline=baseline, source=source)
    table = with_answers(table, records, strata, objective, source)
    fields: dict[str, Any] = {
        "standings": standings(records, objective, strata),
        "comparison": table,
        "scale": scale_of(objective, source),
        "noise": {},
        "betas": {},
        "curves": curves or {},
    }
    return Material(**(fields | changes))


def material_of_replicates(records: Sequence[RunRecord], points: int = 2) -> Material:
    """The material of a study with replicates of one condition, read at a drift."""
    objective = Objective(metric="gold", at_drift=DRIFT)
    scale, names = scale_of(objective, "embedded"), dict.fromkeys(record.variant for record in records)
    numbers = {cell_of(record.scenario).number or 1 for record in records}
    planned = {(name, Cell("clean", number).name): points for name in names for number in numbers}
    found = {name: of for (name, _), of in replicates_of(records, objective, scale, planned).items()}
    losses = {name: (name,) for name in names}
    one = tuned(
        "clean", found, losses, scale, baseline="sigmoid", drift=DRIFT, settings=points, planned=len(numbers)
    )  # fmt: skip
    said, judges = answer(one, scale.tie_within, Cost(0)), judges_of([one], records)
    together = records_of_conditions(records)
    strata = strata_of_conditions([Stratum(name, where, (name,), points) for name, where in planned])
    table = comparison(together, objective, strata, baseline="sigmoid", source="embedded", judges=judges)
    return Material(
        standings=standings(together, objective, strata, judges),
        comparison=replace(table, tuned=(one,), answers=(said,)),
        scale=scale,
        noise={},
        betas={},
        curves={record.run_id: record.curves for record in records},
    )


def with_answers(
    table: Comparison, records: Sequence[RunRecord], strata: Sequence[Stratum], objective: Objective, source: str
) -> Comparison:
    """The comparison with what it says of each scenario."""
    scale, found = scale_of(objective, source), standings(records, objective, strata)
    by_scenario = []
    for scenario in dict.fromkeys(s.scenario for s in strata):
        here = [standing for standing in found if standing.stratum.scenario == scenario]
        rows = [row for row in table.rows if row.scenario == scenario]
        differences = {row.variant: row.difference for row in rows if row.difference is not None}
        by_scenario.append(tuned_by_block(here, scale, table.baseline, differences, None))
    said = tuple(answer(one, scale.tie_within, Cost(0)) for one in by_scenario)
    return replace(table, tuned=tuple(by_scenario), answers=said)


def drawn(found: Figure | Missing) -> ElementTree.Element:
    """The picture of a figure that must have been drawn."""
    assert isinstance(found, Figure), found
    return ElementTree.fromstring(found.svg)


def texts(picture: ElementTree.Element) -> list[str]:
    """All text in a picture."""
    return ["".join(node.itertext()) for node in picture.iter(f"{SVG}text")]


def marks(picture: ElementTree.Element, colour: str, *, crosses: bool = False) -> int:
    """How many marks of a colour a picture has: filled ones without a rim of the same colour, or crosses."""
    styles = [use.get("style", "") for use in picture.iter(f"{SVG}use")]
    fill, rim = f"fill: {colour.lower()}", f"stroke: {colour.lower()}"
    return sum(fill in style and (rim in style) is crosses for style in styles)
