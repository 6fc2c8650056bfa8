"""What a study has to test the guide's claims with, read for each test as numbers by replicate. Knows no verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.late_collapse import fall_of
from dashboards.analysis.speed import Pace
from dashboards.guide.settings import Shared, shared, tried
from dashboards.statistics.scale import Scale
from dashboards.tuned.losses import Tuned, TunedLoss, possible_at
from dashboards.tuned.replicates import SHARES, Replicate, measure
from studies.records import RunRecord
from studies.records.paths import joined
from studies.schema.scenarios import model_of
from studies.schema.types import Scenario
from studies.spec import StudySpec

LEVELS = (0.5, 0.4, 0.3)
"""Shares of held-out pairs that are to have the margin: the first that all judged runs reach."""


@dataclass(frozen=True)
class Evidence:
    """A study with replicates and its records. `scenarios`: its conditions; `tuned`: what each says; `replicates`: by
    (variant, condition); `timed`: variant -> how fast its steps are.
    """

    spec: StudySpec
    records: Sequence[RunRecord]
    scale: Scale
    scenarios: Mapping[str, Scenario]
    tuned: Mapping[str, Tuned]
    replicates: Mapping[tuple[str, str], Sequence[Replicate]]
    timed: Mapping[str, Pace]

    @property
    def baseline(self) -> str:
        return self.spec.baseline or ""

    @property
    def first(self) -> str:
        """The condition that all questions but those about conditions are asked in."""
        return next(iter(self.scenarios))

    def loss(self, variant: str) -> TunedLoss | None:
        """A variant as it was tuned and judged in the first condition."""
        return next((one for one in self.tuned[self.first].losses if one.variant == variant), None)

    def written_by(self, writer: str) -> str:
        """The first condition whose pairs are of that writer."""
        return next(name for name, scenario in self.scenarios.items() if scenario.pairs_from == writer)

    @property
    def own_model(self) -> str:
        """The first condition with the study's own model."""
        return next(name for name, one in self.scenarios.items() if model_of(self.spec, one) == model_of(self.spec))

    @property
    def another_model(self) -> str:
        """The first condition with another model than the study's own."""
        return next(name for name, one in self.scenarios.items() if model_of(self.spec, one) != model_of(self.spec))


def less_fall(evidence: Evidence, variant: str) -> tuple[Shared, Shared]:
    """By how much less than the baseline's a variant's gold falls from its peak, and how far the baseline's falls."""
    its, mine = (tried(evidence.records, name, evidence.first) for name in (evidence.baseline, variant))

    def fall(run: RunRecord) -> float | None:
        return fall_of(run, evidence.scale)

    return shared([(1.0, its), (-1.0, mine)], fall), shared([(1.0, its)], fall)


def more_gain(evidence: Evidence, variant: str) -> tuple[Shared, Shared, float]:
    """What a variant gains more than the baseline at the same settings, what the baseline gains, and at which drift."""
    its, mine = (tried(evidence.records, name, evidence.first) for name in (evidence.baseline, variant))
    drift, more = _furthest(evidence, lambda value: shared([(1.0, mine), (-1.0, its)], value))
    return more, shared([(1.0, its)], _gain_at(evidence, drift)), drift


def less_lost(evidence: Evidence, variant: str, by_rate: Mapping[float, str]) -> tuple[Shared, Shared, float]:
    """How much less than the baseline a variant loses from no flips to the most, by a line through all rates; how much
    the baseline loses, and at which drift. `by_rate`: share of flipped labels -> condition, of two or more.
    """
    rates = sorted(by_rate)
    middle = sum(rates) / len(rates)
    spread = sum((rate - middle) ** 2 for rate in rates)
    weights = {rate: -(rate - middle) / spread * (rates[-1] - rates[0]) for rate in rates}  # of the fall along the line
    runs = {
        (name, rate): tried(evidence.records, name, by_rate[rate])
        for name in (variant, evidence.baseline)
        for rate in rates
    }
    its = [(weights[rate], runs[evidence.baseline, rate]) for rate in rates]
    mine = [(-weights[rate], runs[variant, rate]) for rate in rates]
    drift, less = _furthest(evidence, lambda value: shared([*its, *mine], value))
    return less, shared(its, _gain_at(evidence, drift)), drift


def flip_rates(evidence: Evidence, variant: str) -> dict[float, str]:
    """Share of flipped labels -> the first condition with it that a variant takes part in."""
    found: dict[float, str] = {}
    for name, scenario in evidence.scenarios.items():
        if scenario.variants is None or {variant, evidence.baseline} <= set(scenario.variants):
            found.setdefault(scenario.label_flip or 0.0, name)
    return found


def interaction(
    evidence: Evidence, variant: str, condition: str, other: str
) -> tuple[dict[int, float], dict[int, float], dict[int, float], float]:
    """What a variant, tuned, gains more than the baseline in a condition, less the same in another; the first part of
    that alone; what the baseline gains in the first; and at which drift.
    """
    places = [condition, other]
    drifts = [share * (evidence.spec.objective.at_drift or 0.0) for share in SHARES]
    for drift in drifts:
        panels = {
            (name, place): _judged_at(evidence, name, place, drift)
            for name in (variant, evidence.baseline)
            for place in places
        }
        judged = {key: _judged(evidence.replicates.get(key, ())) for key in panels}
        if drift == drifts[-1] or all(len(panels[key]) == judged[key] for key in panels):
            break
    here, there = (_less(panels[variant, place], panels[evidence.baseline, place]) for place in places)
    return _less(here, there), here, panels[evidence.baseline, condition], drift


def cheaper_margin(evidence: Evidence, variant: str) -> tuple[dict[int, float], float]:
    """Log of the drift that the baseline needs over that which a variant needs, until a share of the held-out pairs has
    the margin; and that share. Of the runs that judged.
    """
    runs = {run.run_id: run for run in evidence.records}
    panels: dict[str, dict[int, float]] = {}
    for level in LEVELS:
        whole = True
        for name in (variant, evidence.baseline):
            judged = [one for one in evidence.replicates.get((name, evidence.first), ()) if one.judged]
            needed = {o.number: drift_of(runs[o.judged.run_id], level) for o in judged if o.judged}
            panels[name] = {number: math.log(kl) for number, kl in needed.items() if kl}
            whole = whole and len(panels[name]) == len(judged)
        if whole:
            break
    return _less(panels[evidence.baseline], panels[variant]), level


def drift_of(run: RunRecord, level: float) -> float | None:
    """The KL at which `margin_share` first is `level` along a training, linear in the root of the KL between
    evaluations; None where it never is.
    """
    root, share = 0.0, 0.0
    for _, kl, value in joined(run.curves.get("kl", ()), run.curves.get("margin_share", ())):
        here = math.sqrt(max(kl, 0.0))
        if value >= level:
            return (root + (level - share) / (value - share) * (here - root)) ** 2
        root, share = here, value
    return None


def signs(evidence: Evidence, variant: str) -> tuple[dict[int, float], int, int]:
    """Replicate -> share of its settings whose held-out margin ends above 0, less the share of those that end below;
    how many of all end below, and of how many.
    """
    runs = tried(evidence.records, variant, evidence.first)
    ends = [margin for run in runs.values() if (margin := run.metrics.get("margin")) is not None]
    return dict(shared([(1.0, runs)], _sign).of), sum(margin < 0.0 for margin in ends), len(ends)


def _sign(run: RunRecord) -> float | None:
    margin = run.metrics.get("margin")
    return None if margin is None else math.copysign(1.0, margin)


def _furthest(
    evidence: Evidence, read: Callable[[Callable[[RunRecord], float | None]], Shared]
) -> tuple[float, Shared]:
    """The largest drift at which no setting is lost that can be read at the smallest, and what is read there."""
    drifts = [share * (evidence.spec.objective.at_drift or 0.0) for share in SHARES]
    found = {drift: read(_gain_at(evidence, drift)) for drift in drifts}
    most = max(one.read for one in found.values())
    return next((drift, found[drift]) for drift in drifts if found[drift].read == most)


def _gain_at(evidence: Evidence, drift: float) -> Callable[[RunRecord], float | None]:
    """What a run gains there, as a share of what is possible there."""
    possible = possible_at(drift, evidence.spec.objective.at_drift, evidence.scale)

    def gain(run: RunRecord) -> float | None:
        found = measure(run, evidence.spec.objective, evidence.scale).at.get(drift)
        return None if found is None else found / possible

    return gain


def _judged(replicates: Sequence[Replicate]) -> int:
    return sum(one.judged is not None for one in replicates)


def _judged_at(evidence: Evidence, variant: str, condition: str, drift: float) -> dict[int, float]:
    possible = possible_at(drift, evidence.spec.objective.at_drift, evidence.scale)
    replicates = evidence.replicates.get((variant, condition), ())
    return {one.number: one.judged.at[drift] / possible for one in replicates if one.judged and drift in one.judged.at}


def _less(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {number: one[number] - other[number] for number in sorted(one.keys() & other.keys())}
