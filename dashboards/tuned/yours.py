"""A model that no run of the study trained, beside the losses: judged on their draws, as it is, and never ranked.

No training of it is known, so there is no path along which it could be read at another drift. What it gains is set
against the baseline read at its own drift, and against each loss as that would be exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.strata import broke
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from dashboards.tuned.replicates import gain_of, measure
from studies.design.elsewhere import Draw
from studies.records import ELSEWHERE, RunRecord
from studies.records.paths import joined, read_at, start_of
from studies.schema.replicates import cell_of
from studies.spec import Objective

Gains = Mapping[Draw, Sequence[float]]
"""What judging runs on a draw gain, as they would be exported."""


@dataclass(frozen=True)
class Judges:
    """The runs that judge the losses of a condition: what each loss gains on each draw, and the baseline's runs."""

    gains: Mapping[str, Gains]
    baseline: Mapping[Draw, Sequence[RunRecord]]


@dataclass(frozen=True)
class Yours:
    """A model from elsewhere in one condition, on `judged` draws of those that judge the losses.

    `content`: digest of what it holds, by which two of one name are told apart. `gain`: over the untrained model, as it
    is; None where a draw has none, and `missing` says why. `drift` (nats a sequence) and `length` (multiples of the
    untrained model's): means. `difference`: what it gains more than the baseline, draw by draw, at its own drift along
    the baseline's training (`at_own_drift`), or at the end of it where the objective names no drift; None where
    `apart` says why. `beside`: loss -> what this model gains more than that loss as it would be exported.
    """

    name: str
    content: str
    judged: int
    gain: Estimate | None
    missing: str
    drift: float | None
    length: float | None
    difference: Estimate | None
    at_own_drift: bool
    apart: str
    beside: Mapping[str, Estimate]
    run_ids: tuple[str, ...]


def yours_in(
    condition: str, records: Iterable[RunRecord], judges: Judges, objective: Objective, scale: Scale
) -> tuple[Yours, ...]:
    """The models from elsewhere in a condition, in the order of their first measurement, a row for each content."""
    found: dict[str, dict[Draw, RunRecord]] = {}
    for run in records:
        if cell_of(run.scenario).condition == condition:
            found.setdefault(run.content[ELSEWHERE], {})[Draw(run.scenario, run.block)] = run
    return tuple(_yours(content, runs, judges, objective, scale) for content, runs in found.items())


def _yours(content: str, runs: Mapping[Draw, RunRecord], judges: Judges, objective: Objective, scale: Scale) -> Yours:
    measured = {draw: measure(run, objective, scale).end for draw, run in runs.items()}
    gains = {draw: gain for draw, gain in measured.items() if gain is not None}
    broken = [run for run in runs.values() if broke(run)]
    whole = len(gains) == len(runs)
    against, apart = _against(gains, runs, judges, objective, scale) if whole else ({}, "")
    return Yours(
        name=next(iter(runs.values())).variant,
        content=content,
        judged=len(runs),
        gain=_over_draws({draw: [gain] for draw, gain in gains.items()}, scale) if whole else None,
        missing="" if whole else _missing(broken, runs),
        drift=_mean(run.metrics.get("kl") for run in runs.values()),
        length=_mean(run.metrics.get("length_ratio") for run in runs.values()),
        difference=_apart(gains, against, scale) if against else None,
        at_own_drift=objective.at_drift is not None,
        apart=apart,
        beside={
            name: _apart(gains, of, scale)
            for name, of in judges.gains.items()
            if whole and gains.keys() <= {draw for draw, values in of.items() if values}
        },
        run_ids=tuple(run.run_id for run in runs.values()),
    )


def _missing(broken: Sequence[RunRecord], runs: Mapping[Draw, RunRecord]) -> str:
    if broken:
        return f"broken in {len(broken)} of {len(runs)} draws: {broken[0].failure}"
    return "its gain is not known"


def _against(
    gains: Mapping[Draw, float],
    runs: Mapping[Draw, RunRecord],
    judges: Judges,
    objective: Objective,
    scale: Scale,
) -> tuple[Gains, str]:
    """What the baseline gains on each draw where the model is, or why that cannot be said."""
    found: dict[Draw, list[float]] = {}
    short = 0
    for draw in gains:
        if not judges.baseline.get(draw):
            return {}, "the baseline is not judged on all of its draws"
        if objective.at_drift is None:
            ends = [measure(run, objective, scale).end for run in judges.baseline[draw]]
        else:
            ends = [_at(run, runs[draw].metrics.get("kl"), objective, scale) for run in judges.baseline[draw]]
        known = [end for end in ends if end is not None]
        short += len(known) < len(ends)
        found[draw] = known
    if short:
        where = "was not evaluated near its drift" if objective.at_drift is not None else "broke"
        return {}, f"the baseline {where} in {short} of {len(gains)} draws"
    return found, ""


def _at(run: RunRecord, drift: float | None, objective: Objective, scale: Scale) -> float | None:
    """What a run gains at a drift along its training; None where it was not evaluated near it."""
    start = start_of(objective.metric, run.facts)
    if start is None or drift is None:
        return None
    if drift <= 0.0:
        return 0.0  # an estimate below 0 is noise about 0, where every training begins
    path = joined(run.curves.get("kl", ()), run.curves.get(objective.metric, ()))
    reading = read_at(path, drift, start)
    return gain_of(reading.value, start, run, scale) if reading is not None and reading.is_near else None


def _apart(gains: Mapping[Draw, float], others: Gains, scale: Scale) -> Estimate:
    return _over_draws({draw: [gain - sum(others[draw]) / len(others[draw])] for draw, gain in gains.items()}, scale)


def _over_draws(values: Gains, scale: Scale) -> Estimate:
    """The mean over draws; draws of one task are none of their own, but for replicates, which have their own."""
    found: dict[tuple[str, int], list[float]] = {}
    for draw, of in values.items():
        own = cell_of(draw.scenario).number is not None
        found.setdefault(draw if own else (draw.scenario, scale.task(draw.block)), []).extend(of)
    return block_mean(dict(enumerate(found.values())))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
