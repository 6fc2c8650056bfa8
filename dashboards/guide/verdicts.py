"""The guide's claims -> a verdict on each that a study was designed for, from its own runs; knows no store and no page.

A verdict is one of: supported, refuted, tie, inconclusive, not testable here. Each claim has one test over replicates,
at 5 %; a claim of difference that turns out to be a tie is called that, where what the tie is about is itself seen.
What stays open is said with how many replicates would decide it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dashboards.analysis.speed import SAME, Pace, said
from dashboards.guide.evidence import (
    Evidence,
    cheaper_margin,
    flip_rates,
    interaction,
    less_fall,
    less_lost,
    more_gain,
    signs,
)
from dashboards.statistics.compare import ALPHA, NO_GAIN, SEEN, judged, p_above
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, Proportion, block_mean, clopper_pearson
from dashboards.statistics.power import POWER, tie_power
from dashboards.statistics.replicated.breaks import mcnemar
from dashboards.statistics.replicated.stability import BREAKS_WITHIN, MARGIN, Stability
from dashboards.tuned.losses import nats, stabilities
from studies.losses import guide
from studies.losses.guide import BY_ID, CLAIMS, Claim
from studies.text.plural import so_many

Ruling = Literal["supported", "refuted", "tie", "inconclusive", "not testable here"]

_SAME_DRIFT = math.log(1.1)  # drifts that differ by less than a tenth are the same
_MOST_REPLICATES = 200


@dataclass(frozen=True)
class Verdict:
    """What a study says of a claim, and why in plain words.

    `effect`: the difference that was judged, in `unit`, in the direction of the claim; `failures`: of the loss's
    settings or replicates, where the claim is about them.
    """

    claim: Claim
    ruling: Ruling
    because: str
    effect: Estimate | None = None
    unit: str = ""
    failures: Proportion | None = None
    run_ids: tuple[str, ...] = ()


def verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """A verdict on every claim that the study names, in the guide's order."""
    return tuple(_judge(BY_ID[claim.id], evidence) for claim in CLAIMS if claim.id in evidence.spec.claims)


def untested() -> tuple[Verdict, ...]:
    """The claims that no study can test, each with what is known of it."""
    return tuple(Verdict(claim, "not testable here", claim.reason) for claim in CLAIMS if claim.test is None)


def _judge(claim: Claim, evidence: Evidence) -> Verdict:
    match claim.test:
        case None:
            return Verdict(claim, "not testable here", claim.reason)
        case guide.Pace(slower):
            return _pace(claim, slower, evidence.timed.get(claim.loss), evidence.baseline)
        case guide.Forgives(word):
            return _forgives(claim, word, evidence)
        case guide.AmongBest():
            return _among_best(claim, evidence)
        case guide.FallsLess():
            return _falls_less(claim, evidence)
        case guide.LosesLess():
            return _loses_less(claim, evidence)
        case guide.Gains():
            return _gains(claim, evidence)
        case guide.TellsApart():
            return _tells_apart(claim, evidence)
        case guide.LessDrift():
            return _less_drift(claim, evidence)
        case guide.Matches(writer) as test:
            here, there = (evidence.written_by(one) for one in (writer, test.other))
            return _does_better(claim, evidence, here, there, "with its own writer")
        case guide.SuitsAnother():
            here, there = evidence.another_model, evidence.own_model
            return _does_better(claim, evidence, here, there, f"on {here}")
        case guide.Learns():
            return _learns(claim, evidence)


# ---- from numbers by replicate to a verdict -----------------------------------------------------------------------


def _compared(
    claim: Claim, by_replicate: Mapping[int, float], within: float | None, unit: str, own: Estimate | None, least: float
) -> Verdict:
    """Of a difference that the claim says is above 0. `own`: what the tie is about, which is only said where the lower
    limit of that is above `least`.
    """
    if len(by_replicate) < FEWEST_BLOCKS:
        because = f"{so_many(len(by_replicate), 'replicate')} to compare by, and {FEWEST_BLOCKS} are the fewest"
        return Verdict(claim, "inconclusive", because)
    difference = judged({claim.id: by_replicate}, within)[claim.id]
    n = difference.estimate.blocks
    ruling: Ruling = "inconclusive"
    because = f"{so_many(n, 'replicate')}, paired t test, p {difference.p:.2g}"
    match difference.word:
        case "better":
            ruling = "supported"
        case "worse":
            ruling, because = "refuted", f"the opposite is shown ({because})"
        case "tie" if own is None or own.low is None or own.low <= least:
            because = f"the two differ by less than matters, but there is nothing to compare: {NO_GAIN.split(': ')[1]}"
        case "tie":
            ruling = "tie"
            because = f"shown to differ by less than matters ({so_many(n, 'replicate')}, TOST p {difference.p_tie:.2g})"
        case "inconclusive":
            because = f"{because}; {_sizes(list(by_replicate.values()), within)}"
    return Verdict(claim, ruling, because, difference.estimate, unit)


def _sizes(values: Sequence[float], within: float | None) -> str:
    """How many replicates would decide what these do not."""
    spread, mean = float(np.std(values, ddof=1)), abs(float(np.mean(values)))
    numbers = range(FEWEST_BLOCKS, _MOST_REPLICATES + 1)
    tie = None if within is None else next((n for n in numbers if tie_power(n, spread, within) >= POWER), None)
    shown = math.ceil(7.85 * (spread / mean) ** 2) + 2 if mean else None  # (1.96 + 0.84)^2, and 2 for the t test
    said = [f"a difference of this size takes {shown} replicates"] if shown and shown <= _MOST_REPLICATES else []
    said += [f"a tie {tie}"] if tie else []
    return ", ".join(said) or f"more than {_MOST_REPLICATES} replicates would decide it"


def _with(verdict: Verdict, *sentences: str) -> Verdict:
    """What there is to say beside an effect."""
    if verdict.effect is None:
        return verdict
    return replace(verdict, because="; ".join([verdict.because, *filter(None, sentences)]))


def _mean(of: Mapping[int, float]) -> Estimate | None:
    return block_mean({number: [value] for number, value in of.items()}) if of else None


def _points(value: Estimate | None, times: float = 100.0) -> str:
    """A number with its interval, in hundredths."""
    if value is None or value.low is None or value.high is None:
        return "unknown"
    return f"{round(times * value.value):d} [{times * value.low:.0f}, {times * value.high:.0f}]"


# ---- a test each --------------------------------------------------------------------------------------------------


def _pace(claim: Claim, slower: bool, pace: Pace | None, baseline: str) -> Verdict:
    """Of a step that takes as long as the baseline's, "Fast" is true and "Medium" is not."""
    if pace is None or pace.loss is None:
        because = "the speed of its steps was not measured, which `sweeper run` does at its end"
        return Verdict(claim, "inconclusive", because)
    ratio, word = pace.loss.ratio, pace.loss.word
    no_slower = word != "inconclusive" and ratio.high is not None and ratio.high < SAME
    ruling: Ruling = "supported" if no_slower else "refuted" if word == "slower" else "inconclusive"
    if slower and ruling != "inconclusive":
        ruling = "refuted" if ruling == "supported" else "supported"
    because = f"a step takes {said(ratio)} times as long as one of {baseline}: {word}"
    low, high = (None if limit is None else limit - 1 for limit in (ratio.low, ratio.high))
    more = Estimate(ratio.value - 1, ratio.blocks, low, high, None)
    return Verdict(claim, ruling, because, more, f"of a step of {baseline}")


def _forgives(claim: Claim, word: Literal["Good", "Better", "Best"], evidence: Evidence) -> Verdict:
    if claim.loss == evidence.baseline:
        return _stands(claim, evidence)
    if word == "Best":
        return _forgives_most(claim, evidence)
    loss = evidence.loss(claim.loss)
    found = None if loss is None else loss.stability
    if found is None:
        return Verdict(claim, "inconclusive", f"no settings that it shares with {evidence.baseline}")
    verdict = _stability_verdict(claim, found, evidence)
    if found.word == "Poor":
        return replace(verdict, ruling="refuted")
    if word == "Good":
        return replace(verdict, ruling="inconclusive" if found.word is None else "supported")
    if found.word == "Better":
        return replace(verdict, ruling="supported")
    gain = found.difference.estimate
    if found.difference.word == "worse":
        return replace(verdict, ruling="refuted")
    return replace(verdict, ruling="tie" if found.word == "Good" and (gain.high or 1.0) < MARGIN else "inconclusive")


def _stability_verdict(claim: Claim, found: Stability, evidence: Evidence) -> Verdict:
    its = evidence.loss(evidence.baseline)
    of = _points(its.any_setting) if its and its.any_setting else "unknown"
    because = (
        f"{found.reason} (it gains {_points(found.gain)} points, {evidence.baseline} {of}; {found.breaks.broke} of its "
        f"{found.breaks.pairs} settings broke, {found.breaks.baseline_broke} of {evidence.baseline}'s)"
    )
    share = clopper_pearson(found.breaks.broke, found.breaks.pairs)
    return Verdict(claim, "inconclusive", because, found.difference.estimate, evidence.scale.unit, share)


def _stands(claim: Claim, evidence: Evidence) -> Verdict:
    """The baseline's own Good: a setting picked at random gains more than others may gain less, and few break."""
    loss = evidence.loss(claim.loss)
    if loss is None or loss.any_setting is None:
        return Verdict(claim, "inconclusive", "no setting of it has ended")
    gain, broke = loss.any_setting, clopper_pearson(sum(loss.broken.values()), loss.tried)
    because = (
        f"a setting picked at random gains {_points(gain)} points, and {broke.k} of {broke.n} broke, at most "
        f"{100 * broke.high:.0f} in 100"
    )
    ruling: Ruling = "inconclusive"
    if gain.low is not None and gain.low > MARGIN and broke.high < BREAKS_WITHIN:
        ruling = "supported"
    elif broke.low > BREAKS_WITHIN or (gain.high is not None and gain.high < MARGIN):
        ruling = "refuted"
    else:
        because += f"; {_settings(broke.k / broke.n)} settings would tell whether fewer than 10 in 100 do"
    return Verdict(claim, ruling, because, gain, evidence.scale.unit, broke)


def _settings(rate: float) -> str:
    """How many settings show that a share of them is not the tenth that it is measured beside."""
    found = ((n, clopper_pearson(round(rate * n), n)) for n in range(20, 2000, 10))
    enough = (n for n, share in found if share.high < BREAKS_WITHIN or share.low > BREAKS_WITHIN)
    return str(next(enough, "more than 2000"))


def _forgives_most(claim: Claim, evidence: Evidence) -> Verdict:
    """Every other loss against it: it is best where each is shown to gain less, and not where one gains more."""
    found = {name: evidence.replicates[name, at] for name, at in evidence.replicates if at == evidence.first}
    others = stabilities(found, evidence.scale, claim.loss)
    if not others:
        return Verdict(claim, "inconclusive", "no settings that it shares with another loss")
    more = [name for name, other in others.items() if other.difference.word == "better"]
    less = [name for name, other in others.items() if other.difference.word == "worse"]
    top = max(others, key=lambda name: others[name].difference.estimate.value)
    ruling: Ruling = "refuted" if more else "supported" if len(less) == len(others) else "inconclusive"
    because = {
        "refuted": f"a setting picked at random gains more of {', '.join(more)}",
        "supported": f"a setting picked at random gains less of each of {len(others)} other losses",
        "inconclusive": f"shown to gain more than {', '.join(less) or 'none'} of {len(others)} other losses",
    }[ruling]
    own = _turned(others[top].difference.estimate)
    return Verdict(claim, ruling, f"{because} (the effect is beside {top})", own, evidence.scale.unit)


def _among_best(claim: Claim, evidence: Evidence) -> Verdict:
    tuned, loss = evidence.tuned[evidence.first], evidence.loss(claim.loss)
    within = evidence.scale.tie_within or 0.0
    if loss is None or loss.gain is None or tuned.best is None:
        missing = "not judged yet" if loss is None else loss.missing
        return Verdict(claim, "inconclusive", f"it has no number to compare: {missing}")
    others = {o.variant: o.difference for o in tuned.losses if o.difference and o.variant != claim.loss}
    at = f"of {len(tuned.losses)} losses tuned by {tuned.settings} settings in {loss.judged} replicates"
    if claim.loss in tuned.best.beaten:
        by = tuned.best.beaten[claim.loss]
        because = f"{at}, {by.by} is shown to gain more (p {by.p:.2g} with Holm over all pairs)"
        return Verdict(claim, "refuted", because, _turned(by.difference), evidence.scale.unit)
    seen = loss.gain.low is not None and loss.gain.low > SEEN * within
    ahead = [name for name, d in others.items() if d.estimate.high is not None and d.estimate.high > MARGIN]
    top = max(others, key=lambda name: others[name].estimate.value, default=None)
    effect = _turned(others[top].estimate) if top else None
    because = f"{at}, none is shown to gain more" + (f"; nearest is {top}" if top else "")
    if not seen:
        return Verdict(claim, "inconclusive", f"{because}, but its own gain is not seen", effect, evidence.scale.unit)
    if ahead:
        open_ = (
            f"{because}, but {', '.join(ahead)} may gain more by over {100 * MARGIN:.0f} points: more replicates tell"
        )
        return Verdict(claim, "inconclusive", open_, effect, evidence.scale.unit)
    return Verdict(claim, "supported", because, effect, evidence.scale.unit)


def _turned(value: Estimate) -> Estimate:
    low, high = (None if limit is None else -limit for limit in (value.high, value.low))
    return Estimate(-value.value, value.blocks, low, high, value.error)


def _falls_less(claim: Claim, evidence: Evidence) -> Verdict:
    less, its = less_fall(evidence, claim.loss)
    own, within = _mean(its.of), evidence.scale.tie_within
    verdict = _compared(claim, less.of, within, evidence.scale.unit, own, 0.0)
    falls = f"{evidence.baseline} falls by {_points(own)} points from its peak, {claim.loss} by so much less"
    beside = [
        f"{name} by {_points(_mean(less_fall(evidence, name)[0].of))} less"
        for name in evidence.spec.variants
        if name not in (claim.loss, evidence.baseline)
    ]
    return _with(verdict, falls, ", ".join(beside), less.left_out)


def _loses_less(claim: Claim, evidence: Evidence) -> Verdict:
    less, its, drift = less_lost(evidence, claim.loss, flip_rates(evidence, claim.loss))
    own = _mean(its.of)
    verdict = _compared(claim, less.of, evidence.scale.tie_within, evidence.scale.unit, own, 0.0)
    at = f"at {nats(drift)} {evidence.baseline} loses {_points(own)} points to the flips"
    return _with(verdict, at, less.left_out, *_at_true_rates(claim, evidence))


def _at_true_rates(claim: Claim, evidence: Evidence) -> list[str]:
    """What the same loss with other smoothing loses less, in words."""
    said = []
    for name, variant in evidence.spec.variants.items():
        if name != claim.loss and variant.loss_type == (claim.loss,) and len(rates := flip_rates(evidence, name)) > 1:
            less = less_lost(evidence, name, rates)[0]
            said.append(f"{name} loses {_points(_mean(less.of))} points less to {100 * max(rates):.0f} in 100 flips")
    return said


def _gains(claim: Claim, evidence: Evidence) -> Verdict:
    more, its, drift = more_gain(evidence, claim.loss)
    within = evidence.scale.tie_within
    verdict = _compared(claim, more.of, within, evidence.scale.unit, _mean(its.of), SEEN * (within or 0.0))
    return _with(verdict, f"at {nats(drift)} on {evidence.spec.data.rows} pairs", more.left_out)


def _tells_apart(claim: Claim, evidence: Evidence) -> Verdict:
    """By the runs that judged what each loss chose; the objective is what the claim is about."""
    loss, its = evidence.loss(claim.loss), evidence.loss(evidence.baseline)
    if loss is None or its is None or loss.difference is None:
        return Verdict(claim, "inconclusive", "not judged yet" if loss is None else loss.missing or "not judged yet")
    within, unit = evidence.scale.tie_within, evidence.scale.unit
    numbers = _paired(evidence, claim.loss, loss.compared_at)
    verdict = _compared(claim, numbers, within, unit, its.gain, SEEN * (within or 0.0))
    at = f"at {nats(loss.compared_at)}" if loss.compared_at else "at the end"
    if its.gain is None or loss.gain is None or loss.compared_at not in (None, evidence.spec.objective.at_drift):
        return _with(verdict, at)  # gains are those at the objective's drift
    rights = ", ".join(f"{of.variant} {100 * (of.gain.value + 0.5):.0f}" for of in (its, loss) if of.gain)
    return _with(verdict, f"{at}, of 100 single answers told right: {rights}")


def _paired(evidence: Evidence, variant: str, drift: float | None) -> dict[int, float]:
    gains = [
        {o.number: o.judged.end if drift is None else o.judged.at.get(drift) for o in of if o.judged}
        for of in (evidence.replicates.get((name, evidence.first), ()) for name in (variant, evidence.baseline))
    ]
    mine, its = ({number: gain for number, gain in one.items() if gain is not None} for one in gains)
    return {number: mine[number] - its[number] for number in mine.keys() & its.keys()}


def _less_drift(claim: Claim, evidence: Evidence) -> Verdict:
    logs, level = cheaper_margin(evidence, claim.loss)
    seen = Estimate(1.0, len(logs), 1.0, 1.0, None)  # both reach the share, so there is something to compare
    verdict = _compared(claim, logs, _SAME_DRIFT, "", seen, 0.0)
    if verdict.effect is None:
        return verdict
    logged = verdict.effect
    ends = [None if x is None else 1.0 - math.exp(-x) for x in (logged.value, logged.low, logged.high)]
    effect = Estimate(ends[0] or 0.0, logged.blocks, ends[1], ends[2], None)
    about = f"until {100 * level:.0f} in 100 held-out pairs have a margin of {nats(evidence.spec.evaluation.margin)}"
    return _with(replace(verdict, effect=effect, unit=f"of {evidence.baseline}'s drift saved"), about)


def _does_better(claim: Claim, evidence: Evidence, condition: str, other: str, there: str) -> Verdict:
    """Two legs: beside the baseline it gains more in a condition than in another, and in that condition it is no worse
    than the baseline. `there`: the condition, in words.
    """
    more, here, its, drift = interaction(evidence, claim.loss, condition, other)
    judged_in = evidence.replicates.get((claim.loss, condition), ())
    without = sum(one.is_whole and one.chosen is None for one in judged_in)
    if judged_in and 2 * without > len(judged_in):
        because = f"{there} every setting broke in {without} of {len(judged_in)} replicates"
        return Verdict(claim, "refuted", because, failures=clopper_pearson(without, len(judged_in)))
    within, unit = evidence.scale.tie_within or 0.0, evidence.scale.unit
    verdict = _compared(claim, more, within, unit, _mean(its), SEEN * within)
    beside = np.array(list(here.values()))
    if len(beside) < FEWEST_BLOCKS:
        return verdict
    not_worse, worse = p_above(beside, -within), p_above(-beside, within)
    leg = f"{there} it gains {_points(_mean(here))} points beside {evidence.baseline} at {nats(drift)}"
    if worse is not None and worse < ALPHA:
        return replace(_with(verdict, f"{leg}: worse by more than matters (p {worse:.2g})"), ruling="refuted")
    if verdict.ruling == "supported" and (not_worse is None or not_worse >= ALPHA):
        return replace(_with(verdict, f"{leg}: not shown to be no worse"), ruling="inconclusive")
    return _with(verdict, leg)


def _learns(claim: Claim, evidence: Evidence) -> Verdict:
    """Whether most settings of a replicate end with the right sign: exact sign test over replicates."""
    found, below, ended = signs(evidence, claim.loss)
    wrong, right = (sum(sign * margin > 0.0 for margin in found.values()) for sign in (-1, 1))
    p = mcnemar(wrong, right)
    ruling: Ruling = "inconclusive" if p >= ALPHA else "refuted" if wrong > right else "supported"
    because = (
        f"{below} of {so_many(ended, 'setting')} ended with a margin below 0, which is most of them in {wrong} of "
        f"{so_many(len(found), 'replicate')} and few in {right} (sign test, p {p:.2g})"
    )
    return Verdict(claim, ruling, because, _mean(found), "of signs", clopper_pearson(below, ended) if ended else None)
