"""How often one of two answers to the same prompt is the better one. Pure functions of arrays; knows no judge.

A win is 1, a loss 0, a tie one half; a judge that is not sure may give anything between. Each rate comes with its
influences: how much each sample moves it, from which its error follows, over prompts that may come more than once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SLOPE_VARIANCE: Final = 25.0
"""Of the prior on the slope of `at_equal_length`: wide, as a slope of 5 turns half of the wins into nearly all."""
_NEWTON_STEPS: Final = 50


class Rate(NamedTuple):
    """A share of wins, 0 to 1; `influence` [n]: of each sample, their sum being 0; `fitted`: numbers that were."""

    value: float
    influence: Floats
    fitted: int


def wins_of(scores: Floats, others: Floats) -> Floats:
    """1 where a score [n] is above the other's [n] for the same prompt, 0 where it is below, one half at a tie."""
    return (1.0 + np.sign(scores - others)) / 2.0


def plain_rate(wins: Floats) -> Rate:
    """The share of wins [n]."""
    value = float(wins.mean())
    return Rate(value, (wins - value) / len(wins), 1)


def at_equal_length(wins: Floats, tokens: Floats, others: Floats) -> Rate:
    """The share of wins [n] at equal length: many judges like the longer answer, and a policy can learn to be long.

    P(win) = 1 / (1 + exp(-a - b x)) is fitted to the wins, x = tanh(d / sd(d)), d = `tokens` - `others` [n], and read
    at x = 0. A normal prior of variance `_SLOPE_VARIANCE` on b alone keeps it finite where length tells wins apart.
    Where all is won or lost, or no length differs, it is the plain rate. Influences are those of a's sandwich
    estimate, by the delta method. Source: length-controlled AlpacaEval, 2404.04475, without its terms for models and
    instructions, which two models on the same prompts do not have.
    """
    difference, plain = tokens - others, plain_rate(wins)
    spread = float(difference.std())
    if spread == 0.0 or plain.value in (0.0, 1.0) or len(wins) < 3:
        return plain
    design = np.stack([np.ones(len(wins)), np.tanh(difference / spread)], axis=1)
    prior = np.diag([0.0, 1.0 / _SLOPE_VARIANCE])
    fitted = np.array([np.log(plain.value / (1.0 - plain.value)), 0.0])
    for _ in range(_NEWTON_STEPS):
        expected = 1.0 / (1.0 + np.exp(-design @ fitted))
        residuals = wins - expected
        curvature = design.T @ (design * (expected * (1.0 - expected))[:, None]) + prior
        step = np.linalg.solve(curvature, design.T @ residuals - prior @ fitted)
        fitted = fitted + np.clip(step, -1.0, 1.0)
        if float(np.abs(step).max()) < 1e-10:
            break
    value = float(1.0 / (1.0 + np.exp(-fitted[0])))
    scores = design * residuals[:, None]
    return Rate(value, value * (1.0 - value) * (scores @ np.linalg.inv(curvature)[0]), 2)


def error_of(influence: Floats, prompts: Sequence[Hashable] | None = None, fitted: int = 1) -> float | None:
    """The standard error over prompts: the root of sum(influence^2) n / (n - fitted), samples of one prompt summed
    first. None where there are no more prompts than fitted numbers. `prompts` [n]: each its own where not given.
    """
    if prompts is not None:
        _, places = np.unique(np.array([str(p) for p in prompts]), return_inverse=True)
        influence = np.bincount(places, weights=influence).astype(np.float64)
    n = len(influence)
    return float(np.sqrt((influence**2).sum() * n / (n - fitted))) if n > fitted else None
