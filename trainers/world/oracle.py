"""The best gold that any policy can reach at a KL budget, by tilting reference samples; trains nothing,
knows no run.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from studies.records import EMBEDDED
from trainers.world.gold import gold_reward
from trainers.world.grammar import prompts
from trainers.world.pairs import load_model, load_tokenizer, sample_completions

KL_BUDGETS: Final = (0.5, 1.0, 2.0, 4.0)
"""Nats per sequence. Not beyond 4: too few samples carry the weight there."""

_BISECTIONS: Final = 60
_LARGEST_TILT: Final = 64.0
"""Per gold unit: far beyond the tilt of any usable budget."""

Floats = npt.NDArray[np.float64]


def reference_gold(task: int, n_samples: int = 32768, seed: int = 0, model: str = EMBEDDED) -> Floats:
    """Gold [n_samples] of an embedded model's own completions of the plain prompts, each prompt equally
    often.
    """
    asked = prompts("plain")
    completions = sample_completions(
        load_model(model), load_tokenizer(model), [asked[i % len(asked)] for i in range(n_samples)], seed
    )
    return np.array([gold_reward(c.words, c.ended, task) for c in completions])


def oracle_gold_at_kl(
    task: int, kl_budgets: Sequence[float] = KL_BUDGETS, n_samples: int = 32768, seed: int = 0, model: str = EMBEDDED
) -> tuple[float, ...]:
    """Oracle gold at each budget, in nats per sequence, from fresh reference samples; see
    :func:`tilted_gold_at_kl`.
    """
    return tilted_gold_at_kl(reference_gold(task, n_samples, seed, model), kl_budgets)


def tilted_gold_at_kl(gold: Floats, kl_budgets: Sequence[float]) -> tuple[float, ...]:
    """Largest mean gold of a reweighting of the samples whose KL to equal weights is at most the budget.

    ``gold``: [samples], or [groups, samples] where a policy may tilt the samples of each group (those of other
    prompts) and not one group against another; gold and KL are then means over the groups.

    The optimum is the exponential tilt, weights proportional to exp(t * gold), with one t >= 0 found by
    bisection. A budget that no tilt reaches gives the mean at the largest tilt, in effect the best sample.
    With n samples the estimate is low where the budget is not well below log n. Raises ValueError for a
    negative or non-finite budget.
    """
    groups = np.atleast_2d(np.asarray(gold, dtype=np.float64))
    return tuple(_tilted_gold(groups, budget) for budget in kl_budgets)


def _tilted_gold(gold: Floats, budget: float) -> float:
    """Mean gold [groups, samples] under the strongest tilt within the budget."""
    if not (math.isfinite(budget) and budget >= 0.0):
        raise ValueError(f"KL budget is {budget}; it must be a finite number of nats, 0 or more")
    low, high = 0.0, _LARGEST_TILT
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if _kl_to_uniform(_weights(gold, middle)) <= budget:
            low = middle
        else:
            high = middle
    return float((_weights(gold, low) * gold).sum(-1).mean())


def _weights(gold: Floats, tilt: float) -> Floats:
    """Weights proportional to exp(tilt * gold), normalised within each group."""
    unnormalised = np.exp(tilt * (gold - gold.max(-1, keepdims=True)))
    weights: Floats = unnormalised / unnormalised.sum(-1, keepdims=True)
    return weights


def _kl_to_uniform(weights: Floats) -> float:
    """Nats from equal weights, mean over the groups: sum of w log(n w), with 0 log 0 = 0."""
    carried = weights[weights > 0.0]
    groups, samples = weights.shape
    return float(carried @ np.log(samples * carried) / groups)
