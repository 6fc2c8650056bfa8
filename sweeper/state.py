"""How far a study is and what it would leave behind: what `plan` tells and `run` asks before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboards.load import QUESTIONS_TAG, STRICT_TAG, StoreMissing, load_records, load_study_tags, store_uri
from studies.records import PROBE, RunRecord, State
from studies.spec import Arm, StudySpec
from sweeper.answers import leaving, sort
from sweeper.inputs import pairs_comparer
from sweeper.plan import planned_runs


@dataclass(frozen=True)
class StudyState:
    """How far a study is: `planned` runs, `done` of them recorded, and what it would leave behind of what an earlier
    form of it, or of its sources, trained: reason -> finished runs.
    """

    planned: int
    done: int
    left: Mapping[str, Sequence[RunRecord]]

    def lines(self) -> list[str]:
        """What `plan` says of it; nothing of a study without a recorded run."""
        counted = [f"{self.done} runs are done, {self.planned - self.done} are missing."] if self.done else []
        return counted + (leaving(self.left) if self.done < self.planned else [])


def standing_of(spec: StudySpec, arms: Mapping[str, Arm], *, strict: bool = False) -> StudyState:
    """How far the study is, with the contents that `spec` has. Raises StoreError."""
    uri, planned = store_uri(None, Path.cwd()), planned_runs(spec, arms)
    try:
        records = load_records(uri, spec.study)
    except StoreMissing:
        return StudyState(planned, 0, {})
    tags = load_study_tags(uri, spec.study)
    answers = sort(spec, arms, records, pairs_comparer(), strict=strict or STRICT_TAG in tags)
    before = tags.get(QUESTIONS_TAG)
    left = {
        reason: [run for run in runs if before is None or (run.question or "-") in before.split(",")]
        for reason, runs in answers.finished_aside().items()
    }
    done = sum(run.arm != PROBE and run.state in (State.COMPLETE, State.PRUNED) for run in answers.records)
    return StudyState(planned, min(done, planned), {reason: runs for reason, runs in left.items() if runs})
