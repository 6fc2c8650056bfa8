"""The replicates of a condition put together, for what shows all of its settings and judging runs at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dashboards.analysis.strata import Judges, Stratum
from dashboards.tuned.losses import Tuned
from studies.records import RunRecord
from studies.schema.replicates import cell_of


def records_of_conditions(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The records with their condition as scenario. A trial's number begins with that of its replicate: trial 4 of
    replicate 3 is 34, and 304 where a trial of the study has two digits.
    """
    records = list(records)
    shift = 10 ** len(str(max((run.trial for run in records), default=0)))
    found = []
    for run in records:
        cell = cell_of(run.scenario)
        changed = {"scenario": cell.condition, "trial": (cell.number or 0) * shift + run.trial}
        found.append(run if cell.number is None else run.model_copy(update=changed))
    return found


def strata_of_conditions(strata: Iterable[Stratum]) -> list[Stratum]:
    """A stratum for each variant in each condition; how many trials it has share is said of its replicates."""
    places = {(s.variant, cell_of(s.scenario).condition): s for s in strata}
    return [Stratum(variant, where, s.losses, 0, s.runs_per_trial) for (variant, where), s in places.items()]


def judges_of(tuned: Iterable[Tuned], records: Iterable[RunRecord]) -> Judges:
    """The runs that judge each variant in each condition, first that of the replicate whose settings are shown.
    `records`: by cell.
    """
    places = {run.run_id: (run.scenario, run.trial) for run in records}
    return {
        (loss.variant, found.condition): sorted(loss.run_ids, key=lambda run_id: places.get(run_id) != loss.chosen)
        for found in tuned
        for loss in found.losses
        if loss.run_ids
    }
