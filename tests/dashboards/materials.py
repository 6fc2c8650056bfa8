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
from dashboards.tuned.answer import answer
from dashboards.tuned.by_block import tuned_by_block
from studies.records import RunRecord
from studies.spec import Objective, Scenario

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
    scenarios = {s: Scenario() for s, _ in found}
    table = comparison(records, objective, strata, baseline=baseline, source=source, scenarios=scenarios)
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


def with_answers(
    table: Comparison, records: Sequence[RunRecord], strata: Sequence[Stratum], objective: Objective, source: str
) -> Comparison:
    """The comparison with what it says of each scenario."""
    scale, found = scale_of(objective, source), standings(records, objective, strata)
    tuned = []
    for scenario in dict.fromkeys(s.scenario for s in strata):
        here = [standing for standing in found if standing.stratum.scenario == scenario]
        rows = [row for row in table.rows if row.scenario == scenario]
        differences = {row.variant: row.difference for row in rows if row.difference is not None}
        tuned.append(tuned_by_block(here, scale, table.baseline, differences, None))
    said = tuple(answer(one, scale.tie_within, None) for one in tuned)
    return replace(table, tuned=tuple(tuned), answers=said)


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
