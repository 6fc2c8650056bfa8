"""What a plan can show, in plain words: of studies with replicates and of those without, in the metric's own unit.

A plan that can show nothing that matters says so first, and what it would take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dashboards.statistics.estimates import FEWEST_BLOCKS
from studies.design.counts import pairs_source
from studies.design.points import quota
from studies.schema.replicates import by_condition
from studies.spec import Study, StudySpec
from studies.text.plural import so_many

_MOST: Final = 1000  # held-out pairs, where a study does not say how many
_COIN: Final = 0.5
"""The standard deviation of one prompt or pair that one of two losses wins, where nothing is known: that of an even
coin. As large is that of a difference between two losses of which one alone has a quarter of them right.
"""
_OF_PAIRS: Final = frozenset({"ranking_gain", "accuracy", "sign_accuracy", "margin_share"})


@dataclass(frozen=True)
class _Spread:
    """How far paired differences spread from draw to draw, as is supposed before the first run, and why."""

    value: float
    why: str


def power_of(study: Study) -> str:
    """What every scenario of the study can show, those that can show the same together."""
    lines: dict[str, list[str]] = {}
    for name, cells in by_condition(study.spec.scenarios).items():
        lines.setdefault(power_line(study.within(cells[0]), study.spec.replicates), []).append(name)
    if len(lines) == 1:
        return next(iter(lines))
    return "\n".join(f"{', '.join(names)}: {line}" for line, names in lines.items() if line)


def power_line(study: Study, replicates: int | None) -> str:
    """What the judging draws of a scenario can show. `study`: narrowed to it."""
    spec, tests = study.spec, len(study.variants) - 1
    if spec.mode == "search":
        return "A search finds one config and compares nothing: this plan can show no difference between losses."
    if tests < 1:
        return ""
    draws = replicates if replicates is not None else len(set(spec.confirm.blocks)) if spec.confirm else 0
    lacks = _lacks(study, draws, replicates is not None)
    if lacks:
        return f"This plan can show no difference: {lacks}"
    noun = "replicates" if replicates is not None else "fresh data draws"
    from dashboards.statistics.scale import scale_of

    scale = scale_of(spec.objective, pairs_source(spec))
    spread = _spread(spec, scale.unit)
    if spread is None:
        said = _of_unknown_spread(spec, draws, noun, tests, scale.tie_within, scale.unit)
    else:
        said = _of_spread(spec, draws, noun, tests, scale.tie_within, spread, scale.unit)
    if replicates is None:
        return f"{said} What that leaves out is the luck of the settings that were tried: replicates would have it in."
    return said + (_of_stability(study, draws, tests) if scale.unit == "U" else "")


def replicates_to_show(study: Study) -> int | None:
    """From how many replicates on a study finds a difference that matters; None where nobody knows, or none within
    reach do. `study`: narrowed to a scenario.
    """
    from dashboards.statistics.compare import SEEN
    from dashboards.statistics.replicated.planning import replicates_for
    from dashboards.statistics.scale import scale_of

    scale = scale_of(study.spec.objective, pairs_source(study.spec))
    spread = _spread(study.spec, scale.unit)
    if spread is None or scale.tie_within is None:
        return None
    return replicates_for(SEEN * scale.tie_within, len(study.variants) - 1, spread.value)


def _lacks(study: Study, draws: int, has_replicates: bool) -> str:
    """What a comparison lacks to show anything, "" where nothing."""
    spec = study.spec
    if spec.baseline is None or spec.baseline not in study.variants:
        return "no baseline is named, so no difference is tested. Add baseline: VARIANT."
    if not draws:
        return "nothing is judged on fresh draws. Add replicates: 8."
    if draws < FEWEST_BLOCKS:
        noun = "replicate" if has_replicates else "fresh data draw"
        return f"{so_many(draws, noun, 'is', 'are')} too few, and {FEWEST_BLOCKS} the fewest that are compared."
    return ""


def _spread(spec: StudySpec, unit: str) -> _Spread | None:
    """None for a metric whose size nobody knows before the first runs."""
    from dashboards.statistics.replicated.planning import PAIRED_SPREAD

    if unit == "U":
        return _Spread(PAIRED_SPREAD, "That is by the spread of recorded studies.")
    metric, held = spec.objective.metric, spec.data.eval_rows or _MOST
    if "win_rate" in metric:
        return _of_coins(min(spec.evaluation.prompts, held), "prompt")
    if metric in _OF_PAIRS:
        return _of_coins(min(spec.evaluation.pairs or held, held), "held-out pair")
    return None


def _of_coins(items: int, noun: str) -> _Spread:
    why = (
        f"That is by the {so_many(items, noun)} of a draw alone, as even coins ({_COIN:g}/sqrt({items})); the luck of "
        "training and draws comes on top."
    )
    return _Spread(_COIN / math.sqrt(items), why)


def _of_spread(
    spec: StudySpec, draws: int, noun: str, tests: int, within: float | None, spread: _Spread, unit: str
) -> str:
    from dashboards.statistics.compare import SEEN
    from dashboards.statistics.replicated.planning import replicates_for, shows

    of = "of what is possible" if unit == "U" else f"of {spec.objective.metric}"
    found = shows(draws, tests, within, spread.value)
    line = f"{draws} {noun} find a difference to {spec.baseline} of {_points(found.difference)} {of} in 80 of 100 cases"
    if within is None:
        line += "; no tie can be concluded without objective.tie_within."
    else:
        enough = f"{found.replicates_for_tie}" if found.replicates_for_tie else "more than 60"
        line += f", and a tie within {_points(within)} in {100 * found.tie:.0f} (80 from {enough} {noun} on)."
    line += f" {spread.why}"
    matters = SEEN * (within or math.inf)
    if found.difference <= matters:
        return line
    takes = replicates_for(matters, tests, spread.value) or "more than 60"
    widths = f"{SEEN:g} tie widths, {_points(matters)}"
    return f"This plan can show no difference that matters ({widths}): it would take {takes} {noun}. {line}"


def _of_unknown_spread(spec: StudySpec, draws: int, noun: str, tests: int, within: float | None, unit: str) -> str:
    """In deviations, and, where a tie width is given, how small they must turn out to be."""
    from dashboards.statistics.compare import SEEN
    from dashboards.statistics.power import detectable, tie_spread

    smallest = detectable(draws, tests)
    line = (
        f"{draws} {noun} find a difference to {spec.baseline} of {smallest:.2g} standard deviations of paired "
        f"differences in 80 of 100 cases; what that is in {unit} no run has told yet."
    )
    if within is None:
        return f"{line} No tie can be concluded without objective.tie_within."
    return (
        f"{line} A difference that matters ({SEEN:g} tie widths, {SEEN * within:g} {unit}) shows where that deviation "
        f"is {SEEN * within / smallest:.2g} or less, and a tie within {within:g} where it is "
        f"{within * tie_spread(draws):.2g} or less."
    )


def _of_stability(study: Study, replicates: int, tests: int) -> str:
    from dashboards.statistics.replicated.planning import reachable_words, smallest_sizes

    points = max(quota(study.spec, variant) for variant in study.variants.values())
    words, sizes = reachable_words(points, replicates, tests), smallest_sizes(points, tests)
    said: Mapping[str, str] = {
        word: "can be said" if word in words else f"takes {size} replicates" if size else "cannot"
        for word, size in sizes.items()
    }
    told = "; ".join(f"{word} {text}" for word, text in said.items())
    return f" Of stability, with {so_many(points, 'setting')} each: {told}."


def _points(share: float) -> str:
    """A share as points of a hundred."""
    points = 100.0 * share
    return f"{points:.0f} points" if points >= 10 or math.isclose(points, round(points)) else f"{points:.1f} points"
