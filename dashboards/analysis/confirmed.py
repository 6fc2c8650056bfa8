"""Standings of strata -> what may be compared: numbers of the confirm phase by block, and who they came from.

Knows which runs chose and which judged: differences and ties come from confirm runs alone, since a number that chose
a trial is too good for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.strata import StratumResults
from dashboards.statistics.compare import Difference, compare, improvement
from dashboards.statistics.estimates import Estimate
from dashboards.statistics.scale import Scale
from studies.spec import Objective


@dataclass(frozen=True)
class Compared:
    """A stratum against the baseline in its scenario: `judged_by`, the confirm runs of both; `chosen_by`, the runs
    whose numbers made the stratum's trial the one to confirm. `improvement`: the probability that a run of it beats one
    of the baseline's on the same task.
    """

    difference: Difference
    improvement: Estimate
    judged_by: tuple[str, ...]
    chosen_by: tuple[str, ...]


def confirmed_values(standing: StratumResults, scale: Scale) -> dict[int, float]:
    """Block -> value of the stratum's best trial in its confirm runs; {} where they do not speak for it."""
    return scale.by_block(standing.speak) if standing.is_confirmed else {}


def panel_of(standings: Sequence[StratumResults], scale: Scale) -> dict[str, dict[int, float]]:
    """Variant -> block -> value in the confirm phase, of strata of one scenario; variants without one are left out.

    Nothing stands in for what was not measured: a loss of which no config keeps the bounds has no value.
    """
    found = {s.stratum.variant: confirmed_values(s, scale) for s in standings}
    return {variant: values for variant, values in found.items() if values}


def unsaid(standing: StratumResults) -> str:
    """Why a stratum has no number, in words for readers; "" where it has one, or where trials are still to come."""
    if standing.best is not None or not 0 < standing.stratum.trials <= len(standing.done):
        return ""
    return f"no config within {_bounds_in_words(standing.objective)} (0 of {len(standing.done)})"


def _bounds_in_words(objective: Objective) -> str:
    """`2 nats` where the KL is all that is bounded, else each bound with its metric."""
    if not objective.constraints:
        return "the bounds of a training that holds"
    if objective.constraints.keys() == {"kl"} and objective.constraints["kl"].keys() == {"max"}:
        return f"{objective.constraints['kl']['max']:g} nats"
    words = {"min": "at least", "max": "at most"}
    limits = [f"{m} {words[end]} {x:g}" for m, of in objective.constraints.items() for end, x in of.items()]
    return f"the bounds ({', '.join(limits)})"


def task_of_blocks(panel: Mapping[str, Mapping[int, float]], scale: Scale) -> dict[int, int]:
    """The task of every block in a panel."""
    return {block: scale.task(block) for of_variant in panel.values() for block in of_variant}


def against_baseline(
    standings: Sequence[StratumResults], scale: Scale, baseline: str | None
) -> dict[tuple[str, str], Compared]:
    """(variant, scenario) -> its difference to the baseline in the same scenario; only strata that were confirmed.

    Holm's correction covers the variants of one scenario.
    """
    found: dict[tuple[str, str], Compared] = {}
    if baseline is None:
        return found
    for scenario in dict.fromkeys(s.stratum.scenario for s in standings):
        here = {s.stratum.variant: s for s in standings if s.stratum.scenario == scenario}
        panel = panel_of(list(here.values()), scale)
        differences = compare(panel, baseline, scale.tie_within, task_of_blocks(panel, scale), scale.sign)
        for name, difference in differences.items():
            judges = (*here[name].speak, *here[baseline].speak)
            best = here[name].best
            found[name, scenario] = Compared(
                difference,
                _improvement(panel[name], panel[baseline], scale),
                judged_by=tuple(run.run_id for run in judges),
                chosen_by=() if best is None else tuple(run.run_id for run in best.runs),
            )
    return found


def untold(standings: Sequence[StratumResults], baseline: str | None) -> dict[tuple[str, str], str]:
    """(variant, scenario) -> the words that stand in the place of a difference, for strata that can have none."""
    bases = {s.stratum.scenario: unsaid(s) for s in standings if s.stratum.variant == baseline}
    found = {}
    for s in standings:
        base = bases.get(s.stratum.scenario, "") if s.stratum.variant != baseline else ""
        found[s.stratum.variant, s.stratum.scenario] = unsaid(s) or (base and f"{baseline}: {base}")
    return {place: words for place, words in found.items() if words}


def _improvement(values: Mapping[int, float], baseline: Mapping[int, float], scale: Scale) -> Estimate:
    """See `dashboards.statistics.compare.improvement`; where every block is a task of its own, over all pairs."""
    here, there = ({block: scale.sign * value for block, value in of.items()} for of in (values, baseline))
    tasks = {block: scale.task(block) if scale.by_task else 0 for block in values}
    return improvement(here, there, tasks)
