"""Runs of a timed probe -> the pace of each variant, alone and against the baseline; knows no claims and no page.

A round is the unit: its runs followed each other on one machine with the same batches, so that what the machine did to
one of them it did to the others. Ordinary runs train beside others and are no timings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from dashboards.statistics.compare import Difference, Word, compare
from dashboards.statistics.estimates import Estimate
from studies.records import PROBE, RunRecord, State

STEPS = "steps_per_second"
SAME_PACE = math.log(1.03)
PaceWord = Literal["as fast", "faster", "slower", "inconclusive"]
_WORDS: Mapping[Word, PaceWord] = {
    "tie": "as fast",
    "better": "faster",
    "worse": "slower",
    "inconclusive": "inconclusive",
}


@dataclass(frozen=True)
class Pace:
    """How fast a variant trains alone: steps a second and peak memory in MiB, medians over `rounds`; `spread`: the
    largest over the smallest steps a second.

    Against the baseline, None for itself and without one: `ratio` of steps a second, the geometric mean over rounds
    with its 95 % interval; `difference`: of their logarithms, tested for 3 %; `word`: what that shows.
    """

    steps_per_second: float
    peak_memory: float | None
    rounds: int
    spread: float
    ratio: Estimate | None
    difference: Difference | None
    word: PaceWord | None
    threads: str | None
    device: str | None
    run_ids: tuple[str, ...]


def paces(records: Iterable[RunRecord], baseline: str | None) -> dict[str, Pace]:
    """Variant -> its pace; only variants with a run of the probe that trained to its end."""
    timed: dict[str, list[RunRecord]] = {}
    for run in sorted(records, key=lambda r: (r.seed, r.run_id)):
        if run.arm == PROBE and run.state is State.COMPLETE and run.metrics.get(STEPS):
            timed.setdefault(run.variant, []).append(run)
    panel = {name: _by_round(runs) for name, runs in timed.items()}
    rounds = {number: number for of in panel.values() for number in of}
    against = compare(panel, baseline, SAME_PACE, rounds) if baseline is not None else {}
    return {name: _pace(runs, against.get(name)) for name, runs in timed.items()}


def _by_round(runs: Sequence[RunRecord]) -> dict[int, float]:
    """Round, which is the run's seed, -> log of steps a second."""
    return {run.seed: math.log(run.metrics[STEPS]) for run in runs}


def _pace(runs: Sequence[RunRecord], difference: Difference | None) -> Pace:
    speeds = [run.metrics[STEPS] for run in runs]
    memory = [run.metrics["peak_memory"] for run in runs if "peak_memory" in run.metrics]
    return Pace(
        steps_per_second=median(speeds),
        peak_memory=median(memory) if memory else None,
        rounds=len(runs),
        spread=max(speeds) / min(speeds),
        ratio=None if difference is None else _ratio(difference.estimate),
        difference=difference,
        word=None if difference is None else _WORDS[difference.word],
        threads=_shared(runs, "threads"),
        device=_shared(runs, "device"),
        run_ids=tuple(run.run_id for run in runs),
    )


def _ratio(log: Estimate) -> Estimate:
    low, high = (None if limit is None else math.exp(limit) for limit in (log.low, log.high))
    return Estimate(math.exp(log.value), log.blocks, low, high, None)


def _shared(runs: Sequence[RunRecord], fact: str) -> str | None:
    """What the runs say of themselves, None where they do not agree or do not tell."""
    said = {run.facts.get(fact) for run in runs}
    return said.pop() if len(said) == 1 else None
