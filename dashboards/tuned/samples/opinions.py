"""What judges say of tuned losses: how they were set head to head, a second judge, and a check; in words too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dashboards.statistics.compare import ALPHA, POWER, holm_adjusted, p_above
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.power import tie_power
from dashboards.statistics.replicated.differences import against_baseline
from dashboards.tuned.amounts import amount
from dashboards.tuned.losses import Tuned, meetings, nats
from dashboards.tuned.replicates import Replicate
from dashboards.tuned.samples.contests import CONTROLLED, MOST_COST, Contests, Cost, Opinion, Tax, as_rate, meeting_of
from studies.records import Measurer

WON = "vs untrained"  # the column in the place of a gain, where that is a win rate
SECOND, CHECK = "2nd judge", "Check"
LESS = "*"  # at a difference that is read at a smaller drift
_TWO_SIDED = 1.96


def rate_notes(found: Tuned) -> list[str]:
    """What the columns of a win rate mean."""
    level = ", at equal length" if found.metric == CONTROLLED else ""
    won = f"{WON}: how often they beat the untrained model's{level}, ties a half; 50% is no gain."
    met = [loss.met for loss in found.losses if loss.met is not None]
    if not met:
        compared = any(loss.difference is not None for loss in found.losses)
        return [*([f"vs {found.baseline}: {_apart(found)}{both_at(found)}."] if compared else []), won]
    apart = [loss.variant for loss in found.losses if loss.met is None and loss.difference is not None]
    at = both_at(found)
    by = f", by {found.judge.removeprefix('pairwise ').removeprefix('function ')}" if found.judge else ""
    errors = [one.within for one in met if one.within is not None]
    alone = f", whose luck alone is ±{100 * _TWO_SIDED * max(errors):.0f} points" if errors else ""
    prompts = f"{min(one.prompts for one in met):.0f}"
    lines = [
        f"vs {found.baseline}: how often its samples beat {found.baseline}'s under the same prompts{by}{level}{at}, "
        f"ties a half; 50% is no difference. [a, b]: 95% interval over replicates, each of {prompts} prompts{alone}.",
        *([f"But of {_list(apart)}: {_apart(found)}."] if apart else []),
        won,
    ]
    doubted = [one.contradicted for one in met if one.contradicted is not None]
    if doubted:
        lines.append(
            "Asked in both orders, the judge contradicted itself at up to "
            f"{100 * max(doubted):.0f} of 100 prompts, which count as ties."
        )
    return lines


_MOST_REPLICATES, _MOST_TIMES = 24, 64


def would_take(found: Tuned, tie_within: float | None) -> str:
    """What it would take to tell losses apart by a win rate, from the spread over replicates and how much of it is the
    luck of the prompts: s^2 = between^2 + within^2, of which k times the prompts leave within^2 / k. "" where that is
    not known, or little.
    """
    met = [loss.met for loss in found.losses if loss.met is not None and loss.variant != found.baseline]
    spreads = sorted(of.spread for loss in found.losses if (of := loss.difference) is not None and of.spread)
    if tie_within is None or not spreads or any(one.within is None for one in met) or not met:
        return ""
    spread, within = spreads[len(spreads) // 2], max(one.within or 0.0 for one in met)
    between = max(spread**2 - within**2, 0.0)
    prompts = min(one.prompts for one in met)
    for times in (1, 2, 4, 8, 16, 32, _MOST_TIMES):
        left = math.sqrt(between + within**2 / times)
        enough = (n for n in range(3, _MOST_REPLICATES + 1) if tie_power(n, left, tie_within) >= POWER)
        if (replicates := next(enough, None)) is not None:
            return (
                f"To tell losses within {amount(found, tie_within)} apart would take about {replicates} replicates of "
                f"{prompts * times:.0f} prompts (here {found.planned} of {prompts:.0f}): more of data.eval_rows and "
                "evaluate.prompts."
            )
    return (
        f"To tell losses within {amount(found, tie_within)} apart would take more than {_MOST_REPLICATES} replicates, "
        f"however many the prompts: draws differ by {100 * math.sqrt(between):.0f} points."
    )


def _apart(found: Tuned) -> str:
    return (
        f"the win rate against the untrained model less {found.baseline}'s, in points, as their samples were not set "
        "head to head"
    )


def both_at(found: Tuned) -> str:
    """Where differences are read, "" at the end of training; and what stands at those read at a smaller drift."""
    if not found.drift:
        return ""
    smaller = sorted({loss.compared_at for loss in found.losses if loss.compared_at not in (None, found.drift)})
    less = f" ({LESS} at {' or '.join(f'{one:g}' for one in smaller)}, which all runs of both reach)" if smaller else ""
    return f", both at a drift of {nats(found.drift)}{less}"


def weakness(found: Tuned) -> list[str]:
    """Why no loss is named by a measure that looks at no sample, and what would name one."""
    looks = f"{found.metric} looks at pairs that others wrote and at nothing that these policies write"
    if found.judge is not None:
        return [
            f"Weak: {looks}, so no loss is named. Let {found.judge} decide, which has seen their samples: "
            "--set objective.metric=lc_win_rate."
        ]
    return [
        f"Weak: no samples were judged, so no loss is named: {looks}. To name one, let a judge see the samples that "
        "the judging runs keep, which trains nothing: `sweeper evaluate STUDY --judge-function my_judge:score`."
    ]


# ---- a second judge -----------------------------------------------------------------------------------------------


def second_opinion(
    found: Tuned, replicates: Mapping[str, Sequence[Replicate]], contests: Contests, tie_within: float | None
) -> Opinion | None:
    """What another judge says of the samples by which the losses met the baseline; None where it saw none of them."""
    base = replicates.get(found.baseline or "", ())
    met = {}
    for loss in found.losses:
        own = replicates.get(loss.variant, ())
        if found.drift is not None and loss.compared_at is None:  # never set beside the baseline: the end is no place
            continue
        judged = ({one.number for one in of if one.judged is not None} for of in (own, base))
        shared = sorted(set.intersection(*judged))
        if loss.variant != found.baseline and (of := meetings(own, base, shared, loss.compared_at, contests)):
            met[loss.variant] = of
    if found.baseline is None or not met:
        return None
    panel = {name: {number: one.rate - 0.5 for number, one in of.items()} for name, of in met.items()}
    zeros = dict.fromkeys((number for of in panel.values() for number in of), 0.0)
    differences = against_baseline({**panel, found.baseline: zeros}, found.baseline, tie_within)
    return Opinion(_short(contests.judge), {name: meeting_of(of) for name, of in met.items()}, differences)


def _short(judge: Measurer) -> str:
    """A judge as a sentence names it: a function by its place alone."""
    return str(judge.judge).removeprefix("pairwise ").removeprefix("function ")


def parted(found: Tuned) -> tuple[str, ...]:
    """The losses that one judge puts above the baseline and the other below it."""
    if found.second is None:
        return ()
    firsts = {loss.variant: loss.difference.estimate.value for loss in found.losses if loss.difference is not None}
    seconds = {name: of.estimate.value for name, of in found.second.differences.items()}
    return tuple(name for name in firsts if name in seconds and firsts[name] * seconds[name] < 0.0)


def _order(found: Tuned, values: Mapping[str, float]) -> list[str]:
    return sorted([*values, str(found.baseline)], key=lambda name: -values.get(name, 0.0))


# ---- a check ------------------------------------------------------------------------------------------------------


def tax_of(found: Tuned, replicates: Mapping[str, Sequence[Replicate]], contests: Contests) -> Tax | None:
    """What each loss costs of a check, where it is compared: the baseline at the largest drift that a loss meets it
    at, the end of training where the study names no drift. A loss that is compared nowhere is not looked at.
    """
    costs: dict[str, dict[int, float]] = {}
    places = {loss.variant: loss.compared_at for loss in found.losses if found.baseline not in (None, loss.variant)}
    shared = max((place for place in places.values() if place is not None), default=found.drift)
    for loss in found.losses:
        place = places.get(loss.variant, shared)
        if found.drift is not None and place is None:
            continue
        runs = {one.number: one.judged.run_id for one in replicates.get(loss.variant, ()) if one.judged is not None}
        known = {n: cost for n, run_id in runs.items() if (cost := contests.cost(run_id, place)) is not None}
        costs |= {loss.variant: known} if known else {}
    if not costs:
        return None
    arrays = {name: np.array(list(of.values())) for name, of in costs.items()}
    ps = {name: p for name, of in arrays.items() if (p := p_above(of, MOST_COST)) is not None}
    more = dict(zip(ps, holm_adjusted(list(ps.values())), strict=True))
    less = {name: p_above(-of, -MOST_COST) for name, of in arrays.items()}
    words = {name: _cost(more.get(name), less[name]) for name in costs}
    return Tax(
        _short(contests.judge),
        {name: block_mean({number: [cost] for number, cost in of.items()}) for name, of in costs.items()},
        words,
    )


def _cost(more: float | None, less: float | None) -> Cost:
    if more is not None and more < ALPHA:
        return "costs more"
    return "costs no more" if less is not None and less < ALPHA else "not told"


# ---- in words -----------------------------------------------------------------------------------------------------


def said_by_others(found: Tuned, use: str | None) -> list[str]:
    """Whether the second judge agrees, and what is lost of the check; `use`: the loss that is named."""
    return [*_said_by_second(found, use), *_said_by_check(found)]


def _said_by_second(found: Tuned, use: str | None) -> list[str]:
    second, apart = found.second, parted(found)
    firsts = {loss.variant: loss.difference.estimate.value for loss in found.losses if loss.difference is not None}
    if second is None or not firsts or found.is_weak:  # which no judge orders
        return []
    values = {name: of.estimate.value for name, of in second.differences.items() if name in firsts}
    order, its = _order(found, {name: firsts[name] for name in values}), _order(found, values)
    if order == its:
        return [f"The second judge ({second.judge}) puts the losses in the same order."]
    if not any(_is_shown(found, second, name) for name in values):
        return [f"The second judge ({second.judge}) orders them {', '.join(its)}; neither judge shows a difference."]
    said = [f"The judges part: by the second ({second.judge}) the order is {', '.join(its)}."]
    said += [_parting(found, second, name) for name in apart]
    lead = None if use is None or use == found.baseline else second.differences.get(use)
    if lead is not None and lead.word != "better":
        said.append(f"So the lead of {use} rests on the first judge alone.")
    return said


def _is_shown(found: Tuned, second: Opinion, name: str) -> bool:
    """Whether one of the two judges shows the loss better or worse than the baseline."""
    first = next(loss.difference for loss in found.losses if loss.variant == name)
    return any(of is not None and of.word in ("better", "worse") for of in (first, second.differences.get(name)))


def _parting(found: Tuned, second: Opinion, name: str) -> str:
    first = next(loss.difference for loss in found.losses if loss.variant == name)
    words = {of.word for of in (first, second.differences[name]) if of is not None}
    shown = {"better", "worse"} <= words
    against = f"{_percent(as_rate(first.estimate))} by the first" if first is not None and found.is_rate else ""
    against = against or "the other way by the first"
    how = "each is shown" if shown else "one of the two is shown" if words & {"better", "worse"} else "neither is shown"
    return f"{name} against {found.baseline}: {against}, {_percent(second.met[name].rate)} by the second; {how}."


def _said_by_check(found: Tuned) -> list[str]:
    tax = found.tax
    if tax is None:
        return []
    points = f"{100 * MOST_COST:g} points"
    dear = [f"{name} ({_points(tax.costs[name])})" for name, word in tax.words.items() if word == "costs more"]
    told = [name for name, word in tax.words.items() if word == "costs no more"]
    if dear:
        return [f"{_list(dear)} {'cost' if len(dear) > 1 else 'costs'} more than {points} of {tax.check}."]
    if len(told) == len(found.losses):
        return [f"No loss costs more than {points} of {tax.check}."]
    return [f"That a loss costs more than {points} of {tax.check} is not shown, nor that none does."]


def opinion_notes(found: Tuned) -> list[str]:
    """What the columns of a second judge and of a check mean."""
    notes = []
    if found.second is not None:
        notes.append(f"{SECOND}: vs {found.baseline}, by {found.second.judge}, which chose nothing.")
    if found.tax is not None:
        notes.append(f"{CHECK}: points of {found.tax.check} above the untrained model; below 0 is what the loss costs.")
    return notes


def opinion_cells(found: Tuned, name: str) -> list[str]:
    """The cells of a loss under `opinion_columns`."""
    cells = []
    if found.second is not None:
        cells.append(_percent(found.second.met[name].rate) if name in found.second.met else "-")
    if found.tax is not None:
        cells.append(_points(_turned(found.tax.costs[name])) if name in found.tax.costs else "-")
    return cells


def opinion_columns(found: Tuned) -> list[str]:
    """The columns that a second judge and a check add."""
    return [*([SECOND] if found.second is not None else []), *([CHECK] if found.tax is not None else [])]


def _turned(cost: Estimate) -> Estimate:
    low, high = (None if limit is None else -limit for limit in (cost.high, cost.low))
    return Estimate(-cost.value, cost.blocks, low, high, cost.error)


def _percent(rate: Estimate) -> str:
    limits = "" if rate.low is None or rate.high is None else f" [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
    return f"{100 * rate.value:.0f}%{limits}"


def _points(value: Estimate) -> str:
    limits = "" if value.low is None or value.high is None else f" [{100 * value.low:.0f}, {100 * value.high:.0f}]"
    return f"{100 * value.value:+.0f}{limits}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
