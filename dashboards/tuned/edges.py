"""Whether what replicates choose lies at an edge of what they tried, so that a wider range may hold a better."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from dashboards.analysis.spaces import Edge, wider
from dashboards.tuned.replicates import Replicate

FEWEST_TRIED = 4  # of two or three values one is too often at an edge
FEWEST_REPLICATES = 5
SHARE = 2 / 3  # of the replicates; by chance it is one over the settings tried


def edges_of_replicates(replicates: Sequence[Replicate]) -> tuple[Edge, ...]:
    """The settings whose chosen value was the highest, or the lowest, of those tried in two thirds of the replicates;
    weights of a mixture are left out. `tried` of an edge: settings a replicate.
    """
    chosen = [one for one in replicates if one.chosen is not None and len(one.tried) >= FEWEST_TRIED]
    if len(chosen) < FEWEST_REPLICATES:
        return ()
    ends: tuple[tuple[Literal["highest", "lowest"], int], ...] = (("highest", -1), ("lowest", 0))
    found = []
    for name in chosen[0].tried[0].knobs:
        tried = [sorted(_values(one, name)) for one in chosen]
        if name.startswith("loss_weights") or any(len(set(of)) < FEWEST_TRIED for of in tried):
            continue
        picked = [_number(one.chosen.knobs.get(name)) if one.chosen else None for one in chosen]
        for end, place in ends:
            at_edge = sum(of[place] == value for of, value in zip(tried, picked, strict=True))
            if at_edge >= SHARE * len(chosen):
                low, high = min(of[0] for of in tried), max(of[-1] for of in tried)
                middle = median(value for value in picked if value is not None)
                found.append(Edge(name, middle, end, len(tried[0]), wider(name, low, high, end)))
    return tuple(found)


def _values(replicate: Replicate, name: str) -> list[float]:
    values = [_number(setting.knobs.get(name)) for setting in replicate.tried]
    return [value for value in values if value is not None]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
