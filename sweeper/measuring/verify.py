"""Trains some finished runs again alone, by TRL's own loop, and compares their measurements."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.records import COSTS, METRICS, Measurement, RunConfig
from sweeper.executors import Dropped, Executor
from sweeper.executors.waiting import result_of, wait_for
from sweeper.folder.cleanup import drop_scratch, scratch
from trainers.interface import Job, Placement


@dataclass(frozen=True)
class Finding:
    """A measurement of a run in the sweep, and trained again alone. `error`: its standard error, if any."""

    config: RunConfig
    metric: str
    swept: float
    alone: float
    error: float | None

    @property
    def within_error(self) -> bool:
        """Whether the two are closer than the measurement's standard error."""
        return abs(self.alone - self.swept) <= (self.error or 0.0)


@dataclass(frozen=True)
class Verification:
    """The comparisons, and the reason for each run that could not be trained again."""

    findings: tuple[Finding, ...]
    failed: Mapping[str, str]


def verify(
    finished: Sequence[tuple[RunConfig, Mapping[str, Measurement]]],
    count: int,
    executor: Executor,
    runs: Path,
    placement: Placement,
    check: Callable[[], None] = lambda: None,
) -> Verification:
    """Train `count` of the finished runs again, chosen at random, in a folder in `runs` that is then removed. The same
    runs give the same choice. `check` is called at least every second.
    """
    ordered = sorted(finished, key=lambda one: one[0].key)
    chosen = random.Random(len(ordered)).sample(ordered, min(count, len(ordered)))
    alone = Placement(together=0, bf16=placement.bf16)
    folder = scratch(runs, "verify")
    jobs = [Job(config, folder / config.key, keep_adapter=False, placement=alone) for config, _ in chosen]
    again: dict[str, Mapping[str, Measurement]] = {}
    failed: dict[str, str] = {}
    for ending in wait_for(jobs, executor, check):
        result = result_of(ending)
        again[ending.key] = result.final()
        if isinstance(ending, Dropped):
            failed[ending.key] = "stopped"
        elif not again[ending.key]:
            failed[ending.key] = result.message or str(result.cause)
    drop_scratch(folder)
    findings = tuple(
        Finding(config, name, measured[name].value, again[config.key][name].value, measured[name].error)
        for config, measured in chosen
        for name in METRICS
        if METRICS[name].comparable and name in measured and name in again.get(config.key, {}) and name not in COSTS
    )
    return Verification(findings, failed)
