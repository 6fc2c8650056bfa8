"""Runs -> the trials of a stratum, the best of them, and the runs that measure it; knows no tables and no losses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.configs import distinct
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.stability import first_draw
from studies.records import PROBE, RunRecord, State
from studies.spec import Objective

DRIFT = "kl_per_token"


@dataclass(frozen=True)
class Stratum:
    """A variant in a scenario as the study plans it: its losses, its trials (0 where it has no share of its own, as in
    `mode: search`), and the runs of every trial.
    """

    variant: str
    scenario: str
    losses: tuple[str, ...]
    trials: int
    runs_per_trial: int = 1


@dataclass(frozen=True)
class Trial:
    """The runs of one config outside of the confirm phase and the probe; `number`: the least of its trials."""

    number: int
    runs: tuple[RunRecord, ...]

    @property
    def failed(self) -> bool:
        return any(broke(run) for run in self.runs)

    @property
    def complete(self) -> bool:
        return all(run.state is State.COMPLETE for run in self.runs)


@dataclass(frozen=True)
class StratumResults:
    """Where a stratum stands by an objective.

    `done`: trials whose runs have all ended; `ended`: those of them that completed or failed; `failed`: trials of which
    the first draw diverged, inverted, collapsed, drifted or did not fit into memory; `later`: how many of their other
    draws did, those of the confirm phase included, and of how many; `good`: complete with the objective and without a
    failure; `too_far`: those of them that ended beyond `Objective.drift`, in the confirm phase or before, which is no
    failure of their runs; `allowed`: those that keep all bounds and did not break when they were trained again; `best`:
    the best of these, by the very numbers that are in its own runs; `evidence`: the runs that measure it, those of the
    confirm phase where there are any, else its own.
    """

    stratum: Stratum
    objective: Objective
    records: tuple[RunRecord, ...]
    done: tuple[Trial, ...]
    ended: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    later: tuple[int, int]
    good: tuple[Trial, ...]
    too_far: tuple[Trial, ...]
    allowed: tuple[Trial, ...]
    best: Trial | None
    evidence: tuple[RunRecord, ...]

    @property
    def is_confirmed(self) -> bool:
        """Whether the best was judged on fresh blocks and seeds, by other runs than those that chose it."""
        return any(run.phase == "confirm" for run in self.evidence)


Judges = Mapping[tuple[str, str], Sequence[str]]
"""(variant, condition) -> the runs that judge it, a replicate each; first the one that stands for all of them."""


def standings(
    records: Iterable[RunRecord], objective: Objective, strata: Sequence[Stratum], judges: Judges | None = None
) -> tuple[StratumResults, ...]:
    """Where each stratum stands, in the order of `strata`; records of others, and of a probe, are not looked at.

    Each of its trials is another config, however many the store has of it (see `dashboards.analysis.configs`). The
    order of the records changes nothing, not even the last digit of a sum. `judges`: of a stratum that is all
    replicates of a condition, where each has a best config of its own: these runs are its evidence.
    """
    return standings_of(distinct(records), objective, strata, judges)


def standings_of(
    records: Sequence[RunRecord], objective: Objective, strata: Sequence[Stratum], judges: Judges | None = None
) -> tuple[StratumResults, ...]:
    """The same of records that `distinct` has given."""
    grouped: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r.trial, r.phase, r.block, r.seed, r.run_id)):
        if record.phase != PROBE:
            grouped[record.variant, record.scenario].append(record)
    judging = judges or {}
    return tuple(
        _standing(grouped[s.variant, s.scenario], objective, s, judging.get((s.variant, s.scenario), ()))
        for s in strata
    )


def _standing(
    records: Sequence[RunRecord], objective: Objective, stratum: Stratum, judges: Sequence[str]
) -> StratumResults:
    done = tuple(trial for trial in trials(records) if _is_done(trial, stratum))
    ended = tuple(trial for trial in done if trial.complete or trial.failed)
    firsts = {run.run_id for trial in ended for run in first_draw(trial.runs)}
    other = [run for run in records if run.run_id not in firsts and (run.state is State.COMPLETE or broke(run))]
    whole = [trial for trial in done if trial.complete and not trial.failed]
    good = tuple(trial for trial in whole if all(objective.metric in run.metrics for run in trial.runs))
    again = {trial.number: _again(trial, records) for trial in good}
    too_far = tuple(t for t in good if is_too_far(t.runs, objective) or is_too_far(again[t.number], objective))
    sound = [t for t in good if t not in too_far and not any(map(broke, again[t.number]))]
    allowed = tuple(trial for trial in sound if _keeps(trial, objective))
    best = _best(allowed, objective)
    evidence = () if best is None else again[best.number] or best.runs
    if judges:
        best, evidence = _judged(records, done, objective, judges)
    return StratumResults(
        stratum=stratum,
        objective=objective,
        records=tuple(records),
        done=done,
        ended=ended,
        failed=tuple(trial for trial in ended if any(map(broke, first_draw(trial.runs)))),
        later=(sum(map(broke, other)), len(other)),
        good=good,
        too_far=too_far,
        allowed=allowed,
        best=best,
        evidence=evidence,
    )


def _judged(
    records: Sequence[RunRecord], done: Sequence[Trial], objective: Objective, judges: Sequence[str]
) -> tuple[Trial | None, tuple[RunRecord, ...]]:
    """The config that stands for all replicates, and the runs that judge them; nothing where one of these has no
    objective, or broke at the end where that is what counts, as what the others have is no mean of all.
    """
    by_id = {run.run_id: run for run in records}
    runs = tuple(by_id[run_id] for run_id in judges if run_id in by_id)
    at_end = objective.at_drift is None
    if not runs or any(objective.metric not in run.metrics or (at_end and broke(run)) for run in runs):
        return None, ()
    return next((trial for trial in done if trial.number == runs[0].trial), None), runs


def trials(records: Iterable[RunRecord]) -> list[Trial]:
    """The trials outside of the confirm phase and the probe, by number."""
    runs: dict[int, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.phase not in ("confirm", PROBE):
            runs[record.trial].append(record)
    return [Trial(number, tuple(runs[number])) for number in sorted(runs)]


def _is_done(trial: Trial, stratum: Stratum) -> bool:
    """Whether all runs of the trial have ended, none of them by a failure of the machine, or one failed for good."""
    over = all(run.state in (State.COMPLETE, State.PRUNED) for run in trial.runs)
    return over and (trial.failed or len(trial.runs) >= stratum.runs_per_trial)


def _keeps(trial: Trial, objective: Objective) -> bool:
    """Whether the trial's means keep the objective's bounds; a bound on what was not measured is not kept."""
    for name, bound in objective.constraints.items():
        value = mean_of(trial.runs, name)
        if value is None or value < bound.get("min", value) or value > bound.get("max", value):
            return False
    return True


def _best(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The trial with the best mean objective; of equal ones the first."""
    sign = 1 if objective.direction == "maximize" else -1
    score: Callable[[Trial], float] = lambda t: sign * estimate(t.runs, objective.metric).value  # noqa: E731
    return max(trials, key=score, default=None)


def _again(trial: Trial, records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """The confirm runs of a trial that completed or broke."""
    runs = [r for r in records if r.phase == "confirm" and r.trial == trial.number]
    return tuple(r for r in runs if r.state is State.COMPLETE or broke(r))


def is_too_far(runs: Sequence[RunRecord], objective: Objective) -> bool:
    """Whether runs are on average further from the start than the bound on drift, where that was measured."""
    measured = [run for run in runs if DRIFT in run.metrics]
    return bool(measured) and objective.drift is not None and (mean_of(measured, DRIFT) or 0.0) > objective.drift


def broke(run: RunRecord) -> bool:
    """Whether the run diverged, inverted, collapsed, drifted to samples of another length or did not fit into memory:
    see `studies.records.Failure`.
    """
    return run.failure is not None and run.failure.by_config


def estimate(runs: Sequence[RunRecord], metric: str) -> Estimate:
    """The mean of a metric that all of the runs have, over their blocks."""
    blocks: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        blocks[run.block].append(run.metrics[metric])
    return block_mean(blocks, [run.errors.get(metric) for run in runs])


def mean_of(runs: Sequence[RunRecord], metric: str) -> float | None:
    """The mean of a metric over runs, None where one of them lacks it."""
    values = [run.metrics.get(metric) for run in runs]
    return None if None in values else mean(values)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are known, None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
