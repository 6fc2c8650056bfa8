"""Records of a study -> how many of its runs ended how, and how many are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dashboards.analysis.failures import counted
from studies.design.counts import judging_not_needed, planned_runs
from studies.design.points import quota
from studies.records import PROBE, RunRecord, State
from studies.schema.replicates import by_condition
from studies.spec import Study

End = Literal["complete", "failed", "stopped", "untrained", "training"]
ENDS: Final[tuple[End, ...]] = ("complete", "failed", "stopped", "untrained", "training")


@dataclass(frozen=True)
class StratumCounts:
    """The runs of a variant in a scenario by how they ended. `failed`: by their settings; `untrained`: by the machine
    or the data; `planned`: None in `mode: search`, where the variants share them.
    """

    variant: str
    scenario: str
    complete: int
    failed: int
    stopped: int
    untrained: int
    training: int
    planned: int | None

    def of(self, end: End) -> int:
        """The runs that ended so."""
        return int(getattr(self, end))


@dataclass(frozen=True)
class StatusCounts:
    """How far a study is. `ended`: the runs that are not to be trained again; `seconds_per_run`: their mean, and
    `seconds_left`: what the missing ones would take one by one; None where nothing has ended. `failures` by kind and
    `stopped` by cause count all runs.
    """

    planned: int
    ended: int
    missing: int
    seconds_per_run: float | None
    seconds_left: float | None
    strata: tuple[StratumCounts, ...]
    failures: Mapping[str, int]
    stopped: Mapping[str, int]


def status_counts(study: Study, records: Sequence[RunRecord]) -> StatusCounts:
    """Count a study's runs."""
    spec, everything = study.spec, records
    records = [r for r in records if r.phase != PROBE]
    found = Counter((r.variant, r.scenario, _end(r)) for r in records)
    strata = []
    for scenario, cells in by_condition(spec.scenarios).items():
        own = study.within(cells[0])
        each = len(own.spec.runs.blocks) * len(own.spec.runs.seeds) * len(cells)
        judging = len(cells) if spec.replicates else 0
        for name, variant in own.variants.items():
            planned = None if spec.mode == "search" else quota(own.spec, variant) * each + judging
            ends = {end: sum(found[name, cell, end] for cell in cells) for end in ENDS}
            strata.append(StratumCounts(name, scenario, **ends, planned=planned))
    ended = ended_runs(records)
    seconds = [
        r.metrics["train_seconds"] + r.metrics.get("evaluation_seconds", 0.0)
        for r in ended
        if "train_seconds" in r.metrics
    ]
    missing = max(planned_runs(study) - len(ended) - judging_not_needed(study, ended), 0)
    mean = sum(seconds) / len(seconds) if seconds else None
    return StatusCounts(
        planned=planned_runs(study),
        ended=len(ended),
        missing=missing,
        seconds_per_run=mean,
        seconds_left=None if mean is None else mean * missing,
        strata=tuple(strata),
        failures={kind.value: number for kind, number in counted(everything).items()},
        stopped=dict(Counter(str(r.cause) for r in everything if _end(r) == "stopped").most_common()),
    )


def not_needed(study: Study, records: Sequence[RunRecord]) -> str:
    """Why fewer runs have ended than were planned although nothing is missing; "" where that is not so."""
    count = judging_not_needed(study, ended_runs(records))
    if not count:
        return ""
    were = "run is" if count == 1 else "runs are"
    return f"{count} planned {were} not needed: a loss none of whose settings worked is not judged in that replicate."


def ended_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs of trials that are not to be trained again."""
    return [r for r in records if r.phase != PROBE and r.state in (State.COMPLETE, State.PRUNED)]


def _end(run: RunRecord) -> End:
    """The column that a run is counted in."""
    if run.failure is not None:
        return "failed" if run.failure.by_config else "untrained"
    ends: dict[State, End] = {State.COMPLETE: "complete", State.RUNNING: "training"}
    return ends.get(run.state, "stopped")
