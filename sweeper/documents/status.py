"""What `sweeper status` answers, in words and with `--json`: how many runs of a study ended how, and its last sweep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from dashboards.report.progress import ENDS, StatusCounts, StratumCounts, ended_runs, not_needed, status_counts
from studies.records import RunRecord
from sweeper.folder.standing import Standing

__all__ = [
    "ENDS",
    "FailedRun",
    "StatusCounts",
    "StatusDocument",
    "StratumCounts",
    "SweepState",
    "ended_runs",
    "failed_runs",
    "not_needed",
    "status_counts",
    "sweep_state",
]


@dataclass(frozen=True)
class SweepState:
    """The last sweep of the study. `state`: running, ended (`how`: finished, stopped, incomplete, refused or
    interrupted, by `message`) or dead; `silent_seconds` since it was heard of.
    """

    sweep: str
    state: Literal["running", "ended", "dead"]
    host: str
    process: int
    phase: str
    planned: int
    done: int
    training: int
    seconds_left: float | None
    silent_seconds: float
    how: str | None
    message: str | None


@dataclass(frozen=True)
class FailedRun:
    """A run that failed. `failure`: its kind, and `cause`: why it ended; `log`: where its log is, if it was kept."""

    key: str
    run_id: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    failure: str
    cause: str | None
    message: str
    log: str | None


@dataclass(frozen=True)
class StatusDocument:
    """How far a study is and whether a sweep runs (None: none has ever run here). `failed`: every run that failed, with
    `--failed` alone. `paused`: variants. `notes`: what else there is to say of what is recorded.
    """

    schema: ClassVar[str] = "status/1"
    study: str
    counts: StatusCounts
    sweep: SweepState | None
    paused: tuple[str, ...]
    notes: tuple[str, ...]
    failed: tuple[FailedRun, ...] | None


def sweep_state(found: Standing | None) -> SweepState | None:
    """The last sweep, as it stands."""
    if found is None:
        return None
    beat, end = found.beat, found.end
    return SweepState(
        sweep=found.sweep,
        state=found.state,
        host=beat.host,
        process=beat.process,
        phase=beat.phase,
        planned=beat.planned,
        done=beat.done,
        training=beat.training,
        seconds_left=beat.seconds_left,
        silent_seconds=found.silent,
        how=None if end is None else end.how,
        message=None if end is None else end.message or None,
    )


def failed_runs(records: Iterable[RunRecord]) -> tuple[FailedRun, ...]:
    """Every run that failed."""
    return tuple(
        FailedRun(
            *(r.key, r.run_id, r.variant, r.scenario, r.trial, r.block, r.seed),
            failure=r.failure.value,
            cause=None if r.cause is None else r.cause.value,
            message=r.facts.get("message", "").strip(),
            log=r.facts.get("log"),
        )
        for r in records
        if r.failure is not None
    )
