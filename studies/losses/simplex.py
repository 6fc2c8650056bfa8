"""Loss weights of a mixture as points of a simplex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from studies.losses.table import listed
from studies.records import Scalar


def simplex_weights(unit: Sequence[float]) -> tuple[float, ...]:
    """K-1 numbers in [0, 1] -> K weights of 0 or more with sum 1; uniform numbers give uniform weights (stick
    breaking). With K = 2 the number is the weight of the second loss.
    """
    rest = 1.0
    later = []
    for position, number in enumerate(unit):
        if not 0.0 <= number <= 1.0:
            raise ValueError(f"a simplex coordinate must be in [0, 1], got {number}")
        share = 1.0 - (1.0 - number) ** (1.0 / (len(unit) - position))
        later.append(rest * share)
        rest -= later[-1]
    return (max(0.0, rest), *later)


def simplex_unit(weights: Sequence[float]) -> tuple[float, ...]:
    """The inverse of `simplex_weights`: K weights with sum 1 -> K-1 numbers in [0, 1]."""
    if any(weight < 0.0 for weight in weights) or abs(sum(weights) - 1.0) > 1e-6:
        raise ValueError(f"weights must be 0 or more with sum 1, got {list(weights)}")
    rest = 1.0
    unit = []
    for position, weight in enumerate(weights[1:]):
        share = min(1.0, weight / rest) if rest > 1e-12 else 0.0
        unit.append(1.0 - (1.0 - share) ** (len(weights) - 1 - position))
        rest -= weight
    return tuple(unit)


def weight_names(losses: Sequence[str]) -> tuple[str, ...]:
    """The knob names of a simplex over these losses: all but the first."""
    return tuple(f"loss_weights.{loss}" for loss in losses[1:])


def weights_from_knobs(losses: Sequence[str], knobs: Mapping[str, Scalar]) -> tuple[float, ...] | None:
    """The K weights that the knobs `loss_weights.<loss>` say; the first loss has the rest. None where there are
    none; raises ValueError where some are missing, negative or sum to more than 1.
    """
    given = {name: value for name, value in knobs.items() if name.startswith("loss_weights.")}
    if not given:
        return None
    names = weight_names(losses)
    if set(given) != set(names):
        raise ValueError(f"the mixture {'+'.join(losses)} has the weights {listed(names)}, got {listed(sorted(given))}")
    later = [float(str(given[name])) for name in names]
    if min(later) < 0.0 or sum(later) > 1.0 + 1e-9:
        raise ValueError(f"weights must be 0 or more and sum to at most 1, got {given}")
    return (max(0.0, 1.0 - sum(later)), *later)
