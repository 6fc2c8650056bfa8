"""P1 to P7 of `studies/results/carry-over/README.md`, decided from records. Pure.

The rules stand there and were committed before the runs; here they are arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from dashboards.analysis.late_collapse import fall_of
from dashboards.statistics.compare import ALPHA, p_above, p_equivalence
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, block_mean, one_sided
from dashboards.statistics.scale import scale_of
from dashboards.tuned.replicates import SHARES, Measured, measure
from studies.records import RunRecord
from studies.records.speed import Speed
from studies.spec import Objective

Word = Literal["held", "failed", "undecided"]

OBJECTIVE = Objective(metric="gold", at_drift=1.0)
SPEED_WITHIN = 0.01
TIMED = frozenset({"apo_down", "discopop", "ipo", "hinge", "bco_pair", "sppo_hard"})
MARGIN, LOWER_BY = 2.0, 5.0  # nats: where P3 is read, and by how much
MUCH = 2.0  # times sigmoid's share, of P5
TAU, FEWEST_SETTINGS = 0.4, 12
CONFIRM = "confirm"

Draws = Mapping[int, float]
"""Draw of the data -> a number."""


@dataclass(frozen=True)
class Outcome:
    """How a prediction came out. `found`: the numbers that it rests on, in words; `n`: of what, and how many."""

    name: str
    word: Word
    found: str
    n: str


# ---- P1 -------------------------------------------------------------------------------------------------------------


def speed(measured: Iterable[Speed]) -> Outcome:
    """Of a loss that was timed in several studies, the last one counts; held only where all were timed."""
    ratios = {name: ratio for one in measured for name, ratio in one.losses.ratios.items()}
    if not ratios:
        return Outcome("P1", "undecided", "nothing was timed", "0 losses")
    low, high = 1.0 - SPEED_WITHIN, 1.0 + SPEED_WITHIN
    inside = ratios.keys() >= TIMED and all(low <= one.low and one.high <= high for one in ratios.values())
    outside = any(one.high < low or one.low > high for one in ratios.values())
    name, worst = max(ratios.items(), key=lambda item: abs(item[1].value - 1.0))
    found = f"furthest from sigmoid's step: {name}, {worst.value:.4f} times it [{worst.low:.4f}, {worst.high:.4f}]"
    return Outcome(
        "P1", "held" if inside else "failed" if outside else "undecided", found, f"{len(ratios)} of {len(TIMED)} losses"
    )


# ---- P2, P3: signs --------------------------------------------------------------------------------------------------


def inverts(records: Iterable[RunRecord]) -> Outcome:
    """The margin of discopop at its end, on all draws that have it at every beta."""
    runs = by_setting(run for run in records if run.variant == "discopop")
    ends = {setting: {draw: run.metrics.get("margin") for draw, run in of.items()} for setting, of in runs.items()}
    draws = _shared(ends.values())
    signs = [[math.copysign(1.0, of[draw] or 0.0) for of in ends.values()] for draw in draws]
    below, above = (sum(set(each) == {sign} for each in signs) for sign in (-1.0, 1.0))
    each = [
        f"at {_beta(runs[setting])} in {sum(v < 0.0 for v in of)}, {_of(of)} nats"
        for setting, of in sorted((s, [_number(of[d]) for d in draws]) for s, of in ends.items())
    ]
    found = f"below 0 at both betas in {below} draws, above in {above}; below {'; '.join(each)}"
    return Outcome("P2", _by_sign(below, above), found, f"{len(draws)} draws")


def _beta(of: Mapping[int, RunRecord]) -> str:
    return f"beta {next(iter(of.values())).knobs['beta']}"


def lowers(records: Iterable[RunRecord]) -> Outcome:
    """How much further apo_down lowers the chosen answers, where both first have the margin."""
    runs = by_variant(records)
    shifts = {
        name: {draw: chosen_at(run, MARGIN) for draw, run in runs.get(name, {}).items()}
        for name in ("sigmoid", "apo_down")
    }
    draws = _shared(shifts.values())
    more = [_number(shifts["sigmoid"][d]) - _number(shifts["apo_down"][d]) for d in draws]
    above, below = sum(m > LOWER_BY for m in more), sum(m < LOWER_BY for m in more)
    found = f"by more than {LOWER_BY:g} nats in {above} draws of {len(draws)}; {_of(more)} at a margin of {MARGIN:g}"
    return Outcome("P3", _by_sign(above, below), found, f"{len(draws)} draws")


def chosen_at(run: RunRecord, margin: float) -> float | None:
    """The log-ratio of the chosen side where the margin is first so large, linear in it from 0 at 0; None where it
    never is.
    """
    chosen = dict(run.curves.get("chosen_shift", ()))
    path = [(0.0, 0.0), *((m, chosen[step]) for step, m in run.curves.get("margin", ()) if step in chosen)]
    for (before, low), (after, high) in pairwise(path):
        if before < margin <= after:
            return low + (high - low) * (margin - before) / (after - before)
    return None


# ---- P4, P5: tuned losses -------------------------------------------------------------------------------------------


def ties(records: Iterable[RunRecord]) -> Outcome:
    """hinge and bco_pair against sigmoid at equal drift, by the runs that judged."""
    names = ("sigmoid", "hinge", "bco_pair")
    judged = {name: _measured(run for run in records if _judges(run, name)) for name in names}
    drift, gains = _furthest(judged)
    draws = _shared(gains.values())
    own = {draw: [gains["sigmoid"][draw]] for draw in draws}
    if len(draws) < FEWEST_BLOCKS:
        return Outcome("P4", "undecided", "too few replicates were judged", f"{len(draws)} replicates")
    mine = block_mean(own)
    gained = mine.low is not None and mine.low > 0.0
    width = mine.value / 3.0
    apart = {name: np.array([gains[name][d] - gains["sigmoid"][d] for d in draws]) for name in names[1:]}
    tied = all(_below(p_equivalence(of, width)) for of in apart.values())
    other = gained and any(_below(p_above(of, width)) or _below(p_above(-of, width)) for of in apart.values())
    told = "; ".join(f"{name} {_of(of.tolist(), '+.3f')} beside it" for name, of in apart.items())
    found = f"at {drift:g} nats sigmoid gains {_shown(mine, '.3f')}, a third of which is the width; {told}"
    word: Word = "held" if gained and tied else "failed" if other else "undecided"
    return Outcome("P4", word, found, f"{len(draws)} replicates")


def forgives(records: Iterable[RunRecord]) -> Outcome:
    """What a setting picked at random keeps of the best setting's gain, against twice that of sigmoid."""
    names = ("sigmoid", "bco_pair", "sppo_hard")
    shares = {name: kept(run for run in records if run.variant == name and run.phase != CONFIRM) for name in names}
    draws = _shared(shares.values())
    if len(draws) < FEWEST_BLOCKS:
        return Outcome("P5", "undecided", "too few draws were tried whole", f"{len(draws)} draws")
    more = {n: {d: [shares[n][d] - MUCH * shares["sigmoid"][d]] for d in draws} for n in names[1:]}
    limits = [one_sided(of) or (-math.inf, math.inf) for of in more.values()]
    word: Word = "undecided"
    if all(low > 0.0 for low, _ in limits):
        word = "held"
    elif any(high < 0.0 for _, high in limits):
        word = "failed"
    kept_by = ", ".join(f"{name} {np.mean([shares[name][d] for d in draws]):.2f}" for name in names)
    over = "; ".join(f"{name} {_of([v for (v,) in of.values()], '+.2f')}" for name, of in more.items())
    return Outcome("P5", word, f"kept of the best: {kept_by}; less twice sigmoid's: {over}", f"{len(draws)} draws")


def kept(runs: Iterable[RunRecord]) -> Draws:
    """Draw -> what a setting picked at random gains at the end, over the best setting's mean over draws; of draws that
    have every setting. Empty where the best gains nothing.
    """
    worth = {
        setting: {draw: one.worth for draw, one in _measured(of.values()).items() if one.worth is not None}
        for setting, of in by_setting(runs).items()
    }
    draws = _shared(worth.values())
    best = max((float(np.mean([of[d] for d in draws])) for of in worth.values()), default=0.0) if draws else 0.0
    if best <= 0.0:
        return {}
    return {draw: float(np.mean([of[draw] for of in worth.values()])) / best for draw in draws}


# ---- P6: trained on and on ------------------------------------------------------------------------------------------


def falls(records: Iterable[RunRecord]) -> Outcome:
    """How much more sigmoid falls from its peak than ipo and hinge."""
    found = {
        name: {draw: fall_of(run, scale_of(OBJECTIVE, "")) for draw, run in of.items()}
        for name, of in by_variant(records).items()
    }
    own = found.get("sigmoid", {})
    words: list[Word] = []
    told, most = [], 0
    for name in ("ipo", "hinge"):
        its = found.get(name, {})
        draws = _shared([own, its])
        more = [_number(own[d]) - _number(its[d]) for d in draws]
        words.append(_by_sign(sum(m > 0.0 for m in more), sum(m < 0.0 for m in more)))
        told.append(f"than {name} in {sum(m > 0.0 for m in more)} draws of {len(draws)}, by {_of(more, '+.3f')}")
        most = max(most, len(draws))
    word: Word = "held" if set(words) == {"held"} else "failed" if "failed" in words else "undecided"
    falling = _of([fall for fall in own.values() if fall is not None], "+.3f")
    return Outcome("P6", word, f"sigmoid falls by {falling}; more {'; '.join(told)}", f"{most} draws")


# ---- P7: ranks ------------------------------------------------------------------------------------------------------


def ranks(here: Iterable[RunRecord], there: Iterable[RunRecord]) -> Outcome:
    """Kendall's tau of the settings' gains at both scales."""
    names = ("sigmoid", "bco_pair", "sppo_hard")
    gains = [
        setting_gains(run for run in records if run.variant in names and run.phase != CONFIRM)
        for records in (here, there)
    ]
    both = sorted(set(gains[0]) & set(gains[1]))
    n = f"{len(both)} settings"
    if len(both) < FEWEST_SETTINGS:
        return Outcome("P7", "undecided", "too few settings get to 1 nat at both scales", n)
    tau = _tau(*([np.mean(list(of[s].values())) for s in both] for of in gains))
    low, high = tau_limits(tau, len(both))
    halves = [_tau(*_halves(of, both)) for of in gains]
    noise = f"between halves of the draws, here {halves[0]:.2f}, there {halves[1]:.2f}"
    word: Word = "held" if tau > TAU and low > 0.0 else "failed" if high < TAU else "undecided"
    return Outcome("P7", word, f"tau {tau:.2f} [{low:.2f}, {high:.2f}]; {noise}", n)


def setting_gains(runs: Iterable[RunRecord]) -> Mapping[tuple[str, int], Draws]:
    """Setting -> draw -> gain at 1 nat, of settings that are read there in at least half of their draws."""
    found = {}
    for setting, of in by_setting(runs).items():
        read = {draw: one.gain for draw, one in _measured(of.values()).items() if one.gain is not None}
        if 2 * len(read) >= len(of):
            found[setting] = read
    return found


def tau_limits(tau: float, n: int) -> tuple[float, float]:
    """95 % limits of Kendall's tau of n pairs by Fisher's z, of variance .437/(n - 4) (Fieller et al. 1957)."""
    z, half = math.atanh(min(max(tau, -0.999), 0.999)), 1.96 * math.sqrt(0.437 / (n - 4))
    return math.tanh(z - half), math.tanh(z + half)


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    return float(stats.kendalltau(one, other).statistic)


def _halves(gains: Mapping[tuple[str, int], Draws], settings: Sequence[tuple[str, int]]) -> list[list[float]]:
    """Each setting's mean over every other draw, and over the rest."""
    each = [[value for _, value in sorted(gains[setting].items())] for setting in settings]
    return [[float(np.mean(of[i::2] or of)) for of in each] for i in (0, 1)]


# ---- runs by what they are, numbers in words ------------------------------------------------------------------------


def by_setting(runs: Iterable[RunRecord]) -> dict[tuple[str, int], dict[int, RunRecord]]:
    """(variant, setting's number) -> draw -> run."""
    found: dict[tuple[str, int], dict[int, RunRecord]] = {}
    for run in runs:
        found.setdefault((run.variant, run.trial), {})[run.block] = run
    return found


def by_variant(runs: Iterable[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    """Variant -> draw -> run, of studies that have one setting each."""
    return {variant: of for (variant, _), of in by_setting(runs).items()}


def _judges(run: RunRecord, variant: str) -> bool:
    return run.variant == variant and run.phase == CONFIRM


def _measured(runs: Iterable[RunRecord]) -> dict[int, Measured]:
    return {run.block: measure(run, OBJECTIVE, scale_of(OBJECTIVE, run.facts.get("source", ""))) for run in runs}


def _furthest(judged: Mapping[str, Mapping[int, Measured]]) -> tuple[float, dict[str, dict[int, float]]]:
    """The largest drift that all judging runs get to, and variant -> draw -> gain there."""
    drifts = [share * _number(OBJECTIVE.at_drift) for share in SHARES]
    runs = [one for of in judged.values() for one in of.values()]
    drift = next((at for at in drifts if all(one.reached >= at for one in runs)), drifts[-1])
    return drift, {name: {d: one.at[drift] for d, one in of.items() if drift in one.at} for name, of in judged.items()}


def _by_sign(above: int, below: int) -> Word:
    """The exact one-sided sign test, both ways."""
    n = above + below
    for_it, against = (n and stats.binomtest(k, n, alternative="greater").pvalue < ALPHA for k in (above, below))
    return "held" if for_it else "failed" if against else "undecided"


def _shared(groups: Iterable[Mapping[int, float | None]]) -> list[int]:
    """Draws that have a number in all groups."""
    known = [{draw for draw, v in of.items() if v is not None and math.isfinite(v)} for of in groups]
    return sorted(set.intersection(*known)) if known else []


def _number(value: float | None) -> float:
    assert value is not None
    return value


def _below(p: float | None) -> bool:
    return p is not None and p < ALPHA


def _of(values: Sequence[float], form: str = ".1f") -> str:
    return _shown(block_mean({i: [v] for i, v in enumerate(values)}), form) if values else "no number"


def _shown(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
