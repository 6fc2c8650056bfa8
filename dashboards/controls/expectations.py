"""What a study expects of its controls -> what was found, and whether it held; knows no store and no page.

A control is a variant whose answer is known beforehand: where it comes out otherwise, the procedure is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dashboards.analysis.strata import StratumResults
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.scale import Scale
from dashboards.statistics.stability import KINDS, Kind, came_to_an_end, kinds_of, looks_inverted
from studies.records import COSTS, PROBE, RunRecord
from studies.spec import Expectation
from studies.text.plural import so_many

FEWEST_BLOCKS, FEWEST_SHARE = 5, 0.8  # of a failure: as many as an inversion needs
FEWEST_SHUFFLES = 10
PER_STEP = ("loss", "reward_margin")
CURVE = (*PER_STEP, "reward_accuracy", "grad_norm")
_KINDS: Mapping[str, tuple[Kind, ...]] = {
    "fails": KINDS,
    "non_finite": ("non-finite",),
    "inverted": ("inversion",),
    "collapsed": ("collapse",),
}

Curves = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Id of a run -> metric -> step -> value."""


@dataclass(frozen=True)
class Finding:
    """A control, what was expected of it and what was found in `n` blocks or pairs of runs (`unit`).

    `held`: None where too little has been trained to say.
    """

    control: str
    scenario: str
    expected: str
    found: str
    n: int
    unit: str
    held: bool | None
    run_ids: tuple[str, ...]


def describe(expected: Expectation, tie_within: float | None, unit: str) -> str:
    """The expectation in words."""
    if expected.equals is not None:
        how = f"to {expected.within:g} a step in {' and '.join(PER_STEP)}" if expected.within else "exactly"
        return f"equals {expected.equals} {how}"
    if expected.outcome == "no_gain":
        limit = "" if tie_within is None else f" below {tie_within:g} {unit}"
        return f"no gain: upper 95% limit of the mean{limit}, {FEWEST_SHUFFLES} data draws or more"
    word = "fails" if expected.outcome == "fails" else f"is {expected.outcome}".replace("_", "-")
    return f"{word} in {FEWEST_SHARE:.0%} of {FEWEST_BLOCKS} data draws or more"


def findings(
    standings: Sequence[StratumResults], expectations: Mapping[str, Expectation], scale: Scale, curves: Curves
) -> tuple[Finding, ...]:
    """A finding for every stratum of a variant of which something is expected, in the order of `standings`.

    `curves` of the runs that must equal others; without them only final measurements can differ.
    """
    by_place = {(s.stratum.variant, s.stratum.scenario): s for s in standings}
    found = []
    for standing in standings:
        expected = expectations.get(standing.stratum.variant)
        if expected is None:
            continue
        if expected.equals is not None:
            other = by_place.get((expected.equals, standing.stratum.scenario))
            found.append(_equality(standing, expected, () if other is None else other.records, scale, curves))
        elif expected.outcome == "no_gain":
            found.append(_no_gain(standing, expected, scale))
        else:
            found.append(_failure(standing, expected, scale))
    return tuple(found)


def compared_runs(records: Iterable[RunRecord], expectations: Mapping[str, Expectation]) -> tuple[str, ...]:
    """The runs whose curves `findings` needs: of variants that must equal others, and of those others."""
    known = list(records)
    there = {(run.variant, run.scenario) for run in known}
    pairs = [(name, e.equals) for name, e in expectations.items() if e.equals is not None]
    scenarios = sorted({scenario for _, scenario in there})
    asked = {
        (name, scenario)
        for pair in pairs
        for scenario in scenarios
        if there.issuperset((one, scenario) for one in pair)
        for name in pair
    }
    return tuple(
        run.run_id for run in known if (run.variant, run.scenario) in asked and run.phase not in ("confirm", PROBE)
    )


def _finding(
    standing: StratumResults, expected: Expectation, scale: Scale, found: str, n: int, unit: str, held: bool | None,
    runs: Iterable[RunRecord],
) -> Finding:  # fmt: skip
    return Finding(
        control=standing.stratum.variant,
        scenario=standing.stratum.scenario,
        expected=describe(expected, scale.tie_within, scale.unit),
        found=found,
        n=n,
        unit=unit,
        held=held,
        run_ids=tuple(run.run_id for run in runs),
    )


def _failure(standing: StratumResults, expected: Expectation, scale: Scale) -> Finding:
    """A block shows a failure where all of its runs do."""
    wanted = set(_KINDS[str(expected.outcome)])
    runs = [run for run in standing.records if came_to_an_end(run)]
    shown: dict[int, list[set[Kind]]] = defaultdict(list)
    for run in runs:
        inverted: set[Kind] = {"inversion"} if scale.starts_at_zero and looks_inverted(run, scale) else set()
        shown[run.block].append(kinds_of(run) | inverted)
    n, k = len(shown), sum(all(kinds & wanted for kinds in of_block) for of_block in shown.values())
    counts = Counter(kind for of_block in shown.values() for kinds in of_block for kind in kinds)
    what = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]) or "no failure"
    held = k >= FEWEST_SHARE * n if n >= FEWEST_BLOCKS else None
    return _finding(standing, expected, scale, f"{k} of {so_many(n, 'block')} ({what})", n, "blocks", held, runs)


def _no_gain(standing: StratumResults, expected: Expectation, scale: Scale) -> Finding:
    """Runs that failed count with what they measured: to leave out the worst of them would make a gain of noise."""
    runs = [run for run in standing.records if came_to_an_end(run) and scale.value(run) is not None]
    values = scale.by_block(runs)
    lost = sum(came_to_an_end(run) for run in standing.records) - len(runs)
    without = f", {so_many(lost, 'run')} without a value" if lost else ""
    if len(values) < FEWEST_SHUFFLES:
        return _finding(standing, expected, scale, f"n too small{without}", len(values), "blocks", None, runs)
    mean = block_mean({block: [scale.sign * value] for block, value in values.items()})
    held = None if mean.high is None or scale.tie_within is None else mean.high < scale.tie_within
    return _finding(standing, expected, scale, _limits(mean, scale.unit) + without, len(values), "blocks", held, runs)


def _limits(mean: Estimate, unit: str) -> str:
    return f"mean {mean.value:+.3f} [{mean.low:.3f}, {mean.high:.3f}] {unit}"


def _equality(
    standing: StratumResults, expected: Expectation, others: Sequence[RunRecord], scale: Scale, curves: Curves
) -> Finding:
    """Runs of one trial, block and seed, compared as MLflow holds them: how they ended, every step of the training
    curve that was logged and, where they must be equal exactly, every final measurement but times and memory.
    """
    twins = {(run.trial, run.block, run.seed): run for run in others if run.phase != "confirm" and came_to_an_end(run)}
    pairs = [
        (run, twins[place])
        for run in standing.records
        if run.phase != "confirm" and came_to_an_end(run) and (place := (run.trial, run.block, run.seed)) in twins
    ]
    runs = [run for pair in pairs for run in pair]
    if not pairs:
        return _finding(standing, expected, scale, "no runs to compare yet", 0, "pairs of runs", None, runs)
    ends = sum(one.cause is not other.cause for one, other in pairs)
    steps = [step for one, other in pairs for step in _steps(one, other, expected.within, curves)]
    finals = [gap for one, other in pairs for gap in _finals(one, other)] if not expected.within else []
    if not steps:
        return _finding(standing, expected, scale, "no curve to compare", len(pairs), "pairs of runs", None, runs)
    worst = max(gap for _, gap in steps)
    parts = [f"largest difference {worst:.2g} over {len({s for s, _ in steps})} steps"]
    parts += [f"{max(finals):.2g} in final measurements"] if finals else []
    parts += [f"{ends} end differently"] if ends else []
    if expected.within:
        apart = [step for step, gap in steps if gap > expected.within * step]
        parts += [f"above {expected.within:g} a step from step {min(apart)} on"] if apart else []
    else:
        apart = [step for step, gap in steps if gap != 0.0] + [0] * any(gap != 0.0 for gap in finals)
    held = not apart and not ends
    return _finding(standing, expected, scale, ", ".join(parts), len(pairs), "pairs of runs", held, runs)


def _steps(one: RunRecord, other: RunRecord, within: float, curves: Curves) -> Iterator[tuple[int, float]]:
    """(step, difference) over the metrics of the training curves; a point that only one of them has is apart."""
    here, there = curves.get(one.run_id, {}), curves.get(other.run_id, {})
    for name in PER_STEP if within else CURVE:
        first, second = here.get(name, {}), there.get(name, {})
        for step in sorted(first.keys() | second.keys()):
            both = step in first and step in second
            yield step, abs(first[step] - second[step]) if both else float("inf")


def _finals(one: RunRecord, other: RunRecord) -> Iterator[float]:
    for name in sorted((one.metrics.keys() | other.metrics.keys()) - COSTS):
        both = name in one.metrics and name in other.metrics
        yield abs(one.metrics[name] - other.metrics[name]) if both else float("inf")
