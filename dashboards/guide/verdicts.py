"""The guide's claims -> a verdict on each from a study's own runs; knows no store and no page.

A verdict is one of: supported, refuted, tie, inconclusive, not testable here. A claim of difference that turns out a
tie is called a tie; where the blocks could not have shown one, it is inconclusive. What rests on one
task, or turns round when one is left out, is inconclusive too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dashboards.analysis.confirmed import about, broken_bound, differences_of, panel_of, unsaid
from dashboards.analysis.speed import SAME, said
from dashboards.analysis.speed import Pace as Paced
from dashboards.analysis.strata import StratumResults
from dashboards.guide.claims import CLAIMS, Against, Claim, FailsLess, Pace, Reliable, Situation, Unbeaten, situations
from dashboards.statistics.compare import ALPHA, Difference, Word, holm_adjusted
from dashboards.statistics.estimates import Estimate, Proportion
from dashboards.statistics.scale import Panel, Scale
from dashboards.statistics.stability import Failures, failures
from studies.schema.types import Scenario
from studies.text.plural import so_many

Ruling = Literal["supported", "refuted", "tie", "inconclusive", "not testable here"]

_EXPECTED: Mapping[Word, Ruling] = {
    "better": "supported",
    "worse": "refuted",
    "tie": "tie",
    "inconclusive": "inconclusive",
}


@dataclass(frozen=True)
class Verdict:
    """What a study says of a claim, why, and from which runs.

    `effect`: the difference that was judged, in `unit`, in the direction of better; `failures`: of the loss's configs,
    where the claim is about them.
    """

    claim: Claim
    ruling: Ruling
    because: str
    effect: Estimate | None = None
    unit: str = ""
    failures: Proportion | None = None
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """All that verdicts are made from. `kinds`: situation -> the study's scenarios of that kind; `timed`: variant ->
    how fast its steps are.
    """

    standings: Sequence[StratumResults]
    scale: Scale
    baseline: str | None
    kinds: Mapping[Situation, tuple[str, ...]]
    timed: Mapping[str, Paced]

    def variant(self, loss: str) -> str | None:
        """The variant that stands for a loss alone: the one with its name, else the first."""
        named = [s.stratum.variant for s in self.standings if s.stratum.losses == (loss,)]
        return loss if loss in named else next(iter(named), None)

    def of(self, variant: str, situation: Situation) -> list[StratumResults]:
        """The strata of a variant in a kind of scenario."""
        scenarios = self.kinds.get(situation, ())
        return [s for s in self.standings if s.stratum.variant == variant and s.stratum.scenario in scenarios]

    def rivals(self, variant: str) -> list[str]:
        """The variants that do not train with just the same losses."""
        losses = {s.stratum.variant: s.stratum.losses for s in self.standings}
        return [name for name in self.variants if losses[name] != losses[variant]]

    @property
    def variants(self) -> list[str]:
        """All variants, in the study's order."""
        return list(dict.fromkeys(s.stratum.variant for s in self.standings))


def verdicts(
    standings: Sequence[StratumResults],
    scale: Scale,
    baseline: str | None,
    scenarios: Mapping[str, Scenario],
    timed: Mapping[str, Paced],
    source: str = "",
) -> tuple[Verdict, ...]:
    """A verdict on every claim of the guide, in its order. `scenarios`: the study's, by name; `timed`: variant -> how
    fast its steps are; `source`: where the pairs came from.
    """
    case = Case(standings, scale, baseline, situations(scenarios, source), timed)
    return tuple(_judge(claim, case) for claim in CLAIMS)


def _judge(claim: Claim, case: Case) -> Verdict:
    if claim.test is None:
        return Verdict(claim, "not testable here", claim.reason)
    variant = case.variant(claim.loss)
    if variant is None:
        return Verdict(claim, "not testable here", f"the study has no variant that trains with {claim.loss} alone")
    match claim.test:
        case Against() as test:
            return _against(claim, test, variant, case)
        case Unbeaten(situation):
            return _unbeaten(claim, situation, variant, case)
        case Pace() as test:
            return _pace(claim, test, variant, case)
        case Reliable():
            return _reliable(claim, variant, case)
        case FailsLess() as test:
            return _fails_less(claim, test, variant, case)


def _no_baseline(claim: Claim, baseline: str | None) -> Verdict:
    because = "it is what the others are compared with" if baseline else "the study names no baseline"
    return Verdict(claim, "not testable here", because)


# ---- the objective in the confirm phase ---------------------------------------------------------------------------


def _against(claim: Claim, test: Against, variant: str, case: Case) -> Verdict:
    other = case.baseline if test.other is None else case.variant(test.other)
    if test.other is not None and other is None:
        return Verdict(claim, "not testable here", f"the study has no variant that trains with {test.other} alone")
    if other is None or other == variant:
        return _no_baseline(claim, other)
    missing = [kind for kind in (test.situation, test.minus) if kind is not None and kind not in case.kinds]
    if missing:
        like = f" ({claim.reason})" if claim.reason else ""
        return Verdict(claim, "not testable here", f"the study has no scenario of the kind: {', '.join(missing)}{like}")
    if test.metric not in (None, case.scale.metric):
        because = f"its configs were chosen by {case.scale.metric}, not by {test.metric}: a study of that objective can"
        return Verdict(claim, "not testable here", because)
    found = _differences(case, test, other)
    if variant not in found:
        return _without_runs(claim, variant, other, case, (test.situation, test.minus))
    difference = found[variant]
    words = "loses less than" if test.minus else "does better than"
    ruling = _ruling(difference, test.expect)
    because = _because(difference, f"{variant} {words} {other}", case.scale.unit)
    if ruling == "supported" and test.other is not None:
        ruling, beside = _beside_baseline(test, variant, case)
        because = f"{because}; {beside}"
    return Verdict(
        claim,
        ruling,
        because,
        difference.estimate,
        case.scale.unit,
        run_ids=_ids(case, (variant, other), (test.situation, *([test.minus] if test.minus else []))),
    )


def _differences(case: Case, test: Against, baseline: str) -> dict[str, Difference]:
    """Every variant against `baseline` in the situation of a test; where it subtracts another, of what each loses."""
    panel = _panel(case, test.situation)
    if test.minus is not None:
        panel = _minus(panel, _panel(case, test.minus))
    gains = case.of(baseline, test.minus or test.situation)
    return differences_of(panel, baseline, case.scale, gains)


def _beside_baseline(test: Against, variant: str, case: Case) -> tuple[Ruling, str]:
    """The second leg of a claim against a sibling, which may be broken: no worse than the study's baseline."""
    if case.baseline is None:
        return "inconclusive", "but no baseline to be no worse than"
    difference = _differences(case, test, case.baseline).get(variant)
    if difference is None:
        return "inconclusive", f"but {_unconfirmed(variant, case.baseline, case, (test.situation,))}"
    because = _because(difference, f"it is as good as {case.baseline}", case.scale.unit)
    match _ruling(difference):
        case "supported" | "tie":
            return "supported", f"and no worse than {case.baseline} ({because})"
        case "refuted":
            return "refuted", f"but worse than {case.baseline} ({because})"
    return "inconclusive", f"but not shown to be no worse than {case.baseline} ({because})"


def _unbeaten(claim: Claim, situation: Situation, variant: str, case: Case) -> Verdict:
    if situation not in case.kinds:
        return Verdict(claim, "not testable here", f"the study has no scenario of the kind: {situation}")
    rivals = case.rivals(variant)
    panel = {name: of for name, of in _panel(case, situation).items() if name == variant or name in rivals}
    found = differences_of(panel, variant, case.scale, case.of(variant, situation))
    if not found:
        return _without_runs(claim, variant, "another", case, (situation,))
    top = max(found, key=lambda name: found[name].estimate.value)
    beaten_by = [name for name, d in found.items() if d.word == "better" and d.is_general]
    open_ = [name for name, d in found.items() if d.word in ("better", "inconclusive") and name not in beaten_by]
    open_ += [name for name in rivals if any(broken_bound(s) for s in case.of(name, situation))]
    ruling: Ruling = "refuted" if beaten_by else "inconclusive" if open_ else "supported"
    because = {
        "refuted": f"{', '.join(beaten_by)} did better",
        "inconclusive": f"of {', '.join(open_)} these blocks cannot say whether they do better",
        "supported": f"none of {len(found)} others did better",
    }[ruling]
    because = "; ".join([because, *_without_config(case, rivals, [situation])])
    ids = _ids(case, (*found, variant), (situation,))
    return Verdict(claim, ruling, because, found[top].estimate, f"{case.scale.unit}, of {top}", run_ids=ids)


def _panel(case: Case, situation: Situation) -> Panel:
    """Variant -> block -> mean over the scenarios of a kind; blocks that all of them have."""
    panels = {
        scenario: panel_of([s for s in case.standings if s.stratum.scenario == scenario], case.scale)
        for scenario in case.kinds.get(situation, ())
    }
    found: dict[str, dict[int, float]] = {}
    for variant in case.variants:
        columns = [panels[s.stratum.scenario].get(variant, {}) for s in case.of(variant, situation)]
        blocks = set.intersection(*map(set, columns)) if columns else set()
        if blocks:
            found[variant] = {b: sum(column[b] for column in columns) / len(columns) for b in sorted(blocks)}
    return found


def _minus(here: Panel, there: Panel) -> Panel:
    shared = {name: sorted(here[name].keys() & there[name].keys()) for name in here if name in there}
    return {name: {b: here[name][b] - there[name][b] for b in blocks} for name, blocks in shared.items() if blocks}


def _ids(case: Case, variants: Sequence[str], kinds: Sequence[Situation]) -> tuple[str, ...]:
    chosen = [s for variant in variants for kind in kinds for s in case.of(variant, kind)]
    return tuple(dict.fromkeys(run.run_id for s in chosen for run in s.evidence))


def _without_runs(claim: Claim, variant: str, other: str, case: Case, kinds: Sequence[Situation | None]) -> Verdict:
    """No word for want of runs to judge by: not testable here, or inconclusive where there are some that drifted."""
    drifted = any(
        broken_bound(s) for kind in kinds if kind is not None for name in (variant, other) for s in case.of(name, kind)
    )
    because = _unconfirmed(variant, other, case, kinds)
    return Verdict(claim, "inconclusive" if drifted else "not testable here", because)


def _without_config(case: Case, variants: Sequence[str], kinds: Sequence[Situation]) -> list[str]:
    """Which of the variants have no config to judge, and where."""
    return [
        f"{about(name, words)} in {s.stratum.scenario}"
        for kind in kinds
        for name in variants
        for s in case.of(name, kind)
        if (words := unsaid(s))
    ]


def _unconfirmed(variant: str, other: str, case: Case, kinds: Sequence[Situation | None]) -> str:
    nothing = _without_config(case, (variant, other), [kind for kind in kinds if kind is not None])
    return "; ".join(nothing) or f"no confirm runs of {variant} and {other} on the same blocks, or some of them failed"


def _ruling(difference: Difference, expect: int = 1) -> Ruling:
    if not difference.is_general:
        return "inconclusive"
    ruling = _EXPECTED[difference.word]
    if expect == -1:
        return {"supported": "refuted", "refuted": "supported"}.get(ruling, ruling)  # type: ignore[return-value]
    return ruling


def _because(difference: Difference, claimed: str, unit: str) -> str:
    n = difference.estimate.blocks
    tests = so_many(n, "block") + ("" if difference.p_holm is None else f", p {difference.p_holm:.2g} with Holm")
    if difference.instead:
        return f"{tests}; {difference.instead}"
    if not difference.is_robust:
        return f"{tests}; leaving out task {', '.join(map(str, difference.flips_without))} turns it round"
    if difference.word == "tie":
        because = f"{so_many(n, 'block')}, TOST p {difference.p_tie:.2g}"
        return f"whether {claimed}: shown to differ by less than matters ({because})"
    if difference.word == "inconclusive" and difference.p_tie is None:
        return f"{tests}; without objective.tie_within no tie can be concluded in {unit}"
    if difference.word == "inconclusive" and not difference.could_tie:
        return f"{tests}; too few blocks for their spread to show a tie"
    if not difference.is_general:
        return f"{tests}; inconclusive without task {' or '.join(map(str, difference.leans_on))}"
    return f"whether {claimed}: {tests}"


# ---- speed and failures --------------------------------------------------------------------------------------------


def _pace(claim: Claim, test: Pace, variant: str, case: Case) -> Verdict:
    """Of a step that takes as long as the baseline's, "as fast" is true and "slower" is not."""
    if case.baseline is None or variant == case.baseline:
        return _no_baseline(claim, case.baseline)
    pace = case.timed.get(variant)
    if pace is None or pace.loss is None:
        because = "the speed of its steps was not measured, which `sweeper run` does at its end"
        return Verdict(claim, "not testable here", because)
    ratio, word = pace.loss.ratio, pace.loss.word
    no_slower = word != "inconclusive" and ratio.high is not None and ratio.high < SAME
    ruling: Ruling = "supported" if no_slower else "refuted" if word == "slower" else "inconclusive"
    if test.slower:
        ruling = {"supported": "refuted", "refuted": "supported"}.get(ruling, ruling)  # type: ignore[assignment]
    check = "" if pace.check is None else f"; by whole steps {pace.check.said}"
    because = f"a step takes {said(ratio)} times as long as one of {case.baseline}: {word}{check}"
    low, high = (None if limit is None else limit - 1 for limit in (ratio.low, ratio.high))
    more = Estimate(ratio.value - 1, ratio.blocks, low, high, None)
    return Verdict(claim, ruling, because, more, f"of a step of {case.baseline}")


def _failures(case: Case, variant: str) -> Failures:
    """Of the unbiased arm on clean data. The same knobs in several scenarios are one config, whatever its numbers."""
    runs = [run for s in case.of(variant, "clean") for run in s.records if run.phase == "unbiased"]
    numbers: dict[object, int] = {}
    knobs = [numbers.setdefault(frozenset(run.knobs.items()), len(numbers)) for run in runs]
    runs = [run.model_copy(update={"trial": number}) for run, number in zip(runs, knobs, strict=True)]
    return failures(runs, case.scale)


def _reliable(claim: Claim, variant: str, case: Case) -> Verdict:
    found = _failures(case, variant)
    if not found.all.n:
        return Verdict(claim, "not testable here", "the study has no unbiased arm on clean data for it")
    said: Ruling = {"Good": "supported", "Fair": "refuted", "Poor": "refuted", None: "inconclusive"}[found.word]  # type: ignore[assignment]
    kinds = ", ".join(f"{p.k} {kind}" for kind, p in found.by_kind.items() if p.k) or "none"
    measured = found.word or "no word: the limits allow more than one"
    because = f"{found.all.k} of {so_many(found.all.n, 'config')} failed ({kinds}); measured: {measured}"
    return Verdict(claim, said, because, failures=found.all, run_ids=found.run_ids)


def _fails_less(claim: Claim, test: FailsLess, variant: str, case: Case) -> Verdict:
    """Fisher's exact test of the two shares of failed configs, with Holm over the others."""
    if test.than == "baseline" and (case.baseline is None or variant == case.baseline):
        return _no_baseline(claim, case.baseline)
    others = [n for n in case.rivals(variant) if test.than == "any other" or n == case.baseline]
    own = _failures(case, variant)
    theirs = {name: _failures(case, name) for name in others}
    theirs = {name: found for name, found in theirs.items() if found.all.n}
    if not own.all.n or not theirs:
        return Verdict(claim, "not testable here", "the study has no unbiased arm on clean data for both")
    adjusted = holm_adjusted([fisher(own.all, found.all) for found in theirs.values()])
    sure = [name for name, p in zip(theirs, adjusted, strict=True) if p < ALPHA]
    fewer = [name for name in sure if _rate(theirs[name].all) < _rate(own.all)]
    ruling: Ruling = "refuted" if fewer else "supported" if len(sure) == len(theirs) else "inconclusive"
    counts = ", ".join(f"{name} {found.all.k}/{found.all.n}" for name, found in theirs.items())
    because = f"{own.all.k} of {so_many(own.all.n, 'config')} failed; of others {counts}"
    ids = own.run_ids + tuple(run_id for found in theirs.values() for run_id in found.run_ids)
    return Verdict(claim, ruling, because, failures=own.all, run_ids=ids)


def fisher(a: Proportion, b: Proportion) -> float:
    """Two-sided p of Fisher's exact test that two shares are the same: how likely tables are that are no likelier than
    this one, of all with its margins.

    Counted in whole numbers, without rounding. Own code because `scipy.stats` takes .4 s to load, which is
    much of what a table takes.
    """
    failed = a.k + b.k
    tables = {
        k: math.comb(a.n, k) * math.comb(b.n, failed - k) for k in range(max(0, failed - b.n), min(a.n, failed) + 1)
    }
    return sum(ways for ways in tables.values() if ways <= tables[a.k]) / sum(tables.values())


def _rate(p: Proportion) -> float:
    return p.k / p.n
