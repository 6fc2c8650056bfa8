"""Which losses are not shown worse than the best, and which loss beats each of the others.

Paired one-sided t tests of all ordered pairs, Holm over all of them. Chosen by simulation (6 and 12 losses, 6 to 18
replicates, equal and unequal spreads, 3,000 repeats each) among three that keep the best loss: comparisons with the
best (Hsu 1981) that pool the spread lose it in 11 to 17 % of cases where spreads differ; the same with paired spreads
keep it, yet put some loss out that is as good in 20 to 38 % of cases; Holm over all pairs does so in at most 5 %. The
price at 12 replicates: .72 to .76 of the losses that are worse by up to .2 are put out, where others reach .80.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dashboards.statistics.compare import ALPHA, holm_adjusted, p_above
from dashboards.statistics.estimates import FEWEST_BLOCKS, Estimate, Floats, block_mean
from dashboards.statistics.scale import Panel


@dataclass(frozen=True)
class Beaten:
    """`by`: the loss that is shown better by more than the tie width, `difference`: that loss less the beaten one over
    the replicates that both have, more is better; `p`: Holm over all pairs of the panel.
    """

    by: str
    difference: Estimate
    p: float


@dataclass(frozen=True)
class Best:
    """`kept`: the losses not shown worse than any other by more than the tie width, in the panel's order, which holds
    the truly best in 95 % of studies; `beaten`: the others; `uncompared`: losses that share three replicates with no
    other, of which nothing can be said.
    """

    kept: tuple[str, ...]
    beaten: Mapping[str, Beaten]
    uncompared: tuple[str, ...]


def not_worse_than_best(panel: Panel, within: float, sign: int = 1) -> Best:
    """The losses of a panel (loss -> replicate -> value) not shown worse than the best by more than `within` (>= 0).

    Nothing is imputed: two losses are compared over the replicates that both have, and not below three. A loss that is
    kept for want of replicates is no winner: give each one's number beside it. `sign`: 1 where more is better.
    """
    return best_of_pairs(tuple(panel), _shared_differences(panel, sign), within)


def best_of_pairs(losses: Sequence[str], differences: Mapping[tuple[str, str], Floats], within: float) -> Best:
    """The same from the differences of ordered pairs: (loss, other) -> what the first gains more in each replicate, in
    both orders, of pairs with three replicates or more.
    """
    if not within >= 0.0:
        raise ValueError(f"within is a width of 0 or more, got {within}")
    ps = {pair: p for pair, d in differences.items() if (p := p_above(d, within)) is not None}
    holm = dict(zip(ps, holm_adjusted(list(ps.values())), strict=True))
    beaten: dict[str, Beaten] = {}
    for name in losses:
        against = {better: p for (better, worse), p in holm.items() if worse == name and p < ALPHA}
        if against:
            by = min(against, key=lambda other: (against[other], -differences[other, name].mean()))
            beaten[name] = Beaten(by, _mean(differences[by, name]), against[by])
    compared = {name for pair in ps for name in pair}
    kept = tuple(name for name in losses if name in compared and name not in beaten)
    return Best(kept, beaten, tuple(name for name in losses if name not in compared))


def _shared_differences(panel: Panel, sign: int) -> dict[tuple[str, str], Floats]:
    """(loss, other) -> the first less the second in each replicate that both have, where these are three or more."""
    shared = {(a, b): sorted(panel[a].keys() & panel[b].keys()) for a, b in permutations(panel, 2)}
    return {
        (a, b): np.array([sign * (panel[a][r] - panel[b][r]) for r in replicates])
        for (a, b), replicates in shared.items()
        if len(replicates) >= FEWEST_BLOCKS
    }


def _mean(d: Floats) -> Estimate:
    return block_mean({replicate: [value] for replicate, value in enumerate(d.tolist())})
