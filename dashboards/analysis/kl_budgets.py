"""Strata at each KL budget of the confirm phase: the trial chosen there, judged by its confirm runs; knows no page.

A loss at its own best and a loss held to a small KL are different questions: with one table a budget, ties and
differences are said of policies that moved about as far from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.confirmed import Compared, against_baseline, confirmed_values
from dashboards.analysis.strata import Stratum, mean_of, standings
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from studies.records import RunRecord, Scalar
from studies.spec import Objective


@dataclass(frozen=True)
class AtBudget:
    """A stratum at a KL budget, in nats a sequence.

    `trial` and `knobs`: what was chosen there, None and {} where no trial kept the budget; `value`: of its confirm
    runs over blocks, in `unit`, None where it was not confirmed or one of them failed; `kl`: of the same runs, on
    other blocks than those that chose it and so not always within the budget; `compared`: to the baseline's.
    """

    variant: str
    scenario: str
    budget: float
    trial: int | None
    knobs: Mapping[str, Scalar]
    value: Estimate | None
    unit: str
    kl: float | None
    compared: Compared | None
    run_ids: tuple[str, ...]


def at_budgets(
    records: Sequence[RunRecord],
    objective: Objective,
    strata: Sequence[Stratum],
    budgets: Mapping[str, Sequence[float]],
    scale: Scale,
    baseline: str | None,
) -> tuple[AtBudget, ...]:
    """Every stratum at every budget of its scenario (`budgets`: by scenario), budgets in order and strata in theirs
    within. Holm covers the losses of a scenario at one budget.
    """
    found = []
    for budget in sorted({budget for of_scenario in budgets.values() for budget in of_scenario}):
        asked = [stratum for stratum in strata if budget in budgets.get(stratum.scenario, ())]
        here = standings(records, objective.within_kl(budget), asked)
        compared = against_baseline(here, scale, baseline)
        for standing in here:
            stratum, best = standing.stratum, standing.best
            values = confirmed_values(standing, scale) if best is not None else {}
            speak = standing.speak if values else ()
            found.append(
                AtBudget(
                    variant=stratum.variant,
                    scenario=stratum.scenario,
                    budget=budget,
                    trial=None if best is None else best.number,
                    knobs={} if best is None else best.runs[0].knobs,
                    value=block_mean({block: [value] for block, value in values.items()}) if values else None,
                    unit=scale.unit,
                    kl=mean_of(speak, "kl") if speak else None,
                    compared=compared.get((stratum.variant, stratum.scenario)),
                    run_ids=tuple(run.run_id for run in speak),
                )
            )
    return tuple(found)
