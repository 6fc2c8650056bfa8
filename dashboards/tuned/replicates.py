"""Records -> what every replicate of a variant tried, what it chose, and what that was worth when trained again.

A gain is what a run has more than the untrained model, in the scale's unit and better upwards. With
`objective.at_drift` it is read at that drift along the training, else at its end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from dashboards.analysis.configs import distinct
from dashboards.analysis.strata import broke
from dashboards.statistics.scale import Scale
from studies.records import PROBE, Failure, RunRecord, Scalar, State
from studies.records.paths import Reading, furthest, joined, read_at, start_of
from studies.schema.replicates import cell_of
from studies.spec import Objective

SHARES = (1.0, 0.5, 0.25)
"""Of the objective's drift: where losses are read that do not get all the way."""


@dataclass(frozen=True)
class Measured:
    """What one run gains.

    `gain`: None where it was not measured, or never came to the drift; `at`: drift -> gain there, for the objective's
    and smaller ones (`SHARES` of it), where an evaluation is near; `reached`: its largest KL; `end`: at the end of
    training, None where it broke; `reading`: where `gain` was read; `broke`: as what it failed by the end, None where
    it did not.
    """

    run_id: str
    gain: float | None
    at: Mapping[float, float]
    end: float | None
    reading: Reading | None
    broke: Failure | None
    reached: float = 0.0

    @property
    def worth(self) -> float | None:
        """What somebody gets who picks this setting and trains to the end: nothing where it broke or unlearnt. None
        where it was not measured.
        """
        if self.broke is not None:
            return 0.0
        return None if self.end is None else max(self.end, 0.0)


@dataclass(frozen=True)
class Stopped:
    """A judging run as it would be exported: stopped at the step that the tuning draw chose. `drift`: in nats a
    sequence; `length`: of its samples, as a multiple of the untrained model's.
    """

    step: int
    gain: float
    drift: float | None
    length: float | None


@dataclass(frozen=True)
class End:
    """A judging run at its end, where it did not break, or the mean of several: `drift` and `length` as in `Stopped`;
    `gap`: accuracy on training pairs less that on held-out ones.
    """

    drift: float | None
    length: float | None
    gap: float | None


NO_END: Final = End(None, None, None)


@dataclass(frozen=True)
class Setting:
    """One setting that a replicate tried. `trial`: its number; `phase`: of the design."""

    trial: int
    phase: str
    knobs: Mapping[str, Scalar]
    measured: Measured


@dataclass(frozen=True)
class Replicate:
    """One replicate of a variant: what it tried, the setting that it chose, and the run that judged that on fresh
    pairs. `is_whole`: nothing of it is missing; one that found no setting to judge is whole without.
    """

    number: int
    tried: tuple[Setting, ...]
    chosen: Setting | None
    judged: Measured | None
    stopped: Stopped | None
    is_whole: bool
    end: End | None = None


def replicates_of(
    records: Iterable[RunRecord], objective: Objective, scale: Scale, points: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], tuple[Replicate, ...]]:
    """(variant, condition) -> its replicates that have begun, by number. `points`: (variant, cell) -> settings that the
    study tries there; records of others are not looked at.
    """
    grouped: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in sorted(distinct(records), key=lambda r: (r.trial, r.phase, r.seed, r.run_id)):
        if record.phase != PROBE and (record.variant, record.scenario) in points:
            grouped[record.variant, record.scenario].append(record)
    found: dict[tuple[str, str], dict[int, Replicate]] = defaultdict(dict)
    for (variant, scenario), runs in grouped.items():
        cell = cell_of(scenario)
        if cell.number is not None:
            one = _replicate(cell.number, runs, objective, scale, points[variant, scenario])
            found[variant, cell.condition][cell.number] = one
    return {place: tuple(of[number] for number in sorted(of)) for place, of in found.items()}


def measure(run: RunRecord, objective: Objective, scale: Scale) -> Measured:
    """What a run gains by the objective."""
    start, end = start_of(objective.metric, run.facts), run.metrics.get(objective.metric)
    failed = run.failure if broke(run) else None
    if start is None or run.state not in (State.COMPLETE, State.PRUNED):
        return Measured(run.run_id, None, {}, None, None, failed)
    at_end = None if end is None or failed is not None else gain_of(end, start, run, scale)
    if objective.at_drift is None:
        return Measured(run.run_id, at_end, {}, at_end, None, failed)
    path = joined(run.curves.get("kl", ()), run.curves.get(objective.metric, ()))
    read = {share * objective.at_drift: read_at(path, share * objective.at_drift, start) for share in SHARES}
    near = {drift: found for drift, found in read.items() if found is not None and found.is_near}
    gains = {drift: gain_of(found.value, start, run, scale) for drift, found in near.items()}
    whole = objective.at_drift
    return Measured(run.run_id, gains.get(whole), gains, at_end, near.get(whole), failed, furthest(path))


def _replicate(number: int, runs: Sequence[RunRecord], objective: Objective, scale: Scale, points: int) -> Replicate:
    own = [run for run in runs if run.phase != "confirm" and run.state in (State.COMPLETE, State.PRUNED)]
    tried = tuple(Setting(run.trial, run.phase, run.knobs, measure(run, objective, scale)) for run in own)
    complete = {run.trial for run in own if run.state is State.COMPLETE and not broke(run)}
    judges = {run.trial: run for run in runs if run.phase == "confirm" and _ended(run)}
    # What the sweep judged is what it chose: by bounds and a tie-break that are its own.
    judged_ones = [one for one in tried if one.trial in judges and one.measured.broke is None]
    chosen = _chosen(judged_ones or [one for one in tried if one.trial in complete])
    if chosen is None and judged_ones:  # by another judge, who has not seen what was tried
        chosen = judged_ones[0]
    judge = None if chosen is None else judges.get(chosen.trial)
    judged = None if judge is None else measure(judge, objective, scale)
    stopped = None if judge is None or chosen is None else _stopped(judge, chosen, objective, scale)
    is_whole = len(tried) >= points and (chosen is None or judged is not None)
    return Replicate(number, tried, chosen, judged, stopped, is_whole, None if judge is None else _end(judge))


def _chosen(settings: Sequence[Setting]) -> Setting | None:
    """The best of those that get to the drift; where none does, the best at its end. As the sweep chooses."""
    there = [one for one in settings if one.measured.gain is not None]
    at_end = [one for one in settings if one.measured.end is not None]
    if there:
        return max(there, key=lambda one: one.measured.gain or 0.0)
    return max(at_end, key=lambda one: one.measured.end or 0.0, default=None)


def _ended(run: RunRecord) -> bool:
    return run.state is State.COMPLETE or broke(run)


def gain_of(value: float, start: float, run: RunRecord, scale: Scale) -> float:
    """Above the untrained model: in the embedded world above what that is known to be worth in the task, since to
    subtract what a run measured of it would only add noise.
    """
    if scale.unit == "U":
        return scale.in_unit([value], run)[0]
    return scale.sign * (value - start)


def mean_end(replicates: Sequence[Replicate]) -> End:
    """The mean end of their judging runs, of those that have each number."""
    ends = [one.end for one in replicates if one.end is not None]
    columns = zip(*((one.drift, one.length, one.gap) for one in ends), strict=True)
    known = [[value for value in column if value is not None] for column in columns] or [[], [], []]
    return End(*(fmean(values) if values else None for values in known))


def _end(run: RunRecord) -> End | None:
    found = run.metrics
    both = {"train_accuracy", "accuracy"} <= found.keys()
    gap = found["train_accuracy"] - found["accuracy"] if both else None
    return None if broke(run) else End(found.get("kl"), found.get("length_ratio"), gap)


def _stopped(run: RunRecord, chosen: Setting, objective: Objective, scale: Scale) -> Stopped | None:
    """The judging run at the step that the chosen setting would be stopped at: the last, where that never came to the
    drift. None where the run broke before.
    """
    start, values = start_of(objective.metric, run.facts), dict(run.curves.get(objective.metric, ()))
    if objective.at_drift is None or start is None or not values:
        return None
    reading = chosen.measured.reading
    step = max(values) if reading is None else reading.step
    at = {name: dict(points).get(step) for name, points in run.curves.items()}
    value = at.get(objective.metric)
    if value is None or not math.isfinite(value):
        return None
    return Stopped(step, gain_of(value, start, run, scale), at.get("kl"), at.get("length_ratio"))
