"""Replicates -> what each loss gains once tuned, what it costs, and how it stands beside the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.spaces import RATE, Edge
from dashboards.statistics.compare import Difference, sensitive
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.replicated.best import Best, not_worse_than_best
from dashboards.statistics.replicated.differences import against_baseline
from dashboards.statistics.replicated.stability import Stability, random_setting, stability
from dashboards.statistics.replicated.width import good_rates
from dashboards.statistics.scale import Scale
from dashboards.tuned.edges import edges_of_replicates
from dashboards.tuned.replicates import SHARES, Replicate, Setting
from studies.records import Scalar
from studies.schema.replicates import Cell


@dataclass(frozen=True)
class TunedLoss:
    """A variant in one condition, by the runs that judged what it chose.

    `gain`: over the untrained model, at the objective's drift where it has one; None where that cannot be said, and
    `missing` says why. `short`: in how many of the judged replicates it never came to that drift. `difference`: its
    gain less the baseline's, paired, read at `compared_at` nats (None: at the end of training). `worked`: settings that
    trained to their end and gained something, of `tried`; `broken`: how the others broke. `any_setting`: what a setting
    picked at random gains, 0 where it broke; `stability`: that against the baseline's, and how often they break;
    `good_rates`: decades of learning rate that are good; `edges`: settings whose best lies at an edge of what was
    tried. `drift` (nats a sequence) and `length` (multiples of the
    untrained model's): of the judged runs where they would be stopped. `settings` and `step`: those of the replicate
    whose judged gain is the middle one, `chosen`: its cell and the trial.
    """

    variant: str
    losses: tuple[str, ...]
    gain: Estimate | None
    missing: str
    judged: int
    short: int
    difference: Difference | None
    compared_at: float | None
    worked: int
    tried: int
    broken: Mapping[str, int]
    any_setting: Estimate | None
    stability: Stability | None
    good_rates: Estimate | None
    edges: tuple[Edge, ...]
    drift: float | None
    length: float | None
    settings: Mapping[str, Scalar]
    step: int | None
    chosen: tuple[str, int] | None
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Tuned:
    """All variants of one condition. `best`: who is not shown worse than the best, None where nothing was judged;
    `whole`: replicates of which every variant has all, of `planned`; `settings`: tried by each variant in each of them.
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
) -> Tuned:
    """Compare the variants of a condition. `found`: their replicates; `losses`: of all variants that take part."""
    panel = {name: _gains(found.get(name, ()), drift) for name in losses}
    best = not_worse_than_best({n: of for n, of in panel.items() if of}, scale.tie_within or 0.0)
    differences = _differences(found, panel, scale, baseline, drift)
    stable = stabilities(found, scale, baseline)
    rows = [
        _loss(
            condition,
            name,
            losses[name],
            found.get(name, ()),
            panel[name],
            difference=differences.get(name),
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
        planned,
    )  # fmt: skip


def _gains(replicates: Sequence[Replicate], drift: float | None) -> dict[int, float]:
    """Replicate -> judged gain at a drift, or at the end; {} where one of the judged runs does not get there."""
    judged = {one.number: one.judged for one in replicates if one.judged is not None}
    gains = {number: of.end if drift is None else of.at.get(drift) for number, of in judged.items()}
    known = {number: gain for number, gain in gains.items() if gain is not None}
    return known if len(known) == len(judged) else {}


def _differences(
    found: Mapping[str, Sequence[Replicate]],
    panel: Mapping[str, Mapping[int, float]],
    scale: Scale,
    baseline: str | None,
    drift: float | None,
) -> dict[str, tuple[Difference, float | None]]:
    """Every variant against the baseline, at the largest drift that the judged runs of both get to. Holm's correction
    covers all of them together.
    """
    if baseline is None or baseline not in found:
        return {}
    drifts: Sequence[float | None] = [None] if drift is None else [share * drift for share in SHARES]
    at: dict[str, float | None] = {}
    pairs: dict[str, dict[int, float]] = {}
    for name in panel:
        for place in drifts if name != baseline else ():
            own, zero = _gains(found.get(name, ()), place), _gains(found[baseline], place)
            if own and zero:
                at[name] = place
                pairs[name] = {r: own[r] - zero[r] for r in own.keys() & zero.keys()}
                break
    whole = {name: dict(of) for name, of in pairs.items()}
    zeros = dict.fromkeys((r for of in whole.values() for r in of), 0.0)
    judged = against_baseline({**whole, baseline: zeros}, baseline, scale.tie_within)
    known = {place: _gains(found[baseline], place) for place in drifts}
    gained = {place: block_mean({r: [g] for r, g in of.items()}) for place, of in known.items() if of}
    return {n: (sensitive(of, gained.get(at[n]), scale.tie_within), at[n]) for n, of in judged.items()}


def _loss(
    condition: str,
    name: str,
    losses: tuple[str, ...],
    replicates: Sequence[Replicate],
    gains: Mapping[int, float],
    *,
    difference: tuple[Difference, float | None] | None,
    stable: Stability | None,
    drift: float | None,
) -> TunedLoss:
    judged = [one for one in replicates if one.judged is not None]
    short = [one for one in judged if one.judged and drift is not None and drift not in one.judged.at]
    tried = [setting for one in replicates for setting in one.tried]
    broken = dict(Counter(str(one.measured.broke) for one in tried if one.measured.broke is not None))
    typical = _typical(judged)
    stopped = [one.stopped for one in judged if one.stopped is not None]
    return TunedLoss(
        variant=name,
        losses=losses,
        gain=block_mean({number: [gain] for number, gain in gains.items()}) if gains else None,
        missing=_missing(judged, short, tried, drift),
        judged=len(judged),
        short=len(short),
        difference=None if difference is None else difference[0],
        compared_at=None if difference is None else difference[1],
        worked=sum((one.measured.worth or 0.0) > 0.0 for one in tried),
        tried=len(tried),
        broken=broken,
        any_setting=random_setting(_scores(replicates)),
        stability=stable,
        good_rates=_good_rates(replicates),
        edges=edges_of_replicates(replicates),
        drift=_mean([one.drift for one in stopped]),
        length=_mean([one.length for one in stopped]),
        settings={} if typical is None or typical.chosen is None else typical.chosen.knobs,
        step=None if typical is None or typical.stopped is None else typical.stopped.step,
        chosen=_place(condition, typical),
        run_ids=tuple(one.judged.run_id for one in judged if one.judged),
    )


def _missing(
    judged: Sequence[Replicate], short: Sequence[Replicate], tried: Sequence[Setting], drift: float | None
) -> str:
    """Why there is no gain, "" where there is one or is still to be one."""
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
    assert measured is not None
    return (measured.end if measured.gain is None else measured.gain) or 0.0


def _scores(replicates: Sequence[Replicate], unit: float = 1.0) -> dict[int, dict[int, float]]:
    """Replicate -> setting -> what it is worth, in a unit."""
    return {
        one.number: {s.trial: w / unit for s in one.tried if (w := s.measured.worth) is not None} for one in replicates
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
        n: {o.number: {s.trial: s.measured.broke is not None for s in o.tried} for o in of} for n, of in found.items()
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
