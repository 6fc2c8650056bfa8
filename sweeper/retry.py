"""Asks for runs again that ended badly. Knows neither how they are trained nor how they are shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from studies.records import CONSEQUENCES, PROBE, Cause, RunRecord, State
from sweeper.points import CONFIRM
from sweeper.search import Search
from sweeper.tracking import Tracker
from trainers.results import RESULT_FILE

# What `sweeper retry` means where no cause is named: neither what finished, nor what stops and goes on by itself.
FAILED = frozenset(c for c in Cause if CONSEQUENCES[c].told in (State.FAIL, State.PRUNED)) - {Cause.USER_STOP}


def failed_runs(records: Iterable[RunRecord], causes: Collection[Cause]) -> list[RunRecord]:
    """The runs that ended for one of these causes."""
    return [record for record in records if record.state is not State.RUNNING and record.cause in causes]


def ask_again(
    search: Search, tracker: Tracker, known: Iterable[RunRecord], folder: Path, causes: Collection[Cause]
) -> int:
    """Have all of the `known` runs that ended for one of `causes` trained again, and tell how many they are.

    Killed at any point it loses nothing: a run counts as it did, or is missing and trained by the next sweep.
    """
    trials = {(t.variant, t.scenario, t.number): t for t in search.trials()}
    failed = [r for r in failed_runs(known, causes) if r.arm == PROBE or (r.variant, r.scenario, r.trial) in trials]
    for run in failed:
        (folder / run.key / RESULT_FILE).unlink(missing_ok=True)
        if run.arm in (CONFIRM, PROBE):
            tracker.supersede(run.run_id, "asked for again")
    places = {(run.variant, run.scenario, run.trial) for run in failed if run.arm not in (CONFIRM, PROBE)}
    search.again([trial for place, trial in trials.items() if place in places])
    return len(failed)
