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


def panel_of(
    standings: Sequence[StratumResults], scale: Scale, *, with_nothing: bool = True
) -> dict[str, dict[int, float]]:
    """Variant -> block -> value in the confirm phase, of strata of one scenario; variants without one are left out.

    A loss of which no config keeps the bounds is worth the untrained model, which does: 0 on the others' blocks, where
    the scale starts there and all of its trials have ended. Not so without `with_nothing`: who had nothing to lose
    cannot be said to have lost less.
    """
    panel = {s.stratum.variant: values for s in standings if (values := confirmed_values(s, scale))}
    blocks = sorted({block for values in panel.values() for block in values})
    for s in standings:
        if with_nothing and has_nothing(s) and scale.starts_at_zero:
            panel[s.stratum.variant] = dict.fromkeys(blocks, 0.0)
    return {s.stratum.variant: panel[s.stratum.variant] for s in standings if panel.get(s.stratum.variant)}


def has_nothing(standing: StratumResults) -> bool:
    """Whether all trials of a stratum have ended and none keeps the objective's bounds."""
    return standing.best is None and len(standing.done) >= standing.stratum.trials > 0


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


def _improvement(values: Mapping[int, float], baseline: Mapping[int, float], scale: Scale) -> Estimate:
    """See `dashboards.statistics.compare.improvement`; where every block is a task of its own, over all pairs."""
    here, there = ({block: scale.sign * value for block, value in of.items()} for of in (values, baseline))
    tasks = {block: scale.task(block) if scale.by_task else 0 for block in values}
    return improvement(here, there, tasks)
