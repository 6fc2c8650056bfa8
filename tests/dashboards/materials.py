"""What figures and reports are drawn from, made of generated records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from dashboards.analysis.strata import Stratum, standings
from dashboards.figures.figure import Figure, Missing
from dashboards.figures.material import Curve, Material
from dashboards.statistics.scale import scale_of
from dashboards.tables.comparison import comparison
from studies.records import RunRecord
from studies.spec import Objective

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
    fields: dict[str, Any] = {
        "standings": standings(records, objective, strata),
        "comparison": table,
        "scale": scale_of(objective, source),
        "noise": {},
        "betas": {},
        "curves": curves or {},
    }
    return Material(**(fields | changes))


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
