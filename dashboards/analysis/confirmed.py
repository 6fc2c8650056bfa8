"""Standings of strata -> what may be compared: numbers of the confirm phase by block, and who they came from.

Knows which runs chose and which judged: differences and ties come from confirm runs alone, since a number that chose
a trial is too good for it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.strata import DRIFT, StratumResults, broke, is_too_far, mean_of
from dashboards.statistics.compare import Difference, compare, improvement, sensitive
from dashboards.statistics.estimates import Estimate, block_mean, one_sided
from dashboards.statistics.scale import Scale
from studies.records import RunRecord, State
from studies.spec import Objective
from studies.text.plural import so_many


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
    return scale.by_block(standing.evidence) if standing.is_confirmed else {}


def panel_of(standings: Sequence[StratumResults], scale: Scale) -> dict[str, dict[int, float]]:
    """Variant -> block -> value in the confirm phase, of strata of one scenario; variants without one are left out.

    Nothing stands in for what was not measured: a loss of which no config keeps the bounds has no value. Nor has one
    whose confirm runs are not shown to keep them: it would be compared with losses that stayed nearer to the start.
    """
    found = {s.stratum.variant: confirmed_values(s, scale) for s in standings if not broken_bound(s)}
    return {variant: values for variant, values in found.items() if values}


def unsaid(standing: StratumResults) -> str:
    """Why a stratum has no number to compare, in words for readers; "" where it has one or is still to get one."""
    if not standing.is_confirmed and (fell := _fell(standing)):
        return fell
    if standing.best is not None:
        return broken_bound(standing)
    if not 0 < standing.stratum.trials <= len(standing.done):
        return ""
    objective, of = standing.objective, f"(0 of {len(standing.done)})"
    return (
        f"no config within {_bounds_in_words(objective)} {of}"
        if objective.constraints
        else f"no config fit to use {of}"
    )


def _fell(standing: StratumResults) -> str:
    """How the configs broke that were trained again, "" where none did."""
    again = [run for run in standing.records if run.phase == "confirm" and (run.state is State.COMPLETE or broke(run))]
    kinds = Counter(str(run.failure) for run in again if broke(run))
    if kinds:
        return f"broke when retested ({kinds.total()} of {so_many(len(again), 'run')}: {', '.join(kinds)})"
    for trial in standing.too_far:
        of_trial = [run for run in again if run.trial == trial.number]
        if is_too_far(of_trial, standing.objective):
            return f"went too far when retested ({mean_of(of_trial, DRIFT):.2f} nats a token from the start)"
    return ""


def about(variant: str, words: str) -> str:
    """Words of `unsaid` as a sentence about the variant."""
    verb = {"no": "has ", "not": "is "}.get(words.partition(" ")[0], "")
    return f"{variant} {verb}{words}"


def broken_bound(standing: StratumResults) -> str:
    """Which bound of the objective the confirm runs broke, or are not shown to keep, with what they came to; "" where
    the one-sided 95 % limits of all means keep them.

    The runs that chose kept them, or their config would not have been chosen; which says little of the next draw. Below
    three blocks there are no limits, and the means themselves must keep the bounds.
    """
    if standing.is_confirmed:
        for metric, bound in standing.objective.constraints.items():
            broken = _broken(standing.evidence, metric, bound)
            if broken:
                return broken
    return ""


def _broken(runs: Sequence[RunRecord], metric: str, bound: Mapping[str, float]) -> str:
    name, blocks = {"kl": "KL"}.get(metric, metric), defaultdict[int, list[float]](list)
    for run in runs:
        blocks[run.block].append(run.metrics.get(metric, math.nan))
    value = block_mean(blocks).value
    if math.isnan(value):
        return f"not shown to keep the bound when retested ({name} was not measured)"
    low, high = one_sided(blocks) or (value, value)
    for end, limit, beyond, at in (("max", high, 1, "at most"), ("min", low, -1, "at least")):
        if end in bound and beyond * value > beyond * bound[end]:
            return f"broke the bound when retested ({name} {_short(value)}, {at} {bound[end]:g})"
        if end in bound and beyond * limit > beyond * bound[end]:
            to = f"{'up' if beyond > 0 else 'down'} to {_short(limit)}"
            return f"not shown to keep the bound when retested ({name} {_short(value)}, {to}, {at} {bound[end]:g})"
    return ""


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _bounds_in_words(objective: Objective) -> str:
    """`2 nats` where the KL is all that is bounded, else each bound with its metric."""
    if objective.constraints.keys() == {"kl"} and objective.constraints["kl"].keys() == {"max"}:
        return f"{objective.constraints['kl']['max']:g} nats"
    words = {"min": "at least", "max": "at most"}
    limits = [f"{m} {words[end]} {x:g}" for m, of in objective.constraints.items() for end, x in of.items()]
    return f"the bounds ({', '.join(limits)})"


def task_of_blocks(panel: Mapping[str, Mapping[int, float]], scale: Scale) -> dict[int, int]:
    """The task of every block in a panel."""
    return {block: scale.task(block) for of_variant in panel.values() for block in of_variant}


def differences_of(
    panel: Mapping[str, Mapping[int, float]], baseline: str, scale: Scale, standings: Sequence[StratumResults]
) -> dict[str, Difference]:
    """Every variant of a panel against `baseline`; a tie only where its own gain is seen, in its strata among
    `standings`.
    """
    gain = _gain([s for s in standings if s.stratum.variant == baseline], scale)
    found = compare(panel, baseline, scale.tie_within, task_of_blocks(panel, scale), scale.sign)
    return {name: sensitive(difference, gain, scale.tie_within) for name, difference in found.items()}


def _gain(standings: Sequence[StratumResults], scale: Scale) -> Estimate | None:
    """What confirm runs gain over the untrained model, over blocks; None where that was not measured."""
    blocks = defaultdict[int, list[float]](list)
    for run in (run for s in standings if s.is_confirmed for run in s.evidence):
        gain = scale.gain(run)
        if gain is None:
            return None
        blocks[run.block].append(gain)
    return block_mean(blocks) if blocks else None


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
        differences = differences_of(panel, baseline, scale, list(here.values()))
        for name, difference in differences.items():
            judges = (*here[name].evidence, *here[baseline].evidence)
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
        found[s.stratum.variant, s.stratum.scenario] = unsaid(s) or (base and about(str(baseline), base))
    return {place: words for place, words in found.items() if words}


def _improvement(values: Mapping[int, float], baseline: Mapping[int, float], scale: Scale) -> Estimate:
    """See `dashboards.statistics.compare.improvement`; where every block is a task of its own, over all pairs."""
    here, there = ({block: scale.sign * value for block, value in of.items()} for of in (values, baseline))
    tasks = {block: scale.task(block) if scale.by_task else 0 for block in values}
    return improvement(here, there, tasks)
