"""Asks for failed runs again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from studies.design.points import CONFIRM
from studies.records import RunRecord, State
from studies.requests import FAILED, NAMED
from sweeper.search.search import Search
from sweeper.tracking.tracker import Tracker
from trainers.run_folder.results import drop_result

__all__ = ["FAILED", "NAMED", "ask_again", "chosen_runs"]


def chosen_runs(records: Iterable[RunRecord], names: Collection[str]) -> list[RunRecord]:
    """The runs whose failure or cause has one of these names."""
    ended = [record for record in records if record.state is not State.RUNNING]
    return [record for record in ended if {str(record.failure), str(record.cause)} & set(names)]


def ask_again(
    search: Search, tracker: Tracker, known: Iterable[RunRecord], folder: Path, names: Collection[str]
) -> int:
    """Have all of the `known` runs that `chosen_runs` finds trained again; gives their number.

    Nothing is lost where it is killed: a run counts as before, or is missing and trained by the next sweep.
    """
    trials = {(t.variant, t.scenario, t.number): t for t in search.trials()}
    failed = [r for r in chosen_runs(known, names) if (r.variant, r.scenario, r.trial) in trials]
    for run in failed:
        drop_result(folder / run.key)
        if run.phase == CONFIRM:
            tracker.supersede(run.run_id, "asked for again")
    places = {(run.variant, run.scenario, run.trial) for run in failed if run.phase != CONFIRM}
    search.again([trial for place, trial in trials.items() if place in places])
    return len(failed)
