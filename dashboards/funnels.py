"""What became of the rows that a study's runs read, in sentences; reads records alone."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.load import decode
from studies.funnel import funnel
from studies.records import RunRecord


def funnel_notes(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """A sentence for each way that rows went, of the first block in each scenario; none of runs that do not tell."""
    first: dict[str, tuple[int, str]] = {}
    for record in records:
        told = funnel({name: decode(text) for name, text in record.facts.items()})
        if told and record.block <= first.get(record.scenario, (record.block, ""))[0]:
            first[record.scenario] = (record.block, told)
    scenarios: dict[tuple[int, str], list[str]] = {}
    for scenario, way in first.items():
        scenarios.setdefault(way, []).append(scenario)
    several = len(scenarios) > 1
    return tuple(
        f"Pairs of block {block}" + (f" in {', '.join(names)}" if several else "") + f": {told}."
        for (block, told), names in scenarios.items()
    )
