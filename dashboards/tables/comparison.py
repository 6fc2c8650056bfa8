"""Records -> the comparison: a row a stratum; knows no stores and no page.

No word stands in it without a number: what was not measured is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dashboards.analysis.configs import distinct
from dashboards.analysis.confirmed import Compared, against_baseline, confirmed_values, unsaid, untold
from dashboards.analysis.kl_budgets import AtBudget, at_budgets
from dashboards.analysis.late_collapse import Falls, falls
from dashboards.analysis.spaces import Edge, Space, edges_of, space_of
from dashboards.analysis.speed import Pace, Paces
from dashboards.analysis.strata import Judges, Stratum, StratumResults, estimate, mean, mean_of, standings_of
from dashboards.analysis.time_to_target import Reach, reaches
from dashboards.controls.expectations import Curves, Finding, findings
from dashboards.guide.verdicts import Verdict
from dashboards.statistics.compare import Difference
from dashboards.statistics.estimates import Estimate, Proportion, clopper_pearson, interquartile_mean
from dashboards.statistics.scale import Scale, scale_of
from dashboards.statistics.stability import Stability, failures
from dashboards.tables.funnels import funnel_notes
from dashboards.tuned.answer import Answer
from dashboards.tuned.losses import Tuned
from studies.records import JUDGE_FACT, WEIGHT_FACT, Failure, RunRecord, Scalar, State
from studies.spec import Expectation, Objective

Basis = Literal["confirmed", "selected"]


@dataclass(frozen=True)
class Quality:
    """The objective of a stratum's best trial.

    `basis`: "confirmed" on fresh blocks and seeds, or "selected" by these very numbers from `trials` trials, and so
    too good on average where they are several.
    """

    trial: int
    estimate: Estimate
    basis: Basis
    trials: int

    @property
    def is_optimistic(self) -> bool:
        """Whether the trial was chosen from several by this very number."""
        return self.basis == "selected" and self.trials > 1


@dataclass(frozen=True)
class Row:
    """One stratum of the comparison.

    `failures`: trials of which the first draw diverged, inverted, collapsed, drifted to another length or did not fit
    into memory, of those that came to an end; `later`: other draws of the same configs that did, and how many there
    are. `stopped`, `lost` and `refused` count runs that a limit, a rung or a user stopped, that the machine lost, and
    that TRL or the data refused; none is held against the loss. `too_far` counts trials that ended further from the
    start than `Objective.drift` lets them, `outside` those that broke a bound of the study's or broke when they were
    trained again: none of them can be best. `mean` is the mean objective over the trials of the unbiased arm, where
    there is one, else over all. `length_baseline`: the share of the best trial's pairs that picking the longer answer
    gets right; `judges`: who gave the runs' gold, where it is not the data's own; `balanced`: the weights of its
    mixture are shares of the gradient. `difference`: the best trial against the baseline's, from confirm runs alone, in
    `unit`; `said`: the words in its place, as where no config keeps the bounds; `unfit`: why its own best is none to
    use; `edges`: knobs of its best at an edge of what was tried; `improvement`: the probability that one of its confirm
    runs beats one of the baseline's; `middle`: the interquartile mean of its confirmed blocks in `unit`, None where it
    is not confirmed. `pace`: how fast a step of the variant is, None where that was not measured. `reach`: how soon its
    confirm runs have 90 % of the baseline's end. `space`: what the unbiased arm says of all configs. `stability`: the
    measured word, None where the limits support none; `guide`: the guide's own words by column. `run_ids` holds, per
    cell, the MLflow runs that it came from; `chosen_by` those that chose the trial that `difference` judges.
    """

    metric: str
    variant: str
    scenario: str
    losses: tuple[str, ...]
    trials_done: int
    trials_planned: int
    failures: Proportion
    later: tuple[int, int]
    stopped: int
    lost: int
    refused: int
    outside: int
    too_far: int
    best: Quality | None
    mean: float | None
    knobs: Mapping[str, Scalar]
    margin: float | None
    kl: float | None
    pace: Pace | None
    reach: Reach | None
    length_baseline: float | None
    judges: tuple[str, ...]
    balanced: bool
    difference: Difference | None
    said: str
    unfit: str
    edges: tuple[Edge, ...]
    improvement: Estimate | None
    middle: float | None
    unit: str
    space: Space | None
    stability: Stability | None
    run_ids: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """The whole table: its rows, the variant that they are compared with (None: with none), the verdicts, the strata
    at each KL budget that was confirmed, what became of the study's controls, and the late collapse of strata that were
    measured along training. `tuned`: the losses of each condition, tuned and judged, and `answers`: what that says.
    `aside`: sentences on recorded runs that are no answer to the study and stand in no row;
    `pairs`: on what became of the rows that were read. `speed`: of its steps, None where it was not measured.
    """

    schema: ClassVar[str] = "table/1"
    rows: tuple[Row, ...]
    baseline: str | None
    verdicts: tuple[Verdict, ...]
    at_kl: tuple[AtBudget, ...] = ()
    controls: tuple[Finding, ...] = ()
    falls: tuple[Falls, ...] = ()
    aside: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    answers: tuple[Answer, ...] = ()
    speed: Paces | None = None


@dataclass(frozen=True)
class Short:
    """What the short table and its answers are made of, see `Comparison`: it asks much less of the runs."""

    tuned: tuple[Tuned, ...]
    answers: tuple[Answer, ...]
    aside: tuple[str, ...]
    speed: Paces | None


@dataclass(frozen=True)
class Grounds:
    """What all of a comparison rests on: the records as statistics count them, where each stratum stands, and what each
    has more than the baseline, by (variant, scenario).
    """

    records: tuple[RunRecord, ...]
    standings: tuple[StratumResults, ...]
    scale: Scale
    compared: Mapping[tuple[str, str], Compared]

    @property
    def differences(self) -> dict[tuple[str, str], Difference]:
        """(variant, scenario) -> the difference alone."""
        return {place: compared.difference for place, compared in self.compared.items()}


def grounds(
    records: Iterable[RunRecord],
    objective: Objective,
    strata: Sequence[Stratum],
    baseline: str | None,
    source: str,
    judges: Judges | None = None,
) -> Grounds:
    """The grounds of `comparison`, which has the same arguments."""
    records = distinct(records)
    found, scale = standings_of(records, objective, strata, judges), scale_of(objective, source)
    return Grounds(records, found, scale, against_baseline(found, scale, baseline))


def comparison(
    records: Iterable[RunRecord],
    objective: Objective,
    strata: Sequence[Stratum],
    *,
    baseline: str | None = None,
    source: str = "",
    kl_budgets: Mapping[str, Sequence[float]] | None = None,
    expectations: Mapping[str, Expectation] | None = None,
    curves: Curves | None = None,
    aside: Sequence[str] = (),
    speed: Paces | None = None,
    judges: Judges | None = None,
    on: Grounds | None = None,
) -> Comparison:
    """One row a stratum, in the order of `strata`, those without a run among them; other records are not shown.

    `source`: where the pairs came from, `DataConfig.path`: the embedded world has a unit of its own. `kl_budgets`: of
    the confirm phase, by scenario. `expectations`: variant -> what must come out of it; `curves` of the runs that must
    equal others. `aside`, `speed`: of `Comparison`. `judges`: of a study with replicates whose strata are conditions,
    see `standings`. `on`: the grounds, where they are known.
    """
    ground = on or grounds(records, objective, strata, baseline, source, judges)
    found, scale, compared = ground.standings, ground.scale, ground.compared
    timed, words = {} if speed is None else speed.of, untold(found, baseline)
    places = [(s.stratum.variant, s.stratum.scenario) for s in found]
    soon = reaches(found, scale, baseline, timed)
    rows = tuple(
        _row(s, objective, compared.get(place), words.get(place, ""), scale, timed.get(place[0]), soon.get(place))
        for s, place in zip(found, places, strict=True)
    )
    controls = findings(found, expectations or {}, scale, curves or {})
    at_kl = at_budgets(ground.records, objective, strata, kl_budgets or {}, scale, baseline)
    fallen = falls(found, scale, scale_of(Objective(metric="gold"), source))
    notes = funnel_notes(ground.records)
    return Comparison(rows, baseline, (), at_kl, controls, fallen, tuple(aside), notes, speed=speed)


def _row(
    found: StratumResults,
    objective: Objective,
    compared: Compared | None,
    said: str,
    scale: Scale,
    pace: Pace | None,
    reach: Reach | None,
) -> Row:
    records, stratum = found.records, found.stratum
    unbiased = [trial for trial in found.good if all(run.phase == "unbiased" for run in trial.runs)] or found.good
    return Row(
        metric=objective.metric,
        variant=stratum.variant,
        scenario=stratum.scenario,
        losses=stratum.losses,
        trials_done=len(found.done),
        trials_planned=stratum.trials,
        failures=clopper_pearson(len(found.failed), len(found.ended)),
        later=found.later,
        stopped=sum(run.state is State.PRUNED and run.failure is None for run in records),
        lost=sum(run.state is State.FAIL and run.failure is not Failure.REFUSED for run in records),
        refused=sum(run.failure is Failure.REFUSED for run in records),
        outside=len(found.good) - len(found.allowed) - len(found.too_far),
        too_far=len(found.too_far),
        best=_quality(found, objective),
        mean=mean([mean_of(trial.runs, objective.metric) for trial in unbiased]),
        knobs={} if found.best is None else found.best.runs[0].knobs,
        margin=mean_of(found.evidence, "margin"),
        kl=mean_of(found.evidence, "kl"),
        pace=pace,
        reach=reach,
        length_baseline=mean_of(found.evidence, "length_baseline"),
        judges=tuple(sorted({r.facts[JUDGE_FACT] for r in records if "gold" in r.metrics and JUDGE_FACT in r.facts})),
        balanced=any(fact.startswith(WEIGHT_FACT) for run in records for fact in run.facts),
        difference=None if compared is None else compared.difference,
        said=said,
        unfit=unsaid(found),
        edges=edges_of(found),
        improvement=None if compared is None else compared.improvement,
        middle=_middle(found, scale),
        unit=scale.unit,
        space=space_of(found, scale),
        stability=failures([run for run in records if run.phase == "unbiased"], scale).word,
        run_ids={
            "best": tuple(run.run_id for run in found.evidence),
            "mean": tuple(run.run_id for trial in unbiased for run in trial.runs),
            "failures": tuple(run.run_id for trial in found.failed for run in trial.runs),
            "difference": () if compared is None else compared.judged_by,
            "chosen_by": () if compared is None else compared.chosen_by,
        },
    )


def _middle(found: StratumResults, scale: Scale) -> float | None:
    """Only of a tuned config: it drops the failing quarter."""
    values = confirmed_values(found, scale)
    return float(interquartile_mean(np.array(list(values.values())))) if values else None


def _quality(found: StratumResults, objective: Objective) -> Quality | None:
    if found.best is None:
        return None
    basis: Basis = "confirmed" if found.is_confirmed else "selected"
    return Quality(found.best.number, estimate(found.evidence, objective.metric), basis, len(found.allowed))
