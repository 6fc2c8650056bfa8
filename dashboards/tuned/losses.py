"""Replicates -> what each loss gains once tuned, what it costs, and how it stands beside the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from dashboards.analysis.spaces import RATE, Edge
from dashboards.statistics.compare import Difference, sensitive, tied_pairs
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, block_mean
from dashboards.statistics.replicated.best import Best, best_of_pairs
from dashboards.statistics.replicated.differences import against_baseline
from dashboards.statistics.replicated.head_to_head import Met
from dashboards.statistics.replicated.stability import Stability, random_setting, stability
from dashboards.statistics.replicated.width import good_rates
from dashboards.statistics.scale import Scale
from dashboards.tuned.edges import edges_of_replicates
from dashboards.tuned.replicates import NO_END, SHARES, End, Replicate, Setting, mean_end
from dashboards.tuned.samples.contests import WIN_RATES, Contests, Meeting, Opinion, Tax, meeting_of
from dashboards.tuned.yours import Yours
from studies.design.points import FIXED, UNBIASED
from studies.records import Scalar
from studies.schema.replicates import Cell


@dataclass(frozen=True)
class TunedLoss:
    """A variant in one condition, by the runs that judged what it chose.

    `gain`: over the untrained model, at the objective's drift where it has one; None where that cannot be said of all
    judging runs, and `missing` says why. `short`: in how many of the judged replicates it never came to that drift;
    `broke_again`: judging runs that broke by the end of their training. `exported`: the gain of the judging runs where
    they would be stopped, with their `drift` (nats a sequence) and `length` (multiples of the untrained model's; both
    at the end where none is stopped), and `each` of them; `end`: their means at the end. `difference`: its gain less
    the baseline's, paired, read at `compared_at` nats (None: at the end of training); `met`: how often it wins, where
    the two met head to head, of which `difference` is that less one half. `worked`: settings that trained to their end
    and gained something, of `tried`; `broken`: how the others broke. `any_setting`: what a setting picked at random
    gains, 0 where it broke; `stability`: that against the baseline's, and how often they break; `good_rates`: decades
    of learning rate that are good; `edges`: settings whose best lies at an edge of what was tried. `settings`, `step`,
    `chosen` (cell and trial): of the replicate of the middle gain.
    """

    variant: str
    losses: tuple[str, ...]
    gain: Estimate | None
    missing: str
    judged: int
    short: int
    broke_again: int
    difference: Difference | None
    compared_at: float | None
    met: Meeting | None
    worked: int
    tried: int
    broken: Mapping[str, int]
    any_setting: Estimate | None
    stability: Stability | None
    good_rates: Estimate | None
    edges: tuple[Edge, ...]
    exported: Estimate | None
    each: tuple[float, ...]
    drift: float | None
    length: float | None
    settings: Mapping[str, Scalar]
    step: int | None
    chosen: tuple[str, int] | None
    run_ids: tuple[str, ...]
    end: End = NO_END

    @property
    def gained(self) -> Estimate | None:
        """What a user of the loss gets: as exported, where runs are stopped on their way, else at the end."""
        return self.gain if self.exported is None else self.exported


@dataclass(frozen=True)
class Tuned:
    """All variants of one condition. `best`: who is not shown worse than the best, None where nothing was judged;
    `tied`: pairs of losses shown to be as good, by two one-sided tests at 5 %; `tied_within`: for each of these, in
    their order, how far apart the two may be, by the 90 % interval that says the same; `whole`: replicates of which
    every variant has all, of `planned`; `settings`: tried by each variant in each of them; `has_new_pairs`: draws are
    of new pairs, as in the embedded world, and not parts of the same ones. `yours`: models that no run of the study
    trained. `second`: what another judge says, and `tax`: what a check says; `judge`: who judges samples, where
    somebody does.
    """

    condition: str
    baseline: str | None
    losses: tuple[TunedLoss, ...]
    best: Best | None
    unit: str
    metric: str
    drift: float | None
    settings: int
    whole: int
    planned: int
    tied: tuple[tuple[str, str], ...]
    has_new_pairs: bool
    yours: tuple[Yours, ...] = ()
    second: Opinion | None = None
    tax: Tax | None = None
    judge: str | None = None
    tied_within: tuple[float, ...] = ()

    @property
    def is_weak(self) -> bool:
        """Whether what decides looks at no sample: it says little of what a policy is worth."""
        return self.metric == "ranking_gain"

    @property
    def is_rate(self) -> bool:
        """Whether gains are shares of prompts won, less one half."""
        return self.metric in WIN_RATES

    def tie(self, one: str, other: str) -> float:
        """How far apart two losses may be that are shown to be as good."""
        return self.tied_within[self.tied.index((one, other))]

    def are_tied(self, one: str, other: str) -> bool:
        """Whether two losses are shown to be as good."""
        return (one, other) in self.tied


def tuned(
    condition: str,
    found: Mapping[str, Sequence[Replicate]],
    losses: Mapping[str, tuple[str, ...]],
    scale: Scale,
    *,
    baseline: str | None,
    drift: float | None,
    settings: int,
    planned: int,
    contests: Contests | None = None,
) -> Tuned:
    """Compare the variants of a condition. `found`: their replicates; `losses`: of all variants that take part;
    `contests`: where losses meet head to head.
    """
    pairs = {pair: read for pair in permutations(losses, 2) if (read := _apart(found, *pair, drift, scale, contests))}
    wide = {pair: np.array(list(of.more.values())) for pair, of in pairs.items() if len(of.more) >= FEWEST_BLOCKS}
    tied = tied_pairs(wide, scale.tie_within)
    best = best_of_pairs(tuple(losses), wide, scale.tie_within or 0.0)
    differences = _differences(found, pairs, scale, baseline)
    stable = stabilities(found, scale, baseline)
    rows = [
        _loss(
            condition,
            name,
            losses[name],
            found.get(name, ()),
            _gains(found.get(name, ()), drift),
            difference=differences.get(name),
            met=None if baseline is None or (name, baseline) not in pairs else pairs[name, baseline].met,
            stable=stable.get(name),
            drift=drift,
        )
        for name in losses
    ]
    whole = sum(
        all(any(one.number == number and one.is_whole for one in found.get(name, ())) for name in losses)
        for number in range(1, planned + 1)
    )
    judged = any(row.judged for row in rows)
    return Tuned(
        condition, baseline, tuple(rows), best if judged else None, scale.unit, scale.metric, drift, settings, whole,
        planned, tuple(tied), scale.by_task, tied_within=tuple(tied.values()),
    )  # fmt: skip


def _gains(replicates: Sequence[Replicate], drift: float | None) -> dict[int, float]:
    """Replicate -> judged gain at a drift, or at the end; {} where one of the judged runs does not get there, or broke.
    A replicate whose run jumps over the drift, with no evaluation near, is left out.
    """
    judged = {one.number: one.judged for one in replicates if one.judged is not None}
    if drift is None:
        ends = {number: of.end for number, of in judged.items()}
        return {} if None in ends.values() else {n: end for n, end in ends.items() if end is not None}
    if any(of.reached < drift for of in judged.values()):
        return {}
    return {number: of.at[drift] for number, of in judged.items() if drift in of.at}


class Apart(NamedTuple):
    """Replicate -> what one loss gains more than another, the drift that both are read at (None: at the end), and how
    they met, where they did head to head.
    """

    more: Mapping[int, float]
    place: float | None
    met: Meeting | None


def _apart(
    found: Mapping[str, Sequence[Replicate]],
    name: str,
    other: str,
    drift: float | None,
    scale: Scale,
    contests: Contests | None,
) -> Apart | None:
    """Two losses at the largest drift that all judged runs of both get to; None where they share none. At a smaller one
    differences count as shares of what is possible there, so that a tie width means the same. Head to head only where
    all of these replicates can be: else some would be of another kind.
    """
    for place in [None] if drift is None else [share * drift for share in SHARES]:
        own, its = _gains(found.get(name, ()), place), _gains(found.get(other, ()), place)
        shared = sorted(own.keys() & its.keys())
        met = {} if contests is None else meetings(found[name], found[other], shared, place, contests)
        if shared and len(met) == len(shared):
            return Apart({r: scale.sign * (of.rate - 0.5) for r, of in met.items()}, place, meeting_of(met))
        if shared:
            return Apart({r: (own[r] - its[r]) / possible_at(place, drift, scale) for r in shared}, place, None)
    return None


def meetings(
    own: Sequence[Replicate], other: Sequence[Replicate], shared: Sequence[int], place: float | None, contests: Contests
) -> dict[int, Met]:
    """How the judged runs of two losses met, in those of these replicates in which that is known."""
    mine, its = ({r.number: r.judged.run_id for r in of if r.judged is not None} for of in (own, other))
    found = {number: contests.meet(mine[number], its[number], place) for number in shared}
    return {number: met for number, met in found.items() if met is not None}


def possible_at(place: float | None, drift: float | None, scale: Scale) -> float:
    """What is possible at a smaller drift than the objective's, as a share of what is at that: it goes with the root of
    the drift. 1 at the end of training, and in the unit of a metric of which nobody knows what is possible.
    """
    return 1.0 if place is None or drift is None or scale.unit != "U" else math.sqrt(place / drift)


def _differences(
    found: Mapping[str, Sequence[Replicate]],
    pairs: Mapping[tuple[str, str], Apart],
    scale: Scale,
    baseline: str | None,
) -> dict[str, tuple[Difference, float | None]]:
    """Every variant against the baseline. Holm's correction covers all of them together."""
    mine = {name: of for (name, other), of in pairs.items() if other == baseline}
    if baseline is None or not mine:
        return {}
    zeros = dict.fromkeys((r for of in mine.values() for r in of.more), 0.0)
    panel = {**{name: of.more for name, of in mine.items()}, baseline: zeros}
    judged = against_baseline(panel, baseline, scale.tie_within)
    base = {of.place: _gains(found[baseline], of.place) for of in mine.values()}
    gained = {place: block_mean({r: [g] for r, g in of.items()}) for place, of in base.items() if of}
    return {n: (sensitive(of, gained.get(mine[n].place), scale.tie_within), mine[n].place) for n, of in judged.items()}


def _loss(
    condition: str,
    name: str,
    losses: tuple[str, ...],
    replicates: Sequence[Replicate],
    gains: Mapping[int, float],
    *,
    difference: tuple[Difference, float | None] | None,
    met: Meeting | None,
    stable: Stability | None,
    drift: float | None,
) -> TunedLoss:
    judged = [one for one in replicates if one.judged is not None]
    short = [one for one in judged if one.judged and drift is not None and one.judged.reached < drift]
    again = [one for one in judged if one.judged and one.judged.broke is not None]
    tried = [setting for one in replicates for setting in one.tried]
    broken = dict(Counter(str(one.measured.broke) for one in tried if one.measured.broke is not None))
    typical = _typical(judged)
    stopped = {one.number: one.stopped for one in judged if one.stopped is not None}
    end = mean_end(judged)
    exported = [end] if drift is None else list(stopped.values())
    return TunedLoss(
        variant=name,
        losses=losses,
        gain=block_mean({number: [gain] for number, gain in gains.items()}) if gains else None,
        missing=_missing(judged, short, again, tried, drift),
        judged=len(judged),
        short=len(short),
        broke_again=len(again),
        difference=None if difference is None else difference[0],
        compared_at=None if difference is None else difference[1],
        met=met,
        worked=sum((one.measured.worth or 0.0) > 0.0 for one in tried),
        tried=len(tried),
        broken=broken,
        any_setting=random_setting(_scores(replicates)),
        stability=stable,
        good_rates=_good_rates(replicates),
        edges=edges_of_replicates(replicates),
        exported=block_mean({number: [one.gain] for number, one in stopped.items()}) if stopped else None,
        each=tuple(one.gain for one in stopped.values()) if stopped else tuple(gains.values()),
        drift=_mean([one.drift for one in exported]),
        length=_mean([one.length for one in exported]),
        end=end,
        settings={} if typical is None or typical.chosen is None else typical.chosen.knobs,
        step=None if typical is None or typical.stopped is None else typical.stopped.step,
        chosen=_place(condition, typical),
        run_ids=tuple(one.judged.run_id for one in judged if one.judged),
    )


def _missing(
    judged: Sequence[Replicate],
    short: Sequence[Replicate],
    again: Sequence[Replicate],
    tried: Sequence[Setting],
    drift: float | None,
) -> str:
    """Why there is no gain, "" where there is one or is still to be one."""
    if any(drift is None or (one.judged is not None and one.judged.reached < drift) for one in again):
        return f"broke when judged in {len(again)} of {len(judged)} draws"
    if short:
        return f"never gets to {nats(drift)} in {len(short)} of {len(judged)} draws"
    if not judged and tried and all(one.measured.broke is not None for one in tried):
        return f"every setting broke (0 of {len(tried)} worked)"
    return "" if judged else "not judged yet"


def nats(drift: float | None) -> str:
    """A drift in words."""
    return f"{drift:g} nat{'' if drift == 1 else 's'}"


def _typical(judged: Sequence[Replicate]) -> Replicate | None:
    """The replicate whose judged gain is the middle one, the lower of two."""
    known = [one for one in judged if one.judged and (one.judged.gain is not None or one.judged.end is not None)]
    ranked = sorted(known, key=lambda one: (_gain_of(one), one.number))
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def _place(condition: str, typical: Replicate | None) -> tuple[str, int] | None:
    if typical is None or typical.chosen is None:
        return None
    return Cell(condition, typical.number).name, typical.chosen.trial


def _gain_of(replicate: Replicate) -> float:
    measured = replicate.judged
    if replicate.stopped is not None:
        return replicate.stopped.gain
    return 0.0 if measured is None else measured.end or 0.0


def _points(replicate: Replicate) -> dict[int, Setting]:
    """The settings that say something of the whole space, by their place in the sequence that all losses share: those
    that were chosen without a look at results. Fixed points of a variant come before them; alone they count.
    """
    fixed = [one for one in replicate.tried if one.phase == FIXED]
    sampled = {one.trial - len(fixed): one for one in replicate.tried if one.phase == UNBIASED}
    return sampled or {one.trial: one for one in fixed}


def _scores(replicates: Sequence[Replicate], unit: float = 1.0) -> dict[int, dict[int, float]]:
    """Replicate -> setting -> what it is worth, in a unit."""
    return {
        one.number: {n: w / unit for n, s in _points(one).items() if (w := s.measured.worth) is not None}
        for one in replicates
    }


def stabilities(found: Mapping[str, Sequence[Replicate]], scale: Scale, baseline: str | None) -> dict[str, Stability]:
    """Every variant against the baseline, by the settings that both tried. Gains count as shares of what is possible:
    of the oracle's in the embedded world, elsewhere of the best that was judged.
    """
    if baseline is None or baseline not in found:
        return {}
    judged = [one.judged.end for of in found.values() for one in of if one.judged and one.judged.end is not None]
    unit = 1.0 if scale.unit == "U" else max(judged, default=0.0)
    if unit <= 0.0:
        return {}
    scores = {name: _scores(of, unit) for name, of in found.items()}
    broke = {
        name: {one.number: {n: s.measured.broke is not None for n, s in _points(one).items()} for one in of}
        for name, of in found.items()
    }
    return stability(scores, broke, baseline)


def _good_rates(replicates: Sequence[Replicate]) -> Estimate | None:
    """None where the learning rate is not varied."""
    points = {one.number: [point for s in one.tried if (point := _rate_and_worth(s))] for one in replicates}
    rates = [rate for of in points.values() for rate, _ in of]
    if not rates or min(rates) == max(rates):
        return None
    return good_rates({number: of for number, of in points.items() if of}, min(rates), max(rates))


def _rate_and_worth(setting: Setting) -> tuple[float, float] | None:
    rate, worth = setting.knobs.get(RATE), setting.measured.worth
    return (math.log10(rate), worth) if isinstance(rate, float) and rate > 0.0 and worth is not None else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
