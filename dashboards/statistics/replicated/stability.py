"""How forgiving a loss is, from the points that it was tuned by: what a setting picked at random gains, and breaks.

Relative to the baseline at the same points of the same replicates; no runs of its own. The unit is the replicate,
for breaks the point as well. Nothing here speaks of the tuned loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dashboards.statistics.compare import ALPHA, Difference, holm_adjusted, judged, p_above
from dashboards.statistics.estimates import Estimate, block_mean
from dashboards.statistics.replicated.breaks import Breaks, Points, breaks

StabilityWord = Literal["Better", "Good", "Poor"]

MARGIN = 0.10  # of the best possible gain: what a setting picked at random may gain less
BREAKS_WITHIN = 0.10  # share of points that may break more
MANY_BREAKS = 0.25
BREAKS_MORE = "breaks on more of the settings, by more than 25 in 100"


@dataclass(frozen=True)
class Stability:
    """A loss against the baseline. `gain`: of a setting picked at random; `difference`: over replicates, with Holm over
    all losses compared; `p_not_worse`: that it gains less by `MARGIN` or more; `p_worse`: that it does not, with Holm;
    `p_many`: that it breaks on at most `MANY_BREAKS` more of the points, with Holm. None below three replicates.
    """

    gain: Estimate
    difference: Difference
    p_not_worse: float | None
    p_worse: float | None
    breaks: Breaks
    p_many: float | None
    word: StabilityWord | None
    reason: str


def random_setting(scores: Points[float]) -> Estimate | None:
    """What a setting picked at random from the box gains: the mean over points, then over replicates.

    Scores are in units of the best possible gain, from the untrained model. A point below 0 counts 0, as nobody uses
    it; give a broken one 0, and leave out one that a limit or a user stopped. None without a point.
    """
    floored = {r: [max(score, 0.0) for score in of.values()] for r, of in scores.items() if of}
    return block_mean(floored) if floored else None


def stability(
    scores: Mapping[str, Points[float]], broke: Mapping[str, Points[bool]], baseline: str
) -> dict[str, Stability]:
    """Every loss but the baseline, against it; see `random_setting` for the scores of points.

    Good: gains at most `MARGIN` less and breaks on at most `BREAKS_WITHIN` more of the points (each shown at one-sided
    5 %), where the baseline itself gains more than the margin. Better: gains more, and breaks as in Good. Poor: gains
    less by more than the margin, or breaks on more than `MANY_BREAKS` more points. Claims of difference are corrected
    for their number (Holm), those of none are not. Losses without a shared point are not in the answer.
    """
    gains = {name: gain for name, of in scores.items() if (gain := random_setting(of)) is not None}
    others = [name for name in gains if name != baseline and baseline in gains]
    shared = {name: _differences(scores[name], scores[baseline]) for name in others}
    counted = {name: breaks(broke.get(name, {}), broke.get(baseline, {})) for name in others if shared[name]}
    both = {name: of for name, of in counted.items() if of is not None}
    differences = judged({name: shared[name] for name in both}, None)
    apart = {name: np.array(list(shared[name].values())) for name in both}
    worse = _holm({name: p_above(-d, MARGIN) for name, d in apart.items()})
    many = _holm({name: of.p_above(MANY_BREAKS) for name, of in both.items()})
    found: dict[str, Stability] = {}
    for name, of_breaks in both.items():
        p_not_worse, p_many = p_above(apart[name], -MARGIN), many[name]
        measured = Stability(gains[name], differences[name], p_not_worse, worse[name], of_breaks, p_many, None, "")
        found[name] = _worded(measured, gains[baseline])
    return found


def _differences(loss: Points[float], baseline: Points[float]) -> dict[int, float]:
    """Replicate -> mean over shared points of what the loss gains more."""
    found: dict[int, float] = {}
    for replicate in sorted(loss.keys() & baseline.keys()):
        mine, its = loss[replicate], baseline[replicate]
        apart = [max(mine[point], 0.0) - max(its[point], 0.0) for point in sorted(mine.keys() & its.keys())]
        if apart:
            found[replicate] = sum(apart) / len(apart)
    return found


def _holm(ps: Mapping[str, float | None]) -> dict[str, float | None]:
    """Corrected over those that there are."""
    known = {name: p for name, p in ps.items() if p is not None}
    return {**dict.fromkeys(ps), **dict(zip(known, holm_adjusted(list(known.values())), strict=True))}


def _worded(found: Stability, baseline_gain: Estimate) -> Stability:
    """The same with its word, and why it is this one or none."""
    if found.p_not_worse is None or found.p_worse is None:
        return replace(found, reason="needs three replicates")
    if found.p_worse < ALPHA:
        return replace(found, word="Poor", reason="a setting picked at random gains less by more than 10 points")
    if found.p_many is not None and found.p_many < ALPHA:
        return replace(found, word="Poor", reason=BREAKS_MORE)
    if found.breaks.p_below(BREAKS_WITHIN) >= ALPHA:
        return replace(found, reason="not shown to break on at most 10 in 100 settings more")
    if found.difference.word == "better":
        return replace(found, word="Better", reason="a setting picked at random gains more, and breaks no more often")
    if found.p_not_worse >= ALPHA:
        return replace(found, reason="a setting picked at random is not shown to gain at most 10 points less")
    if baseline_gain.low is None or baseline_gain.low <= MARGIN:
        return replace(found, reason="the baseline itself gains too little at settings picked at random")
    return replace(
        found,
        word="Good",
        reason="a setting picked at random gains at most 10 points less, and breaks no more often",
    )
