"""What became of the rows that a study's runs read, in sentences; reads records alone."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.store.mlflow_tags import decode
from studies.records import RunRecord
from studies.records.funnel import LOOKED_AT, NOTES, funnel


def funnel_notes(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """A sentence for each way that rows went, of the first block in each scenario, and what to know of the data; none
    of runs that do not tell.
    """
    records = list(records)
    first: dict[str, tuple[int, str]] = {}
    for record in records:
        told = funnel({name: decode(text) for name, text in record.facts.items()}) if LOOKED_AT in record.facts else ""
        if told and record.block <= first.get(record.scenario, (record.block, ""))[0]:
            first[record.scenario] = (record.block, told)
    scenarios: dict[tuple[int, str], list[str]] = {}
    for scenario, way in first.items():
        scenarios.setdefault(way, []).append(scenario)
    notes = dict.fromkeys(str(decode(record.facts[NOTES])) for record in records if NOTES in record.facts)
    several = len(scenarios) > 1
    ways = (
        f"Pairs of data draw {block}" + (f" in {', '.join(names)}" if several else "") + f": {told}."
        for (block, told), names in scenarios.items()
    )
    return (*ways, *(f"{note[:1].upper()}{note[1:]}." for note in notes))
